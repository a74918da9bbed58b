//! Simulated stores: the log, Postgres, ClickHouse. They keep what the real ones promise: an append
//! has a place, a transaction is atomic and compares before it sets, a token is taken once.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use archiver::{
    borders::{Borders, Flush},
    insert::{Insert, Token},
};
use bytes::Bytes;
use domain::{
    chain::Place,
    period::PeriodKind,
    rating::TotalName,
    time::month_of,
    wire::{rated::Counts, sums::Sum},
};
use ledger::{
    account::{AccountName, Book},
    post::{Ids, Posting, Standing, draft, new_accounts},
    seal::{self, AuditKey, Entry as AuditEntry},
};
use rater::{
    queue::Move,
    totals::TeamName,
    verdict::{Cursor, Hit},
};
use runtime::config::Secret;
use uuid::Uuid;

use super::{
    closings::{PeriodKey, StoredPeriod},
    rows::{ArchivedRow, OtherRow, UsageRow, all, archived_row, other_row, row_binary, usage_row},
    traffic::Entry,
};

/// A block of `[usage]`.
#[derive(Clone, Debug)]
pub struct Block {
    /// When the log took it.
    pub append_time_us: i64,
    /// Its bytes.
    pub payload: Bytes,
    /// What is in it.
    pub entries: std::sync::Arc<Vec<Entry>>,
}

/// One partition of the log.
#[derive(Clone, Debug, Default)]
pub struct LogPartition {
    /// `[usage]`.
    pub usage: Vec<Block>,
    /// `[rated]`, all that ever was in it.
    pub rated: Vec<Bytes>,
    /// The first position of `[rated]` that readers still get.
    pub first: i64,
}

impl LogPartition {
    /// The position that the next append to `[usage]` will get.
    pub fn usage_end(&self) -> i64 {
        i64::try_from(self.usage.len()).unwrap()
    }

    /// The position that the next append to `[rated]` will get.
    pub fn rated_end(&self) -> i64 {
        i64::try_from(self.rated.len()).unwrap()
    }

    /// The message of `[rated]` at a position; `None` at the end. `Err`: it was trimmed.
    pub fn rated_at(&self, position: i64) -> Result<Option<Bytes>, Trimmed> {
        if position < self.first {
            return Err(Trimmed);
        }
        Ok(self.rated.get(usize::try_from(position).unwrap()).cloned())
    }

    /// The block of `[usage]` at a position.
    pub fn block(&self, position: i64) -> Option<&Block> {
        self.usage.get(usize::try_from(position).ok()?)
    }
}

/// What was asked for is no longer in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trimmed;

/// The key of a running total: tenant, team, meter, bucket, currency, cost currency.
pub type TotalKey = (Uuid, String, String, i64, String, String);

/// The key of what prices depend on: tenant, team, meter, begin of its day in microseconds.
pub type RunningKey = (Uuid, String, String, i64);

/// Postgres.
#[derive(Clone, Debug)]
pub struct Database {
    /// Where the ledger stands, per partition.
    pub standings: Vec<Standing>,
    /// Highest append time of any block up to there, microseconds.
    pub append_times: Vec<i64>,
    /// Audit rows per partition, with their seals.
    pub audit: Vec<Vec<(AuditEntry, domain::chain::Hash)>>,
    /// `usage_totals`.
    pub totals: BTreeMap<TotalKey, Sum>,
    /// `running_totals`.
    pub running_totals: BTreeMap<RunningKey, i128>,
    /// `partition_counts`.
    pub counts: BTreeMap<(u32, Uuid), Counts>,
    /// Balances of accounts: debits minus credits.
    pub balances: BTreeMap<AccountName, i128>,
    /// `late_places`.
    pub late: Vec<Cursor>,
    /// `late_answers`.
    pub late_answers: BTreeMap<(u32, Uuid), i64>,
    /// `archive_groups`.
    pub groups: BTreeMap<(u32, i64), (Borders, Uuid)>,
    /// `meter_periods`.
    pub periods: BTreeMap<PeriodKey, StoredPeriod>,
    /// `observed_positions`, one of each partition.
    pub searched: Vec<i64>,
    /// Leases of periods so far.
    pub leases: u32,
    accounts: HashMap<AccountName, i64>,
    key: AuditKey,
}

impl Database {
    /// An installation with this many partitions.
    pub fn new(partitions: usize) -> Database {
        let (place, catalog_version) = (Place::EMPTY, 0);
        let standing = Standing { place, catalog_version, head: seal::GENESIS, settle_seq: 0 };
        Database {
            standings: vec![standing; partitions],
            append_times: vec![0; partitions],
            audit: vec![Vec::new(); partitions],
            totals: BTreeMap::new(),
            running_totals: BTreeMap::new(),
            counts: BTreeMap::new(),
            balances: BTreeMap::new(),
            late: vec![Cursor::EMPTY; partitions],
            late_answers: BTreeMap::new(),
            groups: BTreeMap::new(),
            periods: BTreeMap::new(),
            searched: vec![-1; partitions],
            leases: 0,
            accounts: HashMap::new(),
            key: AuditKey::parse(&Secret::new("5a".repeat(32))).unwrap(),
        }
    }

