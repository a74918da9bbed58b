//! The api on real stores: keys, idempotency, tenancy, publishing, and what a whole pipeline shows.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result};
use api::USAGE;
use axum::http::Method;
use domain::wire::{
    block::{Block, BlockHeader},
    record::Entry,
};
use runtime::log::Log as _;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Row as _};
use tokio::task::JoinSet;

use crate::world::{OTHER, PARTITIONS, TENANT, World, add_key, catalog, config, send};

#[path = "api/display.rs"]
mod display;
#[path = "api/drafts.rs"]
mod drafts;
#[path = "api/limits.rs"]
mod limits;
#[path = "api/world.rs"]
mod world;

/// Whether all that is posted is in the archive, by the conservation statement.
fn is_archived(statement: &Value) -> bool {
    let partitions = statement["partitions"].as_array().unwrap();
    partitions.iter().all(|one| one["archived_position"] == one["posted_position"])
}

/// Catalog versions of the markers of a partition, in log order.
fn markers(world: &World, partition: u32) -> Result<Vec<u64>> {
    let (_, end) = world.gate.bounds(USAGE, partition, Duration::ZERO)?;
    let mut reader = world.gate.reader(USAGE, partition, 0)?;
    let mut versions = Vec::new();
    for _ in 0..end {
        let message = reader.next(Duration::from_secs(5))?.context("a message")?;
        let header = BlockHeader::decode(&message.payload)?;
        let body = header.body(&message.payload)?;
        for entry in Block::decode(&header, &body)?.entries {
            if let Entry::Marker { catalog_version, .. } = entry {
                versions.push(catalog_version);
            }
        }
    }
    Ok(versions)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twins_with_one_idempotency_key_have_one_effect_and_one_answer() -> Result<()> {
    let world = World::api().await?;
    // INV-17.
    let headers = [("idempotency-key", "the-same")];
    let mut twins = JoinSet::new();
    for _ in 0..32 {
        let (router, key) = (world.router.clone(), world.key.clone());
        twins.spawn(async move {
            send(
                &router,
                Method::POST,
                "/v1/teams",
                &key,
                &headers,
                Some(json!({"team": "acme", "name": "Acme"})),
            )
            .await
        });
    }
    let (mut bodies, mut repeated) = (BTreeSet::new(), 0);
    while let Some(answer) = twins.join_next().await {
        let answer = answer??;
        repeated += usize::from(answer.headers.contains_key("idempotency-repeated"));
        bodies.insert(answer.expect(201)?.to_string());
    }
    assert_eq!((bodies.len(), repeated), (1, 31), "{bodies:?}");
    let teams: i64 =
        sqlx::query_scalar("SELECT count(*) FROM teams").fetch_one(&world.admin).await?;
    assert_eq!(teams, 1);

    let reused = world
        .send(Method::POST, "/v1/teams", &world.key, &headers, Some(json!({"team": "other"})))
        .await?;
    reused.refused(409, "idempotency_key_reused")?;
    // Without a key it is another call; with a key on another route or of another tenant too.
    world.post("/v1/teams", json!({"team": "acme"})).await?.refused(409, "team_exists")?;
    world
        .send(Method::POST, "/v1/apps", &world.key, &headers, Some(json!({"app": "acme"})))
        .await?
        .expect(201)?;
    world
        .send(Method::POST, "/v1/teams", &world.other_key, &headers, Some(json!({"team": "acme"})))
        .await?
        .expect(201)?;

    // A refused call keeps nothing: the same key works once the reason is gone.
    let late = [("idempotency-key", "late")];
    let alias = json!({"alias": "a"});
    world
        .send(Method::POST, "/v1/teams/new/aliases", &world.key, &late, Some(alias.clone()))
        .await?
        .refused(404, "team_unknown")?;
    world.post("/v1/teams", json!({"team": "new"})).await?.expect(201)?;
    world
        .send(Method::POST, "/v1/teams/new/aliases", &world.key, &late, Some(alias))
        .await?
        .expect(201)?;
    limits::idempotency_keys(&world).await?;
    limits::keys_and_names(&world).await?;
    world.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_shown_once_limited_and_revoked_within_a_second() -> Result<()> {
    let world = World::api().await?;
    let headers = [("idempotency-key", "make")];
    let wanted = json!({"name": "ci", "scopes": ["teams:read", "keys:write"]});
    let made = world
        .send(Method::POST, "/v1/api-keys", &world.key, &headers, Some(wanted.clone()))
        .await?
        .expect(201)?;
    let key = made["key"].as_str().context("a key")?.to_owned();
    let again = world
        .send(Method::POST, "/v1/api-keys", &world.key, &headers, Some(wanted))
        .await?
        .expect(201)?;
    assert_eq!(again, {
        let mut same = made.clone();
        same["key"] = Value::Null;
        same
    });
    let stored: Vec<String> =
        sqlx::query_scalar("SELECT answer FROM idempotency").fetch_all(&world.admin).await?;
    assert!(
        !stored.is_empty() && stored.iter().all(|answer| !answer.contains("weir_live_")),
        "{stored:?}"
    );
    let listed = world.get("/v1/api-keys").await?.expect(200)?.to_string();
    assert!(!listed.contains("weir_live_") && listed.contains(made["key_id"].as_str().unwrap()));

    let with = async |method: Method, path: &str, body: Option<Value>| {
        world.send(method, path, &key, &[], body).await
    };
    with(Method::GET, "/v1/teams", None).await?.expect(200)?;
    with(Method::POST, "/v1/teams", Some(json!({"team": "x"})))
        .await?
        .refused(403, "scope_missing")?;
    with(Method::POST, "/v1/api-keys", Some(json!({"scopes": ["*"]})))
        .await?
        .refused(403, "scope_not_yours")?;
    with(Method::POST, "/v1/api-keys", Some(json!({"scopes": ["teams:read"]})))
        .await?
        .expect(201)?;
    with(Method::POST, "/v1/api-keys", Some(json!({"scopes": ["teams:eat"]})))
        .await?
        .refused(422, "scope_unknown")?;
    limits::scopes(&world).await?;

    let path = format!("/v1/api-keys/{}", made["key_id"].as_str().unwrap());
    let change =
        async |body: Value| world.send(Method::PATCH, &path, &world.key, &[], Some(body)).await;
    change(json!({})).await?.refused(400, "body_invalid")?;
    change(json!({"expires_at": "2020-01-01T00:00:00Z"})).await?.refused(422, "expiry_past")?;
    assert_eq!(
        change(json!({"expires_at": "2100-01-01T00:00:00+01:00"})).await?.expect(200)?["expires_at"],
        "2099-12-31T23:00:00.000000Z"
    );
    assert_eq!(change(json!({"expires_at": null})).await?.expect(200)?["expires_at"], Value::Null);
    world
        .send(Method::DELETE, &path, &world.other_key, &[], None)
        .await?
        .refused(404, "api_key_unknown")?;
    let revoked = world.send(Method::DELETE, &path, &world.key, &[], None).await?.expect(200)?;
    assert!(revoked["revoked_at"].is_string());
    tokio::time::sleep(Duration::from_secs(1)).await;
    with(Method::GET, "/v1/teams", None).await?.refused(401, "key_revoked")?;

    let expired = add_key(&world.admin, TENANT, "old", &["*"]).await?;
    sqlx::query("UPDATE api_keys SET expires_at = now() - interval '1 second' WHERE name = 'old'")
        .execute(&world.admin)
        .await?;
    let of_nobody = runtime::keys::generate()?.text;
    let forged = format!("{}{}", &world.key[..30], &of_nobody[30..]);
    for (key, code) in [
        ("", "key_missing"),
        ("weir_live_short", "key_malformed"),
        (forged.as_str(), "key_malformed"),
        (of_nobody.as_str(), "key_unknown"),
        (expired.as_str(), "key_expired"),
    ] {
        world.send(Method::GET, "/v1/teams", key, &[], None).await?.refused(401, code)?;
    }
    world.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_sees_nothing_of_another_even_without_our_filters() -> Result<()> {
    let world = World::all().await?;
    world.put("/v1/catalog", catalog()).await?.expect(200)?;
    world.post("/v1/apps", json!({"app": "tool"})).await?.expect(201)?;
    let headers = [("idempotency-key", "k")];
    world
        .send(Method::POST, "/v1/teams", &world.key, &headers, Some(json!({"team": "acme"})))
        .await?
        .expect(201)?;
    world.post("/v1/teams/acme/aliases", json!({"alias": "acme-2"})).await?.expect(201)?;
    world.post("/v1/apps/tool/secrets", json!({})).await?.expect(201)?;
    world.put("/v1/limits", json!({"events_per_second": 1_000_000})).await?.expect(200)?;
    world.put("/v1/quotas", json!({"period": "day", "events": 1_000_000})).await?.expect(200)?;
    let credits = json!({"customer_id": "acme", "amount": "1000", "currency": "USD"});
    let bought = world.post("/v1/credits/purchase", credits).await?.expect(201)?;
    let named = |value: &Value| value.as_str().map(str::to_owned).context("an id");
    let (wallet, grant) = (named(&bought["wallet"])?, named(&bought["grant"])?);
    let hold = json!({"wallet": wallet, "amount": "2", "settle_by": "call"});
    let hold = named(&world.post("/v1/holds", hold).await?.expect(201)?["id"])?;
    let capture = format!("/v1/holds/{hold}/capture");
    let amount = Some(json!({"amount": "1"}));
    world.send(Method::POST, &capture, &world.key, &headers, amount).await?.expect(200)?;
    let sent = world.post("/v1/events", events("acme", 0..5)).await?.expect(200)?;
    let paid = format!("/v1/grants/{grant}/allocations");
    world.until(&paid, |body| body["items"].as_array().is_some_and(|all| !all.is_empty())).await?;
    let settled = |body: &Value| {
        body["total"]["counts"]["accepted"] == 5
            && body["total"]["pending"] == 0
            && is_archived(body)
    };
    world.until("/v1/conservation", settled).await?;

    // Tables that nothing above writes to.
    for sql in [
        "INSERT INTO ingest_counts (tenant_id, period, period_start, events) VALUES ($1, 'day', now() AT TIME ZONE 'UTC', 5) ON CONFLICT DO NOTHING",
        "INSERT INTO late_answers (tenant_id, partition, answered) VALUES ($1, 0, 1)",
        "INSERT INTO running_totals (tenant_id, team, meter, scope, period, starts_at, quantity)
         VALUES ($1, 'acme', 'calls', '', 'ever', '-infinity', 7)",
        "INSERT INTO corrections (tenant_id, correction_id, kind, filter, reason, catalog_version, state, archived_to, created_by)
         VALUES ($1, '00000000-0000-0000-0000-000000005555', 'rate', '{}', 'r', 1, 'previewed', '{}', 'k')",
        "INSERT INTO correction_deltas (tenant_id, correction_id, posted, team, meter, currency, cost_currency, quantity, charge, cost)
         VALUES ($1, '00000000-0000-0000-0000-000000005555', false, 'acme', 'calls', 'USD', '', 0, 1, 0)",
        "INSERT INTO correction_blocks (tenant_id, correction_id, partition, position, commands)
         VALUES ($1, '00000000-0000-0000-0000-000000005555', 0, 7, 1)",
        "INSERT INTO meter_periods (tenant_id, meter, period_from, period_to)
         VALUES ($1, 'calls', 'epoch', '1970-02-01T00:00:00Z')",
        "INSERT INTO twins (tenant_id, partition, position, index, first_position, first_index) VALUES ($1, 0, 8, 0, 7, 0)",
        "INSERT INTO backfills (tenant_id, backfill, reason, created_by) VALUES ($1, 'history', 'r', 'k')",
        "INSERT INTO catalog_drafts (tenant_id, draft, base_version, note, document, created_by, updated_by)
         VALUES ($1, 'spring', 1, 'n', '{}', 'k', 'k')",
        "INSERT INTO exchange_rates (tenant_id, from_currency, to_currency, effective_on, rate, source, stored_by)
         VALUES ($1, 'USD', 'EUR', '2026-01-31', 0.9, 's', 'k')",
        "INSERT INTO provider_invoices (tenant_id, invoice, revision, provider, time_zone, period_from, period_to, models, classes,
             lines, totals, content_hash, imported_by)
         VALUES ($1, 'march', 1, 'openai', 'UTC', '2026-03-01', '2026-04-01', '{}', '{}', 1, '{}', decode(repeat('00', 32), 'hex'), 'k')",
        "INSERT INTO provider_invoice_lines (tenant_id, invoice, revision, line, quantity, amount, currency) VALUES ($1, 'march', 1, 2, 1, 1, 'USD')",
        // Of a partition and a team that nobody settles.
        "INSERT INTO settle_due (tenant_id, wallet_id, partition, version) VALUES ($1, $1, 99, $1)",
        "INSERT INTO reversals (tenant_id, partition, batch_to, ordinal, team, currency, meter, bucket, amount)
         VALUES ($1, 0, 0, 0, 'none', 'USD', 'calls', 'epoch', 1)",
        "INSERT INTO reinjections (tenant_id, partition, position, index, receipt, corrected, reinjected_by) VALUES ($1, 0, 7, 0, '0:8:0', true, 'k')",
        "INSERT INTO provider_price_imports (tenant_id, import_id, source, source_date) VALUES ($1, '00000000-0000-0000-0000-000000003333', 's', '2026-01-01')",
        "INSERT INTO provider_prices (tenant_id, provider, model, class, above, version, price, per, currency, effective_from, import_id)
         VALUES ($1, 'openai', 'gpt', 'input', 0, 1, 1, 1, 'USD', 'epoch', '00000000-0000-0000-0000-000000003333')",
    ] {
        sqlx::query(sql).bind(TENANT).execute(&world.admin).await.context(sql)?;
    }

    // Wall 2: every table with tenants, without any filter, as the api's role with the other tenant.
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT c.table_name::text FROM information_schema.columns c JOIN information_schema.tables t USING (table_schema, table_name)
         WHERE c.column_name = 'tenant_id' AND c.table_schema = 'public' AND t.table_type = 'BASE TABLE'
             AND has_table_privilege('weir_api', c.table_name::regclass, 'SELECT')",
    )
    .fetch_all(&world.admin)
    .await?;
    assert!(tables.len() >= 24, "{tables:?}");
    let pool = world.postgres.pool(&world.url, Some("weir_api"), 1).await?;
    for (tenant, sees) in [(Some(TENANT), true), (Some(OTHER), false), (None, false)] {
        let mut connection = pool.acquire().await?;
        let setting = tenant.map(|tenant| tenant.to_string()).unwrap_or_default();
        sqlx::query("SELECT set_config('app.tenant', $1, false)")
            .bind(setting)
            .execute(&mut *connection)
            .await?;
        for table in &tables {
            let sql =
                format!("SELECT count(*) FILTER (WHERE tenant_id = $1), count(*) FROM {table}");
            let row =
                sqlx::query(AssertSqlSafe(sql)).bind(TENANT).fetch_one(&mut *connection).await?;
            let (of_one, all): (i64, i64) = (row.get(0), row.get(1));
            assert_eq!(of_one > 0, sees, "{table} as {tenant:?}: {of_one} of {all}");
            assert!(tenant.is_some() || all == 0, "{table} without a tenant: {all}");
        }
    }

    // Wall 1, from outside: the other tenant's key gets what a thing that does not exist gets.
    let receipt = sent["results"][0]["receipt"].as_str().context("a receipt")?.to_owned();
    let journal = world.get("/v1/teams/acme/journals").await?.expect(200)?;
    let journal = journal["items"][0]["journal_id"].as_str().context("a journal")?.to_owned();
    for path in [
        "/v1/teams/acme".to_owned(),
        "/v1/teams/acme/aliases".to_owned(),
        "/v1/teams/acme/balance".to_owned(),
        "/v1/teams/acme/transfers".to_owned(),
        "/v1/teams/acme/journals".to_owned(),
        "/v1/teams/acme/wallets".to_owned(),
        "/v1/customers/acme/credits".to_owned(),
        format!("/v1/wallets/{wallet}"),
        format!("/v1/grants/{grant}"),
        format!("/v1/holds/{hold}"),
        format!("/v1/journals/{journal}"),
        "/v1/meters/calls".to_owned(),
        "/v1/rate-cards/standard".to_owned(),
        "/v1/cost-cards/providers".to_owned(),
        format!("/v1/events/{receipt}"),
    ] {
        world.get(&path).await?.expect(200)?;
        let other = world.send(Method::GET, &path, &world.other_key, &[], None).await?;
        assert_eq!(other.status.as_u16(), 404, "{path}: {}", other.text);
        assert!(!other.text.contains(&TENANT.to_string()));
    }
    for path in [
        "/v1/teams",
        "/v1/apps",
        "/v1/meters",
        "/v1/rate-cards",
        "/v1/cost-cards",
        "/v1/usage",
        "/v1/events",
        "/v1/rejected-events",
    ] {
        let own = world.get(path).await?.expect(200)?;
        assert_eq!(
            own["items"].as_array().map(Vec::is_empty),
            Some(path == "/v1/rejected-events"),
            "{path}: {own}"
        );
        let other =
            world.send(Method::GET, path, &world.other_key, &[], None).await?.expect(200)?;
        assert_eq!(other["items"], json!([]), "{path}");
    }
    let other = world
        .send(Method::GET, "/v1/conservation", &world.other_key, &[], None)
        .await?
        .expect(200)?;
    assert_eq!(
        (&other["total"]["counts"]["accepted"], &other["total"]["pending"]),
        (&json!(0), &json!(0))
    );
    let other =
        world.send(Method::GET, "/v1/catalog", &world.other_key, &[], None).await?.expect(200)?;
    assert_eq!(other["catalog_version"], 0);
    world.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_catalogs_are_refused_with_every_row_and_reason() -> Result<()> {
    let world = World::api().await?;
    let first = world.put("/v1/catalog", catalog()).await?.expect(200)?;
    assert_eq!(first["catalog_version"], 1);
    assert_eq!(first["markers"].as_array().map(Vec::len), Some(PARTITIONS as usize));
    let same = world.put("/v1/catalog", catalog()).await?.expect(200)?;
    assert_eq!(same["catalog_version"], 1, "nothing new is no new version");

    let faults = |problem: &Value| -> Vec<String> {
        let faults = problem["faults"].as_array().cloned().unwrap_or_default();
        faults
            .iter()
            .map(|fault| {
                format!(
                    "{}: {}",
                    fault["place"].as_str().unwrap(),
                    fault["reason"].as_str().unwrap()
                )
            })
            .collect()
    };
    let mut bad = catalog();
    bad["cards"][0]["versions"].as_array_mut().unwrap().push(
        json!({"effective_from": "2026-02-01T00:00:00Z", "rates": [
            {"meter": "tokens", "price": "-1"},
            {"meter": "calls", "price": "1", "unlimited": true},
            {"meter": "seats", "price": "1"},
            {"meter": "tokens", "dimensions": {"colour": "red"}, "price": "1"},
            {"meter": "calls", "price": "0.0000000000001"},
        ]}),
    );
    let problem = world.put("/v1/catalog", bad).await?.refused(422, "catalog_invalid")?;
    insta::assert_json_snapshot!(faults(&problem), @r#"
    [
      "cards[standard].versions[2].rates[0]: the price `-1` is negative",
      "cards[standard].versions[2].rates[1]: it has both a price and `unlimited`; keep one",
      "cards[standard].versions[2].rates[2]: there is no meter `seats`",
      "cards[standard].versions[2].rates[3]: the meter `tokens` has no dimension `colour`",
      "cards[standard].versions[2].rates[4]: the price `0.0000000000001` is not a decimal number of at most 12 decimals below 10^20"
    ]
    "#);

    let mut changed = catalog();
    changed["cards"][0]["versions"][0]["rates"][1]["price"] = json!("0.6");
    let problem = world.put("/v1/catalog", changed).await?.refused(422, "catalog_invalid")?;
    assert_eq!(
        faults(&problem),
        ["cards[standard].versions[1].rates[1]: it is published and cannot change; add a version"]
    );
    let mut unknown = catalog();
    unknown["cards"][0]["versions"][0]["rates"][0]["prize"] = json!("1");
    world.put("/v1/catalog", unknown).await?.refused(400, "body_invalid")?;

    // Piece by piece.
    let seats = json!({"key": "seats", "event_types": ["seat.day"], "aggregation": "count"});
    let meter = world.post("/v1/meters", seats.clone()).await?.expect(201)?;
    assert_eq!((&meter["meter"], &meter["catalog_version"]), (&json!("seats"), &json!(2)));
    world.post("/v1/meters", seats).await?.refused(409, "meter_exists")?;
    let rates = json!([{"meter": "seats", "price": "7.50"}]);
    let version = json!({"effective_from": "2030-01-01T00:00:00+01:00", "rates": rates});
    let added =
        world.post("/v1/rate-cards/standard/versions", version.clone()).await?.expect(201)?;
    assert_eq!((&added["card"], &added["version"]), (&json!("standard"), &json!(2)));
    world
        .post("/v1/rate-cards/none/versions", version.clone())
        .await?
        .refused(404, "card_unknown")?;
    world
        .post("/v1/cost-cards/standard/versions", version.clone())
        .await?
        .refused(404, "card_unknown")?;
    // After a dated version, one without a time would hold before it only.
    let undated = world.post("/v1/rate-cards/standard/versions", json!({"rates": rates})).await?;
    let place = &undated.refused(422, "catalog_invalid")?["faults"][0]["place"];
    assert_eq!(place, "cards[standard].versions[3].effective_from");
    world
        .post(
            "/v1/cost-cards/providers/versions",
            json!({"rates": [{"meter": "no", "price": "1"}]}),
        )
        .await?
        .refused(422, "catalog_invalid")?;
    world
        .post("/v1/cost-cards", json!({"key": "new", "currency": "EUR", "rates": rates}))
        .await?
        .expect(201)?;
    world
        .post("/v1/rate-cards", json!({"key": "new", "currency": "EUR", "rates": rates}))
        .await?
        .refused(409, "card_exists")?;
    world
        .put("/v1/catalog/defaults", json!({"default_rate_card": "new", "default_cost_card": null}))
        .await?
        .refused(422, "catalog_invalid")?;
    world
        .put(
            "/v1/catalog/defaults",
            json!({"default_rate_card": "standard", "default_cost_card": "new"}),
        )
        .await?
        .expect(200)?;
    let current = world.get("/v1/catalog").await?.expect(200)?;
    assert_eq!(current["catalog_version"], 5);
    assert_eq!(current["catalog"]["default_cost_card"], "new");
    let card = world.get("/v1/rate-cards/standard").await?.expect(200)?;
    assert_eq!(
        card["versions"][1],
        json!({"version": 2, "effective_from": "2029-12-31T23:00:00.000000Z", "rates": [{"meter": "seats", "price": "7.5", "per": 1}]})
    );
    // What is answered can be published as it is.
    let again = world.put("/v1/catalog", current["catalog"].clone()).await?.expect(200)?;
    assert_eq!(again["catalog_version"], 5);
    for partition in 0..PARTITIONS {
        assert_eq!(markers(&world, partition)?, [1, 2, 3, 4, 5]);
    }
    let documents: Vec<(String, Vec<u8>)> =
        sqlx::query_as("SELECT document, document_hash FROM catalog_versions")
            .fetch_all(&world.admin)
            .await?;
    for (document, _) in &documents {
        let document: domain::catalog::CatalogDocument = serde_json::from_str(document)?;
        assert!(document.faults().is_empty());
    }
    world.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn markers_follow_after_an_outage_of_the_log_in_order() -> Result<()> {
    let world = World::api_with(api::Config { publish_wait_ms: 1_000, ..config() }).await?;
    world.gate.shut(true);
    let headers = [("idempotency-key", "publish")];
    let publish = async || {
        world.send(Method::PUT, "/v1/catalog", &world.key, &headers, Some(catalog())).await
    };
    let problem = publish().await?.refused(503, "marker_waiting")?;
    assert_eq!(problem["catalog_version"], 1);
    publish().await?.refused(503, "marker_waiting")?;
    let current = world.get("/v1/catalog").await?.expect(200)?;
    assert_eq!(current["catalog_version"], 1, "it is published");

    // Two processes and two tenants publish; the log comes back in the middle.
    let (second, other) = world.another().await?;
    let mut publishers = JoinSet::new();
    for number in 0..12 {
        let (router, key) = match number % 3 {
            0 => (world.router.clone(), world.key.clone()),
            1 => (second.clone(), world.key.clone()),
            _ => (second.clone(), world.other_key.clone()),
        };
        let meter =
            json!({"key": format!("m{number}"), "event_types": ["t"], "aggregation": "count"});
        publishers.spawn(async move {
            send(&router, Method::POST, "/v1/meters", &key, &[], Some(meter)).await
        });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.gate.shut(false);
    while let Some(answer) = publishers.join_next().await {
        let answer = answer??;
        assert!([201, 503].contains(&answer.status.as_u16()), "{}", answer.text);
    }
    // The first try after the outage may be two seconds later.
    let mut published = publish().await?;
    for _ in 0..30 {
        if published.status != 503 {
            break;
        }
        published = publish().await?;
    }
    assert_eq!(published.expect(200)?["catalog_version"], 1);
    let waiting = async || {
        sqlx::query_scalar::<_, i64>(
            "SELECT count(*) FROM catalog_outbox WHERE appended_at IS NULL",
        )
        .fetch_one(&world.admin)
        .await
    };
    for _ in 0..200 {
        if waiting().await? == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(waiting().await?, 0);
    for partition in 0..PARTITIONS {
        let versions = markers(&world, partition)?;
        assert!(versions.is_sorted(), "{versions:?}");
        assert_eq!(versions.iter().copied().collect::<BTreeSet<u64>>(), (1..=13).collect());
    }
    other.shutdown.trigger();
    world.stop().await
}

/// Events of a team: a third each of `gpt` in two regions and of `own`; the times are an hour apart.
fn events(team: &str, numbers: std::ops::Range<u32>) -> Value {
    let event = |number: u32| {
        let (model, region) = [("gpt", "eu"), ("gpt", "us"), ("own", "eu")][number as usize % 3];
        json!({"specversion": "1.0", "id": format!("{team}-{number}"), "source": "test", "type": "llm.call", "subject": team,
            "time": format!("2026-03-{:02}T{:02}:30:00Z", 28 + number / 24, number % 24),
            "data": {"tokens": number + 1, "model": model, "region": region}})
    };
    numbers.map(event).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_is_seen_in_balances_usage_events_and_the_statement() -> Result<()> {
    let world = World::all().await?;
    world.put("/v1/catalog", catalog()).await?.expect(200)?;
    let count = 48;
    let teams = ["acme", "bolt", "cato", "dune"];
    for team in teams {
        world.post("/v1/events", events(team, 0..count)).await?.expect(200)?;
    }
    let mut live_seen = 0;
    let receipt = {
        // Right after the answer the event may be anywhere on its way; it is never unknown.
        let sent = world.post("/v1/events", json!([{"specversion": "1.0", "id": "last", "source": "test", "type": "llm.call", "subject": "acme", "data": {"tokens": 3, "model": "gpt"}}])).await?.expect(200)?;
        let receipt = sent["results"][0]["receipt"].as_str().context("a receipt")?.to_owned();
        let event = world.get(&format!("/v1/events/{receipt}")).await?.expect(200)?;
        assert!(["pending", "rated"].contains(&event["status"].as_str().unwrap()), "{event}");
        live_seen += 1;
        receipt
    };
    // The same again, the same with other content, and one that cannot be rated.
    world.post("/v1/events", events("acme", 0..count)).await?.expect(200)?;
    let mut conflict = events("bolt", 0..1);
    conflict[0]["data"]["tokens"] = json!(999);
    world.post("/v1/events", conflict).await?.expect(200)?;
    let bad = json!([{"specversion": "1.0", "id": "bad", "source": "test", "type": "llm.call", "subject": "cato", "data": {"tokens": "many"}}]);
    world.post("/v1/events", bad).await?.expect(200)?;

    let accepted = u64::from(count) * 5 + live_seen + 2;
    let settled = |body: &Value| {
        body["total"]["counts"]["accepted"] == accepted && body["total"]["pending"] == 0
    };
    let statement = world.until("/v1/conservation", settled).await?;
    let total = &statement["total"];
    assert_eq!(total["balanced"], true, "{statement}");
    assert_eq!(total["summary"], "every accepted event is posted");
    for (outcome, wanted) in [
        ("rated", u64::from(count) * 4 + 1),
        ("duplicates", u64::from(count)),
        ("conflicts", 1),
        ("rejected", 1),
    ] {
        assert_eq!(total["counts"][outcome], wanted, "{outcome}: {statement}");
    }

    // Charges, plainly: 0.01 for 3 of gpt (rounded to 12 decimals, never a tie), 0.5 for one of own.
    let raw = |number: u32| {
        let tokens = i128::from(number) + 1;
        if number % 3 == 2 {
            tokens * 500_000_000_000
        } else {
            (tokens * 10_000_000_000 * 2 + 3) / 6
        }
    };
    let charge: i128 = (0..count).map(raw).sum();
    let text = |raw: i128| domain::money::Amount::from_raw(raw).unwrap().to_string();
    for team in teams {
        let owed = if team == "acme" { charge + 10_000_000_000 } else { charge };
        let owed = text(-owed);
        let owed = json!([{"currency": "USD", "posted": owed, "live": owed, "wallet": null}]);
        // What is in memory follows what is posted.
        let settled = |body: &Value| {
            let reach = &body["partitions"][0];
            let posted = reach["posted_position"] == reach["live_position"];
            body["balances"] == owed && reach["lag"] == 0 && posted
        };
        world.until(&format!("/v1/teams/{team}/balance"), settled).await?;
    }
    world.until("/v1/conservation", is_archived).await?;

    // Usage, in all.
    let usage = world.get("/v1/usage?meter=tokens&team=bolt").await?.expect(200)?;
    let tokens: u32 = (0..count).map(|number| number + 1).sum();
    let cost = text(i128::from(tokens) * 1_000_000_000);
    let row = &usage["items"][0];
    assert_eq!(usage["items"].as_array().map(Vec::len), Some(1), "{usage}");
    assert_eq!(
        (&row["quantity"], &row["charge"], &row["cost"], &row["events"]),
        (&json!(tokens.to_string()), &json!(text(charge)), &json!(cost), &json!(count))
    );
    assert_eq!(row["margin"], text(charge - i128::from(tokens) * 1_000_000_000));
    assert_eq!(
        (&row["currency"], &row["unpriced_events"], &row["window_start"]),
        (&json!("USD"), &json!(0), &Value::Null)
    );
    // By day in a zone whose clock changes on 29 March; by dimension and with a filter.
    let days = world
        .get("/v1/usage?meter=calls&team=bolt&window=day&time_zone=Europe/Berlin")
        .await?
        .expect(200)?;
    let days: Vec<(&str, &str, i64)> = days["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            (
                row["window_start"].as_str().unwrap(),
                row["window_end"].as_str().unwrap(),
                row["events"].as_i64().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        days,
        [
            ("2026-03-28T00:00:00+01:00", "2026-03-29T00:00:00+01:00", 23),
            ("2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00", 23),
            ("2026-03-30T00:00:00+02:00", "2026-03-31T00:00:00+02:00", 2),
        ]
    );
    for window in ["minute", "hour", "month"] {
        let rows = world.get(&format!("/v1/usage?meter=calls&team=bolt&window={window}&time_zone=Asia/Kathmandu&limit=1000")).await?.expect(200)?;
        let events: i64 = rows["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["events"].as_i64().unwrap())
            .sum();
        assert_eq!(events, i64::from(count), "{window}");
    }
    let grouped = world
        .get("/v1/usage?meter=tokens&team=bolt&group_by=model,region,team")
        .await?
        .expect(200)?;
    let groups: Vec<Value> =
        grouped["items"].as_array().unwrap().iter().map(|row| row["group"].clone()).collect();
    assert_eq!(
        groups,
        [
            json!({"model": "gpt", "region": "eu", "team": "bolt"}),
            json!({"model": "gpt", "region": "us", "team": "bolt"}),
            json!({"model": "own", "region": "eu", "team": "bolt"}),
        ]
    );
    let filtered = world.get("/v1/usage?meter=tokens&filter[region]=us&from=2026-03-28T00:00:00Z&to=2026-03-29T00:00:00Z").await?.expect(200)?;
    assert_eq!(filtered["items"][0]["events"], 8 * 4);
    let nothing = world.get("/v1/usage?team=it's%20%5C%20%7Bp0%3AString%7D").await?.expect(200)?;
    assert_eq!(nothing["items"], json!([]), "names of teams are values, whatever is in them");
    limits::groups(&world, "bolt").await?;

    // Events: lines and journal, every page once.
    let (mut seen, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page =
            world.get(&format!("/v1/events?team=acme&limit=20{cursor}")).await?.expect(200)?;
        seen.extend(page["items"].as_array().unwrap().clone());
        pages += 1;
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let receipts: BTreeSet<&str> =
        seen.iter().map(|event| event["receipt"].as_str().unwrap()).collect();
    assert_eq!(
        (seen.len(), receipts.len(), pages),
        (count as usize * 2 + 1, count as usize * 2 + 1, 5)
    );
    assert!(
        seen.is_sorted_by_key(|event| std::cmp::Reverse(
            event["time"].as_str().unwrap().to_owned()
        ))
    );
    let found = world.get("/v1/events?source=test&id=acme-3&type=llm.call").await?.expect(200)?;
    let statuses: BTreeSet<&str> = found["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["status"].as_str().unwrap())
        .collect();
    assert_eq!(statuses, ["duplicate", "rated"].into());
    let event = world.get(&format!("/v1/events/{receipt}")).await?.expect(200)?;
    assert_eq!(
        (&event["status"], &event["posted"], &event["id"]),
        (&json!("rated"), &json!(true), &json!("last"))
    );
    let line = event["lines"]
        .as_array()
        .unwrap()
        .iter()
        .find(|line| line["meter"] == "tokens")
        .context("a line")?;
    assert_eq!(
        *line,
        json!({"meter": "tokens", "unit": "token", "quantity": "3", "status": "priced", "dimensions": {"model": "gpt"}, "total_before": "0",
        "card": "standard", "card_version": 1, "currency": "USD", "charge": "0.01",
        "cost_card": "providers", "cost_card_version": 1, "cost_currency": "USD", "cost": "0.003",
        "transfer_id": line["transfer_id"], "cost_transfer_id": line["cost_transfer_id"]})
    );
    let own = event["journal_id"].as_str().context("a journal")?;
    assert!(line["transfer_id"].as_str().is_some_and(|id| id.starts_with(own)), "{line}");
    let journal = world
        .get(&format!("/v1/journals/{}", event["journal_id"].as_str().context("a journal")?))
        .await?
        .expect(200)?;
    assert!(
        journal["transfers"]["items"]
            .as_array()
            .unwrap()
            .iter()
            .any(|transfer| transfer["team"] == "acme")
    );
    let rejected = world.get("/v1/rejected-events?team=cato").await?.expect(200)?;
    assert_eq!(
        (&rejected["items"][0]["status"], &rejected["items"][0]["id"]),
        (&json!("rejected"), &json!("bad")),
        "{rejected}"
    );
    assert!(rejected["items"][0]["raw"].as_str().unwrap().contains("many"));
    let conflicts = world.get("/v1/rejected-events?reason=conflict").await?.expect(200)?;
    let first = world.get("/v1/events?team=bolt&id=bolt-0").await?.expect(200)?;
    let first = first["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|event| event["status"] == "rated")
        .context("the first")?;
    assert_eq!(conflicts["items"][0]["twin"], first["receipt"]);

    // The books: a team's transfers come in pages and sum up to its balance.
    let (mut sum, mut cursor) = (0_i128, String::new());
    loop {
        let page =
            world.get(&format!("/v1/teams/bolt/transfers?limit=2{cursor}")).await?.expect(200)?;
        for transfer in page["items"].as_array().unwrap() {
            let amount =
                domain::money::Amount::parse_exact(transfer["amount"].as_str().unwrap())?.raw();
            sum += if transfer["debit"] == "receivable" { amount } else { -amount };
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(sum, charge);
    for path in [
        "/v1/teams/nobody/balance",
        "/v1/events/0:999999:0",
        "/v1/events/99:0:0",
        "/v1/events/x",
        "/v1/journals/x",
    ] {
        assert_eq!(world.get(path).await?.status.as_u16(), 404, "{path}");
    }

    // A team with usage is no alias; and without the archive the rest goes on.
    world
        .post("/v1/teams/bolt/aliases", json!({"alias": "cato"}))
        .await?
        .refused(409, "alias_is_team")?;
    let mut world = world;
    drop(world.engine.take());
    world.get("/v1/usage").await?.refused(503, "archive_unavailable")?;
    world.get("/v1/events").await?.refused(503, "archive_unavailable")?;
    world.get("/v1/teams/acme/balance").await?.expect(200)?;
    assert_eq!(
        world.get(&format!("/v1/events/{receipt}")).await?.expect(200)?["status"],
        "pending"
    );
    let statement = world.get("/v1/conservation").await?.expect(200)?;
    assert_eq!(
        (&statement["archive_available"], &statement["partitions"][0]["archived_position"]),
        (&json!(false), &Value::Null)
    );
    world.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_come_in_pages_over_a_stable_order() -> Result<()> {
    let world = World::api().await?;
    let names: Vec<String> = ["b", "a", "Z", "é", "a/b", "a b", "0"].map(str::to_owned).into();
    for name in &names {
        world.post("/v1/teams", json!({"team": name})).await?.expect(201)?;
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = world.get(&format!("/v1/teams?limit=2{cursor}")).await?.expect(200)?;
        seen.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|team| team["team"].as_str().unwrap().to_owned()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let mut sorted = names.clone();
    sorted.sort();
    assert_eq!(seen, sorted);
    world.get("/v1/teams/a%2Fb").await?.expect(200)?;
    for (query, code) in [
        ("limit=0", "limit_invalid"),
        ("limit=1001", "limit_invalid"),
        ("limit=x", "query_invalid"),
        ("cursor=zz", "cursor_invalid"),
        ("page=2", "query_invalid"),
    ] {
        world.get(&format!("/v1/teams?{query}")).await?.refused(400, code)?;
    }
    for rate in [
        json!({"events_per_second": 0}),
        json!({"events_per_second": null, "burst": 5}),
        json!({"events_per_second": 1_000_000_001}),
    ] {
        world.put("/v1/limits", rate).await?.refused(422, "rate_limit_invalid")?;
    }
    // Nothing is ignored where there are no parameters either.
    for path in ["/v1/teams/a/balance?as_of=2020-01-01T00:00:00Z", "/v1/conservation?team=a"] {
        world.get(path).await?.refused(400, "query_invalid")?;
    }
    world
        .post("/v1/teams?dry_run=true", json!({"team": "c"}))
        .await?
        .refused(400, "query_invalid")?;
    world.get("/v1/teams/a?").await?.expect(200)?;

    let aliased =
        world.post("/v1/teams/a/aliases", json!({"alias": "old-a"})).await?.expect(201)?;
    assert_eq!((&aliased["waiting"], &aliased["effective_at"]), (&json!(true), &Value::Null));
    let ahead: f64 = sqlx::query_scalar("SELECT extract(epoch FROM effective_at - clock_timestamp())::float8 FROM team_aliases WHERE alias = 'old-a'")
        .fetch_one(&world.admin)
        .await?;
    assert!((30.0..=60.0).contains(&ahead), "{ahead}");
    world
        .post("/v1/teams/b/aliases", json!({"alias": "old-a"}))
        .await?
        .refused(409, "alias_exists")?;
    world
        .post("/v1/teams/b/aliases", json!({"alias": "a"}))
        .await?
        .refused(409, "alias_is_team")?;
    world.post("/v1/teams", json!({"team": "old-a"})).await?.refused(409, "team_is_alias")?;
    limits::pages(&world, i64::try_from(names.len())? - 1).await?;
    world.stop().await
}

/// Routes under `/v1` are the api's and ingest's; everything else that is public is named here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_documented_route_wants_a_key_and_the_document_is_as_reviewed() -> Result<()> {
    let world = World::api().await?;
    let paths = world.document["paths"].as_object().context("paths")?;
    let mut routes = 0;
    for (path, methods) in paths {
        assert!(path.starts_with("/v1/"), "{path}");
        let concrete: String = path
            .split('/')
            .map(|part| if part.starts_with('{') { "x" } else { part })
            .collect::<Vec<_>>()
            .join("/");
        for method in ["get", "post", "put", "patch", "delete"]
            .iter()
            .filter(|method| methods.get(**method).is_some())
        {
            let verb: Method = method.to_uppercase().parse()?;
            let answer = world.send(verb, &concrete, "", &[], Some(json!({}))).await?;
            answer.refused(401, "key_missing").with_context(|| format!("{method} {path}"))?;
            routes += 1;
        }
    }
    assert!(routes >= 34, "{routes}");
    let page = world.send(Method::GET, "/", "", &[], None).await?;
    assert!(page.status.is_success() && page.text.contains("<title>Weir</title>"));
    let document = world.send(Method::GET, "/openapi.json", "", &[], None).await?.expect(200)?;
    assert_eq!(document["paths"], world.document["paths"]);
    assert!(world.send(Method::GET, "/docs/", "", &[], None).await?.status.is_success());
    insta::assert_json_snapshot!("openapi", world.document);
    world.stop().await
}
