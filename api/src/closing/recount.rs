//! A period, counted anew from what was observed: what the archive counts for the close, by other means.

use std::collections::{BTreeMap, BTreeSet};

use domain::{meter::UNIQUE_DIMENSION, period::Period};

use super::{Counted, Measure};

/// A unit of the last of twelve decimals.
const ONE: i128 = 1_000_000_000_000;

/// A line that a meter has observed, as it is now. In the order of time, and of what is of one time in the order
/// of the log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Observation {
    /// When, microseconds since 1970.
    pub time_us: i64,
    /// Position and index of the event in its partition.
    pub place: (i64, u32),
    /// The number, in units of the last decimal.
    pub quantity: i128,
    /// Values of the meter's dimensions; of one that counts unique texts, the text too.
    pub dimensions: BTreeMap<String, String>,
}

/// What a team's period comes to, by dimensions: from what was observed before its end, of a meter whose numbers
/// carry over, and else from what was observed in it.
pub fn recount(
    team: &str,
    measure: Measure,
    period: &Period,
    mut observations: Vec<Observation>,
) -> Vec<Counted> {
    let carries_over = matches!(measure, Measure::TimeWeighted { .. });
    let is_within =
        |time_us| time_us < period.end_us && (carries_over || time_us >= period.start_us);
    observations.retain(|one| is_within(one.time_us));
    observations.sort_unstable();
    let mut own: BTreeMap<BTreeMap<String, String>, Vec<Observation>> = BTreeMap::new();
    for one in observations {
        let mut dimensions = one.dimensions.clone();
        if measure == Measure::Unique {
            dimensions.remove(UNIQUE_DIMENSION);
        }
        own.entry(dimensions).or_default().push(one);
    }
    let count = |(dimensions, own): (BTreeMap<String, String>, Vec<Observation>)| {
        let within = own.iter().filter(|one| one.time_us >= period.start_us).count();
        let (whole, rest, parts) = total(measure, period, &own).unwrap_or((i128::MAX, 0, 1));
        Counted {
            whole: whole.to_string(),
            rest: rest.to_string(),
            parts: parts.to_string(),
            observations: i64::try_from(within).unwrap_or(i64::MAX),
            ..Counted::nothing(team.to_owned(), dimensions)
        }
    };
    own.into_iter().map(count).collect()
}

/// What observations of one combination of dimensions come to: `whole` and `rest / parts`; `None` where it is far
/// too large.
fn total(measure: Measure, period: &Period, own: &[Observation]) -> Option<(i128, i128, i128)> {
    let mut numbers = own.iter().map(|one| one.quantity);
    let whole = match measure {
        Measure::Max => numbers.max()?,
        Measure::Min => numbers.min()?,
        Measure::Latest => numbers.next_back()?,
        Measure::Unique => {
            let texts = own.iter().filter_map(|one| one.dimensions.get(UNIQUE_DIMENSION));
            let texts: BTreeSet<&String> = texts.collect();
            i128::try_from(texts.len()).ok()?.checked_mul(ONE)?
        }
        Measure::Average => {
            let sum = numbers.try_fold(0_i128, i128::checked_add)?;
            let count = i128::try_from(own.len()).ok()?;
            return Some((sum.checked_div(count)?, sum.checked_rem(count)?, count));
        }
        Measure::TimeWeighted { divisor_us, changes } => {
            return held(period, own, (divisor_us.into(), changes));
        }
    };
    Some((whole, 0, 1))
}

