//! What `weir verify` looks at, on a system that goes on working: one snapshot of Postgres, and of the
//! archive what lies up to where that snapshot stands.
//!
//! Reading order: [`examine`], `ledger::verify` (the checkers), [`rerate`] (the sample), [`log`].

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use ledger::{
    install::{self, Installation},
    seal::AuditKey,
    verify::{
        self as checkers, Check, VerifyError,
        archive::{self, Ends},
        corrections,
        heads::{self, Copies},
        nobody::{self, Reach},
    },
};
use runtime::{
    clickhouse::ClickHouse,
    config::PostgresConfig,
    postgres::{Pool, connect},
    task,
};
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::doctor::{self, Looked, target::Target};

mod lane;
mod log;
mod periods;
mod rerate;
mod row;
mod running_totals;

/// Between looks at how far the archive is.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long ClickHouse may take to say how far it is.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

/// What is asked for.
pub struct Asked {
    /// A file of settings.
    pub config: Option<PathBuf>,
    /// Folder of a `weir up`.
    pub data: PathBuf,
    /// Events to rate again.
    pub sample: u32,
    /// Which ones; by chance if it is not given.
    pub seed: Option<u64>,
    /// How long to wait for the archive.
    pub wait: Duration,
}

/// How it came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything is as it must be.
    Holds,
    /// Something is not.
    Broken,
    /// What was looked at is, and something could not be looked at.
    Unknown,
}

impl Verdict {
    /// In words.
    pub fn text(self) -> &'static str {
        match self {
            Self::Holds => "the books are verified",
            Self::Broken => "the books are NOT as they were written",
            Self::Unknown => "what could be seen is verified, but not everything could be seen",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Broken => "broken",
            Self::Unknown => "unknown",
        }
    }
}

/// What was found.
pub struct Report {
    /// Chooses the sample.
    pub seed: u64,
    /// In the order in which they were made.
    pub checks: Vec<Check>,
}

impl Report {
    /// The verdict of all checks together.
    pub fn verdict(&self) -> Verdict {
        if self.checks.iter().any(|check| !check.holds()) {
            return Verdict::Broken;
        }
        let unseen = self.checks.iter().any(|check| check.left_out.is_some());
        if unseen { Verdict::Unknown } else { Verdict::Holds }
    }

    /// For programs.
    pub fn document(&self) -> Value {
        let check = |check: &Check| {
            json!({ "name": check.name, "looked_at": check.rows, "bad": check.bad,
                "first_bad": check.first_bad, "left_out": check.left_out })
        };
        let checks: Vec<Value> = self.checks.iter().map(check).collect();
        json!({ "verdict": self.verdict().name(), "seed": self.seed, "checks": checks })
    }
}

/// Looks at everything. An error means that nothing could be looked at.
pub async fn examine(asked: Asked) -> Result<Report> {
    let target = target(&asked)?;
    let key = target.config.ledger_writer.key().context(
        "ledger_writer.audit_key is not set here (WEIR_LEDGER_WRITER__AUDIT_KEY); the books are sealed with it",
    )?;
    let clickhouse = ClickHouse::new(&target.config.clickhouse);
    // Before the snapshot: what was copied by now must be in it.
    let copies = within(heads::copies(&clickhouse)).await;
    let (pool, installation) = open(&target, &key).await?;
    let reach = match &copies {
        Ok(_) => Reach::read(&clickhouse, installation.partitions).await.map_err(Into::into),
        Err(error) => Err(anyhow!("{error:#}")),
    };
    let mut snapshot = checkers::begin(&pool).await?;
    let mut checks = vec![checkers::chain::chains(&mut snapshot, &key).await?];
    checks.extend(checkers::books::checks(&mut snapshot).await?);
    checks.extend(checkers::wallets::checks(&mut snapshot).await?);
    checks.push(checkers::late::check(&mut snapshot).await?);
    let archived = reach.as_ref().ok().map(Reach::archived);
    checks.push(log::check(&target, &installation, &mut snapshot, archived).await);
    let seed = asked.seed.unwrap_or_else(|| Uuid::now_v7().as_u64_pair().1);
    let archive = Archive {
        clickhouse,
        partitions: installation.partitions,
        copies,
        reach,
        sample: asked.sample,
        seed,
        wait: asked.wait,
    };
    checks.extend(archive.checks(&mut snapshot).await);
    Ok(Report { seed, checks })
}

fn target(asked: &Asked) -> Result<Target> {
    let looked = Looked {
        config: asked.config.clone(),
        data: asked.data.clone(),
        processes: Vec::new(),
        lag_s: 0,
    };
    let mut report = doctor::Report::default();
    let target = Target::find(&looked, &mut report);
    match target {
        Some(target) if report.is_healthy() => Ok(target),
        _ => bail!(report.wrongs().join("; ")),
    }
}

async fn open(target: &Target, key: &AuditKey) -> Result<(Pool, Installation)> {
    let config = PostgresConfig { connections: 1, ..target.config.postgres.clone() };
    let pool = connect(&config, Some("weir_reader"), "weir-verify").await?;
    let mut connection = pool.acquire().await?;
    let installation = install::read(&mut connection).await?;
    installation.check_audit_key(&key.id())?;
    drop(connection);
    Ok((pool, installation))
}

/// What the checks of the archive need besides the snapshot.
struct Archive {
    clickhouse: ClickHouse,
    partitions: u32,
    copies: Result<Copies>,
    reach: Result<Reach>,
    sample: u32,
    seed: u64,
    wait: Duration,
}

