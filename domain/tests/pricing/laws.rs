//! What holds for any row and any usage.

use domain::{
    money::{Amount, ONE},
    pricing::{Terms, Uncharged, Usage},
    quantity::Quantity,
    rate_card::{Model, RateRow, Unit, UnitEach, UnitRound},
};
use proptest::prelude::*;

use super::{
    reference::{Plan, half_even, plan},
    row, terms, text, usage,
};

/// What events are charged one after the other.
fn charges(terms: &Terms, quantities: &[i128]) -> Vec<i128> {
    let mut before = 0;
    let charge = |quantity: &i128| {
        let charged = terms.charge(&usage(*quantity, before)).unwrap().raw();
        before += quantity;
        charged
    };
    quantities.iter().map(charge).collect()
}

fn quantities(plan: &Plan) -> Vec<i128> {
    plan.usage.iter().map(|steps| steps * plan.step).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn every_total_comes_to_what_the_reference_says(plan in plan()) {
        let terms = terms(&plan.row());
        prop_assert!(terms.counting().is_some());
        let mut total = 0;
        for (steps, charge) in plan.usage.iter().zip(charges(&terms, &quantities(&plan))) {
            prop_assert_eq!(charge, plan.comes_to(total + steps) - plan.comes_to(total));
            total += steps;
        }
    }

    #[test]
    fn charges_add_up_to_the_whole_in_any_order(
        (plan, other) in plan().prop_flat_map(|plan| {
            let other = Just(plan.usage.clone()).prop_shuffle();
            (Just(plan), other)
        })
    ) {
        let terms = terms(&plan.row());
        let total: i128 = plan.usage.iter().sum();
        let whole = terms.charge(&usage(total * plan.step, 0)).unwrap().raw();
        prop_assert_eq!(whole, plan.comes_to(total));
        prop_assert_eq!(charges(&terms, &quantities(&plan)).iter().sum::<i128>(), whole);
        let other = Plan { usage: other, ..plan };
        prop_assert_eq!(charges(&terms, &quantities(&other)).iter().sum::<i128>(), whole);
    }

    #[test]
    fn usage_may_be_split_anywhere(plan in plan(), before in -50..200_i128, parts in prop::collection::vec(1..1_000_i128, 1..6)) {
        let terms = terms(&plan.row());
        let before = before * plan.step;
        let whole = terms.charge(&usage(parts.iter().sum(), before)).unwrap().raw();
        let (mut total, mut sum) = (before, 0);
        for part in parts {
            sum += terms.charge(&usage(part, total)).unwrap().raw();
            total += part;
        }
        prop_assert_eq!(sum, whole);
    }

    #[test]
    fn more_usage_never_costs_less_but_where_a_volume_is_reached(plan in plan()) {
        let growing = Plan { usage: plan.usage.iter().map(|steps| steps.abs()).collect(), ..plan };
        let charges = charges(&terms(&growing.row()), &quantities(&growing));
        let never_less = charges.iter().all(|charge| *charge >= 0);
        prop_assert!(never_less || growing.model == Model::Volume, "{charges:?}");
    }

    #[test]
    fn a_period_stays_within_its_bounds(plan in plan()) {
        let row = plan.row();
        let (mut total, mut sum) = (0, 0);
        for (steps, charge) in plan.usage.iter().zip(charges(&terms(&row), &quantities(&plan))) {
            total += steps;
            sum += charge;
            let bound = |text: &Option<String>| text.as_deref().map(|text| Amount::parse_exact(text).unwrap().raw());
            prop_assert!(bound(&row.maximum).is_none_or(|maximum| sum <= maximum));
            prop_assert!(total <= 0 || bound(&row.minimum).is_none_or(|minimum| sum >= minimum));
            prop_assert!(total > 0 || sum == 0);
        }
    }

    #[test]
    fn a_fee_is_added_to_each_event(plan in plan(), fee in 0..10 * ONE) {
        let with_fee = RateRow { fee: Some(text(fee)), ..plan.row() };
        let has_fee = matches!(plan.model, Model::PerUnit | Model::Graduated | Model::Percentage | Model::GraduatedPercentage);
        prop_assert_eq!(with_fee.rate().is_ok(), has_fee);
        if has_fee {
            let without = charges(&terms(&plan.row()), &quantities(&plan));
            let want: Vec<i128> = without.iter().map(|charge| charge + fee).collect();
            prop_assert_eq!(charges(&terms(&with_fee), &quantities(&plan)), want);
        }
    }

    #[test]
    fn any_numbers_have_a_charge_or_none(plan in plan(), quantity: i128, before: i128, divide_by in 1..100 * ONE) {
        let by_period = Unit { divide_by: text(divide_by), each: Some(UnitEach::Period), ..Unit::default() };
        let unit = (plan.model != Model::Flat).then_some(by_period);
        for row in [plan.row(), RateRow { unit, ..plan.row() }] {
            let terms = terms(&row);
            for (quantity, before) in [(quantity, before), (i128::MAX, before / 2), (i128::MIN, 0), (ONE, i128::MAX)] {
                let charged = terms.charge(&usage(quantity, before));
                prop_assert!(matches!(charged, Ok(_) | Err(Uncharged::OutOfRange)));
            }
        }
    }

    #[test]
    fn a_percentage_of_each_event_is_exact(percent in 0..1_000 * ONE, quantity in -1_000_000..1_000_000_i128) {
        let row = RateRow { percent: Some(text(percent)), model: Some(Model::Percentage), ..row("{}") };
        let terms = terms(&row);
        prop_assert!(terms.counting().is_none() && !terms.needs_cost() && !terms.needs_local_time());
        let want = half_even(percent * quantity, 100);
        prop_assert_eq!(terms.charge(&usage(quantity * ONE, 0)).unwrap().raw(), want);
    }

    #[test]
    fn cost_plus_is_rounded_once(cost in -100_000_000_000_000..100_000_000_000_000_i128, factor in 1..1_000 * ONE, fee in 0..ONE) {
        let row = RateRow { model: Some(Model::CostPlus), factor: Some(text(factor)), fee: Some(text(fee)), ..row("{}") };
        let terms = terms(&row);
        prop_assert!(terms.needs_cost() && terms.counting().is_none());
        let with = Usage { cost: Amount::from_raw(cost), ..usage(ONE, 0) };
        let want = half_even(cost * factor, ONE) + fee;
        prop_assert_eq!(terms.charge(&with).unwrap().raw(), want);
        prop_assert_eq!(terms.charge(&usage(ONE, 0)), Err(Uncharged::CostUnknown));
    }

    #[test]
    fn a_unit_is_converted_and_rounded(
        whole in -1_000_000..1_000_000_i128, divide_by in 1..5_000_i128, decimals in 0..4_u8, round in 0..3_usize
    ) {
        let round = [UnitRound::Up, UnitRound::Down, UnitRound::HalfEven][round];
        let unit = Unit { divide_by: divide_by.to_string(), decimals: Some(decimals), round: Some(round), each: None };
        let by_event = terms(&RateRow { unit: Some(unit.clone()), price: Some("3".into()), ..row("{}") });
        let numerator = whole * 10_i128.pow(decimals.into());
        let size = match round {
            UnitRound::HalfEven => half_even(numerator.abs(), divide_by),
            UnitRound::Down => numerator.abs().div_euclid(divide_by),
            UnitRound::Up => -(-numerator.abs()).div_euclid(divide_by),
        };
        let converted = size * whole.signum() * (ONE / 10_i128.pow(decimals.into()));
        let quantity = Quantity::parse(&whole.to_string()).unwrap().0;
        prop_assert_eq!(by_event.priced(quantity), Some(converted));
        prop_assert_eq!(by_event.charge(&usage(converted, 0)).unwrap().raw(), converted * 3);
        // Of a period: the total as it is, and the whole of it is converted at once.
        let unit = Unit { each: Some(UnitEach::Period), ..unit };
        let by_period = terms(&RateRow { unit: Some(unit), price: Some("3".into()), ..row("{}") });
        prop_assert_eq!(by_period.priced(quantity), Some(quantity.raw()));
        let parts = [quantity.raw() / 3, quantity.raw() - quantity.raw() / 3];
        prop_assert_eq!(charges(&by_period, &parts).iter().sum::<i128>(), converted.max(0) * 3);
    }
}

