//! Messages that have every field in use.

use domain::{
    catalog::{Catalog, CatalogDocument},
    event::ContentHasher,
    money::Amount,
    period::PeriodKind,
    rating::{Binding, Lines, NoTotals, Outcome, Rating, Rejection, Scratch, rate},
    wire::{
        block::{Block, BlockHeader, BlockWriter},
        codec::DictionaryWriter,
        correction::{StoredLine, StoredMoney},
        rated::{BehindSums, Counts, Forward, Header, Parts},
        record::{
            Attribute, AttributeKind, Command, CommandKind, Entry, EventRecord, Origin, Quote,
            Refused, Verdict,
        },
        row::{
            Corrected, OtherOutcome, RowPlace, put_other, put_refused, put_reversal,
            put_usage_event,
        },
        rows::ColumnsWriter,
        sums::{self, RunningTotal, Sum, SumKey},
        trace::TraceContext,
    },
};
use uuid::Uuid;

pub const TENANT_A: Uuid = Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
pub const TENANT_B: Uuid = Uuid::from_u128(0xfedc_ba98_7654_3210_0123_4567_89ab_cdef);
pub const HOLD: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001);
pub const TIME_US: i64 = 1_700_158_623_979_960;
pub const RAW: &str = r#"{"id":"größe-1","data":{"model":"gpt-4","tokens":17,"e":"\u00e9\n","n":null,"t":true,"f":false,"o":{},"a":[]}}"#;

/// Strings of the full block, by number.
pub const TEXTS: [&str; 20] = [
    "team-ä",
    "Ünterkonto",
    "tool/1.2.0",
    "llm.call",
    "żółw",
    "app",
    "key_1",
    "chat",
    "EUR",
    "/model",
    "/tokens",
    "/e",
    "/n",
    "/t",
    "/f",
    "/o",
    "/a",
    "team-b",
    "",
    "日本語",
];

fn attributes() -> Vec<Attribute> {
    let place = |pointer, kind, text: &str| {
        let offset = u32::try_from(RAW.find(text).unwrap()).unwrap();
        Attribute { pointer, kind, offset, length: u32::try_from(text.len()).unwrap() }
    };
    vec![
        place(9, AttributeKind::Text, "gpt-4"),
        place(10, AttributeKind::Number, "17"),
        place(11, AttributeKind::EscapedText, r"\u00e9\n"),
        place(12, AttributeKind::Null, "null"),
        place(13, AttributeKind::True, "true"),
        place(14, AttributeKind::False, "false"),
        place(15, AttributeKind::EmptyObject, "{}"),
        place(16, AttributeKind::EmptyArray, "[]"),
    ]
}

/// An event with every field.
pub fn full_event() -> EventRecord<'static> {
    let mut content = ContentHasher::new("llm.call", "Ünterkonto");
    content.scalar("/tokens", AttributeKind::Number, b"17");
    EventRecord {
        tenant: 0,
        team: 0,
        subject: 1,
        source: 2,
        event_type: 3,
        user: Some(4),
        app: Some(5),
        key: Some(6),
        feature: Some(7),
        id: "größe-1",
        identity: 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10,
        content: content.finish(),
        time_us: Some(TIME_US),
        hold: Some(HOLD),
        hold_end: true,
        quote: Some(Quote {
            charge: Amount::parse_exact("-12345678901234567890.123456789012").unwrap(),
            currency: 8,
            catalog_version: 300,
            not_after_us: TIME_US + 1_000_000,
        }),
        attributes: attributes(),
        raw: RAW.as_bytes(),
    }
}

/// An event with as little as there may be.
pub fn bare_event() -> EventRecord<'static> {
    EventRecord {
        tenant: 1,
        team: 17,
        subject: 17,
        source: 18,
        event_type: 19,
        user: None,
        app: None,
        key: None,
        feature: None,
        id: "",
        identity: u128::MAX,
        content: 0,
        time_us: None,
        hold: None,
        hold_end: false,
        quote: None,
        attributes: Vec::new(),
        raw: b"",
    }
}

pub fn origin(has_client_time: bool) -> Origin {
    Origin { partition: 3, position: 41, index: 200, append_time_us: TIME_US - 7, has_client_time }
}

