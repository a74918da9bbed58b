//! A cost card from prices: a row per meter, model and, for long prompts, boundary of the context.

use std::collections::{BTreeMap, BTreeSet};

use domain::{
    catalog::{CatalogDocument, Fault},
    llm_usage::{CONTEXT_BOUNDARIES, UsageClass, UsageField},
    meter::{Field, MeterDefinition, Paths},
    rate_card::{Card, CardKind, CardVersion, RateRow},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Known, Price, PriceKey, at};

/// What a card shall be made of.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewCostCard {
    /// The cost card: made, or given another version.
    #[schema(example = "providers")]
    pub card: String,
    /// Classes of meters whose paths do not name one, by meter; meters of `usage.input` and the
    /// like are found by themselves.
    #[serde(default)]
    #[schema(example = json!({"llm_input_tokens": "input"}))]
    pub meters: BTreeMap<String, String>,
    /// Prices in this currency become rows.
    #[serde(default = "usd")]
    #[schema(example = "USD")]
    pub currency: String,
    /// The time whose prices are taken, RFC 3339; absent for now.
    #[serde(default)]
    pub at: Option<String>,
    /// From which event time the version holds, RFC 3339; absent for ever.
    #[serde(default)]
    pub effective_from: Option<String>,
    /// Makes it the default cost card.
    #[serde(default)]
    pub default: bool,
    /// Only tells what would be published.
    #[serde(default)]
    pub dry_run: bool,
}

fn usd() -> String {
    "USD".to_owned()
}

/// What became of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CostCardMade {
    /// The card.
    card: String,
    /// The version that has these prices.
    version: u32,
    /// Whether nothing was published.
    dry_run: bool,
    /// The class of each meter that has prices.
    meters: BTreeMap<String, String>,
    /// Rows of the version.
    rows: usize,
    /// Rows that the version before has not, counted.
    added: usize,
    /// Rows with another price than in the version before, counted.
    changed: usize,
    /// Rows of the version before that are gone, counted.
    removed: usize,
    /// What got no row, and why: models by meter. Their cost stays unknown, which is not zero, unless
    /// the card has a row for any model.
    left_out: Vec<String>,
}

/// Reasons that one answer lists.
const LEFT_OUT_MAX: usize = 100;

/// The prices of a time, and what to make of them.
pub(crate) struct Order {
    pub wanted: NewCostCard,
    pub prices: Known,
    pub at_us: i64,
    pub effective_from_us: i64,
}

/// A meter with the names of the dimensions that tell prices apart.
struct Priced<'a> {
    meter: &'a MeterDefinition,
    class: UsageClass,
    provider: &'a str,
    model: &'a str,
    context: Option<&'a str>,
}

