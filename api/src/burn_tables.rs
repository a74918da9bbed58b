//! Burn tables: how many credits a model burns, by class of usage.
//!
//! A burn table is a rate card in a credit unit whose rows are each for a model. [`make`] gives a document
//! the card, the meters that its rows need, and the rows in the default card: one card prices a line (of an
//! offer that the team holds, else the default one), so where a burn table and a card in a currency both
//! match, one of them wins and never both. Whatever a tenant has already is used; `burn_…` meters are made for the rest alone.

use std::collections::{BTreeMap, BTreeSet};

use domain::{
    catalog::{CatalogDocument, CreditUnit, CreditValue, Fault, is_key},
    llm_usage::UsageClass,
    rate_card::{Card, CardKind, CardVersion, RateRow},
    time,
};
use serde::Serialize;
use utoipa::ToSchema;

use self::meters::model_dimension;
pub(crate) use self::{
    classes::{class_of_rule, rule_names},
    listed::{BurnTable, listed},
    meters::class_of,
};
use crate::catalog::changes::default_card;

mod classes;
mod listed;
mod meters;

/// A burn table as it was ordered, with its numbers read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Order {
    pub name: String,
    /// The credit unit.
    pub unit: String,
    /// What one of it is worth; left as it is where this is absent.
    pub value: Option<CreditValue>,
    /// From which event time it holds. Absent for ever for a first version, and for now for another.
    pub effective_from_us: Option<i64>,
    pub now_us: i64,
    /// By model.
    pub rules: BTreeMap<String, Rule>,
}

/// What a model burns.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rule {
    /// For so many units.
    pub per: u64,
    /// Credits, in their shortest form.
    pub credits: BTreeMap<UsageClass, String>,
}

/// What became of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BurnTableMade {
    /// The burn table, which is a rate card.
    name: String,
    /// The version of that card which has these rules.
    version: u32,
    /// Its credit unit.
    currency: String,
    /// The card that prices usage; its rows are among those of this one.
    default_rate_card: String,
    /// The version of that card.
    default_version: u32,
    /// How many models it has rules for.
    models: usize,
    /// Rows of its rules.
    rows: usize,
    /// The meters that its rows are for, by class.
    meters: BTreeMap<String, Vec<String>>,
    /// Those of them that were made for it.
    meters_made: Vec<String>,
}

/// Gives a document the burn table. Its default card must be in the table's unit, or there must be none.
pub(crate) fn make(
    document: &mut CatalogDocument,
    order: &Order,
) -> Result<BurnTableMade, Vec<Fault>> {
    set_unit(document, order)?;
    let classes: BTreeSet<UsageClass> =
        order.rules.values().flat_map(|rule| rule.credits.keys().copied()).collect();
    let known: BTreeSet<String> = document.meters.iter().map(|meter| meter.key.clone()).collect();
    let mut meters = BTreeMap::new();
    for class in classes {
        meters.insert(class, meters::of_class(document, class)?);
    }
    let rows = rows(order, &meters);
    let own = card_of(document, order)?;
    let default =
        default_card(document, CardKind::Rate).map_or(&order.name, |card| &card.key).clone();
    // What this table said before, and no other table says too, goes where it says it no more.
    let before = table_rows(document, &order.name);
    let others: BTreeSet<RowName> = document
        .cards
        .iter()
        .filter(|card| card.kind == CardKind::Rate && card.currency == order.unit)
        .filter(|card| !card.archived)
        .filter(|card| card.key != order.name && card.key != default)
        .flat_map(|card| table_rows(document, &card.key))
        .collect();
    let only_own = before.difference(&others).cloned().collect();
    let (version, default_version) = if default == order.name {
        let version = add_rows(document, own, &only_own, &rows, order)?;
        document.default_rate_card = Some(default.clone());
        (version, version)
    } else {
        let place = place_of(document, &default);
        let default_version = add_rows(document, place, &only_own, &rows, order)?;
        (add_rows(document, own, &before, &rows, order)?, default_version)
    };
    let names = meters.iter().map(|(class, meters)| {
        let keys: Vec<String> = meters.iter().map(|meter| meter.key.clone()).collect();
        (rule_names(*class).remove(0), keys)
    });
    let names: BTreeMap<String, Vec<String>> = names.collect();
    let made = names.values().flatten().filter(|key| !known.contains(*key)).cloned().collect();
    Ok(BurnTableMade {
        name: order.name.clone(),
        version,
        currency: order.unit.clone(),
        default_rate_card: default,
        default_version,
        models: order.rules.len(),
        rows: rows.len(),
        meters: names,
        meters_made: made,
    })
}

/// The unit, made where it is missing.
fn set_unit(document: &mut CatalogDocument, order: &Order) -> Result<(), Vec<Fault>> {
    if !is_key(&order.unit) {
        let reason = format!(
            "`{}` names no credit unit: 1 to 64 of a-z, 0-9, `_`, `-`, `.`; prices in a currency are a rate card",
            order.unit
        );
        return Err(vec![Fault { place: "currency".to_owned(), reason }]);
    }
    match document.credit_units.iter_mut().find(|unit| unit.key == order.unit) {
        Some(unit) if order.value.is_some() => unit.value = order.value.clone(),
        Some(_) => {}
        None => document
            .credit_units
            .push(CreditUnit { key: order.unit.clone(), value: order.value.clone() }),
    }
    Ok(())
}

