//! The tenants of a load: each with a key of its own, and the catalog whose prices the oracle knows.

use std::time::{Duration, Instant};

use anyhow::Result;
use benches::{
    account::{CURRENCY, INPUT_METER, MODELS, Model, OUTPUT_METER, Price},
    generator::{EVENT_TYPE, team_name},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::expected::charges;
use crate::{process::Http, system::System, wait::eventually};

/// Catalogs that are published at once.
const PUBLISH_AT_ONCE: usize = 8;
/// Tenants whose teams are given credits.
const FUNDED_TENANTS: usize = 16;
/// Teams, and what they are given.
const FUNDED: [(u32, &str); 4] = [(0, "1000000"), (1, "0.05"), (2, "0.000000000001"), (3, "1")];
/// How long publishing may take on a machine that is busy starting everything.
const PUBLISH_TIME_MAX: Duration = Duration::from_secs(120);

/// A tenant.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// Its id.
    pub id: Uuid,
    /// Its key, as doors and commands name it.
    pub name: String,
    /// An API key with all scopes.
    pub key: String,
}

/// Makes so many tenants behind the api's back, and publishes the catalog of each.
pub async fn make(system: &System, count: usize) -> Result<Vec<Tenant>> {
    let mut connection = system.postgres().await?;
    let mut tenants = Vec::new();
    for number in 0..count {
        let key = runtime::keys::generate()?;
        let tenant = Tenant { id: Uuid::now_v7(), name: format!("tenant-{number}"), key: key.text };
        sqlx::query("INSERT INTO tenants (tenant_id, key) VALUES ($1, $2)")
            .bind(tenant.id)
            .bind(&tenant.name)
            .execute(&mut connection)
            .await?;
        sqlx::query(
            "INSERT INTO api_keys (tenant_id, key_id, secret_hash, name, scopes) VALUES ($1, $2, $3, 'load', '{*}')",
        )
        .bind(tenant.id)
        .bind(&key.id)
        .bind(key.secret_hash.as_slice())
        .execute(&mut connection)
        .await?;
        tenants.push(tenant);
    }
    publish_prices(system, &tenants, 1).await?;
    fund(system, &tenants).await?;
    Ok(tenants)
}

/// Gives teams of the load credits: some so little that it runs out, one so much that it never does. Their usage is settled while everything else goes on.
async fn fund(system: &System, tenants: &[Tenant]) -> Result<()> {
    let base = system.api()?.base;
    for tenant in tenants.iter().take(FUNDED_TENANTS) {
        let api = Http::new(&base, &tenant.key)?;
        for (team, amount) in FUNDED {
            let team = team_name(team);
            let purchase = json!({"customer_id": &team, "amount": amount, "currency": CURRENCY, "reference": team});
            api.send("POST", "/v1/credits/purchase", &purchase).await?;
        }
    }
    Ok(())
}

/// Publishes the catalog of each tenant, with so many versions of its prices.
pub async fn publish_prices(system: &System, tenants: &[Tenant], versions: u32) -> Result<()> {
    let base = system.api()?.base;
    for some in tenants.chunks(PUBLISH_AT_ONCE) {
        let mut publishing = tokio::task::JoinSet::new();
        for tenant in some {
            let api = Http::new(&base, &tenant.key)?;
            publishing.spawn(publish(api, versions));
        }
        while let Some(published) = publishing.join_next().await {
            published??;
        }
    }
    Ok(())
}

/// Waits until every ingest has loaded the keys, which takes it a second: the last one is there with
/// all others.
pub async fn are_known(bases: &[String], tenants: &[Tenant]) -> Result<()> {
    let key = tenants.last().map(|tenant| tenant.key.as_str()).unwrap_or_default();
    for base in bases {
        let ingest = Http::new(base, key)?;
        eventually("ingest knows the keys", async || {
            Ok(ingest.exchange("POST", "/v1/events", b"[]".to_vec()).await?.0 != 401)
        })
        .await?;
    }
    Ok(())
}

/// Publishes the catalog, again where its markers were not in the log in time.
async fn publish(api: Http, versions: u32) -> Result<()> {
    let deadline = Instant::now() + PUBLISH_TIME_MAX;
    loop {
        match api.send("PUT", "/v1/catalog", &catalog(versions)).await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Two meters, a rate card in so many versions and a cost card, with every model of the load.
fn catalog(versions: u32) -> Value {
    let meter = |key: &str, path: &str| {
        json!({"key": key, "event_types": [EVENT_TYPE], "aggregation": "sum", "value": path, "unit": "token",
            "dimensions": {"provider": "$.provider", "model": "$.model"}})
    };
    let rates = |prices: &dyn Fn(&Model) -> [Price; 2]| {
        let of_model = |model: &Model| {
            [INPUT_METER, OUTPUT_METER].into_iter().zip(prices(model)).map(|(meter, price)| {
                json!({"meter": meter, "dimensions": {"provider": model.provider, "model": model.name},
                    "price": price.amount(), "per": price.per as u64})
            }).collect::<Vec<Value>>()
        };
        json!({"rates": MODELS.iter().flat_map(of_model).collect::<Vec<Value>>()})
    };
    let card = |key: &str, kind: &str, versions: Vec<Value>| json!({"key": key, "kind": kind, "currency": CURRENCY, "versions": versions});
    let charges = (1..=versions).map(|version| rates(&|model| charges(model, version)));
    json!({
        "meters": [meter(INPUT_METER, "$.inputTokens"), meter(OUTPUT_METER, "$.outputTokens")],
        "cards": [
            card("standard", "rate", charges.collect()),
            card("providers", "cost", vec![rates(&|model| model.cost)]),
        ],
        "default_rate_card": "standard",
        "default_cost_card": "providers",
    })
}
