//! What two tenants have, and what nobody has.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use axum::http::Method;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::{
    Named,
    world::{OTHER, TENANT, World},
};

/// What of another tenant, or of another team of one's own, must never be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// Nothing of the first tenant.
    Tenant,
    /// Nothing of the first tenant's first team.
    Team,
}

/// Names of things by their kind.
pub type Names = BTreeMap<&'static str, String>;

/// What each has.
pub struct Objects {
    theirs: Names,
    own: Names,
    nobodys: Names,
}

impl Objects {
    /// Gives both tenants one of everything, and two of what is listed.
    pub async fn make(world: &World) -> Result<Objects> {
        let theirs = make(world, "alpha7", &world.key).await?;
        let own = make(world, "bravo7", &world.other_key).await?;
        let mut nobodys: Names =
            theirs.iter().map(|(kind, name)| (*kind, name.replace("alpha7", "gamma7"))).collect();
        let reversed = |name: &str| -> String { name.chars().rev().collect() };
        for kind in ["key", "secret"] {
            nobodys.insert(kind, reversed(&theirs[kind]));
        }
        for kind in ["receipt", "rejected"] {
            let (_, index) = theirs[kind].rsplit_once(':').context("a receipt")?;
            nobodys.insert(kind, format!("0:1000000:{index}"));
        }
        let journal = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0009);
        nobodys.insert("journal", journal.to_string());
        nobodys.insert("transfer", format!("{journal}:0"));
        for (kind, number) in [("wallet", 1_u128), ("grant", 2), ("hold", 3), ("correction", 4)] {
            nobodys.insert(kind, Uuid::from_u128(journal.as_u128() + number).to_string());
        }
        Ok(Objects { theirs, own, nobodys })
    }

    /// The name of a thing of this kind.
    pub fn of(&self, kind: &str, whose: Named) -> String {
        let names = match whose {
            Named::Own => &self.own,
            Named::Theirs => &self.theirs,
            Named::Nobodys => &self.nobodys,
        };
        names.get(kind).unwrap_or_else(|| panic!("nothing is a {kind}")).clone()
    }

    /// What a text tells that it must not.
    pub fn told_by(&self, text: &str, foreign: Foreign) -> Option<String> {
        let of_team = ["team", "user", "wallet", "grant", "hold"];
        let mut secrets: Vec<String> =
            of_team.iter().map(|kind| self.theirs[kind].clone()).collect();
        if foreign == Foreign::Tenant {
            secrets.extend(["alpha7".to_owned(), TENANT.to_string()]);
            let ids =
                ["key", "secret", "journal", "correction"].map(|kind| self.theirs[kind].clone());
            secrets.extend(ids);
        }
        secrets.into_iter().find(|secret| text.contains(secret.as_str()))
    }
}

/// A catalog of which each name begins with `mark`.
pub fn catalog(mark: &str) -> Value {
    let (calls, tokens) = (format!("{mark}-calls"), format!("{mark}-tokens"));
    let card_in = |currency: &str, key: &str, kind: &str, price: &str| {
        json!({"key": format!("{mark}-{key}"), "kind": kind, "currency": currency, "versions": [{"rates": [
            {"meter": tokens, "price": price}, {"meter": calls, "price": "0.5"}]}]})
    };
    let card = |key: &str, kind: &str, price: &str| card_in("USD", key, kind, price);
    let credits = format!("{mark}-credits");
    json!({
        "meters": [
            {"key": calls, "event_types": [format!("{mark}.call")], "aggregation": "count"},
            {"key": tokens, "event_types": [format!("{mark}.call")], "aggregation": "sum", "value": "$.tokens",
             "dimensions": {"model": "$.model"}},
        ],
        "cards": [card("standard", "rate", "0.01"), card("special", "rate", "0.02"),
            card("providers", "cost", "0.001"), card("others", "cost", "0.002"),
            card_in(&credits, "burn", "rate", "3"), card_in(&credits, "burn-2", "rate", "4")],
        "credit_units": [{"key": credits}],
        "default_rate_card": format!("{mark}-standard"),
        "default_cost_card": format!("{mark}-providers"),
    })
}

