//! A formula's text becomes its parts: the syntax tree of CEL, checked, with numbers, conditions and fields apart.

use std::cmp::Ordering;

use cel::{
    common::ast::{CallExpr, Expr, LiteralValue, SourceInfo, operators},
    parser::{Expression, Parser},
};

use super::{
    FORMULA_BYTES_MAX, FormulaFault,
    decimal::Decimal,
    evaluate::{Condition, Number},
};
use crate::{
    llm_usage::UsageField,
    meter::{EnvelopeField, Field, push_segment},
    money::{SCALE, parse_scaled},
    quantity::QUANTITY_RAW_LIMIT,
    rate_card::UnitRound,
};

/// How deep brackets and calls may be nested, and most parts.
const DEPTH_MAX: u16 = 24;
const PARTS_MAX: u32 = 200;
/// What a path begins with that leads into `data`.
const DATA: &str = "data";

type Parsed<T> = Result<T, FormulaFault>;

/// Reads a formula; `slot` numbers its fields.
pub(super) fn parse(text: &str, slot: &mut dyn FnMut(Field) -> usize) -> Parsed<Number> {
    let (tree, source) = tree(text)?;
    Reader { source, slot, parts: 0 }.number(&tree)
}

/// Reads the name of a field.
pub(super) fn field(text: &str) -> Parsed<Field> {
    let (tree, source) = tree(text)?;
    let fault = fault_at(&source, &tree, NO_FIELD);
    field_of(&tree).map_err(|_| fault.clone())?.ok_or(fault)
}

const NO_FIELD: &str = "it is no field: write `data.name`, `data['a name']`, `data.list[0]`, `usage.input`, or one of type, source, user, app, feature";

fn tree(text: &str) -> Parsed<(Expression, SourceInfo)> {
    if text.len() > FORMULA_BYTES_MAX {
        let reason = format!("the formula has more than {FORMULA_BYTES_MAX} bytes");
        return Err(FormulaFault { at: 1, reason });
    }
    let parser = Parser::new().max_recursion_depth(DEPTH_MAX).error_recovery_limit(1);
    parser.parse_with_source_info(text).map_err(|errors| {
        let first = errors.errors.into_iter().next();
        let (line, column) = first.as_ref().map_or((1, 1), |error| error.pos);
        let place = |number: isize| usize::try_from(number).unwrap_or(0);
        let before: usize = text
            .lines()
            .take(place(line).saturating_sub(1))
            .map(|line| line.chars().count().saturating_add(1))
            .sum();
        let said = first.map_or_else(String::new, |error| error.msg);
        FormulaFault { at: before.saturating_add(place(column).max(1)), reason: said }
    })
}

fn fault_at(source: &SourceInfo, tree: &Expression, reason: &str) -> FormulaFault {
    let (start, _) = source.offset_for(tree.id).unwrap_or_default();
    let at = usize::try_from(start).unwrap_or(0).saturating_add(1);
    FormulaFault { at, reason: reason.to_owned() }
}

struct Reader<'s> {
    source: SourceInfo,
    slot: &'s mut dyn FnMut(Field) -> usize,
    parts: u32,
}

