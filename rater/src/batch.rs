//! A rated batch in the making: what blocks became, until it is cut and sent.

use std::{collections::BTreeMap, sync::Arc};

use domain::{
    catalog::Catalog,
    chain::Hash,
    planted::{self, Bug},
    rating::{
        self, Binding, Line, Lines, NoTotals, Outcome, RULES_VERSION, Rating, Rejection, Scratch,
        rate,
    },
    time::{FUTURE_US_MAX, bucket_of, month_of},
    wire::{
        block::{Block, BlockHeader, BlockWriter},
        carry::carry,
        rated::{BehindSums, Counts, Forward, Header, Outer, Parts, encode},
        record::{Entry, EventRecord, Refused, Verdict},
        row::{OtherOutcome, put_other, put_refused, put_usage_event},
        rows::ColumnsWriter,
        trace::{self, TraceContext},
    },
};
use hashbrown::HashMap;
use uuid::Uuid;

pub(crate) use self::correct::Unpacked;
pub use self::desk::BlockPlace;
use self::desk::{Case, Desk, Rules, batch_tenant, counted, row_place};
use crate::{
    catalogs::Catalogs,
    corrections::{Corrections, Corrects},
    names::Names,
    ranges::Ranges,
    seen::{Free, Seen, Taken},
    state::StateError,
    sums::{Account, Sums},
    totals::{Changes, Totals},
};

mod correct;
mod desk;

/// What a table covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// `S`: first position that the table covers.
    pub table_from: i64,
    /// `H`: highest append time of any block below `S`.
    pub horizon_us: i64,
}

impl Coverage {
    /// Whether an event that is not in the table cannot have a twin below it: a twin's block was
    /// appended at `H` or before, and no event may lie further in the future of its block.
    fn proves_new(&self, event: &EventRecord<'_>) -> bool {
        let certain = self.horizon_us.saturating_add(FUTURE_US_MAX);
        event.time_us.is_some_and(|time_us| time_us > certain)
    }
}

/// What is known of the identities that took effect.
#[derive(Debug)]
pub struct Known<'a> {
    /// The table.
    pub seen: &'a mut Seen,
    /// What it covers.
    pub coverage: Coverage,
    /// What has left it.
    pub ranges: &'a Ranges,
    /// Running totals of teams.
    pub totals: &'a mut Totals,
    /// Which events were corrected lately.
    pub corrections: &'a mut Corrections,
}

/// Memory for the rows and sums of a batch: what one has used is used by the next.
#[derive(Clone, Debug)]
pub struct Memory {
    rows: ColumnsWriter,
    others: ColumnsWriter,
    sums: Sums,
}

impl Default for Memory {
    fn default() -> Memory {
        let (rows, others) = (ColumnsWriter::usage_events(), ColumnsWriter::rejected_events());
        Memory { rows, others, sums: Sums::default() }
    }
}

impl Memory {
    fn of(mut rows: ColumnsWriter, mut others: ColumnsWriter, mut sums: Sums) -> Memory {
        rows.clear();
        others.clear();
        sums.clear();
        Memory { rows, others, sums }
    }
}

/// What a batch did to the state of its owner.
#[derive(Clone, Debug)]
pub struct Effects {
    /// Identities that it added to the table.
    pub added: Vec<u128>,
    /// Running totals that it changed.
    pub changes: Changes,
    /// Events that it corrected.
    pub corrects: Corrects,
}

/// A batch in the making.
#[derive(Clone, Debug)]
pub struct Batch {
    /// First position.
    pub from: i64,
    /// Last position so far.
    pub to: i64,
    /// Entries so far.
    pub entries: u32,
    /// Identities it added to the table.
    pub added: Vec<u128>,
    /// Running totals that it changed.
    pub changes: Changes,
    /// Events that it corrected.
    pub corrects: Corrects,
    /// Events since it was last asked that are not simply rated, by reason: the code of a rejection,
    /// `unmetered`, `unpriced`, or `uncosted`, which may be rated all the same.
    pub unrated: BTreeMap<String, u64>,
    /// Quantities since it was last asked that were rounded to the decimals that are kept.
    pub rounded: u64,
    append_time_us: (i64, i64),
    /// Blocks so far, each as often as it has tenants and catalogs.
    serial: u32,
    counts: Vec<(Uuid, Counts)>,
    traces: Vec<TraceContext>,
    sums: Sums,
    rows: ColumnsWriter,
    others: ColumnsWriter,
    forwards: Vec<Forward>,
    forward_bytes: usize,
    forward_block: BlockWriter,
}

