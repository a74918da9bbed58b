//! Archivers: the real groups and their borders, the real order of inserts and their tokens.

use std::collections::VecDeque;

use archiver::{
    borders::Borders,
    config::Config,
    flush::together,
    group::{End, Gathered, Gathering, Group},
    insert::{Insert, Token, inserts},
};
use domain::chain::Place;
use uuid::Uuid;

use super::{
    calls::{Answer, CallId, Effect, Look},
    stores::Trimmed,
    world::{Planted, World},
};

/// An archiver that believes to own all partitions.
#[derive(Clone)]
pub struct Archiver {
    parts: Vec<Part>,
    waiting: Vec<Group>,
    /// Groups whose borders somebody had fixed otherwise.
    conflicts: Vec<Group>,
    flush: Option<Flush>,
}

/// One partition of it.
#[derive(Clone)]
struct Part {
    /// What is gathered, and the position of `[rated]` to read next; `None` before the archive's
    /// position was read.
    gathering: Option<(Gathering, i64)>,
    /// A group of it is on its way into the archive.
    busy: bool,
}

/// A flush under way.
#[derive(Clone)]
struct Flush {
    partitions: Vec<usize>,
    /// Not by the groups that were gathered, so the log is read anew behind it.
    repeated: bool,
    stage: Stage,
}

#[derive(Clone)]
enum Stage {
    Fixing(CallId, Uuid, Vec<Group>),
    Inserting(CallId, VecDeque<Insert>),
}

const IDLE: Part = Part { gathering: None, busy: false };
/// Callers of archivers.
const CALLER: usize = 6;

impl Archiver {
    /// Whether it waits for an answer.
    pub fn is_waiting(&self) -> bool {
        self.flush.is_some()
    }

    /// The call whose answer it waits for.
    pub fn waits_for(&self) -> Option<CallId> {
        self.flush.as_ref().map(|flush| match &flush.stage {
            Stage::Fixing(call, ..) | Stage::Inserting(call, _) => *call,
        })
    }

    /// Whether it has found borders fixed otherwise.
    pub fn has_conflicts(&self) -> bool {
        !self.conflicts.is_empty()
    }

    /// Whether groups wait for a flush.
    pub fn has_groups(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// How far a partition was gathered, if it is; the next position of `[rated]`.
    pub fn next(&self, partition: usize) -> Option<(i64, bool)> {
        let part = &self.parts[partition];
        part.gathering.as_ref().map(|(gathering, next)| (*next, gathering.is_empty()))
    }

    /// Whether a partition's group is on its way.
    pub fn is_busy(&self, partition: usize) -> bool {
        self.parts[partition].busy
    }

    /// Borders of what waits, is being fixed or is in conflict, and how many inserts are left.
    pub fn outline(&self) -> (Vec<Borders>, usize, Vec<Borders>, usize, bool) {
        let borders = |groups: &[Group]| groups.iter().map(Group::borders).collect::<Vec<_>>();
        let (fixing, left, repeated) = match &self.flush {
            None => (Vec::new(), 0, false),
            Some(Flush { stage: Stage::Fixing(_, _, groups), repeated, .. }) => {
                (borders(groups), 0, *repeated)
            }
            Some(Flush { stage: Stage::Inserting(_, rest), repeated, .. }) => {
                (Vec::new(), rest.len() + 1, *repeated)
            }
        };
        let mut waiting = borders(&self.waiting);
        waiting.extend(borders(&self.conflicts));
        (waiting, self.conflicts.len(), fixing, left, repeated)
    }
}

impl World {
    fn archiver_config(&self) -> Config {
        Config {
            group_rows: self.settings.group_rows,
            group_bytes: 1 << 20,
            group_wait_ms: 1,
            heads_every_ms: 60_000,
        }
    }

    /// An archiver starts.
    pub fn start_archiver(&mut self, which: usize) {
        self.tell(|| format!("archiver {which} starts"));
        let parts = vec![IDLE; self.settings.partitions];
        self.archivers[which] =
            Some(Archiver { parts, waiting: Vec::new(), conflicts: Vec::new(), flush: None });
    }

    /// The process ends between two steps.
    pub fn crash_archiver(&mut self, which: usize) {
        self.tell(|| format!("archiver {which} ends"));
        self.archivers[which] = None;
        self.faults.crashes += 1;
    }

    /// Reads the archive's position, or so many messages of `[rated]`, at most. A full group waits.
    pub fn gather(&mut self, which: usize, partition: usize, most: usize) {
        let config = self.archiver_config();
        let Some(archiver) = &mut self.archivers[which] else { return };
        let (part, number) = (&mut archiver.parts[partition], u32::try_from(partition).unwrap());
        if part.busy {
            return;
        }
        let (gathering, next) = part.gathering.get_or_insert_with(|| {
            let place = self.archive.position(number);
            (Gathering::new(number, place), place.r + 1)
        });
        for _ in 0..most {
            let ended = if gathering.is_full(End::Full, &config) {
                gathering.take()
            } else {
                let message = match self.log[partition].rated_at(*next) {
                    Ok(None) => return,
                    Ok(Some(message)) => message,
                    Err(Trimmed) => return self.crash_archiver(which),
                };
                *next += 1;
                match gathering.offer(*next - 1, &message, End::Full).unwrap() {
                    Gathered::Ended(group) => Some(group),
                    Gathered::Added | Gathered::Ignored => None,
                }
            };
            if let Some(group) = ended {
                archiver.waiting.push(group);
                part.busy = true;
                return;
            }
        }
    }

