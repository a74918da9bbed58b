//! What was decided about one wallet, as money that moves.

use std::{collections::BTreeMap, sync::Arc};

use domain::wallet::{Reserve, Step};
use uuid::Uuid;

use super::load::Case;
use crate::{
    account::{AccountName, Kind},
    journal::{
        Journal, Move, REASON_BREAKAGE, REASON_REFUND, REASON_REVERSAL, REASON_SETTLEMENT, of_team,
        of_tenant,
    },
    wallet::{Wallet, granted},
};

/// A settled wallet.
pub(super) struct Outcome {
    /// What was read, with the settlement as it is now.
    pub case: Case,
    /// What happened, in order.
    pub steps: Vec<Step>,
    /// The holds before.
    pub holds_before: Vec<Reserve>,
    /// What moves.
    pub moves: Vec<Move>,
    /// What the receivable was paid, less what was returned, raw.
    pub received: i128,
    /// Indices of grants that end.
    pub ended: Vec<usize>,
}

impl Outcome {
    pub(super) fn of(mut case: Case, now_us: i64) -> Outcome {
        let mut moves = start(&mut case);
        let holds_before = case.settlement.holds.clone();
        let steps = case.settlement.run(now_us);
        let returned = give_back(&mut case, &steps, &mut moves);
        let paid = pay(&mut case, &steps, &mut moves);
        let reduced: i128 = steps.iter().map(|step| reduced(*step)).sum();
        let ended = end(&mut case, &mut moves);
        let freed = |of: fn(&Reserve) -> i128| {
            let before: i128 = holds_before.iter().map(of).sum();
            before - case.settlement.holds.iter().map(of).sum::<i128>()
        };
        let (held, on_credit) = (freed(Reserve::left), freed(|hold| hold.on_credit));
        let wallet = &mut case.wallet;
        wallet.held -= held;
        wallet.held_on_credit -= on_credit;
        wallet.debt += case.added - paid - reduced;
        Outcome { case, steps, holds_before, moves, received: paid - returned, ended }
    }
}

fn reduced(step: Step) -> i128 {
    if let Step::Reduce { amount, .. } = step { amount } else { 0 }
}

fn receivable(wallet: &Wallet) -> AccountName {
    of_team(wallet.tenant, Kind::Receivable, &wallet.team, &wallet.currency)
}

fn stored_value(wallet: &Wallet) -> AccountName {
    of_team(wallet.tenant, Kind::Wallet, &wallet.team, &wallet.currency)
}

/// Where value goes that nobody used.
fn unused(wallet: &Wallet, paid_for: bool) -> AccountName {
    let kind = if paid_for { Kind::Breakage } else { Kind::Promotions };
    of_tenant(wallet.tenant, kind, &wallet.currency)
}

/// Grants that start.
fn start(case: &mut Case) -> Vec<Move> {
    let mut moves = Vec::new();
    for (lot, _) in
        case.settlement.lots.iter().zip(&case.grants).filter(|(_, state)| state.scheduled)
    {
        moves.push(granted(&mut case.wallet, lot.grant, lot.kind, lot.remaining));
    }
    moves
}

/// What reversals return: to lots, or to where unused value goes when the lot has ended.
fn give_back(case: &mut Case, steps: &[Step], moves: &mut Vec<Move>) -> i128 {
    let mut sums: BTreeMap<(Option<Uuid>, bool), i128> = BTreeMap::new();
    for step in steps {
        let Step::Return { paid, amount, .. } = *step else { continue };
        let key = case
            .paid
            .get(paid)
            .zip(case.settlement.paid.get(paid))
            .map(|(key, paid)| (paid.lot.map(|_| key.grant), key.paid_for));
        *sums.entry(key.unwrap_or_default()).or_default() += amount;
    }
    for ((grant, paid_for), amount) in &sums {
        let credit = match grant {
            Some(_) => stored_value(&case.wallet),
            None => unused(&case.wallet, *paid_for),
        };
        moves.push(Move {
            debit: receivable(&case.wallet),
            credit,
            amount: *amount,
            reason: REASON_REVERSAL,
            team: Arc::clone(&case.wallet.team),
            entry: grant.map(|grant| case.wallet.enter(*amount, Some(grant))),
        });
    }
    sums.values().sum()
}

/// What lots pay.
fn pay(case: &mut Case, steps: &[Step], moves: &mut Vec<Move>) -> i128 {
    let mut sums: BTreeMap<usize, i128> = BTreeMap::new();
    for step in steps {
        if let Step::Pay { lot, amount, .. } = *step {
            *sums.entry(lot).or_default() += amount;
        }
    }
    for (lot, amount) in &sums {
        let grant = case.settlement.lots.get(*lot).map(|lot| lot.grant);
        moves.push(Move {
            debit: stored_value(&case.wallet),
            credit: receivable(&case.wallet),
            amount: *amount,
            reason: REASON_SETTLEMENT,
            team: Arc::clone(&case.wallet.team),
            entry: Some(case.wallet.enter(-*amount, grant)),
        });
    }
    sums.values().sum()
}

/// Grants that end, because posting has passed what may have needed them: what is free of them goes,
/// what is held goes when its holds have ended.
fn end(case: &mut Case, moves: &mut Vec<Move>) -> Vec<usize> {
    let mut ended = Vec::new();
    for (number, (lot, state)) in case.settlement.lots.iter_mut().zip(&case.grants).enumerate() {
        let Some(ending) = state.ending.as_deref() else { continue };
        if lot.held == 0 {
            ended.push(number);
        }
        let amount = lot.free();
        lot.remaining -= amount;
        if amount == 0 {
            continue;
        }
        let (credit, reason) = match ending {
            "refund" => {
                let back =
                    of_tenant(case.wallet.tenant, Kind::PaymentsInTransit, &case.wallet.currency);
                (back, REASON_REFUND)
            }
            _ => (unused(&case.wallet, lot.kind.is_paid()), REASON_BREAKAGE),
        };
        moves.push(Move {
            debit: stored_value(&case.wallet),
            credit,
            amount,
            reason,
            team: Arc::clone(&case.wallet.team),
            entry: Some(case.wallet.enter(-amount, Some(lot.grant))),
        });
    }
    ended
}

/// One journal for each tenant whose money moves, in order of tenants.
pub(super) fn journals(outcomes: &[Outcome], partition: u32, settle_seq: i64) -> Vec<Journal> {
    let mut journals: BTreeMap<Uuid, Journal> = BTreeMap::new();
    for outcome in outcomes.iter().filter(|outcome| !outcome.moves.is_empty()) {
        let tenant = outcome.case.wallet.tenant;
        let journal = journals.entry(tenant).or_insert_with(|| Journal {
            tenant,
            journal: Uuid::now_v7(),
            reason: REASON_SETTLEMENT,
            reference: format!("settlement:{partition}:{settle_seq}"),
            partition,
            moves: Vec::new(),
        });
        journal.moves.extend(outcome.moves.iter().cloned());
    }
    journals.into_values().collect()
}
