//! Settlement against a plain one that moves a single unit at a time and looks at everything before
//! each: 10,000 random histories, each of several settlements in a row.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use domain::{
    time::BUCKET_US,
    wallet::{GrantKind, Item, Lot, Paid, Reserve, Settlement, Step},
};
use proptest::{collection::vec, prelude::*, sample::select};
use uuid::Uuid;

const METERS: [&str; 3] = ["tokens", "images", ""];

fn meters() -> impl Strategy<Value = Vec<String>> {
    prop_oneof![
        3 => Just(Vec::new()),
        1 => select(vec![vec!["tokens".to_owned()], vec!["images".to_owned()], vec!["tokens".to_owned(), "images".to_owned()]]),
    ]
}

fn lot() -> impl Strategy<Value = Lot> {
    let kinds =
        [GrantKind::Paid, GrantKind::Promotional, GrantKind::Recurring, GrantKind::Adjustment];
    let times = (0_i64..6, proptest::option::of(1_i64..8), 0_i64..3);
    (1_i16..4, select(kinds.to_vec()), times, meters(), 0_i128..9).prop_map(
        |(priority, kind, (start, length, created_us), meters, remaining)| Lot {
            grant: Uuid::nil(),
            priority,
            kind,
            starts_us: start * BUCKET_US / 2,
            expires_us: length.map(|length| (start + length) * BUCKET_US / 2),
            created_us,
            meters,
            remaining,
            held: 0,
        },
    )
}

/// A hold: its meters, how much of each lot it wants, what rests on credit, and whether it ends.
type Wish = (Vec<String>, Vec<i128>, i128, bool);

fn wish() -> impl Strategy<Value = Wish> {
    (meters(), vec(0_i128..4, 5), 0_i128..3, any::<bool>())
}

fn item() -> impl Strategy<Value = Item> {
    (select(METERS.to_vec()), 0_i64..5, 0_i128..7, proptest::option::of(0_usize..3)).prop_map(
        |(meter, bucket, unpaid, hold)| Item {
            meter: meter.to_owned(),
            bucket_us: bucket * BUCKET_US,
            unpaid,
            hold,
        },
    )
}

/// What a settlement begins with: lots in burn order, and holds that reserve what is free of them.
fn begin(mut lots: Vec<Lot>, wishes: Vec<Wish>, items: Vec<Item>) -> Settlement {
    for (number, lot) in (1_u128..).zip(&mut lots) {
        lot.grant = Uuid::from_u128(number);
    }
    lots.sort_by_key(Lot::burn_order);
    let mut holds = Vec::new();
    for (number, (meters, wants, on_credit, ends)) in (100_u128..).zip(wishes) {
        let mut reserved = Vec::new();
        for (index, (lot, want)) in lots.iter_mut().zip(wants).enumerate() {
            let amount = want.min(lot.free());
            if amount > 0 {
                lot.held += amount;
                reserved.push((index, amount));
            }
        }
        let hold = Uuid::from_u128(number);
        holds.push(Reserve { hold, meters, lots: reserved, on_credit, ends });
    }
    let mut items = items;
    for item in &mut items {
        item.hold = item.hold.filter(|hold| *hold < holds.len());
    }
    Settlement { lots, holds, items, ..Settlement::default() }
}

