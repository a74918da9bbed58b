//! Every order of a few steps: two owners, two of every reader, some blocks, a crash between any two
//! steps. Where a walk draws one step, this takes each of them, and remembers where it was.

use std::{
    collections::{BTreeMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, PoisonError},
};

use rater::{queue::Queue, table::Limits};

use super::{
    calls::{Effect, Look},
    check::{Findings, check},
    owner::Bits,
    rows::row_binary,
    traffic::{Entry, VERSIONS},
    walk::{heal, reason},
    world::{Faults, Planted, Settings, Trace, World},
};

/// The append time of the first block, and how far blocks are apart, microseconds.
const BEGIN_US: i64 = 1_769_889_600_000_000;
const STEP_US: i64 = 600_000_000;

/// What is explored, and how far.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Its name.
    pub name: &'static str,
    /// Blocks of clients, in the order of the log; each is sent at any moment.
    pub blocks: Vec<Vec<Entry>>,
    /// How many of them are there from the beginning.
    pub sent: usize,
    /// Blocks in `[usage]`, copies of lanes included, at most.
    pub usage_max: usize,
    /// Messages in `[rated]`, at most.
    pub rated_max: usize,
    /// Batches on their way, at most.
    pub flying_max: usize,
    /// Blocks in a batch, at most.
    pub batch_max: usize,
    /// Times that each of the two owners starts, or starts over from the accepted place.
    pub starts: [u8; 2],
    /// Ranges that leave the table of each owner, at most.
    pub departures: u8,
    /// Times that each lane answers; without any there are no lanes.
    pub lanes: u8,
    /// Transactions that each of two ledger-writers begins, which may be carried out at any later
    /// time.
    pub writers: u8,
    /// Times that the first ledger-writer does not hear of its transaction, which may be carried out
    /// before or later.
    pub doubts: u8,
    /// Flushes that each of two archivers begins, step by step. Without either everything is
    /// posted and archived in one step, now and then.
    pub archivers: u8,
    /// Identities that a table holds, at most.
    pub identities_max: usize,
    /// What is broken.
    pub planted: Planted,
    /// One state in so many is healed.
    pub heal_one_in: u64,
    /// States after which it is given up; a complete exploration stays below.
    pub states_max: usize,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Explored {
    /// Different states.
    pub states: usize,
    /// Steps between them.
    pub steps: usize,
    /// States that were healed.
    pub healed: usize,
    /// Whether every state was seen.
    pub complete: bool,
    /// The most of everything that was found in a state.
    pub most: Findings,
    /// The most of what readers in each other's way have met on the way to a state.
    pub met: Met,
    /// The steps to the first state that is wrong, and what is.
    pub wrong: Option<(Vec<String>, String)>,
}

/// What readers in each other's way meet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Met {
    /// Windows that another writer had posted.
    pub fenced: u64,
    /// Windows that were posted although their answer was not heard.
    pub posted_unheard: u64,
    /// Flushes whose borders were fixed otherwise.
    pub conflicts: u64,
    /// Flushes inserted again by somebody else.
    pub repeats: u64,
}

impl Met {
    fn add(&mut self, faults: &Faults) {
        self.fenced = self.fenced.max(faults.fenced);
        self.posted_unheard = self.posted_unheard.max(faults.posted_unheard);
        self.conflicts = self.conflicts.max(faults.conflicts);
        self.repeats = self.repeats.max(faults.repeats);
    }
}

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A client's next block is in the log.
    Send,
    /// A call is carried out.
    Perform(usize),
    /// A ledger-writer's transaction, which is broken on purpose into two, is half carried out.
    Tear(usize),
    /// An owner starts.
    Start(usize),
    /// An owner does not hear of its oldest batch and starts over from the accepted place.
    Doubt(usize),
    /// An owner rates so many blocks and sends them as a batch.
    Rate(usize, usize),
    /// An owner hears of its oldest batch.
    Report(usize),
    /// What is too much leaves an owner's table, with a filter or without.
    Leave(usize, bool),
    /// Everything accepted is posted and archived.
    ReadAll,
    /// A ledger-writer reads to the end and sends its transaction.
    Post(usize),
    /// A ledger-writer hears of its transaction.
    HearPost(usize),
    /// A ledger-writer hears that the outcome of its transaction is not known.
    DoubtPost(usize),
    /// An archiver reads to the end and sends the borders of its group.
    Lead(usize),
    /// An archiver hears of its call and makes the next.
    HearFlush(usize),
    /// An archiver ends; its call is still under way.
    EndArchiver(usize),
    /// A lane begins, searches and sends copies.
    Judge(usize),
    /// A lane hears of its copies and stores its place.
    Answered(usize),
    /// A lane ends; its copies are still under way.
    EndLane(usize),
}

