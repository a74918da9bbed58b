//! The one thread that writes. It takes everything queued, writes it, makes it durable with one
//! `fdatasync`, shows it to the readers and answers: group commit without a timer.
//!
//! After a failed write or sync nobody knows what the disk holds, and asking again can say "fine"
//! about pages that were dropped. So the log stops: what was being written is unknown, what was
//! queued or comes later is refused, until the log is opened again.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{
    Shared,
    frame::{HEADER_BYTES, Header, Place},
    index::{self, Contents},
    segment::{self, Opening},
};
use crate::{
    log::{AppendError, Appended, Message},
    task::now_us,
};

/// One commit takes at most about this much, so that its buffer stays small.
const COMMIT_BYTES_MAX: usize = 16 << 20;

/// One queued message.
pub(crate) struct Append {
    pub track: usize,
    pub payload: Bytes,
    pub answer: oneshot::Sender<Result<Appended, AppendError>>,
}

impl Append {
    fn bytes(&self) -> usize {
        HEADER_BYTES.saturating_add(self.payload.len())
    }
}

/// Messages on their way to the writer.
pub(crate) struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
    bytes_max: usize,
}

struct QueueState {
    waiting: VecDeque<Append>,
    /// Of everything not yet answered, including what is being written.
    bytes: usize,
    closed: bool,
    failure: Option<String>,
}

impl Queue {
    pub(crate) fn new(bytes_max: usize) -> Self {
        let state = QueueState { waiting: VecDeque::new(), bytes: 0, closed: false, failure: None };
        Self { state: Mutex::new(state), changed: Condvar::new(), bytes_max }
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a message, or answers at once why not.
    pub(crate) fn push(&self, append: Append) {
        let mut state = self.state();
        let bytes = state.bytes.saturating_add(append.bytes());
        let refused = match &state.failure {
            Some(failure) => Some(failure.clone()),
            None if state.closed => Some("the log is closed".to_owned()),
            None if bytes > self.bytes_max => Some("the queue is full".to_owned()),
            None => None,
        };
        if let Some(reason) = refused {
            drop(state);
            let _ = append.answer.send(Err(AppendError::Refused(reason)));
            return;
        }
        state.bytes = bytes;
        state.waiting.push_back(append);
        drop(state);
        self.changed.notify_one();
    }

    /// Lets the writer finish what is queued and end.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_one();
    }

    /// Why the log stopped.
    pub(crate) fn failure(&self) -> Option<String> {
        self.state().failure.clone()
    }

    /// The next commit; empty when the queue is closed and drained.
    fn take(&self) -> Vec<Append> {
        let mut state = self.state();
        while state.waiting.is_empty() && !state.closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let mut bytes = 0_usize;
        let mut taken = Vec::new();
        while let Some(append) = state.waiting.front() {
            bytes = bytes.saturating_add(append.bytes());
            if bytes > COMMIT_BYTES_MAX && !taken.is_empty() {
                break;
            }
            taken.extend(state.waiting.pop_front());
        }
        taken
    }

    fn release(&self, bytes: usize) {
        let mut state = self.state();
        state.bytes = state.bytes.saturating_sub(bytes);
    }

    /// Refuses what is queued and everything after it.
    fn fail(&self, reason: &str) {
        let mut state = self.state();
        state.failure.get_or_insert_with(|| reason.to_owned());
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        for append in waiting {
            let _ = append.answer.send(Err(AppendError::Refused(reason.to_owned())));
        }
    }
}

/// The state that only the writer's thread touches.
pub(crate) struct Writer {
    pub file: File,
    pub segment: u64,
    /// Length of the segment; all of it is durable between two commits.
    pub end: u64,
    pub append_time_us: i64,
    /// Per track, the position of the next message.
    pub next: Vec<i64>,
    /// Reused between commits.
    pub buffer: Vec<u8>,
}

/// A message of the commit being made.
struct Placed {
    append: Append,
    position: i64,
    offset: u32,
}

impl Writer {
    /// The thread's whole life.
    pub(crate) fn run(mut self, shared: &Shared) {
        let _stopped = RefuseAll(&shared.queue);
        loop {
            let batch = shared.queue.take();
            if batch.is_empty() {
                return;
            }
            if let Err(reason) = self.commit(shared, batch) {
                tracing::error!(
                    log.dir = %shared.layout.dir.display(),
                    reason,
                    "the local log stopped and refuses appends until it is opened again"
                );
                shared.queue.fail(&reason);
                return;
            }
        }
    }

