//! Corrections: somebody reads the archive, and sends a command that takes an event back or gives it
//! another quantity. What he has read may be old by the time that it is carried out, or sent twice.

use domain::{
    period::PeriodKind,
    rating::{Outcome, TotalName},
    wire::{
        block::BlockWriter,
        correction::{Again, Correction, StoredLine, StoredMoney, fingerprint},
        record::{Command, CommandKind, Entry as RecordEntry},
    },
};

use super::{
    random::Random,
    rows::{ArchivedLine, UsageRow},
    traffic::{DAY_US, Entry, Event, Kind, Line, ONE, TENANTS, TIERED, lines, put_event},
    world::World,
};

/// A correction of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Correct {
    /// Position and index at which the event took its id.
    pub of: (i64, u32),
    /// Its number.
    pub run: u32,
    /// Where the archive was.
    pub checked_to: i64,
    /// The event as it was sent.
    pub event: Event,
    /// Its quantity from now on; `None` takes it back.
    pub now: Option<i64>,
    /// Units of its day that it begins with.
    pub given: i128,
    /// The catalog that it is believed to be rated by.
    pub version: u64,
}

type Money<'a> = Option<(&'a str, u32, &'a str, i128)>;

fn money<'a>(part: Money<'a>) -> StoredMoney<'a> {
    part.map_or_else(StoredMoney::default, |(card, version, currency, amount)| StoredMoney {
        card: card.into(),
        version,
        currency: currency.into(),
        amount: Some(amount),
    })
}

/// A line as a command has it; `time_us` is when its event happened.
fn stored<'a>(
    (meter, quantity, total_before, status): (&'a str, i128, i128, u8),
    (charge, cost): (Money<'a>, Money<'a>),
    time_us: i64,
) -> StoredLine<'a> {
    let name = TotalName {
        meter: TIERED.into(),
        scope: "".into(),
        period: PeriodKind::Day,
        start_us: time_us.div_euclid(DAY_US) * DAY_US,
    };
    StoredLine {
        meter: meter.into(),
        unit: "unit".into(),
        quantity,
        status,
        charge: money(charge),
        cost: money(cost),
        dimensions: Vec::new(),
        total_before,
        moved: (meter == TIERED).then_some((name, quantity)),
    }
}

fn of_archive(line: &ArchivedLine, time_us: i64) -> StoredLine<'_> {
    fn part((card, version, currency, amount): &(String, u32, String, Option<i128>)) -> Money<'_> {
        amount.map(|amount| (card.as_str(), *version, currency.as_str(), amount))
    }
    let of = (line.meter.as_str(), line.quantity, line.total_before, line.status);
    stored(of, (part(&line.charge), part(&line.cost)), time_us)
}

fn of_worth(line: &Line, time_us: i64) -> StoredLine<'_> {
    let of = (line.meter, line.quantity, line.total_before.unwrap_or(0), line.status());
    stored(of, (line.charge, line.cost), time_us)
}

impl World {
    /// Somebody looks at an event of the archive and sends a correction, once or twice; false where there
    /// is nothing to correct.
    pub fn correct(&mut self, partition: usize, random: &mut Random) -> bool {
        let number = u32::try_from(partition).unwrap();
        let archived = self.archive.position(number).x;
        if archived < 0 {
            return false;
        }
        let own: Vec<&UsageRow> = self
            .archive
            .usage
            .range((number, 0, 0)..=(number, archived, u32::MAX))
            .map(|(_, row)| row)
            .collect();
        if own.is_empty() {
            return false;
        }
        let row = own[random.below(own.len())];
        let of = (row.head.position, row.head.index);
        let event = match &self.log[partition].block(of.0).unwrap().entries[of.1 as usize] {
            Entry::Event(event) | Entry::Copy { event, .. } | Entry::Closing { event, .. } => {
                *event
            }
            other => panic!("{other:?} took an id"),
        };
        let corrections = self.archive.corrections.iter();
        let newest = corrections
            .filter(|((of_partition, position, ..), row)| {
                *of_partition == number && row.origin == of && *position <= archived
            })
            .max_by_key(|((.., sign), row)| (row.run, *sign))
            .map(|(_, row)| row);
        // A void event stays so.
        if newest.is_some_and(|newest| newest.sign < 0) {
            return false;
        }
        let effective = newest.unwrap_or(row);
        let tiered = effective.lines.iter().find(|line| line.meter == TIERED);
        let given = tiered.map_or(0, |line| line.total_before / ONE);
        let now = (!random.one_in(3)).then(|| 1 + random.below(40) as i64);
        // What closed a period follows what is observed. It can only be voided.
        if event.kind() == Kind::Closing && now.is_some() {
            return false;
        }
        let correct = Correct {
            of,
            run: effective.run + 1,
            checked_to: archived,
            event,
            now,
            given,
            version: self.version,
        };
        let Some(payload) = encode(&correct, effective) else { return false };
        let twice = random.one_in(4);
        for _ in 0..=usize::from(twice) {
            self.append(partition, vec![Entry::Correct(correct)], payload.clone().into());
        }
        true
    }
}

/// The block of the command; `None` where the event would be rejected.
pub(super) fn encode(correct: &Correct, effective: &UsageRow) -> Option<Vec<u8>> {
    let time_us = effective.time_us;
    let mut block = BlockWriter::default();
    put_event(&mut block, &correct.event, 0);
    let after = match correct.now {
        None => None,
        Some(quantity) => {
            let event = Event { quantity, ..correct.event };
            put_event(&mut block, &event, 0);
            Some(lines(&event, correct.version, correct.given)?)
        }
    };
    let again = after.as_ref().map(|after| {
        let after: Vec<_> = after.iter().map(|line| of_worth(line, time_us)).collect();
        let totals = after.iter().filter_map(|line| line.moved.as_ref());
        let given = correct.given * ONE;
        Again {
            time_us,
            expected: fingerprint(&after),
            totals: totals.map(|(name, _)| (name.clone(), given)).collect(),
        }
    });
    let block = block.finish();
    let correction = Correction {
        position: correct.of.0,
        index: correct.of.1,
        run: correct.run,
        checked_to: correct.checked_to,
        time_us,
        outcome: match effective.outcome {
            1 => Outcome::Rated,
            2 => Outcome::Unmetered,
            _ => Outcome::Unpriced,
        },
        lines: effective.lines.iter().map(|line| of_archive(line, time_us)).collect(),
        again,
        block: &block,
    };
    let mut writer = BlockWriter::default();
    let tenant = writer.tenant(TENANTS[correct.event.tenant()]);
    let body = correction.encode();
    let kind = CommandKind::Correct;
    writer.push(&RecordEntry::Command(Command { tenant, kind, key: b"key", body: &body }));
    Some(writer.finish())
}