/// What was held, times how long. Each product is taken apart before it is made: it may not fit.
fn held(
    period: &Period,
    own: &[Observation],
    (parts, changes): (i128, bool),
) -> Option<(i128, i128, i128)> {
    let (mut whole, mut rest, mut level) = (0_i128, 0_i128, 0_i128);
    let ends = own.iter().skip(1).map(|next| next.time_us).chain([period.end_us]);
    for (one, end_us) in own.iter().zip(ends) {
        let before = if changes { level } else { 0 };
        level = before.checked_add(one.quantity)?;
        let long = end_us.saturating_sub(one.time_us.max(period.start_us)).max(0);
        let long = i128::from(long);
        let small = level.checked_rem(parts)?.checked_mul(long)?.checked_add(rest)?;
        whole = whole
            .checked_add(level.checked_div(parts)?.checked_mul(long)?)?
            .checked_add(small.checked_div_euclid(parts)?)?;
        rest = small.checked_rem_euclid(parts)?;
    }
    // As a division towards zero has it.
    Some(if whole < 0 && rest > 0 {
        (whole.checked_add(1)?, rest.checked_sub(parts)?, parts)
    } else {
        (whole, rest, parts)
    })
}

#[cfg(test)]
mod tests {
    use domain::period::PeriodKind;

    use super::*;

    const HOUR_US: i64 = 3_600_000_000;
    const PERIOD: Period =
        Period { kind: PeriodKind::Day, start_us: 24 * HOUR_US, end_us: 48 * HOUR_US };

    /// Hour, number in thousandths and a text.
    fn comes_to(measure: Measure, observed: &[(i64, i128, &str)]) -> String {
        let observation = |(at, (hour, number, text)): (i64, &(i64, i128, &str))| Observation {
            time_us: hour * HOUR_US,
            place: (at, 0),
            quantity: number * (ONE / 1_000),
            dimensions: [(UNIQUE_DIMENSION.to_owned(), (*text).to_owned())].into(),
        };
        let mut all: Vec<Observation> = (0..).zip(observed).map(observation).collect();
        // They come in any order.
        all.reverse();
        if measure != Measure::Unique {
            all.iter_mut().for_each(|one| one.dimensions.clear());
        }
        let counted = recount("acme", measure, &PERIOD, all);
        let texts = counted.iter().map(|one| {
            let quantity = one.quantity().map_or("?".to_owned(), |quantity| quantity.to_string());
            format!("{quantity} of {}", one.observations)
        });
        texts.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn a_period_is_counted_by_hand() {
        let weighted =
            |hours: i64, changes| Measure::TimeWeighted { divisor_us: hours * HOUR_US, changes };
        // Two of one time, one before and one behind the period.
        let observed = [
            (20, 4_000, "a"),
            (25, 10_000, "a"),
            (30, 1_000, "b"),
            (30, 3_500, "b"),
            (48, 99_000, "c"),
        ];
        for (measure, want) in [
            (Measure::Max, "10 of 3"),
            (Measure::Min, "1 of 3"),
            (Measure::Average, "4.833333333333 of 3"),
            (Measure::Latest, "3.5 of 3"),
            (Measure::Unique, "2 of 3"),
            // 1 h of 4, 5 h of 10, 18 h of 3.5.
            (weighted(1, false), "117 of 3"),
            (weighted(24, false), "4.875 of 3"),
            (weighted(7, false), "16.714285714286 of 3"),
            // 1 h of 4, 5 h of 14, 18 h of 18.5.
            (weighted(1, true), "407 of 3"),
        ] {
            assert_eq!(comes_to(measure, &observed), want, "{measure:?}");
        }
        // Half to even, and towards zero as the archive divides.
        let below = [(20, -1_000, "a"), (25, -2_000, "a")];
        assert_eq!(comes_to(weighted(7, false), &below), "-6.714285714286 of 1");
        let held_from_before = [(1, 4_000, "a")];
        assert_eq!(comes_to(weighted(1, false), &held_from_before), "96 of 0");
        assert_eq!(comes_to(Measure::Max, &held_from_before), "");
        let too_large = [(24, 1_000_000_000_000_000_000, "a"), (24, 999_000_000_000_000_000, "a")];
        assert_eq!(comes_to(Measure::Max, &too_large), "? of 2");
        assert_eq!(comes_to(weighted(1, false), &too_large), "? of 2");
    }
}
