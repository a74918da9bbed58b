//! Balances in memory: what is posted in Postgres, and the sums of rated batches after it.
//!
//! Per partition there is one posted place `(X, R, C)` with the receivables and wallets of the same
//! snapshot, and the list of batches accepted after `R`, each with its sums. [`tail`] appends batches;
//! [`refresh`] moves the posted place on to a batch of the list, in one snapshot with the
//! receivables that the batches up to it touched, and drops those batches. So each batch is
//! counted once, in the posted part or in the list, never in both and never in neither.
//!
//! Wallets change without a batch, and a settlement moves what is owed out of a wallet. So each
//! snapshot also brings the wallets that changed since the one before, with the receivables of their
//! teams: those of one posted place, whether it moved or not. While posting is ahead of the list,
//! nothing is taken, and what changed is asked for again.
//!
//! Sums that do not fit 128 bits are cut off there: such a batch stops at the ledger-writer, and
//! answers go on until somebody has looked.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use domain::{
    chain::{Hash, Place},
    wire::{rated::Header, sums::Sums},
};
use uuid::Uuid;

use crate::auth::TenantScope;

pub(crate) mod refresh;
pub(crate) mod tail;
mod unposted;

pub(crate) use unposted::Unposted;

/// All partitions.
pub(crate) struct Live {
    partitions: Vec<Mutex<Partition>>,
    entries_max: usize,
}

/// One partition.
#[derive(Default)]
struct Partition {
    /// Counts loads: who follows the log begins again after one.
    generation: u64,
    /// Where posting and following are; nothing before the first load.
    places: Option<Places>,
    accounts: Vec<Account>,
    /// Accounts by team; without any for a team that has only unpriced usage.
    teams: HashMap<(Uuid, Arc<str>), Vec<u32>>,
    batches: VecDeque<Batch>,
    /// Sums in `batches`.
    entries: usize,
    freshness: Freshness,
    money: unposted::Money,
}

#[derive(Clone, Copy)]
struct Places {
    posted: Place,
    live: Place,
    /// [`News::missing_from`] of the posted part.
    missing_from: u64,
}

/// A team's money in one currency, in raw units.
struct Account {
    tenant: Uuid,
    team: Arc<str>,
    currency: Arc<str>,
    receivable: i128,
    pending: i128,
    /// Most teams have none: it takes no room there.
    stored: Option<Box<Stored>>,
}

/// An accepted batch that is not posted yet.
struct Batch {
    place: Place,
    /// Charges by account.
    sums: Vec<(u32, i128)>,
}

/// How old the live part is.
#[derive(Clone, Copy, Default)]
struct Freshness {
    /// Append time of the newest block in the newest batch.
    block_us: i64,
    /// When the log was last seen to hold no block beyond.
    complete_us: i64,
    /// Position after the last block of `[usage]`, as last seen.
    end: i64,
}

/// How far one partition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    pub partition: u32,
    /// Last position of `[usage]` that is posted.
    pub posted: i64,
    /// Last position of `[usage]` that is in the live part.
    pub live: i64,
    /// Positions of `[usage]` that are not in the live part, as last seen.
    pub lag: i64,
    /// Everything appended before this instant is in the live part.
    pub as_of_us: i64,
}

/// A team's money in one currency, in raw units: what it owes, less what its wallet has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owed {
    pub currency: Arc<str>,
    pub posted: i128,
    pub live: i128,
    /// Its wallet, as of the snapshot of `posted`.
    pub stored: Option<Stored>,
}

/// What a wallet has, in raw units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub balance: i128,
    /// What of it, and of the credit limit, is held.
    pub held: i128,
}

/// A receivable as it is posted.
pub(crate) struct Receivable {
    pub tenant: Uuid,
    pub team: String,
    pub currency: String,
    /// What is owed, in raw units.
    pub raw: i128,
}

/// A wallet as it is posted.
pub(crate) struct Wallet {
    pub tenant: Uuid,
    pub team: String,
    pub currency: String,
    pub stored: Stored,
}

/// What one snapshot of Postgres has of a partition: all of it, or what may have changed.
struct News {
    posted: Place,
    /// What transactions from this number on have changed may be missing in the snapshot.
    missing_from: u64,
    receivables: Vec<Receivable>,
    wallets: Vec<Wallet>,
}

impl News {
    /// A place without any money.
    fn at(posted: Place, missing_from: u64) -> Self {
        Self { posted, missing_from, receivables: Vec::new(), wallets: Vec::new() }
    }
}

impl Live {
    /// Nothing yet, for `partitions`.
    pub fn new(partitions: u32, entries_max: usize) -> Self {
        let partitions = (0..partitions).map(|_| Mutex::default()).collect();
        Self { partitions, entries_max }
    }

