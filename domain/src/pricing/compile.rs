//! From a row to its rate, or to the reason why it cannot be one.

use std::{collections::BTreeMap, sync::Arc};

use ethnum::I256;

use super::{
    Basis, Counting, Terms,
    curve::{Curve, Piece, Running, divisor},
    time::Prices,
    unit::Unit,
};
use crate::{
    money::{AMOUNT_RAW_LIMIT, Amount, ONE, Price, parse_scaled},
    period::PeriodKind,
    rate_card::{Blocks, Model, Rate, RateRow, Total, UnitEach, UnitRound},
};

mod tiers;
mod windows;

pub use self::{tiers::TIERS_MAX, windows::WINDOWS_MAX};
use self::{
    tiers::{pieces, tiers},
    windows::windows,
};

/// Largest percentage.
pub const PERCENT_MAX: i128 = 1_000;
/// Largest factor of the provider's cost.
pub const FACTOR_MAX: i128 = 1_000;

/// The rate of a row, or what is wrong with it.
pub(crate) fn compile(row: &RateRow) -> Result<Rate, String> {
    if row.unlimited {
        return unlimited(row);
    }
    refuse_unused(row)?;
    match row.model.unwrap_or(Model::PerUnit) {
        Model::CostPlus => cost_plus(row),
        Model::PerUnit => per_unit(row),
        Model::Percentage => {
            let amount = percent("percent", required("percent", row.percent.as_deref())?)?;
            let price = Price { amount, per: 100 };
            linear(row, Prices { price, windows: Vec::new() })
        }
        Model::Package => {
            let amount = price(row)?;
            let begun = row.blocks != Some(Blocks::Down);
            running(row, Curve::Blocks { amount, units: row.per, begun })
        }
        Model::Flat => {
            let fixed = wide(price(row)?).wrapping_mul(divisor(1));
            running(
                row,
                Curve::Pieces { pieces: vec![Piece { above: 0, fixed, slope: 0 }], per: 1 },
            )
        }
        model @ (Model::Graduated | Model::Volume) => {
            let pieces = pieces(&tiers(row, model)?, row.per, model);
            running(row, Curve::Pieces { pieces, per: row.per })
        }
        model @ Model::GraduatedPercentage => {
            let pieces = pieces(&tiers(row, model)?, 100, model);
            running(row, Curve::Pieces { pieces, per: 100 })
        }
    }
}

fn unlimited(row: &RateRow) -> Result<Rate, String> {
    if row.price.is_some() {
        return Err("it has both a price and `unlimited`; keep one".into());
    }
    // `per` means nothing here, and rows of old have it.
    match given(row).into_iter().find(|name| *name != "per") {
        None => Ok(Rate::Unlimited),
        Some(name) => Err(format!("it is `unlimited` and has `{name}`; leave that out")),
    }
}

/// Names of the fields that the row has, beside meter and dimensions.
fn given(row: &RateRow) -> Vec<&'static str> {
    let fields = [
        ("model", row.model.is_some()),
        ("price", row.price.is_some()),
        ("per", row.per != 1),
        ("included", row.included.is_some()),
        ("blocks", row.blocks.is_some()),
        ("tiers", !row.tiers.is_empty()),
        ("percent", row.percent.is_some()),
        ("factor", row.factor.is_some()),
        ("fee", row.fee.is_some()),
        ("minimum", row.minimum.is_some()),
        ("maximum", row.maximum.is_some()),
        ("unit", row.unit.is_some()),
        ("windows", !row.windows.is_empty()),
        ("period", row.period.is_some()),
        ("total", row.total.is_some()),
    ];
    fields.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
}

/// Names of the fields that make the row more than a plain price; none where it is one, or unlimited.
pub(crate) fn models(row: &RateRow) -> Vec<&'static str> {
    let plain = |name: &&str| match *name {
        "price" | "per" => true,
        "model" => row.model == Some(Model::PerUnit),
        _ => false,
    };
    given(row).into_iter().filter(|name| !plain(name)).collect()
}

