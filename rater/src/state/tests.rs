//! Two owners of one partition with small tables, a log that reorders and loses, an archive that
//! lags, slow lanes that crash, repeat and come late: seeded random walks over the real state and
//! the real verdicts, checked against what the accepted chain says.

use std::collections::{HashMap, HashSet};

use domain::{
    event::IdentityKey,
    wire::{
        block::BlockWriter,
        rated::Rows,
        record::{Entry, EventRecord, Verdict},
    },
};
use uuid::Uuid;

use super::*;
use crate::{
    filter::Name,
    verdict::{Cursor, Hit, Late, Waiting, read},
};

/// A small generator, so that a seed names a walk.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }
}

const IDS: u8 = 6;
const TENANT: Uuid = Uuid::from_u128(1);
/// Blocks are ten minutes apart.
const BLOCK_US: i64 = 600_000_000;

fn identity(id: u8) -> u128 {
    IdentityKey([0; 16]).identity(&domain::event::IdentityParts {
        tenant: TENANT,
        subject: "team",
        source: "source",
        id: &id.to_string(),
    })
}

/// An event of a client, or a copy of one.
#[derive(Clone, Copy, Debug)]
struct Sent {
    id: u8,
    content: u8,
    time_us: Option<i64>,
}

/// A block with these events.
fn block(events: &[Sent]) -> Vec<u8> {
    let mut writer = BlockWriter::default();
    for sent in events {
        let event = EventRecord {
            tenant: writer.tenant(TENANT),
            team: writer.dictionary.intern("team"),
            subject: writer.dictionary.intern("team"),
            source: writer.dictionary.intern("source"),
            event_type: writer.dictionary.intern("type"),
            user: None,
            app: None,
            key: None,
            feature: None,
            id: "id",
            identity: identity(sent.id),
            content: u64::from(sent.content),
            time_us: sent.time_us,
            hold: None,
            hold_end: false,
            quote: None,
            attributes: Vec::new(),
            raw: b"{}",
        };
        writer.push(&Entry::Event(event));
    }
    writer.finish()
}

/// The events in a block, copies too.
fn events_in(message: &[u8]) -> Vec<Sent> {
    let header = BlockHeader::decode(message).unwrap();
    let body = header.body(message).unwrap();
    let block = Block::decode(&header, &body).unwrap();
    let event = |entry: &Entry<'_>| {
        let (Entry::Event(event) | Entry::Copy(_, _, event)) = entry else { panic!("no event") };
        let id = (0..IDS).find(|id| identity(*id) == event.identity).unwrap();
        Sent { id, content: u8::try_from(event.content).unwrap(), time_us: event.time_us }
    };
    block.entries.iter().map(event).collect()
}

struct Owner {
    state: State,
    /// Batches sent: number of the message in the network or log.
    sent: Vec<u32>,
    next_rated: usize,
}

/// A block of copies that a lane has made, with the move of its place.
struct Answer {
    copies: Vec<u8>,
    before: Cursor,
    after: Cursor,
}

/// What is known from the accepted chain.
struct History {
    /// The place after each accepted batch, and what the batch's writer covered.
    places: Vec<(Place, Coverage)>,
    /// Effects in order.
    effects: Vec<Hit>,
}

#[derive(Default)]
struct Faults {
    ignored: u32,
    discards: u32,
    forwards: u32,
    rounds: u32,
    repeats: u32,
    departures: u32,
}

/// A rule broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planted {
    Nothing,
    /// *New* is said of what the archive had not seen.
    NewWithoutLimit,
    /// The archive is searched below the late event only.
    SearchBelowOnly,
    /// The lane's place moves before its append.
    PlaceBeforeAppend,
    /// A filter lacks an identity.
    FilterForgets,
}

struct World {
    planted: Planted,
    usage: Vec<Vec<u8>>,
    clients: usize,
    times: HashMap<u8, Option<i64>>,
    rated: Vec<(u32, Vec<u8>)>,
    network: Vec<(u32, Vec<u8>)>,
    owners: [Option<Owner>; 2],
    archived: i64,
    lane: Cursor,
    answers: Vec<Answer>,
    numbers: u32,
    faults: Faults,
}