impl Step {
    /// Whether what is checked may be another after it: log, stores, or what an owner believes.
    fn changes_something(self) -> bool {
        !matches!(
            self,
            Step::Rate(..)
                | Step::Leave(..)
                | Step::Post(_)
                | Step::Lead(_)
                | Step::Judge(_)
                | Step::EndArchiver(_)
                | Step::EndLane(_)
        )
    }
}

/// How often what is limited was done.
#[derive(Clone, Copy, Debug, Default, Hash)]
struct Spent {
    sent: usize,
    starts: [u8; 2],
    departures: [u8; 2],
    lanes: [u8; 2],
    writers: [u8; 2],
    doubts: u8,
    archivers: [u8; 2],
}

#[derive(Clone)]
struct Node {
    world: World,
    spent: Spent,
}

/// Explores everything within the scope.
pub fn explore(scope: &Scope) -> Explored {
    let mut world = World::new(
        Settings {
            partitions: 1,
            in_flight: 2,
            limits: Limits {
                identities_max: scope.identities_max,
                range_identities: 1,
                window_us: STEP_US,
            },
            group_rows: 1_000,
            planted: scope.planted,
        },
        BEGIN_US,
    );
    world.version = VERSIONS;
    let mut explored = Explored {
        states: 1,
        steps: 0,
        healed: 0,
        complete: false,
        most: Findings::default(),
        met: Met::default(),
        wrong: None,
    };
    let mut first = Node { world, spent: Spent::default() };
    for _ in 0..scope.sent {
        first.take_in(scope, Step::Send);
    }
    let nothing = Findings::default();
    let mut seen = HashSet::from([first.digest()]);
    let steps = first.steps(scope);
    let mut path: Vec<(Node, Vec<Step>, usize)> = vec![(first, steps, 0)];
    while let Some((node, steps, next)) = path.last_mut() {
        let Some(step) = steps.get(*next).copied() else {
            path.pop();
            continue;
        };
        *next += 1;
        explored.steps += 1;
        let mut after = node.clone();
        let took = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            after.take_in(scope, step);
            let digest = after.digest();
            if !seen.insert(digest) {
                return None;
            }
            let findings =
                if step.changes_something() { check(&after.world, false) } else { nothing };
            if digest.0 % scope.heal_one_in == 0 {
                after.heal();
                explored.healed += 1;
            }
            Some(findings)
        }));
        match took {
            Ok(None) => continue,
            Ok(Some(findings)) => {
                explored.most = most(&explored.most, &findings);
                explored.met.add(&after.world.faults);
            }
            Err(panic) => {
                explored.wrong = Some((retell(scope, &path), reason(panic.as_ref())));
                explored.states = seen.len();
                return explored;
            }
        }
        if seen.len() >= scope.states_max {
            explored.states = seen.len();
            return explored;
        }
        let steps = after.steps(scope);
        path.push((after, steps, 0));
    }
    explored.states = seen.len();
    explored.complete = true;
    explored
}

