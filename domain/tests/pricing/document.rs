//! The examples of `docs/PRICING.md`, as they stand there.

use std::collections::BTreeSet;

use domain::{
    money::Amount,
    pricing::{Uncharged, Usage},
    quantity::Quantity,
    rate_card::{Model, Rate, RateRow},
};
use serde::Deserialize;

use super::{local, rate};

const DOCUMENT: &str = include_str!("../../../docs/PRICING.md");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Example {
    name: String,
    row: RateRow,
    /// Quantity and charge, and the cost of the provider or the local time where the row needs it. Of other
    /// rows perhaps the time of the event, which must be within one period: it changes no charge.
    usage: Vec<Vec<Option<String>>>,
    total: String,
}

fn examples() -> Vec<Example> {
    let blocks = DOCUMENT.split("```json\n").skip(1);
    blocks
        .map(|block| {
            let json = block.split("```").next().unwrap();
            serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"))
        })
        .collect()
}

fn amount(text: &str) -> Amount {
    Amount::parse_exact(text).unwrap()
}

/// What one event of an example is charged.
fn charge(
    rate: &Rate,
    quantity: &str,
    more: Option<&str>,
    before: &mut i128,
) -> Result<Amount, Uncharged> {
    let quantity = Quantity::parse(quantity).unwrap().0;
    let terms = match rate {
        Rate::Price(price) => return price.charge(quantity.raw()).ok_or(Uncharged::OutOfRange),
        Rate::Unlimited => return Ok(Amount::ZERO),
        Rate::Terms(terms) => terms,
    };
    let quantity = terms.priced(quantity).unwrap();
    let usage = Usage {
        quantity,
        before: *before,
        local: more.filter(|_| terms.needs_local_time()).map(local),
        cost: more.filter(|_| terms.needs_cost()).map(amount),
    };
    if terms.counting().is_some() {
        *before += quantity;
    }
    terms.charge(&usage)
}

fn check(example: &Example) {
    let rate = rate(&example.row);
    let (mut before, mut sum) = (0, Amount::ZERO);
    for (number, usage) in (1..).zip(&example.usage) {
        let [quantity, wanted, more @ ..] = usage.as_slice() else { panic!("{}", example.name) };
        let more = more.first().and_then(|more| more.as_deref());
        let charged = charge(&rate, quantity.as_deref().unwrap(), more, &mut before);
        let wanted = wanted.as_deref().map(amount).ok_or(Uncharged::CostUnknown);
        assert_eq!(charged, wanted, "usage {number} of `{}`", example.name);
        sum = sum.checked_add(charged.unwrap_or(Amount::ZERO)).unwrap();
    }
    assert_eq!(sum, amount(&example.total), "the total of `{}`", example.name);
}

#[test]
fn every_example_of_the_document_is_right() {
    examples().iter().for_each(check);
}

#[test]
fn every_model_has_an_example() {
    let shown: BTreeSet<&str> = examples()
        .iter()
        .map(|example| example.row.model.unwrap_or(Model::PerUnit).name())
        .collect();
    assert_eq!(shown, Model::ALL.map(Model::name).into());
    let names: BTreeSet<String> = examples().into_iter().map(|example| example.name).collect();
    assert_eq!(names.len(), examples().len(), "names are unique");
}

#[test]
fn three_plain_thirds_are_what_the_document_says() {
    let rate = rate(&super::row(r#"{"price": "1", "per": 3}"#));
    let third = charge(&rate, "1", None, &mut 0).unwrap();
    let sum = third.checked_add(third).and_then(|sum| sum.checked_add(third)).unwrap();
    assert!(DOCUMENT.contains(&format!("three of them come to {sum}")), "{sum}");
}

#[test]
fn a_new_version_goes_on_as_the_document_says() {
    let row = super::row(
        r#"{"model": "graduated", "tiers": [{"up_to": "1000", "price": "0.02"}, {"price": "0.01"}]}"#,
    );
    let mut before = Quantity::parse("800").unwrap().0.raw();
    let charged = charge(&rate(&row), "400", None, &mut before).unwrap();
    assert!(DOCUMENT.contains(&format!("200 × 0.02 + 200 × 0.01 = {charged}.")), "{charged}");
}
