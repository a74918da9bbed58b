//! Tests of [`super`]: a batch counts once, whatever the order of posting and following, and what a
//! wallet pays moves no balance.

use std::collections::BTreeMap;

use domain::{
    chain::Place,
    wire::{
        codec::DictionaryWriter,
        rated::{Counts, Header},
        sums::{Sum, SumKey, Sums, encode},
    },
};
use proptest::prelude::*;

use super::*;

const TENANT: Uuid = Uuid::from_u128(7);

fn place(number: i64) -> Place {
    if number < 0 {
        Place::EMPTY
    } else {
        Place { x: number * 3, r: number, c: [u8::try_from(number).unwrap(); 32] }
    }
}

fn header() -> Header {
    let counts = vec![(TENANT, Counts::default())];
    Header {
        catalog_version: 1,
        rules_version: 1,
        table_from: 0,
        horizon_us: 0,
        append_time_us: (5, 9),
        counts,
        traces: Vec::new(),
    }
}

/// Sums of a batch: charges of teams, in raw units.
fn section(charges: &[(&str, i128)]) -> Vec<u8> {
    let mut dictionary = DictionaryWriter::default();
    let entries: Vec<(SumKey, Sum)> = charges
        .iter()
        .map(|(team, charge)| {
            let key = SumKey {
                tenant: 0,
                team: dictionary.intern(team),
                meter: dictionary.intern("calls"),
                card: None,
                card_version: 1,
                currency: Some(dictionary.intern("USD")),
                cost_currency: None,
                hold: None,
                bucket: 0,
                user: None,
                app: None,
                key: None,
                feature: None,
            };
            (key, Sum { quantity: 1, charge: *charge, cost: 0, events: 1 })
        })
        .collect();
    let mut out = Vec::new();
    encode(&dictionary, &entries, None, &mut out);
    out
}

fn accept(
    partition: &mut Partition,
    generation: u64,
    number: i64,
    charges: &[(&str, i128)],
) -> bool {
    let section = section(charges);
    partition.accept(
        generation,
        place(number),
        &header(),
        &Sums::decode(&section, 1, false).unwrap(),
    )
}

fn receivable(team: &str, raw: i128) -> Receivable {
    Receivable { tenant: TENANT, team: team.to_owned(), currency: "USD".to_owned(), raw }
}

fn wallet(team: &str, balance: i128, held: i128) -> Wallet {
    let (team, currency) = (team.to_owned(), "USD".to_owned());
    Wallet { tenant: TENANT, team, currency, stored: Stored { balance, held } }
}

fn news(posted: Place, receivables: Vec<Receivable>) -> News {
    News { receivables, ..News::at(posted, 0) }
}

fn accounts(partition: &Partition, team: &str) -> Vec<Owed> {
    let accounts = partition.teams.get(&(TENANT, Arc::from(team))).cloned().unwrap_or_default();
    accounts.iter().filter_map(|number| partition.account(*number)).map(Account::owed).collect()
}

fn owed(partition: &Partition, team: &str) -> (i128, i128) {
    let accounts = accounts(partition, team);
    accounts.iter().fold((0, 0), |sum, one| (sum.0 + one.posted, sum.1 + one.live))
}

fn stored(partition: &Partition, team: &str) -> Option<(i128, i128)> {
    let stored = accounts(partition, team).first()?.stored?;
    Some((stored.balance, stored.held))
}

/// Postgres as far as one partition is concerned: what is posted, wallets, and transactions.
#[derive(Clone, Debug, Default)]
struct Books {
    posted: usize,
    teams: BTreeMap<&'static str, Money>,
    /// Number of the next transaction.
    next: u64,
    /// A transaction that changes a wallet, and has not ended.
    open: Option<(u64, Change)>,
}

/// What a team owes, and its wallet with the number of the transaction that changed it.
type Money = (i128, Option<(Stored, u64)>);

