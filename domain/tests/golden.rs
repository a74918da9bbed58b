//! Messages of every released version, kept as files: each is decoded to what this test says, and
//! what is written today is what was written then. A format that changes gets a new version and a
//! new file; the files here never change. (Compressed bytes may come out differently from a newer
//! LZ4 library; then the second half of that case may go, never the first.)

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test")]

mod support;

use std::path::Path;

use domain::{
    chain::{GENESIS, Offer, Place},
    event::{ContentHasher, IdentityKey, IdentityParts},
    wire::{
        block::{Block, BlockHeader, BlockWriter, TenantCount},
        columns::{REJECTED_EVENTS, Table, USAGE_EVENTS},
        rated::{BehindSums, Outer, Sections, encode},
        record::{Attribute, AttributeKind, Entry, EventRecord},
        row::RowHead,
        rows::Rows,
        sums::RunningTotal,
        trace::TraceContext,
    },
};
use xxhash_rust::xxh3::xxh3_64;

use support::{
    CORRECTED, SUM_TEXTS, TENANT_A, TENANT_B, TEXTS, entries, forwards, full_block, full_parts,
    header, rows, running_totals, sum_entries, traces,
};

/// The file's bytes.
fn kept(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    std::fs::read(path).unwrap_or_default()
}

/// The file's bytes; what is written today is left where the failure says.
fn golden(name: &str, written: &[u8]) -> Vec<u8> {
    let bytes = kept(name);
    if bytes != written {
        let today = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&today, written).unwrap();
        panic!("{name} is not what is written today, which stands in {}", today.display());
    }
    bytes
}

#[test]
fn block_v1() {
    read_block(&golden("block_v1.bin", &full_block(&[])), 1, &[]);
}

#[test]
fn block_v2_with_traces() {
    let message = golden("block_v2.bin", &full_block(&traces()));
    read_block(&message, 2, &traces());
    // But for its header, which has the traces behind the tenants, it is the block of version 1.
    let before = full_block(&[]);
    let end = 28 + usize::try_from(u32::from_le_bytes(before[16..20].try_into().unwrap())).unwrap();
    let listed = listed(&traces());
    assert_eq!(message[28..], [&before[28..end], &listed, &before[end..]].concat());
}

/// Traces as `docs/FORMATS.md` has them.
fn listed(traces: &[TraceContext]) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(traces.len()).unwrap()];
    for context in traces {
        bytes.extend(context.trace.to_le_bytes());
        bytes.extend(context.span.to_le_bytes());
    }
    bytes
}

fn read_block(message: &[u8], version: u16, traces: &[TraceContext]) {
    assert_eq!(message[4..8], [version.to_le_bytes(), [0, 0]].concat());
    let header = BlockHeader::decode(message).unwrap();
    assert_eq!(
        header.tenants,
        [
            TenantCount { tenant: TENANT_A, events: 1, copies: 1 },
            TenantCount { tenant: TENANT_B, events: 2, copies: 2 },
        ]
    );
    assert_eq!((header.entries, header.traces.as_slice()), (10, traces));
    let body = header.body(message).unwrap();
    let block = Block::decode(&header, &body).unwrap();
    assert_eq!(block.dictionary.texts(), TEXTS);
    assert_eq!(block.entries, entries());
}

/// An event with a usage object: what was derived stands among the attributes, under names that are
/// no JSON pointers, and points at the numbers that were sent.
#[test]
fn block_v1_with_derived_usage() {
    let raw = r#"{"usage":{"prompt_tokens":2006,"details":{"cached_tokens":1920}}}"#;
    let names = ["team", "", "llm", "/usage/prompt_tokens", "/usage/details/cached_tokens"];
    let derived = ["usage.input", "usage.input-", "usage.cache_read"];
    let mut writer = BlockWriter::default();
    let tenant = writer.tenant(TENANT_A);
    for name in names.into_iter().chain(derived) {
        writer.dictionary.intern(name);
    }
    let number = |pointer, text: &str| Attribute {
        pointer,
        kind: AttributeKind::Number,
        offset: u32::try_from(raw.find(text).unwrap()).unwrap(),
        length: u32::try_from(text.len()).unwrap(),
    };
    let sent = [number(3, "2006"), number(4, "1920")];
    let derived = [number(5, "2006"), number(6, "1920"), number(7, "1920")];
    let event = EventRecord {
        tenant,
        team: 0,
        subject: 0,
        source: 1,
        event_type: 2,
        attributes: sent.into_iter().chain(derived).collect(),
        raw: raw.as_bytes(),
        ..support::bare_event()
    };
    writer.push(&Entry::Event(event.clone()));
    let message = golden("block_v1_usage.bin", &writer.finish());
    let header = BlockHeader::decode(&message).unwrap();
    let body = header.body(&message).unwrap();
    let block = Block::decode(&header, &body).unwrap();
    assert_eq!(block.dictionary.texts()[5..], ["usage.input", "usage.input-", "usage.cache_read"]);
    assert_eq!(block.entries, [Entry::Event(event)]);
}