fn most(one: &Findings, other: &Findings) -> Findings {
    Findings {
        events: one.events.max(other.events),
        accepted: one.accepted.max(other.accepted),
        ignored: one.ignored.max(other.ignored),
        effects: one.effects.max(other.effects),
        duplicates: one.duplicates.max(other.duplicates),
        conflicts: one.conflicts.max(other.conflicts),
        rejected: one.rejected.max(other.rejected),
        forwarded: one.forwarded.max(other.forwarded),
        rounds: one.rounds.max(other.rounds),
        switches: one.switches.max(other.switches),
        corrected: one.corrected.max(other.corrected),
        uncorrected: one.uncorrected.max(other.uncorrected),
        // No period is closed here.
        ..*one
    }
}

/// Takes the steps again, in words.
fn retell(scope: &Scope, path: &[(Node, Vec<Step>, usize)]) -> Vec<String> {
    let (mut node, trace) = (path[0].0.clone(), Trace::default());
    node.world.trace = Some(Arc::clone(&trace));
    for (_, steps, next) in path {
        let step = steps[*next - 1];
        node.world.tell(|| format!("{step:?}"));
        let take = std::panic::AssertUnwindSafe(|| node.take_in(scope, step));
        if std::panic::catch_unwind(take).is_err() {
            break;
        }
    }
    std::mem::take(&mut *trace.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Node {
    fn steps(&self, scope: &Scope) -> Vec<Step> {
        let (world, spent) = (&self.world, &self.spent);
        let mut steps = Vec::new();
        let (usage, rated) = (world.log[0].usage.len(), world.log[0].rated.len());
        if spent.sent < scope.blocks.len() && usage < scope.usage_max {
            steps.push(Step::Send);
        }
        let mut flying = 0;
        for (at, call) in world.calls.flying.iter().enumerate() {
            let room = match &call.effect {
                Effect::Rated(..) => rated < scope.rated_max,
                Effect::Copies(..) => usage < scope.usage_max,
                _ => true,
            };
            flying += usize::from(matches!(call.effect, Effect::Rated(..)));
            if room {
                steps.push(Step::Perform(at));
            }
            if scope.planted == Planted::PlaceApart && matches!(call.effect, Effect::Post(..)) {
                steps.push(Step::Tear(at));
            }
        }
        for which in 0..2 {
            self.owner_steps(scope, which, flying < scope.flying_max, &mut steps);
            self.lane_steps(scope, which, &mut steps);
            self.writer_steps(scope, which, &mut steps);
            self.archiver_steps(scope, which, &mut steps);
        }
        steps
    }

    fn owner_steps(&self, scope: &Scope, which: usize, room: bool, steps: &mut Vec<Step>) {
        let (world, spent) = (&self.world, &self.spent);
        let may_start = spent.starts[which] < scope.starts[which];
        // The two are alike: the second one starts after the first.
        if may_start && (which == 0 || spent.starts[0] > 0) {
            steps.push(Step::Start(which));
        }
        let Some(owner) = &world.owners[0][which] else { return };
        if let Some(oldest) = owner.reports.front() {
            if world.calls.look(*oldest) != Look::Waiting {
                steps.push(Step::Report(which));
            }
            if may_start {
                steps.push(Step::Doubt(which));
            }
        }
        let left = world.log[0].usage_end() - owner.state.next_position();
        if room && world.may_rate(0, which) {
            let most = usize::try_from(left).unwrap().min(scope.batch_max);
            steps.extend((1..=most).map(|count| Step::Rate(which, count)));
        }
        let held = world.lanes[0][which].as_ref().and_then(|lane| lane.held);
        if spent.departures[which] < scope.departures && owner.state.departure(held).is_some() {
            steps.extend([Step::Leave(which, true), Step::Leave(which, false)]);
        }
    }

    fn lane_steps(&self, scope: &Scope, which: usize, steps: &mut Vec<Step>) {
        let world = &self.world;
        match &world.lanes[0][which] {
            None if self.spent.lanes[which] < scope.lanes && self.waits_for_lane() => {
                steps.push(Step::Judge(which));
            }
            None => {}
            Some(lane) => {
                let call = lane.appending.as_ref().map(|(call, _)| *call);
                if call.is_some_and(|call| world.calls.look(call) != Look::Waiting) {
                    steps.push(Step::Answered(which));
                }
                steps.push(Step::EndLane(which));
            }
        }
    }

    /// Whether a lane that begins now finds a late event that the archive has passed.
    fn waits_for_lane(&self) -> bool {
        let (log, stored) = (&self.world.log[0], self.world.database.late[0]);
        let mut queue = Queue::new(0, stored);
        for position in stored.place.r + 1..log.rated_end() {
            queue.offer(position, &log.rated_at(position).unwrap().unwrap()).unwrap();
        }
        queue.has_passed(self.world.archive.position(0).x)
    }

    fn writer_steps(&self, scope: &Scope, which: usize, steps: &mut Vec<Step>) {
        let world = &self.world;
        let behind = world.log[0].rated_end() > world.database.standings[0].place.r + 1;
        if scope.writers == 0 {
            if which == 0 && behind && scope.archivers == 0 {
                steps.push(Step::ReadAll);
            }
            return;
        }
        match &world.writers[0][which] {
            None if behind && self.spent.writers[which] < scope.writers => {
                steps.push(Step::Post(which));
            }
            None => {}
            Some(writer) => {
                let call = writer.posting.as_ref().map(|(call, _)| *call);
                if call.is_some_and(|call| world.calls.look(call) != Look::Waiting) {
                    steps.push(Step::HearPost(which));
                }
                if which == 0 && self.spent.doubts < scope.doubts {
                    steps.push(Step::DoubtPost(which));
                }
            }
        }
    }

    fn archiver_steps(&self, scope: &Scope, which: usize, steps: &mut Vec<Step>) {
        let world = &self.world;
        let behind = world.log[0].rated_end() > world.archive.position(0).r + 1;
        if scope.archivers == 0 {
            return;
        }
        match &world.archivers[which] {
            None if behind && self.spent.archivers[which] < scope.archivers => {
                steps.push(Step::Lead(which));
            }
            None => {}
            Some(archiver) => {
                if archiver.waits_for().is_some_and(|call| world.calls.look(call) != Look::Waiting)
                {
                    steps.push(Step::HearFlush(which));
                }
                steps.push(Step::EndArchiver(which));
            }
        }
    }

    fn take_in(&mut self, scope: &Scope, step: Step) {
        if step == Step::Send {
            self.world.now_us = BEGIN_US + STEP_US * self.world.log[0].usage_end();
            let block = scope.blocks[self.spent.sent].clone();
            self.spent.sent += 1;
            self.world.send(0, block);
        } else {
            self.take(step);
        }
    }

    fn take(&mut self, step: Step) {
        let (world, spent) = (&mut self.world, &mut self.spent);
        world.now_us = BEGIN_US + STEP_US * world.log[0].usage_end();
        match step {
            Step::Send => unreachable!("the scope knows what is sent"),
            Step::Perform(at) => world.perform(at, false),
            Step::Tear(at) => world.perform(at, true),
            Step::Start(which) => {
                spent.starts[which] += 1;
                world.start_owner(0, which, Bits(u64::MAX));
            }
            Step::Doubt(which) => {
                spent.starts[which] += 1;
                world.hear_report(0, which, true);
                world.recover(0, which, None);
            }
            Step::Rate(which, count) => {
                for _ in 0..count {
                    world.rate(0, which);
                }
                world.cut(0, which);
            }
            Step::Report(which) => {
                world.hear_report(0, which, false);
                world.recover(0, which, None);
            }
            Step::Leave(which, filter) => {
                spent.departures[which] += 1;
                let bits = Bits(if filter { u64::MAX } else { 0 });
                world.leave(0, which, bits);
                world.leave(0, which, bits);
            }
            Step::ReadAll => {
                post_all(world);
                archive_all(world);
            }
            Step::Post(which) => {
                spent.writers[which] += 1;
                world.open_writer(0, which);
                world.read_writer(0, which, usize::MAX);
                world.post(0, which);
                if world.writers[0][which].as_ref().is_some_and(|one| one.posting.is_none()) {
                    world.writers[0][which] = None;
                }
            }
            Step::HearPost(which) => {
                world.hear_post(0, which, false);
                world.writers[0][which] = None;
            }
            Step::DoubtPost(which) => {
                spent.doubts += 1;
                world.hear_post(0, which, true);
                if world.writers[0][which].as_ref().is_some_and(|one| one.posting.is_none()) {
                    world.writers[0][which] = None;
                }
            }
            Step::Lead(which) => {
                spent.archivers[which] += 1;
                world.start_archiver(which);
                world.gather(which, 0, usize::MAX);
                world.end_group(which, 0);
                world.lead(which);
                end_idle_archiver(world, which);
            }
            Step::HearFlush(which) => {
                world.hear_flush(which, false);
                world.settle_conflict(which);
                end_idle_archiver(world, which);
            }
            Step::EndArchiver(which) => world.archivers[which] = None,
            Step::Judge(which) => {
                spent.lanes[which] += 1;
                world.open_lane(0, which);
                world.read_lane(0, which, usize::MAX);
                world.ask_archive(0, which);
                world.judge(0, which);
            }
            Step::Answered(which) => {
                world.hear_append(0, which, false);
                world.store_lane(0, which);
                if let Some(last) = world.calls.flying.len().checked_sub(1)
                    && matches!(world.calls.flying[last].effect, Effect::Move(..))
                {
                    world.perform(last, false);
                }
                world.lanes[0][which] = None;
            }
            Step::EndLane(which) => world.lanes[0][which] = None,
        }
    }

    /// From here on nothing fails: everything under way lands, or nothing of it.
    fn heal(&self) {
        for lands in [true, false] {
            let mut world = self.world.clone();
            world.now_us += STEP_US;
            while !world.calls.flying.is_empty() {
                if lands { world.perform(0, false) } else { world.lose(0) }
            }
            heal(&mut world, u64::MAX);
            check(&world, true);
        }
    }

    /// What tells this state from others, as a number: 128 bits, so that no two are taken for one.
    fn digest(&self) -> (u64, u64) {
        let mut hashers = [DefaultHasher::new(), DefaultHasher::new()];
        1u8.hash(&mut hashers[1]);
        let facts = self.facts();
        for hasher in &mut hashers {
            facts.hash(hasher);
        }
        (hashers[0].finish(), hashers[1].finish())
    }

    fn facts(&self) -> Vec<i64> {
        let mut facts = Facts(Vec::with_capacity(256));
        facts.hash(&self.spent);
        let (world, log) = (&self.world, &self.world.log[0]);
        facts.hash(&log.usage.iter().map(|block| &block.payload).collect::<Vec<_>>());
        facts.hash(&log.rated.iter().map(|message| &message[60..92]).collect::<Vec<_>>());
        let mut flying: BTreeMap<u64, i64> = BTreeMap::new();
        for call in &world.calls.flying {
            *flying.entry(effect(&call.effect, call.caller)).or_default() += 1;
        }
        facts.hash(&flying);
        for which in 0..2 {
            facts.owner(world, which);
            facts.readers(world, which);
        }
        let database = &world.database;
        let standing = database.standings[0].place;
        facts.0.extend([standing.x, standing.r, database.late[0].place.x]);
        facts.0.push(i64::from(database.late[0].index));
        facts.0.extend(database.audit[0].iter().map(|(entry, _)| entry.to.x));
        for ((_, from_x), (borders, flush)) in &database.groups {
            facts.0.extend([*from_x, borders.to_x]);
            facts.hash(&world.archive.has_token(flush));
        }
        facts.0.push(world.archive.position(0).x);
        facts.0
    }
}

struct Facts(Vec<i64>);

impl Facts {
    fn hash(&mut self, fact: &impl std::hash::Hash) {
        self.0.push(hash_of(fact));
    }

    fn owner(&mut self, world: &World, which: usize) {
        let Some(owner) = &world.owners[0][which] else { return self.0.push(-1) };
        let (place, table) = (owner.state.place(), owner.state.table());
        let coverage = table.coverage();
        self.0.extend([place.x, place.r, owner.state.next_position(), coverage.table_from]);
        self.0.extend([coverage.horizon_us, i64::from(owner.broken)]);
        self.hash(&(place.c, table.edge(), table.identities()));
        for range in table.ranges().all() {
            self.0.extend([range.name.from, range.name.to, i64::from(range.filter.is_some())]);
        }
        for report in &owner.reports {
            let flying = world.calls.flying.iter().find(|call| call.id == *report);
            match flying {
                Some(call) => self.0.push(effect(&call.effect, call.caller).cast_signed()),
                None => self.hash(&format!("{:?}", world.calls.look(*report))),
            }
        }
    }

    fn readers(&mut self, world: &World, which: usize) {
        let waits = |call: Option<u32>| match call {
            None => 0,
            Some(call) => {
                let flying = world.calls.flying.iter().find(|one| one.id == call);
                flying.map_or(1, |one| effect(&one.effect, one.caller).cast_signed())
            }
        };
        if let Some(writer) = &world.writers[0][which] {
            self.0.push(waits(writer.posting.as_ref().map(|(call, _)| *call)));
            let posting = writer.posting.as_ref();
            self.hash(&posting.map(|(_, posting)| (posting.from.x, posting.to.x)));
        }
        self.0.push(-2);
        if let Some(lane) = &world.lanes[0][which] {
            self.0.push(waits(lane.appending.as_ref().map(|(call, _)| *call)));
            self.hash(&lane.appending.as_ref().map(|(_, answers)| &answers.block));
            self.0.push(lane.held.unwrap_or(-3));
        }
        self.0.push(-4);
        if let Some(archiver) = &world.archivers[which] {
            self.0.push(waits(archiver.waits_for()));
            self.hash(&format!("{:?}", archiver.outline()));
            self.hash(&archiver.next(0));
        }
    }
}

fn hash_of(fact: &impl std::hash::Hash) -> i64 {
    let mut hasher = DefaultHasher::new();
    fact.hash(&mut hasher);
    hasher.finish().cast_signed()
}

/// What a call does, as a number. Its own number and the flush that it is part of are names only.
fn effect(effect: &Effect, caller: usize) -> u64 {
    let fact = match effect {
        Effect::Rated(_, message) => hash_of(&&message[60..92]),
        Effect::Copies(_, payload) | Effect::Close(_, payload, _) => hash_of(payload),
        Effect::Post(posting, _) => hash_of(&(posting.from.x, posting.to.x, posting.to.c)),
        Effect::Move(_, moved) => hash_of(&format!("{moved:?}")),
        Effect::Fix(_, wanted) => hash_of(&format!("{wanted:?}")),
        Effect::Insert(insert) => hash_of(&(insert.table.name, row_binary(&insert.rows))),
    };
    hash_of(&(fact, caller)).cast_unsigned()
}

fn post_all(world: &mut World) {
    world.open_writer(0, 0);
    world.read_writer(0, 0, usize::MAX);
    world.post(0, 0);
    perform_newest(world, |effect| matches!(effect, Effect::Post(..)));
    world.writers[0][0] = None;
}

fn archive_all(world: &mut World) {
    world.start_archiver(0);
    world.gather(0, 0, usize::MAX);
    world.end_group(0, 0);
    world.lead(0);
    while perform_newest(world, |effect| matches!(effect, Effect::Fix(..) | Effect::Insert(_))) {
        world.hear_flush(0, false);
    }
    world.archivers[0] = None;
}

fn perform_newest(world: &mut World, wanted: impl Fn(&Effect) -> bool) -> bool {
    let newest = world.calls.flying.iter().rposition(|call| wanted(&call.effect));
    if let Some(at) = newest {
        world.perform(at, false);
    }
    newest.is_some()
}

fn end_idle_archiver(world: &mut World, which: usize) {
    if world.archivers[which].as_ref().is_some_and(|one| one.waits_for().is_none()) {
        world.archivers[which] = None;
    }
}
