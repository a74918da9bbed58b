//! Readers of accepted messages: whatever can be decoded ends in an error or has its effect.

use std::{collections::HashMap, sync::Arc};

use archiver::{
    group::{End, Gathered, Gathering},
    native,
};
use domain::{
    chain::{GENESIS, Offer, Place},
    wire::{
        block::{Block, BlockHeader},
        columns::{REJECTED_EVENTS, USAGE_EVENTS},
        rated::Sections,
    },
};
use ledger_writer::window::Window;
use rater::{
    batch::Coverage, beginning::EVERYTHING, catalogs::Catalogs, filter::Name, queue::Queue,
    ranges::Range, state::State, table::Limits, verdict::Cursor,
};

use crate::{
    blocks, memory,
    rated::{PARTITION, accepted},
    world::{CATALOG, NOW_US},
};

/// Every range and table of a test is small.
const LIMITS: Limits = Limits { identities_max: 10, range_identities: 2, window_us: 1_000_000 };

/// A message of `[rated]` as five sections, to all that read one.
pub fn batch(input: &[u8]) {
    if let Some(message) = accepted(input) {
        read(Place::EMPTY, EVERYTHING, &message);
    }
}

/// What reads `[rated]` after a place.
fn read(place: Place, coverage: Coverage, message: &[u8]) {
    let position = place.r + 1;
    warrant(message);
    rater(place, coverage, message);
    lane(place, message);
    ledger_writer(place, message);
    archiver(place, message);
    let Ok(Offer::Accepted(_, after)) = place.offer(PARTITION, position, message) else { return };
    api(after, message);
}

/// What of a message is compressed.
fn warrant(message: &[u8]) {
    let Ok(sections) = Sections::split(message) else { return };
    for rows in [sections.rows(), sections.others()].into_iter().flatten() {
        memory::plain(rows.size());
    }
}

fn rater(place: Place, coverage: Coverage, message: &[u8]) {
    let mut state = State::new(PARTITION, place, coverage, LIMITS);
    let accepted = state.offer(place.r + 1, message);
    if accepted.is_ok_and(|accepted| accepted) {
        assert_eq!(state.next_position(), state.place().x + 1);
        while let Some(departure) = state.departure(None) {
            state.depart(departure, None);
        }
    }
}

fn lane(place: Place, message: &[u8]) {
    let mut queue = Queue::new(PARTITION, Cursor { place, index: 0 });
    if queue.offer(place.r + 1, message).is_err() {
        return;
    }
    let waiting = queue.len();
    let Ok(search) = queue.search(NOW_US) else { return };
    let Ok(answers) = search.answers(&[]) else { return };
    assert!(answers.verdicts.len() <= waiting);
    blocks::read(&answers.block);
    queue.acknowledged(&answers);
    assert_eq!(queue.len(), waiting - answers.verdicts.len(), "an answer ends a wait");
    if let Some(due) = queue.due() {
        queue.stored(&due);
        assert_eq!(queue.due(), None, "what was stored is not due");
    }
}

fn ledger_writer(place: Place, message: &[u8]) {
    let mut window = Window::new(PARTITION, place, 0);
    let added = window.offer(place.r + 1, message);
    assert_eq!(added.is_err(), window.place() == place, "{added:?}");
    let posting = window.posting();
    assert_eq!((posting.from, posting.to), (place, window.place()));
    if added.is_err() {
        assert!(window.is_empty() && posting.counts.is_empty() && posting.usage.is_empty());
    }
    assert_eq!(window.offer(place.r + 2, message).ok(), added.ok().map(|_| false), "once");
}

fn archiver(place: Place, message: &[u8]) {
    let mut gathering = Gathering::new(PARTITION, place);
    match gathering.offer(place.r + 1, message, End::Full) {
        Err(_) => return,
        Ok(gathered) => assert!(matches!(gathered, Gathered::Added), "{gathered:?}"),
    }
    let group = gathering.take().expect("a batch was added");
    assert_eq!(group.borders().from_x, place.x + 1);
    for (table, rows) in [(&USAGE_EVENTS, group.rows), (&REJECTED_EVENTS, group.others)] {
        assert!(native::blocks(table, rows).all(|piece| !piece.is_empty()));
    }
}

