//! Raters: the real state, what it reads and sends.

use std::{collections::VecDeque, sync::Arc};

use domain::{chain::Place, wire::rated::Sections};
use rater::{
    batch::Coverage,
    beginning::{EVERYTHING, Refill, beginning},
    filter::{Filter, Name},
    ranges::{Parts, Range, linked},
    state::State,
    table::Departure,
};

use super::{
    calls::{Answer, CallId, Effect, Look},
    stores::{LogPartition, Trimmed},
    traffic::catalogs,
    world::{Planted, World},
};

/// The owner of a partition.
#[derive(Clone)]
pub struct Owner {
    /// The real thing.
    pub state: State,
    /// Batches sent whose report was not heard, oldest first.
    pub reports: VecDeque<CallId>,
    /// What leaves the table while its filter is being built.
    leaving: Option<(Departure, Option<Filter>)>,
    /// What is in flight cannot become accepted as it is.
    pub broken: bool,
}

/// Choices that a step makes many of.
#[derive(Clone, Copy, Debug)]
pub struct Bits(pub u64);

impl Bits {
    /// True once in four.
    fn rarely(&mut self) -> bool {
        self.0 = self.0.rotate_right(2);
        self.0 & 3 == 0
    }
}

/// Builds a filter and keeps it on disk; either may fail.
fn seal(
    folder: &mut Arc<Vec<(Name, Filter)>>,
    planted: Planted,
    bits: &mut Bits,
    name: &Name,
    identities: Vec<u128>,
) -> Option<Filter> {
    let forgotten = usize::from(planted == Planted::FilterForgets);
    let filter = Filter::build(identities.into_iter().skip(forgotten)).unwrap();
    if bits.rarely() {
        return None;
    }
    if !bits.rarely() {
        Arc::make_mut(folder).push((*name, filter.clone()));
    }
    Some(filter)
}

fn covered(log: &LogPartition, posted: Place) -> Option<Coverage> {
    if posted.r < 0 {
        return Some(EVERYTHING);
    }
    let message = log.rated_at(posted.r).ok()?.unwrap();
    let header = Sections::split(&message).unwrap().header().unwrap();
    Some(Coverage { table_from: header.table_from, horizon_us: header.horizon_us })
}

impl World {
    /// An owner starts, beside another one or where it was before.
    pub fn start_owner(&mut self, partition: usize, which: usize, mut bits: Bits) {
        let number = u32::try_from(partition).unwrap();
        let (log, database) = (&self.log[partition], &self.database);
        let (posted, first) = (database.standings[partition], log.first);
        let begin = beginning::<()>(
            first,
            covered(log, posted.place),
            database.append_times[partition],
            |position| Ok(database.audited_before(number, position, first)),
            || Ok(database.audited_from(number, first)),
        );
        let (begin, coverage) = begin.unwrap().expect("an audited place at the log's begin");
        let mut state = State::new(number, begin, coverage, self.settings.limits);
        let planted = self.settings.planted;
        let folder = &mut self.folders[partition][which];
        let mut refill = Refill::default();
        let mut turn = |state: &mut State| {
            let kept = std::cell::RefCell::new(std::mem::take(folder));
            let ranges = |table_from, edge| {
                let mut kept = kept.borrow_mut();
                let found = kept.iter().cloned().enumerate();
                let found = found.map(|(at, (name, filter))| (at, name, filter)).collect();
                let (ranges, mut useless) = linked(number, found, table_from, edge);
                useless.sort_unstable();
                for at in useless.into_iter().rev() {
                    Arc::make_mut(&mut *kept).remove(at);
                }
                ranges
            };
            refill.turn(state, ranges, |name, identities| {
                seal(&mut kept.borrow_mut(), planted, &mut bits, name, identities)
            });
            *folder = kept.into_inner();
        };
        turn(&mut state);
        let mut met = posted.place == state.place();
        let end = log.rated_end();
        for position in begin.r + 1..end {
            state.offer(position, &log.rated_at(position).unwrap().unwrap()).unwrap();
            turn(&mut state);
            met |= posted.place == state.place();
        }
        assert!(met, "the ledger's place {:?} is not on the chain", posted.place);
        state.read_to(end);
        let version = state.accepted_catalog_version().unwrap_or(posted.catalog_version);
        state.set_catalogs(catalogs(version));
        let (x, coverage) = (state.place().x, state.table().coverage());
        self.tell(|| {
            let from = coverage.table_from;
            format!("rater {partition}.{which} starts at {x}, table from {from}, catalog {version}")
        });
        let reports = VecDeque::new();
        self.owners[partition][which] =
            Some(Owner { state, reports, leaving: None, broken: false });
    }

