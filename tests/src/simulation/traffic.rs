//! What clients, doors and the publisher of catalogs put into `[usage]`, and what each of it is
//! worth: the simulation's own arithmetic, none of `domain`'s.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use domain::{
    catalog::{Catalog, CatalogDocument},
    event::{IdentityKey, IdentityParts},
    meter::{Aggregation, MeterDefinition, Paths},
    period::PeriodKind,
    rate_card::{Card, CardKind, CardVersion, Model, RateRow, Tier},
    wire::{
        block::{Block, BlockHeader, BlockWriter},
        record::{self, Attribute, AttributeKind, EventRecord, Refused, Verdict},
    },
};
use rater::catalogs::Catalogs;
use uuid::Uuid;

use super::{
    closings::{CLOSINGS, OBSERVING, closing_price, definition, put_closing},
    corrections::Correct,
};
use crate::oracle::Price;

/// A unit of the last of twelve decimals.
pub const ONE: i128 = 1_000_000_000_000;
/// The tenants.
pub const TENANTS: [Uuid; 2] = [Uuid::from_u128(0xA), Uuid::from_u128(0xB)];
/// Catalog versions that exist.
pub const VERSIONS: u64 = 6;
/// How far an event may lie in the future of its block, microseconds.
pub const FUTURE_US: i64 = 300_000_000;
/// The type of events that meters look at.
const METERED: &str = "llm";
/// The type of events whose meter has no price.
const DARK: &str = "dark";
/// The type of events that are observed.
pub const GAUGE: &str = "gauge";
/// Ids of events that are observed begin here.
pub const GAUGES: u8 = 16;

/// What kind of event it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Two meters, both priced.
    Metered,
    /// No meter.
    Unmetered,
    /// A meter without a price.
    Unpriced,
    /// Meters that do not add up: it is observed.
    Observed,
    /// It closes a period of such a meter.
    Closing,
}

/// A client's event. An id says which tenant, team and kind it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Number of the id.
    pub id: u8,
    /// The quantity; a negative one is rejected. In units of the last decimal where it closes a period.
    pub quantity: i64,
    /// The client's time.
    pub time_us: Option<i64>,
}

/// An entry of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A client's event.
    Event(Event),
    /// An event that closes a period, and what it is known by.
    Closing {
        /// The event.
        event: Event,
        /// Its identity.
        identity: u128,
        /// The hash of what it says.
        content: u64,
    },
    /// A message that a door could not accept.
    Refused {
        /// Whose door.
        tenant: usize,
    },
    /// A catalog marker.
    Marker(u64),
    /// A copy of a late event, with the place and append time of its first.
    Copy {
        /// The event.
        event: Event,
        /// Position and index of the first.
        origin: (i64, u32),
        /// When its block was appended.
        append_time_us: i64,
    },
    /// A command that corrects an event.
    Correct(Correct),
}

impl Event {
    /// Number of its tenant.
    pub fn tenant(&self) -> usize {
        usize::from(self.id) % 2
    }

    /// Number of its team.
    pub fn team_number(&self) -> usize {
        usize::from(self.id) / 2 % 2
    }

    /// Its team.
    pub fn team(&self) -> &'static str {
        ["team-a", "team-b"][self.team_number()]
    }

    /// What the client calls it: other teams and tenants use the same ids.
    fn name(&self) -> String {
        format!("id-{}", self.id / 4)
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self.id / 4 % 4 {
            _ if self.id >= CLOSINGS => Kind::Closing,
            _ if self.id >= GAUGES => Kind::Observed,
            0 | 2 => Kind::Metered,
            1 => Kind::Unmetered,
            _ => Kind::Unpriced,
        }
    }

    fn event_type(&self) -> &'static str {
        match self.kind() {
            Kind::Metered => METERED,
            Kind::Unmetered => "free",
            Kind::Unpriced => DARK,
            Kind::Observed => GAUGE,
            Kind::Closing => panic!("{self:?} is sent by nobody"),
        }
    }

    /// Its hold.
    pub fn hold(&self) -> Option<Uuid> {
        self.id.is_multiple_of(5).then(|| Uuid::from_u128(0xF0 + u128::from(self.id)))
    }

    /// Its identity, by the key of the installation.
    pub fn identity(&self) -> u128 {
        IdentityKey([7; 16]).identity(&IdentityParts {
            tenant: TENANTS[self.tenant()],
            subject: self.team(),
            source: "source",
            id: &self.name(),
        })
    }

    /// The hash of what it says.
    pub fn content(&self) -> u64 {
        2 * self.quantity.unsigned_abs() + u64::from(self.quantity < 0)
    }

    /// Whether a meter that adds quantities rejects it where there is such a meter.
    pub fn is_negative(&self) -> bool {
        self.quantity < 0
    }
}

