//! What readers see of one (topic, partition): only durable messages.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, Instant},
};

use super::index::{Run, Sealed};
use crate::log::Message;

/// A reader plans at most this many reads from the newest segment at once.
const PLAN_OFFSETS_MAX: usize = 256;

/// One (topic, partition).
pub(crate) struct Track {
    state: Mutex<State>,
    grown: Condvar,
}

struct State {
    /// The first position still held.
    first: i64,
    /// The position the next message gets.
    next: i64,
    /// The newest messages, without a gap, up to `next`.
    tail: VecDeque<Message>,
    tail_bytes: usize,
    tail_bytes_max: usize,
    /// Number of the newest segment, and this track's part of it.
    active: u64,
    active_first: i64,
    active_offsets: Vec<u32>,
}

/// Where a position is.
pub(crate) enum Found {
    /// Here it is.
    Message(Message),
    /// In the newest segment: its offset and those that follow.
    Active {
        /// Number of the segment.
        segment: u64,
        /// Offsets of this and the next positions.
        offsets: Vec<u32>,
    },
    /// In a sealed segment.
    Sealed,
    /// Below the first position still held.
    Trimmed {
        /// The first position still held.
        begin: i64,
    },
    /// After the end of the log, by more than one.
    Beyond {
        /// The position the next message gets.
        next: i64,
    },
    /// Not written yet.
    Waiting,
}

impl Track {
    pub(crate) fn new(
        first: i64,
        active: u64,
        active_first: i64,
        offsets: Vec<u32>,
        tail: usize,
    ) -> Self {
        Self {
            state: Mutex::new(State {
                first,
                next: active_first.saturating_add(offsets.len() as i64),
                tail: VecDeque::new(),
                tail_bytes: 0,
                tail_bytes_max: tail,
                active,
                active_first,
                active_offsets: offsets,
            }),
            grown: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `(first, next)`.
    pub(crate) fn bounds(&self) -> (i64, i64) {
        let state = self.state();
        (state.first, state.next)
    }

    /// Shows a message that is now durable. [`Track::wake`] follows.
    pub(crate) fn push(&self, message: Message, offset: u32) {
        let mut state = self.state();
        state.next = message.position.saturating_add(1);
        state.active_offsets.push(offset);
        state.tail_bytes = state.tail_bytes.saturating_add(message.payload.len());
        state.tail.push_back(message);
        while state.tail_bytes > state.tail_bytes_max {
            let Some(dropped) = state.tail.pop_front() else {
                break;
            };
            state.tail_bytes = state.tail_bytes.saturating_sub(dropped.payload.len());
        }
    }

    /// Wakes the readers that wait for new messages.
    pub(crate) fn wake(&self) {
        self.grown.notify_all();
    }

    /// This track's part of the newest segment: first position and offsets.
    pub(crate) fn active(&self) -> (i64, Vec<u32>) {
        let state = self.state();
        (state.active_first, state.active_offsets.clone())
    }

    /// A new segment was begun; the one before is already in the list of sealed ones.
    pub(crate) fn rotate(&self, active: u64) {
        let mut state = self.state();
        state.active = active;
        state.active_first = state.next;
        state.active_offsets = Vec::new();
    }

    /// Positions below `first` are about to be removed.
    pub(crate) fn trim(&self, first: i64) {
        let mut state = self.state();
        state.first = state.first.max(first);
    }

    /// Finds a position, waiting until `deadline` for it to be written.
    pub(crate) fn find(&self, position: i64, deadline: Instant) -> Found {
        let mut state = self.state();
        loop {
            let found = state.find(position);
            let wait = deadline.saturating_duration_since(Instant::now());
            if !matches!(found, Found::Waiting) || wait == Duration::ZERO {
                return found;
            }
            let waited = self.grown.wait_timeout(state, wait);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl State {
    fn find(&self, position: i64) -> Found {
        if position < self.first {
            return Found::Trimmed { begin: self.first };
        }
        if position >= self.next {
            let next = self.next;
            return if position == next { Found::Waiting } else { Found::Beyond { next } };
        }
        let from_end = usize::try_from(self.next.saturating_sub(position)).unwrap_or(usize::MAX);
        let cached = self.tail.len().checked_sub(from_end).and_then(|at| self.tail.get(at));
        if let Some(message) = cached {
            return Found::Message(message.clone());
        }
        let Ok(at) = usize::try_from(position.saturating_sub(self.active_first)) else {
            return Found::Sealed;
        };
        let offsets = self.active_offsets.iter().skip(at).take(PLAN_OFFSETS_MAX);
        Found::Active { segment: self.active, offsets: offsets.copied().collect() }
    }
}

/// The sealed segments, oldest first.
#[derive(Default)]
pub(crate) struct SealedList(RwLock<VecDeque<Sealed>>);

impl SealedList {
    /// Adds the newest.
    pub(crate) fn push(&self, sealed: Sealed) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).push_back(sealed);
    }

    /// The segment that holds a position, and the track's part of it.
    pub(crate) fn find(&self, track: usize, position: i64) -> Option<(u64, Run)> {
        let list = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let run_of = |sealed: &Sealed| sealed.runs.get(track).copied();
        let at =
            list.partition_point(|sealed| run_of(sealed).is_some_and(|run| run.end() <= position));
        let sealed = list.get(at)?;
        let run = run_of(sealed)?;
        (run.first <= position).then_some((sealed.number, run))
    }

    /// The oldest segment, if none of its tracks reaches `keep_from` and its last append was before
    /// `before_us`: its number and runs.
    pub(crate) fn below(&self, keep_from: &[i64], before_us: i64) -> Option<(u64, Vec<Run>)> {
        let list = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let oldest = list.front()?;
        let done = oldest.runs.iter().zip(keep_from).all(|(run, keep)| run.end() <= *keep);
        (done && oldest.append_time_us < before_us).then(|| (oldest.number, oldest.runs.clone()))
    }

    /// Removes the oldest.
    pub(crate) fn pop(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).pop_front();
    }
}
