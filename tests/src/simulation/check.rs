//! What must be true of an installation, at any time and after healing. The chain of accepted
//! batches, the outcome of every entry, every amount and every count are worked out here anew from
//! what was sent; nothing is asked of the code that is judged but its formats. Panics with what is
//! wrong.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use domain::{
    chain::{GENESIS, Place},
    wire::rated::{Counts, Sections},
};
use uuid::Uuid;

mod books;
mod corrections;
mod periods;
mod readers;

use self::{
    books::Books,
    corrections::{Change, Done},
};
use super::{
    rows::{ArchivedLine, OtherRow, UsageRow, all, other_row, usage_row},
    stores::LogPartition,
    traffic::{DAY_US, Entry, Event, FUTURE_US, Kind, Line, ONE, TENANTS, TIERED, lines},
    world::World,
};

/// An entry's place in a partition: position and index.
type At = (i64, u32);

/// What was found, for the proof that a check had something to judge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Events of clients.
    pub events: u64,
    /// Batches accepted.
    pub accepted: u64,
    /// Batches that did not continue the chain.
    pub ignored: u64,
    /// Events that took effect.
    pub effects: u64,
    /// Repeats.
    pub duplicates: u64,
    /// Repeats with other content.
    pub conflicts: u64,
    /// Rejected entries.
    pub rejected: u64,
    /// Late events.
    pub forwarded: u64,
    /// Of those, copies that went round again.
    pub rounds: u64,
    /// Effects of events that stand behind a marker in their block.
    pub switches: u64,
    /// Corrections that were carried out.
    pub corrected: u64,
    /// Corrections that were not.
    pub uncorrected: u64,
    /// Events that closed periods.
    pub closings: u64,
    /// Corrections of those, made because of what was observed later.
    pub amended_closings: u64,
    /// Those that somebody has voided.
    pub voided_closings: u64,
    /// Quantities of periods that were closed.
    pub periods: u64,
    /// Of those, what was held for some time.
    pub held: u64,
}

/// The outcome of an entry.
#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    Effect(UsageRow),
    Other(OtherRow),
    Forwarded,
}

/// What the accepted chain of a partition says.
struct Chain {
    places: Vec<Place>,
    outcomes: BTreeMap<At, Outcome>,
    /// What became of commands.
    commands: BTreeMap<At, Done>,
    /// Late events of each accepted batch, in order, behind the place before the batch.
    forwards: Vec<(Place, Vec<At>)>,
}

/// What was sent to a partition.
struct Sent<'a> {
    log: &'a LogPartition,
    /// The catalog version in force for each entry.
    versions: HashMap<At, u64>,
    /// The version after each position.
    after: Vec<u64>,
    /// Units of its team and day that took effect before each effect.
    before: HashMap<At, i128>,
    /// What commands that were carried out have changed.
    changes: BTreeMap<At, Change>,
}