    /// Writes a batch; an error says why the log stops, and everybody has been answered.
    fn commit(&mut self, shared: &Shared, batch: Vec<Append>) -> Result<(), String> {
        if self.end >= shared.segment_bytes
            && let Err(error) = self.rotate(shared)
        {
            let reason = format!("beginning a new segment failed: {error}");
            for append in batch {
                let _ = append.answer.send(Err(AppendError::Refused(reason.clone())));
            }
            return Err(reason);
        }
        self.append_time_us = self.append_time_us.max(now_us());
        let placed = self.place(shared, batch);
        if let Err(error) = self.write() {
            let segment = shared.layout.segment(self.segment);
            let reason = format!("writing {} failed: {error}", segment.display());
            for message in placed {
                let _ = message.append.answer.send(Err(AppendError::Unknown(reason.clone())));
            }
            return Err(reason);
        }
        self.publish(shared, placed);
        Ok(())
    }

    /// Gives every message its position and encodes it into the buffer.
    fn place(&mut self, shared: &Shared, batch: Vec<Append>) -> Vec<Placed> {
        self.buffer.clear();
        let mut placed = Vec::with_capacity(batch.len());
        for append in batch {
            let (topic, partition) = shared.layout.names(append.track);
            let offset = self.end + self.buffer.len() as u64;
            let (Some(next), Ok(short_offset), Ok(payload_bytes)) = (
                self.next.get_mut(append.track),
                u32::try_from(offset),
                u32::try_from(append.payload.len()),
            ) else {
                let reason = "no such partition, or too long".to_owned();
                let _ = append.answer.send(Err(AppendError::Refused(reason)));
                continue;
            };
            let position = *next;
            *next += 1;
            let header = Header {
                topic,
                partition,
                position,
                append_time_us: self.append_time_us,
                durable_up_to: self.end,
                payload_bytes,
            };
            let place = Place { seed: shared.layout.seed, segment: self.segment, offset };
            header.encode(&append.payload, place, &mut self.buffer);
            placed.push(Placed { append, position, offset: short_offset });
        }
        placed
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.end)?;
        self.file.sync_data()?;
        self.end += self.buffer.len() as u64;
        Ok(())
    }

    /// Shows the durable messages to the readers, then answers.
    fn publish(&mut self, shared: &Shared, placed: Vec<Placed>) {
        let append_time_us = self.append_time_us;
        let mut touched = Vec::new();
        for Placed { append, position, offset } in &placed {
            if let Some(track) = shared.tracks.get(append.track) {
                let payload = append.payload.clone();
                track.push(Message { position: *position, append_time_us, payload }, *offset);
                touched.push(append.track);
            }
        }
        touched.sort_unstable();
        touched.dedup();
        for track in touched {
            if let Some(track) = shared.tracks.get(track) {
                track.wake();
            }
        }
        shared.queue.release(placed.iter().map(|message| message.append.bytes()).sum());
        for Placed { append, position, .. } in placed {
            let _ = append.answer.send(Ok(Appended { position, append_time_us }));
        }
    }

    /// Seals the segment, all of which is durable, and begins the next.
    fn rotate(&mut self, shared: &Shared) -> io::Result<()> {
        let active: Vec<(i64, Vec<u32>)> =
            shared.tracks.iter().map(super::track::Track::active).collect();
        let contents = Contents {
            number: self.segment,
            segment_bytes: self.end,
            append_time_us: self.append_time_us,
            tracks: active.iter().map(|(first, offsets)| (*first, offsets.as_slice())).collect(),
        };
        let sealed = index::write(&shared.layout, &contents)?;
        let opening = Opening {
            number: self.segment + 1,
            append_time_us: self.append_time_us,
            next: self.next.clone(),
        };
        self.file = segment::create(&shared.layout, &opening)?;
        self.segment = opening.number;
        self.end = Opening::bytes(shared.layout.tracks());
        shared.sealed.push(sealed);
        for track in &shared.tracks {
            track.rotate(self.segment);
        }
        Ok(())
    }
}

/// Should the thread end in any way, nobody waits for it.
struct RefuseAll<'a>(&'a Queue);

impl Drop for RefuseAll<'_> {
    fn drop(&mut self) {
        self.0.fail("the log is closed");
    }
}