fn coverage_of(message: &[u8]) -> Coverage {
    let header = Sections::split(message).unwrap().header().unwrap();
    Coverage { table_from: header.table_from, horizon_us: header.horizon_us }
}

impl World {
    fn new(planted: Planted) -> World {
        World {
            planted,
            usage: Vec::new(),
            clients: 0,
            times: HashMap::new(),
            rated: Vec::new(),
            network: Vec::new(),
            owners: [None, None],
            archived: -1,
            lane: Cursor::EMPTY,
            answers: Vec::new(),
            numbers: 0,
            faults: Faults::default(),
        }
    }

    fn history(&self) -> History {
        let mut place = Place::EMPTY;
        let start = Coverage { table_from: 0, horizon_us: i64::MIN };
        let mut history = History { places: vec![(place, start)], effects: Vec::new() };
        for (position, (_, message)) in self.rated.iter().enumerate() {
            let position = i64::try_from(position).unwrap();
            if let Offer::Accepted(_, next) = place.offer(0, position, message).unwrap() {
                place = next;
                history.places.push((place, coverage_of(message)));
                let sections = Sections::split(message).unwrap();
                history.effects.extend(sections.rows().unwrap().iter().map(|row| {
                    let head = RowHead::decode(row).unwrap();
                    let (identity, content) = (head.identity, head.content);
                    Hit { identity, position: head.position, index: head.index, content }
                }));
            }
        }
        history
    }

    /// An owner starts at what some posted batch says of its writer's table.
    fn start(&mut self, which: usize, random: &mut Random) {
        let history = self.history();
        let (_, coverage) = history.places[random.below(history.places.len())];
        let audited = history.places.iter().filter(|(place, _)| place.x < coverage.table_from);
        let audited: Vec<Place> = audited.map(|(place, _)| *place).collect();
        let begin = audited[audited.len() - 1 - random.below(audited.len().min(2))];
        let limits = Limits {
            identities_max: random.below(4),
            range_identities: 1 + random.below(2),
            window_us: BLOCK_US * i64::try_from(1 + random.below(20)).unwrap(),
        };
        let mut state = State::new(0, begin, coverage, limits);
        self.read(&mut state);
        if coverage.table_from > 0 {
            let (from, to) = (0, coverage.table_from - 1);
            let name = Name { partition: 0, from, to, prev: [0; 32], c: [0; 32] };
            let below = history.effects.iter().filter(|hit| hit.position <= to);
            let filter = Filter::build(below.map(|hit| hit.identity)).unwrap();
            let filter = Some(filter).filter(|_| !random.one_in(4));
            state.put_ranges(vec![Range { name, filter }]);
        }
        self.owners[which] = Some(Owner { state, sent: Vec::new(), next_rated: self.rated.len() });
    }

    fn read(&mut self, state: &mut State) {
        let from = usize::try_from(state.place().r + 1).unwrap();
        for (position, (_, message)) in self.rated.iter().enumerate().skip(from) {
            if state.offer(i64::try_from(position).unwrap(), message).unwrap().is_none() {
                self.faults.ignored += 1;
            }
        }
    }

    /// The owner looks at its oldest report: what the log says of it.
    fn report(&mut self, which: usize, lost: bool) {
        let Some(mut owner) = self.owners[which].take() else { return };
        if let Some(number) = owner.sent.first().copied() {
            let stands = self.rated.iter().position(|(other, _)| *other == number);
            match stands {
                Some(position) if position == owner.next_rated && !lost => {
                    owner.state.accepted(i64::try_from(position).unwrap());
                    owner.sent.remove(0);
                    owner.next_rated += 1;
                }
                None if !lost => {}
                _ => {
                    self.faults.discards += 1;
                    owner.sent.clear();
                    owner.state.discard();
                    self.read(&mut owner.state);
                    owner.next_rated = self.rated.len();
                }
            }
        }
        self.owners[which] = Some(owner);
    }