impl Batch {
    /// An empty batch that begins at `from`, in memory that was used before.
    #[must_use]
    pub fn new(from: i64, append_time_us: i64, memory: Memory) -> Batch {
        let Memory { rows, others, sums } = memory;
        Batch {
            from,
            to: from - 1,
            entries: 0,
            added: Vec::new(),
            changes: Changes::default(),
            corrects: Corrects::default(),
            unrated: BTreeMap::new(),
            rounded: 0,
            append_time_us: (append_time_us, append_time_us),
            serial: 0,
            counts: Vec::new(),
            traces: Vec::new(),
            sums,
            rows,
            others,
            forwards: Vec::new(),
            forward_bytes: 0,
            forward_block: BlockWriter::default(),
        }
    }

    /// Bytes of rows and late events so far, the rows before compression.
    #[must_use]
    pub fn size(&self) -> usize {
        self.rows.size() + self.others.size() + self.forward_bytes
    }

    /// Sampled requests that have events in it.
    #[must_use]
    pub fn traces(&self) -> &[TraceContext] {
        &self.traces
    }

    /// Late events so far.
    #[must_use]
    pub fn forwarded(&self) -> usize {
        self.forwards.len()
    }

    /// Whether a block of this append time may still join: the archive's table partitions are
    /// months, and a batch lies in one.
    #[must_use]
    pub fn may_take(&self, append_time_us: i64) -> bool {
        month_of(self.append_time_us.0) == month_of(append_time_us)
    }

