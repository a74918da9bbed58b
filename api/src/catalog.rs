//! The catalog as the outside sees it, and how publishing changes it.
//!
//! Outside, times are RFC 3339 and a version may leave its number out; inside
//! ([`CatalogDocument`]) they are numbers. What has been published of a card never changes.

use std::collections::BTreeMap;

use domain::{
    catalog::{CatalogDocument, CreditUnit, CreditValue, Fault},
    meter::MeterDefinition,
    rate_card::{Card, CardKind, CardVersion},
    time,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub(crate) mod changes;
pub(crate) mod merge;
mod offer_form;
mod rate_form;
mod zone_form;

pub(crate) use self::{
    offer_form::{HolderForm, OfferForm, OfferSchema},
    rate_form::{RateForm, RateSchema, shortest},
    zone_form::TeamZoneForm,
};

/// One path or several, of which the first that is present counts.
#[derive(ToSchema)]
#[schema(as = Paths)]
#[serde(untagged)]
#[derive(Serialize)]
#[expect(dead_code, reason = "only its documentation is used")]
pub(crate) enum PathsForm {
    /// One path: `$.a.b`, `$.list[0]`, `$['a.b']`; type, source, user, app, feature; or a class of
    /// LLM usage such as `usage.input`.
    One(String),
    /// Several paths.
    FirstOf(Vec<String>),
}

/// A condition; all of a meter's must hold.
#[derive(Serialize, ToSchema)]
#[schema(as = Filter)]
pub(crate) struct FilterForm {
    /// Where to look.
    field: PathsForm,
    /// The value is one of these.
    #[serde(rename = "in")]
    one_of: Option<Vec<String>>,
    /// The value is present and none of these.
    not_in: Option<Vec<String>>,
    /// The value is present (true) or absent (false).
    exists: Option<bool>,
}

/// A sample that a formula is tried on.
#[derive(Serialize, ToSchema)]
#[schema(as = FormulaSample)]
pub(crate) struct SampleForm {
    /// Values of fields, by how the formula names them: a text, a number, true, false or null. Others are absent.
    #[schema(value_type = Object, example = json!({"data.gb": "2.5"}))]
    given: BTreeMap<String, serde_json::Value>,
    /// What the formula comes to, as decimal text; absent where an event without these fields has no line.
    comes_to: Option<String>,
}

/// A meter: which events count, and what number each contributes.
#[derive(Serialize, ToSchema)]
#[schema(as = Meter)]
pub(crate) struct MeterForm {
    /// Its name: 1 to 64 of a-z, 0-9, `_`, `-`, `.`.
    key: String,
    /// The event types that it looks at.
    event_types: Vec<String>,
    /// `count`, `sum`; or, priced for a whole period at its close, `max`, `min`, `average`, `latest`, `unique`,
    /// `time_weighted`.
    #[schema(example = "sum")]
    aggregation: String,
    /// Where the number stands (of a unique count: the text); absent for a count and beside a formula, required for all
    /// others.
    value: Option<PathsForm>,
    /// What the number is worked out from, in place of `value`: `data.gb * data.hours`. docs/METERS.md has the grammar.
    formula: Option<String>,
    /// What the formula is tried on before it is published; at most 20.
    samples: Option<Vec<SampleForm>>,
    /// What one of its quantity is.
    #[schema(example = "token")]
    unit: Option<String>,
    /// Conditions.
    filters: Option<Vec<FilterForm>>,
    /// Named values that prices depend on and queries group by.
    dimensions: Option<BTreeMap<String, PathsForm>>,
    /// Whether a negative quantity is usage.
    allow_negative: Option<bool>,
    /// The period that is priced at its close: `day`, `week`, `month`, `quarter` or `year`; absent for counts and sums.
    #[schema(example = "month")]
    period: Option<String>,
    /// Of a time-weighted meter, for how long one is held to count one: `hour`, `day` (24 hours) or `period`.
    held_for: Option<String>,
    /// Of a time-weighted meter, whether numbers say what is held more or less from then on (a seat added is 1, one removed
    /// is -1), not what is held.
    changes: Option<bool>,
}

/// A unit of account that is no currency.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = CreditUnit)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreditUnitForm {
    /// Its name.
    key: String,
    /// What one of it is worth; absent where it has no money value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<CreditValueForm>)]
    value: Option<CreditValue>,
}

/// What one of a credit unit is worth, for margins.
#[derive(Serialize, ToSchema)]
#[schema(as = CreditValue)]
pub(crate) struct CreditValueForm {
    /// How much, above zero.
    #[schema(example = "0.01")]
    amount: String,
    /// Three capital letters.
    #[schema(example = "USD")]
    currency: String,
}

