//! Who changed what, texts that try to be more than texts, and guesses at the api.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use axum::{
    body::Body,
    extract::ConnectInfo,
    http::{Method, Request},
};
use runtime::telemetry::Metrics;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tests::process::Process;
use tower::ServiceExt as _;

use crate::world::{Answer, TENANT, World, catalog, config, master_key};

#[expect(dead_code, reason = "the tests of the api use all of it")]
#[path = "api/world.rs"]
mod world;

async fn changes(world: &World, query: &str) -> Result<Vec<Value>> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = world.get(&format!("/v1/audit?limit=3{query}{cursor}")).await?.expect(200)?;
        all.extend(page["items"].as_array().context("items")?.clone());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(all),
        }
    }
}

/// INV-26.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_leaves_one_row_and_nothing_else_does() -> Result<()> {
    let world = World::api().await?;
    let admin_id = runtime::keys::parse(&world.key)?.id;
    let send = async |method: Method, path: &str, body: Value| {
        let headers = [("x-request-id", "req-77")];
        world.send(method, path, &world.key, &headers, Some(body)).await?.expect_success()
    };
    send(Method::POST, "/v1/apps", json!({"app": "chat"})).await?;
    let key = send(Method::POST, "/v1/api-keys", json!({"scopes": ["teams:read"], "app": "chat"}))
        .await?;
    let key_path = format!("/v1/api-keys/{}", key["key_id"].as_str().unwrap());
    send(Method::PATCH, &key_path, json!({"expires_at": "2100-01-01T00:00:00Z"})).await?;
    let secret = send(Method::POST, "/v1/apps/chat/secrets", json!({})).await?;
    let secret_path = format!("/v1/apps/chat/secrets/{}", secret["secret_id"].as_str().unwrap());
    send(Method::PATCH, &secret_path, json!({"expires_at": null})).await?;
    send(Method::DELETE, &secret_path, json!({})).await?;
    send(Method::PUT, "/v1/limits", json!({"events_per_second": 5})).await?;
    send(Method::PUT, "/v1/limits", json!({"events_per_second": null})).await?;
    send(Method::PUT, "/v1/quotas", json!({"period": "day", "events": 7})).await?;
    send(Method::POST, "/v1/teams", json!({"team": "acme"})).await?;
    send(Method::POST, "/v1/teams/acme/aliases", json!({"alias": "acme-2"})).await?;
    let wallet = send(Method::POST, "/v1/teams/acme/wallets", json!({"currency": "USD"})).await?;
    let wallet_path = format!("/v1/wallets/{}", wallet["id"].as_str().unwrap());
    send(Method::PATCH, &wallet_path, json!({"credit_limit": "5"})).await?;
    let grants_path = format!("{wallet_path}/grants");
    let mut endings = Vec::new();
    for ending in ["void", "refund"] {
        let grant = json!({"amount": "7", "kind": "paid"});
        let grant = send(Method::POST, &grants_path, grant).await?;
        endings.push(format!("/v1/grants/{}/{ending}", grant["id"].as_str().unwrap()));
        send(Method::POST, &endings[endings.len() - 1], json!({})).await?;
    }
    let credits = json!({"customer_id": "acme", "amount": "2"});
    send(Method::POST, "/v1/credits/purchase", credits.clone()).await?;
    // What is held and spent is use, and no change.
    send(Method::POST, "/v1/credits/consume", credits).await?;
    let hold = json!({"team": "acme", "currency": "USD", "amount": "1"});
    send(Method::POST, "/v1/holds", hold).await?;
    send(Method::PUT, "/v1/catalog", catalog()).await?;
    send(
        Method::PUT,
        "/v1/catalog/defaults",
        json!({"default_rate_card": "standard", "default_cost_card": null}),
    )
    .await?;
    let meter = json!({"key": "more", "event_types": ["more"], "aggregation": "sum", "value": "usage.input",
        "dimensions": {"provider": "$.provider", "model": "$.model"}});
    send(Method::POST, "/v1/meters", meter).await?;
    for kind in ["rate", "cost"] {
        let rates = |price: &str| json!([{"meter": "more", "price": price}]);
        let card = json!({"key": format!("more-{kind}"), "currency": "USD", "rates": rates("1")});
        send(Method::POST, &format!("/v1/{kind}-cards"), card).await?;
        let version = json!({"rates": rates("2")});
        send(Method::POST, &format!("/v1/{kind}-cards/more-{kind}/versions"), version).await?;
        for verb in ["archive", "unarchive"] {
            let path = format!("/v1/{kind}-cards/more-{kind}/{verb}");
            send(Method::POST, &path, json!({})).await?;
        }
    }
    // Twice, and the second time it changes nothing.
    for _ in 0..2 {
        send(Method::POST, "/v1/providers/pricing/imports", json!({"builtin": true})).await?;
    }
    send(Method::POST, "/v1/providers/pricing/cost-card", json!({"card": "made"})).await?;
    let none = json!({"default_rate_card": null, "default_cost_card": null});
    send(Method::PUT, "/v1/catalog/defaults", none).await?;
    let burn = json!({"name": "burn", "rules": {"m": {"input_tokens": 2}}});
    send(Method::POST, "/v1/burn-tables", burn).await?;
    let rates = json!([{"meter": "more", "price": "3"}]);
    let draft = json!({"version": {"card": "more-rate", "rates": rates}, "note": "for spring"});
    for name in ["spring", "autumn"] {
        send(Method::PUT, &format!("/v1/catalog/drafts/{name}"), draft.clone()).await?;
    }
    send(Method::POST, "/v1/catalog/drafts/spring/publish", json!({})).await?;
    send(Method::DELETE, "/v1/catalog/drafts/autumn", json!({})).await?;
    let rate = json!({"from_currency": "USD", "to_currency": "EUR", "effective_on": "2026-03-31", "rate": "0.92",
        "source": "ECB"});
    send(Method::PUT, "/v1/exchange-rates", json!({ "rates": [rate] })).await?;
    let backfill = json!({"backfill": "history", "reason": "the old meter"});
    send(Method::POST, "/v1/backfills", backfill).await?;
    send(Method::POST, "/v1/backfills/history/close", json!({})).await?;
    let invoice =
        json!({"invoice": "march", "provider": "openai", "csv": "date,cost_usd\n2026-03-01,1\n"});
    // Twice, and the second time it changes nothing.
    for _ in 0..2 {
        send(Method::POST, "/v1/provider-invoices", invoice.clone()).await?;
    }
    // What is only shown is no change.
    send(Method::POST, "/v1/rating/calculate", json!({"data": {}})).await?;
    send(Method::POST, "/v1/catalog/preview", catalog()).await?;
    send(Method::DELETE, &key_path, json!({})).await?;
    // Neither reading nor being refused is a change, and a repeat is none either.
    world.post("/v1/teams", json!({"team": "acme"})).await?.refused(409, "team_exists")?;
    world.get("/v1/teams").await?.expect(200)?;
    let headers = [("idempotency-key", "once")];
    for _ in 0..2 {
        let body = Some(json!({"team": "twice"}));
        world.send(Method::POST, "/v1/teams", &world.key, &headers, body).await?.expect(201)?;
    }

    let all = changes(&world, "").await?;
    let actions: Vec<(&str, &str)> = all
        .iter()
        .rev()
        .map(|change| (change["action"].as_str().unwrap(), change["target"].as_str().unwrap()))
        .collect();
    assert_eq!(
        actions,
        [
            ("POST /v1/apps", "/v1/apps"),
            ("POST /v1/api-keys", "/v1/api-keys"),
            ("PATCH /v1/api-keys/{key_id}", key_path.as_str()),
            ("POST /v1/apps/{app}/secrets", "/v1/apps/chat/secrets"),
            ("PATCH /v1/apps/{app}/secrets/{secret_id}", &secret_path),
            ("DELETE /v1/apps/{app}/secrets/{secret_id}", &secret_path),
            ("PUT /v1/limits", "/v1/limits"),
            ("PUT /v1/limits", "/v1/limits"),
            ("PUT /v1/quotas", "/v1/quotas"),
            ("POST /v1/teams", "/v1/teams"),
            ("POST /v1/teams/{team}/aliases", "/v1/teams/acme/aliases"),
            ("POST /v1/teams/{team}/wallets", "/v1/teams/acme/wallets"),
            ("PATCH /v1/wallets/{wallet}", &wallet_path),
            ("POST /v1/wallets/{wallet}/grants", &grants_path),
            ("POST /v1/grants/{grant}/void", &endings[0]),
            ("POST /v1/wallets/{wallet}/grants", &grants_path),
            ("POST /v1/grants/{grant}/refund", &endings[1]),
            ("POST /v1/credits/purchase", "/v1/credits/purchase"),
            ("PUT /v1/catalog", "/v1/catalog"),
            ("PUT /v1/catalog/defaults", "/v1/catalog/defaults"),
            ("POST /v1/meters", "/v1/meters"),
            ("POST /v1/rate-cards", "/v1/rate-cards"),
            ("POST /v1/rate-cards/{key}/versions", "/v1/rate-cards/more-rate/versions"),
            ("POST /v1/rate-cards/{key}/archive", "/v1/rate-cards/more-rate/archive"),
            ("POST /v1/rate-cards/{key}/unarchive", "/v1/rate-cards/more-rate/unarchive"),
            ("POST /v1/cost-cards", "/v1/cost-cards"),
            ("POST /v1/cost-cards/{key}/versions", "/v1/cost-cards/more-cost/versions"),
            ("POST /v1/cost-cards/{key}/archive", "/v1/cost-cards/more-cost/archive"),
            ("POST /v1/cost-cards/{key}/unarchive", "/v1/cost-cards/more-cost/unarchive"),
            ("POST /v1/providers/pricing/imports", "/v1/providers/pricing/imports"),
            ("POST /v1/providers/pricing/cost-card", "/v1/providers/pricing/cost-card"),
            ("PUT /v1/catalog/defaults", "/v1/catalog/defaults"),
            ("POST /v1/burn-tables", "/v1/burn-tables"),
            ("PUT /v1/catalog/drafts/{draft}", "/v1/catalog/drafts/spring"),
            ("PUT /v1/catalog/drafts/{draft}", "/v1/catalog/drafts/autumn"),
            ("POST /v1/catalog/drafts/{draft}/publish", "/v1/catalog/drafts/spring/publish"),
            ("DELETE /v1/catalog/drafts/{draft}", "/v1/catalog/drafts/autumn"),
            ("PUT /v1/exchange-rates", "/v1/exchange-rates"),
            ("POST /v1/backfills", "/v1/backfills"),
            ("POST /v1/backfills/{backfill}/close", "/v1/backfills/history/close"),
            ("POST /v1/provider-invoices", "/v1/provider-invoices"),
            ("DELETE /v1/api-keys/{key_id}", &key_path),
            ("POST /v1/teams", "/v1/teams"),
        ]
    );
    // Every operation that changes something is among them, but those that need an archive and those
    // that use what is stored.
    let needs_archive = |path: &str| {
        let corrects = ["/v1/corrections", "/v1/events/", "/v1/rating/simulate"];
        path.ends_with("/reinject")
            || path.ends_with("/revert")
            || corrects.iter().any(|prefix| path.starts_with(prefix))
    };
    let only_shows = |path: &str| ["/v1/rating/calculate", "/v1/catalog/preview"].contains(&path);
    let paths = world.document["paths"].as_object().context("no paths")?;
    for (path, operations) in paths {
        for method in operations.as_object().context("no operations")?.keys() {
            let operation = format!("{} {path}", method.to_uppercase());
            let known = actions.iter().any(|(action, _)| *action == operation);
            let is_use = path.starts_with("/v1/holds") || path == "/v1/credits/consume";
            let changes = method != "get" && !needs_archive(path) && !only_shows(path) && !is_use;
            assert!(known == changes, "{operation}");
        }
    }
    let text = json!(all).to_string();
    for secret in [&key["key"], &secret["secret"]] {
        assert!(!text.contains(secret.as_str().unwrap()), "a secret is in the log of changes");
    }
    for change in &all {
        assert_eq!(
            (&change["actor_kind"], &change["actor"]),
            (&json!("api_key"), &json!(admin_id))
        );
        let own = change["after"]["team"] == "twice";
        assert_eq!(change["request_id"] == "req-77", !own, "{change}");
    }
    let of = |action: &str| {
        let found = all.iter().find(|change| change["action"] == action);
        found.unwrap_or_else(|| panic!("{action}")).clone()
    };
    let patched = of("PATCH /v1/api-keys/{key_id}");
    assert_eq!(patched["before"]["expires_at"], Value::Null);
    assert_eq!(patched["after"]["expires_at"], "2100-01-01T00:00:00.000000Z");
    let limit = of("PUT /v1/limits");
    assert_eq!(
        (&limit["before"]["burst"], &limit["after"]["burst"]),
        (&json!(10_000), &Value::Null)
    );
    let defaults = of("PUT /v1/catalog/defaults");
    assert_eq!(
        (&defaults["before"]["catalog_version"], &defaults["after"]["catalog_version"]),
        (&json!(12), &json!(13))
    );

    // Filters, another tenant, and a key that may not look.
    assert_eq!(changes(&world, "&action=PUT%20/v1/limits").await?.len(), 2);
    assert_eq!(changes(&world, "&target=/v1/teams").await?.len(), 2);
    assert_eq!(changes(&world, "&actor=nobody").await?.len(), 0);
    assert_eq!(changes(&world, &format!("&actor={admin_id}")).await?.len(), all.len());
    assert_eq!(changes(&world, "&to=2020-01-01T00:00:00Z").await?.len(), 0);
    assert_eq!(changes(&world, "&from=2020-01-01T00:00:00Z").await?.len(), all.len());
    let other =
        world.send(Method::GET, "/v1/audit", &world.other_key, &[], None).await?.expect(200)?;
    assert_eq!(other["items"], json!([]));
    world.get("/v1/audit?cursor=00").await?.refused(400, "cursor_invalid")?;
    world.stop().await
}

