//! Meters that do not add up: the job that searches the archive for what was observed, and closes its periods. What is
//! to be done about a period, and how that is said, is the product's; what the archive has is counted as ClickHouse
//! would. Two of them know nothing of each other, and each may end between any two steps.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::LazyLock,
};

use api::closing::{
    Changed, Closed, Closing, Duties, Measure, closing_type, duties, read,
    recount::{Observation, recount},
};
use bytes::Bytes;
use domain::{
    event::IdentityKey,
    meter::{Aggregation, CLOSING_SOURCE, CLOSING_TYPE, HeldFor, MeterDefinition, Paths},
    period::{Period, PeriodKind},
    preview::{Data, EventText},
    quantity::Quantity,
    wire::{
        block::{Block, BlockHeader, BlockWriter},
        correction::OBSERVED,
        record::Entry as RecordEntry,
    },
};

use super::{
    calls::{Answer, CallId, Effect, Look},
    corrections::{Correct, encode},
    rows::UsageRow,
    stores::{Archive, Database},
    traffic::{DAY_US, Entry, Event, GAUGE, ONE, TENANTS},
    world::{Planted, World},
};
use crate::oracle::Price;

/// The meters: a maximum, an average, and what is held for how many hours. Their periods are days.
pub const OBSERVING: [&str; 3] = ["peak", "mean", "held"];
/// The one whose numbers carry over.
pub const HELD: usize = 2;
/// Numbers of the events that close periods begin here; tenant, team and meter follow from one.
pub const CLOSINGS: u8 = 200;
/// Callers that close periods.
const CALLER: usize = 8;
/// Rounds of comparing and appending.
const ROUNDS_MAX: usize = 4;
/// Rounds of healing until nothing is left to close.
const HEALING_MAX: usize = 100;

/// A tenant, a meter, and when its period begins.
pub type PeriodKey = (usize, usize, i64);

/// A row of `meter_periods`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoredPeriod {
    /// Whether it is closed.
    pub is_closed: bool,
    /// Who closes it.
    lease: Option<u32>,
}

/// What a unit costs, in units of the last decimal.
pub fn closing_price(version: u64) -> Price {
    Price { amount: ONE / 50 * i128::from(version) + 1, per: 7 * ONE }
}

/// The definition of a meter.
pub fn definition(meter: usize) -> &'static MeterDefinition {
    static ALL: LazyLock<Vec<MeterDefinition>> = LazyLock::new(|| {
        let aggregations = [Aggregation::Max, Aggregation::Average, Aggregation::TimeWeighted];
        let one = |(key, aggregation): (&str, Aggregation)| MeterDefinition {
            key: key.into(),
            event_types: vec![GAUGE.into()],
            aggregation,
            value: Some(Paths::One("$.tokens".into())),
            formula: None,
            samples: Vec::new(),
            unit: "unit".into(),
            filters: Vec::new(),
            dimensions: BTreeMap::new(),
            allow_negative: false,
            period: Some(PeriodKind::Day),
            held_for: (aggregation == Aggregation::TimeWeighted).then_some(HeldFor::Hour),
            changes: false,
        };
        OBSERVING.into_iter().zip(aggregations).map(one).collect()
    });
    &ALL[meter]
}

fn day(from_us: i64) -> Period {
    Period { kind: PeriodKind::Day, start_us: from_us, end_us: from_us + DAY_US }
}

impl Event {
    /// The event that closes a period of a team with a quantity.
    pub fn closing((tenant, meter, from_us): PeriodKey, team: usize, quantity: i128) -> Event {
        let id = CLOSINGS + u8::try_from(4 * meter + 2 * team + tenant).unwrap();
        let time_us = Some(from_us + DAY_US - 1);
        Event { id, quantity: i64::try_from(quantity).unwrap(), time_us }
    }

    /// Of an event that closes a period: the meter.
    pub fn closes(&self) -> usize {
        usize::from(self.id - CLOSINGS) / 4
    }

    /// Of an event that closes a period: which.
    pub fn period(&self) -> PeriodKey {
        (self.tenant(), self.closes(), self.time_us.unwrap() + 1 - DAY_US)
    }
}