    fn rate(&mut self, which: usize, cut: bool) {
        let Some(owner) = self.owners[which].as_mut() else { return };
        let position = owner.state.next_position();
        if let Some(message) = self.usage.get(usize::try_from(position).unwrap()) {
            let opened = owner.state.open(position, message).unwrap();
            owner.state.rate(position, BLOCK_US * position, &opened, &[]).unwrap();
        }
        if cut
            && owner.sent.len() < 3
            && let Some((_, message)) = owner.state.cut()
        {
            owner.sent.push(self.numbers);
            self.network.push((self.numbers, message));
            self.numbers += 1;
        }
    }

    /// What is too much for the owner's table leaves it, now and then without a filter.
    fn depart(&mut self, which: usize, random: &mut Random) {
        let held = random.one_in(2).then_some(self.archived);
        let Some(owner) = self.owners[which].as_mut() else { return };
        if let Some(departure) = owner.state.departure(held) {
            let forgotten = usize::from(self.planted == Planted::FilterForgets);
            let identities = departure.identities.iter().copied().skip(forgotten);
            let filter = Filter::build(identities).unwrap();
            owner.state.depart(departure, Some(filter).filter(|_| !random.one_in(4)));
            self.faults.departures += 1;
        }
    }

    /// Clients send: an id has one time for ever, or none.
    fn send(&mut self, random: &mut Random) {
        let now = BLOCK_US * i64::try_from(self.usage.len()).unwrap();
        let future = random.one_in(8);
        let mut events = Vec::new();
        for _ in 0..1 + random.below(3) {
            let id = u8::try_from(random.below(usize::from(IDS))).unwrap();
            let time =
                *self.times.entry(id).or_insert([None, Some(0), Some(now)][usize::from(id) % 3]);
            let content = u8::from(random.one_in(5));
            let time_us = if future { Some(now + BLOCK_US) } else { time };
            events.push(Sent { id, content, time_us });
        }
        if future {
            // Its time lies ahead of this block only; who sends it again must not change it.
            events.retain(|sent| !self.sent_in_time(sent.id));
        }
        if !events.is_empty() {
            self.usage.push(block(&events));
            self.clients += 1;
        }
    }

    fn sent_in_time(&self, id: u8) -> bool {
        self.usage.iter().any(|message| events_in(message).iter().any(|sent| sent.id == id))
    }

    /// A lane takes late events that the archive has passed and makes their copies.
    fn judge(&mut self, most: usize) {
        let mut waiting: Vec<Waiting> = Vec::new();
        let (mut cursor, from) = (self.lane, usize::try_from(self.lane.place.r + 1).unwrap());
        for (position, (_, message)) in self.rated.iter().enumerate().skip(from) {
            let position = i64::try_from(position).unwrap();
            if let Some((after, found)) = read(0, cursor, position, message).unwrap() {
                cursor = after;
                waiting.extend(found);
            }
        }
        waiting.retain(|waiting| waiting.forward.position <= self.archived);
        waiting.truncate(most);
        let Some(last) = waiting.last() else { return };
        let after = last.after;
        let mut hits = self.history().effects;
        hits.retain(|hit| hit.position <= self.archived);
        let mut writer = BlockWriter::default();
        for waiting in &waiting {
            let late = Late::open(&waiting.forward).unwrap();
            let mut hits = hits.clone();
            if self.planted == Planted::SearchBelowOnly {
                hits.retain(|hit| hit.position < waiting.forward.position);
            }
            let mut verdict = late.judge(&late.wanted().unwrap(), &hits, self.archived);
            if let (Planted::NewWithoutLimit, Verdict::New { checked_to }) =
                (self.planted, &mut verdict)
            {
                *checked_to = i64::MAX / 2;
            }
            late.answer(0, verdict, &mut writer).unwrap();
        }
        self.answers.push(Answer { copies: writer.finish(), before: self.lane, after });
        if self.planted == Planted::PlaceBeforeAppend {
            self.lane = after;
        }
    }

