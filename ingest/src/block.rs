//! Natural batching: what arrives while a partition's blocks are on their way goes into the next.
//!
//! Per partition there is a queue of chunks (events of one request) and a task. As soon as one of
//! the places in flight is free, the task takes what waits, up to the size of a block, and sends
//! it. So a lone event leaves at once, and a flood of requests shares blocks. Encoding, compression
//! and hashing happen in the task, outside of the queue's lock.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use domain::{
    planted::{self, Bug},
    wire::trace::{APPEND, TraceContext},
};
use runtime::{
    http::{Heartbeat, Readiness},
    log::{AppendError, Appended, SharedLog, Topic},
    task::{TaskError, now_us},
    traces::{self, Kind, Span},
};
use serde::{Serialize, Serializer, ser::Error as _};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use crate::{
    batch::{Batch, Encoder, Prepared, Refusal},
    metrics::Metrics,
};

/// Accepted events.
pub const USAGE: Topic = Topic("usage");

/// Bytes of strings of a block, if none of them were shared: far below what a block may hold.
const STRING_BYTES_MAX: usize = 1 << 20;

/// Where a chunk's events stand: consecutive indexes from `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Partition of `[usage]`.
    pub partition: u32,
    /// Position of the block.
    pub position: i64,
    /// Index of the chunk's first event.
    pub first: u32,
}

impl Serialize for Placed {
    /// As a receipt, `partition:position:index`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let [mut partition, mut position, mut first] = [itoa::Buffer::new(); 3];
        let parts = [
            partition.format(self.partition),
            ":",
            position.format(self.position),
            ":",
            first.format(self.first),
        ];
        // Two numbers of ten digits and one of nineteen, with a sign.
        let mut text = [0; 42];
        let mut length = 0;
        for part in parts {
            let to = length + part.len();
            if let Some(slot) = text.get_mut(length..to) {
                slot.copy_from_slice(part.as_bytes());
                length = to;
            }
        }
        let text = text.get(..length).unwrap_or_default();
        serializer.serialize_str(std::str::from_utf8(text).map_err(S::Error::custom)?)
    }
}

/// Events of one request that go into one block together.
#[derive(Debug)]
pub struct Chunk {
    batch: Arc<Batch>,
    events: Vec<u32>,
    size: Size,
    queued_us: i64,
    answer: oneshot::Sender<Result<Placed, AppendError>>,
}

/// The fate of a chunk.
pub type Answer = oneshot::Receiver<Result<Placed, AppendError>>;

#[derive(Clone, Copy, Debug, Default)]
struct Size {
    events: usize,
    strings: usize,
}

impl Size {
    fn add(&mut self, other: Size) {
        self.events += other.events;
        self.strings += other.strings;
    }

    fn of(event: &Prepared) -> Size {
        Size { events: event.block_bytes(), strings: event.string_bytes }
    }

    fn of_refused(refusal: &Refusal) -> Size {
        // Kind, reason, door, three numbers.
        let events = refusal.raw_length + refusal.detail.len() + 400;
        Size { events, strings: 0 }
    }

    fn is_full(self, block_bytes: usize) -> bool {
        self.events >= block_bytes || self.strings >= STRING_BYTES_MAX
    }
}

/// The queues of all partitions.
#[derive(Debug)]
pub struct Blocks {
    queues: Vec<Queue>,
    block_bytes: usize,
    in_flight: usize,
    metrics: Metrics,
    closed: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    chunks: Mutex<VecDeque<Chunk>>,
    changed: Notify,
    /// Rests while nothing waits and nothing is on its way. Changed under the lock of `chunks`.
    heartbeat: OnceLock<Heartbeat>,
}

impl Blocks {
    /// Empty queues.
    #[must_use]
    pub fn new(partitions: u32, block_bytes: usize, in_flight: usize, metrics: &Metrics) -> Blocks {
        let queues = (0..partitions).map(|_| Queue::default()).collect();
        Blocks {
            queues,
            block_bytes,
            in_flight,
            metrics: metrics.clone(),
            closed: AtomicBool::new(false),
        }
    }

    /// Says on `/ready` of every partition whether its events get into the log.
    pub fn watch(&self, readiness: &Readiness, role: &str) {
        for (partition, queue) in self.queues.iter().enumerate() {
            let check = format!("{role}.{partition}");
            let heartbeat = Heartbeat::new(readiness, check, Duration::ZERO);
            heartbeat.rest();
            // The first one stays.
            let _ = queue.heartbeat.set(heartbeat);
        }
    }

