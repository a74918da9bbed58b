//! ClickHouse: reachable, with tables, rights and room.

use anyhow::{Context as _, Result, anyhow};
use runtime::{clickhouse::ClickHouse, task::now_us};
use tokio::time::timeout;

use super::{ANSWER_TIME_MAX, Report, target::Target};
use crate::{process::ARCHIVE_MIGRATIONS, store::measures};

/// ClickHouse's code for a statement that it does not know: `CHECK GRANT` is of version 24.9.
const SYNTAX_ERROR: u32 = 62;

/// Checks it.
pub async fn check(target: &Target, report: &mut Report) {
    let clickhouse = ClickHouse::new(&target.config.clickhouse);
    let before = now_us();
    match within(measures::clickhouse_version(&clickhouse)).await {
        Ok((version, their_us)) => {
            report.ok("clickhouse", format!("it answers, version {version}"));
            report.clock("clickhouse", their_us, (before, now_us()));
        }
        Err(error) => {
            let action = "start it, or mend clickhouse.url (CLICKHOUSE_URL), or run `weir migrate` where the \
                          database is missing; events are accepted, rated and posted meanwhile";
            report.wrong("clickhouse", format!("{error:#}"), action);
            return;
        }
    }
    migrations(&clickhouse, report).await;
    grants(&clickhouse, report).await;
    match within(measures::disks(&clickhouse)).await {
        Ok(disks) => {
            for (name, free, size) in disks {
                report.disk(&format!("clickhouse.disk.{name}"), (free, size));
            }
        }
        Err(error) => {
            report.warning("clickhouse.disk", format!("{error:#}"), "GRANT SELECT ON system.disks");
        }
    }
}

async fn migrations(clickhouse: &ClickHouse, report: &mut Report) {
    const CHECK: &str = "clickhouse.migrations";
    match within(measures::archive_migrations(clickhouse)).await {
        Ok(applied) => {
            let missing: Vec<String> = ARCHIVE_MIGRATIONS
                .iter()
                .filter(|(number, _, _)| !applied.contains(number))
                .map(|(number, name, _)| format!("migration {number} ({name}) is missing"))
                .collect();
            if missing.is_empty() {
                report.ok(CHECK, "all are applied");
            } else {
                report.wrong(CHECK, missing.join(", "), "run `weir migrate`");
            }
        }
        Err(error) => report.wrong(CHECK, format!("{error:#}"), "run `weir migrate`"),
    }
}

async fn grants(clickhouse: &ClickHouse, report: &mut Report) {
    const CHECK: &str = "clickhouse.grants";
    use runtime::clickhouse::ClickHouseError::Refused;
    match timeout(ANSWER_TIME_MAX, measures::missing_archive_grants(clickhouse)).await {
        Ok(Ok(missing)) if missing.is_empty() => report.ok(CHECK, "this user may do its work"),
        Ok(Ok(missing)) => {
            let found = format!("this user has no right to {}", missing.join(", "));
            report.wrong(CHECK, found, "GRANT it to the user of clickhouse.user");
        }
        Ok(Err(Refused { code: SYNTAX_ERROR, .. })) => {
            report.warning(CHECK, "this version cannot be asked", "look at SHOW GRANTS yourself");
        }
        Ok(Err(error)) => report.wrong(CHECK, error.to_string(), "run `weir migrate`"),
        Err(_) => report.wrong(CHECK, "it does not answer in time", "look at its load"),
    }
}

async fn within<T, E: Into<anyhow::Error>>(asked: impl Future<Output = Result<T, E>>) -> Result<T> {
    let answered = timeout(ANSWER_TIME_MAX, asked).await;
    answered.context(anyhow!("it does not answer in time"))?.map_err(Into::into)
}
