//! A walk: steps drawn at random from a seed, then healing, both checked.

use std::sync::{Arc, PoisonError};

use rater::table::Limits;

use super::{
    calls::{Call, Effect},
    check::{Findings, check},
    observing::Closing,
    owner::Bits,
    random::Random,
    traffic::{Entry, Event, VERSIONS},
    world::{Planted, Settings, Trace, World},
};

/// Steps before healing.
const STEPS: usize = 800;
/// Ids of clients.
pub(super) const IDS: u8 = 16;
/// Corrections of a walk, and one of how many steps has one.
const CORRECTIONS: usize = 8;
const CORRECTED_ONE_IN: usize = 50;
/// One of how many steps is of those who close periods.
const CLOSED_ONE_IN: usize = 6;
/// Rounds of healing: late events that go round as often are stuck.
const ROUNDS_MAX: usize = 40;
/// 2026-01-31 at 20:00 UTC: a month ends soon.
const BEGIN_US: i64 = 1_769_889_600_000_000;
pub(super) const MINUTE_US: i64 = 60_000_000;

/// What a walk came to.
#[derive(Clone)]
pub struct Walked {
    /// The installation after healing.
    pub world: World,
    /// What the last check found.
    pub findings: Findings,
}

struct Walk {
    random: Random,
    world: World,
    /// Blocks of clients still to come.
    blocks: usize,
    /// The time that each id carries, once it was sent.
    times: Vec<Option<Option<i64>>>,
    /// Whether the log keeps the order of one caller's appends.
    ordered: bool,
    /// Who corrects events, if anybody does, by chance of his own.
    corrector: Option<Random>,
    /// Corrections still to come.
    corrections: usize,
    /// What is observed and closed, if anything is, by chance of its own.
    closing: Option<Closing>,
}

/// Walks. Panics with what is wrong.
pub fn walk(seed: u64, planted: Planted) -> Walked {
    walk_telling(seed, planted, CORRECTIONS, None)
}

/// Walks as before anything could be corrected: what seeds of that time have found is found again.
pub fn walk_uncorrected(seed: u64) -> Walked {
    walk_telling(seed, Planted::Nothing, 0, None)
}

/// Walks and answers what happened in words; the last are what is wrong, if anything is.
pub fn told(seed: u64, planted: Planted) -> Vec<String> {
    let trace = Trace::default();
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        walk_telling(seed, planted, CORRECTIONS, Some(Arc::clone(&trace)));
    }));
    let mut told = std::mem::take(&mut *trace.lock().unwrap_or_else(PoisonError::into_inner));
    if let Err(panic) = ended {
        told.push(reason(panic.as_ref()));
    }
    told
}

/// What a panic says.
pub fn reason(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}

fn walk_telling(seed: u64, planted: Planted, corrections: usize, trace: Option<Trace>) -> Walked {
    let mut random = Random::new(seed);
    let settings = settings(&mut random, planted);
    let mut world = World::new(settings, BEGIN_US + MINUTE_US * random.below(200) as i64);
    world.trace = trace;
    let (blocks, ordered) = (8 + random.below(12), random.one_in(3));
    let corrector = (corrections > 0).then(|| Random::new(!seed));
    let times = vec![None; usize::from(IDS)];
    // What was found before anything could be corrected was found before anything was closed.
    let closing = (corrections > 0).then(|| Closing::new(seed));
    let mut walk = Walk { random, world, blocks, times, ordered, corrector, corrections, closing };
    for _ in 0..STEPS {
        walk.step();
    }
    check(&walk.world, false);
    walk.heal();
    if let Some(mut closing) = walk.closing.take() {
        closing.go_on(&mut walk.world);
    }
    let findings = check(&walk.world, true);
    Walked { world: walk.world, findings }
}

fn settings(random: &mut Random, planted: Planted) -> Settings {
    let small = !random.one_in(8);
    Settings {
        partitions: 1 + random.below(2),
        in_flight: 1 + random.below(3),
        limits: Limits {
            identities_max: if small { random.below(6) } else { 1_000 },
            range_identities: 1 + random.below(3),
            window_us: MINUTE_US * [5, 60, 600][random.below(3)],
        },
        group_rows: 1 + random.below(8),
        planted,
    }
}

impl Walk {
    fn step(&mut self) {
        if let Some(corrector) = &mut self.corrector
            && self.corrections > 0
            && corrector.one_in(CORRECTED_ONE_IN)
        {
            let partition = corrector.below(self.world.settings.partitions);
            self.corrections -= usize::from(self.world.correct(partition, corrector));
        }
        if let Some(closing) = &mut self.closing
            && closing.random.one_in(CLOSED_ONE_IN)
        {
            closing.step(&mut self.world);
        }
        let random = &mut self.random;
        let partition = random.below(self.world.settings.partitions);
        // The second of two is a zombie or an early successor: there now and then.
        let which = usize::from(random.one_in(3));
        match random.below(100) {
            0..4 => self.send(partition),
            4 => self.publish(partition),
            5..7 => self.pass_time(),
            7..38 => self.rater(partition, which),
            38..52 => self.lane(partition, which),
            52..62 => self.writer(partition, which),
            62..76 => self.archiver(partition, which),
            76..99 => self.call(),
            _ => self.world.trim(partition),
        }
    }

