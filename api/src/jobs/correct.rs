//! Carries out corrections of many events: a preview that adds up what they would come to, commands for the
//! log once that is wanted, and at the end a look at what the archive has of them.
//!
//! Each pass reads the same events: those that the archive had when the correction was asked for. A pass
//! that is broken off begins again. Commands that may be in the log already are sent once more with the
//! same numbers, and the rater carries each out once.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use domain::{
    catalog::{Catalog, CatalogDocument},
    partition::partition_of,
    wire::correction::fingerprint,
};
use runtime::{
    http::{Heartbeat, Problem},
    postgres::scoped,
    task::TaskError,
};
use uuid::Uuid;

use crate::{
    USAGE,
    auth::TenantScope,
    compiled::{self, Compiled},
    correcting::{Basis, Change, Deltas, Plan, Shifts, Wanted, block, plan, stored_lines_of},
    error::ApiError,
    progress::archived,
    routes::corrections::filter::Filter,
    state::Api,
    store::{
        corrected::{self, Corrected, Selection, Stretch},
        corrections::{self, CorrectionRow, NOTHING_SENT, Progress},
    },
};

/// Between looks for work.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Events that are read at a time.
pub(super) const PAGE_EVENTS: usize = 500;
/// Commands of a block, and bytes after which it is sent.
const BLOCK_COMMANDS: usize = 200;
const BLOCK_BYTES: usize = 192 * 1024;
/// Until one that had to stop is gone on with.
const AGAIN_AFTER_S: f64 = 2.0;
/// Until the archive is asked again whether it has all commands.
const CONFIRM_AFTER_S: f64 = 0.5;

