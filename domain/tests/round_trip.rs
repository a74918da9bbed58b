//! What is written is read back, whatever it is.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use domain::{
    chain::{Offer, Place},
    money::{AMOUNT_RAW_LIMIT, Amount},
    period::PeriodKind,
    wire::{
        block::{Block, BlockHeader, BlockWriter},
        codec::DictionaryWriter,
        columns::{Kind, REJECTED_EVENTS, Table, USAGE_EVENTS, Value},
        rated::{BehindSums, Counts, Forward, Header, Parts, Sections, encode},
        record::{
            Attribute, AttributeKind, Command, CommandKind, Entry, EventRecord, Origin, Quote,
            Refused, Verdict,
        },
        rows::{ColumnsWriter, RowOutput as _},
        sums::{self, RunningTotal, Sum, SumKey, Sums},
        trace::{TRACES_MAX, TraceContext},
    },
};
use proptest::{collection::vec, option, prelude::*};
use uuid::Uuid;

const TENANTS: u32 = 3;
const TEXTS: u32 = 12;

/// An entry that owns its texts, so that a strategy can make it.
#[derive(Clone, Debug)]
enum Owned {
    Event(Box<OwnedEvent>),
    Copy(Verdict, Origin, Box<OwnedEvent>),
    Marker(u128, u64, [u8; 32]),
    Command(u32, u8, Vec<u8>, Vec<u8>),
    Refused(u32, [String; 3], u32, i64, u32, Vec<u8>),
}

#[derive(Clone, Debug)]
struct OwnedEvent {
    tenant: u32,
    known: [u32; 4],
    optional: [Option<u32>; 4],
    id: String,
    identity: u128,
    content: u64,
    time_us: Option<i64>,
    hold: Option<u128>,
    hold_end: bool,
    quote: Option<(i128, u32, u64, i64)>,
    attributes: Vec<(u32, u8, usize, usize)>,
    raw: Vec<u8>,
}

fn event() -> impl Strategy<Value = Box<OwnedEvent>> {
    let place = || 0..TEXTS;
    let limit = AMOUNT_RAW_LIMIT - 1;
    let names = (
        0..TENANTS,
        [place(), place(), place(), place()],
        [option::of(place()), option::of(place()), option::of(place()), option::of(place())],
    );
    let hashes = ("\\PC{0,20}", any::<u128>(), any::<u64>(), option::of(any::<i64>()));
    let quote = option::of((-limit..=limit, place(), any::<u64>(), any::<i64>()));
    let hold = (option::of(any::<u128>()), any::<bool>(), quote);
    let data = (vec((place(), 0..8_u8, 0..50_usize, 0..50_usize), 0..9), vec(any::<u8>(), 0..120));
    (names, hashes, hold, data).prop_map(|(names, hashes, hold, data)| {
        let (tenant, known, optional) = names;
        let (id, identity, content, time_us) = hashes;
        let (hold, hold_end, quote) = hold;
        let (attributes, raw) = data;
        Box::new(OwnedEvent {
            tenant,
            known,
            optional,
            id,
            identity,
            content,
            time_us,
            hold,
            hold_end,
            quote,
            attributes,
            raw,
        })
    })
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        any::<i64>().prop_map(|checked_to| Verdict::New { checked_to }),
        any::<(i64, u32)>().prop_map(|(position, index)| Verdict::DuplicateOf { position, index }),
        any::<(i64, u32)>().prop_map(|(position, index)| Verdict::ConflictWith { position, index }),
    ]
}

fn origin() -> impl Strategy<Value = Origin> {
    any::<(u32, i64, u32, i64, bool)>().prop_map(
        |(partition, position, index, append_time_us, has_client_time)| Origin {
            partition,
            position,
            index,
            append_time_us,
            has_client_time,
        },
    )
}

