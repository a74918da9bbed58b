//! Offers: prices that some teams have beside the default card, and who holds them.
//!
//! An offer is a card of its own, a multiplier, or both. [`crate::resolve`] says which of a team's
//! offers prices a line; exactly one does.

use serde::{Deserialize, Serialize};

/// Most offers of a catalog.
pub const OFFERS_MAX: usize = 1_000;
/// Most holders of a catalog.
pub const HOLDERS_MAX: usize = 100_000;
/// Most offers that one team holds at the same time.
pub const HELD_MAX: usize = 32;
/// Largest multiplier.
pub const MULTIPLIER_MAX: u32 = 1_000;

/// What an offer came with: where two compete, the one that stands first here wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OfferSource {
    /// A contract.
    Contract,
    /// A subscription.
    Subscription,
    /// An override for a team.
    Team,
}

impl OfferSource {
    /// Its name in documents and answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            OfferSource::Contract => "contract",
            OfferSource::Subscription => "subscription",
            OfferSource::Team => "team",
        }
    }
}

/// A price for those who have it.
///
/// Among the offers of a team that can price a line, those of one `overriding_key` override each
/// other: the order is source, then weight, then the newest version of the card that is effective
/// at the event's time (an offer without a card counts as the oldest), then the key. An offer
/// without an overriding key stands alone. What is left of each group competes last by source,
/// then weight, then the key that comes first in the alphabet, so that exactly one survives. The
/// default card prices what no offer does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offer {
    /// Its name, unique among the offers of the catalog.
    pub key: String,
    /// What it came with.
    pub source: OfferSource,
    /// The rate card whose version effective at the event's time prices usage. Usage that it has no
    /// row for is priced as if there were no such offer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card: Option<String>,
    /// Decimal text above 0, up to [`MULTIPLIER_MAX`]: what the rounded charge is multiplied with,
    /// rounded once more. Without a card it is the charge of the next offer that has one, or of the
    /// default card, without a multiplier of its own: multipliers do not stack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiplier: Option<String>,
    /// The meters that it is for; all where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub meters: Vec<String>,
    /// An offer whose holders have this one too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The name of a group of offers that override each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overriding_key: Option<String>,
    /// Among offers of one source the higher one wins.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub weight: i32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(weight: &i32) -> bool {
    *weight == 0
}

/// A team holds an offer, and has what is below it too, for events of some time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holder {
    /// The team.
    pub team: String,
    /// The key of the offer.
    pub offer: String,
    /// The first event time, microseconds since 1970 UTC.
    pub from_us: i64,
    /// The first event time after it; absent where it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_us: Option<i64>,
}
