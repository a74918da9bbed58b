//! The state of one partition's owner: accepted state plus one overlay per batch in flight.
//!
//! Pure: it reads no log, no database and no clock, so that the simulation in `tests` runs this very
//! code.
//! `chain` in `domain` is the acceptance rule; [`crate::table`] says what leaves the table when.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    mem,
    sync::Arc,
};

use domain::{
    chain::{Hash, Offer, Place},
    planted::{self, Bug},
    rating::TotalName,
    wire::{
        block::{Block, BlockHeader, marked_versions},
        codec::DecodeError,
        rated::{Outer, OuterError, Sections},
        record::Entry,
        row::RowHead,
        trace::TraceContext,
    },
};
use uuid::Uuid;

use crate::{
    batch::{Batch, BlockPlace, Coverage, Effects, Known, Memory, Unpacked},
    catalogs::Catalogs,
    corrections::Corrections,
    filter::{Filter, Name},
    ranges::Range,
    seen::Taken,
    table::{AcceptedBatch, Departure, Limits, Table},
    totals::{TeamName, Totals},
};

/// Why a partition cannot go on. Each needs a person or a newer program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// A block of `[usage]` cannot be read.
    #[error("the block at position {position} cannot be read: {source}")]
    Block {
        /// Its position.
        position: i64,
        /// What is wrong.
        source: DecodeError,
    },
    /// A message of `[rated]` cannot be read.
    #[error("the message at position {position} of [rated] cannot be read: {source}")]
    Rated {
        /// Its position.
        position: i64,
        /// What is wrong.
        source: OuterError,
    },
    /// A command of a kind that this program does not carry out.
    #[error("the entry {position}:{index} is a command: a newer weir is needed")]
    Command {
        /// Position of its block.
        position: i64,
        /// Its index.
        index: u32,
    },
    /// A marker names a version that was not handed over.
    #[error("the catalog version {0} is not at hand")]
    CatalogMissing(u64),
    /// A position was skipped.
    #[error("position {found} was read where {wanted} was next")]
    Gap {
        /// The next position.
        wanted: i64,
        /// What came.
        found: i64,
    },
}

/// A batch that was sent and has no accepted place yet.
#[derive(Clone, Debug)]
struct InFlight {
    outer: Outer,
    effects: Effects,
    append_time_us: i64,
    catalogs_before: Arc<Catalogs>,
    catalog_version: u64,
}

/// The state of one partition. A copy goes its own way: an exploration branches here.
#[derive(Clone, Debug)]
pub struct State {
    partition: u32,
    /// Accepted `(X, R, C)`.
    place: Place,
    /// The last position rated, in flight or in the making included.
    rated_to: i64,
    /// Hash of the batch sent last.
    tip: Hash,
    /// Where in `[rated]` the next report must say that its batch stands.
    next_rated: i64,
    table: Table,
    totals: Totals,
    corrections: Corrections,
    catalogs: Arc<Catalogs>,
    /// The catalog version after the accepted place; unknown before the first accepted batch.
    accepted_version: Option<u64>,
    in_flight: VecDeque<InFlight>,
    batch: Option<(Batch, Arc<Catalogs>)>,
    /// Of the batch that was cut last.
    memory: Option<Memory>,
}

/// An unpacked block and the catalog versions that its markers need.
#[derive(Debug)]
pub struct Opened {
    position: i64,
    header: BlockHeader,
    body: Vec<u8>,
    /// Versions above the current one that the block switches to, in order.
    pub versions: Vec<u64>,
}

impl Opened {
    /// Its entries, as many as its header says.
    pub fn block(&self) -> Result<Block<'_>, StateError> {
        let position = self.position;
        let damaged = |source| StateError::Block { position, source };
        let block = Block::decode(&self.header, &self.body).map_err(damaged)?;
        block.check_counts(&self.header).map_err(damaged)?;
        Ok(block)
    }
}