/// Where the table's own card is, made where it is missing.
fn card_of(document: &mut CatalogDocument, order: &Order) -> Result<usize, Vec<Fault>> {
    let place = place_of(document, &order.name);
    match document.cards.get(place) {
        None => document.cards.push(Card {
            key: order.name.clone(),
            kind: CardKind::Rate,
            currency: order.unit.clone(),
            versions: Vec::new(),
            archived: false,
        }),
        Some(card) if card.kind == CardKind::Rate && card.currency == order.unit => {}
        Some(card) => {
            let reason = format!(
                "there is a card of this name that is no rate card in {}; choose another name",
                order.unit
            );
            return Err(vec![Fault { place: format!("cards[{}]", card.key), reason }]);
        }
    }
    Ok(place)
}

fn place_of(document: &CatalogDocument, key: &str) -> usize {
    let place = document.cards.iter().position(|card| card.key == key);
    place.unwrap_or(document.cards.len())
}

/// A row for each model, class, and meter of the class.
fn rows(order: &Order, meters: &BTreeMap<UsageClass, Vec<meters::Chosen>>) -> Vec<RateRow> {
    let mut rows = Vec::new();
    for (model, rule) in &order.rules {
        for (class, credits) in &rule.credits {
            rows.extend(meters.get(class).into_iter().flatten().map(|meter| RateRow {
                meter: meter.key.clone(),
                dimensions: BTreeMap::from([(meter.model.clone(), model.clone())]),
                price: Some(credits.clone()),
                per: rule.per,
                ..RateRow::default()
            }));
        }
    }
    rows
}

/// What tells rows of a version apart.
type RowName = (String, BTreeMap<String, String>);

fn name_of(row: &RateRow) -> RowName {
    (row.meter.clone(), row.dimensions.clone())
}

/// Rows of the newest version of a card that are those of a burn table.
fn table_rows(document: &CatalogDocument, card: &str) -> BTreeSet<RowName> {
    let card = document.cards.iter().find(|other| other.key == card);
    let newest = card.and_then(|card| card.versions.last());
    let rows = newest.map(|version| version.rates.as_slice()).unwrap_or_default();
    rows.iter().filter(|row| of_table(document, row).is_some()).map(name_of).collect()
}

/// The class and the model of a row that is a burn table's: a plain price for a model and nothing else.
pub(crate) fn of_table<'r>(
    document: &CatalogDocument,
    row: &'r RateRow,
) -> Option<(UsageClass, &'r str)> {
    let meter = document.meter(&row.meter)?;
    let (class, dimension) = (class_of(meter)?, model_dimension(meter)?);
    let model = row.dimensions.get(dimension).filter(|_| row.dimensions.len() == 1)?;
    let plain = RateRow {
        meter: row.meter.clone(),
        dimensions: row.dimensions.clone(),
        price: row.price.clone(),
        per: row.per,
        ..RateRow::default()
    };
    (row.price.is_some() && *row == plain).then_some((class, model))
}

/// Gives a card a version with `rows` in place of those of the same names and without those `gone`, if
/// that is another one than its newest. Answers the number of the version that has them.
fn add_rows(
    document: &mut CatalogDocument,
    place: usize,
    gone: &BTreeSet<RowName>,
    rows: &[RateRow],
    order: &Order,
) -> Result<u32, Vec<Fault>> {
    let Some(card) = document.cards.get_mut(place) else { return Err(Vec::new()) };
    let newest = card.versions.last();
    let old = newest.map(|version| version.rates.as_slice()).unwrap_or_default();
    let mut new: BTreeMap<RowName, &RateRow> = rows.iter().map(|row| (name_of(row), row)).collect();
    let kept = old.iter().filter_map(|row| {
        let name = name_of(row);
        new.remove(&name).or_else(|| (!gone.contains(&name)).then_some(row)).cloned()
    });
    let mut rates: Vec<RateRow> = kept.collect();
    rates.extend(rows.iter().filter(|row| new.contains_key(&name_of(row))).cloned());
    let number = newest.map_or(0, |version| version.version);
    if newest.is_some() && old == rates {
        return Ok(number);
    }
    let effective_from_us =
        order.effective_from_us.unwrap_or(if newest.is_some() { order.now_us } else { 0 });
    if let Some(later) =
        card.versions.iter().find(|version| version.effective_from_us > effective_from_us)
    {
        return Err(vec![Fault {
            place: format!("cards[{}].versions[{}]", card.key, later.version),
            reason: format!(
                "it holds from {}, after this table, and would end it: give `effective_from` of then or later",
                time::format(later.effective_from_us)
            ),
        }]);
    }
    let version = number.saturating_add(1);
    card.versions.push(CardVersion { version, effective_from_us, rates });
    Ok(version)
}

#[cfg(test)]
mod tests;
