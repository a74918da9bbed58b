//! The meters that a burn table's rows are for.

use std::collections::{BTreeMap, BTreeSet};

use domain::{
    catalog::{CatalogDocument, Fault},
    llm_usage::{UsageClass, UsageField},
    meter::{Aggregation, Field, MeterDefinition, Paths, push_segment},
};

use super::rule_names;
use crate::provider_prices::cost_card::dimension;

/// The type of events that clients of burn tables report tokens with.
const TOKEN_USAGE: &str = "TOKEN_USAGE";
/// And images.
const IMAGE_GENERATION: &str = "IMAGE_GENERATION";

/// A meter with the name of its dimension for the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub key: String,
    pub model: String,
}

/// The class that a meter adds up: its path names the class, or the field that counts it.
pub(crate) fn class_of(meter: &MeterDefinition) -> Option<UsageClass> {
    if meter.aggregation != Aggregation::Sum {
        return None;
    }
    let paths = meter.value.as_ref().map(Paths::all).unwrap_or_default();
    paths.iter().find_map(|path| match Field::parse(path) {
        Ok(Field::Usage(UsageField::Class(class))) => Some(class),
        Ok(Field::Data(pointer)) => UsageClass::ALL
            .into_iter()
            .find(|class| rule_names(*class).iter().any(|name| pointer_of(name) == pointer)),
        _ => None,
    })
}

fn pointer_of(name: &str) -> String {
    let mut pointer = String::new();
    push_segment(&mut pointer, name);
    pointer
}

/// The name of a meter's dimension that looks at the model.
pub(crate) fn model_dimension(meter: &MeterDefinition) -> Option<&str> {
    dimension(meter, "$.model")
}

/// The meters of a class, such that no event type is looked at by two of them: rows for both would
/// charge twice. A `burn_…` meter is made for the types that none looks at.
pub(crate) fn of_class(
    document: &mut CatalogDocument,
    class: UsageClass,
) -> Result<Vec<Chosen>, Vec<Fault>> {
    let own_key = format!("burn_{}", rule_names(class).remove(0));
    let mut covered: BTreeSet<String> = BTreeSet::new();
    let mut chosen = Vec::new();
    let mut fitting: Vec<&MeterDefinition> = document
        .meters
        .iter()
        .filter(|meter| meter.key != own_key && class_of(meter) == Some(class))
        .collect();
    // A meter with conditions may leave events out.
    fitting.sort_by_key(|meter| !meter.filters.is_empty());
    for meter in fitting {
        let Some(model) = model_dimension(meter) else { continue };
        if meter.event_types.iter().all(|event_type| !covered.contains(event_type)) {
            covered.extend(meter.event_types.iter().cloned());
            chosen.push(Chosen { key: meter.key.clone(), model: model.to_owned() });
        }
    }
    let wanted: BTreeSet<String> = event_types(document, class);
    let missing: Vec<String> = wanted.difference(&covered).cloned().collect();
    chosen.extend(own_meter(document, class, &own_key, &covered, missing)?);
    Ok(chosen)
}

/// The event types that may have usage of a class.
fn event_types(document: &CatalogDocument, class: UsageClass) -> BTreeSet<String> {
    let alike = |other: UsageClass| other == class || (other.is_tokens() && class.is_tokens());
    let usual = if class == UsageClass::Images { IMAGE_GENERATION } else { TOKEN_USAGE };
    let meters = document.meters.iter().filter(|meter| class_of(meter).is_some_and(alike));
    let types = meters.flat_map(|meter| meter.event_types.iter().cloned());
    types.chain([usual.to_owned()]).collect()
}

/// The `burn_…` meter of a class, which looks at the types that no other meter looks at.
fn own_meter(
    document: &mut CatalogDocument,
    class: UsageClass,
    key: &str,
    covered: &BTreeSet<String>,
    missing: Vec<String>,
) -> Result<Option<Chosen>, Vec<Fault>> {
    let place = document.meters.iter().position(|meter| meter.key == key);
    let Some(meter) = place.and_then(|place| document.meters.get_mut(place)) else {
        if missing.is_empty() {
            return Ok(None);
        }
        document.meters.push(new_meter(class, key, missing));
        return Ok(Some(Chosen { key: key.to_owned(), model: "model".to_owned() }));
    };
    let mut types: BTreeSet<String> = meter.event_types.iter().cloned().collect();
    types.extend(missing);
    types.retain(|event_type| !covered.contains(event_type));
    if types.is_empty() {
        return Ok(None);
    }
    if class_of(meter) != Some(class) || model_dimension(meter).is_none() {
        let reason = "it is not what a burn table made: it must add up this class, by a dimension of the path $.model";
        return Err(vec![Fault { place: format!("meters[{key}]"), reason: reason.to_owned() }]);
    }
    if types != meter.event_types.iter().cloned().collect() {
        meter.event_types = types.into_iter().collect();
    }
    let model = model_dimension(meter).unwrap_or_default().to_owned();
    Ok(Some(Chosen { key: key.to_owned(), model }))
}

fn new_meter(class: UsageClass, key: &str, event_types: Vec<String>) -> MeterDefinition {
    let fields = rule_names(class).into_iter().map(|name| format!("$.{name}"));
    let paths = [format!("usage.{}", class.name())].into_iter().chain(fields).collect();
    // The provider is there for cost cards: price lists of providers tell prices apart by it.
    let dimensions = ["model", "provider"]
        .map(|name| (name.to_owned(), Paths::One(format!("$.{name}"))))
        .into_iter();
    let unit = match class {
        UsageClass::Images => "image",
        UsageClass::ToolCalls => "call",
        UsageClass::SearchUnits => "search",
        _ => "token",
    };
    MeterDefinition {
        key: key.to_owned(),
        event_types,
        aggregation: Aggregation::Sum,
        value: Some(Paths::FirstOf(paths)),
        unit: unit.to_owned(),
        filters: Vec::new(),
        dimensions: dimensions.collect::<BTreeMap<_, _>>(),
        allow_negative: false,
        period: None,
        held_for: None,
        changes: false,
        formula: None,
        samples: Vec::new(),
    }
}
