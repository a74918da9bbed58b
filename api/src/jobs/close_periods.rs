//! Closes periods of meters that do not add up: counts in the archive what was observed, and appends an event for
//! each team and combination of dimensions that says what its period came to.
//!
//! The archive is searched for observations first, so that a period of which something is observed after it was
//! closed is opened again. Closing compares what the archive has with what it should have: what is missing is
//! appended, what differs is amended, until nothing does. So it may be killed anywhere, and done twice.
//!
//! What it appends may be on its way for long: its process was killed, or the slow lane has it. Meanwhile what it says
//! may be taken back, and the period be closed as one of which nothing is to be said. So what closes a period opens it
//! once more as soon as the archive has it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use domain::{
    event::IdentityKey,
    meter::MeterDefinition,
    period::{Period, PeriodKind},
    quantity::Quantity,
    wire::block::BlockWriter,
};
use runtime::{
    http::{Heartbeat, Problem},
    postgres::{scoped, transaction},
    task::{self, TaskError},
};
use uuid::Uuid;

use super::{
    correct::{PAGE_EVENTS, Stretches},
    rest,
};
use crate::{
    USAGE,
    auth::TenantScope,
    closing::{self, Changed, Closed, Closing, Counted, Duties, Measure, closing_type, duties},
    compiled::{self, Compiled},
    correcting::{Amended, Basis, Plan, Shifts, Wanted, block, plan},
    error::ApiError,
    progress::{accepted, archived, has_reached},
    state::Api,
    store::{
        corrected::{self, Corrected, Selection, StoredEvent},
        meter_periods::{self, OpenPeriod},
        observations::{self, Seen, Whose},
        running_totals,
    },
};

/// Between looks for work.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Blocks of a partition that are searched at a time.
const SEARCH_BLOCKS: i64 = 20_000;
/// Events of a block.
const BLOCK_EVENTS: usize = 500;
/// Rounds of comparing and appending in which a period should be closed.
const ROUNDS_MAX: usize = 4;
/// How long a round waits for the archive, and how often it asks.
const ARCHIVED_WAIT: Duration = Duration::from_secs(20);
const ARCHIVED_EVERY: Duration = Duration::from_millis(200);
/// Until a period is tried again that could not be closed, one whose neighbours did not answer, and one whose archive
/// is behind.
const AGAIN_AFTER_S: f64 = 300.0;
const RETRY_AFTER_S: f64 = 15.0;
const LATER_AFTER_S: f64 = 2.0;

/// The task.
pub(crate) async fn run(api: Api) -> Result<(), TaskError> {
    let heartbeat = Heartbeat::new(&api.readiness, "api.periods", Duration::ZERO);
    let mut known = Known::default();
    while !api.shutdown.is_cancelled() {
        let looked = look(&api, &mut known, &heartbeat).await;
        rest(&api, &heartbeat, looked, ("periods wait to be closed", LOOK_EVERY)).await;
    }
    Ok(())
}

/// What the task knows between two looks.
#[derive(Default)]
struct Known {
    /// Whether any catalog up to this version has, or has had, meters that do not add up: else nothing is looked for.
    any: bool,
    version: i64,
    whole: Whole,
}

/// Up to which time the archive has all that was accepted.
#[derive(Default)]
struct Whole {
    until_us: Option<i64>,
    /// The log's last positions at a time, which the archive has not reached yet.
    ends: Option<(i64, BTreeMap<u32, i64>)>,
}

impl Whole {
    async fn look(&mut self, api: &Api, archived: &BTreeMap<u32, i64>) -> Result<(), ApiError> {
        if let Some((at_us, ends)) = &self.ends {
            if !has_reached(archived, ends) {
                return Ok(());
            }
            self.until_us = Some(*at_us);
        }
        let at_us = task::now_us();
        self.ends = Some((at_us, accepted(api).await?));
        Ok(())
    }
}