/// What the product says to close a period.
fn closing(event: &Event) -> Closing<'static> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    let (_, meter, from_us) = event.period();
    Closing {
        meter: definition(meter),
        period: day(from_us),
        zone: "",
        team: event.team(),
        dimensions: &NONE,
        quantity: Quantity::from_raw(event.quantity.into()).unwrap(),
    }
}

/// Appends what closes a period as a correction has it.
pub fn put_closing(writer: &mut BlockWriter, event: &Event, identity: u128) {
    let text = closing(event).text();
    let data = Data::of_event(&text).unwrap();
    let said: serde_json::Value = serde_json::from_str(&text).unwrap();
    let (id, event_type) = (said["id"].as_str().unwrap(), closing_type(OBSERVING[event.closes()]));
    let event = EventText {
        tenant: TENANTS[event.tenant()],
        team: event.team(),
        subject: event.team(),
        source: CLOSING_SOURCE,
        event_type: &event_type,
        user: None,
        app: None,
        key: None,
        feature: None,
        id,
        identity,
        content: data.content(&event_type, event.team()),
        time_us: event.time_us,
        data: &data,
    };
    event.push(writer);
}

/// A block of what closes periods, as the product sends it, and what is in it.
fn block_of(events: &[Event]) -> (Bytes, Vec<Entry>) {
    let mut writer = BlockWriter::default();
    for event in events {
        let tenant = TENANTS[event.tenant()];
        closing(event).push(tenant, &IdentityKey([7; 16]), &mut writer).unwrap();
    }
    let message = writer.finish();
    let header = BlockHeader::decode(&message).unwrap();
    let body = header.body(&message).unwrap();
    let block = Block::decode(&header, &body).unwrap();
    let entry = |(event, entry): (&Event, &RecordEntry<'_>)| {
        let RecordEntry::Event(record) = entry else { panic!("{entry:?} closes nothing") };
        Entry::Closing { event: *event, identity: record.identity, content: record.content }
    };
    let entries = events.iter().zip(&block.entries).map(entry).collect();
    (message.into(), entries)
}

/// One who closes periods.
#[derive(Clone, Debug, Default)]
pub struct Closer {
    search: Option<Search>,
    work: Option<Work>,
}

/// A part of the archive that is searched for what was observed.
#[derive(Clone, Debug)]
struct Search {
    partition: usize,
    to: i64,
    seen: BTreeSet<Seen>,
    is_opened: bool,
}

/// A period that is being closed.
#[derive(Clone, Debug)]
struct Work {
    key: PeriodKey,
    lease: u32,
    round: usize,
    /// Where the archive was as the round began.
    archived: Vec<i64>,
    /// The partition to compare next.
    next: usize,
    /// What is still to be appended of the partition before.
    unsent: VecDeque<(u32, Bytes, Vec<Entry>)>,
    waits: Option<(usize, CallId)>,
    /// Last positions of what was appended.
    appended: BTreeMap<usize, i64>,
    quantities: i64,
}

impl Closer {
    /// Whether it is searching.
    pub fn is_searching(&self) -> bool {
        self.search.is_some()
    }

    /// Whether it is closing a period.
    pub fn is_closing(&self) -> bool {
        self.work.is_some()
    }
}

impl Database {
    /// Opens the period of a time, and all behind it where numbers carry over; answers how many were closed.
    fn open_period(&mut self, (tenant, meter, time_us, closes): Seen) -> u64 {
        let from_us = time_us.div_euclid(DAY_US) * DAY_US;
        let last = if meter == HELD && !closes { i64::MAX } else { from_us };
        let mut reopened = 0;
        let own = (tenant, meter, from_us)..=(tenant, meter, last);
        for (_, period) in self.periods.range_mut(own) {
            reopened += u64::from(period.is_closed);
            *period = StoredPeriod::default();
        }
        self.periods.entry((tenant, meter, from_us)).or_default();
        reopened
    }

    fn keeps(&self, key: &PeriodKey, lease: u32) -> bool {
        self.periods[key].lease == Some(lease)
    }
}

/// An event as it is now: the row that took the id, the newest that counts, and how many corrections there were.
type Current<'a> = (&'a UsageRow, Option<&'a UsageRow>, u32);