/// Whether a card says what customers pay or what providers charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = CardKind)]
#[serde(rename_all = "snake_case")]
pub(crate) enum KindForm {
    /// What customers pay.
    Rate,
    /// What providers charge.
    Cost,
}

/// One version of a card; published, it never changes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = CardVersion)]
#[serde(deny_unknown_fields)]
pub(crate) struct CardVersionForm {
    /// Its number, from 1; absent for the place in the list.
    #[serde(default)]
    pub version: Option<u32>,
    /// From which event time it holds, RFC 3339; past and future are fine. Absent for ever, which
    /// only a version without dated ones before it may.
    #[serde(default)]
    pub effective_from: Option<String>,
    /// Its rows.
    #[schema(value_type = Vec<RateSchema>)]
    pub rates: Vec<RateForm>,
}

/// A card with its versions.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Card)]
#[serde(deny_unknown_fields)]
pub(crate) struct CardForm {
    /// Its name, unique among all cards.
    pub key: String,
    /// Rate or cost.
    pub kind: KindForm,
    /// Three capital letters, or the key of a credit unit.
    #[schema(example = "USD")]
    pub currency: String,
    /// Versions in the order of their numbers.
    pub versions: Vec<CardVersionForm>,
    /// No longer to be used: it gets no new version, is no default card, and no offer names it. Absent
    /// for false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub archived: bool,
}

/// A whole catalog.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Catalog)]
#[serde(deny_unknown_fields)]
pub(crate) struct CatalogForm {
    /// Meters.
    #[serde(default)]
    #[schema(value_type = Vec<MeterForm>)]
    pub meters: Vec<MeterDefinition>,
    /// Credit units that cards may be in.
    #[serde(default)]
    pub credit_units: Vec<CreditUnitForm>,
    /// Rate cards and cost cards.
    #[serde(default)]
    pub cards: Vec<CardForm>,
    /// The rate card that prices what no offer does.
    #[serde(default)]
    pub default_rate_card: Option<String>,
    /// The cost card.
    #[serde(default)]
    pub default_cost_card: Option<String>,
    /// The time zone of periods and of hours with a price of their own, by its IANA name; UTC if absent.
    #[serde(default)]
    #[schema(example = "Europe/Berlin")]
    pub zone: Option<String>,
    /// Zones of teams that have one of their own; at most 100000. A team has each zone once, from one time on.
    #[serde(default)]
    pub team_zones: Vec<TeamZoneForm>,
    /// Prices that some teams have beside the default card; at most 1000.
    #[serde(default)]
    #[schema(value_type = Vec<OfferSchema>)]
    pub offers: Vec<OfferForm>,
    /// Who holds which offer, and when; at most 100000, and 32 of one team at once.
    #[serde(default)]
    pub holders: Vec<HolderForm>,
}

impl From<KindForm> for CardKind {
    fn from(kind: KindForm) -> Self {
        match kind {
            KindForm::Rate => CardKind::Rate,
            KindForm::Cost => CardKind::Cost,
        }
    }
}

impl From<CardKind> for KindForm {
    fn from(kind: CardKind) -> Self {
        match kind {
            CardKind::Rate => KindForm::Rate,
            CardKind::Cost => KindForm::Cost,
        }
    }
}

impl CardVersionForm {
    /// The version inside, as number `number` unless it says another; `before` are those of the card
    /// with lower places. Without a time it would hold where none of these does, which nobody means
    /// who changes a price.
    pub fn inside(
        self,
        card: &str,
        before: &[CardVersion],
        number: u32,
        faults: &mut Vec<Fault>,
    ) -> CardVersion {
        let version = self.version.unwrap_or(number);
        if let (None, Some(dated)) =
            (&self.effective_from, before.iter().find(|other| other.effective_from_us > 0))
        {
            faults.push(Fault {
                place: format!("cards[{card}].versions[{version}].effective_from"),
                reason: format!(
                    "version {} holds from {}: say from when this one does, or 1970-01-01T00:00:00Z for ever before",
                    dated.version,
                    time::format(dated.effective_from_us)
                ),
            });
        }
        let effective = self.effective_from.as_deref().map(time::parse).unwrap_or(Ok(0));
        let effective_from_us = effective.unwrap_or_else(|error| {
            let place = format!("cards[{card}].versions[{version}].effective_from");
            faults.push(Fault {
                place,
                reason: format!("{error}; write it like 2026-01-31T00:00:00Z"),
            });
            0
        });
        let rates = self.rates.into_iter().map(RateForm::inside).collect();
        CardVersion { version, effective_from_us, rates }
    }

