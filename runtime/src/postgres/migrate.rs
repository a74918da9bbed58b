//! Forward-only migrations.

use sqlx::{
    Connection, PgConnection,
    migrate::{MigrateError, Migrator},
};

use super::{PostgresError, connect_options};
use crate::config::Secret;

/// Brings the database at `url` up to date with `migrator` (`sqlx::migrate!` or
/// `Migrator::new(folder)`). Each migration is one transaction; an advisory lock lets one process
/// at a time do it and the others wait. Applied migrations that differ from ours are an error.
pub async fn migrate(url: &Secret, migrator: &Migrator) -> Result<(), PostgresError> {
    let options = connect_options(url.expose())?.application_name("migrate");
    let mut connection = PgConnection::connect_with(&options).await?;
    let outcome = migrator.run(&mut connection).await;
    let _ = connection.close().await;
    outcome.map_err(|error| match error {
        MigrateError::Execute(error) => error.into(),
        MigrateError::ExecuteMigration(error, version) => match PostgresError::from(error) {
            PostgresError::Unavailable(reason) => PostgresError::Unavailable(reason),
            error => PostgresError::Broken(format!("migration {version}: {error}")),
        },
        error => PostgresError::Broken(error.to_string()),
    })
}
