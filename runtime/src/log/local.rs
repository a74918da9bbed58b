//! The log on local disk, for one process: segment files, group commit, `fdatasync` before the
//! acknowledgement.
//!
//! All topics and partitions share one sequence of segment files, so one `fdatasync` makes
//! everything durable that arrived while the one before was on its way. Reading order:
//! [`frame`] (bytes of a message), [`segment`] (bytes of a file, finding damage), [`layout`] (the
//! folder), [`writer`], [`track`] and [`reader`] (what is visible), [`index`], [`group`].
//!
//! Several readers, several appending threads and several groups may use one [`LocalLog`]; a
//! second process that opens the same folder is refused; it may take a [`LocalLog::view`].
//!
//! Disk full: appends are refused until there is room again; room is reserved before anything is
//! written. Disk failing: the batch being written is unknown, everything after it is refused until
//! the folder is opened again ([`writer`] says why).

use std::{
    fs::{self, File},
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::oneshot;

pub use self::layout::Created;
use self::{
    group::Groups,
    layout::Layout,
    reader::LocalReader,
    track::{SealedList, Track},
    writer::{Append, Queue, Writer},
};
use super::{AppendError, Log, LogError, MESSAGE_BYTES_MAX, Membership, Pending, Reader, Topic};

mod frame;
mod group;
mod index;
mod layout;
mod reader;
mod recover;
mod segment;
mod track;
mod view;
mod writer;

#[cfg(test)]
mod tests;

/// How to open a [`LocalLog`].
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// Partitions of every topic; fixed when the folder is created.
    pub partitions: u32,
    /// The topics; fixed when the folder is created.
    pub topics: &'static [Topic],
    /// A new segment is begun when the newest is this long. At most 2 GiB.
    pub segment_bytes: u64,
    /// Appends beyond this much that is not yet answered are refused.
    pub queue_bytes: usize,
    /// Memory for the newest messages, shared evenly by all partitions.
    pub tail_bytes: usize,
}

impl LocalOptions {
    /// Options with the usual sizes: segments of 256 MiB, a queue and a tail of 64 MiB.
    pub fn new(partitions: u32, topics: &'static [Topic]) -> Self {
        Self {
            partitions,
            topics,
            segment_bytes: 256 << 20,
            queue_bytes: 64 << 20,
            tail_bytes: 64 << 20,
        }
    }

    fn check(&self) -> Result<(), LogError> {
        let fault = if self.partitions == 0 {
            "a log needs at least one partition"
        } else if self.topics.is_empty() || self.topics.len() > usize::from(u16::MAX) {
            "a log needs between 1 and 65535 topics"
        } else if self.segment_bytes > 2 << 30 {
            "a segment is at most 2 GiB"
        } else {
            return Ok(());
        };
        Err(LogError::Broken(fault.to_owned()))
    }
}

/// The log in a folder. Dropping the last handle writes what is queued and releases the folder.
pub struct LocalLog {
    shared: Arc<Shared>,
    groups: Arc<Groups>,
    writer: Option<JoinHandle<()>>,
    trimming: Mutex<()>,
    /// Of a view there is none.
    lock: Option<File>,
}

/// What the writer's thread and the readers share.
pub(crate) struct Shared {
    layout: Layout,
    segment_bytes: u64,
    queue: Queue,
    tracks: Vec<Track>,
    sealed: SealedList,
}

impl LocalLog {
    /// Opens the log in `dir`, creating it if there is none, and repairs a torn tail.
    pub fn open(dir: &Path, options: LocalOptions) -> Result<Arc<Self>, LogError> {
        options.check()?;
        let lock = layout::lock(dir)?;
        let layout = Layout::open(dir, options.partitions, options.topics)?;
        let recovered = recover::recover(&layout, options.tail_bytes / layout.tracks())?;
        let shared = Arc::new(Shared {
            layout,
            segment_bytes: options.segment_bytes,
            queue: Queue::new(options.queue_bytes),
            tracks: recovered.tracks,
            sealed: recovered.sealed,
        });
        let writer = spawn_writer(&shared, recovered.writer)
            .map_err(|error| LogError::Broken(format!("starting a thread failed: {error}")))?;
        Ok(Arc::new(Self {
            shared,
            groups: Arc::default(),
            writer: Some(writer),
            trimming: Mutex::default(),
            lock: Some(lock),
        }))
    }

    /// A view of the log in `dir` as it is now, beside the process that has it open: nothing there
    /// is locked, mended or written, what comes in later is not seen, and appends are refused.
    pub fn view(dir: &Path, options: LocalOptions) -> Result<Arc<Self>, LogError> {
        options.check()?;
        let layout = Layout::read(dir, options.partitions, options.topics)?;
        let (tracks, sealed) = view::look(&layout)?;
        let queue = Queue::new(0);
        queue.close();
        let segment_bytes = options.segment_bytes;
        Ok(Arc::new(Self {
            shared: Arc::new(Shared { layout, segment_bytes, queue, tracks, sealed }),
            groups: Arc::default(),
            writer: None,
            trimming: Mutex::default(),
            lock: None,
        }))
    }

