//! Limits of what clients may send, one below, at and one above each: called by the tests whose world
//! they use. And what is said of a quota.

use anyhow::{Context as _, Result};
use axum::http::Method;
use serde_json::{Value, json};

use crate::{
    events,
    world::{Answer, TENANT, World},
};

async fn post_with(world: &World, path: &str, key: &str, body: Value) -> Result<Answer> {
    world.send(Method::POST, path, &world.key, &[("idempotency-key", key)], Some(body)).await
}

/// The Idempotency-Key has 1 to 255 characters, and a long one works to its last.
pub async fn idempotency_keys(world: &World) -> Result<()> {
    let team = |name: &str| json!({"team": name});
    for length in [1, 254, 255] {
        let (key, name) = ("k".repeat(length), format!("idempotent-{length}"));
        let made = post_with(world, "/v1/teams", &key, team(&name)).await?.expect(201)?;
        let again = post_with(world, "/v1/teams", &key, team(&name)).await?;
        assert!(again.headers.contains_key("idempotency-repeated"), "{length}: {}", again.text);
        assert_eq!(again.expect(201)?, made);
    }
    let other = format!("{}l", "k".repeat(254));
    post_with(world, "/v1/teams", &other, team("idempotent-other")).await?.expect(201)?;
    for key in ["k".repeat(256), String::new()] {
        let answer = post_with(world, "/v1/teams", &key, team("idempotent-none")).await?;
        answer.refused(400, "idempotency_key_invalid")?;
    }
    world.get("/v1/teams/idempotent-none").await?.refused(404, "team_unknown")?;
    Ok(())
}

/// Keys have 1 to 256 bytes, names at most 256 characters. There is a team `acme`.
pub async fn keys_and_names(world: &World) -> Result<()> {
    for (path, field) in
        [("/v1/teams", "team"), ("/v1/apps", "app"), ("/v1/teams/acme/aliases", "alias")]
    {
        // Two bytes for each `é`.
        for text in ["t".to_owned(), "t".repeat(255), "t".repeat(256), "é".repeat(128)] {
            // A team and an alias of it cannot have the same key.
            let text =
                if field == "alias" { text.replace('t', "b").replace('é', "ä") } else { text };
            let made = world.post(path, json!({field: text})).await?.expect(201)?;
            assert_eq!(made[field], text);
        }
        for text in [String::new(), "t".repeat(257), "é".repeat(128) + "t"] {
            let problem =
                world.post(path, json!({field: text})).await?.refused(422, "key_invalid")?;
            assert_eq!(problem["field"], field);
        }
    }
    world.post("/v1/apps", json!({"app": "tool"})).await?.expect(201)?;
    let scopes = json!(["teams:read"]);
    let with_name = |path: &str, name: &str| match path {
        "/v1/teams" => json!({"team": format!("named-{}", name.chars().count()), "name": name}),
        "/v1/apps" => json!({"app": format!("named-{}", name.chars().count()), "name": name}),
        _ => json!({"name": name, "scopes": scopes}),
    };
    for path in ["/v1/teams", "/v1/apps", "/v1/api-keys", "/v1/apps/tool/secrets"] {
        // Characters, not bytes.
        for length in [255, 256] {
            let name = "é".repeat(length);
            let made = world.post(path, with_name(path, &name)).await?.expect(201)?;
            assert_eq!(made["name"], name, "{path}");
        }
        let answer = world.post(path, with_name(path, &"é".repeat(257))).await?;
        answer.refused(422, "name_invalid").context(path)?;
    }
    Ok(())
}

/// A key has 1 to 32 scopes.
pub async fn scopes(world: &World) -> Result<()> {
    let make = async |count: usize| {
        world
            .post("/v1/api-keys", json!({"name": "many", "scopes": vec!["teams:read"; count]}))
            .await
    };
    for count in [1, 31, 32] {
        make(count).await?.expect(201)?;
    }
    for count in [0, 33] {
        make(count).await?.refused(422, "scopes_invalid")?;
    }
    Ok(())
}

/// Usage is grouped by up to 8 names, and filtered by up to 8 dimensions. There is usage of `team`.
pub async fn groups(world: &World, team: &str) -> Result<()> {
    let names =
        |count: usize| -> Vec<String> { (0..count).map(|number| format!("d{number}")).collect() };
    for count in [7, 8, 9] {
        let groups = format!("/v1/usage?team={team}&group_by={}", names(count).join(","));
        let filters: String =
            names(count).iter().map(|name| format!("&filter[{name}]=x")).collect();
        let filters = format!("/v1/usage?team={team}{filters}");
        let (groups, filters) = (world.get(&groups).await?, world.get(&filters).await?);
        if count > 8 {
            groups.refused(400, "query_invalid")?;
            filters.refused(400, "query_invalid")?;
            continue;
        }
        let groups = groups.expect(200)?;
        let group = groups["items"][0]["group"].as_object().context("a group")?;
        assert_eq!(group.len(), count, "{groups}");
        assert_eq!(filters.expect(200)?["items"], json!([]));
    }
    Ok(())
}

