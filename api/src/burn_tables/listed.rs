//! Burn tables as they are told: by model, in the form that they are made of.

use std::collections::BTreeMap;

use domain::{
    catalog::CatalogDocument,
    llm_usage::UsageClass,
    money::Amount,
    rate_card::{Card, CardKind, RateRow},
    time,
};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{of_table, rule_names};

/// A rate card in a credit unit, by model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BurnTable {
    /// Its name, which is the key of the card.
    pub name: String,
    /// Its credit unit.
    currency: String,
    /// Its newest version.
    version: u32,
    /// From which event time that holds.
    effective_from: Option<String>,
    /// Whether it prices usage that has no other card.
    default: bool,
    /// Credits by class of usage, as text, and `per_unit`, the number of units that they are for; by model.
    #[schema(value_type = BTreeMap<String, BTreeMap<String, Value>>,
        example = json!({"gpt-4-turbo": {"input_tokens": "1.5", "output_tokens": "10", "per_unit": 1000}}))]
    rules: BTreeMap<String, BTreeMap<String, Value>>,
    /// Rows of the version that are no rules: for any model, of other meters, or of other price models.
    other_rates: usize,
}

/// The rate cards in credit units that are not archived, by name.
pub(crate) fn listed(document: &CatalogDocument) -> Vec<BurnTable> {
    let in_credits =
        |card: &&Card| document.credit_units.iter().any(|unit| unit.key == card.currency);
    let cards = document.cards.iter().filter(|card| card.kind == CardKind::Rate && !card.archived);
    let mut tables: Vec<BurnTable> =
        cards.filter(in_credits).map(|card| table(document, card)).collect();
    tables.sort_by(|left, right| left.name.cmp(&right.name));
    tables
}

fn table(document: &CatalogDocument, card: &Card) -> BurnTable {
    let newest = card.versions.last();
    let rows = newest.map(|version| version.rates.as_slice()).unwrap_or_default();
    let mut by_model: BTreeMap<&str, Vec<(UsageClass, &RateRow)>> = BTreeMap::new();
    let mut other_rates = 0;
    for row in rows {
        match of_table(document, row) {
            Some((class, model)) => by_model.entry(model).or_default().push((class, row)),
            None => other_rates += 1,
        }
    }
    let mut rules = BTreeMap::new();
    for (model, rows) in by_model {
        let (rule, others) = rule(&rows);
        other_rates += others;
        rules.insert(model.to_owned(), rule);
    }
    BurnTable {
        name: card.key.clone(),
        currency: card.currency.clone(),
        version: newest.map_or(0, |version| version.version),
        effective_from: newest.map(|version| time::format(version.effective_from_us)),
        default: document.default_rate_card.as_deref() == Some(card.key.as_str()),
        rules,
        other_rates,
    }
}

/// A model's rule, and how many of its rows it cannot tell: they are for units that the rule's are no
/// multiple of, or say something else of a class for another meter.
fn rule(rows: &[(UsageClass, &RateRow)]) -> (BTreeMap<String, Value>, usize) {
    let per = rows.iter().map(|(_, row)| row.per).max().unwrap_or(1);
    let mut rule = BTreeMap::from([("per_unit".to_owned(), json!(per))]);
    let mut others = 0;
    for (class, row) in rows {
        let name = rule_names(*class).remove(0);
        let credits = scaled(row, per).map(|credits| json!(credits.to_string()));
        match (rule.get(&name), credits) {
            (None, Some(credits)) => drop(rule.insert(name, credits)),
            (Some(known), Some(credits)) if *known == credits => {}
            _ => others += 1,
        }
    }
    (rule, others)
}

/// The price of a row for `per` units, where that is exact.
fn scaled(row: &RateRow, per: u64) -> Option<Amount> {
    let price = Amount::parse_exact(row.price.as_deref()?).ok()?;
    let times = per.checked_div(row.per).filter(|times| times.checked_mul(row.per) == Some(per))?;
    price.checked_mul(Amount::parse_exact(&times.to_string()).ok()?)
}
