//! The simulated installation: log, stores, calls under way, and two of every process for every
//! partition, each of which may be a zombie. Every method is one step between two awaits; who drives
//! the steps decides what happens when (`walk` at random, `exploration` in every order).

use std::sync::{Arc, Mutex, PoisonError};

use domain::wire::rated::Outer;
use rater::{
    filter::{Filter, Name},
    table::Limits,
};

use super::{
    archiver::Archiver,
    calls::{Answer, Call, Calls, Effect},
    closings::Closer,
    lane::Lane,
    owner::Owner,
    stores::{Archive, Block, Database, LogPartition},
    traffic::{Entry, copies_in, encode},
    writer::Writer,
};

/// Filters that one rater keeps on disk.
pub type Folder = Arc<Vec<(Name, Filter)>>;

/// A rule broken on purpose, where the simulation itself stands for the product's input and output.
/// What is broken in the product's own code the same checks find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Planted {
    /// Nothing is.
    #[default]
    Nothing,
    /// The ledger's place moves in a transaction of its own.
    PlaceApart,
    /// The lane's place is stored before its append is acknowledged.
    LanePlaceFirst,
    /// *New* is said of what the archive had not seen.
    NewWithoutLimit,
    /// A filter lacks an identity.
    FilterForgets,
    /// An archiver that finds other borders fixed inserts its own groups.
    GroupsCutAnew,
    /// What closes a period does not open it once more when the archive has it.
    ClosingsUnseen,
}

/// What a world is made of.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Partitions.
    pub partitions: usize,
    /// Batches of an owner on their way at once.
    pub in_flight: usize,
    /// What a table may hold.
    pub limits: Limits,
    /// Rows after which a group of the archive ends.
    pub group_rows: usize,
    /// What is broken.
    pub planted: Planted,
}

/// What happened, for the proof that faults bite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Processes that ended between two steps.
    pub crashes: u64,
    /// Processes that went on beside their successor.
    pub zombies: u64,
    /// Calls that were never carried out.
    pub lost: u64,
    /// Calls whose outcome their caller did not hear.
    pub unknown: u64,
    /// Reports that made an owner start over from the accepted place.
    pub discards: u64,
    /// Of those, ones that were interrupted.
    pub interrupted: u64,
    /// Ranges that left a table.
    pub departures: u64,
    /// Missing filters that were made again.
    pub mended: u64,
    /// Windows that another writer had posted, wholly or in part.
    pub fenced: u64,
    /// Windows that were posted although their answer was lost.
    pub posted_unheard: u64,
    /// Flushes whose borders were fixed otherwise.
    pub conflicts: u64,
    /// Flushes inserted again by somebody else.
    pub repeats: u64,
    /// Times that `[rated]` was trimmed.
    pub trims: u64,
    /// Copies appended.
    pub copies: u64,
    /// Periods that were opened again.
    pub reopened: u64,
    /// Periods that were taken from one who closed them.
    pub stolen: u64,
}

/// What happened in words; it outlives a panic.
pub type Trace = Arc<Mutex<Vec<String>>>;

/// The installation.
#[derive(Clone)]
pub struct World {
    /// What it is made of.
    pub settings: Settings,
    /// The log's clock, microseconds.
    pub now_us: i64,
    /// The newest published catalog version.
    pub version: u64,
    /// The log.
    pub log: Vec<LogPartition>,
    /// Postgres.
    pub database: Database,
    /// ClickHouse.
    pub archive: Archive,
    /// Calls under way.
    pub calls: Calls,
    /// Raters: two for each partition.
    pub owners: Vec<[Option<Owner>; 2]>,
    /// Their slow lanes.
    pub lanes: Vec<[Option<Lane>; 2]>,
    /// Ledger-writers: two for each partition.
    pub writers: Vec<[Option<Writer>; 2]>,
    /// Archivers: two, each of all partitions.
    pub archivers: [Option<Archiver>; 2],
    /// Who closes periods: two, each of all partitions.
    pub closers: [Option<Closer>; 2],
    /// Filters that raters keep on disk.
    pub folders: Vec<[Folder; 2]>,
    /// Flushes so far.
    pub flushes: u32,
    /// What happened.
    pub faults: Faults,
    /// What happened in words, where somebody asks.
    pub trace: Option<Trace>,
}

impl World {
    /// A new installation.
    pub fn new(settings: Settings, now_us: i64) -> World {
        let count = settings.partitions;
        World {
            settings,
            now_us,
            version: 0,
            log: vec![LogPartition::default(); count],
            database: Database::new(count),
            archive: Archive::default(),
            calls: Calls::default(),
            owners: (0..count).map(|_| [None, None]).collect(),
            lanes: (0..count).map(|_| [None, None]).collect(),
            writers: (0..count).map(|_| [None, None]).collect(),
            archivers: [None, None],
            closers: [None, None],
            folders: (0..count).map(|_| Default::default()).collect(),
            flushes: 0,
            faults: Faults::default(),
            trace: None,
        }
    }

    /// Says what happens.
    pub fn tell(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &self.trace {
            trace.lock().unwrap_or_else(PoisonError::into_inner).push(what());
        }
    }

    /// An acknowledged append of a client, a door or a publisher.
    pub fn send(&mut self, partition: usize, entries: Vec<Entry>) {
        let payload = encode(&entries);
        self.append(partition, entries, payload);
    }

