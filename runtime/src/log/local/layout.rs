//! The folder of a local log: its lock, what was decided when it was created, its file names.
//!
//! ```text
//! lock                 held (flock) by the process that has the log open
//! log.json             format, partitions, topics, seed; written once
//! 0000000001.segment   frames of all topics and partitions, in the order of their arrival
//! 0000000001.index     of a sealed segment: where each of its frames begins
//! ```

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::log::{LogError, Topic};

/// The format of segments and indexes that this code writes.
const FORMAT: u32 = 1;
/// The file that says what was decided at creation.
const CREATED: &str = "log.json";

/// What was decided at creation, plus where it is.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// The folder.
    pub dir: PathBuf,
    /// Partitions of every topic.
    pub partitions: u32,
    /// The topics; a frame names one by its place in this list.
    pub topics: &'static [Topic],
    /// Seed of all checksums, random per log.
    pub seed: u64,
}

/// What a local log was created with: `log.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Created {
    format: u32,
    /// Partitions of every topic.
    pub partitions: u32,
    topics: Vec<String>,
    seed: u64,
}

impl Layout {
    /// Reads the folder's `log.json`, or creates it. The caller holds the lock.
    pub(crate) fn open(
        dir: &Path,
        partitions: u32,
        topics: &'static [Topic],
    ) -> Result<Self, LogError> {
        if !Created::is_in(dir)? {
            create(&dir.join(CREATED), partitions, topics)?;
        }
        Self::read(dir, partitions, topics)
    }

    /// Reads the folder's `log.json`.
    pub(crate) fn read(
        dir: &Path,
        partitions: u32,
        topics: &'static [Topic],
    ) -> Result<Self, LogError> {
        let created = Created::read(dir)?;
        created.check(&dir.join(CREATED), partitions, topics)?;
        Ok(Self { dir: dir.to_path_buf(), partitions, topics, seed: created.seed })
    }

    /// Number of (topic, partition) pairs.
    pub(crate) fn tracks(&self) -> usize {
        self.topics.len() * self.partitions as usize
    }

    /// Index of a (topic, partition) pair.
    pub(crate) fn track(&self, topic: Topic, partition: u32) -> Option<usize> {
        let topic = self.topics.iter().position(|known| *known == topic)?;
        self.track_of(u16::try_from(topic).ok()?, partition)
    }

    /// Index of the pair that a frame names.
    pub(crate) fn track_of(&self, topic: u16, partition: u32) -> Option<usize> {
        let known = usize::from(topic) < self.topics.len() && partition < self.partitions;
        known.then(|| usize::from(topic) * self.partitions as usize + partition as usize)
    }

    /// The topic's index and the partition of a track.
    pub(crate) fn names(&self, track: usize) -> (u16, u32) {
        let partitions = self.partitions.max(1) as usize;
        ((track / partitions) as u16, (track % partitions) as u32)
    }

    /// Path of a segment.
    pub(crate) fn segment(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:010}.segment"))
    }

    /// Path of a segment's index.
    pub(crate) fn index(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:010}.index"))
    }

    /// Numbers of the segments present, ascending; a gap between them is refused.
    pub(crate) fn segments(&self) -> Result<Vec<u64>, LogError> {
        let entries =
            fs::read_dir(&self.dir).map_err(|error| broken("listing", &self.dir, &error))?;
        let mut numbers = Vec::new();
        for entry in entries {
            let name = entry.map_err(|error| broken("listing", &self.dir, &error))?.file_name();
            let stem = name.to_str().and_then(|name| name.strip_suffix(".segment"));
            numbers.extend(stem.and_then(|stem| stem.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        for pair in numbers.windows(2) {
            if let [before, after] = pair
                && before + 1 != *after
            {
                let missing = self.segment(before + 1);
                return Err(LogError::Broken(format!(
                    "{} is missing: restore it",
                    missing.display()
                )));
            }
        }
        Ok(numbers)
    }

    /// Makes created, renamed and removed files of the folder durable.
    pub(crate) fn sync_dir(&self) -> io::Result<()> {
        sync_dir(&self.dir)
    }
}

impl Created {
    /// Reads it from the log in the folder.
    pub fn read(dir: &Path) -> Result<Self, LogError> {
        let path = dir.join(CREATED);
        let bytes = fs::read(&path).map_err(|error| broken("reading", &path, &error))?;
        serde_json::from_slice(&bytes).map_err(|error| {
            LogError::Broken(format!("{} cannot be read: {error}", path.display()))
        })
    }

    /// Whether the folder has a log.
    pub fn is_in(dir: &Path) -> Result<bool, LogError> {
        let path = dir.join(CREATED);
        path.try_exists().map_err(|error| broken("reading", &path, &error))
    }

    /// The log's name, wherever its folder is: the random seed that it was created with.
    #[must_use]
    pub fn name(&self) -> String {
        format!("local-{:016x}", self.seed)
    }

    fn check(&self, path: &Path, partitions: u32, topics: &[Topic]) -> Result<(), LogError> {
        let path = path.display();
        if self.format != FORMAT {
            let format = self.format;
            return Err(LogError::Broken(format!(
                "{path} has format {format}, this program reads {FORMAT}: use the version that \
                 wrote it"
            )));
        }
        if self.partitions != partitions {
            let created = self.partitions;
            return Err(LogError::Broken(format!(
                "{path} was created with {created} partitions and cannot be opened with \
                 {partitions}: the count is fixed at creation, set it back to {created}"
            )));
        }
        if !self.topics.iter().eq(topics.iter().map(|topic| topic.0)) {
            let created = &self.topics;
            return Err(LogError::Broken(format!(
                "{path} was created with the topics {created:?}, which are fixed"
            )));
        }
        Ok(())
    }
}

/// Takes the folder for this process alone; the lock is held until the file is dropped.
pub(crate) fn lock(dir: &Path) -> Result<File, LogError> {
    fs::create_dir_all(dir)
        .and_then(|()| dir.canonicalize()?.parent().map_or(Ok(()), sync_dir))
        .map_err(|error| broken("creating", dir, &error))?;
    let path = dir.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| broken("opening", &path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(LogError::Unavailable(format!("{} is in use by another process", dir.display())))
        }
        Err(TryLockError::Error(error)) => Err(broken("locking", &path, &error)),
    }
}

fn create(path: &Path, partitions: u32, topics: &[Topic]) -> Result<(), LogError> {
    let created = Created {
        format: FORMAT,
        partitions,
        topics: topics.iter().map(|topic| topic.0.to_owned()).collect(),
        seed: xxh3_64(uuid::Uuid::now_v7().as_bytes()),
    };
    let bytes = serde_json::to_vec_pretty(&created)
        .map_err(|error| LogError::Broken(format!("{}: {error}", path.display())))?;
    replace(path, &bytes).map_err(|error| broken("creating", path, &error))
}

/// Writes a file so that after a crash it is there whole or not at all.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let temporary = PathBuf::from(name);
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), sync_dir)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// An error of the file system that a person has to look at.
pub(crate) fn broken(doing: &str, path: &Path, error: &io::Error) -> LogError {
    LogError::Broken(format!("{doing} {} failed: {error}", path.display()))
}
