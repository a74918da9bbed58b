//! Two owners of one partition, a log that reorders and loses, crashes anywhere: seeded random
//! walks over the real state, checked against what the accepted chain says.

use std::collections::HashMap;

use domain::{
    event::IdentityKey,
    wire::{
        block::BlockWriter,
        rated::Rows,
        record::{Entry, EventRecord},
    },
};
use uuid::Uuid;

use super::*;

/// A small generator, so that a seed names a walk.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }
}

/// A block with events of these ids; the content says which of an id's two contents it is.
fn block(events: &[(u8, u8)], future: bool) -> Vec<u8> {
    let mut writer = BlockWriter::default();
    for (id, content) in events {
        let event = EventRecord {
            tenant: writer.tenant(Uuid::from_u128(1)),
            team: writer.dictionary.intern("team"),
            subject: writer.dictionary.intern("team"),
            source: writer.dictionary.intern("source"),
            event_type: writer.dictionary.intern("type"),
            user: None,
            app: None,
            key: None,
            feature: None,
            id: "id",
            identity: IdentityKey([0; 16]).identity(&domain::event::IdentityParts {
                tenant: Uuid::from_u128(1),
                subject: "team",
                source: "source",
                id: &id.to_string(),
            }),
            content: u64::from(*content),
            time_us: future.then_some(i64::MAX / 2),
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

struct Owner {
    state: State,
    /// Batches sent: number of the message in the network or log.
    sent: Vec<u32>,
    next_rated: usize,
}

/// A block of `[usage]`: its bytes, its events, and whether their time is in the future.
type Block = (Vec<u8>, Vec<(u8, u8)>, bool);

struct World {
    usage: Vec<Block>,
    rated: Vec<(u32, Vec<u8>)>,
    network: Vec<(u32, Vec<u8>)>,
    owners: [Option<Owner>; 2],
    numbers: u32,
    ignored: u32,
    discards: u32,
}

impl World {
    fn start(&mut self, which: usize) {
        let mut state = State::new(0, Place::EMPTY);
        self.read(&mut state);
        self.owners[which] = Some(Owner { state, sent: Vec::new(), next_rated: self.rated.len() });
    }

    fn read(&mut self, state: &mut State) {
        let from = usize::try_from(state.place().r + 1).unwrap();
        for (position, (_, message)) in self.rated.iter().enumerate().skip(from) {
            if state.offer(i64::try_from(position).unwrap(), message).unwrap().is_none() {
                self.ignored += 1;
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
                    self.discards += 1;
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
        if let Some((message, _, _)) = self.usage.get(usize::try_from(position).unwrap()) {
            let opened = owner.state.open(position, message).unwrap();
            owner.state.rate(position, 1_000 + position, &opened, &[]).unwrap();
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

    fn turn(&mut self, random: &mut Random) {
        let which = random.below(2);
        match random.below(20) {
            0 if self.usage.len() < 12 => {
                let events: Vec<_> = (0..1 + random.below(3))
                    .map(|_| (random.below(6) as u8, u8::from(random.below(5) == 0)))
                    .collect();
                let future = random.below(6) == 0;
                self.usage.push((block(&events, future), events, future));
            }
            1 => self.start(which),
            2..8 => self.rate(which, random.below(2) == 0),
            8 if !self.network.is_empty() => {
                drop(self.network.swap_remove(random.below(self.network.len())))
            }
            9..13 if !self.network.is_empty() => {
                let message = self.network.remove(random.below(self.network.len()));
                self.rated.push(message);
            }
            13..18 => self.report(which, false),
            18 => self.report(which, true),
            _ => {}
        }
    }

    /// Each position accepted once, each event with one outcome, each id with one effect, and a
    /// duplicate only of an effect before it.
    fn check(&self, seed: u64) -> usize {
        let mut place = Place::EMPTY;
        let mut effects: HashMap<u8, (i64, u8)> = HashMap::new();
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
            for block in outer.from..=outer.to {
                let (_, events, future) = &self.usage[usize::try_from(block).unwrap()];
                for (index, (id, content)) in events.iter().enumerate() {
                    let here = (block, index as u32);
                    let effect = taken.contains(&here);
                    assert!(
                        effect != others.contains(&here),
                        "seed {seed}: {here:?} has not one outcome"
                    );
                    if effect {
                        assert!(!future, "seed {seed}: an event of the future took effect");
                        assert!(
                            effects.insert(*id, (block, *content)).is_none(),
                            "seed {seed}: {id} took effect twice"
                        );
                    } else {
                        assert!(
                            *future || effects.contains_key(id),
                            "seed {seed}: {id} at {here:?} is lost"
                        );
                    }
                }
            }
        }
        usize::try_from(place.x + 1).unwrap()
    }
}

fn heads(rows: &Rows) -> Vec<(i64, u32)> {
    rows.iter()
        .map(|row| RowHead::decode(row).unwrap())
        .map(|head| (head.position, head.index))
        .collect()
}

#[test]
fn no_walk_of_two_owners_loses_or_doubles_anything() {
    let (mut ignored, mut discards, mut blocks) = (0, 0, 0);
    for seed in 1..=3_000u64 {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let mut world = World {
            usage: Vec::new(),
            rated: Vec::new(),
            network: Vec::new(),
            owners: [None, None],
            numbers: 0,
            ignored: 0,
            discards: 0,
        };
        for _ in 0..120 {
            world.turn(&mut random);
        }
        world.check(seed);
        // Heal: everything late arrives, one owner starts anew and rates to the end alone.
        world.rated.append(&mut world.network);
        world.owners = [None, None];
        world.start(0);
        for _ in 0..40 {
            world.rate(0, true);
            world.rated.append(&mut world.network);
            world.report(0, false);
        }
        assert_eq!(
            world.check(seed),
            world.usage.len(),
            "seed {seed}: not everything is accounted after healing"
        );
        ignored += world.ignored;
        discards += world.discards;
        blocks += world.usage.len();
    }
    assert!(
        ignored > 1_000 && discards > 1_000 && blocks > 10_000,
        "the faults must bite: {ignored} {discards} {blocks}"
    );
}