    /// Why the log refuses appends, if it does. It has to be opened again.
    pub fn failure(&self) -> Option<String> {
        self.shared.queue.failure()
    }

    /// Removes the oldest segments in which every position is below the one to keep from, and
    /// which were full before `before_us`, microseconds since 1970 UTC. A partition that is not
    /// named is kept whole. The newest segment always stays. Answers how many were removed.
    pub fn trim(&self, keep_from: &[(Topic, u32, i64)], before_us: i64) -> Result<usize, LogError> {
        if self.lock.is_none() {
            return Err(LogError::Broken("a view of a log removes nothing".to_owned()));
        }
        let layout = &self.shared.layout;
        let mut keep = vec![0; layout.tracks()];
        for (topic, partition, position) in keep_from {
            let track = self.track(*topic, *partition)?;
            if let Some(keep) = keep.get_mut(track) {
                *keep = *position;
            }
        }
        let _one_at_a_time = self.trimming.lock().unwrap_or_else(PoisonError::into_inner);
        let mut removed = 0_usize;
        while let Some((number, runs)) = self.shared.sealed.below(&keep, before_us) {
            // Readers learn it first, so that a file they miss is one they know to be trimmed.
            for (track, run) in self.shared.tracks.iter().zip(&runs) {
                track.trim(run.end());
            }
            self.shared.sealed.pop();
            remove(&layout.segment(number))?;
            remove(&layout.index(number))?;
            removed = removed.saturating_add(1);
        }
        if removed > 0 {
            layout.sync_dir().map_err(|error| layout::broken("syncing", &layout.dir, &error))?;
        }
        Ok(removed)
    }

    fn track(&self, topic: Topic, partition: u32) -> Result<usize, LogError> {
        let track = self.shared.layout.track(topic, partition);
        track.ok_or_else(|| LogError::Broken(format!("there is no {topic}/{partition}")))
    }
}

fn spawn_writer(shared: &Arc<Shared>, writer: Writer) -> io::Result<JoinHandle<()>> {
    let shared = Arc::clone(shared);
    std::thread::Builder::new().name("local-log".into()).spawn(move || writer.run(&shared))
}

fn remove(path: &Path) -> Result<(), LogError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(layout::broken("removing", path, &error))
        }
        _ => Ok(()),
    }
}

impl Drop for LocalLog {
    fn drop(&mut self) {
        self.shared.queue.close();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl Log for LocalLog {
    fn partitions(&self) -> u32 {
        self.shared.layout.partitions
    }

    fn append(&self, topic: Topic, partition: u32, payload: Bytes) -> Pending {
        let (answer, pending) = oneshot::channel();
        let fault = match self.track(topic, partition) {
            Err(error) => error.to_string(),
            Ok(_) if payload.len() > MESSAGE_BYTES_MAX => {
                format!("{} bytes are more than {MESSAGE_BYTES_MAX}", payload.len())
            }
            Ok(track) => {
                self.shared.queue.push(Append { track, payload, answer });
                return Pending(pending);
            }
        };
        let _ = answer.send(Err(AppendError::Refused(fault)));
        Pending(pending)
    }

    fn reader(&self, topic: Topic, partition: u32, from: i64) -> Result<Box<dyn Reader>, LogError> {
        let track = self.track(topic, partition)?;
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(LocalReader::open(shared, (topic, partition), track, from)?))
    }

    fn bounds(&self, topic: Topic, partition: u32, _: Duration) -> Result<(i64, i64), LogError> {
        let track = self.track(topic, partition)?;
        let known = self.shared.tracks.get(track).map(Track::bounds);
        known.ok_or_else(|| LogError::Broken(format!("there is no {topic}/{partition}")))
    }

    fn join(&self, topic: Topic, group: &str) -> Result<Box<dyn Membership>, LogError> {
        self.track(topic, 0)?;
        Ok(self.groups.join(topic, group, self.shared.layout.partitions))
    }
}

/// A folder of one unit test, removed at its end.
#[cfg(test)]
pub(crate) struct TestDir(std::path::PathBuf);

#[cfg(test)]
impl TestDir {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

#[cfg(test)]
impl Drop for TestDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
pub(crate) fn test_dir(name: &str) -> TestDir {
    let dir = std::env::temp_dir().join(format!("weir-log-{name}-{}", uuid::Uuid::now_v7()));
    fs::create_dir_all(&dir).unwrap();
    TestDir(dir)
}