    /// An acknowledged append of these bytes, which say this.
    pub fn append(&mut self, partition: usize, entries: Vec<Entry>, payload: bytes::Bytes) {
        let position = self.log[partition].usage_end();
        self.tell(|| format!("[usage] {partition}:{position} is {entries:?}"));
        let append_time_us = self.now_us;
        let entries = Arc::new(entries);
        self.log[partition].usage.push(Block { append_time_us, payload, entries });
    }

    /// Carries out the call at a place of the list. `torn` matters only where the ledger's place
    /// moves apart from its effects.
    pub fn perform(&mut self, at: usize, torn: bool) {
        let Call { id, effect, .. } = self.calls.flying.remove(at);
        let answer = match &effect {
            Effect::Rated(partition, message) => {
                let log = &mut self.log[*partition as usize];
                log.rated.push(message.clone());
                Answer::At(log.rated_end() - 1)
            }
            Effect::Copies(partition, payload) => {
                Answer::At(self.append_copies(*partition as usize, payload))
            }
            Effect::Close(partition, payload, entries) => {
                let log = &self.log[*partition as usize];
                let position = log.usage_end();
                self.append(*partition as usize, entries.clone(), payload.clone());
                Answer::At(position)
            }
            Effect::Post(posting, head) => {
                if self.database.move_place(posting) {
                    if !(torn && self.settings.planted == Planted::PlaceApart) {
                        self.database.write(posting, *head);
                    }
                    Answer::Posted(self.database.standings[posting.partition as usize])
                } else {
                    Answer::Stale
                }
            }
            Effect::Move(partition, moved) => done(self.database.advance(*partition, moved)),
            Effect::Fix(flush, wanted) => done(self.database.fix(*flush, wanted)),
            Effect::Insert(insert) => {
                self.archive.insert(insert);
                Answer::Done
            }
        };
        self.tell(|| match answer {
            // The head of the audit chain covers ids of journals, which are never the same.
            Answer::Posted(standing) => {
                format!("call {id} is done: {} -> {}", name(&effect), standing.place.x)
            }
            _ => format!("call {id} is done: {} -> {answer:?}", name(&effect)),
        });
        self.calls.answer(id, answer);
    }

    /// Loses the call at a place of the list.
    pub fn lose(&mut self, at: usize) {
        let call = self.calls.lose(at);
        self.faults.lost += 1;
        self.tell(|| format!("call {} is lost: {}", call.id, name(&call.effect)));
    }

    fn append_copies(&mut self, partition: usize, payload: &bytes::Bytes) -> i64 {
        let log = &mut self.log[partition];
        let origin_of = |(identity, origin, _): (u128, (i64, u32), _)| {
            let block = log.block(origin.0).unwrap();
            let (event, own) = match &block.entries[origin.1 as usize] {
                Entry::Event(event) => (*event, event.identity()),
                Entry::Closing { event, identity, .. } => (*event, *identity),
                other => panic!("a copy of {other:?} at {origin:?}"),
            };
            assert!(own == identity, "a copy is not of the event at {origin:?}");
            Entry::Copy { event, origin, append_time_us: block.append_time_us }
        };
        let entries: Vec<Entry> = copies_in(payload).into_iter().map(origin_of).collect();
        self.faults.copies += entries.len() as u64;
        let (payload, append_time_us) = (payload.clone(), self.now_us);
        log.usage.push(Block { append_time_us, payload, entries: Arc::new(entries) });
        log.usage_end() - 1
    }

    /// Whether nobody hears of a call: then its caller must not believe anything.
    pub fn unheard(&mut self, doubt: bool) -> bool {
        self.faults.unknown += u64::from(doubt);
        doubt
    }

    /// Trims `[rated]` behind its slowest reader.
    pub fn trim(&mut self, partition: usize) {
        let ledger = self.database.standings[partition].place.r;
        let lane = self.database.late[partition].place.r;
        let archive = self.archive.position(u32::try_from(partition).unwrap()).r;
        let first = ledger.min(lane).min(archive) + 1;
        if first > self.log[partition].first {
            self.log[partition].first = first;
            self.faults.trims += 1;
            self.tell(|| format!("[rated] {partition} now begins at {first}"));
        }
    }
}

fn done(moved: bool) -> Answer {
    if moved { Answer::Done } else { Answer::Stale }
}

fn name(effect: &Effect) -> String {
    match effect {
        Effect::Rated(partition, message) => {
            let outer = Outer::decode(message).unwrap();
            let (from, to) = (outer.from, outer.to);
            format!("batch {from}..={to} to [rated] {partition}, {}", hashes(&outer))
        }
        Effect::Copies(partition, payload) => {
            format!("copies {:?} to [usage] {partition}", copies_in(payload))
        }
        Effect::Close(partition, _, entries) => format!("{entries:?} to [usage] {partition}"),
        Effect::Post(posting, _) => {
            format!("post {} from {} to {}", posting.partition, posting.from.x, posting.to.x)
        }
        Effect::Move(partition, moved) => {
            let place =
                |place: &rater::verdict::Cursor| (place.place.x, place.place.r, place.index);
            let (before, after) = (place(&moved.before), place(&moved.after));
            format!("lane {partition} from {before:?} to {after:?}")
        }
        Effect::Fix(flush, wanted) => {
            let borders = wanted.iter().map(|(p, borders)| (*p, borders.from_x, borders.to_x));
            format!("fix {:?} as flush {}", borders.collect::<Vec<_>>(), flush.as_u128())
        }
        Effect::Insert(insert) => format!("insert {}", insert.token),
    }
}

fn hashes(outer: &Outer) -> String {
    format!(
        "{:02x}{:02x} after {:02x}{:02x}",
        outer.hash[0], outer.hash[1], outer.prev[0], outer.prev[1]
    )
}