impl Answer {
    fn expect_success(self) -> Result<Value> {
        ensure!(self.status.is_success(), "{}: {}", self.status, self.text);
        Ok(self.body)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_records_what_it_changes() -> Result<()> {
    let world = World::api().await?;
    let folder = tests::postgres::TestFolder::new("keys-commands")?;
    let run = async |arguments: &[&str], settings: &[(&str, &str)]| {
        let settings: Vec<(String, String)> = [("DATABASE_URL", world.url.expose())]
            .iter()
            .chain(settings)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let mut process = Process::start("keys", folder.path(), arguments, &settings)?;
        let code = process.ended(Duration::from_secs(60)).await?;
        Ok::<_, anyhow::Error>((code, process.output(), process.log_tail()))
    };
    let made =
        run(&["keys", "create", "--tenant", "one", "--app", "tool", "--scopes", "teams:read"], &[])
            .await?;
    assert_eq!(made.0, Some(0), "{}", made.2);
    let key = made.1.trim();
    world.send(Method::GET, "/v1/teams", key, &[], None).await?.expect(200)?;
    let id = runtime::keys::parse(key)?.id;
    let revoked = run(&["keys", "revoke", "--tenant", "one", &id], &[]).await?;
    assert_eq!(revoked.0, Some(0), "{}", revoked.2);
    let again = run(&["keys", "revoke", "--tenant", "one", &id], &[]).await?;
    assert_ne!(again.0, Some(0), "{}", again.1);
    let all = changes(&world, &format!("&target={id}")).await?;
    let rows: Vec<_> =
        all.iter().map(|change| (&change["action"], &change["actor_kind"])).collect();
    let operator = json!("operator");
    assert_eq!(rows, [(&json!("keys revoke"), &operator), (&json!("keys create"), &operator)]);
    assert!(all[0]["before"]["revoked_at"].is_null() && all[0]["after"]["revoked_at"].is_string());
    assert_eq!(all[1]["after"]["app_made"], true);
    assert!(!json!(all).to_string().contains(key));
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while world.send(Method::GET, "/v1/teams", key, &[], None).await?.status != 401 {
        ensure!(std::time::Instant::now() < deadline, "a revoked key is still taken");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // A master key is replaced: secrets are stored anew, and stay what they are.
    for _ in 0..2 {
        world.post("/v1/apps/tool/secrets", json!({})).await?.expect(201)?;
    }
    let before: Vec<Vec<u8>> = stored(&world).await?;
    let new = "d4".repeat(32);
    let alone = run(&["keys", "seal"], &[("WEIR_MASTER_KEY", &new)]).await?;
    assert_ne!(alone.0, Some(0), "{}", alone.1);
    assert_eq!(stored(&world).await?, before, "nothing was done without the old key");
    let both = format!("{new},{}", master_key().expose());
    for done in ["2 secrets", "0 secrets"] {
        let sealed = run(&["keys", "seal"], &[("WEIR_MASTER_KEY", &both)]).await?;
        assert!(sealed.0 == Some(0) && sealed.1.starts_with(done), "{} {}", sealed.1, sealed.2);
    }
    let sealed: Vec<String> = sqlx::query_scalar(
        "SELECT target FROM privileged_changes WHERE action = 'keys seal' AND before IS DISTINCT FROM after ORDER BY target",
    )
    .fetch_all(&world.admin)
    .await?;
    let all: Vec<String> =
        sqlx::query_scalar("SELECT secret_id FROM app_secrets ORDER BY secret_id")
            .fetch_all(&world.admin)
            .await?;
    assert_eq!(sealed, all, "each leaves one row");
    let new_keys =
        runtime::keys::MasterKeys::parse(&runtime::config::Secret::new(new))?.context("a key")?;
    let rows: Vec<(String, Vec<u8>)> =
        sqlx::query_as("SELECT secret_id, sealed FROM app_secrets").fetch_all(&world.admin).await?;
    for (id, sealed) in rows {
        let context = domain::token::secret_context(TENANT, &id);
        let plain = new_keys.open(new_keys.newest_id(), &context, &sealed)?;
        assert!(plain.starts_with(b"weir_app_"));
    }
    world.stop().await
}

async fn stored(world: &World) -> Result<Vec<Vec<u8>>> {
    let sql = "SELECT sealed FROM app_secrets ORDER BY secret_id";
    Ok(sqlx::query_scalar(sql).fetch_all(&world.admin).await?)
}

/// Texts that are more than they seem in SQL, JSON, logs, terminals, templates or pages.
const TEXTS: [&str; 16] = [
    "'; DROP TABLE teams; --",
    "\" OR \"\"=\"",
    "a\u{0}b",
    "line\r\nlevel=ERROR forged",
    "\u{1b}[31mred\u{1b}[0m",
    "\u{202e}gnp.exe",
    "{0} {} %s %n ${x} {{7*7}}",
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "a%00b",
    "\\x00\\u0000\\'",
    "$1 $2 $tenant",
    "\u{feff}bom",
    "\u{7f}\u{85}control",
    "a\tb",
    "😀 ü ñ",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_are_stored_as_they_are_or_refused_in_every_field() -> Result<()> {
    let world = World::all().await?;
    let mut wrong = Vec::new();
    for (number, text) in TEXTS.iter().enumerate() {
        for (path, field, body) in bodies(text, number) {
            let sent = body[field].clone();
            let answer = world.post(path, body).await?;
            let refused = matches!(answer.status.as_u16(), 400 | 404 | 422)
                && answer.body["code"].is_string();
            let stored =
                answer.status.is_success() && (answer.body[field] == sent || path == "/v1/events");
            if !refused && !stored {
                wrong.push(format!("{path} {field} {text:?}: {} {}", answer.status, answer.text));
            }
        }
        let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
        for path in [
            format!("/v1/teams/{encoded}"),
            format!("/v1/teams/{encoded}/balance"),
            format!("/v1/teams/{encoded}/aliases"),
            format!("/v1/teams/{encoded}/transfers"),
            format!("/v1/teams/{encoded}/journals"),
            format!("/v1/apps/{encoded}/secrets"),
            format!("/v1/journals/{encoded}"),
            format!("/v1/events/{encoded}"),
            format!("/v1/meters/{encoded}"),
            format!("/v1/rate-cards/{encoded}"),
            format!("/v1/cost-cards/{encoded}"),
            format!("/v1/usage?team={encoded}&meter={encoded}&filter[model]={encoded}"),
            format!("/v1/rating/resolve?meter={encoded}&team={encoded}&filter[model]={encoded}"),
            format!("/v1/usage?group_by={encoded}"),
            format!("/v1/usage?time_zone={encoded}"),
            format!("/v1/events?team={encoded}&user={encoded}&source={encoded}&id={encoded}"),
            format!("/v1/rejected-events?team={encoded}&reason={encoded}"),
            format!("/v1/audit?actor={encoded}&action={encoded}&target={encoded}"),
            format!("/v1/teams?cursor={encoded}"),
        ] {
            let answer = world.get(&path).await?;
            if !matches!(answer.status.as_u16(), 200 | 400 | 403 | 404 | 422) {
                wrong.push(format!("GET {path}: {} {}", answer.status, answer.text));
            }
        }
        for path in
            [format!("/v1/api-keys/{encoded}"), format!("/v1/apps/{encoded}/secrets/{encoded}")]
        {
            let answer = world.send(Method::DELETE, &path, &world.key, &[], None).await?;
            if !matches!(answer.status.as_u16(), 400 | 404) {
                wrong.push(format!("DELETE {path}: {} {}", answer.status, answer.text));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // What is stored comes back byte for byte, from every store.
    let names: Vec<String> =
        sqlx::query_scalar("SELECT name FROM apps WHERE app LIKE 'name-%' ORDER BY app")
            .fetch_all(&world.admin)
            .await?;
    let kept: Vec<&str> = TEXTS.iter().copied().filter(|text| !text.contains('\0')).collect();
    assert_eq!(names, kept);
    let all = |body: &Value| body["total"]["pending"] == 0 && body["archive_available"] == true;
    world.until("/v1/conservation", all).await?;
    let plain: Vec<&str> =
        TEXTS.iter().copied().filter(|text| !text.chars().any(char::is_control)).collect();
    for text in plain {
        let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let found = |body: &Value| {
            body["items"].as_array().is_some_and(|items| {
                items.iter().any(|event| {
                    event["user"] == text && event["source"] == text && event["team"] == text
                })
            })
        };
        world.until(&format!("/v1/events?team={encoded}"), found).await?;
    }
    let tables: i64 =
        sqlx::query_scalar("SELECT count(*) FROM teams").fetch_one(&world.admin).await?;
    assert!(tables > 0);
    world.stop().await
}

/// Requests with the text in each of their fields: path, the field of the answer, body.
fn bodies(text: &str, number: usize) -> Vec<(&'static str, &'static str, Value)> {
    let event = |field: &str| {
        let mut event = json!({"id": format!("{field}-{number}"), "type": "llm.call", "subject": "acme", "data": {"tokens": 1}});
        event[field] = json!(text);
        event
    };
    let whole = json!({"id": text, "type": "llm.call", "subject": text, "source": text, "user": text, "feature": text,
        "data": {"tokens": 1, "model": text, text: text}});
    let mut bodies = vec![
        ("/v1/apps", "app", json!({"app": text})),
        ("/v1/apps", "name", json!({"app": format!("name-{number:02}"), "name": text})),
        ("/v1/teams", "team", json!({"team": text})),
        ("/v1/teams", "name", json!({"team": format!("name-{number:02}"), "name": text})),
        ("/v1/teams/name-00/aliases", "alias", json!({"alias": format!("{text}-alias")})),
        ("/v1/api-keys", "name", json!({"name": text, "scopes": ["teams:read"]})),
        ("/v1/api-keys", "app", json!({"app": text, "scopes": ["teams:read"]})),
        ("/v1/api-keys", "scopes", json!({"scopes": [text]})),
        ("/v1/api-keys", "expires_at", json!({"scopes": ["teams:read"], "expires_at": text})),
        ("/v1/apps/name-00/secrets", "scopes", json!({"scopes": [text]})),
        ("/v1/meters", "key", json!({"key": text, "event_types": [text], "aggregation": "count"})),
        ("/v1/events", "", whole),
    ];
    for field in ["id", "type", "subject", "source", "user", "feature", "time"] {
        bodies.push(("/v1/events", "", event(field)));
    }
    bodies
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guesses_at_the_api_are_limited_per_address_and_good_keys_are_not() -> Result<()> {
    let world = World::api().await?;
    let context = runtime::context::Context {
        shutdown: world.context.shutdown.child(),
        metrics: Metrics::new(),
        ..world.context.clone()
    };
    let config =
        api::Config { failed_attempts_max: 20, failed_attempt_regain_ms: 60_000, ..config() };
    let (router, _) = world.another_with(config, context).await?;
    let ask = async |address: &str, key: &str| {
        let peer: SocketAddr = address.parse().unwrap();
        let request = Request::get("/v1/teams").header("authorization", format!("Bearer {key}"));
        let request = request.extension(ConnectInfo(peer)).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        (response.status().as_u16(), response.headers().contains_key("retry-after"))
    };
    for number in 0..100_u32 {
        let guess =
            if number % 2 == 0 { "a.b.c".to_owned() } else { runtime::keys::generate()?.text };
        let want = if number < 20 { (401, false) } else { (429, true) };
        assert_eq!(ask("10.0.0.1:7", &guess).await, want, "{number}");
    }
    assert_eq!(ask("10.0.0.1:8", &world.key).await, (200, false), "a good key is let through");
    assert_eq!(ask("10.0.0.2:7", "a.b.c").await, (401, false), "another address has its own");
    // Guesses at one key are counted together, from whatever address.
    for number in 0..40_u32 {
        let guess = tests::forged::key(&world.key, &format!("{number:032}"))?;
        let want = if number < 20 { (401, false) } else { (429, true) };
        assert_eq!(ask(&format!("10.0.1.{number}:7"), &guess).await, want, "{number}");
    }
    let request = Request::get("/v1/teams").header("x-api-key", &world.key);
    let request = request.extension(ConnectInfo(SocketAddr::from(([10, 0, 2, 1], 7))));
    let response = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status().as_u16(), 200, "the key itself is let through");
    world.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_the_api_end_at_their_limit_and_no_answer_holds_a_secret() -> Result<()> {
    const LIMIT: usize = 16 << 20;
    let world = World::api().await?;
    for (length, code) in
        [(LIMIT - 1, "name_invalid"), (LIMIT, "name_invalid"), (LIMIT + 1, "body_too_large")]
    {
        let frame = r#"{"team":"t","name":""}"#.len();
        let body = json!({"team": "t", "name": "x".repeat(length - frame)});
        assert_eq!(body.to_string().len(), length);
        let answer = world.post("/v1/teams", body).await?;
        assert_eq!(answer.body["code"], code, "{length}");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    }
    // Postgres goes away: what is told says nothing of it.
    let sql = "ALTER TABLE teams RENAME TO teams_hidden";
    sqlx::query(AssertSqlSafe(sql)).execute(&world.admin).await?;
    let answer = world.get("/v1/teams").await?.refused(500, "internal")?.to_string();
    for internal in ["teams_hidden", "relation", "SELECT", "postgres", "weir_live_"] {
        assert!(!answer.contains(internal), "{answer}");
    }
    sqlx::query("ALTER TABLE teams_hidden RENAME TO teams").execute(&world.admin).await?;
    world.stop().await
}