    /// One partition that has followed a batch so many times: fuzz targets begin here.
    pub fn after(place: Place, header: &Header, sums: &Sums<'_>, times: usize) -> Self {
        let mut partition = Partition::default();
        partition.load(&News::at(Place::EMPTY, 0));
        for _ in 0..times {
            partition.accept(partition.generation, place, header, sums);
        }
        Self { partitions: vec![Mutex::new(partition)], entries_max: usize::MAX }
    }

    /// Posts all that [`Live::after`] has followed.
    pub fn post(&self, place: Place) {
        for (_, mut partition) in self.all() {
            partition.advance(&News::at(place, 0));
        }
    }

    fn lock(&self, partition: u32) -> Option<MutexGuard<'_, Partition>> {
        let place = usize::try_from(partition).ok()?;
        Some(self.partitions.get(place)?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn all(&self) -> impl Iterator<Item = (u32, MutexGuard<'_, Partition>)> {
        let locks = self
            .partitions
            .iter()
            .map(|partition| partition.lock().unwrap_or_else(PoisonError::into_inner));
        (0_u32..).zip(locks)
    }

    /// Whether a team has usage here, posted or not, or a wallet.
    pub fn knows(&self, tenant: TenantScope, team: &str) -> bool {
        let key = (tenant.id(), Arc::from(team));
        self.all().any(|(_, partition)| partition.teams.contains_key(&key))
    }

    /// A team's money, and how far its partition is.
    pub fn owed(&self, tenant: TenantScope, team: &str) -> Option<(Reach, Vec<Owed>)> {
        let key = (tenant.id(), Arc::from(team));
        self.all().find_map(|(number, partition)| {
            let accounts = partition.teams.get(&key)?;
            let accounts = accounts.iter().filter_map(|account| partition.account(*account));
            Some((partition.reach(number)?, accounts.map(Account::owed).collect()))
        })
    }

    /// How far all partitions are; those that are not loaded yet are missing.
    pub fn reach(&self) -> Vec<Reach> {
        self.all().filter_map(|(number, partition)| partition.reach(number)).collect()
    }
}

impl Account {
    fn owed(&self) -> Owed {
        let stored = self.stored.as_deref().copied();
        let balance = stored.map_or(0, |stored| stored.balance);
        let posted = self.receivable.saturating_sub(balance);
        let live = posted.saturating_add(self.pending);
        Owed { currency: Arc::clone(&self.currency), posted, live, stored }
    }
}

impl Partition {
    fn account(&self, number: u32) -> Option<&Account> {
        self.accounts.get(usize::try_from(number).ok()?)
    }

    fn account_mut(&mut self, number: u32) -> Option<&mut Account> {
        self.accounts.get_mut(usize::try_from(number).ok()?)
    }

    fn reach(&self, partition: u32) -> Option<Reach> {
        let places = self.places?;
        Some(Reach {
            partition,
            posted: places.posted.x,
            live: places.live.x,
            lag: (self.freshness.end - places.live.x - 1).max(0),
            as_of_us: self.freshness.block_us.max(self.freshness.complete_us),
        })
    }

    /// The number of an account, made if it is new.
    fn open(&mut self, tenant: Uuid, team: &str, currency: &str) -> u32 {
        let team: Arc<str> = Arc::from(team);
        let accounts = self.teams.entry((tenant, Arc::clone(&team))).or_default();
        let known = accounts.iter().copied().find(|number| {
            let account =
                usize::try_from(*number).ok().and_then(|number| self.accounts.get(number));
            account.is_some_and(|account| *account.currency == *currency)
        });
        known.unwrap_or_else(|| {
            let number = u32::try_from(self.accounts.len()).unwrap_or(u32::MAX);
            // Most accounts are in one of a few currencies: share their names.
            let same = self.accounts.last().filter(|last| *last.currency == *currency);
            let currency =
                same.map_or_else(|| Arc::from(currency), |last| Arc::clone(&last.currency));
            let (receivable, pending, stored) = (0, 0, None);
            self.accounts.push(Account { tenant, team, currency, receivable, pending, stored });
            accounts.push(number);
            number
        })
    }

    fn set_money(&mut self, news: &News) {
        for receivable in &news.receivables {
            let number = self.open(receivable.tenant, &receivable.team, &receivable.currency);
            if let Some(account) = self.account_mut(number) {
                account.receivable = receivable.raw;
            }
        }
        for wallet in &news.wallets {
            let number = self.open(wallet.tenant, &wallet.team, &wallet.currency);
            if let Some(account) = self.account_mut(number) {
                account.stored = Some(Box::new(wallet.stored));
            }
        }
    }

