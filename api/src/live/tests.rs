//! Tests of [`super`]: a batch counts once, whatever the order of posting and following.

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
    encode(&dictionary, &entries, &mut out);
    out
}

fn accept(
    partition: &mut Partition,
    generation: u64,
    number: i64,
    charges: &[(&str, i128)],
) -> bool {
    let section = section(charges);
    partition.accept(generation, place(number), &header(), &Sums::decode(&section, 1).unwrap())
}

fn receivable(team: &str, raw: i128) -> Receivable {
    Receivable { tenant: TENANT, team: team.to_owned(), currency: "USD".to_owned(), raw }
}

fn owed(partition: &Partition, team: &str) -> (i128, i128) {
    let accounts = partition.teams.get(&(TENANT, Arc::from(team))).cloned().unwrap_or_default();
    let accounts = accounts.iter().filter_map(|number| partition.account(*number));
    accounts.fold((0, 0), |sum, account| {
        (sum.0 + account.receivable, sum.1 + account.receivable + account.pending)
    })
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
        partition.load(Place::EMPTY, &[]);
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
            match partition.plan(place) {
                Plan::Nothing => prop_assert!(seen == place || posted > followed),
                Plan::Load => prop_assert!(false, "nothing parted"),
                Plan::Advance(touched) => {
                    let rows: Vec<Receivable> = touched.iter().map(|(_, team)| receivable(team, total(team, posted))).collect();
                    partition.advance(place, &rows);
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
}

#[test]
fn another_chain_is_loaded_anew_and_its_follower_begins_again() {
    let mut partition = Partition::default();
    assert!(matches!(partition.plan(Place::EMPTY), Plan::Load));
    partition.load(Place::EMPTY, &[receivable("a", 5)]);
    assert!(accept(&mut partition, 1, 0, &[("a", 2), ("a", 3)]));
    assert_eq!(owed(&partition, "a"), (5, 10));
    let other = Place { c: [9; 32], ..place(0) };
    assert!(matches!(partition.plan(other), Plan::Load));
    partition.load(other, &[receivable("a", 7)]);
    assert_eq!(owed(&partition, "a"), (7, 7));
    assert!(!accept(&mut partition, 1, 1, &[("a", 1)]), "of the load before");
    assert!(accept(&mut partition, 2, 1, &[("a", 1)]));
    assert_eq!(owed(&partition, "a"), (7, 8));
}
