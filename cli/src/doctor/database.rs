//! Postgres: reachable, new enough, with roles, grants, tables and the installation.

use anyhow::{Context as _, Result};
use ledger::install::{self, Installation};
use runtime::{
    config::PostgresConfig,
    postgres::{Pool, connect},
    task::now_us,
};
use sqlx::PgConnection;
use tokio::time::timeout;

use super::{ANSWER_TIME_MAX, Report, target::Target};
use crate::{
    process,
    store::{measures, schema},
};

/// The oldest version that the tests have seen.
const VERSION_MIN: i32 = 150_000;

/// A database that answers.
pub struct Database {
    /// As `weir_reader`.
    pub pool: Pool,
    /// What it was set up as.
    pub installation: Installation,
}

/// Checks it; `None` if nothing can be read from it.
pub async fn check(target: &Target, report: &mut Report) -> Option<Database> {
    let signed_in = timeout(ANSWER_TIME_MAX, process::sign_in(&target.config.postgres.url)).await;
    let mut connection = match signed_in.context("it does not answer").and_then(|opened| opened) {
        Ok(connection) => connection,
        Err(error) => {
            let action = "start it, or mend postgres.url (DATABASE_URL); events are accepted meanwhile, \
                          and posted when it is back";
            report.wrong("postgres", format!("{error:#}"), action);
            return None;
        }
    };
    version(&mut connection, report).await;
    let roles = roles(&mut connection, report).await;
    let tables = tables(&mut connection, report).await;
    if !(roles && tables) {
        return None;
    }
    grants(&mut connection, report).await;
    match open(target).await {
        Ok(database) => Some(database),
        Err(error) => {
            report.wrong("postgres.installation", format!("{error:#}"), "run `weir migrate`");
            None
        }
    }
}

async fn open(target: &Target) -> Result<Database> {
    let config = PostgresConfig { connections: 1, ..target.config.postgres.clone() };
    let pool = connect(&config, Some("weir_reader"), "weir-doctor").await?;
    let mut connection = pool.acquire().await?;
    let installation = install::read(&mut connection).await?;
    drop(connection);
    Ok(Database { pool, installation })
}

async fn version(connection: &mut PgConnection, report: &mut Report) {
    let before = now_us();
    match measures::postgres_version(connection).await {
        Ok((version, their_us)) => {
            let found = format!("it answers, version {}.{}", version / 10_000, version % 10_000);
            if version < VERSION_MIN {
                report.warning("postgres", found, "Weir is tested from version 15 on; upgrade it");
            } else {
                report.ok("postgres", found);
            }
            report.clock("postgres", their_us, (before, now_us()));
        }
        Err(error) => report.wrong("postgres", format!("{error:#}"), "look at its log"),
    }
}

async fn roles(connection: &mut PgConnection, report: &mut Report) -> bool {
    const CHECK: &str = "postgres.roles";
    let asked = async {
        let missing = measures::missing_roles(&mut *connection).await?;
        Ok::<_, anyhow::Error>((missing, measures::unbound_roles(&mut *connection).await?))
    };
    match asked.await {
        Ok((missing, _)) if !missing.is_empty() => {
            let found = format!("this login cannot work as {}", missing.join(", "));
            let action = "run deploy/postgres/roles.sql as a superuser and GRANT the roles to the login; \
                          a login with only its own process's role sees this for the others";
            report.wrong(CHECK, found, action);
            false
        }
        Ok((_, unbound)) if !unbound.is_empty() => {
            let found = format!("row-level security does not hold for {}", unbound.join(", "));
            report.wrong(CHECK, found, "ALTER ROLE … NOSUPERUSER NOBYPASSRLS");
            true
        }
        Ok(_) => {
            report.ok(CHECK, "all roles are there, and row-level security holds for them");
            true
        }
        Err(error) => {
            report.wrong(CHECK, format!("{error:#}"), "look at Postgres' log");
            false
        }
    }
}

async fn tables(connection: &mut PgConnection, report: &mut Report) -> bool {
    const CHECK: &str = "postgres.migrations";
    match schema::differences(connection).await {
        Ok(differences) if differences.is_empty() => {
            report.ok(CHECK, "all are applied");
            true
        }
        Ok(differences) => {
            let action = "run `weir migrate` with the same version of Weir as the processes";
            report.wrong(CHECK, differences.join(", "), action);
            false
        }
        Err(error) => {
            report.wrong(CHECK, format!("{error:#}"), "run `weir migrate`");
            false
        }
    }
}

async fn grants(connection: &mut PgConnection, report: &mut Report) {
    const CHECK: &str = "postgres.grants";
    match measures::wrong_grants(connection).await {
        Ok(wrong) if wrong.is_empty() => {
            report.ok(CHECK, "every role may do its work, and none may change the ledger's rows");
        }
        Ok(wrong) => {
            let action = "GRANT or REVOKE as in migrations/postgres, and find out who changed it";
            report.wrong(CHECK, wrong.join(", "), action);
        }
        Err(error) => report.wrong(CHECK, format!("{error:#}"), "look at Postgres' log"),
    }
}