impl Archive {
    /// Events of a partition and tenant, by what stands up to a position.
    fn current(&self, partition: u32, tenant: usize, to: i64) -> Vec<Current<'_>> {
        let mut newest: HashMap<(i64, u32), &UsageRow> = HashMap::new();
        for row in self.corrections.values() {
            if row.partition == partition && row.head.position <= to {
                let slot = newest.entry(row.origin).or_insert(row);
                if (row.run, row.sign) > (slot.run, slot.sign) {
                    *slot = row;
                }
            }
        }
        let own = self.usage.range((partition, 0, 0)..=(partition, to.max(0), u32::MAX));
        own.map(|(_, row)| row)
            .filter(|row| row.head.position <= to && row.tenant == TENANTS[tenant])
            .map(|row| match newest.get(&(row.head.position, row.head.index)) {
                Some(newest) => (row, (newest.sign > 0).then_some(*newest), newest.run),
                None => (row, Some(row), 0),
            })
            .collect()
    }

    /// What was observed behind a position and up to another, and what closed periods.
    fn seen(&self, partition: u32, (after, to): (i64, i64)) -> BTreeSet<Seen> {
        let all = self.usage.values().chain(self.corrections.values());
        let own = all.filter(|row| {
            row.partition == partition && (after + 1..=to).contains(&row.head.position)
        });
        own.flat_map(|row| {
            let tenant = TENANTS.iter().position(|tenant| *tenant == row.tenant).unwrap();
            let observed = row.lines.iter().filter(|line| line.status == OBSERVED);
            let observed = observed.map(|line| (line.meter.as_str(), false));
            let closes = row.event_type.strip_prefix(CLOSING_TYPE).map(|meter| (meter, true));
            observed
                .chain(closes)
                .map(|(meter, closes)| (tenant, number_of(meter), row.time_us, closes))
                .collect::<Vec<Seen>>()
        })
        .collect()
    }
}

/// Tenant, meter and time, and whether a period is closed then.
type Seen = (usize, usize, i64, bool);

fn number_of(meter: &str) -> usize {
    OBSERVING.iter().position(|key| *key == meter).unwrap()
}

/// What closed a period so far.
#[derive(Debug)]
struct Found {
    of: (i64, u32),
    run: u32,
    effective: Option<UsageRow>,
}

impl World {
    /// One begins to close periods.
    pub fn start_closer(&mut self, which: usize) {
        self.tell(|| format!("closer {which} starts"));
        self.closers[which] = Some(Closer::default());
    }

    /// It ends between two steps.
    pub fn crash_closer(&mut self, which: usize) {
        self.tell(|| format!("closer {which} ends"));
        self.closers[which] = None;
        self.faults.crashes += 1;
    }

    /// Searches what is new in a partition of the archive.
    pub fn search(&mut self, which: usize, partition: usize) {
        let number = u32::try_from(partition).unwrap();
        let (after, to) = (self.database.searched[partition], self.archive.position(number).x);
        let Some(closer) = &mut self.closers[which] else { return };
        if after < to {
            let mut seen = self.archive.seen(number, (after, to));
            if self.settings.planted == Planted::ClosingsUnseen {
                seen.retain(|(.., closes)| !closes);
            }
            closer.search = Some(Search { partition, to, seen, is_opened: false });
        }
    }

    /// Opens the periods of what was found, or notes that it did.
    pub fn go_on_searching(&mut self, which: usize) {
        let Some(closer) = &mut self.closers[which] else { return };
        let Some(search) = &mut closer.search else { return };
        if search.is_opened {
            let searched = &mut self.database.searched[search.partition];
            *searched = search.to.max(*searched);
            closer.search = None;
            return;
        }
        search.is_opened = true;
        let seen = search.seen.clone();
        for one in &seen {
            self.faults.reopened += self.database.open_period(*one);
        }
        self.tell(|| format!("closer {which} opens {seen:?}"));
    }

    /// Periods that are over and open, without those that somebody else has.
    pub fn due(&self, steals: bool) -> Vec<PeriodKey> {
        let all = self.database.periods.iter();
        let due = all.filter(|((_, _, from_us), period)| {
            !period.is_closed
                && day(*from_us).end_us <= self.now_us
                && (steals || period.lease.is_none())
        });
        due.map(|(key, _)| *key).collect()
    }

