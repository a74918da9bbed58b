//! Closed periods of meters that do not add up: a sample of them, counted again from what the archive has observed.
//! What closed them must say the same, once for each team and combination of dimensions.
//!
//! Whatever is observed later opens its period again, once the archive was searched for it, and so does what closes
//! one. So of a team of which something stands behind that, nothing is said: its period is opened, and closed anew,
//! in a moment.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, anyhow};
use api::closing::{
    Closed, Measure, closing_type, duties, read,
    recount::{Observation, recount},
};
use domain::{
    catalog::Zones,
    period::{Period, PeriodKind},
    quantity::Quantity,
    time,
    wire::codec::Input,
};
use ledger::verify::{Check, archive::Ends};
use runtime::clickhouse::ClickHouse;
use sqlx::PgConnection;

use crate::store::stored::{self, ClosedPeriod};

/// What it is called.
pub const NAME: &str = "closed periods";
/// Sampled events for each period, and teams of each.
const EVENTS_EACH: u32 = 50;
const TEAMS_EACH: u32 = 10;
/// Rows of a team's period that are counted again.
const ROWS_MAX: u32 = 200_000;
/// How long a period may take from its catalog to its close: with two measures in that time it is not known by
/// which it was closed.
const CLOSE_US_MAX: i64 = 3_600_000_000;

/// Counts some closed periods again, chosen by `seed`; `archived` is where the archive stands.
pub async fn sample(
    snapshot: &mut PgConnection,
    clickhouse: &ClickHouse,
    archived: &Ends,
    (events, seed): (u32, u64),
) -> Result<Check> {
    let mut check = Check::new(NAME);
    let searched = stored::searched(snapshot).await?;
    let periods = stored::closed_periods(snapshot, events.div_ceil(EVENTS_EACH), seed).await?;
    let at = |partition: &u32| archived.get(partition).copied().unwrap_or(-1);
    // A copy of the archive may lag behind the one that was searched.
    let behind = searched.iter().find(|(partition, searched)| at(partition) < **searched);
    if let Some((partition, searched)) = behind.filter(|_| !periods.is_empty()) {
        let at = at(partition);
        check.left_out = Some(format!(
            "the archive of partition {partition} is at {at}, and was searched up to {searched}"
        ));
        return Ok(check);
    }
    let mut long = 0_u32;
    for closed in &periods {
        let Some((measure, zones)) = measure(snapshot, closed).await? else { continue };
        let of = Of { closed, measure, zones, closing_type: closing_type(&closed.meter) };
        let pick = of.pick();
        let chosen = (TEAMS_EACH, seed);
        let teams = stored::teams_of_closed(clickhouse, closed, pick, chosen).await?;
        let mut teams = Input::new(&teams);
        while !teams.is_empty() {
            let team = teams.text()?;
            let most = ROWS_MAX + 1;
            let bytes = stored::of_closed_team(clickhouse, closed, team, pick, most).await?;
            let rows = rows_of(&bytes)?;
            if rows.len() > usize::try_from(ROWS_MAX)? {
                long += 1;
            } else if !rows.iter().any(|row| row.is_ahead_of(&searched)) {
                check.rows += 1;
                if let Some(fault) = of.fault(team, &rows)? {
                    check.blame(|| fault);
                }
            }
        }
    }
    check.left_out = (long > 0).then(|| format!("{long} teams have more than {ROWS_MAX} events"));
    Ok(check)
}

fn period(closed: &ClosedPeriod) -> Period {
    // Its kind does not matter any more.
    Period { kind: PeriodKind::Ever, start_us: closed.from_us, end_us: closed.to_us }
}

/// By what a period was closed, and the zones of teams then; `None` where that is not known.
async fn measure(
    snapshot: &mut PgConnection,
    closed: &ClosedPeriod,
) -> Result<Option<(Measure, Zones)>> {
    let catalogs = stored::catalogs_of(snapshot, closed, CLOSE_US_MAX).await?;
    let Some(newest) = catalogs.last() else { return Ok(None) };
    if catalogs.iter().any(|other| other.team_zones != newest.team_zones) {
        return Ok(None);
    }
    let zones = newest.compile().map(|catalog| catalog.zones);
    let zones = zones.map_err(|faults| anyhow!("a catalog of its time has faults: {faults:?}"))?;
    let period = period(closed);
    let mut measures = catalogs
        .iter()
        .filter_map(|catalog| catalog.meter(&closed.meter))
        .filter_map(|meter| Measure::of(meter, &period));
    let first = measures.next();
    let first = first.filter(|first| measures.all(|other| other == *first));
    Ok(first.map(|measure| (measure, zones)))
}