impl State {
    /// The state at a place from which `[rated]` is read on, with an empty table. The batches at or
    /// after `coverage.table_from` will fill it; what lies below are ranges.
    #[must_use]
    pub fn new(partition: u32, place: Place, coverage: Coverage, limits: Limits) -> State {
        State {
            partition,
            place,
            rated_to: place.x,
            tip: place.c,
            next_rated: place.r + 1,
            table: Table::new(partition, place.c, coverage, limits),
            totals: Totals::default(),
            corrections: Corrections::default(),
            catalogs: Arc::default(),
            accepted_version: None,
            in_flight: VecDeque::new(),
            batch: None,
            memory: None,
        }
    }

    /// Accepted `(X, R, C)`.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place
    }

    /// The position of `[usage]` to read next.
    #[must_use]
    pub fn next_position(&self) -> i64 {
        self.rated_to + 1
    }

    /// The duplicates table.
    #[must_use]
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The running totals.
    #[must_use]
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// What should leave the table next, if anything: the caller builds its filter, keeps it, and
    /// hands it to [`State::depart`]. `held` is the archive's position that a look-up under way
    /// relies on: what lies after it stays, unless memory requires otherwise.
    #[must_use]
    pub fn departure(&self, held: Option<i64>) -> Option<Departure> {
        self.table.departure(held, self.corrections.count())
    }

    /// Moves `S` past what leaves; without a filter, events that meet the range are forwarded.
    pub fn depart(&mut self, departure: Departure, filter: Option<Filter>) {
        self.table.depart(departure, filter);
        self.corrections.forget_below(self.table.coverage.table_from);
    }

    /// Puts ranges of an earlier owner below the table.
    pub fn put_ranges(&mut self, ranges: Vec<Range>) {
        self.table.ranges.put_before(ranges);
    }

    /// Replaces a range without filter by its parts.
    pub fn replace_range(&mut self, missing: &Name, parts: Vec<Range>) {
        self.table.ranges.replace(missing, parts);
    }

    /// Batches sent and not yet accepted.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The batch in the making.
    #[must_use]
    pub fn batch(&self) -> Option<&Batch> {
        self.batch.as_ref().map(|(batch, _)| batch)
    }

    /// Since the last call: events that are not simply rated, by reason, and quantities that were rounded.
    pub fn take_unrated(&mut self) -> (BTreeMap<String, u64>, u64) {
        let batch = self.batch.as_mut();
        batch
            .map(|(batch, _)| (mem::take(&mut batch.unrated), mem::take(&mut batch.rounded)))
            .unwrap_or_default()
    }

    /// The catalog version in force after everything rated so far.
    #[must_use]
    pub fn catalog_version(&self) -> u64 {
        self.catalogs.version
    }

    /// The catalog version after the accepted place: of the last accepted batch, if there was one.
    #[must_use]
    pub fn accepted_catalog_version(&self) -> Option<u64> {
        self.accepted_version
    }

    /// Sets the catalogs in force; only where nothing is in flight or in the making.
    pub fn set_catalogs(&mut self, catalogs: Arc<Catalogs>) {
        assert!(
            self.in_flight.is_empty() && self.batch.is_none(),
            "catalogs switch at markers only"
        );
        self.catalogs = catalogs;
    }

    /// Applies one message of `[rated]`, read in log order from `R + 1` on, while nothing of this
    /// owner is in flight. Answers whether the batch is accepted.
    pub fn offer(&mut self, position: i64, message: &[u8]) -> Result<bool, StateError> {
        assert!(
            self.in_flight.is_empty() && self.batch.is_none(),
            "the log is read between batches only"
        );
        self.next_rated = position + 1;
        let rated = |source: OuterError| StateError::Rated { position, source };
        let damaged = |source: DecodeError| rated(source.into());
        let (outer, place) =
            match self.place.offer(self.partition, position, message).map_err(rated)? {
                Offer::Ignored(_) => return Ok(false),
                Offer::Accepted(outer, place) => (outer, place),
            };
        let sections = Sections::split(message).map_err(damaged)?;
        let header = sections.header().map_err(damaged)?;
        let append_time_us = header.append_time_us.0.max(header.append_time_us.1);
        if self.table.skips(&outer) {
            self.table.skip(&outer);
        } else {
            let mut added = Vec::new();
            let rows = sections.rows().map_err(damaged)?;
            for head in rows.heads().filter(RowHead::took_id) {
                let RowHead { position, index, content, .. } = head;
                // INV-02: an identity takes effect once, where a batch has its positions.
                let new = (outer.from..=outer.to).contains(&position)
                    && self.table.seen.take(head.identity, Taken { position, index, content });
                if !new {
                    return Err(damaged(DecodeError::Field("identity")));
                }
                added.push(head.identity);
            }
            if planted::is(Bug::OthersTakeIds) {
                for head in sections.others().map_err(damaged)?.heads() {
                    let RowHead { position, index, content, .. } = head;
                    let taken = Taken { position, index, content };
                    if head.identity != 0 && self.table.seen.take(head.identity, taken) {
                        added.push(head.identity);
                    }
                }
            }
            if outer.has_corrections() {
                for (head, corrected) in rows.corrections() {
                    self.corrections.read(head.position, &corrected);
                }
            }
            self.table.accept(AcceptedBatch { outer, append_time_us, added });
            self.table.sweep();
        }
        if outer.has_totals() {
            let sums = sections.sums(&header).map_err(damaged)?;
            self.totals.read(&header, &sums).map_err(damaged)?;
        }
        self.place = place;
        self.rated_to = place.x;
        self.tip = place.c;
        self.accepted_version = Some(header.catalog_version);
        Ok(true)
    }

    /// `[rated]` was read to its end: the first batch sent after that must stand there.
    pub fn read_to(&mut self, end: i64) {
        self.next_rated = end;
    }

    /// Unpacks a block and says which catalog versions it needs.
    pub fn open(&self, position: i64, payload: &[u8]) -> Result<Opened, StateError> {
        let damaged = |source| StateError::Block { position, source };
        let header = BlockHeader::decode(payload).map_err(damaged)?;
        let body = header.body(payload).map_err(damaged)?;
        let mut current = self.catalogs.version;
        let mut versions = marked_versions(&header, &body).map_err(damaged)?;
        versions.retain(|version| {
            let newer = *version > current;
            current = current.max(*version);
            newer
        });
        Ok(Opened { position, header, body, versions })
    }

    /// Teams with events in the block whose running totals Postgres has to be asked for first. `block` and
    /// `coming` as for [`State::rate`].
    pub fn unknown_teams(
        &self,
        opened: &Opened,
        block: &Block<'_>,
        coming: &[Arc<Catalogs>],
    ) -> Vec<TeamName> {
        let counts = |tenant: Uuid| {
            let all = std::iter::once(&self.catalogs).chain(coming);
            all.filter_map(|catalogs| catalogs.of(tenant)).any(|catalog| catalog.counts)
        };
        let header = &opened.header;
        let counting: Vec<bool> = header.tenants.iter().map(|one| counts(one.tenant)).collect();
        let is_counting = |tenant: u32| {
            usize::try_from(tenant).ok().and_then(|at| counting.get(at)).is_some_and(|is| *is)
        };
        let mut numbers: BTreeSet<(u32, u32)> = BTreeSet::new();
        let mut teams: BTreeSet<TeamName> = BTreeSet::new();
        let has_commands = block.entries.iter().any(|entry| matches!(entry, Entry::Command(_)));
        if !counting.contains(&true) && !has_commands {
            return Vec::new();
        }
        for entry in &block.entries {
            match entry {
                Entry::Event(event) | Entry::Copy(_, _, event) if is_counting(event.tenant) => {
                    numbers.insert((event.tenant, event.team));
                }
                // What it takes back may have counted, whatever counts now.
                Entry::Command(command) => {
                    teams.extend(Unpacked::of(command).and_then(|unpacked| unpacked.team()).ok());
                }
                _ => {}
            }
        }
        teams.extend(numbers.into_iter().map(|(tenant, team)| {
            let team = block.dictionary.get(team).unwrap_or_default();
            (header.tenant(tenant).unwrap_or_default(), Arc::from(team))
        }));
        teams.retain(|team| !self.totals.is_loaded(team));
        teams.into_iter().collect()
    }

    /// What Postgres has of a team's running totals.
    pub fn put_totals(&mut self, team: TeamName, stored: Vec<(TotalName, i128)>) {
        self.totals.load(team, stored);
    }

    /// Rates an opened block, with its entries, into the batch in the making. `coming` are the catalogs of
    /// [`Opened::versions`], in that order. The caller cuts the batch first where
    /// [`State::must_cut_before`] says so.
    pub fn rate(
        &mut self,
        append_time_us: i64,
        opened: &Opened,
        block: &Block<'_>,
        coming: &[Arc<Catalogs>],
    ) -> Result<(), StateError> {
        let position = opened.position;
        // INV-12, INV-15: blocks are rated in the order of the log, and none is left out.
        if position != self.next_position() {
            return Err(StateError::Gap { wanted: self.next_position(), found: position });
        }
        // Nobody rates with a version below the last accepted batch's.
        if let Some(accepted) = self.accepted_version.filter(|one| *one > self.catalogs.version) {
            return Err(StateError::CatalogMissing(accepted));
        }
        let (catalogs, memory) = (&mut self.catalogs, &mut self.memory);
        let (totals, corrections) = (&mut self.totals, &mut self.corrections);
        let (batch, _) = self.batch.get_or_insert_with(|| {
            totals.begin_batch();
            let memory = memory.take().unwrap_or_default();
            (Batch::new(position, append_time_us, memory), Arc::clone(catalogs))
        });
        let place = BlockPlace { partition: self.partition, position, append_time_us };
        batch.take_block(
            place,
            (&opened.header, block),
            catalogs,
            coming,
            &mut Known {
                seen: &mut self.table.seen,
                coverage: self.table.coverage,
                ranges: &self.table.ranges,
                totals,
                corrections,
            },
        )?;
        self.table.sweep();
        self.rated_to = position;
        Ok(())
    }

    /// Whether the batch in the making cannot take a block of this append time.
    #[must_use]
    pub fn must_cut_before(&self, append_time_us: i64) -> bool {
        self.batch().is_some_and(|batch| !batch.may_take(append_time_us))
    }

    /// The traces of the batch in the making.
    #[must_use]
    pub fn traces(&self) -> &[TraceContext] {
        self.batch().map_or(&[], Batch::traces)
    }

    /// Ends the batch in the making: its message is sent next, behind the ones in flight.
    pub fn cut(&mut self) -> Option<(Outer, Vec<u8>)> {
        let (batch, catalogs_before) = self.batch.take()?;
        let append_time_us = batch.append_time_max_us();
        let (version, coverage) = (self.catalogs.version, self.table.coverage);
        let (outer, message, effects, memory) =
            batch.finish(self.partition, self.tip, version, coverage, &self.totals);
        self.tip = outer.hash;
        self.memory = Some(memory);
        self.in_flight.push_back(InFlight {
            outer,
            effects,
            append_time_us,
            catalogs_before,
            catalog_version: self.catalogs.version,
        });
        Some((outer, message))
    }

    /// A report: the oldest batch in flight stands at `position` of `[rated]`. False where that is not
    /// right after the one before it, or after the end that was read: then something of another owner
    /// may lie between, and nothing in flight can be believed.
    pub fn landed(&mut self, position: i64) -> bool {
        if position != self.next_rated {
            return false;
        }
        let Some(oldest) = self.in_flight.pop_front() else { return false };
        self.next_rated = position + 1;
        self.place = self.place.after(&oldest.outer, position);
        self.accepted_version = Some(oldest.catalog_version);
        self.table.accept(AcceptedBatch {
            outer: oldest.outer,
            append_time_us: oldest.append_time_us,
            added: oldest.effects.added,
        });
        true
    }

    /// Forgets everything that is not accepted: after a report that is failed, unknown or not
    /// adjacent. The caller then reads `[rated]` from `R + 1` to its end and goes on from there.
    pub fn discard(&mut self) {
        if let Some((batch, before)) = self.batch.take() {
            self.table.seen.remove(&batch.added);
            self.totals.undo(batch.changes);
            self.corrections.undo(batch.corrects);
            self.catalogs = before;
        }
        while let Some(newest) = self.in_flight.pop_back() {
            if !planted::is(Bug::OverlayKept) {
                self.table.seen.remove(&newest.effects.added);
            }
            self.totals.undo(newest.effects.changes);
            self.corrections.undo(newest.effects.corrects);
            self.catalogs = newest.catalogs_before;
        }
        self.rated_to = self.place.x;
        self.tip = self.place.c;
    }
}
