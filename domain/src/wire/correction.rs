//! The body of a command that corrects one event: it takes back what the event came to, and says what it
//! is from now on. `docs/FORMATS.md`, "Correction".
//!
//! The command carries what the archive has of the event, so that who carries it out asks nobody: the
//! lines are taken back as they were written, whatever the prices are now.

use std::borrow::Cow;

use xxhash_rust::xxh3::xxh3_64;

use super::codec::{DecodeError, Input, Output};
use crate::{
    catalog::{CardVersionName, Catalog},
    money::Amount,
    period::PeriodKind,
    preview::PreviewLine,
    rating::{Charge, Line, Outcome, TotalName},
};

/// The version of this format, its first byte.
const VERSION: u8 = 1;

/// A correction of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Correction<'a> {
    /// Position at which the event took its id: of a late one, its copy's.
    pub position: i64,
    /// Index there.
    pub index: u32,
    /// Which correction of this event it is, from 1: the archive's `rating_run`.
    pub run: u32,
    /// The archive's position up to which this was the newest state of the event.
    pub checked_to: i64,
    /// The time at which its lines stand, microseconds.
    pub time_us: i64,
    /// The outcome so far.
    pub outcome: Outcome,
    /// What it came to so far.
    pub lines: Vec<StoredLine<'a>>,
    /// What it is from now on; `None` for nothing: it is void.
    pub again: Option<Again>,
    /// A block with the event as it is so far, and behind it, where its content changes, as it is from now
    /// on. Their identities are zero: the event keeps the id that it took.
    pub block: &'a [u8],
}

/// How an event is rated once more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Again {
    /// When it happened, microseconds, where its record says nothing of it.
    pub time_us: i64,
    /// [`fingerprint`] of the lines that were shown to who asked: other ones are not booked.
    pub expected: u64,
    /// Running totals (raw) that lines begin with: an event is charged where it stands in its period, not
    /// behind all that came after it. Totals that are not named here are taken as they are.
    pub totals: Vec<(TotalName, i128)>,
}

/// A line as the archive has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLine<'a> {
    /// The meter.
    pub meter: Cow<'a, str>,
    /// Its unit.
    pub unit: Cow<'a, str>,
    /// How much, raw.
    pub quantity: i128,
    /// 1 priced, 2 unlimited, 3 unpriced, 4 observed.
    pub status: u8,
    /// The charge.
    pub charge: StoredMoney<'a>,
    /// The cost.
    pub cost: StoredMoney<'a>,
    /// Dimensions that it has, by name.
    pub dimensions: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// The running total before it, raw.
    pub total_before: i128,
    /// The running total that it moved on, and by how much (raw).
    pub moved: Option<(TotalName, i128)>,
}

/// A card's version and what it came to; without a card the texts are empty and the version is zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredMoney<'a> {
    /// The card.
    pub card: Cow<'a, str>,
    /// Its version.
    pub version: u32,
    /// The currency.
    pub currency: Cow<'a, str>,
    /// The amount, raw; `None` where nobody knows it.
    pub amount: Option<i128>,
}

/// The status of a line that is priced with its period, at its close.
pub const OBSERVED: u8 = 4;

/// The status of a line in the archive.
#[must_use]
pub fn status(charge: &Charge) -> u8 {
    match charge {
        Charge::Priced { .. } => 1,
        Charge::Unlimited { .. } => 2,
        Charge::Unpriced => 3,
        Charge::Observed => OBSERVED,
    }
}