    /// The fence of a posting: moves the place if nobody else did.
    pub fn move_place(&mut self, posting: &Posting) -> bool {
        let standing = &mut self.standings[posting.partition as usize];
        if standing.place != posting.from {
            return false;
        }
        standing.place = posting.to;
        standing.catalog_version = posting.catalog_version;
        standing.settle_seq += 1;
        let append_time_us = &mut self.append_times[posting.partition as usize];
        *append_time_us = posting.append_time_us.max(*append_time_us);
        true
    }

    /// What a posting writes besides its place.
    pub fn write(&mut self, posting: &Posting, head: domain::chain::Hash) {
        posting.check();
        for name in new_accounts(posting, &Book::default()) {
            let next = i64::try_from(self.accounts.len()).unwrap();
            self.accounts.entry(name).or_insert(next);
        }
        let book = Book::default();
        let draft = draft(posting, &Ids { book: &book, opened: &self.accounts }).unwrap();
        let names: HashMap<i64, &AccountName> =
            self.accounts.iter().map(|(name, id)| (*id, name)).collect();
        for transfer in &draft.transfers {
            assert!(transfer.amount > 0 && transfer.debit.account != transfer.credit.account);
            for (side, amount) in
                [(transfer.debit, transfer.amount), (transfer.credit, -transfer.amount)]
            {
                *self.balances.entry(names[&side.account].clone()).or_default() += amount;
            }
        }
        for usage in &posting.usage {
            let texts = [&usage.team, &usage.meter, &usage.currency, &usage.cost_currency];
            let [team, meter, currency, cost_currency] = texts.map(|text| text.to_string());
            let key = (usage.tenant, team, meter, usage.bucket, currency, cost_currency);
            self.totals.entry(key).or_default().add(&usage.sum);
        }
        for total in &posting.running_totals {
            assert!(total.period == PeriodKind::Day && total.scope.is_empty());
            let (team, meter) = (total.team.to_string(), total.meter.to_string());
            let key = (total.tenant, team, meter, total.start_us);
            self.running_totals.insert(key, total.quantity);
        }
        for (tenant, counts) in &posting.counts {
            self.counts.entry((posting.partition, *tenant)).or_default().add(counts);
        }
        let entry = draft.entry(posting, head, 0);
        let seal = entry.hash(&self.key);
        self.standings[posting.partition as usize].head = seal;
        self.audit[posting.partition as usize].push((entry, seal));
    }

    /// What is stored of a team's running totals.
    pub fn running_totals(&self, (tenant, team): &TeamName) -> Vec<(TotalName, i128)> {
        let own = |key: &&RunningKey| key.0 == *tenant && *key.1 == **team;
        let total = |key: &RunningKey| TotalName {
            meter: key.2.as_str().into(),
            scope: "".into(),
            period: PeriodKind::Day,
            start_us: key.3,
        };
        let all = self.running_totals.iter();
        all.filter(|(key, _)| own(key)).map(|(key, units)| (total(key), *units)).collect()
    }

    /// Whether the seal of an audit row fits it.
    pub fn is_sealed(&self, (entry, seal): &(AuditEntry, domain::chain::Hash)) -> bool {
        entry.hash(&self.key) == *seal
    }

    /// The newest audited place below a position whose next batch stands at or after `first`.
    pub fn audited_before(&self, partition: u32, position: i64, first: i64) -> Option<Place> {
        let rows = self.audit[partition as usize].iter().rev().map(|(entry, _)| entry.to);
        rows.into_iter().find(|to| to.x < position && to.r + 1 >= first)
    }

    /// The oldest audited place whose next batch stands at or after `first`.
    pub fn audited_from(&self, partition: u32, first: i64) -> Option<Place> {
        self.audit[partition as usize]
            .iter()
            .map(|(entry, _)| entry.to)
            .find(|to| to.r + 1 >= first)
    }

    /// Moves a lane's place; false if another lane has moved it.
    pub fn advance(&mut self, partition: u32, moved: &Move) -> bool {
        let place = &mut self.late[partition as usize];
        if *place != moved.before {
            return false;
        }
        *place = moved.after;
        for (tenant, count) in &moved.answers {
            *self.late_answers.entry((partition, *tenant)).or_default() += count;
        }
        true
    }