    /// Rates a block into the batch. `catalogs` is the state before the block and is left as the
    /// state after it; `coming` are the versions that its markers switch to, in their order.
    pub fn take_block(
        &mut self,
        place: BlockPlace,
        (header, block): (&BlockHeader, &Block<'_>),
        catalogs: &mut Arc<Catalogs>,
        coming: &[Arc<Catalogs>],
        known: &mut Known<'_>,
    ) -> Result<(), StateError> {
        let tenants = header
            .tenants
            .iter()
            .map(|count| self.tenant(count.tenant, count.events, count.copies))
            .collect();
        let mut desk = Desk {
            position: place.position,
            partition: place.partition,
            append_time_us: place.append_time_us,
            header,
            block,
            tenants,
            teams: vec![None; block.dictionary.texts().len()],
            counted: HashMap::new(),
        };
        if planted::is(Bug::CatalogByClock)
            && let Some(last) = coming.last()
        {
            *catalogs = Arc::clone(last);
        }
        let mut coming = coming.iter();
        let mut bindings: HashMap<u32, (Arc<Catalog>, Binding, Names)> = HashMap::new();
        let mut scratch = Scratch::default();
        for (index, entry) in (0u32..).zip(&block.entries) {
            match entry {
                // INV-18: prices switch at a marker, whatever any clock says.
                Entry::Marker { catalog_version, .. } if *catalog_version > catalogs.version => {
                    let next = coming.next().filter(|next| next.version == *catalog_version);
                    *catalogs =
                        Arc::clone(next.ok_or(StateError::CatalogMissing(*catalog_version))?);
                    bindings.clear();
                }
                // A repeat: publishing appends a marker again when it cannot know that it stands.
                Entry::Marker { .. } => {}
                Entry::Command(command) => {
                    self.command(&desk, (index, command), catalogs, known, &mut scratch)?;
                }
                Entry::Refused(refused) => {
                    self.put_refused(&desk, index, refused, catalogs.version)
                }
                Entry::Event(event) | Entry::Copy(_, _, event) => {
                    let copy = match entry {
                        Entry::Copy(verdict, origin, _) => Some((*verdict, *origin)),
                        _ => None,
                    };
                    let tenant = header.tenant(event.tenant).unwrap_or_default();
                    let bound = bindings.entry(event.tenant).or_insert_with(|| {
                        let catalog = catalogs.of(tenant).cloned().unwrap_or_default();
                        let binding = Binding::new(&catalog, &block.dictionary);
                        self.serial += 1;
                        let names = Names::of(&catalog, self.serial);
                        (catalog, binding, names)
                    });
                    let (catalog, binding, names) = bound;
                    let case = Case { index, event, copy };
                    let mut rules = Rules { catalog, binding, names, version: catalogs.version };
                    self.decide(&mut desk, &case, &mut rules, known, &mut scratch)?;
                }
            }
            self.entries += 1;
        }
        trace::add(&mut self.traces, &header.traces);
        self.to = place.position;
        self.append_time_us.1 = self.append_time_us.1.max(place.append_time_us);
        Ok(())
    }

    fn tenant(&mut self, tenant: Uuid, events: u64, copies: u64) -> u32 {
        let place =
            self.counts.iter().position(|(known, _)| *known == tenant).unwrap_or_else(|| {
                self.counts.push((tenant, Counts::default()));
                self.counts.len() - 1
            });
        if let Some((_, counts)) = self.counts.get_mut(place) {
            counts.accepted += events;
            counts.copies += copies;
        }
        u32::try_from(place).unwrap_or(u32::MAX)
    }

    /// One entry gets its one outcome: the table first, then the verdict or what proves it new,
    /// then the ranges below the table, then the rules. INV-02, INV-03: what comes again is found, and
    /// other content is told apart.
    fn decide(
        &mut self,
        desk: &mut Desk<'_>,
        case: &Case<'_>,
        rules: &mut Rules<'_>,
        known: &mut Known<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), StateError> {
        let free = match known.seen.look_up(case.event.identity) {
            Err(free) => free,
            Ok(Taken { position, index, content }) => {
                let (first, here) = ((position, index), (desk.position, case.index));
                assert!(
                    first < here,
                    "the table knows only what lies before: {first:?} and {here:?}"
                );
                let outcome = if content == case.event.content {
                    OtherOutcome::Duplicate { position, index }
                } else {
                    OtherOutcome::Conflict { position, index }
                };
                self.put_other(desk, case, rules, &outcome);
                return Ok(());
            }
        };
        let again = match case.copy.map(|(verdict, _)| verdict) {
            Some(Verdict::DuplicateOf { position, index }) => {
                self.put_other(desk, case, rules, &OtherOutcome::Duplicate { position, index });
                return Ok(());
            }
            Some(Verdict::ConflictWith { position, index }) => {
                self.put_other(desk, case, rules, &OtherOutcome::Conflict { position, index });
                return Ok(());
            }
            // What lies after the archive's `A` and has left the table was seen by nobody.
            Some(Verdict::New { checked_to }) => {
                known.coverage.table_from > checked_to.saturating_add(1)
                    && !planted::is(Bug::CheckedToIgnored)
            }
            None => false,
        };
        let new = case.copy.is_some() || known.coverage.proves_new(case.event);
        if again || !new {
            let reported = known.ranges.reported(case.event.identity);
            if again || !reported.is_empty() {
                return self.forward(desk, case, reported);
            }
        }
        self.rate(desk, case, rules, free, known.totals, scratch);
        Ok(())
    }

    /// Hands a late event, or a copy whose verdict is too old, to the slow lane.
    fn forward(
        &mut self,
        desk: &Desk<'_>,
        case: &Case<'_>,
        ranges: Vec<(i64, i64)>,
    ) -> Result<(), StateError> {
        let tenant = desk.header.tenant(case.event.tenant).unwrap_or_default();
        let carried = carry(case.event, &desk.block.dictionary, tenant, &mut self.forward_block)
            .map_err(|source| StateError::Block { position: desk.position, source })?;
        let entry = match case.copy {
            Some((verdict, origin)) => Entry::Copy(verdict, origin, carried),
            None => Entry::Event(carried),
        };
        self.forward_block.push(&entry);
        let block = self.forward_block.finish();
        self.forward_bytes += block.len();
        self.forwards.push(Forward {
            position: desk.position,
            index: case.index,
            append_time_us: desk.append_time_us,
            hold: case.event.hold,
            ranges,
            block,
        });
        self.count(desk, case.event.tenant, |counts| counts.forwarded += 1);
        Ok(())
    }

    fn rate(
        &mut self,
        desk: &mut Desk<'_>,
        case: &Case<'_>,
        rules: &mut Rules<'_>,
        free: Free<'_>,
        totals: &mut Totals,
        scratch: &mut Scratch,
    ) {
        let append_time_us =
            case.copy.map_or(desk.append_time_us, |(_, origin)| origin.append_time_us);
        let time_us = case.event.time_us.unwrap_or(append_time_us);
        let team = rules.catalog.counts.then(|| counted(desk, case.event));
        let of_team = team.as_ref().map(|team| totals.of(team));
        let rating = Rating {
            catalog: rules.catalog,
            binding: rules.binding,
            dictionary: &desk.block.dictionary,
            time_us,
            append_time_us,
        };
        let before: &dyn rating::Totals = match &of_team {
            Some(of_team) => of_team,
            None => &NoTotals,
        };
        let mut lines = Lines::new();
        match rate(&rating, case.event, before, scratch, &mut lines) {
            Err(rejection) => self.put_other(desk, case, rules, &OtherOutcome::Rejected(rejection)),
            Ok(outcome) => {
                for total in lines.iter().filter_map(|line| line.total.as_deref()) {
                    if let Some(team) = &team {
                        totals.add(&mut self.changes, team, &total.name, total.after);
                    }
                }
                free.take(Taken {
                    position: desk.position,
                    index: case.index,
                    content: case.event.content,
                });
                self.added.push(case.event.identity);
                match outcome {
                    Outcome::Rated => {}
                    Outcome::Unmetered => self.note("unmetered"),
                    Outcome::Unpriced => self.note("unpriced"),
                }
                if lines.iter().any(|line| rules.catalog.misses_cost(line)) {
                    self.note("uncosted");
                }
                self.count(desk, case.event.tenant, |counts| match outcome {
                    Outcome::Rated => counts.rated += 1,
                    Outcome::Unmetered => counts.unmetered += 1,
                    Outcome::Unpriced => counts.unpriced += 1,
                });
                self.add_lines(desk, case.event, rules, &lines, bucket_of(time_us));
                let place =
                    row_place(desk, case.index, case.event.tenant, rules.place(), case.copy);
                self.rows.push(|out| {
                    put_usage_event(
                        out,
                        &place,
                        case.event,
                        time_us,
                        outcome,
                        rules.catalog,
                        &lines,
                    )
                });
            }
        }
    }

    fn count(&mut self, desk: &Desk<'_>, tenant: u32, change: impl FnOnce(&mut Counts)) {
        let place = batch_tenant(desk, tenant);
        if let Some((_, counts)) =
            usize::try_from(place).ok().and_then(|place| self.counts.get_mut(place))
        {
            change(counts);
        }
    }

    fn add_lines(
        &mut self,
        desk: &mut Desk<'_>,
        event: &EventRecord<'_>,
        rules: &mut Rules<'_>,
        lines: &[Line<'_>],
        bucket: i64,
    ) {
        if lines.is_empty() {
            return;
        }
        let tenant = batch_tenant(desk, event.tenant);
        let account =
            Account { tenant, team: self.team(desk, event.team), bucket, hold: event.hold };
        for line in lines {
            self.rounded += u64::from(line.rounded);
            self.sums.add(account, rules.catalog, rules.names, line);
        }
    }

    /// The sums' number of a team of the block, looked up once per block.
    fn team(&mut self, desk: &mut Desk<'_>, number: u32) -> u32 {
        let sums = &mut self.sums;
        let text = desk.block.dictionary.get(number).unwrap_or_default();
        let known = usize::try_from(number).ok().and_then(|place| desk.teams.get_mut(place));
        match known {
            Some(known) => *known.get_or_insert_with(|| sums.intern(text)),
            None => sums.intern(text),
        }
    }

    fn put_other(
        &mut self,
        desk: &Desk<'_>,
        case: &Case<'_>,
        rules: &Rules<'_>,
        outcome: &OtherOutcome,
    ) {
        self.count(desk, case.event.tenant, |counts| match outcome {
            OtherOutcome::Duplicate { .. } => counts.duplicates += 1,
            OtherOutcome::Conflict { .. } => counts.conflicts += 1,
            OtherOutcome::Rejected(Rejection { .. }) => counts.rejected += 1,
            // A command is no event, and has no count.
            OtherOutcome::Uncorrected(_) => {}
        });
        if let OtherOutcome::Rejected(rejection) = outcome {
            self.note(rejection.reason);
        }
        let place = row_place(desk, case.index, case.event.tenant, rules.place(), case.copy);
        self.others.push(|out| put_other(out, &place, case.event, outcome));
    }

    /// Counts an event that is not simply rated. There are few reasons: codes of rules.
    fn note(&mut self, reason: &str) {
        match self.unrated.get_mut(reason) {
            Some(count) => *count += 1,
            None => {
                self.unrated.insert(reason.to_owned(), 1);
            }
        }
    }

    fn put_refused(&mut self, desk: &Desk<'_>, index: u32, refused: &Refused<'_>, version: u64) {
        self.count(desk, refused.tenant, |counts| counts.rejected += 1);
        self.note(refused.reason);
        let place = row_place(desk, index, refused.tenant, (version, 0), None);
        self.others.push(|out| put_refused(out, &place, refused));
    }

    /// The highest append time of its blocks, microseconds.
    #[must_use]
    pub fn append_time_max_us(&self) -> i64 {
        self.append_time_us.0.max(self.append_time_us.1)
    }

    /// Ends the batch: the message, its outer header, the identities it added, and its memory.
    #[must_use]
    pub fn finish(
        mut self,
        partition: u32,
        prev: Hash,
        catalog_version: u64,
        coverage: Coverage,
        totals: &Totals,
    ) -> (Outer, Vec<u8>, Effects, Memory) {
        // INV-15: nothing that was read vanishes.
        for (tenant, counts) in &self.counts {
            assert!(counts.balanced(), "every entry of {tenant} has one outcome: {counts:?}");
        }
        let header = Header {
            catalog_version,
            rules_version: RULES_VERSION,
            table_from: coverage.table_from,
            horizon_us: coverage.horizon_us,
            append_time_us: self.append_time_us,
            counts: self.counts,
            traces: self.traces,
        };
        let counts = &header.counts;
        let number = |tenant: Uuid| {
            let place = counts.iter().position(|(known, _)| *known == tenant);
            place.and_then(|place| u32::try_from(place).ok()).unwrap_or(u32::MAX)
        };
        let totals = totals.carried(&self.changes, self.sums.dictionary(), number);
        let behind = match (self.corrects.is_empty(), totals.is_empty()) {
            (false, _) => BehindSums::Corrected,
            (true, false) => BehindSums::Totals,
            (true, true) => BehindSums::Nothing,
        };
        let parts = Parts {
            sums: self.sums.encode((behind != BehindSums::Nothing).then_some(&totals)),
            behind,
            header,
            rows: self.rows,
            others: self.others,
            forwards: self.forwards,
        };
        let (outer, message) = encode(partition, self.from, self.to, prev, &parts);
        let effects = Effects { added: self.added, changes: self.changes, corrects: self.corrects };
        (outer, message, effects, Memory::of(parts.rows, parts.others, self.sums))
    }
}