fn api(after: Place, message: &[u8]) {
    let Ok(sections) = Sections::split(message) else { return };
    let Ok(header) = sections.header() else { return };
    let Ok(sums) = sections.sums(&header) else { return };
    let (rated, posted) = api::outside::unposted(after, &header, &sums, 2);
    let whole = sums.entries.iter().try_fold(0_i128, |whole, (_, sum)| {
        sum.charge.checked_abs().and_then(|charge| whole.checked_add(charge.checked_mul(2)?))
    });
    if whole.is_some() {
        let charges = sums.entries.iter().filter(|(key, _)| key.currency.is_some());
        let charges: i128 = charges.map(|(_, sum)| sum.charge).sum();
        assert_eq!(rated.values().sum::<i128>(), 2 * charges, "a batch counts each time");
        assert!(posted.values().all(|sum| *sum == 0), "nothing is left: {posted:?}");
    }
}

/// A block as it is and as we would write it, rated twice: from an empty log, and below ranges
/// that report everything. What becomes of it goes to all readers.
pub fn block(input: &[u8]) {
    let Some(message) = blocks::sealed(input) else { return };
    let times = input.first_chunk::<16>().map_or([0; 8], |head| {
        let [_, _, _, _, _, _, _, _, time @ ..] = *head;
        time
    });
    for append_time_us in [NOW_US, i64::from_le_bytes(times)] {
        rate(&message, append_time_us);
        let Ok(header) = BlockHeader::decode(&message) else { return };
        let Ok(body) = header.body(&message) else { return };
        memory::plain(body.len());
        let Ok(block) = Block::decode(&header, &body) else { return };
        rate(&blocks::rewritten(&header, &block), append_time_us);
    }
}

fn rate(block: &[u8], append_time_us: i64) {
    let Ok(header) = BlockHeader::decode(block) else { return };
    let place = Place { x: 9, r: 4, c: GENESIS };
    let coverage = Coverage { table_from: 10, horizon_us: NOW_US };
    let name = Name { partition: PARTITION, from: 0, to: 9, prev: GENESIS, c: GENESIS };
    let reported = Range { name, filter: None };
    for (place, coverage, ranges) in
        [(Place::EMPTY, EVERYTHING, Vec::new()), (place, coverage, vec![reported])]
    {
        let mut state = State::new(PARTITION, place, coverage, LIMITS);
        state.put_ranges(ranges);
        state.set_catalogs(catalogs(1, &header));
        let Some(message) = rated(&mut state, block, &header, append_time_us) else { return };
        assert_eq!(state.place(), place, "nothing is accepted yet");
        assert!(state.landed(place.r + 1), "it stands where it should");
        read(place, coverage, &message);
    }
}

/// The batch of a block that is read twice; the second time, all of its events are known.
fn rated(
    state: &mut State,
    block: &[u8],
    header: &BlockHeader,
    append_time_us: i64,
) -> Option<Vec<u8>> {
    assert!(!state.must_cut_before(append_time_us), "there is no batch yet");
    for _ in 0..2 {
        let position = state.next_position();
        let opened = state.open(position, block).ok()?;
        let coming: Vec<Arc<Catalogs>> =
            opened.versions.iter().map(|version| catalogs(*version, header)).collect();
        state.rate(append_time_us, &opened, &opened.block().ok()?, &coming).ok()?;
        assert!(!state.must_cut_before(append_time_us), "the same time is of the same month");
    }
    Some(state.cut().expect("a batch is in the making").1)
}

/// All tenants of a block with one catalog.
fn catalogs(version: u64, header: &BlockHeader) -> Arc<Catalogs> {
    let of = header.tenants.iter().map(|count| (count.tenant, Arc::clone(&CATALOG)));
    Arc::new(Catalogs { version, by_tenant: HashMap::from_iter(of) })
}
