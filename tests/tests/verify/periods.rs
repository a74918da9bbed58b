//! Closed periods are counted again from what was observed: changed behind Weir's back it is found, and what is
//! observed later is no difference while its period is still to be opened.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{owed::comes_to, system::System, wait::eventually};

use super::{SETTINGS, Said};

const CHECK: &str = "closed periods";
/// March of Berlin, to whose end 10 and then 3 were held, and April, in which nothing was.
const GAUGES: [(&str, &str, &str, &str); 4] = [
    ("1", "2026-03-01T00:00:00Z", "10", "a"),
    ("2", "2026-03-11T00:00:00Z", "3", "b"),
    ("3", "2026-03-31T21:00:00Z", "4", "a"),
    ("4", "2026-03-31T22:00:00Z", "0", "c"),
];

async fn send(system: &System, events: &[Value]) -> Result<()> {
    let (status, answer) =
        system.ingest()?.exchange("POST", "/v1/events", serde_json::to_vec(events)?).await?;
    ensure!(status == 200 && answer["accepted"] == events.len(), "{status}: {answer}");
    Ok(())
}

fn gauge(team: &str, (id, time, n, who): (&str, &str, &str, &str)) -> Value {
    json!({"id": format!("{team}-{id}"), "source": "gauges", "type": "gauge", "subject": team, "time": time,
        "data": {"n": n, "who": who}})
}

/// Two teams, each of whose periods is closed: three of what is held, two of each of the others.
async fn system_with_periods() -> Result<System> {
    let settings = [&SETTINGS[..], &[("WEIR_API__CLOSE_AFTER_S", "0")]].concat();
    let system = System::embedded_with(&settings, &[], &[]).await?;
    let api = system.api()?;
    let meter = |key: &str, more: Value| {
        let mut meter =
            json!({"key": key, "event_types": ["gauge"], "value": "$.n", "period": "month"});
        for (name, value) in more.as_object().into_iter().flatten() {
            meter[name] = value.clone();
        }
        meter
    };
    let mut catalog = api.get("/v1/catalog").await?["catalog"].take();
    let meters = catalog["meters"].as_array_mut().context("meters")?;
    meters.push(meter("peak", json!({"aggregation": "max", "dimensions": {"who": "$.who"}})));
    meters.push(meter("stored", json!({"aggregation": "time_weighted", "held_for": "hour"})));
    meters.push(meter("users", json!({"aggregation": "unique", "value": "$.who"})));
    let rates = json!([{"meter": "peak", "price": "1"}, {"meter": "stored", "price": "2"}, {"meter": "users", "price": "3"}]);
    let versions = json!([{"effective_from": "2020-01-01T00:00:00Z", "rates": rates}]);
    catalog["cards"]
        .as_array_mut()
        .context("cards")?
        .push(json!({"key": "own", "kind": "rate", "currency": "EUR", "versions": versions}));
    catalog["zone"] = json!("Europe/Berlin");
    catalog["default_rate_card"] = json!("own");
    catalog["default_cost_card"] = Value::Null;
    api.send("PUT", "/v1/catalog", &catalog).await?;
    let all: Vec<Value> =
        ["acme", "bolt"].iter().flat_map(|team| GAUGES.map(|one| gauge(team, one))).collect();
    send(&system, &all).await?;
    // 240 h of 10, 501 h of 3, 1 h of 4: 3907, twice, at 2.
    comes_to(&system, "stored", "15628").await?;
    all_closed(&system).await?;
    Ok(system)
}

async fn all_closed(system: &System) -> Result<()> {
    let mut postgres = system.postgres().await?;
    eventually("all periods are closed", async || {
        let sql = "SELECT count(*) = 7 AND bool_and(state = 'closed') AND NOT EXISTS (
                SELECT FROM partitions p LEFT JOIN observed_positions o USING (partition) WHERE coalesce(o.position, -1) < p.x)
            FROM meter_periods WHERE period_to < now()";
        Ok(sqlx::query_scalar::<_, bool>(sql).fetch_one(&mut postgres).await?)
    })
    .await
}

async fn verified(system: &System) -> Result<u64> {
    Said::of_up(system, &["--sample", "1000"]).await?.holds()?.looked_at(CHECK)
}