    /// A lane's append, at last; its place moves after it unless the lane dies in between or
    /// another one was faster.
    fn answer(&mut self, which: usize, dies: bool) {
        let answer = self.answers.remove(which);
        self.usage.push(answer.copies);
        if self.lane == answer.before && !dies {
            self.lane = answer.after;
        } else {
            self.faults.repeats += 1;
        }
    }

    fn archive(&mut self, random: &mut Random) {
        let ends = self.history().places;
        let ahead: Vec<i64> =
            ends.iter().map(|(place, _)| place.x).filter(|x| *x > self.archived).collect();
        if !ahead.is_empty() {
            self.archived = ahead[random.below(ahead.len())];
        }
    }

    fn turn(&mut self, random: &mut Random) {
        let which = random.below(2);
        match random.below(27) {
            0 if self.clients < 12 => self.send(random),
            1 => self.start(which, random),
            2..8 => self.rate(which, random.one_in(2)),
            8 if !self.network.is_empty() => {
                drop(self.network.swap_remove(random.below(self.network.len())))
            }
            9..13 if !self.network.is_empty() => {
                let message = self.network.remove(random.below(self.network.len()));
                self.rated.push(message);
            }
            13..18 => self.report(which, false),
            18 => self.report(which, true),
            19..22 => self.depart(which, random),
            22 if random.one_in(2) => self.archive(random),
            23 if self.answers.len() < 3 => self.judge(1 + random.below(3)),
            24 if !self.answers.is_empty() && self.usage.len() < 40 => {
                let dies = random.one_in(4);
                self.answer(random.below(self.answers.len()), dies);
            }
            26 if !self.answers.is_empty() && random.one_in(4) => {
                self.answers.remove(random.below(self.answers.len()));
            }
            _ => {}
        }
    }

    /// Each position accepted once, each entry with one outcome, each id with one effect, and a
    /// duplicate or conflict only of the effect before it. Answers positions and effects.
    fn check(&mut self, seed: u64) -> (usize, HashSet<u8>) {
        let mut place = Place::EMPTY;
        let mut effects: HashMap<u8, u8> = HashMap::new();
        (self.faults.forwards, self.faults.rounds) = (0, 0);
        for (position, (_, message)) in self.rated.iter().enumerate() {
            let Offer::Accepted(outer, next) =
                place.offer(0, i64::try_from(position).unwrap(), message).unwrap()
            else {
                continue;
            };
            place = next;
            let sections = Sections::split(message).unwrap();
            let taken = heads(&sections.rows().unwrap());
            let others = heads(&sections.others().unwrap());
            let forwards: Vec<(i64, u32)> = sections
                .forwards()
                .unwrap()
                .iter()
                .map(|forward| (forward.position, forward.index))
                .collect();
            let (mut twins, mut rejected) = ((0, 0), 0);
            for block in outer.from..=outer.to {
                let message = &self.usage[usize::try_from(block).unwrap()];
                let copies = BlockHeader::decode(message).unwrap().tenants[0].copies > 0;
                for (index, sent) in events_in(message).into_iter().enumerate() {
                    let here = (block, index as u32);
                    let found = [&taken, &others, &forwards].map(|all| all.contains(&here));
                    assert_eq!(
                        found.iter().filter(|found| **found).count(),
                        1,
                        "seed {seed}: {here:?} has not one outcome"
                    );
                    let future = sent.time_us > Some(BLOCK_US * block);
                    if found[0] {
                        assert!(!future, "seed {seed}: an event of the future took effect");
                        assert!(
                            effects.insert(sent.id, sent.content).is_none(),
                            "seed {seed}: {} took effect twice",
                            sent.id
                        );
                    } else if found[1] {
                        match effects.get(&sent.id) {
                            Some(content) if *content == sent.content => twins.0 += 1,
                            Some(_) => twins.1 += 1,
                            None => {
                                assert!(future, "seed {seed}: {} at {here:?} is lost", sent.id);
                                rejected += 1;
                            }
                        }
                    } else {
                        self.faults.forwards += 1;
                        self.faults.rounds += u32::from(copies);
                    }
                }
            }
            let (_, counts) = sections.header().unwrap().counts[0];
            let counted = (counts.duplicates, counts.conflicts, counts.rejected);
            assert_eq!(counted, (twins.0, twins.1, rejected), "seed {seed}: {outer:?}");
        }
        (usize::try_from(place.x + 1).unwrap(), effects.into_keys().collect())
    }