/// Encodes a block as ingest, doors, publishers and lanes do.
pub fn encode(entries: &[Entry]) -> Bytes {
    let mut writer = BlockWriter::default();
    for entry in entries {
        match entry {
            Entry::Event(event) => put_event(&mut writer, event, event.identity()),
            Entry::Refused { tenant } => {
                let tenant = writer.tenant(TENANTS[*tenant]);
                writer.push(&record::Entry::Refused(Refused {
                    tenant,
                    reason: "not_json",
                    detail: "a message of a door",
                    door: "weir.in.tenant",
                    door_partition: 3,
                    door_offset: 17,
                    door_index: 0,
                    raw: b"{",
                }));
            }
            Entry::Marker(version) => {
                writer.push(&record::Entry::Marker {
                    tenant: TENANTS[0],
                    catalog_version: *version,
                    document_hash: [0; 32],
                });
            }
            Entry::Copy { .. } => panic!("copies are made by lanes"),
            Entry::Correct(_) | Entry::Closing { .. } => {
                panic!("{entry:?} has a block of its own")
            }
        }
    }
    writer.finish().into()
}

/// Appends an event under an identity.
pub fn put_event(writer: &mut BlockWriter, event: &Event, identity: u128) {
    if event.kind() == Kind::Closing {
        return put_closing(writer, event, identity);
    }
    let number = event.quantity.to_string();
    let raw = format!("{{\"tokens\":{number}}}");
    let (name, kind) = (event.name(), event.event_type());
    let attribute = Attribute {
        pointer: writer.dictionary.intern("/tokens"),
        kind: AttributeKind::Number,
        offset: 10,
        length: u32::try_from(number.len()).unwrap(),
    };
    let event = EventRecord {
        tenant: writer.tenant(TENANTS[event.tenant()]),
        team: writer.dictionary.intern(event.team()),
        subject: writer.dictionary.intern(event.team()),
        source: writer.dictionary.intern("source"),
        event_type: writer.dictionary.intern(kind),
        user: None,
        app: None,
        key: None,
        feature: None,
        id: &name,
        identity,
        content: event.content(),
        time_us: event.time_us,
        hold: event.hold(),
        hold_end: false,
        quote: None,
        attributes: vec![attribute],
        raw: raw.as_bytes(),
    };
    writer.push(&record::Entry::Event(event));
}

/// What a lane's block of copies says: origins, verdicts, identities.
pub fn copies_in(payload: &[u8]) -> Vec<(u128, (i64, u32), Verdict)> {
    let header = BlockHeader::decode(payload).unwrap();
    let body = header.body(payload).unwrap();
    let block = Block::decode(&header, &body).unwrap();
    let copy = |entry: &record::Entry<'_>| match entry {
        record::Entry::Copy(verdict, origin, event) => {
            (event.identity, (origin.position, origin.index), *verdict)
        }
        other => panic!("a lane appended {other:?}"),
    };
    block.entries.iter().map(copy).collect()
}

/// The version of a tenant's catalog when `version` is in force: the first tenant publishes each
/// one, the second each second one.
pub fn tenant_version(tenant: usize, version: u64) -> u64 {
    if tenant == 0 { version } else { version - version % 2 }
}