    /// Takes a snapshot in place of everything.
    fn load(&mut self, news: &News) {
        let generation = self.generation + 1;
        let (posted, missing_from) = (news.posted, news.missing_from);
        let places = Some(Places { posted, live: posted, missing_from });
        let money = std::mem::take(&mut self.money).loaded();
        *self = Self { generation, places, money, ..Self::default() };
        self.set_money(news);
    }

    /// Adds a batch after the live place. False if there was a load since the caller began.
    fn accept(&mut self, generation: u64, place: Place, header: &Header, sums: &Sums<'_>) -> bool {
        let Some(places) = self.places.filter(|_| self.generation == generation) else {
            return false;
        };
        let mut charges: HashMap<u32, i128> = HashMap::new();
        for (key, sum) in &sums.entries {
            let tenant =
                usize::try_from(key.tenant).ok().and_then(|tenant| header.counts.get(tenant));
            let (Some((tenant, _)), Ok(team)) = (tenant, sums.dictionary.get(key.team)) else {
                continue;
            };
            match key.currency.and_then(|currency| sums.dictionary.get(currency).ok()) {
                Some(currency) => {
                    let charge = charges.entry(self.open(*tenant, team, currency)).or_default();
                    *charge = charge.saturating_add(sum.charge);
                }
                None => drop(self.teams.entry((*tenant, Arc::from(team))).or_default()),
            }
        }
        self.money.moves_on(place.x - places.live.x);
        for (number, charge) in &charges {
            if let Some(account) = self.account_mut(*number) {
                account.pending = account.pending.saturating_add(*charge);
                let key = (account.tenant, Arc::clone(&account.currency));
                self.money.rated(key, *charge);
            }
        }
        let sums: Vec<(u32, i128)> = charges.into_iter().collect();
        self.entries += sums.len();
        self.batches.push_back(Batch { place, sums });
        self.places = Some(Places { live: place, ..places });
        self.freshness.block_us = header.append_time_us.1;
        true
    }

    /// What is asked of a snapshot with this posted place and this [`News::missing_from`].
    fn plan(&self, posted: Place, missing_from: u64) -> Plan {
        let Some(places) = self.places else {
            return Plan::Load;
        };
        if posted.r > places.live.r {
            return Plan::Nothing;
        }
        // Numbers of transactions only go up, unless Postgres was put back to an older state.
        if missing_from < places.missing_from {
            return Plan::Load;
        }
        if posted == places.posted {
            return Plan::Advance(Vec::new(), places.missing_from);
        }
        if !self.batches.iter().any(|batch| batch.place == posted) {
            return Plan::Load;
        }
        let passed = self.batches.iter().take_while(|batch| batch.place.r <= posted.r);
        let touched: HashSet<u32> =
            passed.flat_map(|batch| batch.sums.iter().map(|(account, _)| *account)).collect();
        let accounts = touched.into_iter().filter_map(|number| self.account(number));
        let teams: HashSet<(Uuid, Arc<str>)> =
            accounts.map(|account| (account.tenant, Arc::clone(&account.team))).collect();
        Plan::Advance(teams.into_iter().collect(), places.missing_from)
    }

    /// Moves the posted place on to one of the batches, or leaves it where it is, with the money as of
    /// it that changed.
    fn advance(&mut self, news: &News) {
        let Some(places) = self.places else { return };
        let (posted, missing_from) = (news.posted, news.missing_from);
        while let Some(batch) = self.batches.pop_front_if(|batch| batch.place.r <= posted.r) {
            self.entries -= batch.sums.len();
            for (number, charge) in &batch.sums {
                if let Some(account) = self.account_mut(*number) {
                    account.pending = account.pending.saturating_sub(*charge);
                    let key = (account.tenant, Arc::clone(&account.currency));
                    self.money.posted(&key, *charge);
                }
            }
        }
        self.set_money(news);
        self.places = Some(Places { posted, missing_from, ..places });
    }
}

/// What a partition needs of a snapshot.
enum Plan {
    /// Nothing: it has not read as far itself. What has changed until now is asked for next time.
    Nothing,
    /// The receivables of these teams; and of wallets that transactions from this number on have
    /// changed, these and the receivables of their teams.
    Advance(Vec<(Uuid, Arc<str>)>, u64),
    /// All receivables and wallets.
    Load,
}

/// Where a follower of the log begins.
struct Start {
    generation: u64,
    place: Place,
}

/// The `C` of a place as Postgres has it.
fn hash(bytes: &[u8]) -> Option<Hash> {
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests;