    /// Fixes borders of groups, all or none.
    pub fn fix(&mut self, flush: Uuid, wanted: &[(u32, Borders)]) -> bool {
        let key = |(partition, borders): &(u32, Borders)| (*partition, borders.from_x);
        if wanted.iter().any(|one| self.groups.contains_key(&key(one))) {
            return false;
        }
        for one in wanted {
            self.groups.insert(key(one), (one.1, flush));
        }
        true
    }

    /// The flush that holds the partition's group from a position on.
    pub fn fixed(&self, partition: u32, from_x: i64) -> Option<Flush> {
        let (_, flush) = self.groups.get(&(partition, from_x))?;
        let own = self.groups.iter().filter(|(_, (_, of))| of == flush);
        let group = |((partition, from_x), (borders, _)): (&(u32, i64), &(Borders, Uuid))| {
            let before = self
                .groups
                .iter()
                .find(|((other, _), (before, _))| other == partition && before.to_x == *from_x - 1);
            let place = before.map_or(Place::EMPTY, |(_, (before, _))| Place {
                x: before.to_x,
                r: before.to_r,
                c: before.c,
            });
            (*partition, place, *borders)
        };
        Some(Flush { token: Token::Flush(*flush), groups: own.map(group).collect() })
    }
}

/// An insert goes into one partition of its table.
fn one_month(append_times_us: impl Iterator<Item = i64>) {
    let months: BTreeSet<u32> = append_times_us.map(month_of).collect();
    assert!(months.len() < 2, "an insert has rows of the months {months:?}");
}

/// ClickHouse.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    /// `usage_events`, each row once, as the views have it.
    pub usage: BTreeMap<(u32, i64, u32), UsageRow>,
    /// Rows of `usage_events` that correct others, by sign as well.
    pub corrections: BTreeMap<(u32, i64, u32, i8), UsageRow>,
    /// `rejected_events`, likewise.
    pub others: BTreeMap<(u32, i64, u32), OtherRow>,
    /// `archived`, each row once.
    pub archived: BTreeSet<ArchivedRow>,
    /// Rows that came twice under different tokens.
    pub repeated: usize,
    tokens: BTreeSet<String>,
}

impl Archive {
    /// Takes an insert, unless its token is known.
    pub fn insert(&mut self, insert: &Insert) {
        if !self.tokens.insert(insert.token.clone()) {
            return;
        }
        match insert.table.name {
            "usage_events" => {
                let rows = all(&row_binary(&insert.rows), usage_row);
                one_month(rows.iter().map(|row| row.append_time_us));
                for row in rows {
                    let key = (row.partition, row.head.position, row.head.index);
                    let before = match row.run {
                        0 => self.usage.insert(key, row.clone()),
                        _ => {
                            let key = (key.0, key.1, key.2, row.sign);
                            self.corrections.insert(key, row.clone())
                        }
                    };
                    self.repeated += usize::from(before.is_some());
                    assert!(before.is_none_or(|before| before == row), "{key:?} has two rows");
                }
            }
            "rejected_events" => {
                let rows = all(&row_binary(&insert.rows), other_row);
                one_month(rows.iter().map(|row| row.append_time_us));
                for row in rows {
                    let key = (row.partition, row.head.position, row.head.index);
                    let before = self.others.insert(key, row.clone());
                    self.repeated += usize::from(before.is_some());
                    assert!(before.is_none_or(|before| before == row), "{key:?} has two rows");
                }
            }
            "archived" => self.archived.extend(all(&row_binary(&insert.rows), archived_row)),
            other => panic!("there is no table {other}"),
        }
    }

    /// Which of the three inserts of a flush were taken.
    pub fn has_token(&self, flush: &Uuid) -> [bool; 3] {
        ["rejected", "usage", "archived"]
            .map(|name| self.tokens.contains(&format!("{name}:{flush}")))
    }

    /// `A` with its `R` and `C`.
    pub fn position(&self, partition: u32) -> Place {
        let own = self.archived.iter().filter(|row| row.partition == partition);
        own.max_by_key(|row| row.to_x).map_or(Place::EMPTY, |row| Place {
            x: row.to_x,
            r: row.r,
            c: row.c,
        })
    }

    /// What a lane's search finds.
    pub fn find(&self, partition: u32, ranges: &[(i64, i64)], identities: &[u128]) -> Vec<Hit> {
        let mut hits = Vec::new();
        for (from, to) in ranges.iter().filter(|(from, to)| from <= to) {
            let rows = self.usage.range((partition, *from, 0)..=(partition, *to, u32::MAX));
            let own = rows.filter(|(_, row)| identities.contains(&row.head.identity));
            hits.extend(own.map(|(_, row)| Hit {
                identity: row.head.identity,
                position: row.head.position,
                index: row.head.index,
                content: row.head.content,
            }));
        }
        hits
    }
}