/// What a line must be; amounts and quantities in units of the last decimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The meter.
    pub meter: &'static str,
    /// The quantity.
    pub quantity: i128,
    /// Card, version, currency and amount of the charge.
    pub charge: Option<(&'static str, u32, &'static str, i128)>,
    /// The same of the cost.
    pub cost: Option<(&'static str, u32, &'static str, i128)>,
    /// The running total before it, where its price depends on one.
    pub total_before: Option<i128>,
}

impl Line {
    /// Its status, as the archive has it.
    pub fn status(&self) -> u8 {
        match self.charge {
            Some(_) => 1,
            None if OBSERVING.contains(&self.meter) => 4,
            None => 3,
        }
    }
}

/// The meter whose price depends on the day's total.
pub const TIERED: &str = "tiered";
/// Units of the first tier.
const FIRST_TIER: i128 = 7;
/// Microseconds of a day.
pub const DAY_US: i64 = 86_400_000_000;

fn token_price(tenant: usize, version: u64) -> Price {
    Price { amount: (ONE / 25_000) * (i128::from(version) + tenant as i128), per: 3 }
}

fn call_price(version: u64) -> Price {
    Price { amount: ONE / 100 * i128::from(version) + 1, per: 7 }
}

/// Prices of the two tiers, for each three units.
fn tier_prices(version: u64) -> [i128; 2] {
    [ONE / 10 * i128::from(version), ONE / 100 + i128::from(version)]
}

/// What so many units cost from the beginning of a day.
fn tiered(version: u64, units: i128) -> i128 {
    let [first, second] = tier_prices(version);
    let amount = units.min(FIRST_TIER) * first + (units - FIRST_TIER).max(0) * second;
    Price { amount, per: 3 }.of(1)
}

fn token_cost(tenant: usize) -> Price {
    Price { amount: (10 + tenant as i128) * ONE, per: 1_000_000 }
}

fn observed(meter: &'static str, quantity: i64) -> Line {
    let quantity = i128::from(quantity) * ONE;
    Line { meter, quantity, charge: None, cost: None, total_before: None }
}

fn closing(event: &Event, own: u64) -> Line {
    let (meter, quantity) = (OBSERVING[event.closes()], i128::from(event.quantity));
    let amount = closing_price(own).of(quantity);
    let charge = Some(("standard", u32::try_from(own).unwrap(), "EUR", amount));
    Line { meter, quantity, charge, cost: None, total_before: None }
}

/// The lines of an event under a version, when `before` units of its day were counted before it; `None`
/// if it is rejected.
pub fn lines(event: &Event, version: u64, before: i128) -> Option<Vec<Line>> {
    let tenant = event.tenant();
    let own = tenant_version(tenant, version);
    if own == 0 || event.kind() == Kind::Unmetered {
        return Some(Vec::new());
    }
    if event.kind() == Kind::Unpriced {
        let dark =
            Line { meter: "dark", quantity: ONE, charge: None, cost: None, total_before: None };
        return Some(vec![dark]);
    }
    if event.is_negative() {
        return None;
    }
    if event.kind() == Kind::Observed {
        return Some(OBSERVING.map(|meter| observed(meter, event.quantity)).into());
    }
    if event.kind() == Kind::Closing {
        return Some(vec![closing(event, own)]);
    }
    let (tokens, card) = (i128::from(event.quantity), u32::try_from(own).unwrap());
    let charge = token_price(tenant, own).of(tokens);
    let call = call_price(own).of(1);
    let step = tiered(own, before + tokens) - tiered(own, before);
    Some(vec![
        Line {
            meter: "tokens",
            quantity: tokens * ONE,
            charge: Some(("standard", card, "EUR", charge)),
            cost: Some(("provider", card, "USD", token_cost(tenant).of(tokens))),
            total_before: None,
        },
        Line {
            meter: "calls",
            quantity: ONE,
            charge: Some(("standard", card, "EUR", call)),
            cost: None,
            total_before: None,
        },
        Line {
            meter: TIERED,
            quantity: tokens * ONE,
            charge: Some(("standard", card, "EUR", step)),
            cost: None,
            total_before: Some(before * ONE),
        },
    ])
}