/// The task.
pub(crate) async fn run(api: Api) -> Result<(), TaskError> {
    let heartbeat = Heartbeat::new(&api.readiness, "api.corrections", Duration::ZERO);
    while !api.shutdown.is_cancelled() {
        let found = look(&api, &heartbeat).await.unwrap_or_else(|error| {
            tracing::warn!(?error, "corrections wait");
            0
        });
        // Without the archive it goes on waiting, and the api answers what it can.
        heartbeat.beat();
        if found > 0 {
            continue;
        }
        tokio::select! {
            () = api.shutdown.cancelled() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
    Ok(())
}

/// Goes on with what waits; answers how many there were.
async fn look(api: &Api, heartbeat: &Heartbeat) -> Result<usize, ApiError> {
    let waiting = corrections::waiting(&api.reader).await?;
    let found = waiting.len();
    for (tenant, id) in waiting {
        let (tenant, lease) = (TenantScope::of_task(tenant), Uuid::now_v7());
        let leased = scoped(&api.pool, tenant.id(), |mut transaction| async move {
            corrections::lease(&mut transaction, tenant, id, lease).await
        });
        let Some(row) = leased.await? else { continue };
        let work = Work { api, heartbeat, tenant, id, lease, row: &row };
        let outcome = match work.go_on().await {
            Ok(outcome) => outcome,
            Err(ApiError::Internal(reason)) => Outcome::Failed(reason),
            Err(error) => {
                tracing::warn!(?error, correction = %id, "a correction is broken off and begins again");
                Outcome::Later(AGAIN_AFTER_S)
            }
        };
        work.end(outcome).await?;
    }
    Ok(found)
}

/// How a pass ended.
enum Outcome {
    /// The correction has this state now.
    Advanced,
    /// It is to be gone on with after so many seconds.
    Later(f64),
    /// It cannot be gone on with.
    Failed(String),
    /// Another process has it.
    Lost,
}

/// A correction that this process is at work on.
struct Work<'a> {
    api: &'a Api,
    heartbeat: &'a Heartbeat,
    tenant: TenantScope,
    id: Uuid,
    lease: Uuid,
    row: &'a CorrectionRow,
}

/// What a pass does with the plan of an event.
enum Pass {
    /// Adds it up.
    Preview,
    /// Sends commands.
    Post(Commands),
    /// Compares with what the archive has.
    Confirm(BTreeMap<u32, i64>),
}

/// Commands on their way.
#[derive(Default)]
struct Commands {
    bodies: Vec<Vec<u8>>,
    bytes: usize,
    /// The event of the last of them.
    last: [i64; 3],
    /// Events up to this one have their commands in the log.
    sent_to: [i64; 3],
}

impl Work<'_> {
    async fn go_on(&self) -> Result<Outcome, ApiError> {
        match self.row.state.as_str() {
            "previewing" => self.pass(Pass::Preview, ("previewing", "previewed")).await,
            "posting" => {
                let newest = compiled::newest(self.api, self.tenant).await?;
                if version(&newest) != self.row.catalog_version && self.row.kind == "rate" {
                    return Ok(Outcome::Failed(format!(
                        "the catalog is version {} by now, and {} was previewed: ask for another preview",
                        newest.version, self.row.catalog_version
                    )));
                }
                let sent_to = self.row.sent_to();
                let commands = Commands { sent_to, ..Commands::default() };
                self.pass(Pass::Post(commands), ("posting", "confirming")).await
            }
            _ => {
                let archived = archived(self.api).await?;
                if !self.is_archived(&archived).await? {
                    return Ok(Outcome::Later(CONFIRM_AFTER_S));
                }
                self.pass(Pass::Confirm(archived), ("confirming", "posted")).await
            }
        }
    }

    async fn end(&self, outcome: Outcome) -> Result<(), ApiError> {
        let (tenant, own) = (self.tenant, (self.id, self.lease));
        let (outcome, id) = (&outcome, self.id);
        scoped(&self.api.pool, tenant.id(), |mut transaction| async move {
            match outcome {
                Outcome::Later(after_s) => {
                    corrections::give_back(&mut transaction, tenant, own, *after_s).await
                }
                Outcome::Failed(error) => {
                    tracing::error!(error, correction = %id, "a correction has failed");
                    corrections::fail(&mut transaction, tenant, own, error).await
                }
                Outcome::Advanced | Outcome::Lost => Ok(()),
            }
        })
        .await
    }

    /// Whether the archive has everything that was sent.
    async fn is_archived(&self, archived: &BTreeMap<u32, i64>) -> Result<bool, ApiError> {
        let (tenant, id) = (self.tenant, self.id);
        let blocks = scoped(&self.api.pool, tenant.id(), |mut transaction| async move {
            corrections::blocks(&mut transaction, tenant, id, None).await
        })
        .await?;
        let has = |partition: i32, position| {
            archived.get(&partition.unsigned_abs()).is_some_and(|to| *to >= position)
        };
        Ok(blocks.iter().all(|block| has(block.partition, block.position)))
    }

    /// Goes through all events, and from one state to the next.
    async fn pass(&self, mut pass: Pass, states: (&str, &str)) -> Result<Outcome, ApiError> {
        let filter: Filter = serde_json::from_str(&self.row.filter)
            .map_err(|error| ApiError::Internal(format!("the filter cannot be read: {error}")))?;
        let selection = filter.selection()?;
        let catalog = self.catalog().await?;
        let mut seen = Seen { total: self.row.events_total(), ..Seen::default() };
        let mut catalogs = HashMap::new();
        let partitions = match &selection.team {
            Some(team) => {
                let own = partition_of(self.tenant.id(), team, self.api.log.partitions());
                own..own.saturating_add(1)
            }
            None => 0..self.api.log.partitions(),
        };
        let (mut parts, mut total) = (Vec::new(), 0_i64);
        for partition in partitions {
            let place = usize::try_from(partition).unwrap_or(usize::MAX);
            let to = self.row.archived_to.get(place).copied().unwrap_or(-1);
            let stretches = Stretches::of(self.api, self.tenant, &selection, partition, to).await?;
            total = total.saturating_add(stretches.events);
            parts.push((partition, to, stretches));
            if !self.note(&pass, &seen).await? {
                return Ok(Outcome::Lost);
            }
        }
        seen.total = Some(total);
        for (partition, to, mut stretches) in parts {
            let mut shifts = Shifts::default();
            while let Some(stretch) = stretches.next {
                if self.api.shutdown.is_cancelled() {
                    return Ok(Outcome::Later(0.0));
                }
                let now = self.archived_now(&pass, partition, to).await?;
                let clickhouse = &self.api.clickhouse;
                let limit = (now, PAGE_EVENTS);
                let events =
                    corrected::events(clickhouse, self.tenant, &selection, stretch, limit).await?;
                stretches.advance(&events);
                compiled::of_events(self.api, self.tenant, &events, &mut catalogs).await?;
                let work = Planning {
                    tenant: self.tenant,
                    filter: &filter,
                    from_us: selection.from_us,
                    catalogs: &catalogs,
                    catalog: catalog.as_deref().map(|compiled| &compiled.catalog),
                    archived: (to, now),
                };
                for found in &events {
                    work.event(found, &mut pass, &mut shifts, &mut seen)?;
                    if let Pass::Post(commands) = &mut pass
                        && commands.is_full()
                        && !self.send(partition, commands, &mut seen).await?
                    {
                        return Ok(Outcome::Lost);
                    }
                }
                if !self.note(&pass, &seen).await? {
                    return Ok(Outcome::Lost);
                }
            }
            if let Pass::Post(commands) = &mut pass
                && !self.send(partition, commands, &mut seen).await?
            {
                return Ok(Outcome::Lost);
            }
        }
        self.finish(&pass, &seen, states).await
    }

    /// The catalog that events are rated by; none where they are taken back.
    async fn catalog(&self) -> Result<Option<Arc<Compiled>>, ApiError> {
        match (self.row.kind.as_str(), &self.row.document) {
            ("void", _) => Ok(None),
            (_, Some(document)) => {
                let document: CatalogDocument =
                    serde_json::from_str(document).map_err(|error| {
                        ApiError::Internal(format!("the catalog cannot be read: {error}"))
                    })?;
                Ok(Some(compiled::compile(document, 0).await?))
            }
            _ => {
                let number = u64::try_from(self.row.catalog_version).unwrap_or(0);
                Ok(Some(compiled::of_version(self.api, self.tenant, number).await?))
            }
        }
    }

    /// Up to where corrections are looked at: for a preview up to where events are, so that it may be made
    /// again; and else up to where the archive is.
    async fn archived_now(&self, pass: &Pass, partition: u32, to: i64) -> Result<i64, ApiError> {
        match pass {
            Pass::Preview => Ok(to),
            Pass::Post(_) => Ok(archived(self.api).await?.get(&partition).copied().unwrap_or(-1)),
            Pass::Confirm(archived) => Ok(archived.get(&partition).copied().unwrap_or(-1)),
        }
    }

    /// Sends the commands that are ready, and notes that they are in the log.
    async fn send(
        &self,
        partition: u32,
        commands: &mut Commands,
        seen: &mut Seen,
    ) -> Result<bool, ApiError> {
        if commands.bodies.is_empty() {
            return Ok(true);
        }
        let count = commands.bodies.len();
        let message = Bytes::from(block(self.tenant.id(), &commands.bodies));
        let appended = self.api.log.append(USAGE, partition, message).outcome().await;
        let appended = appended.map_err(|error| {
            Problem::unavailable(1, "log_unavailable", error.to_string(), "they are sent again")
        })?;
        commands.sent_to = commands.last;
        (commands.bodies, commands.bytes) = (Vec::new(), 0);
        let (tenant, own) = (self.tenant, (self.id, self.lease));
        let progress = &seen.progress(commands.sent_to);
        scoped(&self.api.pool, tenant.id(), |mut transaction| async move {
            let block = (partition, appended.position, count);
            corrections::insert_block(&mut transaction, tenant, own.0, block).await?;
            corrections::note(&mut transaction, tenant, own, progress).await
        })
        .await
    }

    async fn note(&self, pass: &Pass, seen: &Seen) -> Result<bool, ApiError> {
        self.heartbeat.beat();
        let sent_to = match pass {
            Pass::Post(commands) => commands.sent_to,
            _ => NOTHING_SENT,
        };
        let (tenant, own) = (self.tenant, (self.id, self.lease));
        let progress = &seen.progress(sent_to);
        scoped(&self.api.pool, tenant.id(), |mut transaction| async move {
            corrections::note(&mut transaction, tenant, own, progress).await
        })
        .await
    }

    async fn finish(
        &self,
        pass: &Pass,
        seen: &Seen,
        states: (&str, &str),
    ) -> Result<Outcome, ApiError> {
        let (tenant, own) = (self.tenant, (self.id, self.lease));
        let progress = &seen.progress(NOTHING_SENT);
        let posted = match pass {
            Pass::Preview => Some(false),
            Pass::Post(_) => None,
            Pass::Confirm(_) => Some(true),
        };
        let mut deltas = seen.deltas.clone();
        deltas.prune();
        let deltas = &deltas;
        let done = scoped(&self.api.pool, tenant.id(), |mut transaction| async move {
            if !corrections::note(&mut transaction, tenant, own, progress).await? {
                return Ok::<_, ApiError>(false);
            }
            if let Some(posted) = posted {
                let of = (own.0, posted);
                corrections::clear_deltas(&mut transaction, tenant, of).await?;
                corrections::put_deltas(&mut transaction, tenant, of, deltas).await?;
            }
            let (id, places) = (own.0, &seen.places);
            corrections::complete_blocks(&mut transaction, tenant, id, places).await?;
            corrections::advance(&mut transaction, tenant, own.0, states).await
        })
        .await?;
        Ok(if done { Outcome::Advanced } else { Outcome::Lost })
    }
}