#[tokio::test]
async fn closed_periods_are_counted_again() -> Result<()> {
    let system = system_with_periods().await?;
    let clickhouse = system.clickhouse();
    ensure!(verified(&system).await? == 14, "{}", verified(&system).await?);
    clickhouse.execute("CREATE TABLE kept AS usage_events").await?;
    clickhouse.execute("INSERT INTO kept SELECT * FROM usage_events").await?;
    let of = "(event_id = 'acme-2')";
    let closing = "(type = 'weir.closed.stored' AND team = 'bolt' AND time < '2026-04-01')";
    let cases = [
        (
            format!(
                "ALTER TABLE usage_events UPDATE `lines.quantity` = arrayMap((m, q) -> if(m = 'stored', q + 1, q), lines.meter, lines.quantity)
                 WHERE {of} SETTINGS mutations_sync = 2"
            ),
            "stored of team acme",
            "closed it with 3907, its observations come to 4408",
        ),
        (
            format!(
                "ALTER TABLE usage_events UPDATE `lines.dimensions` = arrayMap(d -> if(mapContains(d, 'value'), map('value', 'a'), d), lines.dimensions)
                 WHERE {of} SETTINGS mutations_sync = 2"
            ),
            "users of team acme",
            "closed it with 2, its observations come to 1",
        ),
        (
            format!(
                "ALTER TABLE usage_events UPDATE `lines.status` = arrayMap(s -> 'unpriced', lines.status) WHERE {of} SETTINGS mutations_sync = 2"
            ),
            "from 2026-02-28T23:00:00.000000Z",
            "its observations come to",
        ),
        (
            format!("ALTER TABLE usage_events DELETE WHERE {closing} SETTINGS mutations_sync = 2"),
            "stored of team bolt",
            "nothing closed it, its observations come to 3907",
        ),
        (
            format!(
                "INSERT INTO usage_events SELECT * REPLACE (`index` + 1000 AS `index`) FROM (SELECT * FROM usage_events WHERE {closing})"
            ),
            "stored of team bolt",
            ": closed by ",
        ),
        (
            format!(
                "ALTER TABLE usage_events UPDATE `lines.quantity` = arrayMap(q -> q + 1, lines.quantity) WHERE {closing} SETTINGS mutations_sync = 2"
            ),
            "stored of team bolt",
            "says 3907 and is priced for 3908",
        ),
    ];
    for (statement, whose, what) in cases {
        clickhouse.execute(&statement).await.with_context(|| statement.clone())?;
        let said = Said::of_up(&system, &["--sample", "1000"]).await?;
        let first = said.names(whose)?.check(CHECK)?["first_bad"].as_str().unwrap_or_default();
        ensure!(first.contains(whose) && first.contains(what), "{statement}: {}", said.document);
        clickhouse.execute("TRUNCATE TABLE usage_events").await?;
        let again = "INSERT INTO usage_events SELECT * FROM kept SETTINGS insert_deduplicate = 0";
        clickhouse.execute(again).await?;
    }
    ensure!(verified(&system).await? == 14);
    Ok(())
}

#[tokio::test]
async fn what_is_observed_late_is_no_difference() -> Result<()> {
    let system = system_with_periods().await?;
    // A period that is closed cannot be opened for a while.
    let mut postgres = system.superuser().await?;
    let revoke = "REVOKE UPDATE (state) ON meter_periods FROM weir_api";
    sqlx::query(revoke).execute(&mut postgres).await?;
    send(&system, &[gauge("acme", ("5", "2026-03-21T00:00:00Z", "20", "d"))]).await?;
    system.settled(None).await?;
    // Nothing is said of what the late event moves: the periods of March, and what is held behind it.
    let seen = verified(&system).await?;
    ensure!(seen == 14 - 5, "{seen}");
    let grant = "GRANT UPDATE (state) ON meter_periods TO weir_api";
    sqlx::query(grant).execute(&mut postgres).await?;
    // 261 h of 20 instead of 3.
    comes_to(&system, "stored", "24502").await?;
    all_closed(&system).await?;
    ensure!(verified(&system).await? == 14);
    Ok(())
}