    /// A tick: the partition's group ends.
    pub fn end_group(&mut self, which: usize, partition: usize) {
        let Some(archiver) = &mut self.archivers[which] else { return };
        let part = &mut archiver.parts[partition];
        let gathering = part.gathering.as_mut().filter(|_| !part.busy);
        if let Some(group) = gathering.and_then(|(gathering, _)| gathering.take()) {
            archiver.waiting.push(group);
            part.busy = true;
        }
    }

    /// Takes the groups that wait and sends their borders.
    pub fn lead(&mut self, which: usize) {
        let Some(archiver) = &mut self.archivers[which] else { return };
        if archiver.flush.is_some() || archiver.has_conflicts() {
            return;
        }
        let mut groups = together(&mut archiver.waiting, |group| group);
        if groups.is_empty() {
            return;
        }
        groups.sort_by_key(|group| group.partition);
        self.flushes += 1;
        let flush = Uuid::from_u128(u128::from(self.flushes));
        let wanted = groups.iter().map(|group| (group.partition, group.borders())).collect();
        let partitions = groups.iter().map(|group| group.partition as usize).collect();
        let call = self.calls.begin(CALLER + which, Effect::Fix(flush, wanted));
        let stage = Stage::Fixing(call, flush, groups);
        archiver.flush = Some(Flush { partitions, repeated: false, stage });
    }

    /// Looks at the answer that its flush waits for.
    pub fn hear_flush(&mut self, which: usize, doubt: bool) {
        let Some(archiver) = &mut self.archivers[which] else { return };
        let Some(mut flush) = archiver.flush.take() else { return };
        let call = match &flush.stage {
            Stage::Fixing(call, ..) | Stage::Inserting(call, _) => *call,
        };
        let answer = match self.calls.look(call) {
            Look::Waiting if !doubt => {
                archiver.flush = Some(flush);
                return;
            }
            Look::Answered(answer) if !doubt => answer,
            _ => {
                // Everybody in the flush begins again at the archive's position.
                for partition in flush.partitions {
                    archiver.parts[partition] = IDLE;
                }
                self.unheard(doubt);
                return self.tell(|| format!("archiver {which} gives up its flush"));
            }
        };
        self.calls.forget(call);
        let anew = self.settings.planted == Planted::GroupsCutAnew;
        let rest = match flush.stage {
            Stage::Fixing(_, token, groups) if answer == Answer::Done || anew => {
                inserts(&Token::Flush(token), groups).unwrap().into()
            }
            Stage::Fixing(_, _, groups) => {
                archiver.conflicts = groups;
                self.faults.conflicts += 1;
                return;
            }
            Stage::Inserting(_, rest) => rest,
        };
        match self.next_insert(which, rest) {
            Some(stage) => {
                flush.stage = stage;
                self.archivers[which].as_mut().unwrap().flush = Some(flush);
            }
            None => {
                let archiver = self.archivers[which].as_mut().unwrap();
                for partition in flush.partitions {
                    let part = &mut archiver.parts[partition];
                    part.busy = false;
                    if flush.repeated {
                        part.gathering = None;
                    }
                }
            }
        }
    }

    fn next_insert(&mut self, which: usize, mut rest: VecDeque<Insert>) -> Option<Stage> {
        let insert = rest.pop_front()?;
        let call = self.calls.begin(CALLER + which, Effect::Insert(insert));
        Some(Stage::Inserting(call, rest))
    }

    /// What to do about one group whose borders somebody has fixed otherwise.
    pub fn settle_conflict(&mut self, which: usize) {
        let Some(archiver) = &mut self.archivers[which] else { return };
        if archiver.flush.is_some() {
            return;
        }
        let Some(group) = archiver.conflicts.pop() else { return };
        let partition = group.partition as usize;
        if self.archive.position(group.partition).x >= group.from_x {
            archiver.parts[partition] = IDLE;
            return;
        }
        let Some(fixed) = self.database.fixed(group.partition, group.from_x) else {
            // It was another partition's group that was fixed otherwise.
            archiver.waiting.push(group);
            return;
        };
        let mut groups = Vec::new();
        for (number, before, borders) in fixed.groups {
            match self.gather_again(number, before, &borders) {
                Ok(group) => groups.push(group),
                Err(Trimmed) => return self.crash_archiver(which),
            }
        }
        self.faults.repeats += 1;
        self.tell(|| format!("archiver {which} repeats flush {:?}", fixed.token));
        let inserts = inserts(&fixed.token, groups).unwrap().into();
        let stage = self.next_insert(which, inserts).unwrap();
        let flush = Flush { partitions: vec![partition], repeated: true, stage };
        self.archivers[which].as_mut().unwrap().flush = Some(flush);
    }

    fn gather_again(
        &self,
        number: u32,
        before: Place,
        borders: &Borders,
    ) -> Result<Group, Trimmed> {
        let (config, end) = (self.archiver_config(), End::At(borders.to_x));
        let mut gathering = Gathering::new(number, before);
        let mut position = before.r + 1;
        while !gathering.is_full(end, &config) {
            let message = self.log[number as usize].rated_at(position)?;
            let message = message.expect("a fixed group is in the log");
            gathering.offer(position, &message, end).unwrap();
            position += 1;
        }
        let group = gathering.take().unwrap();
        assert!(group.borders() == *borders, "{:?} was fixed, the log has {group:?}", borders);
        Ok(group)
    }
}