    /// Whether an owner has something to rate and may.
    pub fn may_rate(&self, partition: usize, which: usize) -> bool {
        self.owners[partition][which].as_ref().is_some_and(|owner| {
            !owner.broken
                && owner.reports.len() < self.settings.in_flight
                && owner.state.next_position() < self.log[partition].usage_end()
        })
    }

    /// Rates the next block, unless the batch must be cut before it.
    pub fn rate(&mut self, partition: usize, which: usize) {
        let Some(owner) = &mut self.owners[partition][which] else { return };
        let position = owner.state.next_position();
        let Some(block) = self.log[partition].block(position) else { return };
        if owner.state.must_cut_before(block.append_time_us) {
            return self.cut(partition, which);
        }
        let opened = owner.state.open(position, &block.payload).unwrap();
        let coming: Vec<_> = opened.versions.iter().map(|version| catalogs(*version)).collect();
        let entries = opened.block().unwrap();
        for team in owner.state.unknown_teams(&opened, &entries, &coming) {
            let stored = self.database.running_totals(&team);
            owner.state.put_totals(team, stored);
        }
        owner.state.rate(block.append_time_us, &opened, &entries, &coming).unwrap();
        self.tell(|| format!("rater {partition}.{which} rates {position}"));
    }

    /// Sends the batch in the making.
    pub fn cut(&mut self, partition: usize, which: usize) {
        let Some(owner) = &mut self.owners[partition][which] else { return };
        if owner.broken || owner.reports.len() >= self.settings.in_flight {
            return;
        }
        let Some((outer, message)) = owner.state.cut() else { return };
        let number = u32::try_from(partition).unwrap();
        let call = self.calls.begin(which, Effect::Rated(number, message.into()));
        owner.reports.push_back(call);
        self.tell(|| {
            let (from, to) = (outer.from, outer.to);
            format!("rater {partition}.{which} sends {from}..={to} as call {call}")
        });
    }

    /// Looks at the oldest report. With `doubt` it hears that the outcome is unknown.
    pub fn hear_report(&mut self, partition: usize, which: usize, doubt: bool) {
        let Some(owner) = &mut self.owners[partition][which] else { return };
        let Some(oldest) = owner.reports.front().copied().filter(|_| !owner.broken) else { return };
        let good = match self.calls.look(oldest) {
            Look::Waiting if !doubt => return,
            Look::Answered(Answer::At(position)) if !doubt => owner.state.landed(position),
            _ => false,
        };
        if good {
            owner.reports.pop_front();
            self.calls.forget(oldest);
        } else {
            owner.broken = true;
            self.faults.discards += 1;
            self.unheard(doubt);
        }
        self.tell(|| format!("rater {partition}.{which} hears of call {oldest}: good {good}"));
    }