fn entry() -> impl Strategy<Value = Owned> {
    let bytes = || vec(any::<u8>(), 0..60);
    prop_oneof![
        event().prop_map(Owned::Event),
        (verdict(), origin(), event())
            .prop_map(|(verdict, origin, event)| Owned::Copy(verdict, origin, event)),
        any::<(u128, u64, [u8; 32])>()
            .prop_map(|(tenant, version, hash)| Owned::Marker(tenant, version, hash)),
        (0..TENANTS, 1..4_u8, bytes(), bytes())
            .prop_map(|(tenant, kind, key, body)| Owned::Command(tenant, kind, key, body)),
        (0..TENANTS, ["\\PC{0,9}", "\\PC{0,40}", "\\PC{0,9}"], any::<(u32, i64, u32)>(), bytes())
            .prop_map(|(tenant, texts, (partition, offset, index), raw)| Owned::Refused(
                tenant, texts, partition, offset, index, raw
            )),
    ]
}

fn kind(byte: u8) -> AttributeKind {
    use AttributeKind::{EmptyArray, EmptyObject, EscapedText, False, Null, Number, Text, True};
    [Null, False, True, Number, Text, EscapedText, EmptyObject, EmptyArray][usize::from(byte)]
}

impl OwnedEvent {
    fn record(&self) -> EventRecord<'_> {
        let attribute = |(pointer, number, offset, length): &(u32, u8, usize, usize)| {
            let offset = (*offset).min(self.raw.len());
            let length = (*length).min(self.raw.len() - offset);
            Attribute {
                pointer: *pointer,
                kind: kind(*number),
                offset: offset as u32,
                length: length as u32,
            }
        };
        let [team, subject, source, event_type] = self.known;
        let [user, app, key, feature] = self.optional;
        let quote = |(charge, currency, catalog_version, not_after_us)| Quote {
            charge: Amount::from_raw(charge).unwrap(),
            currency,
            catalog_version,
            not_after_us,
        };
        EventRecord {
            tenant: self.tenant,
            team,
            subject,
            source,
            event_type,
            user,
            app,
            key,
            feature,
            id: &self.id,
            identity: self.identity,
            content: self.content,
            time_us: self.time_us,
            hold: self.hold.map(Uuid::from_u128),
            hold_end: self.hold_end,
            quote: self.quote.map(quote),
            attributes: self.attributes.iter().map(attribute).collect(),
            raw: &self.raw,
        }
    }
}

impl Owned {
    fn entry(&self) -> Entry<'_> {
        match self {
            Owned::Event(event) => Entry::Event(event.record()),
            Owned::Copy(verdict, origin, event) => Entry::Copy(*verdict, *origin, event.record()),
            Owned::Marker(tenant, catalog_version, document_hash) => Entry::Marker {
                tenant: Uuid::from_u128(*tenant),
                catalog_version: *catalog_version,
                document_hash: *document_hash,
            },
            Owned::Command(tenant, kind, key, body) => {
                let kind = [CommandKind::Correct, CommandKind::ClosePeriod, CommandKind::Post]
                    [usize::from(*kind) - 1];
                Entry::Command(Command { tenant: *tenant, kind, key, body })
            }
            Owned::Refused(
                tenant,
                [reason, detail, door],
                door_partition,
                door_offset,
                door_index,
                raw,
            ) => Entry::Refused(Refused {
                tenant: *tenant,
                reason,
                detail,
                door,
                door_partition: *door_partition,
                door_offset: *door_offset,
                door_index: *door_index,
                raw,
            }),
        }
    }
}

fn sum() -> impl Strategy<Value = (SumKey, Sum)> {
    let place = || 0..TEXTS;
    let maybe = || option::of(0..TEXTS);
    let names = (0..TENANTS, place(), place(), maybe(), any::<u32>(), maybe(), maybe());
    let rest = (option::of(any::<u128>()), any::<i64>(), [maybe(), maybe(), maybe(), maybe()]);
    (names, rest, any::<(i128, i128, i128, i64)>()).prop_map(|(names, rest, sum)| {
        let (tenant, team, meter, card, card_version, currency, cost_currency) = names;
        let (hold, bucket, [user, app, key, feature]) = rest;
        let (quantity, charge, cost, events) = sum;
        let hold = hold.map(Uuid::from_u128);
        let key = SumKey {
            tenant,
            team,
            meter,
            card,
            card_version,
            currency,
            cost_currency,
            hold,
            bucket,
            user,
            app,
            key,
            feature,
        };
        (key, Sum { quantity, charge, cost, events })
    })
}