#[test]
fn what_does_not_count_takes_back_what_it_gave() {
    for json in [
        r#"{"price": "0.07", "per": 3, "unit": {"divide_by": "7"}}"#,
        r#"{"model": "percentage", "percent": "2.9"}"#,
    ] {
        let terms = terms(&row(json));
        let [plus, minus] = [ONE, -ONE].map(|quantity| terms.charge(&usage(quantity, 0)).unwrap());
        assert!(plus > Amount::ZERO);
        assert_eq!(minus, plus.negated());
    }
}

#[test]
fn borders_are_inclusive() {
    let tiers = r#""tiers": [{"up_to": "10", "price": "2"}, {"price": "1", "flat": "5"}]"#;
    let at = |model: &str, total: &str| {
        let terms = terms(&row(&format!(r#"{{"model": "{model}", {tiers}}}"#)));
        let total = Quantity::parse(total).unwrap().0.raw();
        terms.charge(&usage(total, 0)).unwrap().to_string()
    };
    assert_eq!(
        ["0", "10", "10.000000000001", "11"].map(|total| at("graduated", total)),
        ["0", "20", "25.000000000001", "26"]
    );
    assert_eq!(
        ["0", "10", "10.000000000001", "11"].map(|total| at("volume", total)),
        ["0", "20", "15.000000000001", "16"]
    );
}

#[test]
fn what_is_beyond_the_limits_has_no_charge() {
    let row = row(r#"{"price": "10000000000", "included": "0", "unit": {"divide_by": "0.001"}}"#);
    let terms = terms(&row);
    let quantity = |text: &str| Quantity::parse(text).unwrap().0;
    assert_eq!(terms.priced(quantity("1000000000000")), None);
    assert_eq!(terms.priced(quantity("-1000000000000")), None);
    assert_eq!(terms.priced(quantity("999999999999.999")), Some(999_999_999_999_999 * ONE));
    let charge = |quantity| terms.charge(&usage(quantity, 0)).map(Amount::raw);
    assert_eq!(charge(10_i128.pow(10) * ONE), Err(Uncharged::OutOfRange));
    let below = 10_i128.pow(10) * ONE - 1;
    assert_eq!(charge(below), Ok(below * 10_i128.pow(10)));
    // The total may be far beyond, as long as the charge is not.
    let later = terms.charge(&usage(ONE, 10_i128.pow(25) * ONE)).map(Amount::raw);
    assert_eq!(later, Ok(10_i128.pow(10) * ONE));
}