/// A row of the archive.
struct Row<'a> {
    partition: u32,
    position: i64,
    event: (i64, u32),
    sign: i8,
    time_us: i64,
    closes: bool,
    /// Whether the meter has a line of it.
    has_line: bool,
    quantity: i128,
    dimensions: &'a str,
    text: &'a str,
}

fn rows_of(bytes: &[u8]) -> Result<Vec<Row<'_>>> {
    let mut rows = Vec::new();
    let mut input = Input::new(bytes);
    while !input.is_empty() {
        rows.push(Row {
            partition: input.u32()?,
            position: input.i64()?,
            event: (input.i64()?, input.u32()?),
            sign: input.u8()?.cast_signed(),
            time_us: input.i64()?,
            closes: input.u8()? == 1,
            has_line: input.u32()? > 0,
            quantity: input.u128()?.cast_signed(),
            dimensions: input.text()?,
            text: input.text()?,
        });
    }
    Ok(rows)
}

impl Row<'_> {
    /// Whether it may not have opened its period yet.
    fn is_ahead_of(&self, searched: &BTreeMap<u32, i64>) -> bool {
        self.position > searched.get(&self.partition).copied().unwrap_or(-1)
    }
}

/// What closed a period, as it is now.
struct Found {
    place: String,
    is_void: bool,
}

/// A period that is counted again.
struct Of<'a> {
    closed: &'a ClosedPeriod,
    measure: Measure,
    /// The zones of teams.
    zones: Zones,
    closing_type: String,
}

impl Of<'_> {
    /// What its rows are picked by.
    fn pick(&self) -> (&str, bool) {
        (&self.closing_type, matches!(self.measure, Measure::TimeWeighted { .. }))
    }

    /// What is wrong with it for a team.
    fn fault(&self, team: &str, rows: &[Row<'_>]) -> Result<Option<String>> {
        let ClosedPeriod { tenant_id, meter, from_us, .. } = self.closed;
        let of = |dimensions: &BTreeMap<String, String>| {
            let from = time::format(*from_us);
            let dimensions =
                if dimensions.is_empty() { String::new() } else { format!(" {dimensions:?}") };
            format!("{meter}{dimensions} of team {team} of tenant {tenant_id} from {from}")
        };
        let zone = self.closed.zone.as_str();
        let Some(part) = self.zones.part(team, zone, period(self.closed)) else { return Ok(None) };
        let (mut observations, mut closed) = (Vec::new(), Closed::new());
        for row in newest(rows) {
            if !row.closes {
                if row.sign == 1 {
                    observations.push(observation(row)?);
                }
                continue;
            }
            let said = read(row.text).map_err(|error| anyhow!(error))?;
            if said.zone != zone {
                continue;
            }
            let (dimensions, said) = (said.dimensions, said.quantity);
            let place = format!("{}:{}:{}", row.partition, row.event.0, row.event.1);
            let priced = Quantity::from_raw(row.quantity).filter(|_| row.has_line).unwrap_or(said);
            if priced != said {
                let of = of(&dimensions);
                return Ok(Some(format!("{of}: {place} says {said} and is priced for {priced}")));
            }
            let found = Found { place, is_void: row.sign != 1 };
            let of_place = found.place.clone();
            let before = closed.insert((team.to_owned(), dimensions.clone()), (found, said));
            if let Some((Found { place, .. }, _)) = before {
                return Ok(Some(format!("{}: closed by {place} and {of_place}", of(&dimensions))));
            }
        }
        let counted = recount(team, self.measure, &part, observations);
        let duties = duties(counted, closed);
        let missing = duties.missing.first().map(|(counted, quantity)| {
            let of = of(&counted.dimensions);
            format!("{of}: nothing closed it, its observations come to {quantity}")
        });
        // What somebody has voided stays so.
        let changed = duties.changed.iter().find(|one| !one.found.is_void).map(|one| {
            let (of, place) = (of(&one.counted.dimensions), &one.found.place);
            let (before, quantity) = (one.before, one.quantity);
            format!("{of}: {place} closed it with {before}, its observations come to {quantity}")
        });
        Ok(missing.or(changed))
    }
}

/// The newest row of each event.
fn newest<'r, 'a>(rows: &'r [Row<'a>]) -> impl Iterator<Item = &'r Row<'a>> {
    let of = |row: &Row<'_>| (row.partition, row.event);
    rows.chunk_by(move |one, next| of(one) == of(next)).filter_map(<[Row<'_>]>::last)
}

fn observation(row: &Row<'_>) -> Result<Observation> {
    let dimensions = serde_json::from_str(row.dimensions);
    Ok(Observation {
        time_us: row.time_us,
        place: row.event,
        quantity: row.quantity,
        dimensions: dimensions.context("dimensions of an event")?,
    })
}