    /// The version as the outside sees it.
    pub fn outside(version: &CardVersion) -> Self {
        Self {
            version: Some(version.version),
            effective_from: Some(time::format(version.effective_from_us)),
            rates: version.rates.iter().map(RateForm::outside).collect(),
        }
    }
}

impl CardForm {
    fn inside(self, faults: &mut Vec<Fault>) -> Card {
        let key = self.key;
        let mut versions = Vec::with_capacity(self.versions.len());
        for (number, version) in (1_u32..).zip(self.versions) {
            versions.push(version.inside(&key, &versions, number, faults));
        }
        Card {
            key,
            kind: self.kind.into(),
            currency: self.currency,
            versions,
            archived: self.archived,
        }
    }

    /// The card as the outside sees it.
    pub fn outside(card: &Card) -> Self {
        Self {
            key: card.key.clone(),
            kind: card.kind.into(),
            currency: card.currency.clone(),
            versions: card.versions.iter().map(CardVersionForm::outside).collect(),
            archived: card.archived,
        }
    }
}

impl CatalogForm {
    /// The document inside, and what could not be read.
    pub fn inside(self) -> (CatalogDocument, Vec<Fault>) {
        let mut faults = Vec::new();
        let document = CatalogDocument {
            meters: self.meters,
            credit_units: self
                .credit_units
                .into_iter()
                .map(|unit| CreditUnit { key: unit.key, value: unit.value })
                .collect(),
            cards: self.cards.into_iter().map(|card| card.inside(&mut faults)).collect(),
            default_rate_card: self.default_rate_card,
            default_cost_card: self.default_cost_card,
            zone: self.zone,
            team_zones: self
                .team_zones
                .into_iter()
                .enumerate()
                .map(|(index, of_team)| of_team.inside(index, &mut faults))
                .collect(),
            offers: self.offers.into_iter().map(OfferForm::inside).collect(),
            holders: self
                .holders
                .into_iter()
                .enumerate()
                .map(|(index, holder)| holder.inside(index, &mut faults))
                .collect(),
        };
        (document, faults)
    }

    /// The document as the outside sees it.
    pub fn outside(document: &CatalogDocument) -> Self {
        Self {
            meters: document.meters.clone(),
            credit_units: document
                .credit_units
                .iter()
                .map(|unit| CreditUnitForm { key: unit.key.clone(), value: unit.value.clone() })
                .collect(),
            cards: document.cards.iter().map(CardForm::outside).collect(),
            default_rate_card: document.default_rate_card.clone(),
            default_cost_card: document.default_cost_card.clone(),
            zone: document.zone.clone(),
            team_zones: document.team_zones.iter().map(TeamZoneForm::outside).collect(),
            offers: document.offers.iter().map(OfferForm::outside).collect(),
            holders: document.holders.iter().map(HolderForm::outside).collect(),
        }
    }
}

/// Where a new document takes back what was published: each version stands as it is for ever.
pub(crate) fn broken_promises(published: &CatalogDocument, new: &CatalogDocument) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut fault =
        |place: String, reason: &str| faults.push(Fault { place, reason: reason.to_owned() });
    for card in &published.cards {
        let place = format!("cards[{}]", card.key);
        let Some(same) = new.cards.iter().find(|other| other.key == card.key) else {
            fault(
                place,
                "it is published and cannot be removed; take it out of the defaults instead",
            );
            continue;
        };
        if same.kind != card.kind || same.currency != card.currency {
            fault(
                place.clone(),
                "kind and currency of a published card cannot change; make another card",
            );
        }
        if card.archived && same.archived && same.versions.len() > card.versions.len() {
            fault(
                format!("{place}.versions"),
                "the card is archived and gets no new version; unarchive it first",
            );
        }
        for version in &card.versions {
            let place = format!("{place}.versions[{}]", version.version);
            match same.versions.iter().find(|other| other.version == version.version) {
                None => fault(place, "it is published and cannot be removed"),
                Some(other) => changed_rows(&place, version, other, &mut fault),
            }
        }
    }
    faults
}

