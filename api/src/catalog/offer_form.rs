//! Offers and holders as the outside sees them.

use domain::{
    catalog::Fault,
    money::Amount,
    offer::{Holder, Offer},
    time,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An offer; [`OfferSchema`] documents it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct OfferForm(Offer);

/// A price for those who have it. Exactly one price survives for a line: offers of one `overriding_key` override each
/// other by source, weight and the newest version of their card; what is left of each group competes by source,
/// weight and key; the default card prices what no offer does. docs/PRICING.md explains it by examples.
#[derive(Serialize, ToSchema)]
#[schema(as = Offer)]
pub(crate) struct OfferSchema {
    /// Its name, unique among offers.
    key: String,
    /// What it came with: `contract`, `subscription` or `team` (an override for a team). The first of these wins.
    #[schema(example = "subscription")]
    source: String,
    /// The rate card that prices usage; what it has no row for falls to the next candidate. At least one of `card` and
    /// `multiplier` is there.
    card: Option<String>,
    /// What the charge of its card is multiplied with; without a card, what the next candidate that has one charges.
    /// Above 0, up to 1000; multipliers do not stack.
    #[schema(example = "0.7")]
    multiplier: Option<String>,
    /// The meters that it is for; all if absent.
    meters: Option<Vec<String>>,
    /// An offer whose holders have this one too.
    parent: Option<String>,
    /// Offers of the same override each other.
    overriding_key: Option<String>,
    /// Among offers of one source the higher one wins; 0 if absent.
    weight: Option<i32>,
}

/// A team holds an offer, and has the offers below it too, for events of some time.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Holder)]
#[serde(deny_unknown_fields)]
pub(crate) struct HolderForm {
    /// The team.
    team: String,
    /// The key of the offer.
    offer: String,
    /// The first event time, RFC 3339.
    from: String,
    /// The first event time after it, RFC 3339; absent where it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<String>,
}

impl OfferForm {
    /// The offer inside, its multiplier in the shortest form.
    pub fn inside(self) -> Offer {
        let mut offer = self.0;
        if let Some(text) = &mut offer.multiplier
            && let Ok(number) = Amount::parse_exact(text)
        {
            *text = number.to_string();
        }
        offer
    }

    /// The offer as the outside sees it.
    pub fn outside(offer: &Offer) -> Self {
        Self(offer.clone())
    }
}

impl HolderForm {
    /// The holder inside, which is number `index`.
    pub fn inside(self, index: usize, faults: &mut Vec<Fault>) -> Holder {
        let mut time_us = |field: &str, text: &str| {
            time::parse(text).unwrap_or_else(|error| {
                let place = format!("holders[{index}].{field}");
                let reason = format!("{error}; write it like 2026-01-31T00:00:00Z");
                faults.push(Fault { place, reason });
                0
            })
        };
        let from_us = time_us("from", &self.from);
        let until_us = self.until.as_deref().map(|text| time_us("until", text));
        Holder { team: self.team, offer: self.offer, from_us, until_us }
    }

    /// The holder as the outside sees it.
    pub fn outside(holder: &Holder) -> Self {
        Self {
            team: holder.team.clone(),
            offer: holder.offer.clone(),
            from: time::format(holder.from_us),
            until: holder.until_us.map(time::format),
        }
    }
}
