//! The one thread that writes. It takes everything queued, writes it, makes it durable with one
//! `fdatasync`, shows it to the readers and answers: group commit without a timer.
//!
//! Room on the disk is reserved before it is needed. Where there is none, what was to be written is
//! refused, nothing has changed, and the next commit tries again: a disk that was full is used again
//! by itself. Where the file system cannot reserve, a write that finds no room is taken back.
//!
//! After a failed sync, or a write that failed otherwise, nobody knows what the disk holds, and
//! asking again can say "fine" about pages that were dropped. So the log stops: what was being
//! written is unknown, what was queued or comes later is refused, until the log is opened again.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
};
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
/// Room is reserved in steps of this much.
const RESERVE_BYTES: u64 = 16 << 20;

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
    /// Up to where the segment has room on the disk.
    pub reserved: u64,
    /// Whether the last commit found the disk full.
    pub full: bool,
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
            // What the half-made segment holds is written again by the next attempt.
            let outcome = if is_full(&error) { Ok(()) } else { Err(reason.clone()) };
            self.refuse(shared, batch, &reason);
            return outcome;
        }
        if let Err(reason) = self.reserve(shared, &batch) {
            self.refuse(shared, batch, &reason);
            return Ok(());
        }
        self.append_time_us = self.append_time_us.max(now_us());
        let placed = self.place(shared, batch);
        if let Err(error) = self.write() {
            if is_full(&error) && self.take_back(&placed).is_ok() {
                let batch = placed.into_iter().map(|message| message.append).collect();
                self.refuse(shared, batch, &format!("the disk is full: {error}"));
                return Ok(());
            }
            let segment = shared.layout.segment(self.segment);
            let reason = format!("writing {} failed: {error}", segment.display());
            for message in placed {
                let _ = message.append.answer.send(Err(AppendError::Unknown(reason.clone())));
            }
            return Err(reason);
        }
        if std::mem::take(&mut self.full) {
            tracing::info!(log.dir = %shared.layout.dir.display(), "the local log has room again");
        }
        self.publish(shared, placed);
        Ok(())
    }

    /// Refuses a batch of which nothing is in the log.
    fn refuse(&mut self, shared: &Shared, batch: Vec<Append>, reason: &str) {
        if !std::mem::replace(&mut self.full, true) {
            let dir = shared.layout.dir.display();
            tracing::error!(log.dir = %dir, reason, "the local log refuses appends for now");
        }
        shared.queue.release(batch.iter().map(Append::bytes).sum());
        for append in batch {
            let _ = append.answer.send(Err(AppendError::Refused(reason.to_owned())));
        }
    }

    /// Makes room for a batch. Only a full disk is an error: others show when writing.
    fn reserve(&mut self, shared: &Shared, batch: &[Append]) -> Result<(), String> {
        let bytes: usize = batch.iter().map(Append::bytes).sum();
        let needed = self.end.saturating_add(bytes as u64);
        if needed <= self.reserved {
            return Ok(());
        }
        let ample = self.end.saturating_add(RESERVE_BYTES).min(shared.segment_bytes);
        let up_to = match self.allocate(ample.max(needed)) {
            Err(Errno::ENOSPC | Errno::EDQUOT) => self.allocate(needed).map(|()| needed),
            allocated => allocated.map(|()| ample.max(needed)),
        };
        match up_to {
            Ok(up_to) => self.reserved = up_to,
            Err(error @ (Errno::ENOSPC | Errno::EDQUOT)) => {
                return Err(format!("the disk is full: {}", error.desc()));
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// Takes blocks of the disk for the segment without changing its length.
    fn allocate(&self, up_to: u64) -> Result<(), Errno> {
        let (Ok(from), Ok(length)) =
            (i64::try_from(self.end), i64::try_from(up_to.saturating_sub(self.end)))
        else {
            return Err(Errno::EFBIG);
        };
        fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, from, length)
    }

    /// Undoes a write that found no room, before any sync: nothing of it stays.
    fn take_back(&mut self, placed: &[Placed]) -> io::Result<()> {
        self.file.set_len(self.end)?;
        self.file.sync_all()?;
        self.reserved = self.end;
        for message in placed {
            if let Some(next) = self.next.get_mut(message.append.track) {
                *next = next.saturating_sub(1);
            }
        }
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
        #[cfg(feature = "planted")]
        if crate::config::variable("WEIR_PLANT").as_deref() == Some("14") {
            self.end += self.buffer.len() as u64;
            return Ok(());
        }
        // Its errors never mean a full disk: nobody knows what they mean.
        self.file.sync_data().map_err(|error| io::Error::other(error.to_string()))?;
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
        let created = segment::create(&shared.layout, &opening)?;
        // What was reserved and not used goes back to the disk; that it cannot is no harm.
        let _ = self.file.set_len(self.end);
        self.file = created;
        self.segment = opening.number;
        self.end = Opening::bytes(shared.layout.tracks());
        self.reserved = self.end;
        shared.sealed.push(sealed);
        for track in &shared.tracks {
            track.rotate(self.segment);
        }
        Ok(())
    }
}

/// Whether there is no room on the disk.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Should the thread end in any way, nobody waits for it.
struct RefuseAll<'a>(&'a Queue);

impl Drop for RefuseAll<'_> {
    fn drop(&mut self) {
        self.0.fail("the log is closed");
    }
}