    /// Takes a period.
    pub fn take_period(&mut self, which: usize, key: PeriodKey) {
        self.database.leases += 1;
        let lease = self.database.leases;
        let before = self.database.periods.get_mut(&key).unwrap().lease.replace(lease);
        self.faults.stolen += u64::from(before.is_some());
        let archived = self.archived();
        let work = Work {
            key,
            lease,
            round: 0,
            archived,
            next: 0,
            unsent: VecDeque::new(),
            waits: None,
            appended: BTreeMap::new(),
            quantities: 0,
        };
        self.closers[which].as_mut().unwrap().work = Some(work);
        self.tell(|| format!("closer {which} takes {key:?}"));
    }

    fn archived(&self) -> Vec<i64> {
        let partitions = 0..u32::try_from(self.settings.partitions).unwrap();
        partitions.map(|partition| self.archive.position(partition).x).collect()
    }

    /// Gives its period back.
    pub fn give_back(&mut self, which: usize) {
        let Some(closer) = &mut self.closers[which] else { return };
        let Some(Work { key, lease, .. }) = closer.work.take() else { return };
        if self.database.keeps(&key, lease) {
            self.database.periods.get_mut(&key).unwrap().lease = None;
        }
        self.tell(|| format!("closer {which} gives {key:?} back"));
    }

    /// The next step of closing its period. With `doubt` an append that it waits for has an unknown outcome.
    pub fn go_on_closing(&mut self, which: usize, doubt: bool) {
        let Some(work) = self.closers[which].as_ref().and_then(|closer| closer.work.clone()) else {
            return;
        };
        if let Some((partition, call)) = work.waits {
            return self.hear_closing(which, (partition, call), doubt);
        }
        if !work.unsent.is_empty() {
            return self.send_closings(which);
        }
        if work.next < self.settings.partitions {
            return self.compare(which, work);
        }
        if work.appended.is_empty() {
            return self.close_period(which, &work);
        }
        let archived = self.archived();
        if work.appended.iter().all(|(partition, position)| archived[*partition] >= *position) {
            if work.round + 1 == ROUNDS_MAX {
                return self.give_back(which);
            }
            let again = Work {
                round: work.round + 1,
                archived,
                next: 0,
                appended: BTreeMap::new(),
                quantities: 0,
                ..work
            };
            self.closers[which].as_mut().unwrap().work = Some(again);
        }
    }

    /// Compares what closed the period in a partition with what was observed.
    fn compare(&mut self, which: usize, mut work: Work) {
        if !self.database.keeps(&work.key, work.lease) {
            self.closers[which].as_mut().unwrap().work = None;
            return;
        }
        let (tenant, meter, from_us) = work.key;
        let (partition, to) = (work.next, work.archived[work.next]);
        let number = u32::try_from(partition).unwrap();
        let closed = self.closed(&work.key, number, to);
        let measure = Measure::of(definition(meter), &day(from_us)).unwrap();
        let mut teams: BTreeMap<String, Vec<Observation>> = BTreeMap::new();
        for (first, effective, _) in self.archive.current(number, tenant, i64::MAX) {
            let Some(row) = effective else { continue };
            let observed = row.lines.iter().filter(|line| line.status == OBSERVED);
            for line in observed.filter(|line| line.meter == OBSERVING[meter]) {
                teams.entry(row.team.clone()).or_default().push(Observation {
                    time_us: row.time_us,
                    place: (first.head.position, first.head.index),
                    quantity: line.quantity,
                    dimensions: BTreeMap::new(),
                });
            }
        }
        let counted = teams
            .into_iter()
            .flat_map(|(team, observations)| recount(&team, measure, &day(from_us), observations));
        let Duties { quantities, missing, changed, too_large } = duties(counted.collect(), closed);
        assert!(too_large.is_none(), "{too_large:?} has too much");
        work.quantities += quantities;
        let team_of = |team: &str| usize::from(team == "team-b");
        let missing: Vec<Event> = missing
            .iter()
            .map(|(one, quantity)| Event::closing(work.key, team_of(&one.team), quantity.raw()))
            .collect();
        if !missing.is_empty() {
            let (payload, entries) = block_of(&missing);
            work.unsent.push_back((number, payload, entries));
        }
        for Changed { found, quantity, .. } in changed {
            // What was voided stays so.
            let Some(effective) = found.effective else { continue };
            let event = match &self.log[partition].block(found.of.0).unwrap().entries
                [found.of.1 as usize]
            {
                Entry::Closing { event, .. } | Entry::Copy { event, .. } => *event,
                other => panic!("{other:?} closed a period"),
            };
            let correct = Correct {
                of: found.of,
                run: found.run + 1,
                checked_to: to,
                event,
                now: Some(i64::try_from(quantity.raw()).unwrap()),
                given: 0,
                version: self.version,
            };
            let payload = encode(&correct, &effective).unwrap();
            work.unsent.push_back((number, payload.into(), vec![Entry::Correct(correct)]));
        }
        work.next += 1;
        self.closers[which].as_mut().unwrap().work = Some(work);
        self.send_closings(which);
    }