/// A tenant's team and a day of event time.
type Day = (usize, &'static str, i64);

impl Sent<'_> {
    fn of(log: &LogPartition) -> Sent<'_> {
        let (mut version, mut versions, mut after) = (0, HashMap::new(), Vec::new());
        for (position, block) in (0..).zip(&log.usage) {
            for (index, entry) in (0..).zip(block.entries.iter()) {
                if let Entry::Marker(marked) = entry {
                    version = version.max(*marked);
                }
                versions.insert((position, index), version);
            }
            after.push(version);
        }
        Sent { log, versions, after, before: HashMap::new(), changes: BTreeMap::new() }
    }

    fn entry(&self, (position, index): At) -> &Entry {
        &self.log.block(position).unwrap().entries[index as usize]
    }

    /// The event of an entry, where it first stood, and when that was appended.
    fn event(&self, at: At) -> Option<(Event, At, i64)> {
        match self.entry(at) {
            Entry::Event(event) | Entry::Closing { event, .. } => {
                Some((*event, at, self.log.block(at.0).unwrap().append_time_us))
            }
            Entry::Copy { event, origin, append_time_us } => {
                Some((*event, *origin, *append_time_us))
            }
            Entry::Refused { .. } | Entry::Marker(_) | Entry::Correct(_) => None,
        }
    }

    /// Identity and content of an event.
    fn identity(&self, at: At) -> (u128, u64) {
        match self.entry(at) {
            Entry::Event(event) => (event.identity(), event.content()),
            Entry::Closing { identity, content, .. } => (*identity, *content),
            Entry::Copy { origin, .. } => self.identity(*origin),
            other => panic!("{other:?} has no identity"),
        }
    }

    /// The lines that an entry must have if it takes effect; `None` if it must be rejected.
    fn worth(&self, at: At) -> Option<Vec<Line>> {
        let (event, _, append_time_us) = self.event(at)?;
        if event.time_us.is_some_and(|time_us| time_us > append_time_us + FUTURE_US) {
            return None;
        }
        lines(&event, self.versions[&at], self.before.get(&at).copied().unwrap_or(0))
    }

    /// Counts the units of each team and day in the order of the log, up to a position, and what
    /// corrections change. Answers what it came to.
    fn count_days(&mut self, chain: &Chain, to: i64) -> BTreeMap<Day, i128> {
        let mut days: BTreeMap<Day, i128> = BTreeMap::new();
        let mut current: BTreeMap<At, Vec<Line>> = BTreeMap::new();
        self.changes.clear();
        let effects = chain
            .outcomes
            .iter()
            .filter_map(|(at, outcome)| matches!(outcome, Outcome::Effect(_)).then_some(*at));
        let commands = chain.commands.iter().filter(|(_, done)| done.is_applied());
        let all: BTreeSet<At> = effects.chain(commands.map(|(at, _)| *at)).collect();
        for at in all.into_iter().filter(|at| at.0 <= to) {
            if let Entry::Correct(correct) = *self.entry(at) {
                let (event, _, append_time_us) = self.event(correct.of).unwrap();
                let time_us = event.time_us.unwrap_or(append_time_us);
                let back = current.remove(&correct.of).unwrap_or_else(|| {
                    panic!("{at:?} takes back {:?}, which came to nothing", correct.of)
                });
                let now = correct.now.map(|quantity| {
                    let event = Event { quantity, ..event };
                    lines(&event, self.versions[&at], correct.given).unwrap()
                });
                let day = (event.tenant(), event.team(), time_us.div_euclid(DAY_US));
                for (lines, sign) in [(Some(&back), -1), (now.as_ref(), 1)] {
                    let units = lines.and_then(|lines| units(lines));
                    if let Some(units) = units {
                        *days.entry(day).or_default() += sign * units;
                    }
                }
                if let Some(now) = &now {
                    current.insert(correct.of, now.clone());
                }
                self.changes.insert(at, Change { event, time_us, back, now });
                continue;
            }
            let (event, _, append_time_us) = self.event(at).unwrap();
            let day = event.time_us.unwrap_or(append_time_us).div_euclid(DAY_US);
            if let Some(own) = units(&self.worth(at).unwrap_or_default()) {
                let units = days.entry((event.tenant(), event.team(), day)).or_default();
                self.before.insert(at, *units);
                *units += own;
            }
            current.insert(at, self.worth(at).unwrap_or_default());
        }
        days
    }

    /// All entries but markers and commands up to a position.
    fn entries(&self, to: i64) -> impl Iterator<Item = At> {
        let blocks = (0..=to).zip(&self.log.usage);
        blocks.flat_map(|(position, block)| {
            let all = (0..).zip(block.entries.iter());
            all.filter(|(_, entry)| !matches!(entry, Entry::Marker(_) | Entry::Correct(_)))
                .map(move |(index, _)| (position, index))
        })
    }

    fn tenant(&self, at: At) -> Uuid {
        match self.entry(at) {
            Entry::Refused { tenant } => TENANTS[*tenant],
            _ => TENANTS[self.event(at).unwrap().0.tenant()],
        }
    }
}

