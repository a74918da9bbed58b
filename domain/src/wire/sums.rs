//! Sums of a rated batch: what ledger, live balances and running totals need, and no more.

use uuid::Uuid;

use super::codec::{DecodeError, Dictionary, DictionaryWriter, Input, Output};
use crate::period::PeriodKind;

/// What one sum is about. Strings are numbers of the sums' own dictionary; zero is "none" where a
/// field says so, and other numbers are the dictionary's plus one there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SumKey {
    /// Number of the tenant in the batch's counts.
    pub tenant: u32,
    /// The billing account.
    pub team: u32,
    /// The meter.
    pub meter: u32,
    /// The rate card; none for an unpriced line.
    pub card: Option<u32>,
    /// Its version; 0 for an unpriced line.
    pub card_version: u32,
    /// Currency of the charge; none for an unpriced line.
    pub currency: Option<u32>,
    /// Currency of the cost; none where no cost is known.
    pub cost_currency: Option<u32>,
    /// The hold that the usage belongs to.
    pub hold: Option<Uuid>,
    /// Number of the 15-minute bucket of the event time.
    pub bucket: i64,
    /// User, where something refers to it.
    pub user: Option<u32>,
    /// App, where something refers to it.
    pub app: Option<u32>,
    /// API key, where something refers to it.
    pub key: Option<u32>,
    /// Feature, where something refers to it.
    pub feature: Option<u32>,
}

/// What was added up, in raw values (10⁻¹²).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Quantity in the meter's unit.
    pub quantity: i128,
    /// Charge in the key's currency.
    pub charge: i128,
    /// Cost in the key's cost currency.
    pub cost: i128,
    /// Lines, which is events of this meter; those that are taken back count against the others.
    pub events: i64,
}

impl Sum {
    /// Adds another; an overflow is impossible below 10⁵ maximal lines a batch and ends the process.
    pub fn add(&mut self, other: &Sum) {
        let add = |left: i128, right: i128| {
            let sum = left.checked_add(right);
            assert!(sum.is_some(), "a sum fits 128 bits");
            sum.unwrap_or(0)
        };
        self.quantity = add(self.quantity, other.quantity);
        self.charge = add(self.charge, other.charge);
        self.cost = add(self.cost, other.cost);
        self.events = self.events.saturating_add(other.events);
    }
}

/// A running total as the batch leaves it. Strings are numbers of the sums' dictionary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunningTotal {
    /// Number of the tenant in the batch's counts.
    pub tenant: u32,
    /// The billing account.
    pub team: u32,
    /// The meter.
    pub meter: u32,
    /// The dimensions of a row that has a total of its own; the empty string for the meter's.
    pub scope: u32,
    /// How long it goes on.
    pub period: PeriodKind,
    /// When its period began, microseconds since 1970 UTC; `i64::MIN` for ever.
    pub start_us: i64,
    /// Priced units after the batch, raw (10⁻¹²).
    pub quantity: i128,
}

/// The decoded sums of a batch.
#[derive(Clone, Debug, Default)]
pub struct Sums<'a> {
    /// Their strings.
    pub dictionary: Dictionary<'a>,
    /// Key and sum.
    pub entries: Vec<(SumKey, Sum)>,
    /// Running totals that the batch changed.
    pub totals: Vec<RunningTotal>,
}

fn write_optional(out: &mut Vec<u8>, place: Option<u32>) {
    out.varint(place.map_or(0, |place| u64::from(place) + 1));
}

