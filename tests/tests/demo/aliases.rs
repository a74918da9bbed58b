//! A team gets another name: while it is not known whether the name has usage of its own, nothing of
//! it is let in, and nothing is charged twice.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{process::Http, system::System, wait::eventually};

/// The other name.
const SUBJECT: &str = "old-name";

fn event(id: &str, subject: &str) -> Value {
    json!({"id": id, "type": "llm.tokens.v1", "source": "aliases", "subject": subject,
        "data": {"provider": "openai", "model": "gpt-4-turbo", "inputTokens": 1_000, "outputTokens": 0}})
}

async fn send(http: &Http, event: &Value) -> Result<(u16, Value)> {
    http.exchange("POST", "/v1/events", serde_json::to_vec(event)?).await
}

/// The first alias of the team.
async fn alias(http: &Http) -> Result<Value> {
    let page = http.get("/v1/teams/team-new/aliases").await?;
    Ok(page.pointer("/items/0").cloned().unwrap_or_default())
}

/// Waits until ingest has loaded what the database has now.
async fn loaded(http: &Http) -> Result<()> {
    let loads = async || {
        let metrics = http.text("/metrics").await?;
        let name = r#"weir_ingest_refreshes_total{outcome="ok"} "#;
        let count = metrics.lines().find_map(|line| line.strip_prefix(name));
        // There is none before the second load.
        Ok::<u64, anyhow::Error>(count.map(str::parse).transpose()?.unwrap_or(0))
    };
    let before = loads().await?;
    eventually("ingest loads", async || Ok(loads().await? > before + 1)).await
}

#[tokio::test]
async fn a_name_without_usage_becomes_an_alias() -> Result<()> {
    let system = System::embedded().await?;
    let http = system.api()?;
    http.send("POST", "/v1/teams", &json!({"team": "team-new"})).await?;
    http.send("POST", "/v1/teams/team-new/aliases", &json!({"alias": SUBJECT})).await?;
    loaded(&http).await?;
    let (status, answer) = send(&http, &event("unheard", SUBJECT)).await?;
    assert_eq!((status, &answer["code"]), (503, &json!("alias_waiting")));
    // Others are let in; and it is not decided before its time.
    assert_eq!(send(&http, &event("other", "team-other")).await?.0, 200);
    assert_eq!(alias(&http).await?["waiting"], true);
    let mut postgres = system.postgres().await?;
    sqlx::query("UPDATE team_aliases SET effective_at = clock_timestamp()")
        .execute(&mut postgres)
        .await?;
    eventually("it takes effect", async || {
        Ok(alias(&http).await?["waiting"] == false
            && send(&http, &event("unheard", SUBJECT)).await?.0 == 200)
    })
    .await?;
    ensure!(alias(&http).await?["effective_at"].is_string());
    assert_eq!(send(&http, &event("unheard", SUBJECT)).await?.0, 200);
    system.settled(None).await?;
    let receivables = system.receivables().await?;
    let teams: Vec<&str> = receivables.keys().map(String::as_str).collect();
    assert_eq!(teams, ["team-new", "team-other"], "the name has usage of its own");
    assert_eq!(receivables["team-new"], receivables["team-other"], "it was charged twice");
    Ok(())
}

#[tokio::test]
async fn a_name_that_has_usage_is_no_alias_any_more() -> Result<()> {
    let system = System::embedded().await?;
    let http = system.api()?;
    http.send("POST", "/v1/teams", &json!({"team": "team-new"})).await?;
    assert_eq!(send(&http, &event("early", SUBJECT)).await?.0, 200);
    system.settled(Some(1)).await?;
    let before = system.receivables().await?;
    // Its usage is seen by the request that would make the alias, unless it was on its way then.
    let (status, answer) = http
        .exchange(
            "POST",
            "/v1/teams/team-new/aliases",
            serde_json::to_vec(&json!({"alias": SUBJECT}))?,
        )
        .await?;
    assert_eq!((status, &answer["code"]), (409, &json!("alias_is_team")));
    let mut postgres = system.postgres().await?;
    sqlx::query(
        "INSERT INTO team_aliases (tenant_id, alias, team, effective_at, waiting)
         SELECT tenant_id, $1, 'team-new', clock_timestamp(), true FROM tenants WHERE key = 'default'",
    )
    .bind(SUBJECT)
    .execute(&mut postgres)
    .await?;
    eventually("it is removed", async || Ok(alias(&http).await?.is_null())).await?;
    let changes = http.get("/v1/audit").await?;
    let removed = &changes["items"][0];
    assert_eq!((&removed["actor_kind"], &removed["target"]), (&json!("task"), &json!("team-new")));
    let action = removed["action"].as_str().context("an action")?;
    ensure!(action.contains("usage of its own"), "{removed}");
    // The same event again is a duplicate of itself, and of nobody else's.
    eventually("it is let in again", async || {
        Ok(send(&http, &event("early", SUBJECT)).await?.0 == 200)
    })
    .await?;
    let counts = system.settled(Some(2)).await?;
    assert_eq!((counts["rated"], counts["duplicates"]), (1, 1), "{counts:?}");
    assert_eq!(system.receivables().await?, before);
    Ok(())
}
