//! Tiers, and the straight pieces of the curve that they make.

use ethnum::I256;

use super::{amount, number, optional, percent, required, wide};
use crate::{
    money::Amount,
    pricing::curve::{Piece, divisor},
    rate_card::{Model, RateRow, Tier},
};

/// Most tiers of a row.
pub const TIERS_MAX: usize = 100;

/// A tier as numbers; `end` is the last total that it holds for.
pub(super) struct Step {
    end: i128,
    price: Amount,
    flat: Amount,
}

/// The tiers of a row, checked.
pub(super) fn tiers(row: &RateRow, model: Model) -> Result<Vec<Step>, String> {
    let count = row.tiers.len();
    if count == 0 || count > TIERS_MAX {
        return Err(format!("it has {count} tiers; it needs 1 to {TIERS_MAX}"));
    }
    let mut steps: Vec<Step> = Vec::with_capacity(count);
    for (number, tier) in (1..).zip(&row.tiers) {
        let start = steps.last().map_or(0, |step| step.end);
        let step = step(tier, model, (start, number == count));
        steps.push(step.map_err(|reason| format!("tier {number} of {count}: {reason}"))?);
    }
    Ok(steps)
}

fn step(tier: &Tier, model: Model, (start, last): (i128, bool)) -> Result<Step, String> {
    let end = match (&tier.up_to, last) {
        (None, true) => i128::MAX,
        (Some(text), false) => {
            let end = number("border", text)?;
            if end <= start {
                let start = Amount::of_sum(start);
                return Err(format!("its `up_to` is {text}; it must be above {start}"));
            }
            end
        }
        (Some(_), true) => return Err("the last tier has no `up_to`; it goes on for ever".into()),
        (None, false) => return Err("its `up_to` is missing; only the last has none".into()),
    };
    let by_percent = model == Model::GraduatedPercentage;
    let (price, percentage) = (("price", &tier.price), ("percent", &tier.percent));
    let (wanted, other) = if by_percent { (percentage, price) } else { (price, percentage) };
    if other.1.is_some() {
        let (wanted, other) = (wanted.0, other.0);
        return Err(format!("the model `{}` has `{wanted}` in place of `{other}`", model.name()));
    }
    let text = required(wanted.0, wanted.1.as_deref())?;
    let price = if by_percent { percent("percent", text)? } else { amount("price", text)? };
    let flat = optional("flat amount", tier.flat.as_deref())?.unwrap_or(Amount::ZERO);
    Ok(Step { end, price, flat })
}

/// The straight pieces of the tiers' curve. Prices and borders are below 10³², the end of the last
/// tier below 2¹²⁷ and a flat amount times the divisor below 10⁵⁶: it all stays far below 2²⁵⁵.
pub(super) fn pieces(steps: &[Step], per: u64, model: Model) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(steps.len());
    // What the tiers below come to, over the divisor, and where they end.
    let (mut below, mut above) = (I256::ZERO, 0_i128);
    for step in steps {
        let slope = step.price.raw();
        let flat = wide(step.flat).wrapping_mul(divisor(per));
        let times_slope = |total: i128| I256::from(slope).wrapping_mul(I256::from(total));
        let fixed = match model {
            Model::Volume => flat,
            _ => below.wrapping_add(flat).wrapping_sub(times_slope(above)),
        };
        pieces.push(Piece { above, fixed, slope });
        below = fixed.wrapping_add(times_slope(step.end));
        above = step.end;
    }
    pieces
}