async fn look(api: &Api, known: &mut Known, heartbeat: &Heartbeat) -> Result<(), ApiError> {
    if !known.any {
        (known.any, known.version) = meter_periods::any_since(&api.reader, known.version).await?;
        if !known.any {
            return Ok(());
        }
    }
    let archived = archived(api).await?;
    search(api, &archived, heartbeat).await?;
    known.whole.look(api, &archived).await?;
    let Some(until_us) = known.whole.until_us else { return Ok(()) };
    let wait_us =
        i64::try_from(api.config.close_after_s).unwrap_or(i64::MAX).saturating_mul(1_000_000);
    for open in meter_periods::due(&api.reader, until_us.saturating_sub(wait_us)).await? {
        if api.shutdown.is_cancelled() {
            break;
        }
        let (tenant, lease) = (TenantScope::of_task(open.tenant_id), Uuid::now_v7());
        let own = open.own();
        let leased = scoped(&api.pool, tenant.id(), |mut transaction| async move {
            meter_periods::lease(&mut transaction, tenant, own, lease).await
        });
        if !leased.await? {
            continue;
        }
        let outcome = close(api, tenant, (&open, lease), heartbeat).await;
        end(api, tenant, (&open, lease), outcome).await?;
    }
    Ok(())
}

/// Opens every period of which something was archived since the last look.
async fn search(
    api: &Api,
    archived: &BTreeMap<u32, i64>,
    heartbeat: &Heartbeat,
) -> Result<(), ApiError> {
    let searched: HashMap<i32, i64> =
        meter_periods::searched(&api.reader).await?.into_iter().collect();
    for (partition, to) in archived {
        let place = i32::try_from(*partition).unwrap_or(i32::MAX);
        let mut after = searched.get(&place).copied().unwrap_or(-1);
        while after < *to && !api.shutdown.is_cancelled() {
            let to = after.saturating_add(SEARCH_BLOCKS).min(*to);
            for seen in observations::seen(&api.clickhouse, *partition, (after, to)).await? {
                open(api, &seen).await?;
            }
            transaction(&api.pool, |mut transaction| async move {
                meter_periods::note_searched(&mut transaction, place, to).await
            })
            .await?;
            after = to;
            heartbeat.beat();
        }
    }
    Ok(())
}

fn meter_of<'c>(compiled: &'c Compiled, meter: &str) -> Option<(&'c MeterDefinition, PeriodKind)> {
    let meter = compiled.document.meter(meter)?;
    Some((meter, meter.period?))
}

/// Opens the periods that were seen, one for each zone that teams have, and those that rest on them.
async fn open(api: &Api, seen: &Seen) -> Result<(), ApiError> {
    let Seen { tenant_id, meter, time_us, closes } = seen;
    let (tenant, time_us) = (TenantScope::of_task(*tenant_id), *time_us);
    let compiled = compiled::newest(api, tenant).await?;
    let found = meter_of(&compiled, meter);
    let and_later = !closes && found.is_some_and(|(meter, _)| meter.aggregation.carries_over());
    // A meter that is gone, or adds up by now, has none: its events are to be rated again, and show nothing then.
    let of_kind = |kind| {
        let zones = compiled.catalog.zones.each();
        zones.map(move |(name, zone)| (name, Period::of(kind, &zone.time_zone, time_us)))
    };
    let kind = found.filter(|_| !closes).map(|(_, kind)| kind);
    let periods: &Vec<(&str, Period)> = &kind.into_iter().flat_map(of_kind).collect();
    scoped(&api.pool, tenant.id(), |mut transaction| async move {
        let opened =
            meter_periods::open_at(&mut transaction, tenant, meter, time_us, and_later).await?;
        for (zone, period) in periods.iter().filter(|(zone, _)| !opened.iter().any(|o| o == zone)) {
            let added = (period, time_us);
            meter_periods::add(&mut transaction, tenant, (meter, zone), added).await?;
        }
        Ok::<_, ApiError>(())
    })
    .await
}