/// Writes the sums' section. Running totals stand behind the sums, where the batch's version says so.
pub fn encode(
    dictionary: &DictionaryWriter,
    entries: &[(SumKey, Sum)],
    totals: Option<&[RunningTotal]>,
    out: &mut Vec<u8>,
) {
    dictionary.write(out);
    out.length(entries.len());
    for (key, sum) in entries {
        for place in [key.tenant, key.team, key.meter] {
            out.varint(u64::from(place));
        }
        write_optional(out, key.card);
        out.varint(u64::from(key.card_version));
        write_optional(out, key.currency);
        write_optional(out, key.cost_currency);
        out.push(u8::from(key.hold.is_some()));
        if let Some(hold) = key.hold {
            out.raw(hold.as_bytes());
        }
        out.raw(&key.bucket.to_le_bytes());
        for place in [key.user, key.app, key.key, key.feature] {
            write_optional(out, place);
        }
        out.signed(sum.quantity);
        out.signed(sum.charge);
        out.signed(sum.cost);
        out.varint(sum.events.cast_unsigned());
    }
    let Some(totals) = totals else { return };
    out.length(totals.len());
    for total in totals {
        for place in [total.tenant, total.team, total.meter, total.scope] {
            out.varint(u64::from(place));
        }
        out.push(total.period.code());
        out.raw(&total.start_us.to_le_bytes());
        out.signed(total.quantity);
    }
}

impl<'a> Sums<'a> {
    /// Reads the sums' section; `tenants` is how many tenants the batch's counts name, and the version
    /// says whether running totals follow.
    pub fn decode(
        section: &'a [u8],
        tenants: usize,
        has_totals: bool,
    ) -> Result<Sums<'a>, DecodeError> {
        let mut input = Input::new(section);
        let dictionary = Dictionary::read(&mut input)?;
        let count = input.count(24)?;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            let key = decode_key(&mut input, &dictionary)?;
            check_tenant(key.tenant, tenants)?;
            let sum = Sum {
                quantity: input.signed()?,
                charge: input.signed()?,
                cost: input.signed()?,
                events: input.varint()?.cast_signed(),
            };
            entries.push((key, sum));
        }
        let mut totals = Vec::new();
        if has_totals {
            for _ in 0..input.count(14)? {
                let total = decode_total(&mut input, &dictionary)?;
                check_tenant(total.tenant, tenants)?;
                totals.push(total);
            }
        }
        if input.is_empty() {
            Ok(Sums { dictionary, entries, totals })
        } else {
            Err(DecodeError::Field("sums"))
        }
    }
}

fn check_tenant(tenant: u32, tenants: usize) -> Result<(), DecodeError> {
    match usize::try_from(tenant) {
        Ok(tenant) if tenant < tenants => Ok(()),
        _ => Err(DecodeError::Field("tenant")),
    }
}

fn decode_total(
    input: &mut Input<'_>,
    dictionary: &Dictionary<'_>,
) -> Result<RunningTotal, DecodeError> {
    let tenant = input.varint_u32()?;
    let (team, meter, scope) = (input.varint_u32()?, input.varint_u32()?, input.varint_u32()?);
    for text in [team, meter, scope] {
        dictionary.get(text)?;
    }
    let period = PeriodKind::from_code(input.u8()?).ok_or(DecodeError::Field("period"))?;
    let (start_us, quantity) = (input.i64()?, input.signed()?);
    Ok(RunningTotal { tenant, team, meter, scope, period, start_us, quantity })
}

fn decode_key(input: &mut Input<'_>, dictionary: &Dictionary<'_>) -> Result<SumKey, DecodeError> {
    let tenant = input.varint_u32()?;
    let (team, meter) = (input.varint_u32()?, input.varint_u32()?);
    dictionary.get(team)?;
    dictionary.get(meter)?;
    let optional = |input: &mut Input<'_>| {
        let place = input.varint_u32()?;
        dictionary.get_optional(place).map(|_| place.checked_sub(1))
    };
    let card = optional(input)?;
    let card_version = input.varint_u32()?;
    let (currency, cost_currency) = (optional(input)?, optional(input)?);
    let hold = match input.u8()? {
        0 => None,
        1 => Some(input.uuid()?),
        _ => return Err(DecodeError::Field("hold")),
    };
    let bucket = input.i64()?;
    let (user, app) = (optional(input)?, optional(input)?);
    let (key, feature) = (optional(input)?, optional(input)?);
    Ok(SumKey {
        tenant,
        team,
        meter,
        card,
        card_version,
        currency,
        cost_currency,
        hold,
        bucket,
        user,
        app,
        key,
        feature,
    })
}