fn changed_rows(
    place: &str,
    published: &CardVersion,
    new: &CardVersion,
    fault: &mut impl FnMut(String, &str),
) {
    let advice = "it is published and cannot change; add a version";
    if published.effective_from_us != new.effective_from_us {
        fault(format!("{place}.effective_from"), advice);
    }
    if published.rates.len() != new.rates.len() {
        fault(format!("{place}.rates"), advice);
    }
    for (index, (before, after)) in published.rates.iter().zip(&new.rates).enumerate() {
        if before != after {
            fault(format!("{place}.rates[{index}]"), advice);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &str) -> CatalogForm {
        serde_json::from_str(text).unwrap()
    }

    const CATALOG: &str = r#"{
        "meters": [{"key": "calls", "event_types": ["call"], "aggregation": "count"}],
        "cards": [{"key": "standard", "kind": "rate", "currency": "USD", "versions": [
            {"rates": [{"meter": "calls", "price": "0.10"}]},
            {"effective_from": "2026-01-01T00:00:00+01:00", "rates": [{"meter": "calls", "unlimited": true}]}
        ]}],
        "default_rate_card": "standard",
        "offers": [{"key": "half", "source": "team", "multiplier": "0.50", "meters": ["calls"]}],
        "holders": [{"team": "acme", "offer": "half", "from": "2026-01-01T00:00:00+01:00"},
            {"team": "bolt", "offer": "half", "from": "2026-01-01T00:00:00Z", "until": "2027-01-01T00:00:00Z"}]
    }"#;

    #[test]
    fn times_of_holders_that_cannot_be_read_are_faults() {
        let bad = CATALOG
            .replace("2027-01-01T00:00:00Z", "soon")
            .replace(r#""from": "2026-01-01T00:00:00+01:00""#, r#""from": "2026-01-01""#);
        let (_, faults) = form(&bad).inside();
        let places: Vec<&str> = faults.iter().map(|fault| fault.place.as_str()).collect();
        assert_eq!(places, ["holders[0].from", "holders[1].until"], "{faults:?}");
        assert!(faults[1].reason.contains("write it like"), "{faults:?}");
    }

    #[test]
    fn the_outside_form_goes_in_and_comes_out() {
        let (document, faults) = form(CATALOG).inside();
        assert!(
            faults.is_empty() && document.faults().is_empty(),
            "{faults:?} {:?}",
            document.faults()
        );
        let versions = &document.cards[0].versions;
        assert_eq!(
            (versions[0].effective_from_us, versions[0].rates[0].price.as_deref()),
            (0, Some("0.1"))
        );
        assert_eq!(time::format(versions[1].effective_from_us), "2025-12-31T23:00:00.000000Z");
        assert_eq!(document.offers[0].multiplier.as_deref(), Some("0.5"));
        let ends: Vec<Option<i64>> = document.holders.iter().map(|one| one.until_us).collect();
        assert_eq!(ends, [None, Some(1_798_761_600_000_000)]);
        let outside = serde_json::to_string(&CatalogForm::outside(&document)).unwrap();
        assert_eq!(form(&outside).inside(), (document, Vec::new()));
    }

    #[test]
    fn what_is_published_stays() {
        let (published, _) = form(CATALOG).inside();
        let check = |change: fn(&mut CatalogDocument), place: &str| {
            let mut new = published.clone();
            change(&mut new);
            let faults = broken_promises(&published, &new);
            let places: Vec<&str> = faults.iter().map(|fault| fault.place.as_str()).collect();
            assert_eq!(places, [place], "{faults:?}");
        };
        check(|new| new.cards.clear(), "cards[standard]");
        check(|new| new.cards[0].currency = "EUR".into(), "cards[standard]");
        check(|new| drop(new.cards[0].versions.pop()), "cards[standard].versions[2]");
        check(
            |new| new.cards[0].versions[1].effective_from_us += 1,
            "cards[standard].versions[2].effective_from",
        );
        check(
            |new| new.cards[0].versions[0].rates[0].per = 2,
            "cards[standard].versions[1].rates[0]",
        );
        check(|new| new.cards[0].versions[0].rates.clear(), "cards[standard].versions[1].rates");
        let mut grown = published.clone();
        grown.cards[0].versions.push(CardVersion {
            version: 3,
            effective_from_us: 5,
            rates: Vec::new(),
        });
        assert!(broken_promises(&published, &grown).is_empty());
        let mut archived = published.clone();
        archived.cards[0].archived = true;
        assert!(broken_promises(&published, &archived).is_empty());
        assert!(broken_promises(&archived, &grown).is_empty(), "it is unarchived as well");
        grown.cards[0].archived = true;
        let faults = broken_promises(&archived, &grown);
        assert_eq!(faults[0].place, "cards[standard].versions", "{faults:?}");
    }
}
