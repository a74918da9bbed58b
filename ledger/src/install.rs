//! The rows that are written once: the installation and its partitions.

use domain::chain::Place;
use runtime::postgres::PostgresError;
use sqlx::PgConnection;

use crate::convert::{integer, partition};

/// Length of the key of event identities.
pub const IDENTITY_KEY_LENGTH: usize = 16;

/// The installation, as it was written when the database was set up.
#[derive(Clone, PartialEq, Eq)]
pub struct Installation {
    /// Key of event identities. Never changes; losing it loses all knowledge of duplicates.
    pub identity_key: [u8; IDENTITY_KEY_LENGTH],
    /// Which audit key seals the books ([`crate::seal::AuditKey::id`]).
    pub audit_key_id: String,
    /// Partitions of every topic.
    pub partitions: u32,
    /// Which log belongs to this database.
    pub log_name: String,
    /// The newest catalog version of any tenant.
    pub catalog_version: u64,
}

impl std::fmt::Debug for Installation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "Installation({} partitions of {}, audit key {})",
            self.partitions, self.log_name, self.audit_key_id
        )
    }
}

/// Why a database cannot be used with this configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstallError {
    /// Postgres failed.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// There is no installation yet.
    #[error("the database is not set up; run `weir migrate`")]
    Missing,
    /// The number of partitions is fixed.
    #[error(
        "this database was set up for {installed} partitions and the configuration says {wanted}; \
         the number is fixed at creation, set log.partitions back"
    )]
    Partitions {
        /// What the database has.
        installed: u32,
        /// What was asked for.
        wanted: u32,
    },
    /// A database belongs to one log.
    #[error(
        "this database belongs to the log {installed:?}, not to {wanted:?}; \
         use that log, or another database"
    )]
    Log {
        /// What the database has.
        installed: String,
        /// What was asked for.
        wanted: String,
    },
    /// The books are sealed with one key.
    #[error(
        "the books of this database are sealed with the audit key {installed}, not with {wanted}; \
         set ledger_writer.audit_key to the key they were begun with"
    )]
    AuditKey {
        /// What the database has.
        installed: String,
        /// What was asked for.
        wanted: String,
    },
}

/// Writes the installation and its partitions where they are missing, and refuses a database that
/// was set up otherwise. Safe to run again and in several processes at once, by the role that
/// migrates.
pub async fn install(
    connection: &mut PgConnection,
    partitions: u32,
    log_name: &str,
    audit_key_id: &str,
) -> Result<Installation, InstallError> {
    insert_installation(connection, partitions, log_name, audit_key_id).await?;
    let installation = read(connection).await?;
    installation.check(partitions, log_name)?;
    installation.check_audit_key(audit_key_id)?;
    insert_partitions(connection, partitions).await?;
    Ok(installation)
}

impl Installation {
    /// Refuses another number of partitions or another log.
    pub fn check(&self, partitions: u32, log_name: &str) -> Result<(), InstallError> {
        if self.partitions != partitions {
            return Err(InstallError::Partitions {
                installed: self.partitions,
                wanted: partitions,
            });
        }
        if self.log_name != log_name {
            let (installed, wanted) = (self.log_name.clone(), log_name.to_owned());
            return Err(InstallError::Log { installed, wanted });
        }
        Ok(())
    }

    /// Refuses another audit key.
    pub fn check_audit_key(&self, audit_key_id: &str) -> Result<(), InstallError> {
        if self.audit_key_id == audit_key_id {
            return Ok(());
        }
        let (installed, wanted) = (self.audit_key_id.clone(), audit_key_id.to_owned());
        Err(InstallError::AuditKey { installed, wanted })
    }
}

/// The installation; [`InstallError::Missing`] before [`install`] or before the tables exist.
pub async fn read(connection: &mut PgConnection) -> Result<Installation, InstallError> {
    let row: Option<(Vec<u8>, String, i32, String, i64)> = sqlx::query_as(
        "SELECT identity_key, audit_key_id, partitions, log_name, catalog_version FROM installation",
    )
    .fetch_optional(connection)
    .await
    .map_err(|error| missing_table(error.into()))?;
    let (key, audit_key_id, partitions, log_name, catalog_version) =
        row.ok_or(InstallError::Missing)?;
    let identity_key = key
        .try_into()
        .map_err(|_| PostgresError::Broken("the identity key is not 16 bytes long".to_owned()))?;
    Ok(Installation {
        identity_key,
        audit_key_id,
        partitions: partition(partitions)?,
        log_name,
        catalog_version: crate::convert::uncount(catalog_version),
    })
}

fn missing_table(error: PostgresError) -> InstallError {
    match error {
        PostgresError::Refused { code, .. } if code == "42P01" => InstallError::Missing,
        error => error.into(),
    }
}

async fn insert_installation(
    connection: &mut PgConnection,
    partitions: u32,
    log_name: &str,
    audit_key_id: &str,
) -> Result<(), PostgresError> {
    let mut identity_key = [0_u8; IDENTITY_KEY_LENGTH];
    getrandom::fill(&mut identity_key)
        .map_err(|error| PostgresError::Broken(format!("no random bytes: {error}")))?;
    sqlx::query(
        "INSERT INTO installation (identity_key, audit_key_id, partitions, log_name)
         VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
    )
    .bind(identity_key.as_slice())
    .bind(audit_key_id)
    .bind(integer(partitions))
    .bind(log_name)
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_partitions(
    connection: &mut PgConnection,
    partitions: u32,
) -> Result<(), PostgresError> {
    let empty = Place::EMPTY;
    sqlx::query(
        "INSERT INTO partitions (partition, x, r, c)
         SELECT number, $2, $3, $4 FROM generate_series(0, $1 - 1) AS number ON CONFLICT DO NOTHING",
    )
    .bind(integer(partitions))
    .bind(empty.x)
    .bind(empty.r)
    .bind(empty.c.as_slice())
    .execute(connection)
    .await?;
    Ok(())
}
