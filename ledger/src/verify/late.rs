//! Late events: the slow lane stands on the accepted chain, and has answered exactly the late events
//! that it has passed (INV-15).
//!
//! The lane reads `[rated]` by itself and may be ahead of the ledger, so what it has answered lies
//! between bounds: every late event of the windows behind it, and no more than those of the
//! windows that it has begun. Its place and its answers are stored together, and read in one snapshot.

use domain::chain::Place;
use runtime::postgres::PostgresError;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Check, VerifyError};
use crate::convert::{partition as read_partition, place, uncount};

/// Looks at the lanes' places and at what they have answered.
pub async fn check(connection: &mut PgConnection) -> Result<Check, VerifyError> {
    let mut check = Check::new("late events");
    for statement in [PLACES, ANSWERS, NUMBERS] {
        let (rows, bad, first_bad): (i64, i64, Option<String>) =
            sqlx::query_as(statement).fetch_one(&mut *connection).await?;
        check.rows = check.rows.saturating_add(rows.unsigned_abs());
        check.blame_all(bad.unsigned_abs(), || first_bad.unwrap_or_default());
    }
    Ok(check)
}

/// A lane's place ends a window, or lies within one, or after all of them.
const PLACES: &str =
    "WITH lanes AS (
         SELECT l.*, p.x AS posted_x, p.r AS posted_r, w.position_to, w.r AS window_r, w.c AS window_c,
             coalesce((SELECT a.r FROM audit a WHERE a.partition = l.partition AND a.position_to < l.x
                 ORDER BY a.position_to DESC LIMIT 1), -1) AS before_r
         FROM late_places l LEFT JOIN partitions p USING (partition)
         LEFT JOIN LATERAL (SELECT a.position_to, a.r, a.c FROM audit a WHERE a.partition = l.partition AND a.position_to >= l.x
             ORDER BY a.position_to LIMIT 1) w ON l.x >= 0),
     bad AS (
         SELECT partition, x, CASE
             WHEN posted_x IS NULL THEN 'there is no such partition'
             WHEN x < 0 AND (x, r, c) IS DISTINCT FROM (-1::bigint, -1::bigint, 'weir: no rated batch before this'::bytea)
                 THEN 'it is not where a lane begins'
             WHEN x = position_to AND (r, c) IS DISTINCT FROM (window_r, window_c) THEN 'it is not the end of the window there'
             WHEN x < position_to AND (r <= before_r OR r >= window_r) THEN 'it is not on the accepted chain'
             WHEN x > posted_x AND r <= posted_r THEN 'it is not on the accepted chain' END AS what
         FROM lanes)
     SELECT (SELECT count(*) FROM late_places), count(*),
         (array_agg(format('the place of the lane of partition %s, position %s: %s', partition, x, what) ORDER BY partition))[1]
     FROM bad WHERE what IS NOT NULL";

/// Per partition and tenant: answered are the late events of all windows that the lane has passed, and
/// none of those that it has not begun.
const ANSWERS: &str =
    "WITH sealed AS (
         SELECT a.partition, split_part(one, '=', 1)::uuid AS tenant_id, a.position_from, a.position_to,
             split_part(split_part(one, '=', 2), ',', 9)::numeric AS forwarded
         FROM audit a, regexp_split_to_table(a.counts, ';') AS one WHERE one ~ '^[0-9a-f-]{36}=([0-9]+,){9}[0-9]+$'),
     lanes AS (
         SELECT p.partition, p.x AS posted, coalesce(l.x, -1) AS x, coalesce(l.x, -1) + least(coalesce(l.answered, 0), 1) AS begun
         FROM partitions p LEFT JOIN late_places l USING (partition)),
     bounds AS (
         SELECT s.partition, s.tenant_id, coalesce(sum(s.forwarded) FILTER (WHERE s.position_to <= l.x), 0) AS lowest,
             coalesce(sum(s.forwarded) FILTER (WHERE s.position_from <= l.begun), 0) AS highest
         FROM sealed s JOIN lanes l USING (partition) GROUP BY s.partition, s.tenant_id),
     bad AS (
         SELECT partition, tenant_id, CASE
             WHEN l.partition IS NULL THEN 'there is no such partition'
             WHEN coalesce(a.answered, 0) < coalesce(b.lowest, 0)
                 THEN format('the lane has passed %s and answered %s', b.lowest, coalesce(a.answered, 0))
             WHEN l.begun <= l.posted AND coalesce(a.answered, 0) > coalesce(b.highest, 0)
                 THEN format('the lane has answered %s of %s', a.answered, coalesce(b.highest, 0)) END AS what
         FROM bounds b FULL JOIN late_answers a USING (partition, tenant_id) LEFT JOIN lanes l USING (partition))
     SELECT (SELECT count(*) FROM late_answers), count(*),
         (array_agg(format('late events of partition %s, tenant %s: %s', partition, tenant_id, what) ORDER BY partition, tenant_id))[1]
     FROM bad WHERE what IS NOT NULL";

