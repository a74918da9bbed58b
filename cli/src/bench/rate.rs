//! The rater's work without the log: blocks in memory become rated batches in memory, and the sums of
//! those are compared with the account. Beside it the same work as one writes it first: JSON
//! parsed event by event, and hash maps with texts as keys.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use benches::{
    account::{Account, Books, INPUT_METER, MODELS, OUTPUT_METER, Sums, lines},
    generator::{Generator, TimeText, mix},
    measure::thread_time,
};
use bytes::Bytes;
use domain::{
    catalog::{Catalog, CatalogDocument},
    chain::{GENESIS, Place},
    wire::rated::Sections,
};
use rater::{
    batch::Coverage,
    catalogs::Catalogs,
    filter::{Filter, Name},
    queue::Queue,
    ranges::Range,
    state::State,
    table::Limits,
    verdict::Cursor,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{blocks::TENANT, system::catalog};

/// Entries after which a batch is cut, as configured by default.
const BATCH_ENTRIES: u32 = 10_000;

/// Identities of a range that has left the table, as configured by default.
const RANGE_IDENTITIES: u64 = 4_000_000;

/// What rating took.
#[derive(Debug, Default)]
pub struct Rated {
    /// Reading a block: checksum, decompression.
    pub opening: Duration,
    /// Deciding and rating its entries.
    pub rating: Duration,
    /// Ending batches: sums, compression, hash.
    pub cutting: Duration,
    /// Messages of `[rated]`.
    pub messages: Vec<Bytes>,
}

impl Rated {
    /// All of it.
    pub fn total(&self) -> Duration {
        self.opening + self.rating + self.cutting
    }
}

/// The catalog as the api stores it: versions have numbers and begin somewhere.
fn stored(mut catalog: Value) -> Value {
    let cards = catalog.get_mut("cards").and_then(Value::as_array_mut);
    let versions = cards.into_iter().flatten().filter_map(|card| card.get_mut("versions"));
    for version in versions.filter_map(Value::as_array_mut).flatten() {
        version["version"] = 1.into();
        version["effective_from_us"] = 0.into();
    }
    catalog
}

/// What a catalog has besides what the load needs.
#[derive(Clone, Copy, Debug, Default)]
pub struct More {
    /// Meters of other types of events.
    pub meters: u32,
    /// Prices of other models.
    pub rates: u32,
    /// Whether each price is the heaviest model there is, which comes to the same sums: three tiers behind an
    /// allowance, a maximum, a fee, a converted unit, and a running total of each row.
    pub tiers: bool,
}

impl More {
    /// The bench's catalog with it.
    pub fn catalog(self) -> Result<Catalog> {
        let mut catalog = catalog();
        self.add_to(&mut catalog);
        let document: CatalogDocument = serde_json::from_value(stored(catalog))?;
        document.compile().map_err(|faults| anyhow::anyhow!("{faults:?}"))
    }

    fn add_to(self, catalog: &mut Value) {
        let meters = catalog.get_mut("meters").and_then(Value::as_array_mut);
        meters.into_iter().for_each(|meters| meters.extend((0..self.meters).map(other_meter)));
        let rates = catalog.pointer_mut("/cards/0/versions/0/rates").and_then(Value::as_array_mut);
        if let Some(rates) = rates {
            if self.tiers {
                rates.iter_mut().for_each(tiered);
            }
            rates.extend((0..self.rates).map(other_rate));
        }
    }
}

/// The same price in three tiers, with all that a row may have besides.
fn tiered(row: &mut Value) {
    let price = row["price"].take();
    let tier = |up_to: Option<&str>| match up_to {
        Some(up_to) => json!({ "up_to": up_to, "price": price }),
        None => json!({ "price": price }),
    };
    row["tiers"] = json!([tier(Some("10000")), tier(Some("1000000")), tier(None)]);
    row["unit"] = json!({ "divide_by": "1" });
    for (name, value) in [
        ("model", "graduated"),
        ("included", "0"),
        ("maximum", "1000000000000"),
        ("fee", "0"),
        ("total", "row"),
    ] {
        row[name] = value.into();
    }
    if let Some(members) = row.as_object_mut() {
        members.remove("price");
    }
}

fn other_meter(number: u32) -> Value {
    json!({ "key": format!("other_{number}"), "event_types": [format!("other.{number}.v1")],
        "aggregation": "sum", "value": "$.amount", "unit": "piece" })
}

fn other_rate(number: u32) -> Value {
    json!({ "meter": INPUT_METER, "price": "0.000001",
        "dimensions": { "provider": "other", "model": format!("model-{number}") } })
}

/// Rates all blocks, each appended at `now_us`, by the bench's catalog and `more`. With `behind`
/// identities whose table the events are too old for, those that a filter reports wrongly come again,
/// as the slow lane answers where the archive has no twin; their time is not counted.
pub fn rate(blocks: &[Bytes], more: More, behind: u64, now_us: i64) -> Result<Rated> {
    let by_tenant = HashMap::from([(TENANT, Arc::new(more.catalog()?))]);
    let catalogs = Catalogs { version: 1, by_tenant };
    let ranges = ranges(behind)?;
    let from = ranges.last().map_or(0, |range| range.name.to + 1);
    let horizon_us = if behind == 0 { i64::MIN } else { i64::MAX };
    let coverage = Coverage { table_from: from, horizon_us };
    let limits =
        Limits { identities_max: usize::MAX, range_identities: usize::MAX, window_us: i64::MAX };
    let place = Place { x: from - 1, ..Place::EMPTY };
    let mut state = State::new(0, place, coverage, limits);
    state.put_ranges(ranges);
    state.set_catalogs(Arc::new(catalogs));
    let (mut rated, mut position) = (Rated::default(), from);
    for (number, block) in (1..).zip(blocks) {
        take(&mut state, &mut rated, (position, block), now_us, number == blocks.len())?;
        position += 1;
    }
    let mut lane = Queue::new(0, Cursor { place, index: 0 });
    for (at, message) in (0..).zip(&rated.messages) {
        lane.offer(at, message)?;
    }
    let mut again = Rated::default();
    again.messages.append(&mut rated.messages);
    while lane.has_passed(position - 1) {
        let answers = lane.search(position - 1)?.answers(&[])?;
        take(&mut state, &mut again, (position, &answers.block), now_us, true)?;
        lane.acknowledged(&answers);
        position += 1;
    }
    rated.messages = again.messages;
    Ok(rated)
}

/// Rates a block; cuts a batch where one is full, or the block is the last.
fn take(
    state: &mut State,
    rated: &mut Rated,
    (position, block): (i64, &Bytes),
    now_us: i64,
    last: bool,
) -> Result<()> {
    let began = thread_time();
    let opened = state.open(position, block)?;
    let opening = thread_time();
    state.rate(now_us, &opened, &opened.block()?, &[])?;
    let rating = thread_time();
    if last || state.batch().is_some_and(|batch| batch.entries >= BATCH_ENTRIES) {
        let (_, message) = state.cut().context("a batch")?;
        let place = i64::try_from(rated.messages.len())?;
        rated.messages.push(message.into());
        ensure!(state.landed(place), "the only owner's batch is accepted");
    }
    rated.opening += opening.saturating_sub(began);
    rated.rating += rating.saturating_sub(opening);
    rated.cutting += thread_time().saturating_sub(rating);
    Ok(())
}

/// Ranges of so many random identities that have left the table, as many in each as by default.
fn ranges(identities: u64) -> Result<Vec<Range>> {
    let (mut ranges, mut next) = (Vec::new(), 0);
    while next < identities {
        let end = next.saturating_add(RANGE_IDENTITIES).min(identities);
        let random = (next..end).map(|number| {
            u128::from(mix(number)) << 64 | u128::from(mix(number.wrapping_mul(3) ^ mix(number)))
        });
        let position = i64::try_from(ranges.len())?;
        let name = Name { partition: 0, from: position, to: position, prev: GENESIS, c: GENESIS };
        ranges.push(Range { name, filter: Some(Filter::build(random)?) });
        next = end;
    }
    Ok(ranges)
}

/// What rated batches say, per team and meter, and how many events were rated.
pub fn books(messages: &[Bytes]) -> Result<(Books, u64)> {
    let (mut books, mut events) = (Books::new(), 0);
    for message in messages {
        let sections = Sections::split(message)?;
        let header = sections.header()?;
        events += header.counts.iter().map(|(_, counts)| counts.rated).sum::<u64>();
        let sums = sections.sums(&header)?;
        for (key, sum) in &sums.entries {
            let text = |number| sums.dictionary.get(number).map(str::to_owned);
            let entry = books.entry((text(key.team)?, text(key.meter)?)).or_default();
            entry.events += sum.events;
            entry.quantity += sum.quantity;
            entry.charge += sum.charge;
            entry.cost += sum.cost;
        }
    }
    Ok((books, events))
}

/// Fails where the batches say other than the account. Charges by a running total are rounded together and not
/// each by itself: with `tiers` they may be half of the last digit apart for each event.
pub fn check(messages: &[Bytes], account: &Account, tiers: bool) -> Result<()> {
    let (mut books, events) = books(messages)?;
    for (key, found) in books.iter_mut().filter(|_| tiers) {
        let wanted = account.books.get(key).copied().unwrap_or_default();
        if (found.charge - wanted.charge).abs() <= i128::from(wanted.events) {
            found.charge = wanted.charge;
        }
    }
    let difference = account.first_difference(&books);
    ensure!(difference.is_none(), "the sums are wrong: {difference:?}");
    ensure!(events == account.fates.rated, "{events} rated of {:?}", account.fates);
    Ok(())
}

#[derive(Deserialize)]
struct Event {
    id: String,
    source: String,
    subject: String,
    data: Data,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    model: String,
    input_tokens: i64,
    output_tokens: i64,
}

/// The same events one by one, as JSON in requests of `batch`: a set of texts for duplicates, a map from team and
/// meter to sums. Answers the processor time and the sums.
pub fn one_by_one(generator: &Generator, events: u64, batch: u64) -> Result<(Duration, Books)> {
    let prices: HashMap<String, usize> =
        MODELS.iter().enumerate().map(|(number, model)| (model.name.to_owned(), number)).collect();
    let mut seen: HashSet<(String, String, String)> = HashSet::new();
    let mut sums: HashMap<(String, String), Sums> = HashMap::new();
    let (mut time, mut clock, mut from) = (Duration::ZERO, TimeText::default(), 0);
    while from < events {
        let to = from.saturating_add(batch).min(events);
        let mut body = Vec::new();
        generator.write_array(from..to, &mut clock, &mut body);
        let began = thread_time();
        for event in serde_json::from_slice::<Vec<Event>>(&body)? {
            let Data { model, input_tokens, output_tokens } = event.data;
            let (Ok(input), Ok(output)) =
                (u64::try_from(input_tokens), u64::try_from(output_tokens))
            else {
                continue;
            };
            let source = event.source.split('/').next().unwrap_or_default().to_owned();
            if !seen.insert((event.subject.clone(), source, event.id)) {
                continue;
            }
            let model = prices.get(&model).and_then(|number| MODELS.get(*number));
            let found = lines(model.context("a model")?, input, output);
            for (meter, line) in [INPUT_METER, OUTPUT_METER].into_iter().zip(found) {
                sums.entry((event.subject.clone(), meter.to_owned())).or_default().add(line);
            }
        }
        time += thread_time().saturating_sub(began);
        from = to;
    }
    Ok((time, sums.into_iter().collect()))
}