/// Rows one after the other, which nobody writes any more.
#[test]
fn rated_v1_and_v2() {
    for (name, version, traces) in [("rated_v1.bin", 1, vec![]), ("rated_v2.bin", 2, traces())] {
        let message = kept(name);
        read_rated(Outer::decode(&message).unwrap(), &message, (version, &traces, &[]));
    }
}

#[test]
fn rated_v3() {
    let (outer, written) = encode(3, 40, 42, GENESIS, &full_parts(&[], BehindSums::Nothing));
    read_rated(outer, &golden("rated_v3.bin", &written), (3, &[], &[]));
}

#[test]
fn rated_v4_with_traces() {
    let (outer, written) = encode(3, 40, 42, GENESIS, &full_parts(&traces(), BehindSums::Nothing));
    let message = golden("rated_v4.bin", &written);
    read_rated(outer, &message, (4, &traces(), &[]));
    // But for its header, which has the traces at its end, it is the batch of version 3.
    let (_, before) = encode(3, 40, 42, GENESIS, &full_parts(&[], BehindSums::Nothing));
    let end =
        120 + usize::try_from(u32::from_le_bytes(before[100..104].try_into().unwrap())).unwrap();
    let listed = listed(&traces());
    assert_eq!(message[120..], [&before[120..end], &listed, &before[end..]].concat());
}

#[test]
fn rated_v5_with_running_totals() {
    let totals = running_totals();
    let (outer, written) = encode(3, 40, 42, GENESIS, &full_parts(&[], BehindSums::Totals));
    read_rated(outer, &golden("rated_v5.bin", &written), (5, &[], &totals));
    let (outer, written) = encode(3, 40, 42, GENESIS, &full_parts(&traces(), BehindSums::Totals));
    read_rated(outer, &golden("rated_v6.bin", &written), (6, &traces(), &totals));
}

#[test]
fn rated_v7_with_corrections() {
    for (name, version, traces) in [("rated_v7.bin", 7, vec![]), ("rated_v8.bin", 8, traces())] {
        let (outer, written) =
            encode(3, 40, 42, GENESIS, &full_parts(&traces, BehindSums::Corrected));
        let message = golden(name, &written);
        assert_eq!(
            (outer.version, outer.has_totals(), outer.has_corrections()),
            (version, true, true)
        );
        let sections = Sections::split(&message).unwrap();
        let sums = sections.sums(&header(&traces)).unwrap();
        assert_eq!((sums.entries, sums.totals), (sum_entries(), running_totals()));
        let (usage, others) = (sections.rows().unwrap(), sections.others().unwrap());
        let corrected: Vec<_> = usage.corrections().collect();
        let [(head, corrected)] = corrected.as_slice() else { panic!("{corrected:?}") };
        assert_eq!(
            (head.position, head.index, head.took_id(), *corrected),
            (42, 10, false, CORRECTED)
        );
        let all = read_rows(&usage.rows(), &USAGE_EVENTS, USAGE_TYPES);
        assert_eq!(all[..all.len() - 1], *USAGE_ROWS);
        let last = all.last().unwrap();
        for shown in [
            "origin_position=17",
            "origin_index=2",
            "checked_to=39",
            "sign=-1",
            "rating_run=3",
            "lines.charge=[56666666667]",
            "lines.total_before=[5]",
        ] {
            assert!(last.contains(shown), "{last}");
        }
        let all = read_rows(&others.rows(), &REJECTED_EVENTS, REJECTED_TYPES);
        assert_eq!(all[..all.len() - 1], *REJECTED_ROWS);
        let last = all.last().unwrap();
        assert!(
            last.contains("outcome=4") && last.contains("reason=correction_superseded"),
            "{last}"
        );
    }
}