/// Units that lines add to the total of their day.
fn units(lines: &[Line]) -> Option<i128> {
    let line = lines.iter().find(|line| line.meter == TIERED)?;
    Some(line.quantity / ONE)
}

/// A number at a fixed place of a message's outer header.
fn number(message: &[u8], at: usize) -> i64 {
    i64::from_le_bytes(message[at..at + 8].try_into().unwrap())
}

fn hash(message: &[u8], at: usize) -> [u8; 32] {
    message[at..at + 32].try_into().unwrap()
}

/// The chain, by this file's own reading of the rule: one batch after the other, each from the
/// position after the one before, each naming the hash of the one before.
fn chain(sent: &Sent<'_>, partition: u32, findings: &mut Findings) -> Chain {
    let mut place = Place { x: -1, r: -1, c: GENESIS };
    let mut chain = Chain {
        places: vec![place],
        outcomes: BTreeMap::new(),
        commands: BTreeMap::new(),
        forwards: Vec::new(),
    };
    for (r, message) in (0..).zip(&sent.log.rated) {
        let (from, to) = (number(message, 12), number(message, 20));
        if from != place.x + 1 || hash(message, 28) != place.c {
            findings.ignored += 1;
            continue;
        }
        findings.accepted += 1;
        let before = place;
        place = Place { x: to, r, c: hash(message, 60) };
        chain.places.push(place);
        let sections = Sections::split(message).unwrap();
        let header = sections.header().unwrap();
        let after = sent.after[usize::try_from(to).unwrap()];
        assert!(
            header.catalog_version == after,
            "{partition}: the batch to {to} ends with catalog {}, its markers say {after}",
            header.catalog_version
        );
        let mut found: Vec<(At, Outcome)> = Vec::new();
        let mut commands: BTreeMap<At, Done> = BTreeMap::new();
        for row in all(&sections.rows().unwrap().rows().bytes, usage_row) {
            if row.run > 0 {
                let done = commands.entry((row.head.position, row.head.index)).or_default();
                done.take(row);
                continue;
            }
            found.push(((row.head.position, row.head.index), Outcome::Effect(row)));
        }
        for row in all(&sections.others().unwrap().rows().bytes, other_row) {
            if row.outcome == 4 {
                let at = (row.head.position, row.head.index);
                commands.entry(at).or_default().refused = Some(row);
                continue;
            }
            found.push(((row.head.position, row.head.index), Outcome::Other(row)));
        }
        let forwards = sections.forwards().unwrap();
        let forwards: Vec<At> =
            forwards.iter().map(|forward| (forward.position, forward.index)).collect();
        found.extend(forwards.iter().map(|at| (*at, Outcome::Forwarded)));
        for (at, outcome) in found {
            assert!((from..=to).contains(&at.0), "{partition}: {at:?} is outside of its batch");
            let before = chain.outcomes.insert(at, outcome);
            assert!(before.is_none(), "{partition}: {at:?} has two outcomes");
        }
        for (at, done) in &mut commands {
            assert!((from..=to).contains(&at.0), "{partition}: {at:?} is outside of its batch");
            done.table_from = header.table_from;
        }
        chain.commands.extend(commands);
        chain.forwards.push((before, forwards));
        let counts: BTreeMap<Uuid, Counts> = header.counts.into_iter().collect();
        let own = count(sent, &chain.outcomes, from, to);
        assert!(counts == own, "{partition}: {from}..={to} is counted {counts:?}, not {own:?}");
    }
    chain
}