/// Names of the fields that a model uses.
fn used(model: Model) -> &'static [&'static str] {
    match model {
        Model::PerUnit => &[
            "price", "per", "included", "fee", "minimum", "maximum", "unit", "windows", "period",
            "total",
        ],
        Model::Package => {
            &["price", "per", "blocks", "included", "minimum", "maximum", "unit", "period", "total"]
        }
        Model::Graduated => {
            &["tiers", "per", "included", "fee", "minimum", "maximum", "unit", "period", "total"]
        }
        Model::Volume => {
            &["tiers", "per", "included", "minimum", "maximum", "unit", "period", "total"]
        }
        Model::Flat => &["price", "period", "total"],
        Model::Percentage => {
            &["percent", "included", "fee", "minimum", "maximum", "unit", "period", "total"]
        }
        Model::GraduatedPercentage => {
            &["tiers", "included", "fee", "minimum", "maximum", "unit", "period", "total"]
        }
        Model::CostPlus => &["factor", "fee"],
    }
}

fn refuse_unused(row: &RateRow) -> Result<(), String> {
    let model = row.model.unwrap_or(Model::PerUnit);
    let unused = |name: &&str| *name != "model" && !used(model).contains(name);
    match given(row).into_iter().find(unused) {
        None => Ok(()),
        Some(name) => {
            Err(format!("the model `{}` does not use `{name}`; leave it out", model.name()))
        }
    }
}

fn required<'a>(name: &str, text: Option<&'a str>) -> Result<&'a str, String> {
    text.ok_or_else(|| format!("`{name}` is missing"))
}

/// A number at scale 12 from 0 up to 10²⁰.
fn number(name: &str, text: &str) -> Result<i128, String> {
    match parse_scaled(text, AMOUNT_RAW_LIMIT) {
        Ok(parsed) if !parsed.rounded && parsed.raw >= 0 => Ok(parsed.raw),
        Ok(parsed) if !parsed.rounded => Err(format!("the {name} `{text}` is negative")),
        _ => Err(format!(
            "the {name} `{text}` is not a decimal number of at most 12 decimals below 10^20"
        )),
    }
}

fn amount(name: &str, text: &str) -> Result<Amount, String> {
    let raw = number(name, text)?;
    Amount::from_raw(raw).ok_or_else(|| format!("the {name} `{text}` is not below 10^20"))
}

fn optional(name: &str, text: Option<&str>) -> Result<Option<Amount>, String> {
    text.map(|text| amount(name, text)).transpose()
}

fn percent(name: &str, text: &str) -> Result<Amount, String> {
    let percent = amount(name, text)?;
    if percent.raw() > PERCENT_MAX.saturating_mul(ONE) {
        return Err(format!("the {name} `{text}` is more than {PERCENT_MAX}"));
    }
    Ok(percent)
}

fn price(row: &RateRow) -> Result<Amount, String> {
    let Some(text) = &row.price else {
        return Err(
            "it has neither a price nor `unlimited`; a free row says so with price \"0\"".into()
        );
    };
    amount("price", text)
}

fn wide(amount: Amount) -> I256 {
    I256::from(amount.raw())
}

fn fee(row: &RateRow) -> Result<Amount, String> {
    Ok(optional("fee", row.fee.as_deref())?.unwrap_or(Amount::ZERO))
}

fn cost_plus(row: &RateRow) -> Result<Rate, String> {
    let text = required("factor", row.factor.as_deref())?;
    let factor = amount("factor", text)?;
    if factor == Amount::ZERO || factor.raw() > FACTOR_MAX.saturating_mul(ONE) {
        return Err(format!("the factor `{text}` must be above 0 and at most {FACTOR_MAX}"));
    }
    let basis = Basis::Cost { factor };
    Ok(Rate::Terms(Arc::new(Terms { basis, unit: None, fee: fee(row)? })))
}

