use super::*;

const DAY_US: i64 = 96 * BUCKET_US;

fn lot(number: u128, remaining: i128) -> Lot {
    Lot {
        grant: Uuid::from_u128(number),
        priority: 50,
        kind: GrantKind::Paid,
        starts_us: 0,
        expires_us: None,
        created_us: 0,
        meters: Vec::new(),
        remaining,
        held: 0,
    }
}

fn item(unpaid: i128, bucket_us: i64) -> Item {
    Item { meter: "tokens".to_owned(), bucket_us, unpaid, hold: None }
}

fn reserve(lots: Vec<(usize, i128)>) -> Reserve {
    Reserve { hold: Uuid::from_u128(9), meters: Vec::new(), lots, on_credit: 0, ends: false }
}

fn sorted(mut lots: Vec<Lot>) -> Vec<u128> {
    lots.sort_by_key(Lot::burn_order);
    lots.iter().map(|lot| lot.grant.as_u128()).collect()
}

#[test]
fn the_burn_order_is_priority_expiry_kind_and_age() {
    let lots = vec![
        lot(1, 1),
        Lot { created_us: -1, ..lot(2, 1) },
        Lot { kind: GrantKind::Promotional, ..lot(3, 1) },
        Lot { expires_us: Some(DAY_US), ..lot(4, 1) },
        Lot { expires_us: Some(DAY_US - 1), ..lot(5, 1) },
        Lot { priority: 49, ..lot(6, 1) },
        Lot { kind: GrantKind::Adjustment, ..lot(7, 1) },
        Lot { kind: GrantKind::Recurring, ..lot(8, 1) },
    ];
    assert_eq!(sorted(lots), [6, 5, 4, 3, 8, 7, 2, 1]);
}

#[test]
fn validity_is_widened_to_quarter_hours() {
    let lot = Lot { starts_us: BUCKET_US + 1, expires_us: Some(3 * BUCKET_US + 1), ..lot(1, 1) };
    for (time_us, covers) in [
        (BUCKET_US - 1, false),
        (BUCKET_US, true),
        (4 * BUCKET_US - 1, true),
        (4 * BUCKET_US, false),
    ] {
        assert_eq!(lot.covers(time_us), covers, "{time_us}");
    }
    let whole = Lot { expires_us: Some(2 * BUCKET_US), ..lot };
    assert!(whole.covers(2 * BUCKET_US - 1) && !whole.covers(2 * BUCKET_US));
}

#[test]
fn late_usage_is_paid_by_what_was_valid_then_and_only_then_by_what_is_valid_now() {
    // The lot of yesterday is over; today's would go first by its priority.
    let mut settlement = Settlement {
        lots: vec![
            Lot { priority: 1, starts_us: DAY_US, ..lot(1, 10) },
            Lot { expires_us: Some(DAY_US), ..lot(2, 10) },
        ],
        items: vec![item(15, 0)],
        ..Settlement::default()
    };
    let steps = settlement.run(2 * DAY_US);
    let pay = |lot, amount| Step::Pay { item: 0, lot, hold: None, amount };
    assert_eq!(steps, [pay(1, 10), pay(0, 5)]);
    assert_eq!(settlement.debt(), 0);
}

#[test]
fn a_restricted_lot_pays_its_meters_and_what_was_owed_before_only_from_free_ones() {
    let restricted = Lot { priority: 1, meters: vec!["tokens".to_owned()], ..lot(1, 10) };
    let mut settlement = Settlement {
        lots: vec![restricted, lot(2, 1)],
        items: vec![
            Item { meter: String::new(), ..item(4, 0) },
            Item { meter: "images".to_owned(), ..item(2, 0) },
            item(3, 0),
        ],
        ..Settlement::default()
    };
    let _ = settlement.run(0);
    let unpaid: Vec<i128> = settlement.items.iter().map(|item| item.unpaid).collect();
    assert_eq!(unpaid, [3, 2, 0]);
    assert_eq!(settlement.debt(), 5);
}

