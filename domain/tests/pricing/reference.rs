//! The models once more, written differently: a total is counted up step by step in whole numbers,
//! and nothing is a formula of it.

use domain::{
    money::ONE,
    rate_card::{Blocks, Model, RateRow, Tier},
};
use proptest::prelude::*;

use super::text;

/// A row and its usage. Everything that is compared with a total is a number of steps.
#[derive(Clone, Debug)]
pub struct Plan {
    pub model: Model,
    /// How large a step is, at scale 12.
    pub step: i128,
    /// Last step of each tier, its price and its flat amount; the last goes on. Models without tiers
    /// use the first price.
    pub tiers: Vec<(i128, i128, i128)>,
    pub per: u64,
    pub begun: bool,
    pub included: Option<i128>,
    pub minimum: Option<i128>,
    pub maximum: Option<i128>,
    /// Steps of each event.
    pub usage: Vec<i128>,
}

impl Plan {
    /// The row, as a card has it.
    pub fn row(&self) -> RateRow {
        let by_percent = matches!(self.model, Model::Percentage | Model::GraduatedPercentage);
        let (flat, package) = (self.model == Model::Flat, self.model == Model::Package);
        let tiered =
            matches!(self.model, Model::Graduated | Model::Volume | Model::GraduatedPercentage);
        let price = text(self.tiers[0].1);
        RateRow {
            meter: "m".into(),
            model: Some(self.model),
            price: (!tiered && !by_percent).then_some(price.clone()),
            percent: (!tiered && by_percent).then_some(price),
            per: if by_percent || flat { 1 } else { self.per },
            tiers: if tiered { self.tier_rows(by_percent) } else { Vec::new() },
            blocks: (package && !self.begun).then_some(Blocks::Down),
            included: self.included.filter(|_| !flat).map(|steps| text(steps * self.step)),
            minimum: self.minimum.filter(|_| !flat).map(text),
            maximum: self.maximum.filter(|_| !flat).map(text),
            ..RateRow::default()
        }
    }

    fn tier_rows(&self, by_percent: bool) -> Vec<Tier> {
        let last = self.tiers.len() - 1;
        let tiers = self.tiers.iter().enumerate();
        tiers
            .map(|(number, (end, price, flat))| Tier {
                up_to: (number < last).then(|| text(end * self.step)),
                price: (!by_percent).then(|| text(*price)),
                percent: by_percent.then(|| text(*price)),
                flat: (*flat > 0).then(|| text(*flat)),
            })
            .collect()
    }

    /// The tier of a step, from 1.
    fn tier_of(&self, step: i128) -> usize {
        let last = self.tiers.len() - 1;
        (0..last).find(|number| step <= self.tiers[*number].0).unwrap_or(last)
    }

    /// What a total of so many steps comes to, rounded and within its bounds.
    pub fn comes_to(&self, steps: i128) -> i128 {
        if steps <= 0 {
            return 0;
        }
        if self.model == Model::Flat {
            return self.tiers[0].1;
        }
        let priced = (steps - self.included.unwrap_or(0)).max(0);
        let per = match self.model {
            Model::Percentage | Model::GraduatedPercentage => 100,
            _ => i128::from(self.per),
        };
        let mut exact = 0_i128; // Times `per` and 10¹².
        let mut entered = 0_usize;
        let mut in_block = 0_i128;
        for step in 1..=priced {
            let (_, price, _) = self.tiers[self.tier_of(step)];
            match self.model {
                Model::PerUnit | Model::Percentage => exact += self.tiers[0].1 * self.step,
                Model::Volume => {}
                Model::Package => {
                    // A block is charged with its first step or with its last.
                    in_block += self.step;
                    let first = in_block == self.step;
                    let full = in_block == per * ONE;
                    if (self.begun && first) || (!self.begun && full) {
                        exact += self.tiers[0].1 * per * ONE;
                    }
                    in_block = if full { 0 } else { in_block };
                }
                _ => {
                    exact += price * self.step;
                    while entered <= self.tier_of(step) {
                        exact += self.tiers[entered].2 * per * ONE;
                        entered += 1;
                    }
                }
            }
        }
        if self.model == Model::Volume && priced > 0 {
            let (_, price, flat) = self.tiers[self.tier_of(priced)];
            (0..priced).for_each(|_| exact += price * self.step);
            exact += flat * per * ONE;
        }
        let rounded = half_even(exact, per * ONE);
        let rounded = self.minimum.map_or(rounded, |minimum| rounded.max(minimum));
        self.maximum.map_or(rounded, |maximum| rounded.min(maximum))
    }
}

/// The nearest whole number; of two equally near ones the even one.
pub fn half_even(numerator: i128, denominator: i128) -> i128 {
    let below = numerator.div_euclid(denominator);
    let distance = |candidate: i128| (candidate * denominator - numerator).abs();
    match distance(below).cmp(&distance(below + 1)) {
        std::cmp::Ordering::Less => below,
        std::cmp::Ordering::Greater => below + 1,
        std::cmp::Ordering::Equal => below + below.rem_euclid(2),
    }
}

/// Prices that often end in the middle between two last digits.
fn price() -> impl Strategy<Value = i128> {
    prop_oneof![0..20_i128, (0..2_000_i128).prop_map(|cents| cents * ONE / 100), 0..1_000 * ONE]
}

fn tiers() -> impl Strategy<Value = Vec<(i128, i128, i128)>> {
    let tier = (1..60_i128, price(), prop_oneof![3 => Just(0), 1 => price()]);
    prop::collection::vec(tier, 1..5).prop_map(|tiers| {
        let mut end = 0;
        let mut ascending = tiers;
        for tier in &mut ascending {
            end += tier.0;
            tier.0 = end;
        }
        ascending
    })
}

/// Steps of events, some of which take back what others have added.
fn steps() -> impl Strategy<Value = Vec<i128>> {
    prop::collection::vec(prop_oneof![6 => 0..50_i128, 1 => -40..0_i128], 1..12)
}

/// Any plan whose model has a running total.
pub fn plan() -> impl Strategy<Value = Plan> {
    let models = [
        Model::PerUnit,
        Model::Package,
        Model::Graduated,
        Model::Volume,
        Model::Flat,
        Model::Percentage,
        Model::GraduatedPercentage,
    ];
    let step = prop::sample::select(vec![1, 3, 500_000_000_000, ONE, 7 * ONE]);
    let per = prop::sample::select(vec![1_u64, 3, 7, 10, 1000]);
    let included = prop::option::of(0..80_i128);
    let bounds = (prop::option::of(0..50 * ONE), prop::option::of(0..200 * ONE));
    let parts = (prop::sample::select(models.to_vec()), step, tiers(), per, any::<bool>());
    (parts, included, bounds, steps()).prop_map(|(parts, included, bounds, usage)| {
        let (model, step, tiers, per, begun) = parts;
        let (minimum, maximum) = bounds;
        let maximum = maximum.map(|maximum| maximum.max(minimum.unwrap_or(0)));
        // Steps must fill a block exactly.
        let per = if model == Model::Package && step == 7 * ONE { 7 } else { per };
        let step = if model == Model::Package && step == 3 { 1 } else { step };
        let linear = matches!(model, Model::PerUnit | Model::Percentage);
        let apart = linear && maximum.is_none() && minimum.is_none();
        let included = if apart { Some(included.unwrap_or(0)) } else { included };
        Plan { model, step, tiers, per, begun, included, minimum, maximum, usage }
    })
}
