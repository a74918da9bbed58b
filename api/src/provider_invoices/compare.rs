//! What a provider bills, held against what Weir counted. Amounts are compared within one currency, and what
//! is not known is `None`, never zero.

use std::collections::{BTreeMap, BTreeSet};

use domain::money::Amount;
use serde::Serialize;
use utoipa::ToSchema;

/// What both sides are grouped by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Grouping {
    pub day: bool,
    pub model: bool,
    pub class: bool,
}

/// What a row is about: day, model and class, in the order of rows.
pub(crate) type Key = [Option<String>; 3];

impl Grouping {
    /// What a row is about; only what is grouped by.
    fn key(self, day: &Option<String>, model: &Option<String>, class: &Option<String>) -> Key {
        let only = |wanted: bool, value: &Option<String>| value.clone().filter(|_| wanted);
        [only(self.day, day), only(self.model, model), only(self.class, class)]
    }
}

/// A sum of lines of the invoice.
#[derive(Clone, Debug)]
pub(crate) struct Billed {
    pub day: Option<String>,
    /// As both sides call it, and as the invoice does.
    pub model: Option<String>,
    pub written: Option<String>,
    pub class: Option<String>,
    pub currency: String,
    pub lines: i64,
    pub amount: Amount,
    /// `None` where a line does not say it.
    pub quantity: Option<Amount>,
}

/// A sum of lines of usage.
#[derive(Clone, Debug)]
pub(crate) struct Used {
    pub day: Option<String>,
    /// As both sides call it, and as the events do.
    pub model: Option<String>,
    pub written: Option<String>,
    pub class: Option<String>,
    pub unit: String,
    /// `None` where no cost is known.
    pub currency: Option<String>,
    pub lines: i64,
    pub uncosted_lines: i64,
    pub quantity: Amount,
    pub cost: Option<Amount>,
}

/// Which differences do not matter: those within either.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tolerance {
    /// In percent of what is billed.
    pub percent: Amount,
    /// In the currency.
    pub amount: Amount,
}

/// How the sides of a row agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ReconciliationStatus)]
pub(crate) enum Status {
    /// They differ by no more than the tolerance.
    Matches,
    /// They differ by more.
    Differs,
    /// Weir has no such usage.
    OnlyInInvoice,
    /// The invoice has no such row.
    OnlyInWeir,
    /// Weir has the usage, and no cost of it is known.
    Uncosted,
    /// The sides are in different currencies, which are not converted.
    CurrencyDiffers,
}

/// Both sides in one currency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ReconciliationSums)]
pub(crate) struct Sums {
    /// How the sides agree.
    pub status: Status,
    /// The currency; null where nothing is billed and no cost is known.
    pub currency: Option<String>,
    /// What the provider bills; null where it bills nothing.
    #[schema(value_type = Option<String>)]
    pub billed: Option<Amount>,
    /// What Weir computed when the usage came; null where it knows no cost.
    #[schema(value_type = Option<String>)]
    pub cost: Option<Amount>,
    /// Billed minus cost; null without both.
    #[schema(value_type = Option<String>)]
    pub difference: Option<Amount>,
    /// The difference in percent of what is billed, to two decimals half to even; null without one, and where 0
    /// is billed.
    #[schema(value_type = Option<String>)]
    pub difference_percent: Option<Amount>,
}

/// A row of a reconciliation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ReconciliationRow)]
pub(crate) struct Row {
    /// The day, in the time zone of the invoice; null unless asked for.
    pub day: Option<String>,
    /// The model; null where there is none, or unless asked for.
    pub model: Option<String>,
    /// The class of usage, or the meter; null where there is none, or unless asked for.
    pub class: Option<String>,
    /// The amounts.
    #[serde(flatten)]
    pub sums: Sums,
    /// What the provider counted; null where a line of its does not say it.
    #[schema(value_type = Option<String>)]
    pub billed_quantity: Option<Amount>,
    /// What Weir counted, with or without a cost; null where it counted in several units.
    #[schema(value_type = Option<String>)]
    pub quantity: Option<Amount>,
    /// Billed quantity minus quantity; null without both.
    #[schema(value_type = Option<String>)]
    pub quantity_difference: Option<Amount>,
    /// The unit of `quantity`.
    pub unit: Option<String>,
    /// Lines of the invoice.
    pub invoice_lines: i64,
    /// Lines of usage.
    pub lines: i64,
    /// Of these: without a known cost.
    pub uncosted_lines: i64,
    /// The models as the invoice writes them.
    pub invoice_models: BTreeSet<String>,
    /// The models as the events write them.
    pub usage_models: BTreeSet<String>,
}

impl Row {
    /// What no other row has, in the order of rows.
    pub fn place(&self) -> Vec<String> {
        let names = [&self.day, &self.model, &self.class, &self.sums.currency];
        names.map(|name| name.clone().unwrap_or_default()).to_vec()
    }
}

/// What was found of one key.
#[derive(Default)]
struct Group {
    billed: BTreeMap<String, Amount>,
    cost: BTreeMap<String, Amount>,
    billed_quantity: Option<Amount>,
    is_quantity_unknown: bool,
    quantity: Amount,
    units: BTreeSet<String>,
    invoice_lines: i64,
    lines: i64,
    uncosted_lines: i64,
    invoice_models: BTreeSet<String>,
    usage_models: BTreeSet<String>,
}