fn read_rated(
    outer: Outer,
    message: &[u8],
    (version, traces, totals): (u16, &[TraceContext], &[RunningTotal]),
) {
    let place = Place { x: 39, r: 11, c: GENESIS };
    let offer = place.offer(3, 13, message).unwrap();
    assert_eq!(offer, Offer::Accepted(outer, Place { x: 42, r: 13, c: outer.hash }));
    assert_eq!(
        (outer.version, outer.partition, outer.from, outer.to, outer.prev),
        (version, 3, 40, 42, GENESIS)
    );
    let sections = Sections::split(message).unwrap();
    assert_eq!(sections.header().unwrap(), header(traces));
    let sums = sections.sums(&header(traces)).unwrap();
    assert_eq!(sums.dictionary.texts(), SUM_TEXTS);
    assert_eq!(sums.entries, sum_entries());
    assert_eq!(sums.totals, totals);
    assert_eq!(sections.forwards().unwrap(), forwards());
    let (usage, others) = (sections.rows().unwrap(), sections.others().unwrap());
    assert_eq!((usage.count(), others.count()), (rows().0.count(), rows().1.count()));
    assert_eq!(read_rows(&usage.rows(), &USAGE_EVENTS, USAGE_TYPES), USAGE_ROWS);
    assert_eq!(read_rows(&others.rows(), &REJECTED_EVENTS, REJECTED_TYPES), REJECTED_ROWS);
}

/// They decide what is a duplicate of what is already stored: other values here are a mistake.
#[test]
fn identity_and_content_never_change() {
    let key = IdentityKey(*b"0123456789abcdef");
    let parts = IdentityParts {
        tenant: TENANT_A,
        subject: "Ünterkonto",
        source: "tool/1.2.0",
        id: "größe-1",
    };
    assert_eq!(key.identity(&parts), 3_755_032_928_289_802_977_741_320_468_378_274_365);
    let mut content = ContentHasher::new("llm.call", "Ünterkonto");
    content.scalar("/tokens", AttributeKind::Number, b"-17.50e2");
    content.scalar("/zero", AttributeKind::Number, b"0.00");
    content.scalar("/text", AttributeKind::EscapedText, br"\u00e9\n");
    content.scalar("/none", AttributeKind::Null, b"null");
    content.scalar("/list", AttributeKind::EmptyArray, b"[]");
    // As docs/FORMATS.md says it: -1750 is the digits 175 with -1 decimals.
    let minus_one = (-1_i64).to_le_bytes();
    let scalars = [
        [b"/tokens\xff\x03\x01".as_slice(), &minus_one, &[1, 7, 5]].concat(),
        b"/zero\xff\x030".to_vec(),
        ["/text".as_bytes(), b"\xff\x04", "é\n".as_bytes()].concat(),
        b"/none\xff\x00null".to_vec(),
        b"/list\xff\x07[]".to_vec(),
    ];
    let names = xxh3_64(b"llm.call")
        .rotate_left(1)
        .wrapping_add(xxh3_64("Ünterkonto".as_bytes()).rotate_left(2));
    let want = scalars.iter().fold(names, |sum, scalar| sum.wrapping_add(xxh3_64(scalar)));
    assert_eq!((content.finish(), want), (3_470_391_743_017_117_592, 3_470_391_743_017_117_592));
}

/// Types of the columns as `docs/FORMATS.md` gives them, in the short form that [`read`] knows.
const USAGE_TYPES: &str = "i8 u4 u16 u8 u4 id s s s s s s s s s t b t e ?id b u8 u4 e i8 u4 i8 u4 ?d s u8 t \
    [s [s [d [e [s [u4 [s [?d [s [u4 [s [?d [m [d s u16 i1 u4";
const REJECTED_TYPES: &str =
    "i8 u4 u16 u8 u4 id s s s s s s s s s ?t t e s s i8 u4 s u4 i8 u4 ?id u8 e i8 u4 i8 u4 s";

