//! Windows of encoded batches.

use domain::{
    chain::{GENESIS, Place},
    wire::{
        codec::DictionaryWriter,
        rated::{self, BehindSums, Outer, Parts},
        rows::ColumnsWriter,
        sums::{self, SumKey},
    },
};

use super::*;

const TENANT: Uuid = Uuid::from_u128(1);
const OTHER: Uuid = Uuid::from_u128(2);

/// One sum of a batch: tenant, team, meter, currency, cost currency, bucket, charge, cost.
type Entry =
    (Uuid, &'static str, &'static str, Option<&'static str>, Option<&'static str>, i64, i128, i128);

fn batch(place: &Place, length: i64, version: u64, entries: &[Entry]) -> (Outer, Vec<u8>) {
    let mut dictionary = DictionaryWriter::default();
    let mut tenants: Vec<Uuid> = entries.iter().map(|entry| entry.0).collect();
    tenants.sort_unstable();
    // Another order than the window's.
    tenants.reverse();
    tenants.dedup();
    let mut encoded = Vec::new();
    let list: Vec<(SumKey, Sum)> = entries
        .iter()
        .map(|(tenant, team, meter, currency, cost_currency, bucket, charge, cost)| {
            let number = tenants.iter().position(|one| one == tenant).unwrap();
            let key = SumKey {
                tenant: u32::try_from(number).unwrap(),
                team: dictionary.intern(team),
                meter: dictionary.intern(meter),
                card: currency.map(|_| dictionary.intern("card")),
                card_version: u32::from(currency.is_some()),
                currency: currency.map(|currency| dictionary.intern(currency)),
                cost_currency: cost_currency.map(|currency| dictionary.intern(currency)),
                hold: None,
                bucket: *bucket,
                user: None,
                app: None,
                key: None,
                feature: None,
            };
            (key, Sum { quantity: 1, charge: *charge, cost: *cost, events: 1 })
        })
        .collect();
    sums::encode(&dictionary, &list, None, &mut encoded);
    let counts = |tenant: &Uuid| {
        let events = entries.iter().filter(|entry| entry.0 == *tenant).count() as u64;
        (*tenant, Counts { accepted: events, rated: events, ..Counts::default() })
    };
    let header = Header {
        catalog_version: version,
        rules_version: 1,
        table_from: 0,
        horizon_us: i64::MIN,
        append_time_us: (1, version as i64),
        counts: tenants.iter().map(counts).collect(),
        traces: Vec::new(),
    };
    parts(place, length, header, encoded)
}

fn parts(place: &Place, length: i64, header: Header, sums: Vec<u8>) -> (Outer, Vec<u8>) {
    let parts = Parts {
        header,
        sums,
        behind: BehindSums::Nothing,
        rows: ColumnsWriter::usage_events(),
        others: ColumnsWriter::rejected_events(),
        forwards: Vec::new(),
    };
    rated::encode(3, place.x + 1, place.x + length, place.c, &parts)
}

#[test]
fn batches_are_added_up_and_sorted() {
    let mut window = Window::new(3, Place::EMPTY, 0);
    assert!(window.is_empty());
    let first = [
        (OTHER, "b", "tokens", Some("EUR"), Some("USD"), 5, 10, 3),
        (TENANT, "b", "tokens", Some("EUR"), None, 5, 10, 0),
        (TENANT, "a", "tokens", Some("EUR"), Some("USD"), 5, 20, 2),
    ];
    let (_, message) = batch(&Place::EMPTY, 2, 7, &first);
    assert_eq!(window.offer(4, &message), Ok(true));
    let second = [
        (TENANT, "a", "tokens", Some("EUR"), Some("USD"), 5, -5, 2),
        (TENANT, "a", "tokens", Some("EUR"), Some("USD"), 6, 1, 2),
        (TENANT, "a", "tokens", None, Some("USD"), 6, 0, 2),
    ];
    let (_, message) = batch(&window.place(), 1, 8, &second);
    assert_eq!(window.offer(9, &message), Ok(true));
    assert_eq!((window.place().x, window.place().r), (2, 9));
    assert_eq!((window.batches(), window.sums(), window.append_time_us()), (2, 5, 8));

    let posting = window.posting();
    assert_eq!((posting.from, posting.to), (Place::EMPTY, window.place()));
    assert_eq!((posting.partition, posting.catalog_version), (3, 8));
    let usage: Vec<_> = posting
        .usage
        .iter()
        .map(|row| {
            (
                row.tenant,
                &*row.team,
                row.bucket,
                &*row.currency,
                &*row.cost_currency,
                row.sum.charge,
                row.sum.cost,
            )
        })
        .collect();
    assert_eq!(
        usage,
        [
            (TENANT, "a", 5, "EUR", "USD", 15, 4),
            (TENANT, "a", 6, "", "USD", 0, 2),
            (TENANT, "a", 6, "EUR", "USD", 1, 2),
            (TENANT, "b", 5, "EUR", "", 10, 0),
            (OTHER, "b", 5, "EUR", "USD", 10, 3),
        ]
    );
    let charges: Vec<_> = posting
        .charges
        .iter()
        .map(|row| (row.tenant, &*row.team, &*row.card, row.card_version, row.figures))
        .collect();
    let figures = |amount, quantity, events| Figures { amount, quantity, events };
    assert_eq!(
        charges,
        [
            (TENANT, "a", "card", 1, figures(16, 3, 3)),
            (TENANT, "b", "card", 1, figures(10, 1, 1)),
            (OTHER, "b", "card", 1, figures(10, 1, 1)),
        ]
    );
    let costs: Vec<_> =
        posting.costs.iter().map(|row| (row.tenant, &*row.currency, row.figures)).collect();
    assert_eq!(costs, [(TENANT, "USD", figures(8, 4, 4)), (OTHER, "USD", figures(3, 1, 1))]);
    assert_eq!(
        posting.counts.iter().map(|(tenant, counts)| (*tenant, counts.rated)).collect::<Vec<_>>(),
        [(TENANT, 5), (OTHER, 1)]
    );
}