/// Gives the document's card a version of these prices.
pub(crate) fn make(
    document: &mut CatalogDocument,
    order: &Order,
) -> Result<CostCardMade, Vec<Fault>> {
    let wanted = &order.wanted;
    let mut left_out = BTreeSet::new();
    let meters = priced_meters(document, wanted, &mut left_out)?;
    let mut rows = Vec::new();
    for priced in &meters {
        rows_of(priced, order, &mut rows, &mut left_out);
    }
    let told = meters
        .iter()
        .map(|priced| (priced.meter.key.clone(), priced.class.name().to_owned()))
        .collect();
    let covered: BTreeMap<String, String> =
        meters.iter().map(|of| (of.meter.key.clone(), of.provider.to_owned())).collect();
    let place = document.cards.iter().position(|card| card.key == wanted.card);
    let place = place.unwrap_or_else(|| {
        document.cards.push(Card {
            key: wanted.card.clone(),
            kind: CardKind::Cost,
            currency: wanted.currency.clone(),
            versions: Vec::new(),
            archived: false,
        });
        document.cards.len() - 1
    });
    let Some(card) = document.cards.get_mut(place) else { return Err(Vec::new()) };
    if card.kind != CardKind::Cost || card.currency != wanted.currency {
        let reason = format!("it is no cost card in {}; choose another key", wanted.currency);
        return Err(vec![Fault { place: format!("cards[{}]", card.key), reason }]);
    }
    let before = card.versions.last();
    let old = before.map(|version| version.rates.as_slice()).unwrap_or_default();
    // Rows of other meters, and rows for any provider, are not ours to take away.
    let stay = |row: &&RateRow| {
        covered.get(&row.meter).is_none_or(|provider| !row.dimensions.contains_key(provider))
    };
    rows.splice(0..0, old.iter().filter(stay).cloned());
    let (added, changed, removed) = compare(old, &rows);
    let same = before.is_some_and(|version| {
        version.rates == rows && version.effective_from_us == order.effective_from_us
    });
    let mut version = before.map_or(0, |version| version.version);
    let count = rows.len();
    if !same {
        version += 1;
        let effective_from_us = order.effective_from_us;
        card.versions.push(CardVersion { version, effective_from_us, rates: rows });
    }
    if wanted.default {
        document.default_cost_card = Some(wanted.card.clone());
    }
    Ok(CostCardMade {
        card: wanted.card.clone(),
        version,
        dry_run: wanted.dry_run,
        meters: told,
        rows: count,
        added,
        changed,
        removed,
        left_out: left_out.into_iter().take(LEFT_OUT_MAX).collect(),
    })
}

/// The meters that prices can be found for.
fn priced_meters<'a>(
    document: &'a CatalogDocument,
    wanted: &NewCostCard,
    left_out: &mut BTreeSet<String>,
) -> Result<Vec<Priced<'a>>, Vec<Fault>> {
    let mut faults = Vec::new();
    let fault = |faults: &mut Vec<Fault>, meter: &str, reason: &str| {
        faults.push(Fault { place: format!("meters[{meter}]"), reason: reason.to_owned() });
    };
    let mut found = Vec::new();
    for (key, class) in &wanted.meters {
        if UsageClass::from_name(class).is_none() {
            fault(&mut faults, key, "its class is none of usage, such as input or output");
        }
        if !document.meters.iter().any(|meter| meter.key == *key) {
            fault(&mut faults, key, "there is no such meter");
        }
    }
    for meter in &document.meters {
        let named = wanted.meters.get(&meter.key);
        let class =
            named.and_then(|class| UsageClass::from_name(class)).or_else(|| class_of(meter));
        let Some(class) = class else { continue };
        let (Some(provider), Some(model)) =
            (dimension(meter, "$.provider"), dimension(meter, "$.model"))
        else {
            let reason = "it needs dimensions of the paths $.provider and $.model";
            match named {
                Some(_) => fault(&mut faults, &meter.key, reason),
                None => drop(left_out.insert(format!("meter {}: {reason}", meter.key))),
            }
            continue;
        };
        let context = dimension(meter, "usage.context");
        found.push(Priced { meter, class, provider, model, context });
    }
    if found.is_empty() && faults.is_empty() {
        fault(
            &mut faults,
            "",
            "no meter is of a class of usage: give meters a value such as usage.input, or name them in `meters`",
        );
    }
    if faults.is_empty() { Ok(found) } else { Err(faults) }
}

/// The class that a meter's own path names.
fn class_of(meter: &MeterDefinition) -> Option<UsageClass> {
    let paths = meter.value.as_ref().map(Paths::all).unwrap_or_default();
    paths.iter().find_map(|path| match Field::parse(path) {
        Ok(Field::Usage(UsageField::Class(class))) => Some(class),
        _ => None,
    })
}

/// The name of the meter's dimension that looks at a path.
pub(crate) fn dimension<'a>(meter: &'a MeterDefinition, path: &str) -> Option<&'a str> {
    let looks = |paths: &Paths| paths.all().iter().any(|known| known == path);
    meter.dimensions.iter().find(|(_, paths)| looks(paths)).map(|(name, _)| name.as_str())
}

