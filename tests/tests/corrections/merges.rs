//! The usage of one team becomes another's: each event counts once, for the other, by its prices, whatever is killed
//! and whatever is sent again.

use anyhow::{Context as _, Result, ensure};
use domain::partition::partition_of;
use serde_json::{Value, json};
use tests::{
    oracle::parse,
    system::{System, amount},
    wait::eventually,
};
use uuid::Uuid;

use super::{event, meter, publish, send, verify};

const TEAM: &str = "acme";

fn of(subject: &str, mut event: Value) -> Value {
    event["subject"] = json!(subject);
    event
}

async fn owes(system: &System, team: &str) -> Result<i128> {
    Ok(system.receivables().await?.get(team).copied().unwrap_or(0))
}

async fn alias(system: &System, subject: &str) -> Result<Value> {
    let page = system.api()?.get(&format!("/v1/teams/{TEAM}/aliases")).await?;
    let found =
        page["items"].as_array().context("items")?.iter().find(|one| one["alias"] == subject);
    Ok(found.cloned().unwrap_or_default())
}

/// Names of teams in the partition of the team and in another one.
async fn subjects(system: &System) -> Result<[String; 2]> {
    let mut postgres = system.postgres().await?;
    let tenant: Uuid = sqlx::query_scalar("SELECT tenant_id FROM tenants WHERE key = 'default'")
        .fetch_one(&mut postgres)
        .await?;
    let partitions: i64 =
        sqlx::query_scalar("SELECT count(*) FROM partitions").fetch_one(&mut postgres).await?;
    let place = |team: &str| partition_of(tenant, team, u32::try_from(partitions).unwrap_or(1));
    let name = |same: bool| {
        let mut names = (0..100).map(|number| format!("old-{number}"));
        names.find(|name| (place(name) == place(TEAM)) == same).context("a name")
    };
    Ok([name(true)?, name(false)?])
}

#[tokio::test]
async fn the_usage_of_a_team_becomes_anothers_once() -> Result<()> {
    story(&[]).await
}

/// What is moved has left the table of duplicates: the archive says whether it is new.
#[tokio::test]
async fn what_is_moved_goes_through_the_slow_lane() -> Result<()> {
    story(&[("WEIR_RATER__TABLE_IDENTITIES_MAX", "2"), ("WEIR_RATER__RANGE_IDENTITIES", "1")]).await
}

async fn story(settings: &[(&str, &str)]) -> Result<()> {
    let mut system = System::embedded_with(settings, &[], &[]).await?;
    let tiers = json!([{"up_to": "10", "price": "2"}, {"price": "1"}]);
    let rows = json!([{"meter": "plain", "price": "0.5"},
        {"meter": "tiered", "model": "graduated", "period": "month", "tiers": tiers}]);
    let card =
        json!({"key": "own", "kind": "rate", "currency": "EUR", "versions": [{"rates": rows}]});
    publish(&system, json!([meter("plain"), meter("tiered")]), json!([card]), "own").await?;
    let subjects = subjects(&system).await?;
    send(&system, &[event("tiered", "own", "6")]).await?;
    let mut sent = 1;
    // 6 at 2.
    let mut comes_to = parse("12")?;
    system.settled(Some(sent)).await?;
    for (subject, kills) in subjects.iter().zip([false, true]) {
        let mut untimed = of(subject, event("plain", "3", "2"));
        untimed.as_object_mut().context("an event")?.remove("time");
        let events = [
            of(subject, event("tiered", "1", "6")),
            of(subject, event("plain", "2", "8")),
            untimed,
            of(subject, event("plain", "4", "100")),
            of(subject, event("plain", "5", "40")),
        ];
        let receipts = send(&system, &events).await?;
        sent += 5;
        system.settled(Some(sent)).await?;
        let api = system.api()?;
        api.send("POST", &format!("/v1/events/{}/void", receipts[3]), &json!({})).await?;
        let amended = json!({"data": {"n": "10"}});
        api.send("POST", &format!("/v1/events/{}/amend", receipts[4]), &amended).await?;
        let before = parse("22")?;
        eventually("it is corrected", async || Ok(owes(&system, subject).await? == before)).await?;

        let path = format!("/v1/teams/{TEAM}/aliases");
        let refused = async |body: Value| -> Result<Value> {
            let (status, answer) = api.exchange("POST", &path, serde_json::to_vec(&body)?).await?;
            ensure!(status == 409, "{status}: {answer}");
            Ok(answer["code"].clone())
        };
        assert_eq!(refused(json!({"alias": subject})).await?, "alias_is_team");
        assert_eq!(refused(json!({"alias": TEAM, "merge": true})).await?, "alias_is_team");
        let begun = api.send("POST", &path, &json!({"alias": subject, "merge": true})).await?;
        ensure!(begun["merge"] == "asked" && begun["waiting"] == true, "{begun}");
        assert_eq!(refused(json!({"alias": subject, "merge": true})).await?, "alias_exists");
        let mut postgres = system.postgres().await?;
        sqlx::query("UPDATE team_aliases SET effective_at = clock_timestamp() WHERE alias = $1")
            .bind(subject)
            .execute(&mut postgres)
            .await?;
        if kills {
            for stage in ["taking_back", "moving"] {
                eventually("it goes on", async || {
                    let now = alias(&system, subject).await?["merge"].take();
                    Ok(now == stage || now == "merged")
                })
                .await?;
                system.kill("up")?;
                system.start("up").await?;
            }
        }
        eventually("it is merged", async || {
            let now = alias(&system, subject).await?;
            Ok(now["merge"] == "merged" && now["waiting"] == false)
        })
        .await?;
        let merged = alias(&system, subject).await?;
        ensure!(merged["moved"] == 4 && merged["corrections"][0].is_string(), "{merged}");
        // 22 with the amended one; 6 more at 2 and 1, or all at 1 behind the first ten.
        comes_to += if kills { parse("6")? } else { parse("10")? } + parse("10")?;
        eventually("it is the team's", async || {
            Ok(owes(&system, TEAM).await? == comes_to && owes(&system, subject).await? == 0)
        })
        .await?;

        // What comes again is a duplicate; what is new is the team's.
        eventually("ingest knows", async || {
            let one = serde_json::to_vec(&events[..3])?;
            Ok(system.ingest()?.exchange("POST", "/v1/events", one).await?.0 == 200)
        })
        .await?;
        send(&system, &[of(subject, event("plain", "new", "1"))]).await?;
        comes_to += parse("0.5")?;
        eventually("it is the team's", async || Ok(owes(&system, TEAM).await? == comes_to)).await?;
        let balance = system.api()?.get(&format!("/v1/teams/{subject}/balance")).await?;
        ensure!(
            balance["balances"][0]["live"].as_str().is_none_or(|live| live == "0"),
            "{balance}"
        );
        // Three again, and one; and whatever the merge appended.
        sent += 4;
        assert_eq!(owes(&system, subject).await?, 0);
    }
    let counts = system.settled(Some(sent)).await?;
    ensure!(
        counts["rated"] >= 12 + 8 && counts["conflicts"] == 0 && counts["rejected"] == 0,
        "{counts:?}"
    );
    assert_eq!(owes(&system, TEAM).await?, comes_to);
    let usage = system.api()?.get(&format!("/v1/teams/{TEAM}/balance")).await?;
    assert_eq!(amount(&usage["balances"][0]["live"])?, -comes_to);
    verify(&system).await
}
