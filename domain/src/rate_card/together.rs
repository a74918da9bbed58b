//! What rows of one meter must agree on because they share its running total.

use std::sync::Arc;

use super::{Model, RateRow, UnitEach};
use crate::pricing::Terms;

/// A row of a meter that is neither a plain price nor unlimited.
#[derive(Clone, Debug)]
pub struct MeterRow<'a> {
    /// Its place in the version's rows.
    pub index: usize,
    /// The row.
    pub row: &'a RateRow,
    /// What it compiled to.
    pub terms: Arc<Terms>,
}

/// What is wrong with rows of one meter in one version taken together: the place of each faulty row
/// and the reason. Rows that count in the meter's running total must count over the same period and
/// in the same unit, and what holds for a whole total must be the only such row.
#[must_use]
pub fn faults_together(rows: &[MeterRow<'_>]) -> Vec<(usize, String)> {
    let shares = |row: &&MeterRow<'_>| row.terms.counting().is_some_and(|counting| !counting.own);
    let sharing: Vec<&MeterRow<'_>> = rows.iter().filter(shares).collect();
    let Some((first, others)) = sharing.split_first() else { return Vec::new() };
    let mut faults = Vec::new();
    for other in others {
        faults.extend(disagreement(first, other).map(|reason| (other.index, reason)));
    }
    if others.is_empty() {
        return faults;
    }
    for row in sharing {
        if let Some(name) = whole(row.row) {
            let reason = format!(
                "{name} holds for a whole running total, and other rows of the meter `{}` count in it \
                 too; give this row `total: \"row\"` or make it the only one",
                row.row.meter
            );
            faults.push((row.index, reason));
        }
    }
    faults
}

/// What two rows that share a total disagree on.
fn disagreement(first: &MeterRow<'_>, other: &MeterRow<'_>) -> Option<String> {
    let period = |row: &MeterRow<'_>| row.terms.counting().map(|counting| counting.period.name());
    let (one, two) = (period(first), period(other));
    let rule = "rows that count in the meter's running total";
    let way = "change one or give it `total: \"row\"`";
    if one != two {
        let (one, two) = (one.unwrap_or_default(), two.unwrap_or_default());
        let index = first.index;
        return Some(format!(
            "its period is `{two}` and that of rates[{index}] `{one}`; {rule} have the same: {way}"
        ));
    }
    (!first.terms.counts_like(&other.terms)).then(|| {
        let index = first.index;
        format!("its `unit` is not that of rates[{index}]; {rule} have the same: {way}")
    })
}

/// The name of what in a row holds for a whole total only.
fn whole(row: &RateRow) -> Option<String> {
    let by_period = row.unit.as_ref().is_some_and(|unit| unit.each == Some(UnitEach::Period));
    match row.model {
        Some(model @ (Model::Volume | Model::Flat | Model::Package)) => {
            Some(format!("the model `{}`", model.name()))
        }
        _ if row.minimum.is_some() => Some("`minimum`".into()),
        _ if row.maximum.is_some() => Some("`maximum`".into()),
        _ if by_period => Some("a `unit` of each period".into()),
        _ => None,
    }
}