fn total() -> impl Strategy<Value = RunningTotal> {
    let names = (0..TENANTS, 0..TEXTS, 0..TEXTS, 0..TEXTS);
    (names, 1..7u8, any::<i64>(), any::<i128>()).prop_map(|(names, code, start_us, quantity)| {
        let (tenant, team, meter, scope) = names;
        let period = PeriodKind::from_code(code).unwrap();
        RunningTotal { tenant, team, meter, scope, period, start_us, quantity }
    })
}

fn forward() -> impl Strategy<Value = Forward> {
    (
        any::<(i64, u32, i64)>(),
        option::of(any::<u128>()),
        vec(any::<(i64, i64)>(), 0..5),
        vec(any::<u8>(), 0..99),
    )
        .prop_map(|((position, index, append_time_us), hold, ranges, block)| Forward {
            position,
            index,
            append_time_us,
            hold: hold.map(Uuid::from_u128),
            ranges,
            block,
        })
}

/// None, as most messages have, or as many as a message carries.
fn traces() -> impl Strategy<Value = Vec<TraceContext>> {
    let context = any::<(u128, u64)>().prop_map(|(trace, span)| TraceContext { trace, span });
    prop_oneof![Just(Vec::new()), vec(context, 1..=TRACES_MAX)]
}

fn header() -> impl Strategy<Value = Header> {
    let counts = vec((any::<u128>(), any::<[u64; 10]>()), 0..6);
    (any::<(u64, u32, i64, i64, i64, i64)>(), counts, traces()).prop_map(
        |(fields, counts, traces)| {
            let (catalog_version, rules_version, table_from, horizon_us, first, last) = fields;
            let count = |(tenant, fields)| (Uuid::from_u128(tenant), Counts::from_fields(fields));
            Header {
                catalog_version,
                rules_version,
                table_from,
                horizon_us,
                append_time_us: (first, last),
                counts: counts.into_iter().map(count).collect(),
                traces,
            }
        },
    )
}

/// A row of a table, RowBinary, as these bytes choose it.
fn row(table: &Table, choices: &[u8]) -> Vec<u8> {
    let mut choices = choices.iter().cycle();
    let mut next = || usize::from(*choices.next().unwrap());
    let list = next() % 4;
    let one = |row: &mut Vec<u8>, value, next: &mut dyn FnMut() -> usize| match value {
        Value::Fixed(length) => {
            (0..length).for_each(|_| row.push(u8::try_from(next()).unwrap()));
        }
        Value::Text => row.text(vec![b'a'; next()]),
        Value::Word => row.text(next().to_string()),
        Value::Nullable(length) => {
            let value = vec![7; length];
            row.nullable(next().is_multiple_of(2).then_some(&value));
        }
    };
    let mut row = Vec::new();
    for column in table.columns {
        match column.kind {
            Kind::One(value) => one(&mut row, value, &mut next),
            Kind::Many(value) => {
                row.list(list);
                (0..list).for_each(|_| one(&mut row, value, &mut next));
            }
            Kind::Maps => {
                row.list(list);
                for _ in 0..list {
                    let pairs = next() % 3;
                    row.map(pairs);
                    (0..pairs).for_each(|_| row.pair(vec![b'k'; next()], next().to_string()));
                }
            }
        }
    }
    row
}

fn rows_of(table: &'static Table, choices: &[Vec<u8>]) -> (Vec<u8>, ColumnsWriter) {
    let rows: Vec<u8> = choices.iter().flat_map(|choices| row(table, choices)).collect();
    let mut writer = ColumnsWriter::new(table);
    // Used twice, as the rater does: nothing of one batch is left in the next.
    writer.push_rows(&row(table, &[1, 2, 3])).unwrap();
    writer.clear();
    writer.push_rows(&rows).unwrap();
    (rows, writer)
}