impl Archive {
    /// Each check by itself: one that cannot look leaves the others standing.
    async fn checks(&self, snapshot: &mut PgConnection) -> Vec<Check> {
        let mut checks = Vec::new();
        checks.push(match &self.copies {
            Ok(copies) => {
                seen("copied heads", heads::check(snapshot, &self.clickhouse, copies).await)
            }
            Err(error) => unseen("copied heads", format!("{error:#}")),
        });
        checks.push(match &self.reach {
            Ok(reach) => {
                seen("rows of nobody", nobody::check(snapshot, &self.clickhouse, reach).await)
            }
            Err(error) => unseen("rows of nobody", format!("{error:#}")),
        });
        checks.push(seen("corrections", corrections::check(&self.clickhouse).await));
        let (posted, archived) = match self.positions(snapshot).await {
            Ok(positions) => positions,
            Err(error) => {
                checks.push(unseen("archive", format!("{error:#}")));
                return checks;
            }
        };
        let client = &self.clickhouse;
        checks.push(seen("archived groups", archive::groups(snapshot, client, &archived).await));
        checks.push(seen("repeated rows", archive::repeats(client).await));
        checks.push(seen("append times", archive::append_times(snapshot, client, &posted).await));
        let ends = match archive::common(snapshot, &archived).await {
            Ok(ends) => ends,
            Err(error) => {
                checks.push(unseen("archive", error.to_string()));
                return checks;
            }
        };
        let behind = behind(&posted, &archived);
        let mut counts =
            seen("conservation in the archive", archive::counts(snapshot, client, &ends).await);
        counts.left_out = counts.left_out.or_else(|| behind.clone());
        checks.push(counts);
        checks.push(seen(
            "amounts in the archive",
            checkers::amounts::amounts(snapshot, client, &ends).await,
        ));
        const TOTALS: &str = "running totals in the archive";
        checks.push(match behind.clone() {
            None => seen(TOTALS, checkers::amounts::totals(snapshot, client, &posted).await),
            Some(behind) => unseen(TOTALS, behind),
        });
        let chosen = (self.sample, self.seed);
        const RUNNING: &str = running_totals::NAME;
        checks.push(match behind {
            None => {
                let totals = running_totals::sample(snapshot, client, &posted, chosen).await;
                totals.unwrap_or_else(|error| unseen(RUNNING, format!("{error:#}")))
            }
            Some(behind) => unseen(RUNNING, behind),
        });
        let periods = periods::sample(snapshot, client, &archived, chosen).await;
        checks.push(periods.unwrap_or_else(|error| unseen(periods::NAME, format!("{error:#}"))));
        let sample = rerate::sample(snapshot, client, &archived, chosen).await;
        checks.push(sample.unwrap_or_else(|error| unseen("ratings", format!("{error:#}"))));
        checks
    }

    /// Where the ledger stands, and where the archive does once it is there too, or as far as it
    /// comes in time.
    async fn positions(&self, snapshot: &mut PgConnection) -> Result<(Ends, Ends)> {
        let posted = archive::posted(snapshot).await?;
        // A copy of the archive may lag behind the one that the archiver saw.
        let reached = archive::reached(snapshot).await?;
        let deadline = Instant::now() + self.wait;
        loop {
            let archived = within(archive::archived(&self.clickhouse, self.partitions)).await?;
            let there = [&posted, &reached].iter().all(|ends| behind(ends, &archived).is_none());
            if there || Instant::now() >= deadline {
                return Ok((posted, archived));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Which partitions of the archive are not where the ledger is.
fn behind(posted: &Ends, archived: &Ends) -> Option<String> {
    let late = posted.iter().filter_map(|(partition, posted)| {
        let archived = archived.get(partition).copied().unwrap_or(-1);
        (archived < *posted)
            .then(|| format!("partition {partition} at {archived} instead of {posted}"))
    });
    let late: Vec<String> = late.collect();
    (!late.is_empty()).then(|| format!("the archive is behind the ledger: {}", late.join(", ")))
}

fn seen(name: &'static str, looked: Result<Check, VerifyError>) -> Check {
    looked.unwrap_or_else(|error| unseen(name, task::chain(&error)))
}

fn unseen(name: &'static str, reason: String) -> Check {
    Check { left_out: Some(reason), ..Check::new(name) }
}

async fn within<T>(asked: impl Future<Output = Result<T, VerifyError>>) -> Result<T> {
    let answered = tokio::time::timeout(ANSWER_TIME_MAX, asked).await;
    Ok(answered.context("ClickHouse does not answer in time")??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_broken_weighs_more_than_what_was_not_seen() {
        let report = |checks: Vec<Check>| Report { seed: 7, checks };
        let good = Check { rows: 3, ..Check::new("good") };
        let mut bad = Check::new("bad");
        bad.blame(|| "the row".to_owned());
        let dark = unseen("dark", "away".to_owned());
        assert_eq!(report(vec![good.clone()]).verdict(), Verdict::Holds);
        assert_eq!(report(vec![good.clone(), dark.clone()]).verdict(), Verdict::Unknown);
        let all = report(vec![dark, bad, good]);
        assert_eq!(all.verdict(), Verdict::Broken);
        assert_eq!(all.document()["verdict"], "broken");
        assert_eq!(all.document()["checks"][1]["first_bad"], "the row");
    }

    #[test]
    fn an_archive_that_is_behind_is_named() {
        let ends = |all: &[(u32, i64)]| all.iter().copied().collect::<Ends>();
        assert_eq!(behind(&ends(&[(0, 5), (1, -1)]), &ends(&[(0, 5)])), None);
        let text = behind(&ends(&[(0, 5), (1, 3)]), &ends(&[(0, 9), (1, 2)])).unwrap();
        assert!(text.ends_with("partition 1 at 2 instead of 3"), "{text}");
    }
}