    /// Discards what is not accepted, reads `[rated]` to its end, goes on. A neighbour may be away
    /// after so many messages, or when the catalog is read behind them.
    pub fn recover(&mut self, partition: usize, which: usize, away_after: Option<usize>) {
        let Some(owner) = &mut self.owners[partition][which] else { return };
        if !owner.broken {
            return;
        }
        owner.reports.clear();
        owner.state.discard();
        let before = owner.state.catalog_version();
        let log = &self.log[partition];
        let end = log.rated_end();
        for (read, position) in (owner.state.place().r + 1..end).enumerate() {
            if away_after == Some(read) {
                self.faults.interrupted += 1;
                return;
            }
            match log.rated_at(position) {
                Ok(message) => owner.state.offer(position, &message.unwrap()).unwrap(),
                Err(Trimmed) => return self.crash_owner(partition, which),
            };
        }
        owner.state.read_to(end);
        let version = owner.state.accepted_catalog_version().unwrap_or(before);
        if version != owner.state.catalog_version() {
            if away_after.is_some() {
                self.faults.interrupted += 1;
                return;
            }
            owner.state.set_catalogs(catalogs(version));
        }
        owner.broken = false;
        let x = owner.state.place().x;
        self.tell(|| format!("rater {partition}.{which} goes on from {x}, catalog {version}"));
    }

    /// The process ends between two steps, and its lane with it.
    pub fn crash_owner(&mut self, partition: usize, which: usize) {
        self.tell(|| format!("rater {partition}.{which} ends"));
        self.owners[partition][which] = None;
        self.lanes[partition][which] = None;
        self.faults.crashes += 1;
    }

    /// What is too much for the table begins to leave it, or has left.
    pub fn leave(&mut self, partition: usize, which: usize, mut bits: Bits) {
        let held = self.lanes[partition][which].as_ref().and_then(|lane| lane.held);
        let Some(owner) = &mut self.owners[partition][which] else { return };
        if let Some((departure, filter)) = owner.leaving.take() {
            owner.state.depart(departure, filter);
            self.faults.departures += 1;
            let from = owner.state.table().coverage().table_from;
            self.tell(|| format!("rater {partition}.{which} has its table from {from}"));
        } else if let Some(departure) = owner.state.departure(held) {
            let folder = &mut self.folders[partition][which];
            let identities = departure.identities.clone();
            let planted = self.settings.planted;
            let filter = seal(folder, planted, &mut bits, &departure.name, identities);
            owner.leaving = Some((departure, filter));
        }
    }

    /// The newest range without a filter gets one again, from `[rated]` or else from the archive.
    pub fn mend(&mut self, partition: usize, which: usize, mut bits: Bits) {
        let Some(owner) = &mut self.owners[partition][which] else { return };
        let Some(missing) = owner.state.table().ranges().missing() else { return };
        let (log, number) = (&self.log[partition], missing.partition);
        let folder = &mut self.folders[partition][which];
        let planted = self.settings.planted;
        let before = self.database.audited_before(number, missing.from, log.first);
        let parts = match before.or((log.first == 0).then_some(Place::EMPTY)) {
            Some(place) => {
                let mut parts = Parts::new(missing, place, self.settings.limits.range_identities);
                let mut position = place.r + 1;
                while !parts.is_complete() {
                    let Some(message) = log.rated_at(position).unwrap() else { return };
                    let seal = |name: &Name, identities| {
                        seal(folder, planted, &mut bits, name, identities)
                    };
                    parts.offer(position, &message, seal).unwrap();
                    position += 1;
                }
                parts.finish().expect("a range ends where an accepted batch ends")
            }
            None if self.archive.position(number).x >= missing.to => {
                let rows = self
                    .archive
                    .usage
                    .range((number, missing.from, 0)..=(number, missing.to, u32::MAX));
                let identities = rows.map(|(_, row)| row.head.identity).collect();
                let filter = seal(folder, planted, &mut bits, &missing, identities);
                vec![Range { name: missing, filter }]
            }
            None => return,
        };
        owner.state.replace_range(&missing, parts);
        self.faults.mended += 1;
        let (from, to) = (missing.from, missing.to);
        self.tell(|| format!("rater {partition}.{which} mends the filter of {from}..={to}"));
    }
}
