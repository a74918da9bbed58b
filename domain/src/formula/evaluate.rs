//! A formula's parts, and what they come to.

use std::{borrow::Cow, cmp::Ordering};

use super::{Failure, decimal::Decimal};
use crate::{
    money::{NumberError, parse_scaled},
    quantity::QUANTITY_RAW_LIMIT,
    rate_card::UnitRound,
};

/// Characters of a text that is no number which are shown.
const SHOWN_MAX: usize = 64;

/// A part that comes to a number.
#[derive(Debug)]
pub(super) enum Number {
    Literal(Decimal),
    /// The number at a slot.
    Slot(usize),
    Negated(Box<Number>),
    Absolute(Box<Number>),
    Sum(Box<[Number; 2]>),
    Difference(Box<[Number; 2]>),
    Product(Box<[Number; 2]>),
    Quotient {
        of: Box<[Number; 2]>,
        places: u32,
        round: UnitRound,
    },
    Rounded {
        of: Box<Number>,
        places: u32,
        round: UnitRound,
    },
    /// The whole number at or above (`Greater`) a number, or at or below it (`Less`).
    Whole {
        of: Box<Number>,
        side: Ordering,
    },
    /// The least of one or more (`Less`), or the greatest (`Greater`).
    Extreme {
        of: Vec<Number>,
        wanted: Ordering,
    },
    Choice {
        when: Box<Condition>,
        of: Box<[Number; 2]>,
    },
}

/// A part that holds or does not.
#[derive(Debug)]
pub(super) enum Condition {
    Literal(bool),
    Not(Box<Condition>),
    Both(Box<[Condition; 2]>),
    Either(Box<[Condition; 2]>),
    Compared {
        of: Box<[Number; 2]>,
        is: fn(Ordering) -> bool,
    },
    /// The text at a slot is one of these.
    Among {
        slot: usize,
        texts: Vec<String>,
    },
    /// The event has something at a slot.
    Present(usize),
}

/// An event as a formula sees it.
pub(super) struct Event<'t, 'a> {
    /// The text at a slot.
    pub text: &'t dyn Fn(usize) -> Option<Cow<'a, str>>,
    /// Whether a number had more than twelve decimals.
    pub rounded: bool,
}

impl Event<'_, '_> {
    fn number(&mut self, slot: usize) -> Result<Option<Decimal>, Failure> {
        let Some(text) = (self.text)(slot) else { return Ok(None) };
        match parse_scaled(&text, QUANTITY_RAW_LIMIT) {
            Ok(parsed) => {
                self.rounded |= parsed.rounded;
                Ok(Some(Decimal::from_raw(parsed.raw)))
            }
            Err(NumberError::NotANumber) => {
                Err(Failure::NotANumber(text.chars().take(SHOWN_MAX).collect()))
            }
            Err(NumberError::OutOfRange) => Err(Failure::OutOfRange),
        }
    }
}

impl Number {
    /// `None` where the event lacks a field that is needed.
    pub fn evaluate(&self, event: &mut Event<'_, '_>) -> Result<Option<Decimal>, Failure> {
        let mut two = |of: &[Number; 2]| {
            let [left, right] = of;
            let Some(left) = left.evaluate(event)? else { return Ok(None) };
            Ok(right.evaluate(event)?.map(|right| (left, right)))
        };
        let result = match self {
            Number::Literal(number) => Some(*number),
            Number::Slot(slot) => return event.number(*slot),
            Number::Negated(of) => match of.evaluate(event)? {
                None => return Ok(None),
                Some(number) => number.negated(),
            },
            Number::Absolute(of) => match of.evaluate(event)? {
                None => return Ok(None),
                Some(number) if number.is_negative() => number.negated(),
                number => number,
            },
            Number::Sum(of) => match two(of)? {
                None => return Ok(None),
                Some((left, right)) => left.add(right),
            },
            Number::Difference(of) => match two(of)? {
                None => return Ok(None),
                Some((left, right)) => right.negated().and_then(|right| left.add(right)),
            },
            Number::Product(of) => match two(of)? {
                None => return Ok(None),
                Some((left, right)) => left.multiply(right),
            },
            Number::Quotient { of, places, round } => match two(of)? {
                None => return Ok(None),
                Some((_, divisor)) if divisor.is_zero() => return Err(Failure::DivisionByZero),
                Some((number, divisor)) => number.divide(divisor, *places, *round),
            },
            Number::Rounded { of, places, round } => match of.evaluate(event)? {
                None => return Ok(None),
                Some(number) => number.round(*places, *round),
            },
            Number::Whole { of, side } => match of.evaluate(event)? {
                None => return Ok(None),
                Some(number) => number.whole_beside(*side),
            },
            Number::Extreme { of, wanted } => return extreme(of, *wanted, event),
            Number::Choice { when, of } => {
                let [yes, no] = &**of;
                return match when.holds(event)? {
                    None => Ok(None),
                    Some(true) => yes.evaluate(event),
                    Some(false) => no.evaluate(event),
                };
            }
        };
        result.map(Some).ok_or(Failure::OutOfRange)
    }
}

fn extreme(
    of: &[Number],
    wanted: Ordering,
    event: &mut Event<'_, '_>,
) -> Result<Option<Decimal>, Failure> {
    let mut found: Option<Decimal> = None;
    for number in of {
        let Some(number) = number.evaluate(event)? else { return Ok(None) };
        let replaces = match found {
            None => true,
            Some(found) => number.compare(found).ok_or(Failure::OutOfRange)? == wanted,
        };
        if replaces {
            found = Some(number);
        }
    }
    Ok(found)
}

impl Condition {
    /// `None` where the event lacks a field that is needed. What stands behind a condition that decides is not looked at.
    fn holds(&self, event: &mut Event<'_, '_>) -> Result<Option<bool>, Failure> {
        Ok(match self {
            Condition::Literal(is) => Some(*is),
            Condition::Not(of) => of.holds(event)?.map(|holds| !holds),
            Condition::Both(of) | Condition::Either(of) => {
                let [left, right] = &**of;
                let decides = matches!(self, Condition::Either(_));
                match left.holds(event)? {
                    Some(left) if left != decides => right.holds(event)?,
                    left => left,
                }
            }
            Condition::Compared { of, is } => {
                let [left, right] = &**of;
                let Some(left) = left.evaluate(event)? else { return Ok(None) };
                let Some(right) = right.evaluate(event)? else { return Ok(None) };
                Some(is(left.compare(right).ok_or(Failure::OutOfRange)?))
            }
            Condition::Among { slot, texts } => {
                (event.text)(*slot).map(|text| texts.iter().any(|one| *one == text))
            }
            Condition::Present(slot) => Some((event.text)(*slot).is_some()),
        })
    }
}
