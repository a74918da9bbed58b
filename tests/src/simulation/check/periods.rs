//! Periods of meters that do not add up: what each comes to, by this file's own arithmetic over what was accepted, is
//! what closed it, once.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{
        closings::{HELD, OBSERVING, PeriodKey},
        traffic::{DAY_US, Entry, Event, Kind, Line, ONE},
        world::World,
    },
    At, Chain, Findings, Outcome, Sent,
};

const HOUR_US: i128 = 3_600_000_000;

/// Numbers of a tenant and team that were observed: when, where in the log, and which.
type Observed = BTreeMap<(usize, usize), BTreeSet<(i64, At, i128)>>;

/// What closed a period of a team.
type ClosedBy = BTreeMap<(PeriodKey, usize), (At, Option<Vec<Line>>)>;

/// What is effective of each event: all that was observed, and what closed periods.
fn current(sent: &Sent<'_>, chain: &Chain, partition: u32) -> (Observed, ClosedBy) {
    let mut lines: BTreeMap<At, (Event, i64, Option<Vec<Line>>)> = BTreeMap::new();
    for (at, outcome) in &chain.outcomes {
        if matches!(outcome, Outcome::Effect(_)) {
            let (event, _, append_time_us) = sent.event(*at).unwrap();
            let time_us = event.time_us.unwrap_or(append_time_us);
            lines.insert(*at, (event, time_us, sent.worth(*at)));
        }
    }
    for (at, change) in &sent.changes {
        let Entry::Correct(correct) = sent.entry(*at) else { panic!("{at:?} is no command") };
        lines.get_mut(&correct.of).unwrap().2.clone_from(&change.now);
    }
    let (mut observed, mut closed) = (Observed::new(), ClosedBy::new());
    for (at, (event, time_us, lines)) in lines {
        let whose = (event.tenant(), event.team_number());
        match event.kind() {
            Kind::Observed => {
                if let Some(line) = lines.unwrap_or_default().first() {
                    let number = line.quantity / ONE;
                    observed.entry(whose).or_default().insert((time_us, at, number));
                }
            }
            Kind::Closing => {
                let before = closed.insert((event.period(), whose.1), (at, lines));
                assert!(
                    before.is_none(),
                    "{partition}: a period is charged twice: {event:?} at {at:?} and {before:?}"
                );
            }
            _ => {}
        }
    }
    (observed, closed)
}

/// Divides, half to even; both are positive.
fn divided(number: i128, by: i128) -> i128 {
    let (whole, rest) = (number / by, number % by);
    whole + i128::from(2 * rest > by || (2 * rest == by && whole % 2 == 1))
}

/// What a day comes to, in units of the last decimal; `None` where there is nothing to say.
fn comes_to(all: &BTreeSet<(i64, At, i128)>, meter: usize, from_us: i64) -> Option<i128> {
    let to_us = from_us + DAY_US;
    let within: Vec<i128> = all
        .iter()
        .filter(|(time_us, ..)| (from_us..to_us).contains(time_us))
        .map(|(.., number)| *number)
        .collect();
    match OBSERVING[meter] {
        "peak" => within.iter().max().map(|number| number * ONE),
        "mean" => {
            let count = i128::try_from(within.len()).unwrap();
            (count > 0).then(|| divided(within.iter().sum::<i128>() * ONE, count))
        }
        _ => {
            let (mut since_us, mut level, mut total) = (from_us, 0, 0_i128);
            for (time_us, _, number) in all.iter().filter(|(time_us, ..)| *time_us < to_us) {
                let at_us = (*time_us).max(from_us);
                total += level * i128::from(at_us - since_us);
                (since_us, level) = (at_us, *number);
            }
            total += level * i128::from(to_us - since_us);
            (total > 0 || !within.is_empty()).then(|| divided(total * ONE, HOUR_US))
        }
    }
}

/// No period of a team is charged twice; once healed, each that is over is charged what it comes to.
pub(super) fn judge(
    (world, is_healed): (&World, bool),
    sent: &Sent<'_>,
    chain: &Chain,
    partition: u32,
    findings: &mut Findings,
) {
    let (observed, mut closed) = current(sent, chain, partition);
    findings.closings += closed.len() as u64;
    for (at, done) in &chain.commands {
        let Entry::Correct(correct) = sent.entry(*at) else { continue };
        let is_amended = correct.event.kind() == Kind::Closing && correct.now.is_some();
        findings.amended_closings += u64::from(is_amended && done.is_applied());
    }
    // Without a closer there is nothing to be judged.
    if !is_healed || world.closers[0].is_none() {
        return;
    }
    for ((tenant, team), all) in &observed {
        let first = all.first().unwrap().0.div_euclid(DAY_US) * DAY_US;
        let days = (0..).map(|day| first + day * DAY_US);
        for from_us in days.take_while(|from_us| from_us + DAY_US <= world.now_us) {
            for (meter, name) in OBSERVING.iter().enumerate() {
                let key = (*tenant, meter, from_us);
                let wanted = comes_to(all, meter, from_us);
                let found = closed.remove(&(key, *team));
                // What was voided stays so.
                if let Some((_, None)) = found {
                    findings.voided_closings += 1;
                    continue;
                }
                let said =
                    found.as_ref().and_then(|(_, lines)| Some(lines.as_ref()?.first()?.quantity));
                assert!(
                    said.unwrap_or(0) == wanted.unwrap_or(0) && said.is_some() >= wanted.is_some(),
                    "{partition}: {name} of tenant {tenant}, team {team} from {from_us} comes to {wanted:?}, closed by {found:?}"
                );
                let is_held = meter == HELD && wanted.is_some_and(|wanted| wanted > 0);
                findings.periods += u64::from(wanted.is_some());
                findings.held += u64::from(is_held);
            }
        }
    }
    for ((key, team), (at, lines)) in closed {
        let is_over = key.2 + DAY_US <= world.now_us;
        let is_nothing = lines.is_none_or(|lines| lines.iter().all(|line| line.quantity == 0));
        assert!(
            is_nothing || !is_over,
            "{partition}: {key:?} of team {team} was closed at {at:?}, and nothing was observed"
        );
    }
}
