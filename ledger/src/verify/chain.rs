//! The audit chains of every partition, from their first rows on: that over windows of usage, and that
//! over all other journals.

use runtime::postgres::PostgresError;
use sqlx::PgConnection;

use super::{Check, VerifyError};
use crate::{
    journal_seal,
    post::places,
    seal::{AuditKey, SealError, verify_chain},
};

/// Recomputes the chains of all partitions. A partition whose chain is broken is one bad row.
pub async fn chains(connection: &mut PgConnection, key: &AuditKey) -> Result<Check, VerifyError> {
    let mut check = Check::new("audit chain");
    let partitions = match places(connection).await {
        Ok(places) => places,
        Err(PostgresError::Broken(what)) => {
            check.blame(|| format!("partitions: {what}"));
            return Ok(check);
        }
        Err(error) => return Err(error.into()),
    };
    for (partition, _, _) in partitions {
        let windows = verify_chain(connection, key, partition).await.map(|verified| verified.rows);
        judge(&mut check, partition, windows)?;
        let journals = journal_seal::verify(connection, key, partition).await;
        judge(&mut check, partition, journals)?;
    }
    Ok(check)
}

fn judge(
    check: &mut Check,
    partition: u32,
    verified: Result<u64, SealError>,
) -> Result<(), VerifyError> {
    match verified {
        Ok(rows) => check.rows = check.rows.saturating_add(rows),
        // A hash of another length, or a number that is none.
        Err(SealError::Postgres(PostgresError::Broken(what))) => {
            check.blame(|| format!("the audit chain of partition {partition}: {what}"));
        }
        Err(SealError::Postgres(error)) => return Err(error.into()),
        Err(broken @ SealError::Broken { .. }) => check.blame(|| broken.to_string()),
    }
    Ok(())
}
