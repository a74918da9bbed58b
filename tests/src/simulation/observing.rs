//! What is observed, and those who close its periods: some of it in a walk, and more behind it, where the archive
//! keeps up and they do not: they end, hear nothing, and take periods from each other, while it is late and corrected.

use super::{
    check::check,
    random::Random,
    traffic::{DAY_US, Entry, Event, GAUGES, VERSIONS},
    walk::{IDS, MINUTE_US, heal_round, quiet},
    world::World,
};

/// One of how many steps sends what is observed.
const OBSERVED_ONE_IN: usize = 12;
/// Blocks of what is observed that are sent behind a walk.
const BLOCKS_LATE: usize = 6;
/// Steps behind a walk.
const STEPS: usize = 150;

/// Meters that do not add up.
pub struct Closing {
    /// Chance of their own.
    pub random: Random,
    /// Blocks of events that are observed, still to come.
    blocks: usize,
    /// As those of other events.
    times: Vec<Option<Option<i64>>>,
}

impl Closing {
    /// What comes of a seed.
    pub fn new(seed: u64) -> Closing {
        let mut random = Random::new(seed.rotate_left(32));
        let blocks = 6 + random.below(10);
        Closing { random, blocks, times: vec![None; usize::from(IDS)] }
    }

    /// An event that is observed: now, before its day was over, or long after that.
    fn event(&mut self, now_us: i64) -> Event {
        let id = self.random.below(self.times.len());
        let days_ago = self.random.below(3) as i64;
        let times =
            [None, Some(now_us), Some(now_us - days_ago * DAY_US), Some(now_us + 9 * MINUTE_US)];
        let time_us =
            *self.times[id].get_or_insert(times[[0, 1, 2, 2, 2, 3][self.random.below(6)]]);
        let usual = 3 + 7 * id as i64;
        let quantity = match self.random.below(8) {
            0 => usual + 1,
            1 if id.is_multiple_of(4) => -usual,
            2 if id.is_multiple_of(3) => 0,
            _ => usual,
        };
        Event { id: GAUGES + u8::try_from(id).unwrap(), quantity, time_us }
    }

    /// What is observed is sent.
    fn send(&mut self, world: &mut World) {
        self.blocks -= 1;
        let events: Vec<Event> =
            (0..1 + self.random.below(4)).map(|_| self.event(world.now_us)).collect();
        for own in 0..world.settings.partitions {
            let of = |event: &&Event| event.team_number() % world.settings.partitions == own;
            let entries: Vec<Entry> =
                events.iter().filter(of).map(|event| Entry::Event(*event)).collect();
            if !entries.is_empty() {
                world.send(own, entries);
            }
        }
    }

    /// A step of those who close periods, or of those who send what is observed.
    pub fn step(&mut self, world: &mut World) {
        if self.blocks > BLOCKS_LATE && self.random.one_in(OBSERVED_ONE_IN) {
            return self.send(world);
        }
        let random = &mut self.random;
        let partition = random.below(world.settings.partitions);
        let which = usize::from(random.one_in(3));
        let Some(closer) = &world.closers[which] else {
            if random.one_in(2) {
                world.start_closer(which);
            }
            return;
        };
        let (is_closing, is_searching) = (closer.is_closing(), closer.is_searching());
        match random.below(24) {
            0 => world.crash_closer(which),
            1 if is_closing => world.give_back(which),
            2..6 if is_searching => world.go_on_searching(which),
            _ if is_closing => world.go_on_closing(which, random.one_in(12)),
            _ if is_searching => world.go_on_searching(which),
            2..12 => world.search(which, partition),
            _ => {
                let due = world.due(random.one_in(4));
                if !due.is_empty() {
                    world.take_period(which, due[random.below(due.len())]);
                }
            }
        }
    }

    /// Goes on behind a walk, until all that is over is closed.
    pub fn go_on(&mut self, world: &mut World) {
        mark(world);
        for _ in 0..STEPS {
            let partition = self.random.below(world.settings.partitions);
            match self.random.below(40) {
                0..2 if self.blocks > 0 => self.send(world),
                2..4 => drop(world.correct(partition, &mut self.random)),
                4 => world.now_us += MINUTE_US * self.random.below(1_000) as i64,
                5 if self.random.one_in(4) => {
                    world.version = (world.version + 1).min(VERSIONS);
                    world.send(partition, vec![Entry::Marker(world.version)]);
                }
                6..10 => (0..world.settings.partitions).for_each(|own| heal_round(world, own)),
                10..14 => self.call(world),
                _ => self.step(world),
            }
        }
        check(world, false);
        mark(world);
        quiet(world);
        world.close_all(quiet);
    }

    /// A call is carried out or lost.
    fn call(&mut self, world: &mut World) {
        let flying = world.calls.flying.len();
        if flying > 0 {
            let at = self.random.below(flying);
            if self.random.one_in(4) { world.lose(at) } else { world.perform(at, false) }
        }
    }
}

/// Every partition has the marker of the newest catalog: what is amended is rated by that.
fn mark(world: &mut World) {
    for partition in 0..world.settings.partitions {
        if world.version > 0 {
            world.send(partition, vec![Entry::Marker(world.version)]);
        }
    }
}