impl Reader<'_> {
    fn fault<T>(&self, tree: &Expression, reason: &str) -> Parsed<T> {
        Err(fault_at(&self.source, tree, reason))
    }

    fn count(&mut self, tree: &Expression) -> Parsed<()> {
        self.parts = self.parts.saturating_add(1);
        if self.parts > PARTS_MAX {
            return self.fault(tree, &format!("the formula has more than {PARTS_MAX} parts"));
        }
        Ok(())
    }

    /// The slot of a field; `None` if it is none.
    fn slot(&mut self, tree: &Expression) -> Parsed<Option<usize>> {
        match field_of(tree) {
            Ok(field) => Ok(field.map(|field| (self.slot)(field))),
            Err(reason) => self.fault(tree, &reason),
        }
    }

    fn number(&mut self, tree: &Expression) -> Parsed<Number> {
        self.count(tree)?;
        if let Some(slot) = self.slot(tree)? {
            return Ok(Number::Slot(slot));
        }
        match &tree.expr {
            Expr::Literal(LiteralValue::Int(number)) => {
                Ok(Number::Literal(Decimal::whole(*number.inner())))
            }
            Expr::Literal(LiteralValue::Double(read)) => self.decimal(tree, *read.inner()),
            Expr::Call(call) if call.target.is_none() => self.call(tree, call),
            _ => self.fault(tree, "a number is wanted here: a field, a number, or a sum, product, difference, function or choice of such"),
        }
    }

    /// A number with decimals, from its text: what CEL reads it as is not exact, and only tells its sign, which stands
    /// before the text.
    fn decimal(&self, tree: &Expression, read: f64) -> Parsed<Number> {
        let (start, stop) = self.source.offset_for(tree.id).unwrap_or_default();
        let place = |offset: u32| usize::try_from(offset).unwrap_or(0);
        let length = place(stop).saturating_add(1).saturating_sub(place(start));
        let text: String = self.source.source.chars().skip(place(start)).take(length).collect();
        let is_it = text.parse::<f64>().is_ok_and(|same| same.to_bits() == read.abs().to_bits());
        let number = match parse_scaled(&text, QUANTITY_RAW_LIMIT) {
            Ok(parsed) if is_it && !parsed.rounded => Some(Decimal::from_raw(parsed.raw)),
            _ => None,
        };
        let signed = match read.is_sign_negative() {
            true => number.and_then(Decimal::negated),
            false => number,
        };
        match signed {
            Some(number) => Ok(Number::Literal(number)),
            None => self.fault(tree, "a number has at most 12 decimals and is below 10^15"),
        }
    }

    fn call(&mut self, tree: &Expression, call: &CallExpr) -> Parsed<Number> {
        let args = &call.args[..];
        match (call.func_name.as_str(), args) {
            (operators::NEGATE, [of]) => Ok(Number::Negated(Box::new(self.number(of)?))),
            (operators::ADD, [left, right]) => Ok(Number::Sum(self.two(left, right)?)),
            (operators::SUBSTRACT, [left, right]) => Ok(Number::Difference(self.two(left, right)?)),
            (operators::MULTIPLY, [left, right]) => Ok(Number::Product(self.two(left, right)?)),
            (operators::DIVIDE, _) => self.fault(
                tree,
                "a division says how it is rounded: write `divide(a, b, 6, 'half_even')`, with 0 to 12 decimals and `half_even`, `up` or `down`",
            ),
            (operators::MODULO, _) => self.fault(tree, "there is no `%`"),
            (operators::CONDITIONAL, [when, yes, no]) => {
                let when = Box::new(self.condition(when)?);
                Ok(Number::Choice { when, of: self.two(yes, no)? })
            }
            ("abs", [of]) => Ok(Number::Absolute(Box::new(self.number(of)?))),
            ("ceil", [of]) => self.whole(of, Ordering::Greater),
            ("floor", [of]) => self.whole(of, Ordering::Less),
            ("round", [of, places, round]) => {
                let (places, round) = (self.places(places)?, self.rounding(round)?);
                Ok(Number::Rounded { of: Box::new(self.number(of)?), places, round })
            }
            ("divide", [left, right, places, round]) => {
                let (places, round) = (self.places(places)?, self.rounding(round)?);
                Ok(Number::Quotient { of: self.two(left, right)?, places, round })
            }
            ("min", [_, ..]) => self.extreme(args, Ordering::Less),
            ("max", [_, ..]) => self.extreme(args, Ordering::Greater),
            (name, _) => self.fault(
                tree,
                &format!("`{name}` with {} parts is no number: there are + - * ?:, abs(x), ceil(x), floor(x), round(x, decimals, 'half_even'), divide(a, b, decimals, 'half_even'), min(a, …), max(a, …)", args.len()),
            ),
        }
    }

    fn two(&mut self, left: &Expression, right: &Expression) -> Parsed<Box<[Number; 2]>> {
        Ok(Box::new([self.number(left)?, self.number(right)?]))
    }

    fn extreme(&mut self, of: &[Expression], wanted: Ordering) -> Parsed<Number> {
        let of = of.iter().map(|one| self.number(one)).collect::<Parsed<Vec<Number>>>()?;
        Ok(Number::Extreme { of, wanted })
    }

    /// The whole number at or above a number; or at or below it.
    fn whole(&mut self, of: &Expression, side: Ordering) -> Parsed<Number> {
        let of = Box::new(self.number(of)?);
        Ok(Number::Whole { of, side })
    }

    fn places(&self, tree: &Expression) -> Parsed<u32> {
        let places = match &tree.expr {
            Expr::Literal(LiteralValue::Int(number)) => u32::try_from(*number.inner()).ok(),
            _ => None,
        };
        match places {
            Some(places) if places <= SCALE => Ok(places),
            _ => self.fault(tree, "the decimals that are kept are a whole number from 0 to 12"),
        }
    }

    fn rounding(&self, tree: &Expression) -> Parsed<UnitRound> {
        match &tree.expr {
            Expr::Literal(LiteralValue::String(name)) if name.inner() == "half_even" => {
                Ok(UnitRound::HalfEven)
            }
            Expr::Literal(LiteralValue::String(name)) if name.inner() == "up" => Ok(UnitRound::Up),
            Expr::Literal(LiteralValue::String(name)) if name.inner() == "down" => {
                Ok(UnitRound::Down)
            }
            _ => self.fault(
                tree,
                "the rounding is 'half_even', 'up' (away from zero) or 'down' (towards it)",
            ),
        }
    }

    fn condition(&mut self, tree: &Expression) -> Parsed<Condition> {
        self.count(tree)?;
        match &tree.expr {
            Expr::Literal(LiteralValue::Boolean(is)) => Ok(Condition::Literal(*is.inner())),
            Expr::Select(select) if select.test => {
                let of = Expression {
                    id: tree.id,
                    expr: Expr::Select(cel::common::ast::SelectExpr { test: false, ..select.clone() }),
                };
                match self.slot(&of)? {
                    Some(slot) => Ok(Condition::Present(slot)),
                    None => self.fault(tree, NO_FIELD),
                }
            }
            Expr::Call(call) if call.target.is_none() => self.test(tree, call),
            _ => self.fault(
                tree,
                "a condition is wanted here: a comparison, `data.tier in ['a', 'b']`, `has(data.n)`, true, false, or such with ! && ||",
            ),
        }
    }

    fn test(&mut self, tree: &Expression, call: &CallExpr) -> Parsed<Condition> {
        let is: fn(Ordering) -> bool = match (call.func_name.as_str(), &call.args[..]) {
            (operators::LOGICAL_NOT, [of]) => {
                return Ok(Condition::Not(Box::new(self.condition(of)?)));
            }
            (operators::LOGICAL_AND, [left, right]) => {
                return Ok(Condition::Both(self.both(left, right)?));
            }
            (operators::LOGICAL_OR, [left, right]) => {
                return Ok(Condition::Either(self.both(left, right)?));
            }
            (operators::IN, [of, list]) => return self.among(of, list),
            (operators::EQUALS, [left, right]) => {
                if let Some(same) = self.same_text(left, right)? {
                    return Ok(same);
                }
                Ordering::is_eq
            }
            (operators::NOT_EQUALS, [left, right]) => {
                if let Some(same) = self.same_text(left, right)? {
                    return Ok(Condition::Not(Box::new(same)));
                }
                Ordering::is_ne
            }
            (operators::LESS, _) => Ordering::is_lt,
            (operators::LESS_EQUALS, _) => Ordering::is_le,
            (operators::GREATER, _) => Ordering::is_gt,
            (operators::GREATER_EQUALS, _) => Ordering::is_ge,
            (name, _) => {
                return self.fault(
                    tree,
                    &format!(
                        "`{name}` is no condition: there are == != < <= > >= in has() ! && ||"
                    ),
                );
            }
        };
        match &call.args[..] {
            [left, right] => Ok(Condition::Compared { of: self.two(left, right)?, is }),
            _ => self.fault(tree, "a comparison has two sides"),
        }
    }

    fn both(&mut self, left: &Expression, right: &Expression) -> Parsed<Box<[Condition; 2]>> {
        Ok(Box::new([self.condition(left)?, self.condition(right)?]))
    }

    /// A field compared with a text, true or false; `None` where numbers are compared.
    fn same_text(&mut self, left: &Expression, right: &Expression) -> Parsed<Option<Condition>> {
        let (of, text) = match (text_of(left), text_of(right)) {
            (None, None) => {
                if self.slot(left)?.is_some() && self.slot(right)?.is_some() {
                    return self.fault(left, "whether numbers or texts are compared is not clear: compare with a text, or write `data.n - data.m == 0`");
                }
                return Ok(None);
            }
            (None, Some(text)) => (left, text),
            (Some(text), None) => (right, text),
            (Some(_), Some(_)) => return self.fault(left, "two texts are compared: name a field"),
        };
        match self.slot(of)? {
            Some(slot) => Ok(Some(Condition::Among { slot, texts: vec![text] })),
            None => self.fault(of, "a text is compared with what is no field"),
        }
    }

    fn among(&mut self, of: &Expression, list: &Expression) -> Parsed<Condition> {
        let elements = match &list.expr {
            Expr::List(list) if list.optional_indices.is_empty() => &list.elements[..],
            _ => &[],
        };
        for element in elements {
            self.count(element)?;
        }
        let texts = elements.iter().map(text_of).collect::<Option<Vec<String>>>();
        let Some(texts) = texts.filter(|texts| !texts.is_empty()) else {
            return self.fault(list, "a list of texts is wanted behind `in`: ['a', 'b']");
        };
        match self.slot(of)? {
            Some(slot) => Ok(Condition::Among { slot, texts }),
            None => self.fault(of, NO_FIELD),
        }
    }
}

