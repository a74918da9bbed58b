//! Reads one track: the newest messages from memory, the others from disk through its own files.

use std::{
    collections::VecDeque, fs::File, io, os::unix::fs::FileExt as _, sync::Arc, time::Duration,
};

use bytes::Bytes;

use super::{
    Shared,
    frame::{HEADER_BYTES, Place, decode},
    index::Run,
    layout::broken,
    segment,
    track::Found,
};
use crate::log::{LogError, Message, Reader, Topic, deadline};

/// Offsets fetched at once from the index of a sealed segment.
const OFFSETS_AT_ONCE: i64 = 1024;

pub(crate) struct LocalReader {
    shared: Arc<Shared>,
    topic: Topic,
    partition: u32,
    track: usize,
    /// The position of the next message.
    position: i64,
    /// The segment that holds `position`, and where this and the next positions are in it.
    cursor: Option<Cursor>,
}

struct Cursor {
    segment: u64,
    file: File,
    offsets: VecDeque<u32>,
}

impl LocalReader {
    pub(crate) fn open(
        shared: Arc<Shared>,
        (topic, partition): (Topic, u32),
        track: usize,
        from: i64,
    ) -> Result<Self, LogError> {
        let reader = Self { shared, topic, partition, track, position: from, cursor: None };
        let (first, next) = reader.track()?.bounds();
        if from < first {
            return Err(reader.trimmed(first));
        }
        if from > next {
            return Err(reader.beyond(next));
        }
        Ok(reader)
    }

    fn track(&self) -> Result<&super::track::Track, LogError> {
        self.shared.tracks.get(self.track).ok_or_else(|| {
            LogError::Broken(format!("there is no {}/{}", self.topic, self.partition))
        })
    }

    fn trimmed(&self, begin: i64) -> LogError {
        let Self { topic, partition, position: asked, .. } = *self;
        LogError::Trimmed { topic, partition, begin, asked }
    }

    fn beyond(&self, next: i64) -> LogError {
        let Self { topic, partition, position, .. } = self;
        LogError::Broken(format!(
            "{topic}/{partition} ends at {next}, before the position {position} asked for: the \
             log was replaced, or restored from an older copy"
        ))
    }

    /// Reads the next position from the planned offsets, if there are any.
    fn read_planned(&mut self) -> Result<Option<Message>, LogError> {
        let Some(cursor) = &mut self.cursor else {
            return Ok(None);
        };
        let Some(offset) = cursor.offsets.pop_front() else {
            return Ok(None);
        };
        let path = self.shared.layout.segment(cursor.segment);
        let place = Place {
            seed: self.shared.layout.seed,
            segment: cursor.segment,
            offset: u64::from(offset),
        };
        let frame = segment::read_at(&cursor.file, place.offset)
            .map_err(|error| broken("reading", &path, &error))?;
        let names = self.shared.layout.names(self.track);
        let header = decode(&frame, place).map(|(header, _)| header).filter(|header| {
            (header.topic, header.partition) == names && header.position == self.position
        });
        let Some(header) = header else {
            let Self { topic, partition, position, .. } = self;
            return Err(LogError::Broken(format!(
                "{topic}/{partition} position {position} is damaged on disk, in {} at {offset}: \
                 restore the file",
                path.display()
            )));
        };
        self.position = header.position.saturating_add(1);
        Ok(Some(Message {
            position: header.position,
            append_time_us: header.append_time_us,
            payload: Bytes::from(frame).slice(HEADER_BYTES..),
        }))
    }

    /// Keeps the file open if the cursor stands in this segment already.
    fn plan(&mut self, segment: u64, offsets: VecDeque<u32>) -> Result<(), LogError> {
        if let Some(cursor) = self.cursor.as_mut().filter(|cursor| cursor.segment == segment) {
            cursor.offsets = offsets;
            return Ok(());
        }
        let path = self.shared.layout.segment(segment);
        let file = File::open(&path).map_err(|error| self.gone(&error, &path))?;
        self.cursor = Some(Cursor { segment, file, offsets });
        Ok(())
    }

    fn plan_sealed(&mut self) -> Result<(), LogError> {
        let Some((segment, run)) = self.shared.sealed.find(self.track, self.position) else {
            // Trimmed between the look at the track and this one.
            let (begin, _) = self.track()?.bounds();
            return Err(self.trimmed(begin));
        };
        let path = self.shared.layout.index(segment);
        let offsets =
            read_offsets(&path, run, self.position).map_err(|error| self.gone(&error, &path))?;
        self.plan(segment, offsets)
    }

    /// A file that is gone was trimmed; any other error is the disk's.
    fn gone(&self, error: &io::Error, path: &std::path::Path) -> LogError {
        let first = self.track().map_or(0, |track| track.bounds().0);
        if error.kind() == io::ErrorKind::NotFound && self.position < first {
            return self.trimmed(first);
        }
        broken("reading", path, error)
    }
}

fn read_offsets(path: &std::path::Path, run: Run, position: i64) -> io::Result<VecDeque<u32>> {
    let skip = position.saturating_sub(run.first);
    let count = run.end().saturating_sub(position).clamp(0, OFFSETS_AT_ONCE);
    let mut bytes = vec![0; usize::try_from(count).unwrap_or(0).saturating_mul(4)];
    let at = run.at.saturating_add(u64::try_from(skip).unwrap_or(0).saturating_mul(4));
    File::open(path)?.read_exact_at(&mut bytes, at)?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|offset| u32::from_le_bytes(*offset)).collect())
}

impl Reader for LocalReader {
    fn next(&mut self, wait: Duration) -> Result<Option<Message>, LogError> {
        let deadline = deadline(wait);
        loop {
            if let Some(message) = self.read_planned()? {
                return Ok(Some(message));
            }
            match self.track()?.find(self.position, deadline) {
                Found::Message(message) => {
                    self.position = message.position.saturating_add(1);
                    return Ok(Some(message));
                }
                Found::Active { segment, offsets } => self.plan(segment, offsets.into())?,
                Found::Sealed => self.plan_sealed()?,
                Found::Trimmed { begin } => return Err(self.trimmed(begin)),
                Found::Beyond { next } => return Err(self.beyond(next)),
                Found::Waiting => return Ok(None),
            }
        }
    }
}