async fn make(world: &World, mark: &str, key: &str) -> Result<Names> {
    let ask = async |method: Method, path: &str, body: Value| {
        let answer = world.send(method, path, key, &[], Some(body)).await?;
        anyhow::ensure!(answer.status.is_success(), "{path}: {}", answer.text);
        Ok::<Value, anyhow::Error>(answer.body)
    };
    let named = |name: &str| format!("{mark}-{name}");
    ask(Method::PUT, "/v1/catalog", catalog(mark)).await?;
    for app in ["tool", "tool-2", "new-app"] {
        ask(Method::POST, "/v1/apps", json!({"app": named(app)})).await?;
    }
    let secrets = format!("/v1/apps/{}/secrets", named("tool"));
    let secret = ask(Method::POST, &secrets, json!({"scopes": ["*"]})).await?;
    ask(Method::POST, &secrets, json!({"scopes": ["*"]})).await?;
    let made = json!({"scopes": ["teams:read"], "name": named("key")});
    let api_key = ask(Method::POST, "/v1/api-keys", made).await?;
    let key_id = api_key["key_id"].as_str().context("a key")?.to_owned();
    for mut body in [json!({}), json!({"credential": key_id})] {
        body["events_per_second"] = json!(1_000_000);
        ask(Method::PUT, "/v1/limits", body).await?;
    }
    for team in ["acme", "bolt", "new-team"] {
        ask(Method::POST, "/v1/teams", json!({"team": named(team)})).await?;
        let aliases = format!("/v1/teams/{}/aliases", named(team));
        for alias in ["2", "3"] {
            ask(Method::POST, &aliases, json!({"alias": named(&format!("{team}-{alias}"))}))
                .await?;
        }
    }
    let prices = json!({"input": "1", "output": "2"});
    let list = json!({"source": named("prices"), "date": "2026-01-01", "currency": "USD", "per": 1000, "models": [
        {"provider": named("provider"), "model": named("model"), "prices": prices},
        {"provider": named("provider"), "model": named("model-2"), "prices": prices}]});
    ask(Method::POST, "/v1/providers/pricing/imports", json!({"list": list})).await?;
    for name in ["invoice", "invoice-2"] {
        let csv = format!(
            "date,model,cost_usd\n2026-03-01,{mark}-model,1\n2026-03-02,{mark}-model-2,2\n"
        );
        let invoice = json!({"invoice": named(name), "provider": named("provider"), "csv": csv});
        ask(Method::POST, "/v1/provider-invoices", invoice).await?;
    }
    // Twice, so that there are two of each. The first is used first.
    let mut stored = Vec::new();
    for number in ["1", "2"] {
        let credits = json!({"customer_id": named("acme"), "amount": "1000", "currency": "USD", "reference": named(number)});
        stored.push(ask(Method::POST, "/v1/credits/purchase", credits).await?);
    }
    let bought = stored.swap_remove(0);
    let hold = json!({"wallet": bought["wallet"], "amount": "1", "expires_in_seconds": 86_400});
    let hold = ask(Method::POST, "/v1/holds", hold).await?;
    let (receipt, rejected) = report(world, mark, key).await?;
    let text = |value: &Value| value.as_str().map(str::to_owned).context("an id");
    paid(world, key, &text(&bought["grant"])?).await?;
    let journals = world
        .send(Method::GET, &format!("/v1/teams/{}/journals", named("acme")), key, &[], None)
        .await?
        .expect(200)?;
    // One of usage has several transfers, and can be explained.
    let mut journals = journals["items"].as_array().into_iter().flatten();
    let journal = journals.find(|journal| journal["reason"] == "usage").context("a journal")?;
    let journal = journal["journal_id"].as_str().context("a journal")?.to_owned();
    let names = [
        ("team", "acme"),
        ("alias", "acme-2"),
        ("user", "user"),
        ("app", "tool"),
        ("meter", "tokens"),
        ("rate_card", "special"),
        ("cost_card", "others"),
        ("provider", "provider"),
        ("invoice", "invoice"),
        ("model", "model"),
        ("source", "source"),
        ("event_id", "event-1"),
        ("feature", "feature"),
        ("new_app", "new-app"),
        ("new_team", "new-team"),
        ("new_alias", "bolt-3"),
        ("new_meter", "calls"),
        ("newer_meter", "tokens"),
        ("new_card", "standard"),
        ("newer_card", "providers"),
    ];
    let mut found: Names = names.into_iter().map(|(kind, name)| (kind, named(name))).collect();
    found.insert("event_type", format!("{mark}.call"));
    found.insert("wallet", text(&bought["wallet"])?);
    found.insert("grant", text(&bought["grant"])?);
    found.insert("hold", text(&hold["id"])?);
    found.insert("key", key_id);
    found.insert("secret", secret["secret_id"].as_str().context("a secret")?.to_owned());
    found.insert("receipt", receipt);
    found.insert("rejected", rejected);
    found.insert("transfer", format!("{journal}:0"));
    found.insert("journal", journal);
    found.insert("correction", corrections(world, mark, key).await?);
    found.insert("backfill", format!("{mark}-history"));
    for draft in ["-spring", "-autumn"] {
        let body = json!({"catalog": catalog(mark), "note": named("note")});
        ask(Method::PUT, &format!("/v1/catalog/drafts/{mark}{draft}"), body).await?;
    }
    found.insert("draft", format!("{mark}-spring"));
    let rate = |day: &str| {
        json!({"from_currency": "USD", "to_currency": "EUR", "effective_on": day,
        "rate": "0.9", "source": named("source")})
    };
    let rates = json!({"rates": [rate("2026-01-01"), rate("2026-01-02")]});
    ask(Method::PUT, "/v1/exchange-rates", rates).await?;
    Ok(found)
}