fn rows_of(
    priced: &Priced<'_>,
    order: &Order,
    rows: &mut Vec<RateRow>,
    left_out: &mut BTreeSet<String>,
) {
    let models: BTreeSet<(&str, &str)> =
        order.prices.keys().map(|key| (key.provider.as_str(), key.model.as_str())).collect();
    for (provider, model) in models {
        let tiers = tiers_of(priced.class, (provider, model), order, left_out);
        let long = tiers.iter().find(|(above, _)| *above != 0);
        if let (Some((above, _)), None) = (long, priced.context) {
            left_out.insert(format!(
                "{provider}/{model} costs more above {above} tokens: meter {} has no dimension of the path usage.context",
                priced.meter.key
            ));
            continue;
        }
        let row = |price: &Price, context: Option<(&str, u32)>| {
            let dimensions =
                [(priced.provider, provider.to_owned()), (priced.model, model.to_owned())]
                    .into_iter()
                    .chain(context.map(|(name, boundary)| (name, boundary.to_string())));
            RateRow {
                meter: priced.meter.key.clone(),
                dimensions: dimensions.map(|(name, value)| (name.to_owned(), value)).collect(),
                price: price.price.map(|price| price.to_string()),
                per: price.per.unsigned_abs(),
                ..RateRow::default()
            }
        };
        for (number, (above, price)) in tiers.iter().enumerate() {
            if *above == 0 {
                rows.push(row(price, None));
                continue;
            }
            let Some(name) = priced.context else { continue };
            let next = tiers.get(number + 1).map_or(i64::MAX, |(above, _)| *above);
            let within = |boundary: &u32| (*above..next).contains(&i64::from(*boundary));
            let boundaries = CONTEXT_BOUNDARIES.into_iter().filter(within);
            rows.extend(boundaries.map(|boundary| row(price, Some((name, boundary)))));
        }
    }
}

/// The prices of a model's class that hold, the one for all prompts first; none if one of them cannot
/// be told in rows: the others would hold in its place.
fn tiers_of<'a>(
    class: UsageClass,
    (provider, model): (&str, &str),
    order: &'a Order,
    left_out: &mut BTreeSet<String>,
) -> Vec<(i64, &'a Price)> {
    let held = |class: UsageClass| -> Vec<(i64, &'a Price)> {
        let of = |above| PriceKey {
            provider: provider.to_owned(),
            model: model.to_owned(),
            class: class.name().to_owned(),
            above,
        };
        let versions = order.prices.range(of(0)..=of(i64::MAX));
        versions.filter_map(|(key, known)| Some((key.above, at(known, order.at_us)?))).collect()
    };
    let own = held(class);
    let listed = if own.is_empty() { class.listed_as().map(held).unwrap_or_default() } else { own };
    let fault = listed.iter().find_map(|(above, price)| {
        let is_boundary = CONTEXT_BOUNDARIES.into_iter().any(|known| i64::from(known) == *above);
        if price.currency != order.wanted.currency {
            Some(format!("{provider}/{model}: its price is in {}", price.currency))
        } else if *above != 0 && !is_boundary {
            Some(format!("{provider}/{model} above {above} tokens: no boundary of usage.context"))
        } else {
            None
        }
    });
    match fault {
        None => listed,
        Some(fault) => {
            left_out.insert(fault);
            Vec::new()
        }
    }
}

/// Rows that are new, have another price, and are gone.
fn compare(old: &[RateRow], new: &[RateRow]) -> (usize, usize, usize) {
    fn by_name(rows: &[RateRow]) -> BTreeMap<(&str, &BTreeMap<String, String>), &RateRow> {
        rows.iter().map(|row| ((row.meter.as_str(), &row.dimensions), row)).collect()
    }
    let (old, new) = (by_name(old), by_name(new));
    let added = new.keys().filter(|name| !old.contains_key(*name)).count();
    let removed = old.keys().filter(|name| !new.contains_key(*name)).count();
    let changed = new.iter().filter(|(name, row)| old.get(*name).is_some_and(|old| old != *row));
    (added, changed.count(), removed)
}