/// All tenants' catalogs at a version.
pub fn catalogs(version: u64) -> Arc<Catalogs> {
    static ALL: LazyLock<Vec<Arc<Catalogs>>> =
        LazyLock::new(|| (0..=VERSIONS).map(|version| Arc::new(compile(version))).collect());
    Arc::clone(&ALL[usize::try_from(version).unwrap()])
}

fn compile(version: u64) -> Catalogs {
    let mut catalogs = Catalogs { version, ..Catalogs::default() };
    for (number, tenant) in TENANTS.into_iter().enumerate() {
        let own = tenant_version(number, version);
        if own > 0 {
            catalogs.by_tenant.insert(tenant, Arc::new(catalog(number, own)));
        }
    }
    catalogs
}

fn catalog(tenant: usize, version: u64) -> Catalog {
    let meter = |key: &str, event_type: &str, value: Option<&str>| MeterDefinition {
        key: key.into(),
        event_types: vec![event_type.into()],
        aggregation: if value.is_some() { Aggregation::Sum } else { Aggregation::Count },
        value: value.map(|path| Paths::One(path.into())),
        unit: "unit".into(),
        filters: Vec::new(),
        dimensions: Default::default(),
        allow_negative: false,
        period: None,
        held_for: None,
        changes: false,
        formula: None,
        samples: Vec::new(),
    };
    let rate = |meter: &str, price: Price| RateRow {
        meter: meter.into(),
        dimensions: Default::default(),
        price: Some(format!("{}.{:012}", price.amount / ONE, price.amount % ONE)),
        per: u64::try_from(price.per).unwrap(),
        ..RateRow::default()
    };
    let decimal = |raw: i128| format!("{}.{:012}", raw / ONE, raw % ONE);
    let tiered = |own| {
        let [first, second] = tier_prices(own);
        let tier = |up_to: Option<i128>, price| Tier {
            up_to: up_to.map(|units| units.to_string()),
            price: Some(decimal(price)),
            ..Tier::default()
        };
        RateRow {
            meter: TIERED.into(),
            model: Some(Model::Graduated),
            per: 3,
            tiers: vec![tier(Some(FIRST_TIER), first), tier(None, second)],
            period: Some(PeriodKind::Day),
            ..RateRow::default()
        }
    };
    // Each version holds from the beginning: the newest one prices everything.
    let card = |key: &str, kind, currency: &str, rates: &dyn Fn(u64) -> Vec<RateRow>| Card {
        key: key.into(),
        kind,
        currency: currency.into(),
        versions: (1..=version)
            .map(|number| CardVersion {
                version: u32::try_from(number).unwrap(),
                effective_from_us: i64::try_from(number).unwrap(),
                rates: rates(number),
            })
            .collect(),
        archived: false,
    };
    let rates = |own| {
        let tokens = rate("tokens", token_price(tenant, own));
        let closing = closing_price(own);
        let closing = Price { per: closing.per / ONE, ..closing };
        let closings = OBSERVING.map(|meter| rate(meter, closing));
        [vec![tokens, rate("calls", call_price(own)), tiered(own)], closings.into()].concat()
    };
    let costs = |_| vec![rate("tokens", token_cost(tenant))];
    let document = CatalogDocument {
        meters: [
            meter("tokens", METERED, Some("$.tokens")),
            meter("calls", METERED, None),
            meter(TIERED, METERED, Some("$.tokens")),
            meter("dark", DARK, None),
        ]
        .into_iter()
        .chain((0..OBSERVING.len()).map(|number| definition(number).clone()))
        .collect(),
        credit_units: Vec::new(),
        cards: vec![
            card("standard", CardKind::Rate, "EUR", &rates),
            card("provider", CardKind::Cost, "USD", &costs),
        ],
        default_rate_card: Some("standard".into()),
        default_cost_card: Some("provider".into()),
        ..CatalogDocument::default()
    };
    document.compile().unwrap()
}