/// Holds both sides against each other; `None` beyond the limit of sums.
pub(crate) fn rows(
    billed: &[Billed],
    used: &[Used],
    grouping: Grouping,
    tolerance: Tolerance,
) -> Option<Vec<Row>> {
    let mut groups: BTreeMap<Key, Group> = BTreeMap::new();
    for one in billed {
        let key = grouping.key(&one.day, &one.model, &one.class);
        groups.entry(key).or_default().bill(one)?;
    }
    for one in used {
        let key = grouping.key(&one.day, &one.model, &one.class);
        groups.entry(key).or_default().r#use(one)?;
    }
    let mut rows = Vec::new();
    for (key, group) in &groups {
        group.rows(key, tolerance, &mut rows)?;
    }
    Some(rows)
}

impl Group {
    fn bill(&mut self, one: &Billed) -> Option<()> {
        let sum = self.billed.entry(one.currency.clone()).or_default();
        *sum = sum.checked_add(one.amount)?;
        match one.quantity {
            None => self.is_quantity_unknown = true,
            Some(more) => {
                let so_far = self.billed_quantity.unwrap_or_default();
                self.billed_quantity = Some(so_far.checked_add(more)?);
            }
        }
        self.invoice_lines = self.invoice_lines.saturating_add(one.lines);
        self.invoice_models.extend(one.written.clone());
        Some(())
    }

    fn r#use(&mut self, one: &Used) -> Option<()> {
        if let Some((currency, cost)) = one.currency.clone().zip(one.cost) {
            let sum = self.cost.entry(currency).or_default();
            *sum = sum.checked_add(cost)?;
        }
        self.quantity = self.quantity.checked_add(one.quantity)?;
        self.units.insert(one.unit.clone());
        self.lines = self.lines.saturating_add(one.lines);
        self.uncosted_lines = self.uncosted_lines.saturating_add(one.uncosted_lines);
        self.usage_models.extend(one.written.clone());
        Some(())
    }

    fn rows(&self, key: &Key, tolerance: Tolerance, rows: &mut Vec<Row>) -> Option<()> {
        let currencies: BTreeSet<&String> = self.billed.keys().chain(self.cost.keys()).collect();
        let [day, model, class] = key.clone();
        // Quantities have no currency.
        let whole = currencies.len() <= 1;
        let billed_quantity = self.billed_quantity.filter(|_| whole && !self.is_quantity_unknown);
        let unit = self.units.first().filter(|_| self.units.len() == 1);
        let quantity = unit.filter(|_| whole).map(|_| self.quantity);
        let both = billed_quantity.zip(quantity);
        let quantity_difference = match both {
            Some((billed, own)) => Some(billed.checked_sub(own)?),
            None => None,
        };
        let row = |sums: Sums| Row {
            day: day.clone(),
            model: model.clone(),
            class: class.clone(),
            sums,
            billed_quantity,
            quantity,
            quantity_difference,
            unit: unit.cloned(),
            invoice_lines: self.invoice_lines,
            lines: self.lines,
            uncosted_lines: self.uncosted_lines,
            invoice_models: self.invoice_models.clone(),
            usage_models: self.usage_models.clone(),
        };
        if currencies.is_empty() {
            rows.push(row(self.sums(None, tolerance)?));
        }
        for currency in currencies {
            rows.push(row(self.sums(Some(currency), tolerance)?));
        }
        Some(())
    }

    fn sums(&self, currency: Option<&String>, tolerance: Tolerance) -> Option<Sums> {
        let billed = currency.and_then(|currency| self.billed.get(currency)).copied();
        let cost = currency.and_then(|currency| self.cost.get(currency)).copied();
        let difference = match billed.zip(cost) {
            Some((billed, cost)) => Some(billed.checked_sub(cost)?),
            None => None,
        };
        let has_other = |one: &BTreeMap<String, Amount>, other: &BTreeMap<String, Amount>| {
            one.keys().any(|currency| !other.contains_key(currency))
        };
        let status = match (billed, difference) {
            (Some(billed), Some(difference)) => tolerance.status(billed, difference),
            (Some(_), None) if has_other(&self.cost, &self.billed) => Status::CurrencyDiffers,
            (Some(_), None) if self.cost.is_empty() && self.lines != 0 => Status::Uncosted,
            (Some(_), None) => Status::OnlyInInvoice,
            (None, _) if has_other(&self.billed, &self.cost) => Status::CurrencyDiffers,
            (None, _) => Status::OnlyInWeir,
        };
        let difference_percent =
            billed.zip(difference).and_then(|(billed, difference)| difference.percent_of(billed));
        Some(Sums {
            status,
            currency: currency.cloned(),
            billed,
            cost,
            difference,
            difference_percent,
        })
    }
}

impl Tolerance {
    fn status(self, billed: Amount, difference: Amount) -> Status {
        let absolute =
            |amount: Amount| if amount < Amount::ZERO { amount.negated() } else { amount };
        let (billed, difference) = (absolute(billed), absolute(difference));
        // Raw values: both below 10^38 in hundredths of what is compared.
        let within = || {
            let hundred = Amount::of_sum(100 * domain::money::ONE);
            let allowed = billed.checked_mul(self.percent)?;
            Some(difference.checked_mul(hundred)? <= allowed)
        };
        if difference <= self.amount || within().unwrap_or(false) {
            Status::Matches
        } else {
            Status::Differs
        }
    }
}
