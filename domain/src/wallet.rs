//! Stored value: which lot pays which usage. Pure: the ledger reads rows, asks here, and writes what
//! this answers. `docs/WALLETS.md` has the rules with worked examples.
//!
//! Amounts are raw values (10⁻¹²) of one currency; times are microseconds since 1970 UTC.

use uuid::Uuid;

use crate::time::BUCKET_US;

#[cfg(test)]
mod tests;

/// What a grant was given for. The order is that in which lots of one priority and expiry are used:
/// what cost nothing goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GrantKind {
    /// Given away.
    Promotional,
    /// Comes with a plan, period by period.
    Recurring,
    /// Puts something right.
    Adjustment,
    /// Bought.
    Paid,
}

impl GrantKind {
    /// Its name in `grants.kind`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            GrantKind::Promotional => "promotional",
            GrantKind::Recurring => "recurring",
            GrantKind::Adjustment => "adjustment",
            GrantKind::Paid => "paid",
        }
    }

    /// Reads [`GrantKind::name`].
    #[must_use]
    pub fn read(name: &str) -> Option<GrantKind> {
        let all = [Self::Promotional, Self::Recurring, Self::Adjustment, Self::Paid];
        all.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether money was received for it.
    #[must_use]
    pub fn is_paid(self) -> bool {
        self == GrantKind::Paid
    }
}

/// What is left of a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lot {
    /// The grant.
    pub grant: Uuid,
    /// 1 to 100; lower is used first.
    pub priority: i16,
    /// What it was given for.
    pub kind: GrantKind,
    /// From when on it pays.
    pub starts_us: i64,
    /// Until when, exclusive; without one it never expires.
    pub expires_us: Option<i64>,
    /// When it was made.
    pub created_us: i64,
    /// The meters whose usage it pays; all when empty.
    pub meters: Vec<String>,
    /// What is left.
    pub remaining: i128,
    /// What of that is held.
    pub held: i128,
}

impl Lot {
    /// The burn order: priority, then what expires first, then kind, then age, then id.
    #[must_use]
    pub fn burn_order(&self) -> (i16, bool, i64, GrantKind, i64, Uuid) {
        let expires_us = self.expires_us.unwrap_or(i64::MAX);
        let never = self.expires_us.is_none();
        (self.priority, never, expires_us, self.kind, self.created_us, self.grant)
    }

    /// What is neither used nor held.
    #[must_use]
    pub fn free(&self) -> i128 {
        self.remaining.saturating_sub(self.held)
    }

    /// Whether it pays usage of a meter. What a team owed before it had a wallet has none (empty),
    /// and only unrestricted lots pay it.
    #[must_use]
    pub fn pays(&self, meter: &str) -> bool {
        self.meters.is_empty() || self.meters.iter().any(|one| one == meter)
    }

    /// Whether it is valid at an instant, widened to whole buckets of 15 minutes: the start down,
    /// the expiry up.
    #[must_use]
    pub fn covers(&self, time_us: i64) -> bool {
        let start = self.starts_us.div_euclid(BUCKET_US).saturating_mul(BUCKET_US);
        let begun = time_us >= start;
        let ended = self.expires_us.is_some_and(|expires_us| {
            let buckets = expires_us.saturating_add(BUCKET_US - 1).div_euclid(BUCKET_US);
            time_us >= buckets.saturating_mul(BUCKET_US)
        });
        begun && !ended
    }
}

/// A hold as settlement sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// The hold.
    pub hold: Uuid,
    /// The meters whose usage it captures; all when empty.
    pub meters: Vec<String>,
    /// What is left of its lots, in their order: index of the lot and amount.
    pub lots: Vec<(usize, i128)>,
    /// What of it rests on the credit limit and is not captured yet.
    pub on_credit: i128,
    /// Whether it is to be freed once its items are captured.
    pub ends: bool,
}

impl Reserve {
    /// What is not captured yet.
    #[must_use]
    pub fn left(&self) -> i128 {
        self.lots.iter().map(|(_, amount)| *amount).sum::<i128>().saturating_add(self.on_credit)
    }

    fn captures(&self, meter: &str) -> bool {
        self.meters.is_empty() || self.meters.iter().any(|one| one == meter)
    }
}

/// Usage that is to be paid. Items are given in their order: bucket, meter, place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its meter; empty for what was owed before there was a wallet.
    pub meter: String,
    /// Begin of its 15 minutes.
    pub bucket_us: i64,
    /// What is not paid.
    pub unpaid: i128,
    /// Index of the hold that is to capture it; none when it has none, or was captured before.
    pub hold: Option<usize>,
}

/// What was paid before, newest first: what a reversal returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paid {
    /// Index of the lot; none when it has ended.
    pub lot: Option<usize>,
    /// What of it was not taken back yet.
    pub left: i128,
}

/// One step of a settlement, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A reversal reduces what is unpaid of an item.
    Reduce {
        /// Index of the reversal.
        reversal: usize,
        /// Index of the item.
        item: usize,
        /// How much.
        amount: i128,
    },
    /// A reversal returns what was paid.
    Return {
        /// Index of the reversal.
        reversal: usize,
        /// Index in `paid`.
        paid: usize,
        /// How much.
        amount: i128,
    },
    /// A hold takes an item on, once: whatever is beyond is as good as unheld.
    Capture {
        /// Index of the hold.
        hold: usize,
        /// Index of the item.
        item: usize,
        /// How much of the item.
        amount: i128,
        /// How much of that rests on the credit limit: it stays unpaid.
        on_credit: i128,
    },
    /// A lot pays.
    Pay {
        /// Index of the item.
        item: usize,
        /// Index of the lot.
        lot: usize,
        /// Out of which hold.
        hold: Option<usize>,
        /// How much.
        amount: i128,
    },
    /// What a hold still reserved of a lot is free again.
    Free {
        /// Index of the hold.
        hold: usize,
        /// Index of the lot.
        lot: usize,
        /// How much.
        amount: i128,
    },
}