/// Reads one value of RowBinary. Decimals are shown as raw values, UUIDs as text.
fn read(kind: &str, input: &mut &[u8]) -> String {
    let take = |input: &mut &[u8], length: usize| -> Vec<u8> {
        let (taken, rest) = input.split_at(length);
        *input = rest;
        taken.to_vec()
    };
    let length = |input: &mut &[u8]| -> usize {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = take(input, 1)[0];
            value |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    };
    let unsigned = |bytes: Vec<u8>| {
        bytes.iter().rev().fold(0_u128, |value, byte| value << 8 | u128::from(*byte))
    };
    let signed = |bytes: Vec<u8>| {
        let unused = 128 - bytes.len() * 8;
        (unsigned(bytes) << unused).cast_signed() >> unused
    };
    match kind {
        "s" => String::from_utf8_lossy(&{
            let length = length(input);
            take(input, length)
        })
        .into_owned(),
        "b" | "e" => take(input, 1)[0].to_string(),
        "d" => signed(take(input, 16)).to_string(),
        "t" => signed(take(input, 8)).to_string(),
        "id" => uuid::Uuid::from_u128(unsigned(take(input, 8)) << 64 | unsigned(take(input, 8)))
            .to_string(),
        "m" => (0..length(input))
            .map(|_| format!("{}:{}", read("s", input), read("s", input)))
            .collect::<Vec<_>>()
            .join(","),
        _ if kind.starts_with('?') => {
            if take(input, 1)[0] == 1 {
                "NULL".into()
            } else {
                read(&kind[1..], input)
            }
        }
        _ if kind.starts_with('[') => {
            let items: Vec<String> = (0..length(input)).map(|_| read(&kind[1..], input)).collect();
            format!("[{}]", items.join(" "))
        }
        _ => {
            let bytes = take(input, kind[1..].parse().unwrap());
            if kind.starts_with('i') {
                signed(bytes).to_string()
            } else {
                unsigned(bytes).to_string()
            }
        }
    }
}

/// Each row as `column=value`, columns that are empty or zero left out.
fn read_rows(rows: &Rows, table: &Table, types: &str) -> Vec<String> {
    let columns: Vec<&str> = table.columns.iter().map(|column| column.name).collect();
    let types: Vec<&str> = types.split_whitespace().collect();
    assert_eq!(columns.len(), types.len());
    rows.iter()
        .map(|row| {
            let mut input = row;
            let values: Vec<String> = columns
                .iter()
                .zip(&types)
                .filter_map(|(column, kind)| {
                    let value = read(kind, &mut input);
                    (!["", "0", "[]"].contains(&value.as_str()))
                        .then(|| format!("{column}={value}"))
                })
                .collect();
            assert!(input.is_empty(), "all of the row is read");
            let head = RowHead::decode(row).unwrap();
            let shown = |name: &str, value: String| {
                value == "0" || values.contains(&format!("{name}={value}"))
            };
            assert!(
                shown("position", head.position.to_string())
                    && shown("index", head.index.to_string())
            );
            assert!(
                shown("identity", head.identity.to_string())
                    && shown("content_hash", head.content.to_string())
            );
            values.join(" ")
        })
        .collect()
}

