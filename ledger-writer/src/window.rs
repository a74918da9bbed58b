//! A posting window: accepted batches of one partition, added up. Pure: no clock, no I/O.
//!
//! Strings become numbers of the window once per batch, so that adding a sum hashes a few integers.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::Hash,
    sync::Arc,
};

use domain::{
    chain::{Offer, Place},
    period::PeriodKind,
    wire::{
        block::BlockHeader,
        codec::DecodeError,
        rated::{Counts, Header, OuterError, Sections},
        sums::{self, Sum, SumKey, Sums},
        trace::{self, TraceContext},
    },
};
use hashbrown::HashMap;
use ledger::post::{Charge, Cost, Figures, HeldCharge, Posting, RunningTotal, Usage};
use uuid::Uuid;

/// Why a batch that continues the chain cannot be posted: the partition stops.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// The message, or the batch's version or hash.
    #[error(transparent)]
    Outer(#[from] OuterError),
    /// A section of an accepted batch.
    #[error("the rated batch from {from} cannot be read: {error}")]
    Section {
        /// First position of the batch.
        from: i64,
        /// What is wrong.
        error: DecodeError,
    },
    /// A tenant's outcomes are not as many as what came in.
    #[error("the counts of the rated batch from {from} do not balance for tenant {tenant}")]
    Unbalanced {
        /// First position of the batch.
        from: i64,
        /// The tenant.
        tenant: Uuid,
    },
    /// Sums that no money or usage has.
    #[error("the sums of the rated batch from {from} do not fit 128 bits with those before it")]
    TooLarge {
        /// First position of the batch.
        from: i64,
    },
}

