//! What must be true about money, also in release. A failed assertion ends the process before
//! anything is committed.

use std::collections::HashMap;

use domain::wire::rated::Counts;
use uuid::Uuid;

use super::Posting;
use crate::transfer::{REASON_USAGE, Transfer};

type Totals<'a> = HashMap<(Uuid, &'a str), i128>;

/// Charges and costs are the sums of the usage, the counts balance, and the place moves forwards.
pub(super) fn posting(posting: &Posting) {
    assert!(posting.to.x > posting.from.x, "a posting moves the place forwards");
    assert!(posting.to.r > posting.from.r, "a posting moves the place forwards");
    // INV-09: accepted events and their outcomes are as many.
    let balanced = |(_, counts): &(Uuid, Counts)| counts.balanced();
    assert!(posting.counts.iter().all(balanced), "every event has exactly one outcome");
    let charges =
        posting.charges.iter().map(|one| (one.tenant, &*one.currency, one.figures.amount));
    assert!(totals(charges) == usage(posting, false), "charges are the sums of usage");
    let costs = posting.costs.iter().map(|one| (one.tenant, &*one.currency, one.figures.amount));
    assert!(totals(costs) == usage(posting, true), "costs are the sums of usage");
    assert!(sorted(posting.usage.iter().map(|one| one.tenant)), "usage is sorted by tenant");
}

fn usage(posting: &Posting, cost: bool) -> Totals<'_> {
    totals(posting.usage.iter().map(|usage| match cost {
        false => (usage.tenant, &*usage.currency, usage.sum.charge),
        true => (usage.tenant, &*usage.cost_currency, usage.sum.cost),
    }))
}

/// Totals that are not zero. An amount without a currency is one that cannot be posted.
fn totals<'a>(amounts: impl Iterator<Item = (Uuid, &'a str, i128)>) -> Totals<'a> {
    let mut totals = Totals::new();
    for (tenant, currency, amount) in amounts {
        assert!(amount == 0 || !currency.is_empty(), "money has a currency");
        let total = totals.entry((tenant, currency)).or_default();
        let sum = total.checked_add(amount);
        assert!(sum.is_some(), "a sum fits 128 bits");
        *total = sum.unwrap_or_default();
    }
    totals.retain(|_, total| *total != 0);
    totals
}

fn sorted(mut tenants: impl Iterator<Item = Uuid>) -> bool {
    let mut last = tenants.next();
    tenants.all(|tenant| {
        let before = last.replace(tenant);
        before <= Some(tenant)
    })
}

/// The transfers move exactly the charges and the costs.
pub(super) fn transfers(posting: &Posting, transfers: &[Transfer<'_>]) {
    let moved = |reason: &'static str| {
        totals(transfers.iter().filter(move |one| one.reason == reason).map(|one| {
            let reversed = one.credit.kind == "receivable" || one.credit.kind == "cost_of_sales";
            let amount = if reversed { one.amount.saturating_neg() } else { one.amount };
            (one.tenant, one.currency, amount)
        }))
    };
    assert!(moved(REASON_USAGE) == usage(posting, false), "transfers are the sums of charges");
    assert!(
        moved(crate::transfer::REASON_COST) == usage(posting, true),
        "transfers are the sums of costs"
    );
    assert!(transfers.iter().all(|one| one.amount > 0), "a transfer's amount is positive");
}

/// What Postgres says it took is what was meant.
pub(super) fn inserted(transfers: &[Transfer<'_>], (rows, total): (usize, i128)) {
    let meant: Option<i128> =
        transfers.iter().try_fold(0_i128, |sum, one| sum.checked_add(one.amount));
    assert!(rows == transfers.len(), "every transfer was inserted");
    assert!(Some(total) == meant, "the amounts were stored as they are");
}