/// The plain way: one unit, then look at everything again.
fn plainly(state: &mut Settlement, now_us: i64) {
    for reversal in 0..state.reversals.len() {
        while state.reversals[reversal] > 0 {
            if let Some(item) = state.items.iter_mut().find(|item| item.unpaid > 0) {
                item.unpaid -= 1;
            } else if let Some(paid) = state.paid.iter_mut().find(|paid| paid.left > 0) {
                paid.left -= 1;
                if let Some(lot) = paid.lot {
                    state.lots[lot].remaining += 1;
                }
            } else {
                break;
            }
            state.reversals[reversal] -= 1;
        }
    }
    for item in &mut state.items {
        let Some(hold) = item.hold.map(|hold| &mut state.holds[hold]) else { continue };
        if !hold.meters.is_empty() && !hold.meters.contains(&item.meter) {
            continue;
        }
        for _ in 0..item.unpaid {
            if let Some((lot, reserved)) = hold.lots.iter_mut().find(|(_, left)| *left > 0) {
                *reserved -= 1;
                item.unpaid -= 1;
                state.lots[*lot].remaining -= 1;
                state.lots[*lot].held -= 1;
            } else if hold.on_credit > 0 {
                hold.on_credit -= 1;
            }
        }
    }
    for hold in state.holds.iter_mut().filter(|hold| hold.ends) {
        for (lot, reserved) in &mut hold.lots {
            state.lots[*lot].held -= std::mem::take(reserved);
        }
        hold.on_credit = 0;
    }
    for now in [None, Some(now_us)] {
        for item in &mut state.items {
            while item.unpaid > 0 {
                let at_us = now.unwrap_or(item.bucket_us);
                let pays = |lot: &&mut Lot| {
                    lot.remaining > lot.held
                        && (lot.meters.is_empty() || lot.meters.contains(&item.meter))
                        && lot.covers(at_us)
                };
                let Some(lot) =
                    state.lots.iter_mut().filter(pays).min_by_key(|lot| lot.burn_order())
                else {
                    break;
                };
                lot.remaining -= 1;
                item.unpaid -= 1;
            }
        }
    }
}

fn total(state: &Settlement) -> (i128, i128) {
    let stored = state.lots.iter().map(|lot| lot.remaining).sum();
    (stored, state.debt())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn settlement_does_what_the_plain_one_does(
        lots in vec(lot(), 0..6),
        wishes in vec(wish(), 0..4),
        rounds in vec((vec(item(), 0..6), vec(0_i128..9, 0..3), 0_i64..6), 1..4),
    ) {
        let mut state = begin(lots, wishes, Vec::new());
        let mut paid: Vec<Paid> = Vec::new();
        for (mut items, reversals, now) in rounds {
            for item in &mut items {
                item.hold = item.hold.filter(|hold| state.holds.get(*hold).is_some_and(|hold| !hold.ends || hold.left() > 0));
            }
            items.sort_by_key(|item| (item.bucket_us, item.meter.clone()));
            // What was left unpaid comes again, without its hold: that has taken what it takes.
            let old = std::mem::take(&mut state.items).into_iter().filter(|item| item.unpaid > 0);
            state.items = old.map(|item| Item { hold: None, ..item }).chain(items).collect();
            state.items.sort_by_key(|item| item.bucket_us);
            state.reversals.extend(reversals);
            state.paid = paid.clone();

            let mut plain = state.clone();
            let before = total(&state);
            let steps = state.run(now * BUCKET_US);
            plainly(&mut plain, now * BUCKET_US);
            prop_assert_eq!(&state.lots, &plain.lots);
            prop_assert_eq!(&state.items, &plain.items);
            prop_assert_eq!(&state.holds, &plain.holds);

            // What left the lots has paid what is owed, and nothing else was paid.
            let sum = |of: fn(&Step) -> i128| steps.iter().map(of).sum::<i128>();
            let spent = sum(|step| if let Step::Pay { amount, .. } = step { *amount } else { 0 });
            let reduced = sum(|step| if let Step::Reduce { amount, .. } = step { *amount } else { 0 });
            let returned: i128 = steps.iter().map(|step| match step {
                Step::Return { paid, amount, .. } if state.paid[*paid].lot.is_some() => *amount,
                _ => 0,
            }).sum();
            let after = total(&state);
            prop_assert_eq!(after, (before.0 - spent + returned, before.1 - spent - reduced));
            for lot in &state.lots {
                prop_assert!(0 <= lot.held && lot.held <= lot.remaining);
                let reserved = state.holds.iter().flat_map(|hold| &hold.lots);
                let of_lot = reserved.filter(|(index, _)| state.lots[*index].grant == lot.grant);
                prop_assert_eq!(of_lot.map(|(_, amount)| *amount).sum::<i128>(), lot.held);
            }
            paid = steps.iter().rev().filter_map(|step| match step {
                Step::Pay { lot, amount, .. } => Some(Paid { lot: Some(*lot), left: *amount }),
                _ => None,
            }).chain(state.paid.iter().cloned()).collect();
        }
    }
}
