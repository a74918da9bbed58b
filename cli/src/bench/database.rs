//! A fresh database beside that of a `weir up`, for a stage that works alone.

use anyhow::Result;
use runtime::{
    config::{PostgresConfig, Secret},
    task::now_us,
};
use sqlx::Connection as _;

use super::{blocks::TENANT, system::with_database};
use crate::{config::Config, process, store};

/// The audit chain of a bench has no secret.
const AUDIT_KEY: &str = "1111111111111111111111111111111111111111111111111111111111111111";

/// Makes it on the server behind `url`, with the bench's tenant; answers a configuration that names it.
pub async fn make(url: &str, partitions: u32) -> Result<Config> {
    let name = format!("weir_bench_{}_{}", std::process::id(), now_us());
    let mut connection = process::sign_in(&Secret::new(url.to_owned())).await?;
    store::books::create_database(&mut connection, &name).await?;
    connection.close().await?;
    let mut config = Config::read(None)?;
    let url = Secret::new(with_database(url, &name)?);
    config.postgres = PostgresConfig { url, ..config.postgres };
    config.log.partitions = partitions;
    config.ledger_writer.audit_key = Secret::new(AUDIT_KEY.to_owned());
    process::prepare_postgres(&config, "bench", partitions).await?;
    let mut connection = process::sign_in(&config.postgres.url).await?;
    store::books::insert_tenant(&mut connection, TENANT).await?;
    connection.close().await?;
    Ok(config)
}
