//! The tenants of a run: the one that `weir up` has, and as many more as are asked for, each with a
//! key and the bench's catalog.

use std::time::Duration;

use anyhow::{Result, ensure};
use reqwest::{Method, StatusCode};
use runtime::{
    config::Secret,
    keys::{self, NewKey},
};
use sqlx::PgConnection;
use tokio::time::{Instant, sleep};

use super::system::{System, catalog};
use crate::{
    client::Client,
    process,
    store::{
        keys::{Grant, insert},
        tenants,
    },
};

/// How long it may take until ingest knows new keys.
const KNOWN_TIME_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);

/// Makes what is missing of `count` tenants; a client for each.
pub async fn make(system: &System, count: u32) -> Result<Vec<Client>> {
    let mut clients = vec![system.client()?];
    let mut connection = process::sign_in(&Secret::new(system.endpoints.postgres.clone())).await?;
    for number in 1..count {
        let key = make_one(&mut connection, &format!("bench-{number}")).await?;
        clients.push(system.client()?.with_key(key.text));
    }
    for client in &clients {
        publish(client).await?;
    }
    if let Some(last) = clients.last() {
        is_known(last).await?;
    }
    Ok(clients)
}

async fn make_one(connection: &mut PgConnection, name: &str) -> Result<NewKey> {
    ensure!(tenants::create(connection, name, name, None).await?, "there is a tenant {name}");
    let (tenant, key) = (tenants::find(connection, name).await?, keys::generate()?);
    let scopes = ["*".to_owned()];
    let grant = Grant { tenant, name, app: None, scopes: &scopes, expires_at: None };
    insert(connection, &key, &grant).await?;
    Ok(key)
}

async fn publish(client: &Client) -> Result<()> {
    let body = catalog().to_string().into_bytes();
    let headers = [("Idempotency-Key", "weir-bench")];
    let answer = client.send_patiently(Method::PUT, "/v1/catalog", body, &headers).await?;
    answer.success("publishing the bench's catalog").map(drop)
}

/// Waits until ingest knows a key, and so all that were made before it.
async fn is_known(client: &Client) -> Result<()> {
    let deadline = Instant::now() + KNOWN_TIME_MAX;
    loop {
        let json = "application/json";
        let answer = client.send(Method::POST, "/v1/events", json, b"[]".to_vec(), &[]).await?;
        if answer.status != StatusCode::UNAUTHORIZED {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "ingest does not know the keys of the tenants");
        sleep(POLL).await;
    }
}