/// The counts of a range of positions, from what was sent and what became of it (INV-09, INV-15).
fn count(
    sent: &Sent<'_>,
    outcomes: &BTreeMap<At, Outcome>,
    from: i64,
    to: i64,
) -> BTreeMap<Uuid, Counts> {
    let mut all: BTreeMap<Uuid, Counts> = BTreeMap::new();
    // Commands are no events: their tenants are counted with nothing.
    for block in (0..=to).zip(&sent.log.usage).filter(|(position, _)| *position >= from) {
        for entry in block.1.entries.iter() {
            if let Entry::Correct(correct) = entry {
                all.entry(TENANTS[correct.event.tenant()]).or_default();
            }
        }
    }
    for at in sent.entries(to).filter(|at| at.0 >= from) {
        let counts = all.entry(sent.tenant(at)).or_default();
        match sent.entry(at) {
            Entry::Copy { .. } => counts.copies += 1,
            _ => counts.accepted += 1,
        }
        match outcomes.get(&at) {
            Some(Outcome::Effect(row)) => match row.outcome {
                1 => counts.rated += 1,
                2 => counts.unmetered += 1,
                _ => counts.unpriced += 1,
            },
            Some(Outcome::Other(row)) => match row.outcome {
                1 => counts.duplicates += 1,
                2 => counts.conflicts += 1,
                _ => counts.rejected += 1,
            },
            Some(Outcome::Forwarded) => counts.forwarded += 1,
            None => panic!("{at:?} is accounted for and has no outcome: {:?}", sent.entry(at)),
        }
    }
    all
}

/// Whether the archive's lines are these.
fn same_lines(found: &[ArchivedLine], lines: &[Line]) -> bool {
    let money = |part: &Option<(&str, u32, &str, i128)>| match part {
        Some((card, version, currency, amount)) => {
            ((*card).to_owned(), *version, (*currency).to_owned(), Some(*amount))
        }
        None => (String::new(), 0, String::new(), None),
    };
    found.len() == lines.len()
        && found.iter().zip(lines).all(|(found, line)| {
            found.meter == line.meter
                && found.status == line.status()
                && found.quantity == line.quantity
                && found.charge == money(&line.charge)
                && found.cost == money(&line.cost)
                && found.total_before == line.total_before.unwrap_or(0)
        })
}

/// Every outcome is right by what was sent before it (INV-02, INV-03, INV-12).
fn outcomes(sent: &Sent<'_>, chain: &Chain, partition: u32, findings: &mut Findings) {
    let mut effects: HashMap<u128, (At, u64)> = HashMap::new();
    for (at, outcome) in &chain.outcomes {
        let event = sent.event(*at);
        match (outcome, event) {
            (Outcome::Effect(row), Some((event, _, append_time_us))) => {
                findings.effects += 1;
                let (identity, content) = sent.identity(*at);
                let first = effects.insert(identity, (*at, content));
                assert!(
                    first.is_none(),
                    "{partition}: {event:?} took effect at {first:?} and {at:?}"
                );
                check_effect(sent, *at, row, &event, append_time_us, partition);
                let marker = |index| matches!(sent.entry((at.0, index)), Entry::Marker(_));
                findings.switches += u64::from((0..at.1).any(marker));
            }
            (Outcome::Other(row), Some((event, ..))) if row.outcome < 3 => {
                let (identity, own) = sent.identity(*at);
                let twin = effects.get(&identity);
                let same = twin.is_some_and(|(_, content)| *content == own);
                assert!(
                    twin.is_some_and(|(twin, _)| *twin == row.twin) && same == (row.outcome == 1),
                    "{partition}: {event:?} at {at:?} is dropped as {row:?}, before it is {twin:?}"
                );
                findings.duplicates += u64::from(same);
                findings.conflicts += u64::from(!same);
            }
            (Outcome::Other(row), event) => {
                findings.rejected += 1;
                let refused = matches!(sent.entry(*at), Entry::Refused { .. });
                let rejected = event.is_some() && sent.worth(*at).is_none();
                assert!(
                    refused || rejected,
                    "{partition}: {at:?} is rejected as {row:?}: {event:?}"
                );
                assert!(
                    row.catalog_version == sent.versions[at],
                    "{partition}: {at:?} is rejected by catalog {}",
                    row.catalog_version
                );
            }
            (Outcome::Forwarded, Some(_)) => {
                findings.forwarded += 1;
                findings.rounds += u64::from(matches!(sent.entry(*at), Entry::Copy { .. }));
            }
            (outcome, None) => panic!("{partition}: {at:?} is no event and became {outcome:?}"),
        }
    }
}