/// Per partition: a lane that is some late events into a batch has answered so many more than those of
/// the batches before, or it would leave out what it has not answered.
const NUMBERS: &str =
    "WITH sealed AS (
         SELECT a.partition, a.position_from, a.position_to, sum(split_part(split_part(one, '=', 2), ',', 9)::numeric) AS forwarded
         FROM audit a, regexp_split_to_table(a.counts, ';') AS one WHERE one ~ '^[0-9a-f-]{36}=([0-9]+,){9}[0-9]+$'
         GROUP BY a.partition, a.position_from, a.position_to),
     bounds AS (
         SELECT l.partition, l.x, p.x AS posted, l.answered AS number,
             coalesce((SELECT sum(a.answered) FROM late_answers a WHERE a.partition = l.partition), 0) - l.answered AS before,
             coalesce(sum(s.forwarded) FILTER (WHERE s.position_to <= l.x), 0) AS lowest,
             coalesce(sum(s.forwarded) FILTER (WHERE s.position_from <= l.x), 0) AS highest
         FROM late_places l JOIN partitions p USING (partition) LEFT JOIN sealed s USING (partition)
         GROUP BY l.partition, l.x, p.x, l.answered)
     SELECT count(*), count(*) FILTER (WHERE before < lowest OR (x <= posted AND before > highest)),
         (array_agg(format('the lane of partition %s, position %s: it is %s late events into a batch, and has answered %s before it',
             partition, x, number, before) ORDER BY partition) FILTER (WHERE before < lowest OR (x <= posted AND before > highest)))[1]
     FROM bounds";

/// A lane that does not stand at the end of a window: only the log knows whether its place is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    /// The partition.
    pub partition: u32,
    /// Where it stands.
    pub place: Place,
    /// The end of the last window before that.
    pub before: Place,
}

/// The lanes that do not stand at the end of a window.
pub async fn lanes(connection: &mut PgConnection) -> Result<Vec<Lane>, PostgresError> {
    type Row = (i32, i64, i64, Vec<u8>, Option<i64>, Option<i64>, Option<Vec<u8>>);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT l.partition, l.x, l.r, l.c, w.position_to, w.r, w.c
         FROM late_places l JOIN partitions p USING (partition)
         LEFT JOIN LATERAL (SELECT a.position_to, a.r, a.c FROM audit a WHERE a.partition = l.partition AND a.position_to <= l.x
             ORDER BY a.position_to DESC LIMIT 1) w ON true
         WHERE l.x >= 0 AND w.position_to IS DISTINCT FROM l.x ORDER BY l.partition",
    )
    .fetch_all(connection)
    .await?;
    let lane = |(partition, x, r, c, before_x, before_r, before_c): Row| {
        let before = match (before_x, before_r, before_c) {
            (Some(x), Some(r), Some(c)) => place(x, r, &c)?,
            _ => Place::EMPTY,
        };
        Ok(Lane { partition: read_partition(partition)?, place: place(x, r, &c)?, before })
    };
    rows.into_iter().map(lane).collect()
}

/// Answers of a tenant in a partition that are not among the posted copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unposted {
    /// The partition.
    pub partition: u32,
    /// `X` of the ledger.
    pub posted: i64,
    /// The tenant.
    pub tenant: Uuid,
    /// So many copies must lie in the log after `X`.
    pub copies: u64,
}

/// An answer is stored only after its copy is in the log: those that are not posted must be there.
pub async fn unposted(connection: &mut PgConnection) -> Result<Vec<Unposted>, PostgresError> {
    let rows: Vec<(i32, i64, Uuid, i64)> = sqlx::query_as(
        "SELECT a.partition, p.x, a.tenant_id, a.answered - coalesce(n.copies, 0)
         FROM late_answers a JOIN partitions p USING (partition) LEFT JOIN partition_counts n USING (tenant_id, partition)
         WHERE a.answered > coalesce(n.copies, 0) ORDER BY a.partition, a.tenant_id",
    )
    .fetch_all(connection)
    .await?;
    let one = |(partition, posted, tenant, copies)| {
        Ok(Unposted {
            partition: read_partition(partition)?,
            posted,
            tenant,
            copies: uncount(copies),
        })
    };
    rows.into_iter().map(one).collect()
}