/// Two corrections that have ended, with differences and blocks; the first of them.
async fn corrections(world: &World, mark: &str, key: &str) -> Result<String> {
    let tenant = if key == world.key { TENANT } else { OTHER };
    let all = [Uuid::now_v7(), Uuid::now_v7()];
    for month in
        ["'epoch', '1970-02-01T00:00:00Z'", "'1970-02-01T00:00:00Z', '1970-03-01T00:00:00Z'"]
    {
        let sql = format!(
            "INSERT INTO meter_periods (tenant_id, meter, period_from, period_to, state) VALUES ($1, $2 || '-tokens', {month}, 'closed')"
        );
        sqlx::query(AssertSqlSafe(sql)).bind(tenant).bind(mark).execute(&world.admin).await?;
    }
    // Of places that tell the tenants apart.
    for position in [7, 8] {
        let sql =
            "INSERT INTO twins (tenant_id, partition, position, index, first_position, first_index)
            VALUES ($1, 0, 1000 * length($2) + $3, 0, 1, 0)";
        sqlx::query(sql).bind(tenant).bind(mark).bind(position).execute(&world.admin).await?;
    }
    for name in ["-history", "-more"] {
        let sql = "INSERT INTO backfills (tenant_id, backfill, reason, created_by) VALUES ($1, $2 || $3, $2 || '-reason', $2 || '-key')";
        sqlx::query(sql).bind(tenant).bind(mark).bind(name).execute(&world.admin).await?;
    }
    for id in all {
        for sql in [
            "INSERT INTO corrections (tenant_id, correction_id, kind, filter, reason, catalog_version, state, archived_to, created_by)
             VALUES ($1, $2, 'rate', jsonb_build_object('team', $3 || '-acme'), $3 || '-reason', 1, 'posted', '{}', $3 || '-key')",
            "INSERT INTO correction_deltas (tenant_id, correction_id, posted, team, meter, currency, cost_currency, quantity, charge, cost)
             SELECT $1, $2, posted, $3 || '-acme', $3 || meter, 'USD', '', 0, 1, 0
             FROM unnest(ARRAY[false, true]) AS posted, unnest(ARRAY['-calls', '-tokens']) AS meter",
            "INSERT INTO correction_blocks (tenant_id, correction_id, partition, position, commands)
             SELECT $1, $2, 0, position, length($3) FROM unnest(ARRAY[7, 8]) AS position",
        ] {
            sqlx::query(sql)
                .bind(tenant)
                .bind(id)
                .bind(mark)
                .execute(&world.admin)
                .await
                .context(sql)?;
        }
    }
    Ok(all[0].to_string())
}