/// One of each kind of entry, and of each verdict.
pub fn entries() -> Vec<Entry<'static>> {
    vec![
        Entry::Event(full_event()),
        Entry::Event(bare_event()),
        Entry::Copy(Verdict::New { checked_to: 40 }, origin(true), full_event()),
        Entry::Copy(
            Verdict::DuplicateOf { position: 1 << 40, index: 5 },
            origin(false),
            bare_event(),
        ),
        Entry::Copy(
            Verdict::ConflictWith { position: 0, index: u32::MAX },
            origin(true),
            bare_event(),
        ),
        Entry::Marker {
            tenant: TENANT_B,
            catalog_version: 301,
            document_hash: *b"the document of the catalog, v301".first_chunk().unwrap(),
        },
        Entry::Command(Command {
            tenant: 0,
            kind: CommandKind::Correct,
            key: b"key",
            body: b"body",
        }),
        Entry::Command(Command { tenant: 1, kind: CommandKind::ClosePeriod, key: b"", body: b"" }),
        Entry::Command(Command {
            tenant: 0,
            kind: CommandKind::Post,
            key: &[0, 255],
            body: &[7; 200],
        }),
        Entry::Refused(Refused {
            tenant: 1,
            reason: "invalid_json",
            detail: "an unbalanced “{”",
            door: "weir.in.acme",
            door_partition: 300,
            door_offset: 1 << 33,
            door_index: 2,
            raw: b"{\xff",
        }),
    ]
}

/// A writer that knows [`TEXTS`] and both tenants.
pub fn writer() -> BlockWriter {
    let mut writer = BlockWriter::default();
    for (number, text) in (0..).zip(TEXTS) {
        assert_eq!(writer.dictionary.intern(text), number);
    }
    assert_eq!(
        (writer.tenant(TENANT_A), writer.tenant(TENANT_B), writer.tenant(TENANT_A)),
        (0, 1, 0)
    );
    writer
}

/// Two sampled requests.
pub fn traces() -> Vec<TraceContext> {
    vec![
        TraceContext {
            trace: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
            span: 0x00f0_67aa_0ba9_02b7,
        },
        TraceContext { trace: 1, span: u64::MAX },
    ]
}

/// The block of [`entries`], with these traces.
pub fn full_block(traces: &[TraceContext]) -> Vec<u8> {
    let mut writer = writer();
    traces.iter().for_each(|context| writer.trace(*context));
    for (index, entry) in (0..).zip(entries()) {
        assert_eq!(writer.push(&entry), index);
    }
    writer.finish()
}

pub fn catalog() -> Catalog {
    let text = r#"{
        "meters": [
            {"key": "tokens", "event_types": ["llm.call"], "aggregation": "sum", "value": "$.tokens", "unit": "token",
             "dimensions": {"model": "$.model", "region": "$.region", "source": "source"}},
            {"key": "calls", "event_types": ["llm.call"], "aggregation": "count", "unit": "call"},
            {"key": "unknown", "event_types": ["llm.call"], "aggregation": "count"}
        ],
        "cards": [
            {"key": "standard", "kind": "rate", "currency": "EUR", "versions": [{"version": 1, "effective_from_us": 0, "rates": [
                {"meter": "tokens", "price": "0.01", "per": 3}, {"meter": "calls", "unlimited": true}]}]},
            {"key": "providers", "kind": "cost", "currency": "USD", "versions": [
                {"version": 1, "effective_from_us": 0, "rates": []},
                {"version": 2, "effective_from_us": 1, "rates": [{"meter": "tokens", "price": "0.000000000001"}]}]}
        ],
        "default_rate_card": "standard",
        "default_cost_card": "providers"
    }"#;
    serde_json::from_str::<CatalogDocument>(text).unwrap().compile().unwrap()
}