impl Commands {
    fn is_full(&self) -> bool {
        self.bodies.len() >= BLOCK_COMMANDS || self.bytes >= BLOCK_BYTES
    }
}

/// What a pass has seen so far.
#[derive(Default)]
struct Seen {
    /// How many events there are, once they are counted.
    total: Option<i64>,
    events: i64,
    changes: i64,
    rejected: i64,
    applied: i64,
    deltas: Deltas,
    /// Where the archive has applied commands, and how many.
    places: BTreeMap<(u32, i64), i32>,
}

impl Seen {
    fn progress(&self, sent_to: [i64; 3]) -> Progress {
        Progress {
            sent_to,
            total: self.total,
            events: self.events,
            changes: self.changes,
            rejected: self.rejected,
            applied: self.applied,
        }
    }
}

/// What is needed to plan the events of a page.
struct Planning<'a> {
    tenant: TenantScope,
    filter: &'a Filter,
    from_us: Option<i64>,
    catalogs: &'a HashMap<i64, Arc<Compiled>>,
    catalog: Option<&'a Catalog>,
    /// The archive's positions up to which events, and corrections, are looked at.
    archived: (i64, i64),
}

impl Planning<'_> {
    fn event(
        &self,
        found: &Corrected,
        pass: &mut Pass,
        shifts: &mut Shifts,
        seen: &mut Seen,
    ) -> Result<(), ApiError> {
        seen.events += 1;
        // What has happened to it since it was previewed: this correction, if its command is there, or another.
        let later = found.newest().filter(|newest| newest.position > self.archived.0);
        let snapshot;
        let before = match (&*pass, later) {
            (Pass::Confirm(_), Some(_)) => {
                snapshot = found.as_of(self.archived.0);
                &snapshot
            }
            _ => found,
        };
        let basis = Basis {
            tenant: self.tenant.id(),
            archived: self.archived.1,
            catalogs: self.catalogs,
            posted: &BTreeMap::new(),
            meter: self.filter.meter.as_deref(),
            outcome: self.filter.outcome.as_deref(),
        };
        let wanted = self.catalog.map_or(Wanted::Void, Wanted::Rate);
        match plan(before, &wanted, shifts, &basis)? {
            Plan::Unchanged | Plan::IsVoid => {}
            Plan::Rejected(..) => seen.rejected += 1,
            Plan::Change(change) => {
                self.check(&change)?;
                seen.changes += 1;
                self.change(found, *change, later.is_some(), pass, seen)?;
            }
        }
        Ok(())
    }

    /// A period whose beginning is left out cannot be counted.
    fn check(&self, change: &Change) -> Result<(), ApiError> {
        let began =
            change.counts_from_us.filter(|start| self.from_us.is_some_and(|from| *start < from));
        match began {
            None => Ok(()),
            Some(start) if start == i64::MIN => Err(ApiError::Internal(
                "prices depend on a total that goes on for ever: leave out `from`".into(),
            )),
            Some(start) => Err(ApiError::Internal(format!(
                "prices depend on a total that began before the range: begin it at {} or before",
                domain::time::format(start)
            ))),
        }
    }

    fn change(
        &self,
        found: &Corrected,
        change: Change,
        is_later: bool,
        pass: &mut Pass,
        seen: &mut Seen,
    ) -> Result<(), ApiError> {
        let place = found.first.place();
        let here = [i64::from(place.partition), place.position, i64::from(place.index)];
        match pass {
            Pass::Preview => seen.deltas.merge(&change.delta),
            // Something has happened to it since it was previewed: perhaps this very command.
            Pass::Post(_) if is_later => {}
            Pass::Post(commands) => {
                if here > commands.sent_to {
                    commands.bytes += change.body.len();
                    commands.bodies.push(change.body);
                    commands.last = here;
                }
            }
            Pass::Confirm(_) => {
                if let Some(position) = self.applied_at(found, &change)? {
                    seen.applied += 1;
                    *seen.places.entry((place.partition, position)).or_default() += 1;
                    seen.deltas.merge(&change.delta);
                }
            }
        }
        Ok(())
    }

    /// The position of this correction's command, where the archive has what it did.
    fn applied_at(&self, found: &Corrected, change: &Change) -> Result<Option<i64>, ApiError> {
        let Some(done) = found.corrections.iter().find(|one| one.run == change.run) else {
            return Ok(None);
        };
        let is_applied = match (&done.event, self.catalog, change.expected) {
            (None, None, None) => true,
            (Some(event), Some(catalog), Some(expected)) => {
                fingerprint(&stored_lines_of(event, catalog)?) == expected
            }
            _ => false,
        };
        Ok(is_applied.then_some(done.position))
    }
}