    /// Queues events and refusals (numbers of the batch, in order) and answers their chunks with their fates.
    pub fn push(&self, batch: &Arc<Batch>, events: &[u32]) -> Vec<(Vec<u32>, Answer)> {
        let mut by_partition: Vec<Filling> = Vec::new();
        by_partition.resize_with(self.queues.len(), Filling::default);
        let mut answers = Vec::new();
        for number in events {
            let Some((partition, size)) = weigh(batch, *number) else { continue };
            let place = usize::try_from(partition).unwrap_or(usize::MAX);
            let Some(filling) = by_partition.get_mut(place) else { continue };
            filling.events.push(*number);
            filling.size.add(size);
            if filling.size.is_full(self.block_bytes) {
                answers.push(self.enqueue(place, batch, std::mem::take(filling)));
            }
        }
        for (place, filling) in by_partition.into_iter().enumerate() {
            if !filling.events.is_empty() {
                answers.push(self.enqueue(place, batch, filling));
            }
        }
        answers
    }

    fn enqueue(&self, place: usize, batch: &Arc<Batch>, filling: Filling) -> (Vec<u32>, Answer) {
        let (answer, receiver) = oneshot::channel();
        let Some(queue) = self.queues.get(place) else { return (filling.events, receiver) };
        let events = filling.events.clone();
        let chunk = Chunk {
            batch: Arc::clone(batch),
            events: filling.events,
            size: filling.size,
            // Only a span needs it.
            queued_us: batch.trace.map_or(0, |_| now_us()),
            answer,
        };
        let mut chunks = queue.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        if self.closed.load(Ordering::Relaxed) {
            let _ = chunk.answer.send(Err(AppendError::Refused("the process is stopping".into())));
            return (events, receiver);
        }
        // Nobody waits for these any more, and none of them was sent.
        while chunks.front().is_some_and(|chunk| chunk.answer.is_closed()) {
            chunks.pop_front();
        }
        chunks.push_back(chunk);
        if let Some(heartbeat) = queue.heartbeat.get() {
            heartbeat.wake();
        }
        drop(chunks);
        queue.changed.notify_one();
        (events, receiver)
    }

    /// Refuses what comes from now on, and lets the tasks end when nothing waits any more.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        for queue in &self.queues {
            // Whoever holds the lock has seen the queue open, so its chunk is in before this.
            drop(queue.chunks.lock());
            queue.changed.notify_one();
        }
    }

    /// Number of partitions.
    #[must_use]
    pub fn partitions(&self) -> usize {
        self.queues.len()
    }
}

/// The partition and the size of an event or refusal of a batch.
fn weigh(batch: &Batch, number: u32) -> Option<(u32, Size)> {
    let place = usize::try_from(number).unwrap_or(usize::MAX);
    match batch.events.get(place) {
        Some(event) => Some((event.partition, Size::of(event))),
        None => batch.refusal(number).map(|refusal| (refusal.partition, Size::of_refused(refusal))),
    }
}

#[derive(Debug, Default)]
struct Filling {
    events: Vec<u32>,
    size: Size,
}

/// The task of one partition; ends after [`Blocks::close`].
pub async fn run(blocks: Arc<Blocks>, partition: u32, log: SharedLog) -> Result<(), TaskError> {
    let Some(queue) = blocks.queues.get(usize::try_from(partition)?) else {
        return Err(format!("there is no partition {partition}").into());
    };
    let mut sender =
        Sender { blocks: &blocks, partition, log, encoder: Encoder::default(), flying: Vec::new() };
    loop {
        while sender.flying.len() < blocks.in_flight {
            let chunks = take(queue, blocks.block_bytes);
            if chunks.is_empty() {
                break;
            }
            sender.send(chunks);
        }
        if blocks.closed.load(Ordering::Relaxed) && sender.is_done(queue) {
            return Ok(());
        }
        if sender.flying.is_empty() {
            rest(queue);
        }
        tokio::select! {
            acknowledged = sender.acknowledged(), if !sender.flying.is_empty() => {
                if let Some(heartbeat) = queue.heartbeat.get().filter(|_| acknowledged) {
                    heartbeat.beat();
                }
            }
            () = queue.changed.notified() => {}
        }
    }
}

/// Nothing is expected of the partition while nothing waits.
fn rest(queue: &Queue) {
    let chunks = queue.chunks.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(heartbeat) = queue.heartbeat.get().filter(|_| chunks.is_empty()) {
        heartbeat.rest();
    }
}

/// Takes chunks up to the size of a block; those that nobody waits for are dropped.
fn take(queue: &Queue, block_bytes: usize) -> Vec<Chunk> {
    let mut size = Size::default();
    let mut taken = Vec::new();
    let mut chunks = queue.chunks.lock().unwrap_or_else(PoisonError::into_inner);
    while let Some(chunk) = chunks.pop_front() {
        if chunk.answer.is_closed() {
            continue;
        }
        let mut with = size;
        with.add(chunk.size);
        let fits = with.events <= block_bytes && with.strings <= STRING_BYTES_MAX;
        if !taken.is_empty() && !fits {
            chunks.push_front(chunk);
            break;
        }
        size = with;
        taken.push(chunk);
    }
    taken
}