/// Rows of both tables, made of the block's entries.
pub fn rows() -> (ColumnsWriter, ColumnsWriter) {
    let message = full_block(&[]);
    let header = BlockHeader::decode(&message).unwrap();
    let body = header.body(&message).unwrap();
    let block = Block::decode(&header, &body).unwrap();
    let catalog = catalog();
    let binding = Binding::new(&catalog, &block.dictionary);
    let (mut rows, mut others) = (ColumnsWriter::usage_events(), ColumnsWriter::rejected_events());
    for (index, entry) in (0..).zip(&block.entries) {
        let place = |tenant, copy| RowPlace {
            position: 42,
            index,
            partition: 3,
            tenant: header.tenant(tenant).unwrap(),
            append_time_us: TIME_US + 5,
            catalog_version: 300,
            dictionary: &block.dictionary,
            copy,
            corrects: None,
            serial: 0,
        };
        match entry {
            Entry::Event(event) => {
                let time_us = event.time_us.unwrap_or(TIME_US + 5);
                let rating = Rating {
                    catalog: &catalog,
                    binding: &binding,
                    dictionary: &block.dictionary,
                    time_us,
                    append_time_us: TIME_US + 5,
                };
                let mut lines = Lines::new();
                let outcome =
                    rate(&rating, event, &NoTotals, &mut Scratch::default(), &mut lines).unwrap();
                rows.push(|out| {
                    put_usage_event(
                        out,
                        &place(event.tenant, None),
                        event,
                        time_us,
                        outcome,
                        &catalog,
                        &lines,
                    )
                });
            }
            Entry::Copy(verdict, origin, event) => {
                let place = place(event.tenant, Some((*verdict, *origin)));
                match verdict {
                    Verdict::New { .. } => rows.push(|out| {
                        put_usage_event(
                            out,
                            &place,
                            event,
                            TIME_US,
                            Outcome::Unmetered,
                            &catalog,
                            &[],
                        )
                    }),
                    Verdict::DuplicateOf { position, index } => {
                        let outcome =
                            OtherOutcome::Duplicate { position: *position, index: *index };
                        others.push(|out| put_other(out, &place, event, &outcome));
                    }
                    Verdict::ConflictWith { position, index } => {
                        let outcome = OtherOutcome::Conflict { position: *position, index: *index };
                        others.push(|out| put_other(out, &place, event, &outcome));
                        let rejection =
                            Rejection { reason: "hold_expired", detail: "zu spät".into() };
                        others.push(|out| {
                            put_other(
                                out,
                                &place,
                                &full_event(),
                                &OtherOutcome::Rejected(rejection),
                            )
                        });
                    }
                }
            }
            Entry::Refused(refused) => {
                others.push(|out| put_refused(out, &place(refused.tenant, None), refused))
            }
            Entry::Marker { .. } | Entry::Command(_) => {}
        }
    }
    (rows, others)
}

pub fn header(traces: &[TraceContext]) -> Header {
    let counts_a = Counts {
        accepted: 1_000,
        copies: 3,
        rated: 700,
        unmetered: 100,
        unpriced: 50,
        duplicates: 60,
        conflicts: 40,
        rejected: 30,
        forwarded: 23,
        lost: 0,
    };
    let counts_b = Counts {
        accepted: 2,
        copies: 2,
        rated: 1,
        unmetered: 1,
        unpriced: 0,
        duplicates: 1,
        conflicts: 1,
        rejected: 0,
        forwarded: 0,
        lost: 9,
    };
    Header {
        catalog_version: 300,
        rules_version: 1,
        table_from: 7,
        horizon_us: TIME_US - 3_600_000_000,
        append_time_us: (TIME_US + 1, TIME_US + 5),
        counts: vec![(TENANT_A, counts_a), (TENANT_B, counts_b)],
        traces: traces.to_vec(),
    }
}

pub const SUM_TEXTS: [&str; 9] =
    ["team-ä", "tokens", "standard", "EUR", "USD", "żółw", "app", "key_1", "chat"];

