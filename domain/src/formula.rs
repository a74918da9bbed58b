//! Formulas: what a meter counts, worked out from the fields of an event.
//!
//! The language is a part of the Common Expression Language (<https://cel.dev>) with exact decimals for numbers: CEL
//! itself has none. It has no loops, and text, depth and parts of a formula are bounded, so each ends. A division says
//! how it is rounded. docs/METERS.md has the grammar.

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::{
    decimal::Decimal,
    evaluate::{Event, Number},
};
use crate::{
    meter::Field,
    quantity::{QUANTITY_RAW_LIMIT, Quantity},
};

mod decimal;
mod evaluate;
mod parse;
#[cfg(test)]
mod tests;

/// Bytes of a formula.
pub const FORMULA_BYTES_MAX: usize = 1_000;
/// Most samples of a meter.
pub const SAMPLES_MAX: usize = 20;

/// A sample that a formula is tried on before it is published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// Values of fields, by how the formula names them: `data.gb`. A field that is left out is absent.
    pub given: BTreeMap<String, Value>,
    /// What the formula comes to, as decimal text; left out where an event without a field has no line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comes_to: Option<String>,
}

/// Why a formula is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FormulaFault {
    /// Which character it is about, from 1.
    pub at: usize,
    /// What is wrong and what to do.
    pub reason: String,
}

/// Why a formula comes to nothing for an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// This text is no decimal number.
    NotANumber(String),
    /// A number that is not below 10¹⁵ was read or is the result, or 256 bits do not hold what is between.
    OutOfRange,
    /// A divisor is zero.
    DivisionByZero,
}

/// A formula ready for rating. Fields are the catalog's slots.
#[derive(Debug)]
pub(crate) struct Formula {
    root: Number,
}

impl Formula {
    /// Reads a formula; `slot` numbers its fields.
    pub fn parse(
        text: &str,
        slot: &mut dyn FnMut(Field) -> usize,
    ) -> Result<Formula, FormulaFault> {
        Ok(Formula { root: parse::parse(text, slot)? })
    }

    /// What it comes to, and whether a number was rounded to twelve decimals; `None` where the event lacks a field that
    /// is needed. `text` gives a slot's.
    pub fn evaluate<'a>(
        &self,
        text: &dyn Fn(usize) -> Option<Cow<'a, str>>,
    ) -> Result<Option<(Quantity, bool)>, Failure> {
        let mut event = Event { text, rounded: false };
        let Some(result) = self.root.evaluate(&mut event)? else { return Ok(None) };
        let (raw, rounded) = Decimal::raw(result).ok_or(Failure::OutOfRange)?;
        if raw.unsigned_abs() >= QUANTITY_RAW_LIMIT.unsigned_abs() {
            return Err(Failure::OutOfRange);
        }
        let quantity = Quantity::from_raw(raw).ok_or(Failure::OutOfRange)?;
        Ok(Some((quantity, rounded || event.rounded)))
    }
}

/// Why a sample does not hold; `None` if it does.
pub(crate) fn fails(text: &str, sample: &Sample) -> Option<String> {
    let mut fields: Vec<Field> = Vec::new();
    let mut slot = |field: Field| match fields.iter().position(|known| *known == field) {
        Some(slot) => slot,
        None => {
            fields.push(field);
            fields.len() - 1
        }
    };
    // A formula that cannot be read is a fault of its own.
    let formula = Formula::parse(text, &mut slot).ok()?;
    let mut given: BTreeMap<usize, Option<String>> = BTreeMap::new();
    for (name, value) in &sample.given {
        let value = match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(is) => Some(is.to_string()),
            Value::Null => None,
            Value::Array(_) | Value::Object(_) => {
                return Some(format!("`{name}` is no text, number, true, false or null"));
            }
        };
        let place = parse::field(name)
            .ok()
            .and_then(|field| fields.iter().position(|known| *known == field));
        match place {
            Some(slot) => {
                given.insert(slot, value);
            }
            None => return Some(format!("the formula has no field `{name}`")),
        }
    }
    let text = |slot: usize| given.get(&slot).and_then(|value| value.as_deref()).map(Cow::Borrowed);
    let found = match formula.evaluate(&text) {
        Ok(found) => found.map(|(quantity, _)| quantity),
        Err(failure) => return Some(format!("the formula {failure}")),
    };
    let shown = |quantity: Option<Quantity>| {
        quantity.map_or_else(
            || "nothing, for want of a field".to_owned(),
            |quantity| quantity.to_string(),
        )
    };
    let wanted = match sample.comes_to.as_deref().map(Quantity::parse).transpose() {
        Ok(wanted) => wanted.map(|(quantity, _)| quantity),
        Err(error) => return Some(format!("`comes_to`: {error}")),
    };
    (found != wanted)
        .then(|| format!("the formula comes to {}, not to {}", shown(found), shown(wanted)))
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::NotANumber(text) => {
                write!(formatter, "reads `{text}`, which is not a decimal number")
            }
            Failure::OutOfRange => write!(formatter, "has a number that is not below its limit"),
            Failure::DivisionByZero => write!(formatter, "divides by zero"),
        }
    }
}