fn check_effect(
    sent: &Sent<'_>,
    at: At,
    row: &UsageRow,
    event: &Event,
    append_time_us: i64,
    partition: u32,
) {
    let version = sent.versions[&at];
    assert!(
        row.catalog_version == version,
        "{partition}: {at:?} is rated by catalog {}, its marker says {version}",
        row.catalog_version
    );
    let Some(lines) = sent.worth(at) else {
        panic!("{partition}: {event:?} at {at:?} took effect and must be rejected")
    };
    assert!(
        same_lines(&row.lines, &lines),
        "{partition}: {event:?} at {at:?} has the lines {:?}, not {lines:?}",
        row.lines
    );
    let outcome = match event.kind() {
        _ if lines.is_empty() => 2,
        Kind::Unpriced => 3,
        _ => 1,
    };
    assert!(row.outcome == outcome, "{partition}: {at:?} is {}, not {outcome}", row.outcome);
    assert!(
        row.tenant == TENANTS[event.tenant()]
            && row.team == event.team()
            && row.partition == partition
            && row.time_us == event.time_us.unwrap_or(append_time_us)
            && (row.head.identity, row.head.content) == sent.identity(at),
        "{partition}: {event:?} at {at:?} is archived as {row:?}"
    );
}

/// After healing everything is accounted for by everybody, and every id has its one effect.
fn healed(world: &World, sent: &Sent<'_>, chain: &Chain, partition: u32) {
    let x = sent.log.usage_end() - 1;
    let place = *chain.places.last().unwrap();
    assert!(place.x == x, "{partition}: {} of {x} are accounted for", place.x);
    let (ledger, archive) =
        (world.database.standings[partition as usize].place, world.archive.position(partition));
    let lane = world.database.late[partition as usize];
    assert!(
        (ledger, archive, lane.place, lane.index) == (place, place, place, 0),
        "{partition}: readers end at {ledger:?}, {archive:?} and {lane:?}, not at {place:?}"
    );
    let effects: BTreeSet<u128> = chain
        .outcomes
        .values()
        .filter_map(|outcome| match outcome {
            Outcome::Effect(row) => Some(row.head.identity),
            _ => None,
        })
        .collect();
    // A late event is worth what its copy is, under the catalog in force there.
    let is_late = |at: &At| chain.outcomes.get(at) == Some(&Outcome::Forwarded);
    for at in sent.entries(x).filter(|at| !is_late(at)) {
        if let Some((event, ..)) = sent.event(at)
            && sent.worth(at).is_some()
        {
            assert!(
                effects.contains(&sent.identity(at).0),
                "{partition}: {event:?}, sent at {at:?}, never took effect: it is lost"
            );
        }
    }
}

/// Checks everything; with `is_healed` also that nothing is left to do.
pub fn check(world: &World, is_healed: bool) -> Findings {
    let mut findings = Findings::default();
    let mut books = Books::default();
    for (partition, log) in (0u32..).zip(&world.log) {
        let mut sent = Sent::of(log);
        let chain = chain(&sent, partition, &mut findings);
        books.count(sent.count_days(&chain, world.database.standings[partition as usize].place.x));
        sent.count_days(&chain, i64::MAX);
        outcomes(&sent, &chain, partition, &mut findings);
        corrections::judge(&sent, &chain, partition, &mut findings);
        periods::judge((world, is_healed), &sent, &chain, partition, &mut findings);
        readers::owners(world, &chain, partition);
        readers::ledger(world, &sent, &chain, partition, &mut books);
        readers::archive(world, &chain, partition);
        readers::lane(world, &sent, &chain, partition);
        if is_healed {
            healed(world, &sent, &chain, partition);
        }
        let all = log.usage.iter().flat_map(|block| block.entries.iter());
        findings.events += all.filter(|entry| matches!(entry, Entry::Event(_))).count() as u64;
    }
    books.compare(&world.database);
    findings
}
