//! What those who read the accepted chain have of it: the ledger, the archive, the slow lane, and raters themselves.

use std::collections::{BTreeMap, BTreeSet};

use domain::{chain::Place, wire::rated::Counts};
use ledger::seal;
use uuid::Uuid;

use super::{
    super::{rows::UsageRow, traffic::Entry, world::World},
    At, Chain, Outcome, Sent,
    books::Books,
    count,
};

/// The ledger stands on the chain, its audit rows are linked, and its counts are what was sent.
pub(super) fn ledger(
    world: &World,
    sent: &Sent<'_>,
    chain: &Chain,
    partition: u32,
    books: &mut Books,
) {
    let database = &world.database;
    let standing = database.standings[partition as usize];
    assert!(
        chain.places.contains(&standing.place),
        "{partition}: the ledger stands at {:?}, which is not on the chain",
        standing.place
    );
    let (mut head, mut last) = (seal::GENESIS, -1);
    for row in &database.audit[partition as usize] {
        let (entry, seal) = row;
        assert!(
            entry.previous == head && entry.from == last + 1 && database.is_sealed(row),
            "{partition}: the audit row from {} is not linked to the one to {last}",
            entry.from
        );
        assert!(chain.places.contains(&entry.to), "{partition}: {entry:?} is not on the chain");
        (head, last) = (*seal, entry.to.x);
    }
    assert!(
        last == standing.place.x,
        "{partition}: the ledger's place is {}, its effects end at {last}",
        standing.place.x
    );
    let x = standing.place.x;
    let counts = database.counts.iter().filter(|((of, _), _)| *of == partition);
    let counts: BTreeMap<Uuid, Counts> =
        counts.map(|((_, tenant), counts)| (*tenant, *counts)).collect();
    let own = count(sent, &chain.outcomes, 0, x);
    assert!(counts == own, "{partition}: up to {x} the ledger counts {counts:?}, not {own:?}");
    assert!(own.values().all(Counts::balanced));
    for (at, outcome) in &chain.outcomes {
        if at.0 <= x && matches!(outcome, Outcome::Effect(_)) {
            books.add(sent, *at);
        }
    }
    for (at, change) in &sent.changes {
        if at.0 <= x {
            books.change(change);
        }
    }
}

/// The archive has what the chain says up to its position, each group as it was fixed.
pub(super) fn archive(world: &World, chain: &Chain, partition: u32) {
    let archive = &world.archive;
    let position = archive.position(partition);
    assert!(
        chain.places.contains(&position),
        "{partition}: the archive is at {position:?}, which is not on the chain"
    );
    let own = |key: &&(u32, i64, u32)| key.0 == partition;
    let (mut rows, mut others) = (BTreeMap::new(), BTreeMap::new());
    for (at, outcome) in &chain.outcomes {
        let key = (partition, at.0, at.1);
        let (found, meant) = match outcome {
            Outcome::Effect(row) => {
                *rows.entry(at.0).or_insert(0u64) += 1;
                (archive.usage.get(&key).map(|found| found == row), at.0 <= position.x)
            }
            Outcome::Other(row) => {
                *others.entry(at.0).or_insert(0u64) += 1;
                (archive.others.get(&key).map(|found| found == row), at.0 <= position.x)
            }
            Outcome::Forwarded => continue,
        };
        assert!(
            found == Some(true) || (found.is_none() && !meant),
            "{partition}: {at:?} became {outcome:?}, the archive at {} has it: {found:?}",
            position.x
        );
    }
    for (at, done) in &chain.commands {
        let key = (partition, at.0, at.1);
        let has = |row: &UsageRow| {
            archive.corrections.get(&(key.0, key.1, key.2, row.sign)).map(|found| found == row)
        };
        let found: Vec<Option<bool>> = done
            .rows()
            .map(has)
            .chain(
                done.refused.iter().map(|row| archive.others.get(&key).map(|found| found == row)),
            )
            .collect();
        let meant = at.0 <= position.x;
        assert!(
            found.iter().all(|found| *found == Some(true) || (found.is_none() && !meant)),
            "{partition}: the command {at:?} became {done:?}, the archive at {} has {found:?}",
            position.x
        );
        *rows.entry(at.0).or_insert(0) += done.rows().count() as u64;
        *others.entry(at.0).or_insert(0) += u64::from(done.refused.is_some());
    }
    let known = |key: &(u32, i64, u32)| {
        let at = (key.1, key.2);
        chain.outcomes.contains_key(&at) || chain.commands.contains_key(&at)
    };
    assert!(
        archive.usage.keys().filter(own).all(known) && archive.others.keys().filter(own).all(known),
        "{partition}: the archive has rows that no accepted batch has"
    );
    assert!(archive.repeated == 0, "{} rows came under two tokens", archive.repeated);
    let mut last = -1;
    for row in archive.archived.iter().filter(|row| row.partition == partition) {
        let of = |rows: &BTreeMap<i64, u64>| {
            rows.range(row.from_x..=row.to_x).map(|(_, n)| n).sum::<u64>()
        };
        assert!(
            row.from_x == last + 1 && (row.rows, row.others) == (of(&rows), of(&others)),
            "{partition}: after {last} the archive has {row:?}"
        );
        let place = Place { x: row.to_x, r: row.r, c: row.c };
        assert!(chain.places.contains(&place), "{partition}: {row:?} is not on the chain");
        let fixed = world.database.groups.get(&(partition, row.from_x));
        assert!(
            fixed.is_some_and(|(fixed, _)| fixed.to_x == row.to_x && fixed.c == row.c),
            "{partition}: {row:?} was fixed as {fixed:?}"
        );
        last = row.to_x;
    }
}

/// The lane's place is past only what has a copy.
pub(super) fn lane(world: &World, sent: &Sent<'_>, chain: &Chain, partition: u32) {
    let stored = world.database.late[partition as usize];
    assert!(
        chain.places.contains(&stored.place),
        "{partition}: the lane is at {stored:?}, which is not on the chain"
    );
    let copied: BTreeSet<(At, i64)> = sent
        .entries(sent.log.usage_end() - 1)
        .filter(|at| matches!(sent.entry(*at), Entry::Copy { .. }))
        .map(|at| (sent.event(at).unwrap().1, at.0))
        .collect();
    let mut answers: BTreeMap<Uuid, i64> = BTreeMap::new();
    for (before, forwards) in &chain.forwards {
        let passed = match before.x.cmp(&stored.place.x) {
            std::cmp::Ordering::Less => forwards.len(),
            std::cmp::Ordering::Equal => stored.index as usize,
            std::cmp::Ordering::Greater => 0,
        };
        for at in &forwards[..passed] {
            let (_, origin, _) = sent.event(*at).unwrap();
            assert!(
                copied.range((origin, at.0 + 1)..=(origin, i64::MAX)).next().is_some(),
                "{partition}: the lane has passed {at:?} and no copy of it stands behind"
            );
            *answers.entry(sent.tenant(*at)).or_default() += 1;
        }
    }
    let told = world.database.late_answers.iter().filter(|((of, _), _)| *of == partition);
    let told: BTreeMap<Uuid, i64> = told.map(|((_, tenant), count)| (*tenant, *count)).collect();
    assert!(told == answers, "{partition}: the lane told {told:?} answers, it gave {answers:?}");
}

/// Raters believe nothing that is not accepted.
pub(super) fn owners(world: &World, chain: &Chain, partition: u32) {
    for owner in world.owners[partition as usize].iter().flatten() {
        let place = owner.state.place();
        assert!(
            chain.places.contains(&place),
            "{partition}: a rater believes in {place:?}, which is not on the chain"
        );
    }
}
