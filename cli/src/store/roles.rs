//! The roles of Weir's processes.

use anyhow::{Result, ensure};
use sqlx::{Executor as _, PgConnection};

/// `deploy/postgres/roles.sql`.
pub const SCRIPT: &str = include_str!("../../../deploy/postgres/roles.sql");

/// Makes the roles where we may, and checks that we can work as each of them.
pub async fn ensure_roles(connection: &mut PgConnection) -> Result<()> {
    let (superuser, creator): (bool, bool) =
        sqlx::query_as("SELECT rolsuper, rolcreaterole FROM pg_roles WHERE rolname = current_user")
            .fetch_one(&mut *connection)
            .await?;
    if superuser || creator {
        connection.execute(SCRIPT).await?;
    }
    if creator && !superuser {
        connection
            .execute("GRANT weir_api, weir_writer, weir_archiver, weir_reader, weir_lane, weir_migrate TO CURRENT_USER")
            .await?;
    }
    let missing: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM unnest(ARRAY['weir_api', 'weir_writer', 'weir_archiver', 'weir_reader', 'weir_lane', 'weir_migrate']) AS name
         WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name AND pg_has_role(current_user, oid, 'MEMBER'))",
    )
    .fetch_all(connection)
    .await?;
    ensure!(
        missing.is_empty(),
        "this login of Postgres cannot work as {}; run deploy/postgres/roles.sql as a superuser and \
         GRANT these roles to the login",
        missing.join(", ")
    );
    Ok(())
}