impl<'a> StoredLine<'a> {
    /// A line that this catalog rated, as the archive would have it.
    #[must_use]
    pub fn of(line: &'a Line<'_>, catalog: &'a Catalog) -> StoredLine<'a> {
        let name = |number: Option<u32>| {
            let number = number.and_then(|number| usize::try_from(number).ok());
            number.and_then(|number| catalog.card_versions.get(number))
        };
        let meter = catalog.meters.get(line.meter);
        let names = meter.map_or(&[][..], |meter| &meter.dimensions);
        let mut dimensions: Vec<_> = names
            .iter()
            .zip(&line.dimensions)
            .filter_map(|(name, value)| {
                value.as_deref().map(|value| (Cow::Borrowed(&**name), Cow::Borrowed(value)))
            })
            .collect();
        dimensions.sort_unstable();
        StoredLine {
            meter: Cow::Borrowed(meter.map_or("", |meter| &meter.key)),
            unit: Cow::Borrowed(meter.map_or("", |meter| &meter.unit)),
            quantity: line.quantity.raw(),
            status: status(&line.charge),
            charge: StoredMoney::of(name(line.charge.card_version()), line.charge.amount()),
            cost: StoredMoney::of(
                name(line.cost.map(|(_, number)| number)),
                line.cost.map(|(amount, _)| amount),
            ),
            dimensions,
            total_before: line.total.as_deref().map_or(0, |total| total.before),
            moved: line
                .total
                .as_deref()
                .map(|total| (total.name.clone(), total.after.saturating_sub(total.before))),
        }
    }

    /// A line of a preview, as the archive would have it.
    #[must_use]
    pub fn of_preview(line: &'a PreviewLine) -> StoredLine<'a> {
        let cost = line.cost.as_ref();
        StoredLine {
            meter: Cow::Borrowed(&line.meter),
            unit: Cow::Borrowed(&line.unit),
            quantity: line.quantity.raw(),
            status: status(&line.charge),
            charge: StoredMoney::of(line.card.as_ref(), line.charge.amount()),
            cost: StoredMoney::of(cost.map(|(_, name)| name), cost.map(|(amount, _)| *amount)),
            dimensions: line
                .dimensions
                .iter()
                .map(|(name, value)| (Cow::Borrowed(&**name), Cow::Borrowed(&**value)))
                .collect(),
            total_before: line.total.as_ref().map_or(0, |(_, before, _)| *before),
            moved: line
                .total
                .as_ref()
                .map(|(name, before, after)| (name.clone(), after.saturating_sub(*before))),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.text(&self.meter);
        out.text(&self.unit);
        out.signed(self.quantity);
        out.push(self.status);
        self.charge.encode(out);
        self.cost.encode(out);
        out.length(self.dimensions.len());
        for (name, value) in &self.dimensions {
            out.text(name);
            out.text(value);
        }
        out.signed(self.total_before);
        out.push(u8::from(self.moved.is_some()));
        if let Some(total) = &self.moved {
            encode_total(total, out);
        }
    }

    fn decode(input: &mut Input<'a>) -> Result<StoredLine<'a>, DecodeError> {
        let (meter, unit) = (Cow::Borrowed(input.text()?), Cow::Borrowed(input.text()?));
        let (quantity, status) = (input.signed()?, input.u8()?);
        if !(1..=OBSERVED).contains(&status) {
            return Err(DecodeError::Field("status"));
        }
        let (charge, cost) = (StoredMoney::decode(input)?, StoredMoney::decode(input)?);
        let mut dimensions = Vec::new();
        for _ in 0..input.count(2)? {
            dimensions.push((Cow::Borrowed(input.text()?), Cow::Borrowed(input.text()?)));
        }
        let total_before = input.signed()?;
        let moved = flag(input)?.then(|| decode_total(input)).transpose()?;
        Ok(StoredLine {
            meter,
            unit,
            quantity,
            status,
            charge,
            cost,
            dimensions,
            total_before,
            moved,
        })
    }
}

impl<'a> StoredMoney<'a> {
    fn of(name: Option<&'a CardVersionName>, amount: Option<Amount>) -> StoredMoney<'a> {
        StoredMoney {
            card: Cow::Borrowed(name.map_or("", |name| &name.card)),
            version: name.map_or(0, |name| name.version),
            currency: Cow::Borrowed(name.map_or("", |name| &name.currency)),
            amount: amount.map(Amount::raw),
        }
    }

    /// Whether there is a card, and hence a currency.
    #[must_use]
    pub fn has_card(&self) -> bool {
        !self.card.is_empty()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.text(&self.card);
        out.varint(u64::from(self.version));
        out.text(&self.currency);
        out.push(u8::from(self.amount.is_some()));
        if let Some(amount) = self.amount {
            out.signed(amount);
        }
    }

    fn decode(input: &mut Input<'a>) -> Result<StoredMoney<'a>, DecodeError> {
        Ok(StoredMoney {
            card: Cow::Borrowed(input.text()?),
            version: input.varint_u32()?,
            currency: Cow::Borrowed(input.text()?),
            amount: flag(input)?.then(|| input.signed()).transpose()?,
        })
    }
}

/// What lines say, as one number: two that are equal book the same.
#[must_use]
pub fn fingerprint<'l, 'a: 'l>(lines: impl IntoIterator<Item = &'l StoredLine<'a>>) -> u64 {
    let mut bytes = Vec::new();
    for line in lines {
        line.encode(&mut bytes);
    }
    xxh3_64(&bytes)
}

fn flag(input: &mut Input<'_>) -> Result<bool, DecodeError> {
    match input.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::Field("flag")),
    }
}

fn encode_total((name, quantity): &(TotalName, i128), out: &mut Vec<u8>) {
    out.text(&name.meter);
    out.text(&name.scope);
    out.push(name.period.code());
    out.raw(&name.start_us.to_le_bytes());
    out.signed(*quantity);
}

fn decode_total(input: &mut Input<'_>) -> Result<(TotalName, i128), DecodeError> {
    let (meter, scope) = (input.text()?.into(), input.text()?.into());
    let period = PeriodKind::from_code(input.u8()?).ok_or(DecodeError::Field("period"))?;
    let name = TotalName { meter, scope, period, start_us: input.i64()? };
    Ok((name, input.signed()?))
}

impl<'a> Correction<'a> {
    /// The body of the command.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.raw(&self.position.to_le_bytes());
        out.varint(u64::from(self.index));
        out.varint(u64::from(self.run));
        out.raw(&self.checked_to.to_le_bytes());
        out.raw(&self.time_us.to_le_bytes());
        out.push(outcome_code(self.outcome));
        out.length(self.lines.len());
        for line in &self.lines {
            line.encode(&mut out);
        }
        out.push(u8::from(self.again.is_some()));
        if let Some(again) = &self.again {
            out.raw(&again.time_us.to_le_bytes());
            out.raw(&again.expected.to_le_bytes());
            out.length(again.totals.len());
            for total in &again.totals {
                encode_total(total, &mut out);
            }
        }
        out.bytes(self.block);
        out
    }

    /// Reads the body; all of it must be used.
    pub fn decode(body: &'a [u8]) -> Result<Correction<'a>, DecodeError> {
        let mut input = Input::new(body);
        if input.u8()? != VERSION {
            return Err(DecodeError::Field("correction version"));
        }
        let (position, index, run) = (input.i64()?, input.varint_u32()?, input.varint_u32()?);
        if run == 0 {
            return Err(DecodeError::Field("run"));
        }
        let (checked_to, time_us) = (input.i64()?, input.i64()?);
        let outcome = match input.u8()? {
            1 => Outcome::Rated,
            2 => Outcome::Unmetered,
            3 => Outcome::Unpriced,
            _ => return Err(DecodeError::Field("outcome")),
        };
        let mut lines = Vec::new();
        for _ in 0..input.count(12)? {
            lines.push(StoredLine::decode(&mut input)?);
        }
        let again = flag(&mut input)?
            .then(|| {
                let (time_us, expected) = (input.i64()?, input.u64()?);
                let mut totals = Vec::new();
                for _ in 0..input.count(12)? {
                    totals.push(decode_total(&mut input)?);
                }
                Ok::<_, DecodeError>(Again { time_us, expected, totals })
            })
            .transpose()?;
        let block = input.bytes()?;
        if !input.is_empty() {
            return Err(DecodeError::Field("correction"));
        }
        Ok(Correction { position, index, run, checked_to, time_us, outcome, lines, again, block })
    }
}

/// The number of an outcome in the archive.
#[must_use]
pub fn outcome_code(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Rated => 1,
        Outcome::Unmetered => 2,
        Outcome::Unpriced => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_correction_is_read_as_it_was_written() {
        let total = || TotalName {
            meter: "tokens".into(),
            scope: "".into(),
            period: PeriodKind::Month,
            start_us: -5,
        };
        let line = StoredLine {
            meter: "tokens".into(),
            unit: "token".into(),
            quantity: -7,
            status: 1,
            charge: StoredMoney {
                card: "standard".into(),
                version: 3,
                currency: "EUR".into(),
                amount: Some(i128::from(i64::MIN)),
            },
            cost: StoredMoney::default(),
            dimensions: vec![("model".into(), "m".into())],
            total_before: 12,
            moved: Some((total(), -7)),
        };
        let again = Again { time_us: 9, expected: 10, totals: vec![(total(), 11)] };
        let written = Correction {
            position: 1,
            index: 2,
            run: 3,
            checked_to: 4,
            time_us: 5,
            outcome: Outcome::Unpriced,
            lines: vec![line],
            again: Some(again),
            block: b"block",
        };
        let body = written.encode();
        assert_eq!(Correction::decode(&body), Ok(written.clone()));
        for length in 0..body.len() {
            assert!(Correction::decode(&body[..length]).is_err(), "{length} bytes are too few");
        }
        assert!(Correction::decode(&[&body[..], b"x"].concat()).is_err());
        let void = Correction { again: None, lines: Vec::new(), ..written };
        assert_eq!(Correction::decode(&void.encode()), Ok(void));
    }
}
