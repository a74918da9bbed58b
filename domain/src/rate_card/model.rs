//! The parts of a row that say how it charges.

use serde::{Deserialize, Serialize};

/// How a row charges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Model {
    /// A price for every `per` units.
    PerUnit,
    /// A price for every block of `per` units.
    Package,
    /// Each unit at the price of its own tier.
    Graduated,
    /// All units at the price of the tier that the total has reached.
    Volume,
    /// A price for the period, whatever its usage.
    Flat,
    /// A percentage of the quantity.
    Percentage,
    /// Each part of the quantity at the percentage of its own tier.
    GraduatedPercentage,
    /// The provider's cost times a factor.
    CostPlus,
}

impl Model {
    /// All models.
    pub const ALL: [Model; 8] = [
        Model::PerUnit,
        Model::Package,
        Model::Graduated,
        Model::Volume,
        Model::Flat,
        Model::Percentage,
        Model::GraduatedPercentage,
        Model::CostPlus,
    ];

    /// Its name in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Model::PerUnit => "per_unit",
            Model::Package => "package",
            Model::Graduated => "graduated",
            Model::Volume => "volume",
            Model::Flat => "flat",
            Model::Percentage => "percentage",
            Model::GraduatedPercentage => "graduated_percentage",
            Model::CostPlus => "cost_plus",
        }
    }
}

/// Which blocks are charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blocks {
    /// Those begun, too.
    Up,
    /// Whole ones only.
    Down,
}

/// The price of a part of the running total.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// Where it ends, that unit included; none for the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_to: Option<String>,
    /// The price for as many units as the row says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<String>,
    /// Percent of the quantity, in place of a price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<String>,
    /// An amount for the tier as such: graduated, once it is entered; volume, while it is the one
    /// that the total has reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flat: Option<String>,
}

/// How a meter's unit becomes the one that is priced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unit {
    /// How many of the meter's units are one that is priced.
    pub divide_by: String,
    /// Decimals that are kept; 12 where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decimals: Option<u8>,
    /// What becomes of the others; half to even where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<UnitRound>,
    /// What is converted; each event's quantity where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub each: Option<UnitEach>,
}

/// How a conversion rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnitRound {
    /// Away from zero.
    Up,
    /// Towards zero.
    Down,
    /// To the nearest, and from the middle to the even one.
    HalfEven,
}

/// What is converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnitEach {
    /// The quantity of each event.
    Event,
    /// The running total of the period.
    Period,
}

/// Hours of the week that have a price of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// The days that it begins on, `mon` to `sun`; every day where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days: Option<Vec<String>>,
    /// Its first minute by the local clock, such as `20:00`.
    pub from: String,
    /// The first minute after it; where that is earlier than `from`, on the next day. `24:00` is the
    /// end of the day.
    pub to: String,
    /// The price for as many units as the row says.
    pub price: String,
}

/// Whose running total a row depends on and adds to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Total {
    /// One that all such rows of the meter share.
    Meter,
    /// One of the row's dimensions alone.
    Row,
}
