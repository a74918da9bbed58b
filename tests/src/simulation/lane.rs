//! Slow lanes: the real queue and verdicts, what they read, append and store.

use rater::{
    queue::{Answers, Move, Queue},
    verdict::Cursor,
};

use super::{
    calls::{Answer, CallId, Effect, Look},
    stores::Trimmed,
    world::{Planted, World},
};

/// The slow lane of a partition.
#[derive(Clone)]
pub struct Lane {
    /// The real thing.
    pub queue: Queue,
    /// The position of `[rated]` to read next.
    next: i64,
    /// `A` of a look-up under way, for which the table holds on.
    pub held: Option<i64>,
    /// Where the archive was when it was asked.
    asked: Option<i64>,
    /// Copies on their way.
    pub appending: Option<(CallId, Answers)>,
    /// A move on its way.
    pub moving: Option<(CallId, Move)>,
}

/// Callers of lanes, apart from those of raters.
const CALLER: usize = 2;

impl World {
    /// A lane starts where Postgres says.
    pub fn open_lane(&mut self, partition: usize, which: usize) {
        let stored: Cursor = self.database.late[partition];
        let queue = Queue::new(u32::try_from(partition).unwrap(), stored);
        let next = stored.place.r + 1;
        self.tell(|| format!("lane {partition}.{which} starts after [rated] {}", next - 1));
        let lane = Lane { queue, next, held: None, asked: None, appending: None, moving: None };
        self.lanes[partition][which] = Some(lane);
    }

    /// The lane ends between two steps.
    pub fn crash_lane(&mut self, partition: usize, which: usize) {
        self.tell(|| format!("lane {partition}.{which} ends"));
        self.lanes[partition][which] = None;
        self.faults.crashes += 1;
    }

    /// Reads so many messages of `[rated]`, at most.
    pub fn read_lane(&mut self, partition: usize, which: usize, most: usize) {
        let Some(lane) = &mut self.lanes[partition][which] else { return };
        for _ in 0..most {
            match self.log[partition].rated_at(lane.next) {
                Ok(None) => return,
                Ok(Some(message)) => lane.queue.offer(lane.next, &message).unwrap(),
                Err(Trimmed) => return self.crash_lane(partition, which),
            }
            lane.next += 1;
        }
    }

    /// Asks how far the archive is.
    pub fn ask_archive(&mut self, partition: usize, which: usize) {
        let archived = self.archive.position(u32::try_from(partition).unwrap()).x;
        let Some(lane) = &mut self.lanes[partition][which] else { return };
        if !lane.queue.is_empty() && lane.appending.is_none() && lane.moving.is_none() {
            (lane.held, lane.asked) = (Some(archived), Some(archived));
        }
    }

    /// Searches and sends the copies.
    pub fn judge(&mut self, partition: usize, which: usize) {
        let number = u32::try_from(partition).unwrap();
        let Some(lane) = &mut self.lanes[partition][which] else { return };
        let Some(archived) = lane.asked.take() else { return };
        if !lane.queue.has_passed(archived) {
            lane.held = None;
            return;
        }
        let believed =
            if self.settings.planted == Planted::NewWithoutLimit { i64::MAX / 2 } else { archived };
        let search = lane.queue.search(believed).unwrap();
        let hits = self.archive.find(number, &search.ranges, &search.identities);
        let answers = search.answers(&hits).unwrap();
        let verdicts = answers.verdicts.clone();
        let call = self.calls.begin(CALLER + which, Effect::Copies(number, answers.block.clone()));
        lane.appending = Some((call, answers));
        if self.settings.planted == Planted::LanePlaceFirst {
            self.store_lane(partition, which);
        }
        self.tell(|| format!("lane {partition}.{which} sends {verdicts:?} as call {call}"));
    }

    /// Looks at the report of its append. What is not acknowledged ends the lane.
    pub fn hear_append(&mut self, partition: usize, which: usize, doubt: bool) {
        let Some(lane) = &mut self.lanes[partition][which] else { return };
        let Some((call, answers)) = &lane.appending else { return };
        match self.calls.look(*call) {
            Look::Waiting if !doubt => {}
            Look::Answered(_) if !doubt => {
                lane.queue.acknowledged(answers);
                self.calls.forget(*call);
                lane.appending = None;
            }
            _ => {
                self.unheard(doubt);
                self.crash_lane(partition, which);
            }
        }
    }

    /// Stores its place as far as it may.
    pub fn store_lane(&mut self, partition: usize, which: usize) {
        let Some(lane) = &mut self.lanes[partition][which] else { return };
        if lane.moving.is_some() {
            return;
        }
        let mut queue = lane.queue.clone();
        if let (Planted::LanePlaceFirst, Some((_, answers))) =
            (self.settings.planted, &lane.appending)
        {
            queue.acknowledged(answers);
        }
        let Some(due) = queue.due() else { return };
        let number = u32::try_from(partition).unwrap();
        let call = self.calls.begin(CALLER + which, Effect::Move(number, due.clone()));
        lane.moving = Some((call, due));
    }

    /// Looks at the answer to its move.
    pub fn hear_move(&mut self, partition: usize, which: usize, doubt: bool) {
        let Some(lane) = &mut self.lanes[partition][which] else { return };
        let Some((call, moved)) = &lane.moving else { return };
        match self.calls.look(*call) {
            Look::Waiting if !doubt => {}
            Look::Answered(Answer::Done) if !doubt => {
                lane.queue.stored(moved);
                self.calls.forget(*call);
                lane.moving = None;
            }
            // Another lane was faster, or nobody knows: the next one begins where Postgres says.
            _ => {
                self.unheard(doubt);
                self.crash_lane(partition, which);
            }
        }
    }

    /// The table need no longer hold on.
    pub fn release(&mut self, partition: usize, which: usize) {
        if let Some(lane) = &mut self.lanes[partition][which]
            && lane.asked.is_none()
            && lane.appending.is_none()
        {
            lane.held = None;
        }
    }
}
