//! A small set of usage, and what it comes to by plain arithmetic, without any of our rules' code.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::world::World;

/// One whole, as amounts are counted.
const ONE: i128 = 1_000_000_000_000;

/// An event, and the civil day that it is on in Berlin.
#[derive(Clone, Copy)]
pub struct Sent {
    pub id: &'static str,
    pub team: &'static str,
    feature: &'static str,
    /// What is counted: a model of `llm.call`, `pages` of `scan`, or `nothing`.
    model: &'static str,
    count: i128,
    pub time: &'static str,
    pub berlin_day: &'static str,
    /// Sent after prices are in EUR.
    euro: bool,
}

/// Before the period that is asked about, and within the one before it.
pub const BEFORE: &str = "from=2026-02-25T00:00:00Z&to=2026-03-15T00:00:00Z";
/// What is asked about: 18 days, with the change of clocks on 29 March.
pub const PERIOD: &str = "from=2026-03-15T00:00:00Z&to=2026-04-02T00:00:00Z";
/// Both, as the views have them.
pub const ALL: &str = "from=2026-01-01T00:00:00Z&to=2026-12-31T00:00:00Z";

const fn sent(
    id: &'static str,
    (team, feature): (&'static str, &'static str),
    (model, count): (&'static str, i128),
    (time, berlin_day): (&'static str, &'static str),
) -> Sent {
    Sent { id, team, feature, model, count, time, berlin_day, euro: false }
}

/// `taken-back` is reversed behind the pipeline's back, so it counts nowhere; `twice` is inserted twice.
pub const EVENTS: [Sent; 13] = [
    sent("before", ("red", "chat"), ("beta", 4), ("2026-03-01T00:00:00Z", "2026-03-01")),
    sent("twice", ("red", "chat"), ("alpha", 1000), ("2026-03-28T22:30:00Z", "2026-03-28")),
    sent("midnight", ("red", "chat"), ("beta", 10), ("2026-03-28T23:30:00Z", "2026-03-29")),
    sent("gap", ("blue", "chat"), ("alpha", 7), ("2026-03-29T00:59:59.999999Z", "2026-03-29")),
    sent("new", ("blue", "=1+1"), ("gamma", 5), ("2026-03-29T01:00:00Z", "2026-03-29")),
    sent("free", ("blue", "chat"), ("delta", 4), ("2026-03-29T21:30:00Z", "2026-03-29")),
    sent("newer", ("red", "=1+1"), ("gamma", 6), ("2026-03-29T22:30:00Z", "2026-03-30")),
    sent("pages", ("red", "scan"), ("pages", 3), ("2026-03-30T10:00:00Z", "2026-03-30")),
    sent("other", ("blue", "scan"), ("nothing", 1), ("2026-03-30T11:00:00Z", "2026-03-30")),
    sent("taken-back", ("red", "chat"), ("beta", 50), ("2026-03-30T12:00:00Z", "2026-03-30")),
    Sent {
        euro: true,
        ..sent("euro", ("blue", "chat"), ("beta", 9), ("2026-03-30T21:59:59Z", "2026-03-30"))
    },
    Sent {
        euro: true,
        ..sent("april", ("red", "chat"), ("alpha", 3), ("2026-03-31T22:00:00Z", "2026-04-01"))
    },
    // In Cairo this is the first hour of a day that begins at one: the clocks go forward at midnight.
    Sent {
        euro: true,
        ..sent("after", ("red", "chat"), ("beta", 2), ("2026-04-23T22:30:00Z", "2026-04-24"))
    },
];

/// A line of an event. Amounts have their currency; what is not known is `None`.
#[derive(Clone)]
pub struct Line {
    pub event: Sent,
    meter: &'static str,
    unit: &'static str,
    quantity: i128,
    charge: Option<(&'static str, i128)>,
    cost: Option<(&'static str, i128)>,
}

/// Prices and costs: alpha is 0.01 for 3, so its charges are rounded; gamma has no price, delta no cost.
fn catalog() -> Value {
    let models = json!({"provider": "$.provider", "model": "$.model"});
    let of = |model: &str| json!({"provider": "@lab", "model": model});
    json!({
        "meters": [
            {"key": "tokens", "event_types": ["llm.call"], "aggregation": "sum", "value": "$.tokens", "unit": "token", "dimensions": models},
            {"key": "calls", "event_types": ["llm.call"], "aggregation": "count", "unit": "call"},
            {"key": "pages", "event_types": ["scan"], "aggregation": "sum", "value": "$.pages", "unit": "page"},
        ],
        "cards": [
            {"key": "dollars", "kind": "rate", "currency": "USD", "versions": [{"rates": [
                {"meter": "tokens", "dimensions": of("alpha"), "price": "0.01", "per": 3},
                {"meter": "tokens", "dimensions": of("beta"), "price": "2"},
                {"meter": "tokens", "dimensions": of("delta"), "price": "3"},
                {"meter": "pages", "price": "1.25"},
                {"meter": "calls", "unlimited": true}]}]},
            {"key": "euros", "kind": "rate", "currency": "EUR", "versions": [{"rates": [
                {"meter": "tokens", "dimensions": of("alpha"), "price": "0.4"},
                {"meter": "tokens", "dimensions": of("beta"), "price": "2.5"},
                {"meter": "calls", "unlimited": true}]}]},
            {"key": "providers", "kind": "cost", "currency": "USD", "versions": [{"rates": [
                {"meter": "tokens", "dimensions": of("alpha"), "price": "0.001"},
                {"meter": "tokens", "dimensions": of("beta"), "price": "0.7"},
                {"meter": "tokens", "dimensions": of("gamma"), "price": "0.1"},
                {"meter": "pages", "price": "1.5"},
                {"meter": "calls", "price": "0"}]}]},
        ],
        "default_rate_card": "dollars",
        "default_cost_card": "providers",
    })
}

impl Sent {
    fn body(&self) -> Value {
        let (event_type, data) = match self.model {
            "nothing" => ("other.thing", json!({})),
            "pages" => ("scan", json!({"pages": self.count})),
            model => {
                ("llm.call", json!({"provider": "@lab", "model": model, "tokens": self.count}))
            }
        };
        json!({"id": self.id, "source": "test", "type": event_type, "subject": self.team, "feature": self.feature,
            "user": "-1", "time": self.time, "data": data})
    }

    fn lines(self) -> Vec<Line> {
        let (count, currency) = (self.count, if self.euro { "EUR" } else { "USD" });
        let charge = match (self.model, self.euro) {
            ("alpha", false) => Some((count * ONE / 100 * 2 + 3) / 6),
            ("alpha", true) => Some(count * ONE * 4 / 10),
            ("beta", false) => Some(count * ONE * 2),
            ("beta", true) => Some(count * ONE * 5 / 2),
            ("delta", false) => Some(count * ONE * 3),
            ("pages", false) => Some(count * ONE * 5 / 4),
            _ => None,
        };
        let cost = match self.model {
            "alpha" => Some(count * ONE / 1_000),
            "beta" => Some(count * ONE * 7 / 10),
            "gamma" => Some(count * ONE / 10),
            "pages" => Some(count * ONE * 3 / 2),
            _ => None,
        };
        let (meter, unit) =
            if self.model == "pages" { ("pages", "page") } else { ("tokens", "token") };
        let own = Line {
            event: self,
            meter,
            unit,
            quantity: count * ONE,
            charge: charge.map(|charge| (currency, charge)),
            cost: cost.map(|cost| ("USD", cost)),
        };
        match self.model {
            "nothing" => Vec::new(),
            "pages" => vec![own],
            _ => {
                let (charge, cost) = (Some((currency, 0)), Some(("USD", 0)));
                vec![
                    own,
                    Line {
                        meter: "calls",
                        unit: "call",
                        quantity: ONE,
                        charge,
                        cost,
                        ..own_of(self)
                    },
                ]
            }
        }
    }
}

fn own_of(event: Sent) -> Line {
    Line { event, meter: "", unit: "", quantity: 0, charge: None, cost: None }
}

/// All lines that count.
pub fn lines() -> Vec<Line> {
    EVENTS.into_iter().filter(|event| event.id != "taken-back").flat_map(Sent::lines).collect()
}

/// Those of the period that is asked about; all times are written alike.
pub fn of_period() -> Vec<Line> {
    let within = |line: &Line| ("2026-03-15".."2026-04-02").contains(&line.event.time);
    lines().into_iter().filter(within).collect()
}

/// Reports the usage, in both currencies, and waits until it is in the archive.
pub async fn report(world: &World) -> Result<()> {
    world.put("/v1/catalog", catalog()).await?.expect(200)?;
    for euro in [false, true] {
        if euro {
            let defaults = json!({"default_rate_card": "euros", "default_cost_card": "providers"});
            world.put("/v1/catalog/defaults", defaults).await?.expect(200)?;
        }
        let events = EVENTS.iter().filter(|event| event.euro == euro).map(Sent::body);
        world.post("/v1/events", events.collect()).await?.expect(200)?;
    }
    let archived = |body: &Value| {
        let all =
            body["total"]["counts"]["accepted"] == EVENTS.len() && body["total"]["pending"] == 0;
        let partitions = body["partitions"].as_array().into_iter().flatten();
        all && partitions.into_iter().all(|one| one["archived_position"] == one["posted_position"])
    };
    world.until("/v1/conservation", archived).await?;
    let archive = &world.context.clickhouse;
    archive
        .execute("INSERT INTO usage_events SELECT * FROM usage_events WHERE event_id = 'twice'")
        .await?;
    archive
        .execute(
            "INSERT INTO usage_events SELECT * REPLACE(toInt8(-1) AS sign, toUInt32(1) AS rating_run)
             FROM usage_events WHERE event_id = 'taken-back'",
        )
        .await?;
    Ok(())
}

/// An amount as it is written.
pub fn text(raw: i128) -> String {
    domain::money::Amount::of_sum(raw).to_string()
}

/// `part` of `whole` in percent, half to even, for parts and wholes that have one sign or none.
pub fn percent(part: i128, whole: i128) -> String {
    let (scaled, half) = (part * 10_000, whole.abs());
    let sign = if whole < 0 { -1 } else { 1 };
    let (quotient, rest) = ((scaled * sign).div_euclid(half), (scaled * sign).rem_euclid(half));
    let up = rest * 2 > half || rest * 2 == half && quotient % 2 != 0;
    text((quotient + i128::from(up)) * ONE / 100)
}

/// Sums of lines, as every measure has them.
#[derive(Clone, Default)]
struct Sums {
    quantity: i128,
    charge: Option<i128>,
    cost: Option<i128>,
    lines: i64,
    unpriced: i64,
    uncosted: i64,
}

impl Sums {
    fn add(&mut self, line: &Line) {
        self.quantity += line.quantity;
        self.lines += 1;
        match line.charge {
            Some((_, charge)) => self.charge = Some(self.charge.unwrap_or(0) + charge),
            None => self.unpriced += 1,
        }
        match line.cost {
            Some((_, cost)) => self.cost = Some(self.cost.unwrap_or(0) + cost),
            None => self.uncosted += 1,
        }
    }
}

impl Line {
    /// What a line is about; empty where it has none.
    fn group(&self, name: &str) -> &'static str {
        let named = self.meter == "tokens";
        match name {
            "team" => self.event.team,
            "meter" => self.meter,
            "feature" => self.event.feature,
            "model" if named => self.event.model,
            "provider" if named => "@lab",
            // A key without an app reported it.
            _ => "",
        }
    }

    /// Whether that is its value of a group.
    pub fn is(&self, name: &str, value: &str) -> bool {
        self.group(name) == value
    }

    fn currencies(&self) -> [&'static str; 2] {
        [self.charge, self.cost].map(|amount| amount.map_or("", |(currency, _)| currency))
    }
}

fn some(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { json!(text) }
}

/// Rows of `GET /v1/analytics/{measure}` as they must be, without windows, in their order.
pub fn expected(lines: &[Line], measure: &str, groups: &[&str]) -> Vec<Value> {
    let mut sums: BTreeMap<Vec<&str>, Sums> = BTreeMap::new();
    for line in lines {
        let [currency, cost_currency] = line.currencies();
        let own: &[&str] = match measure {
            "usage" => &[line.meter, line.unit],
            "revenue" => &[currency],
            "cost" => &[cost_currency],
            _ => &[currency, cost_currency],
        };
        let keys = groups.iter().map(|name| line.group(name)).chain(own.iter().copied());
        sums.entry(keys.collect()).or_default().add(line);
    }
    let row = |(keys, sums): (Vec<&str>, Sums)| {
        let (names, own) = keys.split_at(groups.len());
        let values = groups.iter().zip(names);
        let group: Map<String, Value> =
            values.map(|(name, value)| ((*name).to_owned(), some(value))).collect();
        let place = json!({"window_start": null, "window_end": null, "group": group});
        let mut row = measured(measure, own, &sums);
        row.as_object_mut().unwrap().extend(place.as_object().unwrap().clone());
        row
    };
    sums.into_iter().map(row).collect()
}

fn measured(measure: &str, own: &[&str], sums: &Sums) -> Value {
    let [charge, cost] = [sums.charge, sums.cost].map(|amount| amount.map(text));
    let (lines, unpriced, uncosted) = (sums.lines, sums.unpriced, sums.uncosted);
    match measure {
        "usage" => {
            json!({"meter": own[0], "unit": own[1], "quantity": text(sums.quantity), "lines": lines})
        }
        "revenue" => {
            json!({"currency": some(own[0]), "revenue": charge, "lines": lines, "unpriced_lines": unpriced})
        }
        "cost" => {
            json!({"currency": some(own[0]), "cost": cost, "lines": lines, "uncosted_lines": uncosted})
        }
        _ => {
            let both = sums.charge.zip(sums.cost).filter(|_| own[0] == own[1]);
            let margin =
                both.filter(|_| unpriced == 0 && uncosted == 0).map(|(one, two)| one - two);
            let whole = sums.charge.filter(|charge| *charge != 0);
            let of_charge = margin.zip(whole).map(|(margin, whole)| percent(margin, whole));
            json!({"currency": some(own[0]), "cost_currency": some(own[1]), "charge": charge, "cost": cost,
                "margin": margin.map(text), "margin_percent": of_charge, "lines": lines,
                "unpriced_lines": unpriced, "uncosted_lines": uncosted})
        }
    }
}
