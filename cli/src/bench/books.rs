//! Waits until everything is posted and archived, and compares the books with the arithmetic.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use benches::account::{Account, Fates};
use runtime::clickhouse::ClickHouse;
use serde_json::Value;
use sqlx::PgConnection;
use tokio::time::sleep;

use super::load::Sent;
use crate::{client::Client, store::books};

const POLL: Duration = Duration::from_millis(25);
/// Without any progress for so long, the run has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where the books are.
pub struct Stores {
    /// Postgres.
    pub postgres: PgConnection,
    /// ClickHouse.
    pub clickhouse: ClickHouse,
    /// The api, for each tenant.
    pub clients: Vec<Client>,
}

impl Stores {
    /// Waits until what was sent and `probes` are posted and archived.
    pub async fn settled(&mut self, sent: &Sent, probes: u64) -> Result<()> {
        if sent.repeated > 0 {
            // There may be more in the log than was sent; only the api can tell.
            self.statement().await?;
        }
        let events = i64::try_from(sent.events.saturating_add(probes))?;
        let (mut last, mut since) = ((0, 0), Instant::now());
        loop {
            let posted = books::posted(&mut self.postgres).await?;
            let mut now = (posted, last.1);
            if posted >= events {
                now.1 = books::archived(&self.clickhouse).await?;
                if now.1 >= posted {
                    return Ok(());
                }
            }
            if now != last {
                (last, since) = (now, Instant::now());
            } else if since.elapsed() > PATIENCE {
                bail!(
                    "nothing moved for {} s: of {events} events {posted} are posted and {} archived",
                    PATIENCE.as_secs(),
                    now.1
                );
            }
            sleep(POLL).await;
        }
    }

    /// The first difference between the books and what they must say.
    pub async fn first_difference(
        &mut self,
        account: &Account,
        sent: &Sent,
    ) -> Result<Option<String>> {
        let statement = self.statement().await?;
        if let Some(difference) = counts_difference(&statement, account.fates, sent.repeated > 0) {
            return Ok(Some(format!("GET /v1/conservation: {difference}")));
        }
        let totals = books::totals(&mut self.postgres).await?;
        if let Some(difference) = account.first_difference(&totals) {
            return Ok(Some(format!("usage_totals in Postgres: {difference}")));
        }
        let lines = books::lines(&self.clickhouse).await?;
        let difference = account.first_difference(&lines);
        Ok(difference.map(|difference| format!("usage_lines in ClickHouse: {difference}")))
    }

    /// A key of each tenant.
    pub fn keys(&self) -> Vec<String> {
        self.clients.iter().map(|client| client.key().to_owned()).collect()
    }

    /// The totals of the tenants' conservation statements, once nothing is pending: added up.
    async fn statement(&self) -> Result<Statement> {
        let deadline = Instant::now() + PATIENCE;
        let mut sum = Statement::default();
        for client in &self.clients {
            sum.add(&total(client, deadline).await?);
        }
        Ok(sum)
    }
}

/// The total of a tenant's conservation statement, once nothing is pending, or at the deadline.
async fn total(client: &Client, deadline: Instant) -> Result<Value> {
    loop {
        let statement = client.get("/v1/conservation").await?;
        let total = statement.get("total").cloned().unwrap_or_default();
        let is = |name: &str, value: Value| total.get(name) == Some(&value);
        if (is("pending", 0.into()) && is("pending_complete", true.into()))
            || Instant::now() > deadline
        {
            return Ok(total);
        }
        sleep(POLL * 4).await;
    }
}

/// Counts of conservation statements.
#[derive(Debug, Default)]
struct Statement {
    counts: BTreeMap<String, u64>,
    /// The first that does not balance, or in which something is pending.
    unbalanced: Option<Value>,
}

impl Statement {
    /// Adds the total of a tenant.
    fn add(&mut self, total: &Value) {
        for (name, count) in total.get("counts").and_then(Value::as_object).into_iter().flatten() {
            *self.counts.entry(name.clone()).or_default() += count.as_u64().unwrap_or_default();
        }
        let is = |name: &str, value: Value| total.get(name) == Some(&value);
        if !is("balanced", true.into()) || !is("pending", 0.into()) {
            self.unbalanced.get_or_insert_with(|| total.clone());
        }
    }
}

/// What is wrong with the counts. A request that was sent again may have left its events in the log
/// twice; they are duplicates then, and accepted.
fn counts_difference(statement: &Statement, fates: Fates, repeated: bool) -> Option<String> {
    let count = |name: &str| statement.counts.get(name).copied();
    let extra = count("accepted").and_then(|accepted| accepted.checked_sub(fates.accepted()));
    let extra = if repeated { extra.unwrap_or_default() } else { 0 };
    let wanted = [
        ("accepted", fates.accepted() + extra),
        ("rated", fates.rated),
        ("duplicates", fates.duplicates + extra),
        ("rejected", fates.rejected),
        ("unmetered", 0),
        ("unpriced", 0),
        ("conflicts", 0),
        ("forwarded", 0),
        ("lost", 0),
    ];
    for (name, want) in wanted {
        match count(name) {
            // Repeated rejects are rejects again.
            Some(found) if found == want || (repeated && name == "rejected" && found > want) => {}
            found => return Some(format!("{name} is {found:?} instead of {want}")),
        }
    }
    statement.unbalanced.as_ref().map(|total| format!("it does not balance: {total}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn counts_are_compared_one_by_one() {
        let fates = Fates { rated: 97, duplicates: 2, rejected: 1 };
        let total = |accepted: u64, duplicates: u64, pending: u64| {
            json!({ "balanced": true, "pending": pending, "counts": {
                "accepted": accepted, "rated": 97, "duplicates": duplicates, "rejected": 1,
                "unmetered": 0, "unpriced": 0, "conflicts": 0, "forwarded": 0, "lost": 0 } })
        };
        let check = |total: Value, repeated: bool, want: Option<&str>| {
            let mut statement = Statement::default();
            statement.add(&total);
            let found = counts_difference(&statement, fates, repeated);
            match want {
                None => assert_eq!(found, None),
                Some(want) => {
                    assert!(found.as_deref().unwrap_or_default().contains(want), "{found:?}")
                }
            }
        };
        check(total(100, 2, 0), false, None);
        check(total(103, 5, 0), true, None);
        check(total(103, 5, 0), false, Some("accepted is Some(103) instead of 100"));
        check(total(100, 3, 0), true, Some("duplicates is Some(3) instead of 2"));
        check(total(100, 2, 1), false, Some("does not balance"));
        check(json!({}), false, Some("accepted is None"));
        let mut both = Statement::default();
        both.add(&json!({ "balanced": false, "pending": 0, "counts": { "accepted": 40 } }));
        both.add(&total(60, 0, 0));
        assert_eq!(both.counts.get("accepted"), Some(&100));
        assert!(both.unbalanced.is_some());
    }
}