/// How much a team's wallet gets, what of it is paid for usage, and what is held.
type Change = (&'static str, i128, i128, i128);

impl Books {
    fn post(&mut self, (team, charge): (&'static str, i128)) {
        self.next += 1;
        self.posted += 1;
        self.teams.entry(team).or_default().0 += charge;
    }

    /// A transaction that changes a wallet begins.
    fn begin(&mut self, change: Change) {
        self.end();
        self.open = Some((self.next, change));
        self.next += 1;
    }

    /// And ends; only now it is in a snapshot.
    fn end(&mut self) {
        let Some((number, (team, added, paid, held))) = self.open.take() else { return };
        let (receivable, wallet) = self.teams.entry(team).or_default();
        let balance = wallet.map_or(0, |(stored, _)| stored.balance) + added - paid;
        *receivable -= paid;
        *wallet = Some((Stored { balance, held }, number));
    }

    /// What a partition gets that looks now, by what it asks for.
    fn refresh(&self, partition: &mut Partition) -> bool {
        let posted = place(i64::try_from(self.posted).unwrap() - 1);
        let missing_from = self.open.map_or(self.next, |(number, _)| number);
        let mut news = News::at(posted, missing_from);
        let mut asked: HashSet<&str> = HashSet::new();
        let plan = partition.plan(posted, missing_from);
        match &plan {
            Plan::Nothing => return false,
            Plan::Load => asked.extend(self.teams.keys()),
            Plan::Advance(touched, since) => {
                asked.extend(touched.iter().map(|(_, team)| &**team));
                let changed = |one: &(Stored, u64)| one.1 >= *since;
                let changed =
                    self.teams.iter().filter(|(_, one)| one.1.as_ref().is_some_and(changed));
                asked.extend(changed.map(|(team, _)| *team));
            }
        }
        for (team, (receivable_raw, stored)) in &self.teams {
            let of_team = asked.contains(team);
            news.receivables.extend(of_team.then(|| receivable(team, *receivable_raw)));
            let since = if let Plan::Advance(_, since) = &plan { *since } else { 0 };
            let changed = stored.filter(|(_, number)| *number >= since);
            news.wallets.extend(changed.map(|(one, _)| wallet(team, one.balance, one.held)));
        }
        if let Plan::Load = plan {
            partition.load(&news)
        } else {
            partition.advance(&news)
        }
        true
    }
}

proptest! {
    /// Batches become posted in any steps, while they are followed at any pace; live is always the
    /// sum of what was followed or posted, and posted what the snapshot said.
    #[test]
    fn each_batch_counts_once(charges in prop::collection::vec((0_usize..3, 1_i128..100), 1..40), steps in prop::collection::vec((any::<bool>(), 0_usize..6), 0..60)) {
        let teams = ["a", "b", "c"];
        let total = |team: &str, until: usize| -> i128 {
            charges.iter().take(until).filter(|(number, _)| teams[*number] == team).map(|(_, charge)| charge).sum()
        };
        let mut partition = Partition::default();
        partition.load(&news(Place::EMPTY, vec![]));
        let (mut followed, mut posted) = (0, 0);
        for (follow, count) in steps {
            if follow {
                for _ in 0..count {
                    let Some((team, charge)) = charges.get(followed) else { break };
                    prop_assert!(accept(&mut partition, 1, i64::try_from(followed).unwrap(), &[(teams[*team], *charge)]));
                    followed += 1;
                }
            } else {
                posted = (posted + count).min(charges.len());
            }
            let place = place(i64::try_from(posted).unwrap() - 1);
            let mut seen = partition.places.unwrap().posted;
            match partition.plan(place, 0) {
                Plan::Nothing => prop_assert!(posted > followed),
                Plan::Load => prop_assert!(false, "nothing parted"),
                Plan::Advance(touched, _) => {
                    prop_assert!(seen != place || touched.is_empty());
                    let rows = touched.iter().map(|(_, team)| receivable(team, total(team, posted))).collect();
                    partition.advance(&news(place, rows));
                    seen = place;
                }
            }
            for team in teams {
                let seen = usize::try_from(seen.r + 1).unwrap();
                prop_assert_eq!(owed(&partition, team), (total(team, seen), total(team, followed)));
            }
            prop_assert_eq!(partition.entries, followed - usize::try_from(seen.r + 1).unwrap());
        }
    }

    /// Wallets change in transactions that end later than they begin, between postings and with them,
    /// while batches are followed at any pace. Whenever a snapshot is taken, what is posted is what it
    /// says to the last wallet, and live is that and the batches after it.
    #[test]
    fn every_change_of_a_wallet_is_seen_once(charges in prop::collection::vec((0_usize..3, 1_i128..100), 1..30), steps in prop::collection::vec((0_usize..5, 0_usize..3, 0_i128..100, 0_i128..100), 0..80)) {
        let teams = ["a", "b", "c"];
        let charges: Vec<(&'static str, i128)> = charges.iter().map(|(number, charge)| (teams[*number], *charge)).collect();
        let mut partition = Partition::default();
        let mut books = Books { next: 3, ..Books::default() };
        prop_assert!(books.refresh(&mut partition));
        let (mut followed, mut seen) = (0, books.clone());
        for (step, team, one, other) in steps {
            match step {
                0 => if let Some((team, charge)) = charges.get(followed) {
                    prop_assert!(accept(&mut partition, 1, i64::try_from(followed).unwrap(), &[(team, *charge)]));
                    followed += 1;
                },
                1 => if let Some(charge) = charges.get(books.posted) {
                    books.post(*charge);
                },
                2 => books.begin((teams[team], one + other, other, one)),
                3 => books.end(),
                _ => if books.refresh(&mut partition) {
                    seen = books.clone();
                } else {
                    prop_assert!(books.posted > followed);
                },
            }
            for team in teams {
                let (receivable, wallet) = seen.teams.get(team).copied().unwrap_or_default();
                let wallet = wallet.map(|(stored, _)| (stored.balance, stored.held));
                let posted = receivable - wallet.map_or(0, |(balance, _)| balance);
                let rest = charges.iter().take(followed).skip(seen.posted).filter(|(of, _)| *of == team);
                let pending: i128 = rest.map(|(_, charge)| charge).sum();
                prop_assert_eq!(owed(&partition, team), (posted, posted + pending));
                prop_assert_eq!(stored(&partition, team), wallet);
            }
        }
    }
}

#[test]
fn what_is_added_to_a_wallet_is_seen_without_a_posting() {
    let mut partition = Partition::default();
    let mut books = Books { next: 3, ..Books::default() };
    books.refresh(&mut partition);
    assert_eq!(stored(&partition, "a"), None);
    books.begin(("a", 100, 0, 0));
    assert!(books.refresh(&mut partition));
    assert_eq!(stored(&partition, "a"), None, "it has not ended");
    books.end();
    assert!(books.refresh(&mut partition));
    assert_eq!((owed(&partition, "a"), stored(&partition, "a")), ((-100, -100), Some((100, 0))));
    // A hold changes no balance.
    books.begin(("a", 0, 0, 30));
    books.end();
    assert!(books.refresh(&mut partition));
    assert_eq!((owed(&partition, "a"), stored(&partition, "a")), ((-100, -100), Some((100, 30))));
}

#[test]
fn a_settlement_changes_both_sides_and_no_balance() {
    let mut partition = Partition::default();
    let mut books = Books { next: 3, ..Books::default() };
    books.begin(("a", 100, 0, 0));
    books.end();
    books.refresh(&mut partition);
    assert!(accept(&mut partition, 1, 0, &[("a", 40)]));
    assert!(accept(&mut partition, 1, 1, &[("a", 5)]));
    assert_eq!(owed(&partition, "a"), (-100, -55));
    books.post(("a", 40));
    assert!(books.refresh(&mut partition));
    assert_eq!((owed(&partition, "a"), stored(&partition, "a")), ((-60, -55), Some((100, 0))));
    // Posting has not moved, and the second batch is pending still.
    books.begin(("a", 0, 40, 0));
    books.end();
    assert!(books.refresh(&mut partition));
    assert_eq!((owed(&partition, "a"), stored(&partition, "a")), ((-60, -55), Some((60, 0))));
}

#[test]
fn what_changed_while_posting_was_ahead_is_not_lost() {
    let mut partition = Partition::default();
    let mut books = Books { next: 3, ..Books::default() };
    books.begin(("a", 100, 0, 0));
    books.end();
    books.refresh(&mut partition);
    books.post(("a", 40));
    books.begin(("a", 0, 40, 0));
    books.begin(("b", 7, 0, 0));
    books.end();
    for _ in 0..3 {
        assert!(!books.refresh(&mut partition), "the batch was not read");
        assert_eq!((owed(&partition, "a"), stored(&partition, "b")), ((-100, -100), None));
        books.next += 10;
    }
    assert!(accept(&mut partition, 1, 0, &[("a", 40)]));
    assert_eq!(owed(&partition, "a"), (-100, -60));
    assert!(books.refresh(&mut partition));
    assert_eq!((owed(&partition, "a"), stored(&partition, "a")), ((-60, -60), Some((60, 0))));
    assert_eq!(stored(&partition, "b"), Some((7, 0)));
}

#[test]
fn a_postgres_that_was_put_back_is_loaded_anew() {
    let mut partition = Partition::default();
    partition.load(&News { wallets: vec![wallet("a", 5, 0)], ..News::at(Place::EMPTY, 9) });
    assert!(matches!(partition.plan(Place::EMPTY, 9), Plan::Advance(teams, 9) if teams.is_empty()));
    assert!(matches!(partition.plan(Place::EMPTY, 8), Plan::Load));
}

#[test]
fn another_chain_is_loaded_anew_and_its_follower_begins_again() {
    let mut partition = Partition::default();
    assert!(matches!(partition.plan(Place::EMPTY, 0), Plan::Load));
    partition.load(&news(Place::EMPTY, vec![receivable("a", 5)]));
    assert!(accept(&mut partition, 1, 0, &[("a", 2), ("a", 3)]));
    assert_eq!(owed(&partition, "a"), (5, 10));
    let other = Place { c: [9; 32], ..place(0) };
    assert!(matches!(partition.plan(other, 0), Plan::Load));
    partition.load(&news(other, vec![receivable("a", 7)]));
    assert_eq!(owed(&partition, "a"), (7, 7));
    assert!(!accept(&mut partition, 1, 1, &[("a", 1)]), "of the load before");
    assert!(accept(&mut partition, 2, 1, &[("a", 1)]));
    assert_eq!(owed(&partition, "a"), (7, 8));
}