proptest! {
    #[test]
    fn blocks(entries in vec(entry(), 0..20), traces in traces(), twice: bool) {
        let mut writer = BlockWriter::default();
        // A writer is used again and again; nothing of one block is left in the next, which has no
        // traces.
        for traces in [traces.as_slice(), &[]].into_iter().take(1 + usize::from(twice)) {
            traces.iter().for_each(|context| writer.trace(*context));
            for text in 0..TEXTS {
                prop_assert_eq!(writer.dictionary.intern(&format!("text {text} é")), text);
            }
            for tenant in 0..TENANTS {
                prop_assert_eq!(writer.tenant(Uuid::from_u128(u128::from(tenant))), tenant);
            }
            for entry in &entries {
                writer.push(&entry.entry());
            }
            let message = writer.finish();
            let header = BlockHeader::decode(&message).unwrap();
            let body = header.body(&message).unwrap();
            let block = Block::decode(&header, &body).unwrap();
            let want: Vec<Entry<'_>> = entries.iter().map(Owned::entry).collect();
            prop_assert_eq!(&block.entries, &want);
            prop_assert_eq!(header.traces.as_slice(), traces);
            prop_assert_eq!(message[4], if traces.is_empty() { 1 } else { 2 });
            let copies = want.iter().filter(|entry| matches!(entry, Entry::Copy(..))).count() as u64;
            let events = want.iter().filter(|entry| matches!(entry, Entry::Event(_) | Entry::Refused(_))).count() as u64;
            prop_assert_eq!(header.tenants.iter().map(|count| count.copies).sum::<u64>(), copies);
            prop_assert_eq!(header.tenants.iter().map(|count| count.events).sum::<u64>(), events);
        }
    }

    #[test]
    fn batches(
        place in (-1..i64::MAX - 1_000, any::<[u8; 32]>()),
        length in 1..1_000_i64,
        header in header(),
        entries in vec(sum(), 0..20),
        totals in vec(total(), 0..5),
        rows in vec(vec(any::<u8>(), 1..200), 0..300),
        others in vec(vec(any::<u8>(), 1..200), 0..5),
        forwards in vec(forward(), 0..5),
        partition: u32,
    ) {
        let mut dictionary = DictionaryWriter::default();
        for text in 0..TEXTS {
            dictionary.intern(&format!("text {text} é"));
        }
        let mut section = Vec::new();
        let behind = if totals.is_empty() { BehindSums::Nothing } else { BehindSums::Totals };
        let listed = (behind != BehindSums::Nothing).then_some(&totals[..]);
        sums::encode(&dictionary, &entries, listed, &mut section);
        let (rows, rows_written) = rows_of(&USAGE_EVENTS, &rows);
        let (others, others_written) = rows_of(&REJECTED_EVENTS, &others);
        let parts = Parts { header: header.clone(), sums: section.clone(), behind, rows: rows_written, others: others_written, forwards: forwards.clone() };
        let place = Place { x: place.0, r: 5, c: place.1 };
        let (outer, message) = encode(partition, place.x + 1, place.x + length, place.c, &parts);
        let after = Place { x: place.x + length, r: 9, c: outer.hash };
        prop_assert_eq!(place.offer(partition, 9, &message), Ok(Offer::Accepted(outer, after)));
        let sections = Sections::split(&message).unwrap();
        prop_assert_eq!(&sections.header().unwrap(), &header);
        let version = if totals.is_empty() { 3 } else { 5 };
        prop_assert_eq!(outer.version, version + u16::from(!header.traces.is_empty()));
        let sums = sections.sums(&header);
        if header.counts.len() == TENANTS as usize {
            prop_assert_eq!((&sums.as_ref().unwrap().entries, &sums.as_ref().unwrap().totals), (&entries, &totals));
        }
        let read = Sums::decode(&section, TENANTS as usize, !totals.is_empty()).unwrap();
        prop_assert_eq!((&read.entries, &read.totals), (&entries, &totals));
        prop_assert_eq!(sections.rows().unwrap().rows().bytes, rows);
        prop_assert_eq!(sections.others().unwrap().rows().bytes, others);
        prop_assert_eq!(sections.forwards().unwrap(), forwards);
    }
}
