//! What became of commands: each is carried out once, and only on what its sender saw.

use std::collections::HashMap;

use super::{
    super::{
        rows::{OtherRow, UsageRow},
        traffic::{Entry, Event, Line, tenant_version},
    },
    At, Chain, Findings, Outcome, Sent, same_lines,
};

/// The rows of a command.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Done {
    back: Option<UsageRow>,
    now: Option<UsageRow>,
    /// Why it was not carried out.
    pub refused: Option<OtherRow>,
    /// `S` of the writer's table.
    pub table_from: i64,
}

/// What a command has changed.
#[derive(Clone, Debug)]
pub(super) struct Change {
    /// The event that it corrects, as it was sent.
    pub event: Event,
    /// When that happened.
    pub time_us: i64,
    /// What it takes back.
    pub back: Vec<Line>,
    /// What it books instead.
    pub now: Option<Vec<Line>>,
}

impl Done {
    /// Takes a row of the command.
    pub fn take(&mut self, row: UsageRow) {
        let slot = if row.sign < 0 { &mut self.back } else { &mut self.now };
        assert!(slot.is_none(), "{row:?} stands twice");
        *slot = Some(row);
    }

    /// Whether it was carried out.
    pub fn is_applied(&self) -> bool {
        self.back.is_some()
    }

    /// Its rows of `usage_events`.
    pub fn rows(&self) -> impl Iterator<Item = &UsageRow> {
        self.back.iter().chain(&self.now)
    }
}

/// Each command has one outcome, and the right one.
pub(super) fn judge(sent: &Sent<'_>, chain: &Chain, partition: u32, findings: &mut Findings) {
    let last = chain.places.last().map_or(-1, |place| place.x);
    for (position, block) in (0..=last).zip(&sent.log.usage) {
        for (index, entry) in (0..).zip(block.entries.iter()) {
            let is_command = matches!(entry, Entry::Correct(_));
            assert!(
                chain.commands.contains_key(&(position, index)) == is_command,
                "{partition}: {entry:?} at {position}:{index} is a command and has no outcome, or is none"
            );
        }
    }
    let mut runs: HashMap<At, u32> = HashMap::new();
    for (at, done) in &chain.commands {
        let Entry::Correct(correct) = sent.entry(*at) else { panic!("{at:?} is no command") };
        let took = matches!(chain.outcomes.get(&correct.of), Some(Outcome::Effect(_)));
        let run = runs.entry(correct.of).or_default();
        let is_next = took && correct.of < *at && correct.run == *run + 1;
        match (&done.refused, done.is_applied()) {
            (None, true) => {
                findings.corrected += 1;
                assert!(
                    is_next,
                    "{partition}: {correct:?} at {at:?} is carried out behind correction {run}"
                );
                *run = correct.run;
                let change = &sent.changes[at];
                let said = |row: &UsageRow, lines: &[Line]| {
                    same_lines(&row.lines, lines)
                        && row.origin == correct.of
                        && (row.run, row.time_us) == (correct.run, change.time_us)
                        && row.head.identity == 0
                };
                assert!(
                    done.back.as_ref().is_some_and(|row| said(row, &change.back)),
                    "{partition}: {correct:?} takes back {:?}, not {:?}",
                    done.back,
                    change.back
                );
                assert!(
                    match (&done.now, &change.now) {
                        (None, None) => true,
                        (Some(row), Some(lines)) => said(row, lines),
                        _ => false,
                    },
                    "{partition}: {correct:?} books {:?}, not {:?}",
                    done.now,
                    change.now
                );
            }
            (Some(row), false) => {
                findings.uncorrected += 1;
                let tenant = correct.event.tenant();
                let other_prices = correct.now.is_some()
                    && tenant_version(tenant, sent.versions[at])
                        != tenant_version(tenant, correct.version);
                let is_old = correct.checked_to + 1 < done.table_from;
                let right = match row.reason.as_str() {
                    "correction_superseded" => !is_next,
                    "correction_outdated" => is_old || other_prices,
                    _ => false,
                };
                assert!(
                    right,
                    "{partition}: {correct:?} at {at:?} behind {run} is refused as {}",
                    row.reason
                );
            }
            _ => panic!("{partition}: {at:?} became {done:?}"),
        }
    }
}
