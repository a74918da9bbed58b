//! What is owed, as the books have it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::{
    oracle::parse,
    system::{System, amount},
};

/// How long the books may take.
const WAIT: Duration = Duration::from_secs(150);
/// Between looks at them.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Waits until ledger and archive say that this is owed for the meter.
pub async fn comes_to(system: &System, meter: &str, wanted: &str) -> Result<()> {
    let (wanted, deadline) = (parse(wanted)?, Instant::now() + WAIT);
    loop {
        let found = owed(system, meter).await?;
        if found == (wanted, wanted) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{meter} comes to {found:?}, not to {wanted}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What is owed for a meter, raw: in the ledger's transfers, and in the archive.
#[allow(clippy::indexing_slicing, reason = "a sum has a row")]
pub async fn owed(system: &System, meter: &str) -> Result<(i128, i128)> {
    let ledger: String = sqlx::query_scalar(
        "SELECT coalesce(sum(CASE WHEN d.kind = 'receivable' THEN t.amount ELSE -t.amount END), 0)::text
         FROM transfers t JOIN accounts d ON (d.tenant_id, d.account_id) = (t.tenant_id, t.debit_account)
         WHERE t.reason = 'usage' AND t.meter = $1",
    )
    .bind(meter)
    .fetch_one(&mut system.postgres().await?)
    .await?;
    let sql = format!(
        "SELECT toString(ifNull(sum(charge * sign), 0)) AS charge FROM usage_lines WHERE meter = '{meter}'"
    );
    let rows = system.clickhouse().query_json_rows(&sql, &[]).await?;
    Ok((parse(&ledger)?, amount(&rows[0]["charge"])?))
}