    fn pass_time(&mut self) {
        let longest = [1, 10, 120, 3_000][self.random.below(4)];
        let passed = MINUTE_US * (1 + self.random.below(longest) as i64);
        // A broker's clock may be stepped back.
        let back = self.random.one_in(10);
        self.world.now_us += if back { -passed.min(3 * MINUTE_US) } else { passed };
    }

    fn ids(&mut self, partition: usize) -> u8 {
        let partitions = self.world.settings.partitions;
        loop {
            let id = u8::try_from(self.random.below(usize::from(IDS))).unwrap();
            let event = Event { id, quantity: 1, time_us: None };
            if event.team_number() % partitions == partition {
                return id;
            }
        }
    }

    /// An event as a client sends it: an id has one time for ever, or none. Some are sent with a
    /// quantity that is rejected, and corrected later; now and then the content is another.
    fn event(&mut self, partition: usize) -> Event {
        let id = self.ids(partition);
        let now = self.world.now_us;
        let random = &mut self.random;
        let times = [
            None,
            Some(BEGIN_US - 600 * MINUTE_US),
            Some(now),
            Some(now),
            Some(now + 9 * MINUTE_US),
        ];
        let time_us = *self.times[usize::from(id)].get_or_insert(times[random.below(5)]);
        let usual = 11 + 13 * i64::from(id);
        let quantity = match random.below(8) {
            0 => usual + 1,
            1 | 2 if id.is_multiple_of(4) => -usual,
            _ => usual,
        };
        Event { id, quantity, time_us }
    }

    fn send(&mut self, partition: usize) {
        if self.blocks == 0 {
            return;
        }
        self.blocks -= 1;
        self.world.now_us += self.random.below(3_000_000) as i64;
        let mut entries = Vec::new();
        for _ in 0..1 + self.random.below(4) {
            entries.push(match self.random.below(16) {
                0 => Entry::Refused { tenant: self.random.below(2) },
                1 | 2 if self.world.version > 0 => self.marker(),
                _ => Entry::Event(self.event(partition)),
            });
        }
        self.world.send(partition, entries);
    }

    /// A marker: of the newest version, or again of an older one.
    fn marker(&mut self) -> Entry {
        let newest = usize::try_from(self.world.version).unwrap();
        let older = if self.random.one_in(4) { self.random.below(newest) } else { 0 };
        Entry::Marker(self.world.version - older as u64)
    }

    fn publish(&mut self, partition: usize) {
        self.world.version = (self.world.version + 1).min(VERSIONS);
        if self.blocks > 0 {
            let marker = self.marker();
            self.world.send(partition, vec![marker]);
        }
    }

    fn call(&mut self) {
        let flying = self.world.calls.flying.len();
        if flying == 0 {
            return;
        }
        let at = self.random.below(flying);
        if self.random.one_in(10) {
            return self.world.lose(at);
        }
        if self.ordered && !self.world.calls.is_first_append(at) {
            return;
        }
        let torn = self.random.one_in(2);
        self.world.perform(at, torn);
    }

    fn doubt(&mut self) -> bool {
        self.random.one_in(12)
    }

    fn begins(&mut self, other: bool) -> bool {
        let begins = self.random.one_in(2);
        self.world.faults.zombies += u64::from(begins && other);
        begins
    }

    fn rater(&mut self, partition: usize, which: usize) {
        let bits = Bits(self.random.bits());
        let Some(owner) = &self.world.owners[partition][which] else {
            let other = self.world.owners[partition][1 - which].is_some();
            if self.begins(other) {
                self.world.start_owner(partition, which, bits);
            }
            return;
        };
        if owner.broken && !self.random.one_in(4) {
            let away_after = self.random.one_in(4).then(|| self.random.below(3));
            return self.world.recover(partition, which, away_after);
        }
        match self.random.below(40) {
            0 => self.world.crash_owner(partition, which),
            1..13 => {
                if self.world.may_rate(partition, which) {
                    self.world.rate(partition, which);
                }
            }
            13..21 => self.world.cut(partition, which),
            21..30 => {
                let doubt = self.doubt();
                self.world.hear_report(partition, which, doubt);
            }
            30..38 => self.world.leave(partition, which, bits),
            _ => self.world.mend(partition, which, bits),
        }
    }

    fn lane(&mut self, partition: usize, which: usize) {
        if self.world.owners[partition][which].is_none() {
            return;
        }
        if self.world.lanes[partition][which].is_none() {
            return self.world.open_lane(partition, which);
        }
        let doubt = self.doubt();
        match self.random.below(30) {
            0 => self.world.crash_lane(partition, which),
            1..7 => {
                let most = 1 + self.random.below(3);
                self.world.read_lane(partition, which, most);
            }
            7..12 => self.world.ask_archive(partition, which),
            12..17 => self.world.judge(partition, which),
            17..21 => self.world.hear_append(partition, which, doubt),
            21..24 => self.world.store_lane(partition, which),
            24..28 => self.world.hear_move(partition, which, doubt),
            _ => self.world.release(partition, which),
        }
    }