/// A page has up to 1,000 items, wherever there are pages. There is a team `a`, with `teams` others.
pub async fn pages(world: &World, teams: i64) -> Result<()> {
    sqlx::query(
        "INSERT INTO teams (tenant_id, team, origin)
         SELECT $1, 'page-' || lpad(n::text, 4, '0'), 'registered' FROM generate_series(1, $2) n",
    )
    .bind(TENANT)
    .bind(1_001 - 1 - teams)
    .execute(&world.admin)
    .await?;
    for (limit, rest) in [(999, 2), (1_000, 1)] {
        let first = world.get(&format!("/v1/teams?limit={limit}")).await?.expect(200)?;
        assert_eq!(first["items"].as_array().map(Vec::len), Some(limit));
        let cursor = first["next_cursor"].as_str().context("a next page")?;
        let next = format!("/v1/teams?limit={limit}&cursor={cursor}");
        let next = world.get(&next).await?.expect(200)?;
        assert_eq!(next["items"].as_array().map(Vec::len), Some(rest));
        assert_eq!(next["next_cursor"], Value::Null);
    }
    sqlx::query("DELETE FROM teams WHERE team = 'page-0001'").execute(&world.admin).await?;
    let whole = world.get("/v1/teams?limit=1000").await?.expect(200)?;
    assert_eq!(whole["items"].as_array().map(Vec::len), Some(1_000));
    assert_eq!(whole["next_cursor"], Value::Null, "a full page is the last");

    let mut paths = 0;
    for (path, methods) in world.document["paths"].as_object().context("paths")? {
        let parameters = methods["get"]["parameters"].as_array().cloned().unwrap_or_default();
        if !parameters.iter().any(|parameter| parameter["name"] == "limit") {
            continue;
        }
        let concrete = path.replace("{team}", "a").replace("{user}", "a");
        // Of the others, no thing is there to be listed in pages.
        if concrete.contains('{') {
            continue;
        }
        paths += 1;
        let period = match path.as_str() {
            "/v1/usage-report" => "&period=2026-03",
            path if path.starts_with("/v1/analytics/") => {
                "&from=2026-03-01T00:00:00Z&to=2026-04-01T00:00:00Z"
            }
            _ => "",
        };
        let ask = async |limit: u32| world.get(&format!("{concrete}?limit={limit}{period}")).await;
        for limit in [1, 999, 1_000] {
            let answer = ask(limit).await?;
            // Where the archive is asked, it is not there.
            let status = answer.status.as_u16();
            assert!([200, 503].contains(&status), "{path} with {limit}: {}", answer.text);
        }
        for limit in [0, 1_001, u32::MAX] {
            ask(limit).await?.refused(400, "limit_invalid").with_context(|| path.clone())?;
        }
    }
    assert!(paths >= 12, "{paths}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_says_how_much_of_it_is_used() -> Result<()> {
    let world = World::all().await?;
    let set = json!({"period": "month", "events": 8});
    world.put("/v1/quotas", set).await?.expect(200)?;
    for (sent, used, percent, is_over) in
        [(0..0, 0, "0.00", false), (0..5, 5, "62.50", false), (5..8, 8, "100.00", true)]
    {
        if !sent.is_empty() {
            world.post("/v1/events", events("acme", sent)).await?.expect(200)?;
        }
        let counted = |body: &Value| body["items"][1]["used"] == used;
        let quotas = world.until("/v1/quotas", counted).await?;
        let month = &quotas["items"][1];
        assert_eq!(
            json!([
                month["period"],
                month["events"],
                month["remaining"],
                month["used_percent"],
                month["is_over_quota"]
            ]),
            json!(["month", 8, 8 - used, percent, is_over])
        );
        // A day has none.
        let day = &quotas["items"][0];
        assert_eq!(
            json!([day["used_percent"], day["is_over_quota"]]),
            json!([null, false]),
            "{day}"
        );
    }
    let more = world.post("/v1/events", events("acme", 8..9)).await?;
    more.refused(429, "quota_exceeded")?;
    world.stop().await
}