#[test]
fn a_hold_captures_what_names_it_up_to_its_amount_once() {
    let mut settlement = Settlement {
        lots: vec![Lot { held: 8, ..lot(1, 10) }],
        holds: vec![reserve(vec![(0, 8)])],
        items: vec![item(1, 0), Item { hold: Some(0), ..item(11, 0) }],
        ..Settlement::default()
    };
    let steps = settlement.run(0);
    assert_eq!(
        steps,
        [
            Step::Capture { hold: 0, item: 1, amount: 8, on_credit: 0 },
            Step::Pay { item: 1, lot: 0, hold: Some(0), amount: 8 },
            Step::Pay { item: 0, lot: 0, hold: None, amount: 1 },
            Step::Pay { item: 1, lot: 0, hold: None, amount: 1 },
        ]
    );
    assert_eq!((settlement.debt(), settlement.holds[0].left()), (2, 0));
    assert_eq!((settlement.lots[0].remaining, settlement.lots[0].held), (0, 0));
}

#[test]
fn what_a_hold_has_on_credit_is_captured_and_stays_unpaid() {
    let meters = vec!["tokens".to_owned()];
    let mut settlement = Settlement {
        lots: vec![Lot { held: 3, ..lot(1, 3) }],
        holds: vec![Reserve { meters, on_credit: 4, ends: true, ..reserve(vec![(0, 3)]) }],
        items: vec![
            Item { hold: Some(0), ..item(5, 0) },
            Item { meter: "images".to_owned(), hold: Some(0), ..item(5, 0) },
        ],
        ..Settlement::default()
    };
    let steps = settlement.run(0);
    assert_eq!(
        steps,
        [
            Step::Capture { hold: 0, item: 0, amount: 5, on_credit: 2 },
            Step::Pay { item: 0, lot: 0, hold: Some(0), amount: 3 },
            Step::Capture { hold: 0, item: 1, amount: 0, on_credit: 0 },
        ]
    );
    assert_eq!((settlement.debt(), settlement.holds[0].left()), (7, 0));
}

#[test]
fn a_hold_that_ends_frees_its_lots_for_what_is_unpaid() {
    let mut settlement = Settlement {
        lots: vec![Lot { held: 5, ..lot(1, 5) }],
        holds: vec![Reserve { ends: true, ..reserve(vec![(0, 5)]) }],
        items: vec![item(2, 0)],
        ..Settlement::default()
    };
    let steps = settlement.run(0);
    assert_eq!(
        steps,
        [
            Step::Free { hold: 0, lot: 0, amount: 5 },
            Step::Pay { item: 0, lot: 0, hold: None, amount: 2 },
        ]
    );
    assert_eq!((settlement.lots[0].remaining, settlement.lots[0].held), (3, 0));
}

#[test]
fn a_reversal_reduces_what_is_unpaid_then_returns_what_was_paid_last() {
    let mut settlement = Settlement {
        lots: vec![lot(1, 0)],
        items: vec![item(2, 0)],
        reversals: vec![7, 1],
        paid: vec![Paid { lot: None, left: 3 }, Paid { lot: Some(0), left: 9 }],
        ..Settlement::default()
    };
    let steps = settlement.run(0);
    assert_eq!(
        steps,
        [
            Step::Reduce { reversal: 0, item: 0, amount: 2 },
            Step::Return { reversal: 0, paid: 0, amount: 3 },
            Step::Return { reversal: 0, paid: 1, amount: 2 },
            Step::Return { reversal: 1, paid: 1, amount: 1 },
        ]
    );
    assert_eq!((settlement.debt(), settlement.lots[0].remaining), (0, 3));
}

#[test]
fn what_is_taken_by_a_call_matches_all_that_it_names() {
    let meters = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let lots = [
        Lot { meters: meters(&["tokens", "images"]), ..lot(1, 5) },
        Lot { starts_us: 1, ..lot(2, 5) },
        Lot { expires_us: Some(0), ..lot(3, 5) },
        Lot { held: 3, ..lot(4, 5) },
        lot(5, 9),
    ];
    assert_eq!(take(&lots, &[], 4, 0), [(3, 2), (4, 2)]);
    assert_eq!(take(&lots, &meters(&["tokens"]), 6, 0), [(0, 5), (3, 1)]);
    assert_eq!(take(&lots, &meters(&["tokens", "calls"]), 99, 0), [(3, 2), (4, 9)]);
}