/// Stretches of a partition with about a page of events each.
pub(super) struct Stretches {
    pub next: Option<Stretch>,
    events: i64,
    step: i64,
    last: i64,
}

impl Stretches {
    pub async fn of(
        api: &Api,
        tenant: TenantScope,
        selection: &Selection,
        partition: u32,
        to: i64,
    ) -> Result<Stretches, ApiError> {
        let extent = corrected::extent(&api.clickhouse, tenant, selection, partition, to).await?;
        let Some((events, first, last)) = extent else {
            return Ok(Stretches { next: None, events: 0, step: 1, last: to });
        };
        let events = i64::try_from(events).unwrap_or(i64::MAX);
        let pages = events / PAGE_EVENTS as i64 + 1;
        let step = ((last - first) / pages).max(1);
        let to = last.min(first.saturating_add(step));
        let next = Some(Stretch { partition, after: (first, -1), to });
        Ok(Stretches { next, events, step, last })
    }

    /// Goes on behind these events of the stretch.
    pub fn advance(&mut self, events: &[Corrected]) {
        let Some(stretch) = self.next else { return };
        self.next = match events.last() {
            Some(last) if events.len() == PAGE_EVENTS => {
                let after = (last.first.position, i64::from(last.first.index));
                Some(Stretch { after, ..stretch })
            }
            _ if stretch.to >= self.last => None,
            _ => {
                let to = self.last.min(stretch.to.saturating_add(self.step));
                Some(Stretch { after: (stretch.to.saturating_add(1), -1), to, ..stretch })
            }
        };
    }
}

fn version(compiled: &Compiled) -> i64 {
    i64::try_from(compiled.version).unwrap_or(i64::MAX)
}
