//! What came in by the newest windows of the audit chain.

use std::collections::BTreeMap;

use domain::wire::rated::Counts;
use runtime::postgres::PostgresError;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{convert::integer, seal::counts_of};

/// A window of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// First position of `[usage]`.
    pub from: i64,
    /// Last position, inclusive.
    pub to: i64,
    /// Accepted events and copies by tenant; a tenant without any is missing.
    pub came_in: BTreeMap<Uuid, (u64, u64)>,
}

/// The newest windows from position `first` on, at most `limit`, in their order.
pub async fn newest(
    connection: &mut PgConnection,
    partition: u32,
    first: i64,
    limit: i64,
) -> Result<Vec<Window>, PostgresError> {
    let rows: Vec<(i64, i64, String)> = sqlx::query_as(
        "SELECT position_from, position_to, counts FROM audit WHERE partition = $1 AND position_from >= $2
         ORDER BY position_to DESC LIMIT $3",
    )
    .bind(integer(partition))
    .bind(first)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    let window = |(from, to, counts): (i64, i64, String)| {
        let came_in = |(tenant, counts): (Uuid, Counts)| (tenant, (counts.accepted, counts.copies));
        let mut came_in: BTreeMap<Uuid, (u64, u64)> =
            counts_of(&counts).unwrap_or_default().into_iter().map(came_in).collect();
        came_in.retain(|_, counts| *counts != (0, 0));
        Window { from, to, came_in }
    };
    Ok(rows.into_iter().rev().map(window).collect())
}