/// The period of a kind at a time in a zone of the catalog: by its name, or its own by an empty one. None where no team
/// has it any more.
fn period_of(compiled: &Compiled, zone: &str, kind: PeriodKind, time_us: i64) -> Option<Period> {
    let (_, zone) = compiled.catalog.zones.each().find(|(name, _)| *name == zone)?;
    Some(Period::of(kind, &zone.time_zone, time_us))
}

/// How the attempt to close a period ended.
enum Outcome {
    /// The archive has it as it should be: so many quantities, and whether anything is still held.
    Closed(i64, bool),
    /// It is to be gone on with after so many seconds.
    Later(f64),
    /// Something must be done about it.
    Failed(String),
}

async fn end(
    api: &Api,
    tenant: TenantScope,
    (open, lease): (&OpenPeriod, Uuid),
    outcome: Result<Outcome, ApiError>,
) -> Result<(), ApiError> {
    let outcome = outcome.unwrap_or_else(|error| {
        let (meter, from_us) = (&open.meter, open.from_us);
        tracing::warn!(?error, meter, from_us, "a period is not closed, and tried again");
        match error {
            ApiError::Internal(reason) => Outcome::Failed(reason),
            _ => Outcome::Later(RETRY_AFTER_S),
        }
    });
    let own = open.own();
    let next = match &outcome {
        Outcome::Closed(_, true) => {
            let compiled = compiled::newest(api, tenant).await?;
            meter_of(&compiled, &open.meter)
                .and_then(|(_, kind)| period_of(&compiled, &open.zone, kind, open.to_us))
        }
        _ => None,
    };
    let (outcome, next) = (&outcome, next.as_ref());
    scoped(&api.pool, tenant.id(), |mut transaction| async move {
        match outcome {
            Outcome::Closed(quantities, _) => {
                meter_periods::close(&mut transaction, tenant, own, lease, *quantities).await?;
                if let Some(next) = next {
                    let next = (next, open.to_us);
                    let own = (own.0, own.1);
                    meter_periods::add(&mut transaction, tenant, own, next).await?;
                }
                Ok(())
            }
            Outcome::Later(after_s) => {
                let later = (*after_s, None);
                meter_periods::give_back(&mut transaction, tenant, own, lease, later).await
            }
            Outcome::Failed(reason) => {
                let later = (AGAIN_AFTER_S, Some(reason.as_str()));
                meter_periods::give_back(&mut transaction, tenant, own, lease, later).await
            }
        }
    })
    .await
}

/// A period that is being closed.
struct Work<'a> {
    api: &'a Api,
    tenant: TenantScope,
    compiled: &'a Compiled,
    identity_key: IdentityKey,
    meter: &'a MeterDefinition,
    measure: Measure,
    period: Period,
    /// Of teams that have this zone of their own; empty for the others.
    zone: &'a str,
}