/// Reports usage in two rounds, so that there are two journals; a receipt of an event that is rated
/// and of one that is not.
async fn report(world: &World, mark: &str, key: &str) -> Result<(String, String)> {
    let mut receipts = Vec::new();
    let teams = ["acme", "acme", "acme", "bolt", "bolt"];
    for round in 0..2 {
        let mut events = Vec::new();
        for (number, team) in teams.into_iter().enumerate() {
            let tokens = if number == 1 { json!("many") } else { json!(7) };
            let user = if team == "acme" { "user" } else { "other" };
            events.push(json!({"id": format!("{mark}-event-{}", round * teams.len() + number),
                "source": format!("{mark}-source"), "type": format!("{mark}.call"),
                "subject": format!("{mark}-{team}"), "feature": format!("{mark}-feature"),
                "user": format!("{mark}-{user}"),
                "data": {"tokens": tokens, "model": format!("{mark}-model")}}));
        }
        // No meter counts it.
        events.push(json!({"id": format!("{mark}-unmetered-{round}"), "source": format!("{mark}-source"),
            "type": format!("{mark}.other-{round}"), "subject": format!("{mark}-bolt"), "data": {}}));
        let count = events.len();
        let sent = sent(world, mark, key, json!(events)).await?;
        let receipt = |at: usize| sent["results"][at]["receipt"].as_str().map(str::to_owned);
        receipts.push((receipt(0).context("a receipt")?, receipt(1).context("a receipt")?));
        settled(world, key, (round + 1) * count).await?;
    }
    receipts.into_iter().next().context("a round")
}

/// Waits until a grant has paid the usage of both rounds.
async fn paid(world: &World, key: &str, grant: &str) -> Result<()> {
    let path = format!("/v1/grants/{grant}/allocations");
    for _ in 0..2_000 {
        let body = world.send(Method::GET, &path, key, &[], None).await?.expect(200)?;
        // Of two meters each.
        if body["items"].as_array().is_some_and(|items| items.len() >= 4) {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    }
    anyhow::bail!("the usage was not paid")
}

/// Sends events once ingest has heard of the app.
async fn sent(world: &World, mark: &str, key: &str, events: Value) -> Result<Value> {
    let path = format!("/v1/apps/{mark}-tool/events");
    for _ in 0..2_000 {
        let answer = world.send(Method::POST, &path, key, &[], Some(events.clone())).await?;
        // An app that is not loaded yet is answered like one of somebody else.
        let early = ["app_not_yours", "credential_not_loaded"].map(Value::from);
        if !early.contains(&answer.body["code"]) {
            return answer.expect(200);
        }
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    }
    anyhow::bail!("ingest does not know the app")
}

async fn settled(world: &World, key: &str, accepted: usize) -> Result<()> {
    for _ in 0..2_000 {
        let body = world.send(Method::GET, "/v1/conservation", key, &[], None).await?.body;
        let all = body["total"]["counts"]["accepted"] == accepted && body["total"]["pending"] == 0;
        let partitions = body["partitions"].as_array().cloned().unwrap_or_default();
        if all && partitions.iter().all(|one| one["archived_position"] == one["posted_position"]) {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    }
    anyhow::bail!("the books did not settle")
}

/// All that the first tenant has, as it sees it itself.
pub async fn snapshot(world: &World, objects: &Objects) -> Result<Vec<(String, Value)>> {
    let (app, team) = (objects.of("app", Named::Theirs), objects.of("team", Named::Theirs));
    let (wallet, hold) = (objects.of("wallet", Named::Theirs), objects.of("hold", Named::Theirs));
    let mut found = Vec::new();
    for path in [
        "/v1/api-keys".to_owned(),
        "/v1/apps".to_owned(),
        format!("/v1/apps/{app}/secrets"),
        "/v1/limits".to_owned(),
        "/v1/audit".to_owned(),
        "/v1/catalog".to_owned(),
        "/v1/providers/pricing".to_owned(),
        "/v1/teams".to_owned(),
        format!("/v1/teams/{team}/aliases"),
        format!("/v1/teams/{team}/transfers"),
        format!("/v1/wallets/{wallet}/entries"),
        format!("/v1/wallets/{wallet}/grants"),
        format!("/v1/holds/{hold}"),
        "/v1/events".to_owned(),
        "/v1/rejected-events".to_owned(),
        "/v1/usage".to_owned(),
        "/v1/conservation".to_owned(),
    ] {
        let mut body = world.get(&format!("{path}{}", limit(&path))).await?.expect(200)?;
        if path == "/v1/conservation" {
            body = body["total"]["counts"].clone();
        }
        found.push((path, body));
    }
    let of_other: i64 = sqlx::query_scalar("SELECT count(*) FROM teams WHERE tenant_id = $1")
        .bind(OTHER)
        .fetch_one(&world.admin)
        .await?;
    anyhow::ensure!(of_other > 0, "the other tenant has teams of its own");
    Ok(found)
}

fn limit(path: &str) -> &'static str {
    let whole =
        ["/v1/catalog", "/v1/conservation"].contains(&path) || path.starts_with("/v1/holds/");
    if whole { "" } else { "?limit=1000" }
}