#[test]
fn what_does_not_continue_has_no_effect_and_counts_when_something_continues() {
    let mut window = Window::new(3, Place::EMPTY, 0);
    let entry = [(TENANT, "a", "tokens", Some("EUR"), None, 5, 10, 0)];
    let (_, message) = batch(&Place::EMPTY, 1, 1, &entry);
    assert_eq!(window.offer(0, &message), Ok(true));
    assert_eq!(window.offer(1, &message), Ok(false), "the same again");
    let (_, fork) = batch(&Place { c: [1; 32], ..window.place() }, 1, 1, &entry);
    assert_eq!(window.offer(2, &fork), Ok(false), "another chain");
    let (_, gap) = batch(&Place { x: 5, ..window.place() }, 1, 1, &entry);
    assert_eq!(window.offer(3, &gap), Ok(false), "a gap");
    assert_eq!(window.posting().ignored, 0, "they are read again after a crash");
    let (_, next) = batch(&window.place(), 1, 1, &entry);
    assert_eq!(window.offer(4, &next), Ok(true));
    assert_eq!(window.posting().ignored, 3);
    assert_eq!(window.posting().charges[0].figures.amount, 20);
}

#[test]
fn what_cannot_be_read_or_does_not_balance_stops_the_partition() {
    let entry = [(TENANT, "a", "tokens", Some("EUR"), None, 5, 10, 0)];
    let mut window = Window::new(3, Place::EMPTY, 0);
    let (_, mut message) = batch(&Place::EMPTY, 1, 1, &entry);
    *message.last_mut().unwrap() ^= 1;
    assert!(matches!(window.offer(0, &message), Err(WindowError::Outer(_))));
    let header = Header {
        catalog_version: 1,
        rules_version: 1,
        table_from: 0,
        horizon_us: 0,
        append_time_us: (0, 0),
        counts: vec![(TENANT, Counts { accepted: 1, ..Counts::default() })],
        traces: Vec::new(),
    };
    let mut nothing = Vec::new();
    sums::encode(&DictionaryWriter::default(), &[], None, &mut nothing);
    let (_, message) = parts(&Place::EMPTY, 1, header.clone(), nothing);
    assert_eq!(window.offer(0, &message), Err(WindowError::Unbalanced { from: 0, tenant: TENANT }));
    let (_, message) = parts(&Place::EMPTY, 1, header, vec![9, 9]);
    assert!(matches!(window.offer(0, &message), Err(WindowError::Section { from: 0, .. })));
    assert!(window.is_empty() && window.place() == Place::EMPTY && window.from().c == GENESIS);
}

#[test]
fn sums_that_do_not_fit_128_bits_stop_the_partition_before_any_is_added() {
    let half = i128::MAX / 2;
    let entry = |charge| (TENANT, "a", "tokens", Some("EUR"), None, 5, charge, 0);
    let mut window = Window::new(3, Place::EMPTY, 0);
    let (_, message) = batch(&Place::EMPTY, 1, 1, &[entry(half), entry(half), entry(2)]);
    assert_eq!(window.offer(0, &message), Err(WindowError::TooLarge { from: 0 }));
    assert!(window.is_empty() && window.posting().usage.is_empty());
    let (_, message) = batch(&Place::EMPTY, 1, 1, &[entry(half), entry(half + 1)]);
    assert_eq!(window.offer(0, &message), Ok(true));
    // A sum that would fit by its sign is not told apart: no money is near.
    let (_, message) = batch(&window.place(), 1, 1, &[entry(-1)]);
    assert_eq!(window.offer(1, &message), Err(WindowError::TooLarge { from: 1 }));
    assert_eq!(window.posting().charges[0].figures.amount, i128::MAX);
}
