//! Running totals that prices depend on: a sample of them, counted again from the events of the archive.
//! Each event is rated again with the total that stands beside its lines; the totals of one name must
//! follow each other without a gap and end where Postgres says.

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use domain::{
    money::Amount,
    rating::{LineTotal, TotalName},
};
use ledger::verify::{Check, archive::Ends};
use runtime::clickhouse::ClickHouse;
use sqlx::PgConnection;

use super::{
    rerate::{Again, by_partition, place, rows_of},
    row::Row,
};
use crate::store::stored::{self, StoredTotal};

/// What it is called.
pub const NAME: &str = "totals of periods";
/// Events of one total that are rated again.
const EVENTS_MAX: u32 = 5_000;
/// Sampled events for each total.
const EVENTS_EACH: u32 = 50;

/// Counts some totals again, chosen by `seed`; `posted` is where the ledger stands.
pub async fn sample(
    snapshot: &mut PgConnection,
    clickhouse: &ClickHouse,
    posted: &Ends,
    (events, seed): (u32, u64),
) -> Result<Check> {
    let mut check = Check::new(NAME);
    let ends = by_partition(posted);
    let mut again = Again::open(snapshot).await?;
    let totals = stored::running_totals(snapshot, events.div_ceil(EVENTS_EACH), seed).await?;
    let mut long = 0_u32;
    for total in &totals {
        let bytes = stored::of_total(clickhouse, total, &ends, EVENTS_MAX + 1).await?;
        let rows = rows_of(&bytes)?;
        if rows.len() > usize::try_from(EVENTS_MAX)? {
            long += 1;
            continue;
        }
        check.rows += 1;
        again.read_catalogs(snapshot, &rows).await?;
        let moves = moves(&again, &rows)?;
        if let Some(fault) = fault(total, moves)? {
            check.blame(|| fault);
        }
    }
    check.left_out = (long > 0)
        .then(|| format!("{long} of {} totals have more than {EVENTS_MAX} events", totals.len()));
    Ok(check)
}

/// What a row did to a total.
struct Moved {
    place: String,
    total: LineTotal,
    /// Whether it takes back what another has done.
    is_back: bool,
    /// Whether it stands behind all that was counted before it: a correction stands where the event does
    /// that it corrects.
    is_next: bool,
}

/// What the rows moved, in the order of the log. What a correction takes back is what the row before it
/// of the same event has moved.
fn moves(again: &Again, rows: &[Row<'_>]) -> Result<Vec<Moved>> {
    let mut newest: HashMap<(u32, i64, u32), Vec<LineTotal>> = HashMap::new();
    let mut moves = Vec::new();
    for row in rows {
        let own = (row.u32("partition")?, row.i64("position")?, row.u32("index")?);
        let is_first = row.u32("rating_run")? == 0;
        let event = if is_first {
            own
        } else {
            (own.0, row.i64("origin_position")?, row.u32("origin_index")?)
        };
        let is_back = row.u8("sign")? != 1;
        let totals = if is_back {
            newest.remove(&event).unwrap_or_default()
        } else {
            let totals =
                again.totals(row).with_context(|| format!("the event {:?}", place(row)))?;
            newest.insert(event, totals.clone());
            totals
        };
        for total in totals {
            moves.push(Moved { place: place(row)?, total, is_back, is_next: is_first });
        }
    }
    Ok(moves)
}

/// What is wrong with a total, from all that its events moved, in the order of the log.
fn fault(total: &StoredTotal, moves: Vec<Moved>) -> Result<Option<String>> {
    let name = TotalName::stored(&total.meter, &total.scope, &total.period, total.start_us)
        .context("a period of no kind")?;
    let stored = Amount::parse_sum(&total.quantity)?.raw();
    let of = || format!("{} of team {} from {:?}", total.meter, total.team, total.start_us);
    let mut running = 0_i128;
    for moved in moves.into_iter().filter(|moved| moved.total.name == name) {
        let one = moved.total;
        if moved.is_next && one.before != running {
            return Ok(Some(format!(
                "{}: the event {} has {} before it, not {}",
                of(),
                moved.place,
                Amount::of_sum(one.before),
                Amount::of_sum(running)
            )));
        }
        let by = one.after.saturating_sub(one.before);
        running = running.saturating_add(if moved.is_back { by.saturating_neg() } else { by });
    }
    Ok((running != stored).then(|| {
        format!(
            "{}: it is {}, its events come to {}",
            of(),
            total.quantity,
            Amount::of_sum(running)
        )
    }))
}