async fn close(
    api: &Api,
    tenant: TenantScope,
    (open, lease): (&OpenPeriod, Uuid),
    heartbeat: &Heartbeat,
) -> Result<Outcome, ApiError> {
    let compiled = compiled::newest(api, tenant).await?;
    let found = meter_of(&compiled, &open.meter).and_then(|(meter, kind)| {
        let period = Period { kind, start_us: open.from_us, end_us: open.to_us };
        Some((meter, period, Measure::of(meter, &period)?))
    });
    let Some((meter, period, measure)) = found else {
        return Ok(Outcome::Failed(
            "the catalog has no such meter any more that is priced by period: rate its events again".into(),
        ));
    };
    let identity_key = meter_periods::identity_key(&api.reader).await?;
    let (compiled, zone) = (&*compiled, open.zone.as_str());
    let work = Work { api, tenant, compiled, identity_key, meter, measure, period, zone };
    let own = open.own();
    let keep = async |said| {
        scoped(&api.pool, tenant.id(), |mut transaction| async move {
            meter_periods::keep(&mut transaction, tenant, own, (lease, said)).await
        })
        .await
    };
    let mut has_said = false;
    for _ in 0..ROUNDS_MAX {
        // What is amended is amended as of here: whatever happens to it later refuses that.
        let archived = archived(api).await?;
        let mut round = Round::default();
        for partition in 0..api.log.partitions() {
            if !keep(false).await? || api.shutdown.is_cancelled() {
                return Ok(Outcome::Later(LATER_AFTER_S));
            }
            let to = archived.get(&partition).copied().unwrap_or(-1);
            work.compare(partition, to, &mut round).await?;
            heartbeat.beat();
        }
        if let Some(team) = round.too_large {
            return Ok(Outcome::Failed(format!(
                "the quantity of the team `{team}` is not below 10^15"
            )));
        }
        if round.appended.is_empty() {
            return Ok(Outcome::Closed(round.quantities, round.is_held));
        }
        if !has_said {
            has_said = true;
            keep(true).await?;
        }
        if !work.are_archived(&round.appended).await? {
            return Ok(Outcome::Later(LATER_AFTER_S));
        }
    }
    Ok(Outcome::Failed(
        "what closes it is not in the archive as it was sent: see GET /v1/rejected-events".into(),
    ))
}

/// What one comparison did.
#[derive(Default)]
struct Round {
    quantities: i64,
    is_held: bool,
    /// Last positions of what was appended, by partition.
    appended: BTreeMap<u32, i64>,
    too_large: Option<String>,
    /// Catalogs that what is amended was rated by.
    catalogs: HashMap<i64, Arc<Compiled>>,
}