    /// Everything late arrives, one owner starts anew, the archive and the lane catch up.
    fn heal(&mut self, random: &mut Random) {
        self.rated.append(&mut self.network);
        while !self.answers.is_empty() {
            self.answer(0, random.one_in(2));
        }
        self.owners = [None, None];
        self.start(0, random);
        for _ in 0..8 {
            let blocks = self.usage.len();
            for _ in 0..60 {
                self.rate(0, true);
                self.rated.append(&mut self.network);
                self.report(0, false);
            }
            self.archived = self.history().places.last().unwrap().0.x;
            self.judge(usize::MAX);
            if !self.answers.is_empty() {
                self.answer(0, false);
            }
            if self.usage.len() == blocks {
                return;
            }
        }
        panic!("late events go round for ever");
    }
}

fn heads(rows: &Rows) -> Vec<(i64, u32)> {
    rows.iter()
        .map(|row| RowHead::decode(row).unwrap())
        .map(|head| (head.position, head.index))
        .collect()
}

/// One walk with its healing, checked.
fn walk(seed: u64, planted: Planted) -> World {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut world = World::new(planted);
    for _ in 0..400 {
        world.turn(&mut random);
    }
    world.check(seed);
    world.heal(&mut random);
    let (accounted, effects) = world.check(seed);
    assert_eq!(accounted, world.usage.len(), "seed {seed}: not everything is accounted");
    for (number, message) in world.usage.iter().enumerate() {
        for sent in events_in(message) {
            let future = sent.time_us > Some(BLOCK_US * i64::try_from(number).unwrap());
            assert!(
                future || effects.contains(&sent.id),
                "seed {seed}: {} never took effect",
                sent.id
            );
        }
    }
    world
}

#[test]
fn no_walk_of_two_owners_and_two_lanes_loses_or_doubles_anything() {
    let mut all = Faults::default();
    let mut blocks = 0;
    for seed in 1..=3_000u64 {
        let world = walk(seed, Planted::Nothing);
        blocks += world.usage.len();
        for (sum, more) in [
            (&mut all.ignored, world.faults.ignored),
            (&mut all.discards, world.faults.discards),
            (&mut all.forwards, world.faults.forwards),
            (&mut all.rounds, world.faults.rounds),
            (&mut all.repeats, world.faults.repeats),
            (&mut all.departures, world.faults.departures),
        ] {
            *sum += more;
        }
    }
    let Faults { ignored, discards, forwards, rounds, repeats, departures } = all;
    println!(
        "{blocks} blocks, {ignored} ignored, {discards} discards, {departures} departures, \
         {forwards} forwards, {rounds} again, {repeats} repeats"
    );
    assert!(
        ignored > 1_000 && discards > 1_000 && blocks > 10_000 && departures > 1_000,
        "the faults must bite: {ignored} {discards} {blocks} {departures}"
    );
    assert!(
        forwards > 1_000 && rounds > 50 && repeats > 500,
        "late events must bite: {forwards} {rounds} {repeats}"
    );
}

#[test]
fn a_rule_that_is_broken_is_found_out() {
    for planted in [
        Planted::NewWithoutLimit,
        Planted::SearchBelowOnly,
        Planted::PlaceBeforeAppend,
        Planted::FilterForgets,
    ] {
        let found = (1..=3_000u64)
            .find(|seed| std::panic::catch_unwind(|| drop(walk(*seed, planted))).is_err());
        println!("{planted:?} was found in walk {found:?}");
        assert!(found.is_some(), "nobody noticed {planted:?}");
    }
}