/// Number of a string of the window; 0 is the empty string.
type Name = u32;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct UsageKey {
    tenant: u32,
    team: Name,
    meter: Name,
    bucket: i64,
    currency: Name,
    cost_currency: Name,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct ChargeKey {
    tenant: u32,
    team: Name,
    meter: Name,
    card: Name,
    card_version: u32,
    currency: Name,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct CostKey {
    tenant: u32,
    meter: Name,
    currency: Name,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct HeldKey {
    tenant: u32,
    team: Name,
    currency: Name,
    meter: Name,
    bucket: i64,
    hold: Uuid,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct TotalKey {
    tenant: u32,
    team: Name,
    meter: Name,
    scope: Name,
    period: PeriodKind,
    start_us: i64,
}

/// Numbers of different values, in order of arrival.
#[derive(Clone, Debug)]
struct Numbers<T> {
    numbers: HashMap<T, u32>,
    values: Vec<T>,
}

impl<T: Clone + Eq + Hash> Numbers<T> {
    fn new() -> Self {
        Numbers { numbers: HashMap::new(), values: Vec::new() }
    }

    fn number<Q>(&mut self, value: &Q) -> u32
    where
        T: std::borrow::Borrow<Q> + for<'a> From<&'a Q>,
        Q: Eq + Hash + ?Sized,
    {
        if let Some(number) = self.numbers.get(value) {
            return *number;
        }
        let number = u32::try_from(self.values.len()).unwrap_or(u32::MAX);
        let owned = T::from(value);
        self.values.push(owned.clone());
        self.numbers.insert(owned, number);
        number
    }

    fn value(&self, number: u32) -> Option<&T> {
        self.values.get(usize::try_from(number).ok()?)
    }
}

/// The window of one partition.
#[derive(Clone)]
pub struct Window {
    partition: u32,
    from: Place,
    place: Place,
    catalog_version: u64,
    append_time_us: i64,
    batches: usize,
    ignored: u64,
    ignored_since: u64,
    counts: BTreeMap<Uuid, Counts>,
    traces: Vec<TraceContext>,
    tenants: Vec<Uuid>,
    tenant_numbers: HashMap<Uuid, u32>,
    names: Numbers<Arc<str>>,
    usage: HashMap<UsageKey, Sum>,
    running_totals: HashMap<TotalKey, i128>,
    charges: HashMap<ChargeKey, Figures>,
    costs: HashMap<CostKey, Figures>,
    held: HashMap<HeldKey, i128>,
    forwarded_holds: BTreeSet<(Uuid, Uuid)>,
    size: Size,
}

/// Quantities, charges and costs of all sums together, each without its sign: as long as these fit
/// 128 bits, so does whatever is added up of them.
#[derive(Clone, Copy, Default)]
struct Size([u128; 3]);

impl Size {
    /// With more sums; none where it would not fit.
    fn with(self, sums: &Sums<'_>) -> Option<Size> {
        let all = |sum: &Sum| [sum.quantity, sum.charge, sum.cost].map(i128::unsigned_abs);
        let Size(mut sizes) = self;
        for (size, more) in sums.entries.iter().flat_map(|(_, sum)| (0..3).zip(all(sum))) {
            let size = sizes.get_mut(size)?;
            *size = size.checked_add(more).filter(|size| *size <= i128::MAX.unsigned_abs())?;
        }
        Some(Size(sizes))
    }
}

impl Window {
    /// An empty window of a partition whose ledger stands at `place`.
    #[must_use]
    pub fn new(partition: u32, place: Place, catalog_version: u64) -> Window {
        let mut names = Numbers::new();
        names.number("");
        Window {
            partition,
            from: place,
            place,
            catalog_version,
            append_time_us: 0,
            batches: 0,
            ignored: 0,
            ignored_since: 0,
            counts: BTreeMap::new(),
            traces: Vec::new(),
            tenants: Vec::new(),
            tenant_numbers: HashMap::new(),
            names,
            usage: HashMap::new(),
            running_totals: HashMap::new(),
            charges: HashMap::new(),
            costs: HashMap::new(),
            held: HashMap::new(),
            forwarded_holds: BTreeSet::new(),
            size: Size::default(),
        }
    }

    /// Judges the message at `position` of `[rated]` and adds it if it continues. Answers whether
    /// it did.
    pub fn offer(&mut self, position: i64, message: &[u8]) -> Result<bool, WindowError> {
        match self.place.offer(self.partition, position, message)? {
            Offer::Ignored(_) => {
                self.ignored_since = self.ignored_since.saturating_add(1);
                Ok(false)
            }
            Offer::Accepted(outer, place) => {
                self.add(outer.from, message)?;
                self.place = place;
                Ok(true)
            }
        }
    }

    /// The place after the last batch of the window.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place
    }

    /// Where the ledger stands before it.
    #[must_use]
    pub fn from(&self) -> Place {
        self.from
    }

    /// Whether it has no batch.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.batches == 0
    }

    /// How many batches it has.
    #[must_use]
    pub fn batches(&self) -> usize {
        self.batches
    }

    /// How many rows of running totals it has.
    #[must_use]
    pub fn sums(&self) -> usize {
        self.usage.len()
    }

    /// The catalog version after its last batch.
    #[must_use]
    pub fn catalog_version(&self) -> u64 {
        self.catalog_version
    }

    /// Highest append time of its blocks, microseconds since 1970.
    #[must_use]
    pub fn append_time_us(&self) -> i64 {
        self.append_time_us
    }

    /// Sampled requests that have events in it.
    #[must_use]
    pub fn traces(&self) -> &[TraceContext] {
        &self.traces
    }

    /// What it posts: sorted, so that every writer takes locks in the same order.
    #[must_use]
    pub fn posting(&self) -> Posting {
        Posting {
            partition: self.partition,
            from: self.from,
            to: self.place,
            catalog_version: self.catalog_version,
            append_time_us: self.append_time_us,
            ignored: self.ignored,
            counts: self.counts.iter().map(|(tenant, counts)| (*tenant, *counts)).collect(),
            usage: self.sorted_usage(),
            running_totals: self.sorted_running_totals(),
            charges: self.sorted_charges(),
            costs: self.sorted_costs(),
            held: self.sorted_held(),
            forwarded_holds: self.forwarded_holds.iter().copied().collect(),
        }
    }

    /// Nothing of the batch is added when it cannot be read.
    fn add(&mut self, from: i64, message: &[u8]) -> Result<(), WindowError> {
        let section = |error| WindowError::Section { from, error };
        let sections = Sections::split(message).map_err(section)?;
        let header = sections.header().map_err(section)?;
        let sums = sections.sums(&header).map_err(section)?;
        if let Some((tenant, _)) = header.counts.iter().find(|(_, counts)| !counts.balanced()) {
            return Err(WindowError::Unbalanced { from, tenant: *tenant });
        }
        let forwarded_holds = forwarded_holds(&sections).map_err(section)?;
        let size = self.size.with(&sums).ok_or(WindowError::TooLarge { from })?;
        let tenants = self.number_tenants(&header);
        let names: Vec<Name> =
            sums.dictionary.texts().iter().map(|text| self.names.number(*text)).collect();
        self.add_sums(&sums, &tenants, &names).map_err(section)?;
        self.size = size;
        self.forwarded_holds.extend(forwarded_holds);
        for (tenant, counts) in &header.counts {
            self.counts.entry(*tenant).or_default().add(counts);
        }
        trace::add(&mut self.traces, &header.traces);
        self.catalog_version = header.catalog_version;
        let (first_us, highest_us) = header.append_time_us;
        self.append_time_us = self.append_time_us.max(first_us).max(highest_us);
        self.batches += 1;
        // What was ignored after the last accepted batch is read again by a successor, so it
        // counts only once another batch is accepted.
        self.ignored = self.ignored.saturating_add(self.ignored_since);
        self.ignored_since = 0;
        Ok(())
    }

    fn number_tenants(&mut self, header: &Header) -> Vec<u32> {
        let mut number = |tenant: Uuid| {
            let next = u32::try_from(self.tenants.len()).unwrap_or(u32::MAX);
            *self.tenant_numbers.entry(tenant).or_insert_with(|| {
                self.tenants.push(tenant);
                next
            })
        };
        header.counts.iter().map(|(tenant, _)| number(*tenant)).collect()
    }

    /// Keys are translated before the first is added.
    fn add_sums(
        &mut self,
        sums: &Sums<'_>,
        tenants: &[u32],
        names: &[Name],
    ) -> Result<(), DecodeError> {
        let translated =
            sums.entries.iter().map(|(key, sum)| Ok((Keys::of(key, tenants, names)?, sum)));
        let translated = translated.collect::<Result<Vec<_>, DecodeError>>()?;
        let totals = sums.totals.iter().map(|total| TotalKey::of(total, tenants, names));
        let totals = totals.collect::<Result<Vec<_>, DecodeError>>()?;
        for (keys, sum) in translated {
            self.usage.entry(keys.usage).or_default().add(sum);
            if let Some(key) = keys.charge {
                add(self.charges.entry(key).or_default(), sum.charge, sum);
            }
            if let Some(key) = keys.held {
                let held = self.held.entry(key).or_default();
                // Below the size of all charges together, which fits.
                *held = held.saturating_add(sum.charge);
            }
            if let Some(key) = keys.cost {
                add(self.costs.entry(key).or_default(), sum.cost, sum);
            }
        }
        for (key, quantity) in totals {
            self.running_totals.insert(key, quantity);
        }
        Ok(())
    }

    fn tenant(&self, number: u32) -> Uuid {
        let tenant = usize::try_from(number).ok().and_then(|number| self.tenants.get(number));
        assert!(tenant.is_some(), "a numbered tenant");
        tenant.copied().unwrap_or_default()
    }

    fn name(&self, number: Name) -> Arc<str> {
        let name = self.names.value(number);
        assert!(name.is_some(), "a numbered name");
        name.cloned().unwrap_or_else(|| Arc::from(""))
    }

    fn sorted_usage(&self) -> Vec<Usage> {
        let row = |(key, sum): (&UsageKey, &Sum)| Usage {
            tenant: self.tenant(key.tenant),
            team: self.name(key.team),
            meter: self.name(key.meter),
            bucket: key.bucket,
            currency: self.name(key.currency),
            cost_currency: self.name(key.cost_currency),
            sum: *sum,
        };
        let mut rows: Vec<Usage> = self.usage.iter().map(row).collect();
        rows.sort_unstable_by(|left, right| usage_order(left).cmp(&usage_order(right)));
        rows
    }

    fn sorted_running_totals(&self) -> Vec<RunningTotal> {
        let row = |(key, quantity): (&TotalKey, &i128)| RunningTotal {
            tenant: self.tenant(key.tenant),
            team: self.name(key.team),
            meter: self.name(key.meter),
            scope: self.name(key.scope),
            period: key.period,
            start_us: key.start_us,
            quantity: *quantity,
        };
        let mut rows: Vec<RunningTotal> = self.running_totals.iter().map(row).collect();
        rows.sort_unstable();
        rows
    }

    fn sorted_charges(&self) -> Vec<Charge> {
        let row = |(key, figures): (&ChargeKey, &Figures)| Charge {
            tenant: self.tenant(key.tenant),
            team: self.name(key.team),
            meter: self.name(key.meter),
            card: self.name(key.card),
            card_version: key.card_version,
            currency: self.name(key.currency),
            figures: *figures,
        };
        let mut rows: Vec<Charge> = self.charges.iter().map(row).collect();
        rows.sort_unstable_by(|left, right| charge_order(left).cmp(&charge_order(right)));
        rows
    }

    fn sorted_held(&self) -> Vec<HeldCharge> {
        let row = |(key, amount): (&HeldKey, &i128)| HeldCharge {
            tenant: self.tenant(key.tenant),
            team: self.name(key.team),
            currency: self.name(key.currency),
            meter: self.name(key.meter),
            bucket: key.bucket,
            hold: key.hold,
            amount: *amount,
        };
        let mut rows: Vec<HeldCharge> = self.held.iter().map(row).collect();
        rows.sort_unstable();
        rows
    }

    fn sorted_costs(&self) -> Vec<Cost> {
        let row = |(key, figures): (&CostKey, &Figures)| Cost {
            tenant: self.tenant(key.tenant),
            meter: self.name(key.meter),
            currency: self.name(key.currency),
            figures: *figures,
        };
        let mut rows: Vec<Cost> = self.costs.iter().map(row).collect();
        rows.sort_unstable_by(|left, right| cost_order(left).cmp(&cost_order(right)));
        rows
    }
}

/// Holds whose usage a batch forwards, by tenant and id.
fn forwarded_holds(sections: &Sections<'_>) -> Result<Vec<(Uuid, Uuid)>, DecodeError> {
    let mut holds = Vec::new();
    for forward in sections.forwards()? {
        if let Some(hold) = forward.hold {
            let header = BlockHeader::decode(&forward.block)?;
            holds.extend(header.tenants.first().map(|of| (of.tenant, hold)));
        }
    }
    Ok(holds)
}

/// What one sum is added to.
struct Keys {
    usage: UsageKey,
    charge: Option<ChargeKey>,
    held: Option<HeldKey>,
    cost: Option<CostKey>,
}

fn get(list: &[u32], number: u32) -> Result<u32, DecodeError> {
    let index = usize::try_from(number).map_err(|_| DecodeError::Field("sums"))?;
    list.get(index).copied().ok_or(DecodeError::Field("sums"))
}

impl TotalKey {
    fn of(
        total: &sums::RunningTotal,
        tenants: &[u32],
        names: &[Name],
    ) -> Result<(TotalKey, i128), DecodeError> {
        let key = TotalKey {
            tenant: get(tenants, total.tenant)?,
            team: get(names, total.team)?,
            meter: get(names, total.meter)?,
            scope: get(names, total.scope)?,
            period: total.period,
            start_us: total.start_us,
        };
        Ok((key, total.quantity))
    }
}

impl Keys {
    fn of(key: &SumKey, tenants: &[u32], names: &[Name]) -> Result<Keys, DecodeError> {
        let optional = |number: Option<u32>| number.map_or(Ok(0), |number| get(names, number));
        let tenant = get(tenants, key.tenant)?;
        let (team, meter) = (get(names, key.team)?, get(names, key.meter)?);
        let (currency, cost_currency) = (optional(key.currency)?, optional(key.cost_currency)?);
        let card = optional(key.card)?;
        let usage = UsageKey { tenant, team, meter, bucket: key.bucket, currency, cost_currency };
        let charge = key.currency.map(|_| ChargeKey {
            tenant,
            team,
            meter,
            card,
            card_version: key.card_version,
            currency,
        });
        let held = key.currency.and(key.hold).map(|hold| HeldKey {
            tenant,
            team,
            currency,
            meter,
            bucket: key.bucket,
            hold,
        });
        let cost = key.cost_currency.map(|_| CostKey { tenant, meter, currency: cost_currency });
        Ok(Keys { usage, charge, held, cost })
    }
}

/// The order of the primary key of `usage_totals`.
fn usage_order(row: &Usage) -> (Uuid, &str, &str, i64, &str, &str) {
    (row.tenant, &row.team, &row.meter, row.bucket, &row.currency, &row.cost_currency)
}

fn charge_order(row: &Charge) -> (Uuid, &str, &str, &str, u32, &str) {
    (row.tenant, &row.team, &row.meter, &row.card, row.card_version, &row.currency)
}

fn cost_order(row: &Cost) -> (Uuid, &str, &str) {
    (row.tenant, &row.meter, &row.currency)
}

fn add(figures: &mut Figures, amount: i128, sum: &Sum) {
    let total = figures.amount.checked_add(amount).zip(figures.quantity.checked_add(sum.quantity));
    assert!(total.is_some(), "a sum fits 128 bits");
    (figures.amount, figures.quantity) = total.unwrap_or_default();
    figures.events = figures.events.saturating_add(sum.events);
}

#[cfg(test)]
mod tests;
