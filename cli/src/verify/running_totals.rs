//! Running totals that prices depend on: a sample of them, counted again from the events of the archive.
//! Each event is rated again with the total that stands beside its lines; the totals of one name must
//! follow each other without a gap and end where Postgres says.

use anyhow::{Context as _, Result};
use domain::{
    money::Amount,
    rating::{LineTotal, TotalName},
};
use ledger::verify::{Check, archive::Ends};
use runtime::clickhouse::ClickHouse;
use sqlx::PgConnection;

use super::rerate::{Again, by_partition, place, rows_of};
use crate::store::stored::{self, StoredTotal};

const NAME: &str = "totals of periods";
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
        let mut moved = Vec::new();
        for row in &rows {
            let of_row =
                again.totals(row).with_context(|| format!("the event {:?}", place(row)))?;
            moved.extend(of_row.into_iter().map(|one| (place(row), one)));
        }
        if let Some(fault) = fault(total, moved)? {
            check.blame(|| fault);
        }
    }
    check.left_out = (long > 0)
        .then(|| format!("{long} of {} totals have more than {EVENTS_MAX} events", totals.len()));
    Ok(check)
}

/// What is wrong with a total, from all that its events moved, in the order of the log.
fn fault(total: &StoredTotal, moved: Vec<(Result<String>, LineTotal)>) -> Result<Option<String>> {
    let name = TotalName::stored(&total.meter, &total.scope, &total.period, total.start_us)
        .context("a period of no kind")?;
    let stored = Amount::parse_sum(&total.quantity)?.raw();
    let of = || format!("{} of team {} from {:?}", total.meter, total.team, total.start_us);
    let mut running = 0;
    for (place, one) in moved.into_iter().filter(|(_, one)| one.name == name) {
        if one.before != running {
            return Ok(Some(format!(
                "{}: the event {} has {} before it, not {}",
                of(),
                place?,
                Amount::of_sum(one.before),
                Amount::of_sum(running)
            )));
        }
        running = one.after;
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
