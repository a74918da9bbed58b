//! The database of a private server: a login that owns it and is no superuser.

use anyhow::{Context as _, Result};
use runtime::{
    config::Secret,
    postgres::{connect_options, server::KeptServer},
};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

/// Name of the login and of its database.
pub const NAME: &str = "weir";

/// Makes the login and its database where they are missing, and gives their URL. The password is
/// of base 62 and so needs no quoting.
pub async fn set_up(server: &KeptServer, password: &str) -> Result<Secret> {
    let options = connect_options(server.superuser_url().expose())?;
    let mut connection = PgConnection::connect_with(&options)
        .await
        .context("cannot sign in to the private Postgres")?;
    connection.execute(super::roles::SCRIPT).await?;
    let login: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)")
        .bind(NAME)
        .fetch_one(&mut connection)
        .await?;
    let verb = if login { "ALTER" } else { "CREATE" };
    let statement = format!("{verb} ROLE {NAME} LOGIN NOSUPERUSER CREATEDB PASSWORD '{password}'");
    connection.execute(AssertSqlSafe(statement)).await?;
    connection
        .execute("GRANT weir_api, weir_writer, weir_archiver, weir_reader, weir_lane, weir_migrate TO weir")
        .await?;
    let database: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
            .bind(NAME)
            .fetch_one(&mut connection)
            .await?;
    if !database {
        connection.execute("CREATE DATABASE weir OWNER weir").await?;
    }
    connection.close().await?;
    Ok(server.url(NAME, password, NAME))
}