    fn writer(&mut self, partition: usize, which: usize) {
        if self.world.writers[partition][which].is_none() {
            let other = self.world.writers[partition][1 - which].is_some();
            if self.begins(other) {
                self.world.open_writer(partition, which);
            }
            return;
        }
        let doubt = self.doubt();
        match self.random.below(24) {
            0 => self.world.crash_writer(partition, which),
            1..9 => {
                let most = 1 + self.random.below(4);
                self.world.read_writer(partition, which, most);
            }
            9..15 => self.world.post(partition, which),
            _ => self.world.hear_post(partition, which, doubt),
        }
    }

    fn archiver(&mut self, partition: usize, which: usize) {
        let Some(archiver) = &self.world.archivers[which] else {
            let other = self.world.archivers[1 - which].is_some();
            if self.begins(other) {
                self.world.start_archiver(which);
            }
            return;
        };
        let (waits, conflicts) = (archiver.is_waiting(), archiver.has_conflicts());
        let doubt = self.doubt();
        match self.random.below(24) {
            0 => self.world.crash_archiver(which),
            1..8 => {
                let most = 1 + self.random.below(4);
                self.world.gather(which, partition, most);
            }
            8..11 => self.world.end_group(which, partition),
            _ if waits => self.world.hear_flush(which, doubt),
            _ if conflicts => self.world.settle_conflict(which),
            _ => self.world.lead(which),
        }
    }

    /// What flies lands or is lost, one process of each kind starts anew, and nothing fails now.
    fn heal(&mut self) {
        self.world.tell(|| "healing".into());
        while !self.world.calls.flying.is_empty() {
            let at = self.random.below(self.world.calls.flying.len());
            if self.random.one_in(2) { self.world.perform(at, false) } else { self.world.lose(at) }
        }
        let bits = self.random.bits();
        heal(&mut self.world, bits);
    }
}

/// Starts one process of each kind anew and lets everything become quiet.
pub fn heal(world: &mut World, bits: u64) {
    for partition in 0..world.settings.partitions {
        world.owners[partition] = [None, None];
        world.lanes[partition] = [None, None];
        world.writers[partition] = [None, None];
        world.start_owner(partition, 0, Bits(bits));
        world.open_lane(partition, 0);
        world.open_writer(partition, 0);
    }
    world.archivers = [None, None];
    world.start_archiver(0);
    quiet(world);
}

/// Lets everything become quiet.
pub(super) fn quiet(world: &mut World) {
    for _ in 0..ROUNDS_MAX {
        if is_quiet(world) {
            return;
        }
        for partition in 0..world.settings.partitions {
            heal_round(world, partition);
        }
    }
    panic!("late events go round for ever, or a reader is stuck");
}

/// What closes periods may stay on its way.
fn perform_all(world: &mut World) {
    let is_ours = |call: &Call| !matches!(call.effect, Effect::Close(..));
    while let Some(at) = world.calls.flying.iter().position(is_ours) {
        world.perform(at, false);
    }
}

/// A round of each process of a partition.
pub(super) fn heal_round(world: &mut World, partition: usize) {
    while world.owners[partition][0]
        .as_ref()
        .is_some_and(|owner| owner.state.batch().is_some() || !owner.reports.is_empty())
        || world.may_rate(partition, 0)
    {
        world.rate(partition, 0);
        world.cut(partition, 0);
        perform_all(world);
        world.hear_report(partition, 0, false);
    }
    world.read_writer(partition, 0, usize::MAX);
    world.post(partition, 0);
    perform_all(world);
    world.hear_post(partition, 0, false);
    let number = u32::try_from(partition).unwrap();
    let behind = |world: &World| {
        world.archive.position(number).x < world.database.standings[partition].place.x
    };
    // As many groups as there are messages, at most, and some calls for each.
    for _ in 0..8 * (1 + world.log[partition].rated.len()) {
        if !behind(world) {
            break;
        }
        world.gather(0, partition, usize::MAX);
        world.end_group(0, partition);
        world.lead(0);
        perform_all(world);
        world.hear_flush(0, false);
        world.settle_conflict(0);
    }
    world.read_lane(partition, 0, usize::MAX);
    world.ask_archive(partition, 0);
    world.judge(partition, 0);
    perform_all(world);
    world.hear_append(partition, 0, false);
    world.store_lane(partition, 0);
    perform_all(world);
    world.hear_move(partition, 0, false);
    world.release(partition, 0);
}

fn is_quiet(world: &World) -> bool {
    (0..world.settings.partitions).all(|partition| {
        let x = world.log[partition].usage_end() - 1;
        let ledger = world.database.standings[partition].place;
        let archive = world.archive.position(u32::try_from(partition).unwrap());
        let lane = world.database.late[partition];
        (ledger.x, archive.x, lane.place.x, lane.index) == (x, x, x, 0)
    })
}