const USAGE_ROWS: &[&str] = &[
    "position=42 identity=1339673755198158349044581307228491536 content_hash=8505054311978174107 partition=3 \
     tenant_id=00112233-4455-6677-8899-aabbccddeeff event_id=größe-1 source=tool/1.2.0 type=llm.call subject=Ünterkonto team=team-ä \
     user=żółw app=app key=key_1 feature=chat time=1700158623979960 has_client_time=1 append_time=1700158623979965 outcome=3 \
     hold=01900000-0000-7000-8000-000000000001 hold_end=1 catalog_version=300 rules_version=1 checked_to=-1 origin_position=-1 \
     quote_charge=-12345678901234567890123456789012 quote_currency=EUR quote_catalog_version=300 quote_not_after=1700158624979960 \
     lines.meter=[tokens calls unknown] lines.unit=[token call ] lines.quantity=[17000000000000 1000000000000 1000000000000] \
     lines.status=[1 2 3] lines.card=[standard standard ] lines.card_version=[1 1 0] lines.currency=[EUR EUR ] \
     lines.charge=[56666666667 0 NULL] lines.cost_card=[providers  ] lines.cost_card_version=[2 0 0] lines.cost_currency=[USD  ] \
     lines.cost=[17 NULL NULL] lines.dimensions=[model:gpt-4,source:tool/1.2.0  ] lines.total_before=[0 0 0] \
     raw={\"id\":\"größe-1\",\"data\":{\"model\":\"gpt-4\",\"tokens\":17,\"e\":\"\\u00e9\\n\",\"n\":null,\"t\":true,\"f\":false,\"o\":{},\"a\":[]}} \
     raw_hash=2541822790962501096670034406140232790 sign=1",
    "position=42 index=1 identity=340282366920938463463374607431768211455 partition=3 tenant_id=fedcba98-7654-3210-0123-456789abcdef \
     type=日本語 subject=team-b team=team-b time=1700158623979965 append_time=1700158623979965 outcome=2 hold=NULL catalog_version=300 \
     rules_version=1 checked_to=-1 origin_position=-1 quote_charge=NULL raw_hash=204254712233039002205064565430793619839 sign=1",
    "position=42 index=2 identity=1339673755198158349044581307228491536 content_hash=8505054311978174107 partition=3 \
     tenant_id=00112233-4455-6677-8899-aabbccddeeff event_id=größe-1 source=tool/1.2.0 type=llm.call subject=Ünterkonto team=team-ä \
     user=żółw app=app key=key_1 feature=chat time=1700158623979960 has_client_time=1 append_time=1700158623979965 outcome=2 \
     hold=01900000-0000-7000-8000-000000000001 hold_end=1 catalog_version=300 rules_version=1 verdict=1 checked_to=40 \
     origin_partition=3 origin_position=41 origin_index=200 quote_charge=-12345678901234567890123456789012 quote_currency=EUR \
     quote_catalog_version=300 quote_not_after=1700158624979960 \
     raw={\"id\":\"größe-1\",\"data\":{\"model\":\"gpt-4\",\"tokens\":17,\"e\":\"\\u00e9\\n\",\"n\":null,\"t\":true,\"f\":false,\"o\":{},\"a\":[]}} \
     raw_hash=2541822790962501096670034406140232790 sign=1",
];
const REJECTED_ROWS: &[&str] = &[
    "position=42 index=3 identity=340282366920938463463374607431768211455 partition=3 tenant_id=fedcba98-7654-3210-0123-456789abcdef \
     type=日本語 subject=team-b team=team-b time=NULL append_time=1700158623979965 outcome=1 reason=duplicate twin_position=1099511627776 \
     twin_index=5 door_offset=-1 hold=NULL catalog_version=300 verdict=2 checked_to=1099511627776 origin_partition=3 origin_position=41 \
     origin_index=200",
    "position=42 index=4 identity=340282366920938463463374607431768211455 partition=3 tenant_id=fedcba98-7654-3210-0123-456789abcdef \
     type=日本語 subject=team-b team=team-b time=NULL append_time=1700158623979965 outcome=2 reason=conflict twin_index=4294967295 \
     door_offset=-1 hold=NULL catalog_version=300 verdict=3 origin_partition=3 origin_position=41 origin_index=200",
    "position=42 index=4 identity=1339673755198158349044581307228491536 content_hash=8505054311978174107 partition=3 \
     tenant_id=fedcba98-7654-3210-0123-456789abcdef event_id=größe-1 source=tool/1.2.0 type=llm.call subject=Ünterkonto team=team-ä \
     user=żółw app=app key=key_1 feature=chat time=1700158623979960 append_time=1700158623979965 outcome=3 reason=hold_expired \
     detail=zu spät twin_position=-1 door_offset=-1 hold=01900000-0000-7000-8000-000000000001 catalog_version=300 verdict=3 \
     origin_partition=3 origin_position=41 origin_index=200 \
     raw={\"id\":\"größe-1\",\"data\":{\"model\":\"gpt-4\",\"tokens\":17,\"e\":\"\\u00e9\\n\",\"n\":null,\"t\":true,\"f\":false,\"o\":{},\"a\":[]}}",
    "position=42 index=9 partition=3 tenant_id=fedcba98-7654-3210-0123-456789abcdef time=NULL append_time=1700158623979965 outcome=3 \
     reason=invalid_json detail=an unbalanced “{” twin_position=-1 door=weir.in.acme door_partition=300 door_offset=8589934592 \
     door_index=2 hold=NULL catalog_version=300 checked_to=-1 origin_position=-1 raw={�",
];