/// What a wallet has to settle. [`Settlement::run`] changes it in place and notes each step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settlement {
    /// Lots in burn order.
    pub lots: Vec<Lot>,
    /// Holds that are open or closing.
    pub holds: Vec<Reserve>,
    /// Usage.
    pub items: Vec<Item>,
    /// What is not applied yet of each reversal.
    pub reversals: Vec<i128>,
    /// What reversals may return.
    pub paid: Vec<Paid>,
}

impl Settlement {
    /// Settles: reversals first, then holds capture and end, then lots that were valid when the
    /// usage happened pay, then those that are valid now.
    #[must_use]
    pub fn run(&mut self, now_us: i64) -> Vec<Step> {
        debug_assert!(self.lots.is_sorted_by_key(Lot::burn_order), "lots are in burn order");
        let mut steps = Vec::new();
        self.reverse(&mut steps);
        self.capture(&mut steps);
        self.free(&mut steps);
        self.pay(&mut steps, None);
        self.pay(&mut steps, Some(now_us));
        steps
    }

    /// What usage owes that nothing paid.
    #[must_use]
    pub fn debt(&self) -> i128 {
        self.items.iter().map(|item| item.unpaid).sum()
    }

    fn reverse(&mut self, steps: &mut Vec<Step>) {
        for (reversal, left) in self.reversals.iter_mut().enumerate() {
            for (item, owing) in self.items.iter_mut().enumerate() {
                let amount = owing.unpaid.min(*left);
                if amount > 0 {
                    owing.unpaid -= amount;
                    *left -= amount;
                    steps.push(Step::Reduce { reversal, item, amount });
                }
            }
            for (paid, allocation) in self.paid.iter_mut().enumerate() {
                let amount = allocation.left.min(*left);
                if amount > 0 {
                    allocation.left -= amount;
                    *left -= amount;
                    if let Some(lot) = allocation.lot.and_then(|lot| self.lots.get_mut(lot)) {
                        lot.remaining += amount;
                    }
                    steps.push(Step::Return { reversal, paid, amount });
                }
            }
        }
    }

    fn capture(&mut self, steps: &mut Vec<Step>) {
        for (number, item) in self.items.iter_mut().enumerate() {
            let Some(hold) = item.hold else { continue };
            let Some(reserve) = self.holds.get_mut(hold) else { continue };
            let takes = reserve.captures(&item.meter);
            let amount = if takes { item.unpaid.min(reserve.left()) } else { 0 };
            let mut rest = amount;
            let mut payments = Vec::new();
            for (lot, reserved) in &mut reserve.lots {
                let paid = rest.min(*reserved);
                if paid > 0 {
                    *reserved -= paid;
                    rest -= paid;
                    payments.push((*lot, paid));
                }
            }
            reserve.on_credit -= rest;
            steps.push(Step::Capture { hold, item: number, amount, on_credit: rest });
            for (lot, amount) in payments {
                item.unpaid -= amount;
                if let Some(of) = self.lots.get_mut(lot) {
                    of.remaining -= amount;
                    of.held -= amount;
                }
                steps.push(Step::Pay { item: number, lot, hold: Some(hold), amount });
            }
        }
    }

    fn free(&mut self, steps: &mut Vec<Step>) {
        for (hold, reserve) in self.holds.iter_mut().enumerate().filter(|(_, one)| one.ends) {
            for (lot, reserved) in &mut reserve.lots {
                if *reserved > 0 {
                    if let Some(of) = self.lots.get_mut(*lot) {
                        of.held -= *reserved;
                    }
                    steps.push(Step::Free { hold, lot: *lot, amount: *reserved });
                    *reserved = 0;
                }
            }
            reserve.on_credit = 0;
        }
    }

    /// Pays from lots that are valid at `at_us`, or when the usage happened.
    fn pay(&mut self, steps: &mut Vec<Step>, at_us: Option<i64>) {
        for (number, item) in self.items.iter_mut().enumerate() {
            for (lot, of) in self.lots.iter_mut().enumerate() {
                if item.unpaid == 0 {
                    break;
                }
                let valid = of.covers(at_us.unwrap_or(item.bucket_us)) && of.pays(&item.meter);
                let amount = if valid { item.unpaid.min(of.free()) } else { 0 };
                if amount > 0 {
                    of.remaining -= amount;
                    item.unpaid -= amount;
                    steps.push(Step::Pay { item: number, lot, hold: None, amount });
                }
            }
        }
    }
}

/// Takes an amount out of what lots have free, in burn order, for usage of `meters` (any when
/// empty): index of the lot and amount. A lot that is restricted pays only for what names nothing
/// but its meters. Gives as much as there is.
#[must_use]
pub fn take(lots: &[Lot], meters: &[String], amount: i128, now_us: i64) -> Vec<(usize, i128)> {
    let mut left = amount;
    let mut taken = Vec::new();
    for (number, lot) in lots.iter().enumerate() {
        let matches = lot.meters.is_empty()
            || (!meters.is_empty() && meters.iter().all(|meter| lot.pays(meter)));
        let valid = lot.starts_us <= now_us && lot.expires_us.is_none_or(|end| now_us < end);
        let amount = if matches && valid { lot.free().min(left) } else { 0 };
        if amount > 0 {
            left -= amount;
            taken.push((number, amount));
        }
    }
    taken
}