struct Sender<'a> {
    blocks: &'a Blocks,
    partition: u32,
    log: SharedLog,
    encoder: Encoder,
    flying: Vec<Flying>,
}

/// A block on its way.
struct Flying {
    pending: runtime::log::Pending,
    sent_at: Instant,
    /// With the index of the first event of each. They keep their batches, so that the budget
    /// counts what is on its way.
    chunks: Vec<(u32, Chunk)>,
}

impl Sender<'_> {
    fn send(&mut self, chunks: Vec<Chunk>) {
        let encoder = &mut self.encoder;
        let chunks = chunks
            .into_iter()
            .map(|chunk| (encoder.push(&chunk.batch, &chunk.events), chunk))
            .collect();
        let payload = encoder.finish();
        let metrics = &self.blocks.metrics;
        metrics.blocks_sent.inc();
        metrics.block_bytes.inc_by(payload.len() as u64);
        let sent_at = Instant::now();
        let mut pending = self.log.append(USAGE, self.partition, payload);
        if planted::is(Bug::AnswerBeforeAck) {
            let (answer, answered) = oneshot::channel();
            let _ = answer.send(Ok(Appended { position: 0, append_time_us: 0 }));
            pending = runtime::log::Pending(answered);
        }
        self.flying.push(Flying { pending, sent_at, chunks });
    }

    /// Waits for the fate of any block, and tells it to those who wait for it. Whether it is in the
    /// log.
    async fn acknowledged(&mut self) -> bool {
        let (place, outcome) = poll_fn(|context| {
            for (place, flying) in self.flying.iter_mut().enumerate() {
                if let Poll::Ready(outcome) = Pin::new(&mut flying.pending.0).poll(context) {
                    let closed = || Err(AppendError::Unknown("the log was closed".into()));
                    return Poll::Ready((place, outcome.unwrap_or_else(|_| closed())));
                }
            }
            Poll::Pending
        })
        .await;
        let flying = self.flying.swap_remove(place);
        self.answer(flying, &outcome);
        outcome.is_ok()
    }

    /// INV-01: nobody has a receipt before the log has the block.
    fn answer(&self, flying: Flying, outcome: &Result<Appended, AppendError>) {
        let metrics = &self.blocks.metrics;
        metrics.acknowledgement.observe(flying.sent_at.elapsed().as_secs_f64());
        let label = match outcome {
            Ok(_) => "acknowledged",
            Err(AppendError::Refused(_)) => "refused",
            Err(AppendError::Unknown(_)) => "unknown",
        };
        metrics.blocks_answered.with_label_values(&[label]).inc();
        if let Err(error) = outcome {
            tracing::warn!(partition = self.partition, %error, "a block was not acknowledged");
        }
        for (first, chunk) in flying.chunks {
            let placed = |appended: &Appended| Placed {
                partition: self.partition,
                position: appended.position,
                first,
            };
            self.trace(&chunk, outcome);
            let Chunk { batch, events, answer, .. } = chunk;
            if outcome.is_ok() {
                let accepted = |number: &&u32| batch.refusal(**number).is_none();
                metrics.accepted.inc_by(events.iter().filter(accepted).count() as u64);
            }
            // Before the answer, so that whoever has it finds the memory free.
            drop(batch);
            // Whoever waited may have gone.
            let _ = answer.send(outcome.as_ref().map(placed).map_err(Clone::clone));
        }
    }

    /// The span of a chunk, from its request to the log's answer.
    fn trace(&self, chunk: &Chunk, outcome: &Result<Appended, AppendError>) {
        let Some(parent) = chunk.batch.trace else { return };
        let TraceContext { trace, span } = parent.below(APPEND, self.partition);
        let position = outcome.as_ref().map_or(-1, |appended| appended.position);
        traces::record(Span {
            trace,
            span,
            parent: parent.span,
            kind: Kind::Producer,
            name: APPEND.into(),
            time_us: (chunk.queued_us, now_us()),
            attributes: vec![
                ("weir.partition", i64::from(self.partition).into()),
                ("weir.position", position.into()),
                ("weir.events", i64::try_from(chunk.events.len()).unwrap_or(i64::MAX).into()),
            ],
            error: outcome.as_ref().err().map(|error| error.to_string().into()),
        });
    }

    /// Whether nothing waits, and nobody waits for what is on its way.
    fn is_done(&self, queue: &Queue) -> bool {
        let empty = queue.chunks.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        let abandoned =
            |flying: &Flying| flying.chunks.iter().all(|(_, chunk)| chunk.answer.is_closed());
        empty && self.flying.iter().all(abandoned)
    }
}