pub fn sum_entries() -> Vec<(SumKey, Sum)> {
    let full = SumKey {
        tenant: 0,
        team: 0,
        meter: 1,
        card: Some(2),
        card_version: 1,
        currency: Some(3),
        cost_currency: Some(4),
        hold: Some(HOLD),
        bucket: TIME_US / (15 * 60 * 1_000_000),
        user: Some(5),
        app: Some(6),
        key: Some(7),
        feature: Some(8),
    };
    let bare = SumKey {
        tenant: 1,
        card: None,
        card_version: 0,
        currency: None,
        cost_currency: None,
        hold: None,
        bucket: -1,
        user: None,
        app: None,
        key: None,
        feature: None,
        ..full
    };
    vec![
        (full, Sum { quantity: 17_000_000_000_000, charge: 56_666_666_667, cost: -17, events: 1 }),
        (bare, Sum { quantity: i128::MIN, charge: 0, cost: i128::MAX, events: -1 }),
    ]
}

/// What is corrected in a batch of version 7.
pub const CORRECTED: Corrected = Corrected { position: 17, index: 2, run: 3, checked_to: 39 };

/// A row that takes back what an event came to, and one of a correction that was not carried out.
fn put_correction(rows: &mut ColumnsWriter, others: &mut ColumnsWriter) {
    let message = full_block(&[]);
    let header = BlockHeader::decode(&message).unwrap();
    let body = header.body(&message).unwrap();
    let block = Block::decode(&header, &body).unwrap();
    let place = RowPlace {
        position: 42,
        index: 10,
        partition: 3,
        tenant: TENANT_A,
        append_time_us: TIME_US + 5,
        catalog_version: 300,
        dictionary: &block.dictionary,
        copy: None,
        corrects: Some(CORRECTED),
        serial: 0,
    };
    let event = EventRecord { identity: 0, ..full_event() };
    let line = StoredLine {
        meter: "tokens".into(),
        unit: "token".into(),
        quantity: 17_000_000_000_000,
        status: 1,
        charge: StoredMoney {
            card: "standard".into(),
            version: 1,
            currency: "EUR".into(),
            amount: Some(56_666_666_667),
        },
        cost: StoredMoney::default(),
        dimensions: vec![("model".into(), "gpt-4".into())],
        total_before: 5,
        moved: None,
    };
    rows.push(|out| put_reversal(out, &place, &event, TIME_US, Outcome::Rated, &[line]));
    let why = Rejection { reason: "correction_superseded", detail: "zu spät".into() };
    let refused = RowPlace { index: 11, ..place };
    others.push(|out| put_other(out, &refused, &event, &OtherOutcome::Uncorrected(why)));
}

/// Running totals of a batch of version 5.
pub fn running_totals() -> Vec<RunningTotal> {
    let month = RunningTotal {
        tenant: 0,
        team: 0,
        meter: 1,
        scope: 2,
        period: PeriodKind::Month,
        start_us: 1_698_796_800_000_000,
        quantity: 17_500_000_000_000,
    };
    let ever = RunningTotal {
        tenant: 1,
        scope: 3,
        period: PeriodKind::Ever,
        start_us: i64::MIN,
        quantity: -1,
        ..month
    };
    vec![month, ever]
}

pub fn sums_section(behind: BehindSums) -> Vec<u8> {
    let mut dictionary = DictionaryWriter::default();
    for text in SUM_TEXTS {
        dictionary.intern(text);
    }
    let mut section = Vec::new();
    let totals = running_totals();
    let totals = (behind != BehindSums::Nothing).then_some(&totals[..]);
    sums::encode(&dictionary, &sum_entries(), totals, &mut section);
    section
}

pub fn forwards() -> Vec<Forward> {
    let mut writer = writer();
    writer.push(&Entry::Event(full_event()));
    vec![
        Forward {
            position: 42,
            index: 9,
            append_time_us: TIME_US + 5,
            hold: Some(HOLD),
            ranges: vec![(0, 9_999), (20_000, i64::MAX)],
            block: writer.finish(),
        },
        Forward {
            position: 43,
            index: 0,
            append_time_us: TIME_US + 6,
            hold: None,
            ranges: Vec::new(),
            block: Vec::new(),
        },
    ]
}

pub fn full_parts(traces: &[TraceContext], behind: BehindSums) -> Parts {
    let (mut rows, mut others) = rows();
    if behind == BehindSums::Corrected {
        put_correction(&mut rows, &mut others);
    }
    Parts {
        header: header(traces),
        sums: sums_section(behind),
        behind,
        rows,
        others,
        forwards: forwards(),
    }
}
