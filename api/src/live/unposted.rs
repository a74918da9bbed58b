//! Lag in money: charges that are rated and not posted, and about how much the blocks are that nobody
//! has rated yet.

use std::{collections::BTreeMap, sync::Arc};

use domain::wire::{
    rated::{Header, Outer},
    sums::Sums,
};
use uuid::Uuid;

use super::{Live, Partition};

/// Positions after which older ones count half for what a block is worth.
const REMEMBERED: i64 = 1_000;

/// A tenant and a currency.
type Key = (Uuid, Arc<str>);

/// The money of one partition that is on its way, in raw units. Currencies once seen stay.
#[derive(Debug, Default)]
pub(super) struct Money {
    /// Charges of batches that are not posted.
    pending: BTreeMap<Key, i128>,
    /// Charges of the newest batches, and the positions that they are of.
    recent: BTreeMap<Key, i128>,
    positions: i64,
}

impl Money {
    /// All of it is posted.
    pub fn loaded(mut self) -> Self {
        self.pending.values_mut().for_each(|pending| *pending = 0);
        self
    }

    /// A batch of so many positions was accepted; its charges follow.
    pub fn moves_on(&mut self, positions: i64) {
        if self.positions > REMEMBERED {
            self.positions /= 2;
            self.recent.values_mut().for_each(|charges| *charges /= 2);
        }
        self.positions = self.positions.saturating_add(positions);
    }

    /// A charge of that batch.
    pub fn rated(&mut self, key: Key, charge: i128) {
        for charges in [&mut self.pending, &mut self.recent] {
            let sum = charges.entry(key.clone()).or_default();
            *sum = sum.saturating_add(charge);
        }
    }

    /// A charge of a batch that is posted already.
    fn remember(&mut self, key: Key, charge: i128) {
        self.pending.entry(key.clone()).or_default();
        *self.recent.entry(key).or_default() += charge;
    }

    /// A charge that was posted.
    pub fn posted(&mut self, key: &Key, charge: i128) {
        if let Some(pending) = self.pending.get_mut(key) {
            *pending = pending.saturating_sub(charge);
        }
    }

    /// What `blocks` are worth if they are like the newest ones.
    fn estimate(&self, key: &Key, blocks: i64) -> i128 {
        let charges = self.recent.get(key).copied().unwrap_or_default();
        charges
            .saturating_mul(i128::from(blocks))
            .checked_div(i128::from(self.positions))
            .unwrap_or_default()
    }
}

/// Money of one currency that is not posted yet, in raw units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unposted {
    /// Rated, to the last decimal.
    pub rated: i128,
    /// Not rated, estimated.
    pub unrated: i128,
}

impl Live {
    /// Whether it is known what a partition's blocks are worth.
    pub fn knows_worth(&self, number: u32) -> bool {
        self.lock(number).is_some_and(|partition| partition.money.positions > 0)
    }

    /// What blocks were worth that are posted already: after a start nothing else is known of those that
    /// wait to be rated.
    pub fn remember(&self, number: u32, outer: &Outer, header: &Header, sums: &Sums<'_>) {
        let Some(mut partition) = self.lock(number) else { return };
        partition.money.moves_on((outer.to - outer.from).saturating_add(1));
        for (key, sum) in &sums.entries {
            let place = usize::try_from(key.tenant).ok();
            let tenant = place.and_then(|place| header.counts.get(place));
            let currency = key.currency.and_then(|currency| sums.dictionary.get(currency).ok());
            if let (Some((tenant, _)), Some(currency)) = (tenant, currency) {
                partition.money.remember((*tenant, Arc::from(currency)), sum.charge);
            }
        }
    }

    /// What is not posted, by currency: of one tenant, or of all. `posted` gives the position up to
    /// which a partition is posted, where somebody has read it later than it was read for here.
    pub fn unposted(
        &self,
        tenant: Option<Uuid>,
        posted: impl Fn(u32) -> Option<i64>,
    ) -> BTreeMap<Arc<str>, Unposted> {
        let mut all: BTreeMap<Arc<str>, Unposted> = BTreeMap::new();
        for (number, partition) in self.all() {
            let posted = posted(number).unwrap_or(-1);
            let blocks = partition
                .reach(number)
                .map_or(0, |reach| (partition.freshness.end - reach.live.max(posted) - 1).max(0));
            let since = partition.posted_since(posted);
            for (key, pending) in &partition.money.pending {
                if tenant.is_some_and(|tenant| tenant != key.0) {
                    continue;
                }
                let posted = since.get(key).copied().unwrap_or_default();
                let pending = pending.saturating_sub(posted);
                let sum = all.entry(Arc::clone(&key.1)).or_default();
                sum.rated = sum.rated.saturating_add(pending);
                sum.unrated = sum.unrated.saturating_add(partition.money.estimate(key, blocks));
            }
        }
        all
    }
}

impl Partition {
    /// Charges of the batches that are posted, though the posted place here is before them.
    fn posted_since(&self, posted: i64) -> BTreeMap<Key, i128> {
        let mut charges: BTreeMap<Key, i128> = BTreeMap::new();
        let batches = self.batches.iter().take_while(|batch| batch.place.x <= posted);
        for (number, charge) in batches.flat_map(|batch| &batch.sums) {
            if let Some(account) = self.account(*number) {
                let key = (account.tenant, Arc::clone(&account.currency));
                let sum = charges.entry(key).or_default();
                *sum = sum.saturating_add(*charge);
            }
        }
        charges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_rated_is_worth_what_the_newest_blocks_were() {
        let key: Key = (Uuid::from_u128(1), Arc::from("EUR"));
        let mut money = Money::default();
        assert_eq!(money.estimate(&key, 10), 0, "nothing is known");
        money.moves_on(4);
        money.rated(key.clone(), 100);
        assert_eq!((money.estimate(&key, 10), money.pending[&key]), (250, 100));
        money.posted(&key, 100);
        assert_eq!((money.estimate(&key, 10), money.pending[&key]), (250, 0));
        // A thousand dearer blocks outweigh it.
        for _ in 0..2_000 {
            money.moves_on(1);
            money.rated(key.clone(), 1_000);
        }
        let estimate = money.estimate(&key, 1);
        assert!((990..=1_000).contains(&estimate), "{estimate}");
        assert_eq!(money.loaded().pending[&key], 0);
    }
}