fn per_unit(row: &RateRow) -> Result<Rate, String> {
    let price = Price { amount: price(row)?, per: row.per };
    let windows = windows(&row.windows)?;
    if !windows.is_empty() && (row.minimum.is_some() || row.maximum.is_some()) {
        return Err(
            "`windows` do not go with `minimum` or `maximum`: what a period comes to would \
                    depend on the order of its usage"
                .into(),
        );
    }
    linear(row, Prices { price, windows })
}

/// A price for every unit: by the running total only if the row says something about it.
fn linear(row: &RateRow, prices: Prices) -> Result<Rate, String> {
    let by_period = row.unit.as_ref().is_some_and(|unit| unit.each == Some(UnitEach::Period));
    let bounded = row.minimum.is_some() || row.maximum.is_some();
    if row.included.is_some() || bounded || by_period {
        return running(row, Curve::PerUnit(prices));
    }
    for (name, given) in [("period", row.period.is_some()), ("total", row.total.is_some())] {
        if given {
            return Err(format!(
                "nothing in this row counts, so `{name}` means nothing; leave it out"
            ));
        }
    }
    if models(row).is_empty() {
        return Ok(Rate::Price(prices.price));
    }
    let (fee, unit) = (fee(row)?, unit(row)?);
    Ok(Rate::Terms(Arc::new(Terms { basis: Basis::Usage(prices), unit, fee })))
}

fn running(row: &RateRow, curve: Curve) -> Result<Rate, String> {
    let minimum = optional("minimum", row.minimum.as_deref())?;
    let maximum = optional("maximum", row.maximum.as_deref())?;
    if let (Some(minimum), Some(maximum)) = (minimum, maximum)
        && minimum > maximum
    {
        return Err(format!("the minimum {minimum} is more than the maximum {maximum}"));
    }
    let included = row.included.as_deref().map(|text| number("included quantity", text));
    let by_period = row.unit.as_ref().is_some_and(|unit| unit.each == Some(UnitEach::Period));
    let (of_event, of_total) = if by_period { (None, unit(row)?) } else { (unit(row)?, None) };
    let running = Running {
        counting: counting(row),
        unit: of_total,
        included: included.transpose()?.unwrap_or(0),
        curve,
        minimum,
        maximum,
    };
    let basis = Basis::Total(running);
    Ok(Rate::Terms(Arc::new(Terms { basis, unit: of_event, fee: fee(row)? })))
}

fn counting(row: &RateRow) -> Counting {
    let own = row.total == Some(Total::Row);
    let scope = if own { scope(&row.dimensions) } else { String::new() };
    Counting { period: row.period.unwrap_or(PeriodKind::Month), own, scope: scope.into() }
}

/// Dimensions as canonical text: in the order of their names, `\` before `,`, `=` and `\`.
fn scope(dimensions: &BTreeMap<String, String>) -> String {
    if dimensions.is_empty() {
        return "*".into();
    }
    let mut text = String::new();
    for (name, value) in dimensions {
        if !text.is_empty() {
            text.push(',');
        }
        escape(&mut text, name);
        text.push('=');
        escape(&mut text, value);
    }
    text
}

fn escape(text: &mut String, part: &str) {
    for char in part.chars() {
        if matches!(char, ',' | '=' | '\\') {
            text.push('\\');
        }
        text.push(char);
    }
}

fn unit(row: &RateRow) -> Result<Option<Unit>, String> {
    let Some(unit) = &row.unit else { return Ok(None) };
    let divide_by = number("unit's `divide_by`", &unit.divide_by)?;
    if divide_by == 0 {
        return Err("the unit's `divide_by` is 0; it must be above 0".into());
    }
    let decimals = unit.decimals.unwrap_or(12);
    if decimals > 12 {
        return Err(format!("the unit's `decimals` is {decimals}; at most 12 are kept"));
    }
    let round = unit.round.unwrap_or(UnitRound::HalfEven);
    Ok(Some(Unit { divide_by, decimals, round }))
}