impl Work<'_> {
    /// Appends what is missing in a partition, and amends what differs.
    async fn compare(&self, partition: u32, to: i64, round: &mut Round) -> Result<(), ApiError> {
        let closed = self.closed(partition, to).await?;
        let counted = self.counted(partition).await?;
        let Duties { quantities, missing, changed, too_large } = duties(counted, closed);
        round.quantities += quantities;
        round.is_held |= self.meter.aggregation.carries_over() && quantities > 0;
        round.too_large = round.too_large.take().or(too_large);
        let mut commands = Vec::new();
        for one in &changed {
            commands.extend(self.amend(one, to, round).await?);
        }
        for page in missing.chunks(BLOCK_EVENTS) {
            let mut writer = BlockWriter::default();
            for (one, quantity) in page {
                let closing = self.closing(&one.team, &one.dimensions, *quantity);
                closing
                    .push(self.tenant.id(), &self.identity_key, &mut writer)
                    .map_err(|error| ApiError::Internal(error.to_string()))?;
            }
            self.append(partition, writer.finish(), round).await?;
        }
        for page in commands.chunks(BLOCK_EVENTS) {
            self.append(partition, block(self.tenant.id(), page), round).await?;
        }
        Ok(())
    }

    /// What the teams that have the zone come to: of one that has it from or up to a time in the period, what was
    /// observed then.
    async fn counted(&self, partition: u32) -> Result<Vec<Counted>, ApiError> {
        let of = async |whose, period: &Period| {
            let measured = (self.meter.key.as_str(), self.measure);
            let all = (period, period.end_us);
            observations::counted(&self.api.clickhouse, self.tenant, measured, whose, all).await
        };
        let zones = &self.compiled.catalog.zones;
        let mut counted = of(Whose::Partition(partition), &self.period).await?;
        let mut cut = BTreeMap::new();
        counted.retain(|one| match zones.part(&one.team, self.zone, self.period) {
            Some(part) if part != self.period => {
                cut.insert(one.team.clone(), part);
                false
            }
            part => part.is_some(),
        });
        for (team, part) in &cut {
            counted.extend(of(Whose::Team(team), part).await?);
        }
        Ok(counted)
    }

    fn closing<'a>(
        &'a self,
        team: &'a str,
        dimensions: &'a BTreeMap<String, String>,
        quantity: Quantity,
    ) -> Closing<'a> {
        let (meter, period, zone) = (self.meter, self.period, self.zone);
        Closing { meter, period, zone, team, dimensions, quantity }
    }

    /// What closed the period so far; what somebody has voided stays so.
    async fn closed(&self, partition: u32, to: i64) -> Result<Closed<Corrected>, ApiError> {
        let selection = Selection {
            event_type: Some(closing_type(&self.meter.key)),
            from_us: Some(self.period.end_us.saturating_sub(1)),
            to_us: Some(self.period.end_us),
            ..Selection::default()
        };
        let mut stretches = Stretches::of(self.api, self.tenant, &selection, partition, to).await?;
        let mut closed = Closed::new();
        while let Some(stretch) = stretches.next {
            let events = corrected::events(
                &self.api.clickhouse,
                self.tenant,
                &selection,
                stretch,
                (to, PAGE_EVENTS),
            )
            .await?;
            stretches.advance(&events);
            for found in events {
                let read =
                    |event: &StoredEvent| closing::read(&event.raw).map_err(ApiError::Internal);
                let said = read(&found.first)?;
                if said.zone != self.zone {
                    continue;
                }
                let quantity = match found.effective() {
                    Some(effective) => read(effective)?.quantity,
                    None => said.quantity,
                };
                let dimensions = said.dimensions;
                closed.insert((found.first.team.clone(), dimensions), (found, quantity));
            }
        }
        Ok(closed)
    }

    /// The command that makes what closed a period say something else; none where it was voided.
    async fn amend(
        &self,
        changed: &Changed<Corrected>,
        archived: i64,
        round: &mut Round,
    ) -> Result<Option<Vec<u8>>, ApiError> {
        let Changed { found, counted, quantity, .. } = changed;
        let Some(event) = found.effective() else { return Ok(None) };
        let (tenant, api) = (self.tenant, self.api);
        let team = found.first.team.as_str();
        let posted = scoped(&api.pool, tenant.id(), |mut transaction| async move {
            running_totals::of_team(&mut transaction, tenant, team).await
        })
        .await?;
        compiled::of_events(api, tenant, std::slice::from_ref(found), &mut round.catalogs).await?;
        let basis = Basis {
            tenant: tenant.id(),
            archived,
            catalogs: &round.catalogs,
            posted: &posted,
            meter: None,
            outcome: None,
        };
        let text = self.closing(&counted.team, &counted.dimensions, *quantity).text();
        let amended = Amended {
            event_type: &event.event_type,
            user: None,
            feature: None,
            time_us: Some(event.order_us),
            text: &text,
        };
        let wanted = Wanted::Amend(&self.compiled.catalog, &amended);
        match plan(found, &wanted, &mut Shifts::default(), &basis)? {
            Plan::Change(change) => Ok(Some(change.body)),
            Plan::Unchanged | Plan::IsVoid => Ok(None),
            Plan::Rejected(_, detail) => Err(ApiError::Internal(format!(
                "what the period of the team `{team}` comes to would be rejected: {detail}"
            ))),
        }
    }

    async fn append(
        &self,
        partition: u32,
        message: Vec<u8>,
        round: &mut Round,
    ) -> Result<(), ApiError> {
        let appended = self.api.log.append(USAGE, partition, Bytes::from(message)).outcome().await;
        let appended = appended.map_err(|error| {
            Problem::unavailable(1, "log_unavailable", error.to_string(), "they are sent again")
        })?;
        round.appended.insert(partition, appended.position);
        Ok(())
    }

    /// Waits until the archive has what was appended.
    async fn are_archived(&self, appended: &BTreeMap<u32, i64>) -> Result<bool, ApiError> {
        let begun = tokio::time::Instant::now();
        while begun.elapsed() < ARCHIVED_WAIT && !self.api.shutdown.is_cancelled() {
            if has_reached(&archived(self.api).await?, appended) {
                return Ok(true);
            }
            tokio::time::sleep(ARCHIVED_EVERY).await;
        }
        Ok(false)
    }
}