    /// What closed a period so far, by what stands up to a position.
    fn closed(&self, (tenant, meter, from_us): &PeriodKey, number: u32, to: i64) -> Closed<Found> {
        let mut closed = Closed::new();
        let (of_type, at_us) = (closing_type(OBSERVING[*meter]), day(*from_us).end_us - 1);
        for (first, effective, run) in self.archive.current(number, *tenant, to) {
            if first.event_type != of_type || first.time_us != at_us {
                continue;
            }
            let said = read(&effective.unwrap_or(first).raw).unwrap();
            let of = (first.head.position, first.head.index);
            let found = Found { of, run, effective: effective.cloned() };
            closed.insert((first.team.clone(), said.dimensions), (found, said.quantity));
        }
        closed
    }

    fn send_closings(&mut self, which: usize) {
        let Some(work) = self.closers[which].as_mut().and_then(|closer| closer.work.as_mut())
        else {
            return;
        };
        let Some((number, payload, entries)) = work.unsent.pop_front() else { return };
        let effect = Effect::Close(number, payload, entries);
        work.waits = Some((number as usize, self.calls.begin(CALLER + which, effect)));
    }

    fn hear_closing(&mut self, which: usize, (partition, call): (usize, CallId), doubt: bool) {
        match self.calls.look(call) {
            Look::Waiting if !doubt => {}
            Look::Answered(Answer::At(position)) if !doubt => {
                self.calls.forget(call);
                let closer = self.closers[which].as_mut().unwrap();
                let work = closer.work.as_mut().unwrap();
                work.waits = None;
                work.appended.insert(partition, position);
            }
            _ => {
                self.unheard(doubt);
                self.give_back(which);
            }
        }
    }

    fn close_period(&mut self, which: usize, work: &Work) {
        self.closers[which].as_mut().unwrap().work = None;
        let (tenant, meter, from_us) = work.key;
        if self.database.keeps(&work.key, work.lease) {
            let closed = StoredPeriod { is_closed: true, lease: None };
            self.database.periods.insert(work.key, closed);
            self.tell(|| format!("closer {which} has closed {:?}", work.key));
        }
        if meter == HELD && work.quantities > 0 {
            let next = (tenant, meter, from_us + DAY_US);
            self.database.periods.entry(next).or_default();
        }
    }

    /// Closes all that is over; `quiet` lets everything else become quiet.
    pub fn close_all(&mut self, quiet: impl Fn(&mut World)) {
        self.closers = [None, None];
        self.start_closer(0);
        for _ in 0..HEALING_MAX {
            for partition in 0..self.settings.partitions {
                self.search(0, partition);
                self.go_on_searching(0);
                self.go_on_searching(0);
            }
            if self.due(true).is_empty() {
                return;
            }
            let mut tried = BTreeSet::new();
            while let Some(key) = self.due(true).into_iter().find(|key| tried.insert(*key)) {
                self.take_period(0, key);
                self.close_as_far_as_it_goes();
            }
            quiet(self);
        }
        panic!("periods cannot be closed: {:?}", self.due(true));
    }

    /// Goes on until the archive must go on first.
    fn close_as_far_as_it_goes(&mut self) {
        while let Some(work) = self.closers[0].as_ref().and_then(|closer| closer.work.as_ref()) {
            let is_over = work.next == self.settings.partitions && work.unsent.is_empty();
            if is_over && work.waits.is_none() && !work.appended.is_empty() {
                return self.give_back(0);
            }
            while !self.calls.flying.is_empty() {
                self.perform(0, false);
            }
            self.go_on_closing(0, false);
        }
    }
}