/// A literal text; true and false as JSON writes them.
fn text_of(tree: &Expression) -> Option<String> {
    match &tree.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner().to_owned()),
        Expr::Literal(LiteralValue::Boolean(is)) => Some(is.inner().to_string()),
        _ => None,
    }
}

/// The field that a path names; `None` if it is no path, and why where it is a wrong one.
fn field_of(tree: &Expression) -> Result<Option<Field>, String> {
    let mut steps = Vec::new();
    let mut at = tree;
    let root = loop {
        match &at.expr {
            Expr::Ident(name) => break name.as_str(),
            Expr::Select(select) if !select.test => {
                steps.push(select.field.clone());
                at = &select.operand;
            }
            Expr::Call(call) if call.func_name == operators::INDEX => match &call.args[..] {
                [of, index] => {
                    steps.push(match &index.expr {
                        Expr::Literal(LiteralValue::String(name)) => name.inner().to_owned(),
                        Expr::Literal(LiteralValue::Int(number)) if *number.inner() >= 0 => {
                            number.inner().to_string()
                        }
                        _ => return Err(NO_FIELD.to_owned()),
                    });
                    at = of;
                }
                _ => return Ok(None),
            },
            _ => return Ok(None),
        }
    };
    steps.reverse();
    let field = match (root, &steps[..]) {
        (DATA, [_, ..]) => {
            let mut pointer = String::new();
            steps.iter().for_each(|step| push_segment(&mut pointer, step));
            Field::Data(pointer)
        }
        ("usage", [_, ..]) => {
            Field::Usage(UsageField::parse(&format!("usage.{}", steps.join(".")))?)
        }
        ("type", []) => Field::Envelope(EnvelopeField::Type),
        ("source", []) => Field::Envelope(EnvelopeField::Source),
        ("user", []) => Field::Envelope(EnvelopeField::User),
        ("app", []) => Field::Envelope(EnvelopeField::App),
        ("feature", []) => Field::Envelope(EnvelopeField::Feature),
        _ => return Err(NO_FIELD.to_owned()),
    };
    Ok(Some(field))
}
