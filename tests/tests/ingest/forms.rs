//! What a body becomes, without a log or a database: fields, aliases, limits, attributes.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use domain::{
    event::{
        ATTRIBUTES_MAX, EVENT_BYTES_MAX, EVENTS_MAX, FIELD_BYTES_MAX, IdentityKey, NESTING_MAX,
        POINTER_BYTES_MAX,
    },
    wire::{
        block::{Block, BlockHeader},
        record::{AttributeKind, Entry},
    },
};
use ingest::{
    admit::Caller,
    batch::Encoder,
    budget::Budget,
    forms::{Form, Parsed, parse},
    metrics::Metrics,
    store::{Alias, Snapshot, Tenant},
};
use proptest::prelude::*;
use runtime::http::Problem;
use serde_json::{Value, json};
use uuid::Uuid;

/// 2027-01-15T08:00:00Z
const NOW_US: i64 = 1_800_000_000_000_000;

fn caller() -> Caller {
    let alias = |waiting| Alias { team: "new".into(), waiting };
    let aliases = HashMap::from([("old".into(), alias(false)), ("soon".into(), alias(true))]);
    let tenant = Tenant {
        id: Uuid::from_u128(7),
        key: "acme".into(),
        external_key: Some("acme-ext".into()),
        aliases,
        apps: Default::default(),
        backfills: Default::default(),
        disabled: false,
    };
    let snapshot = Snapshot::empty(IdentityKey([3; 16]), 16, NOW_US);
    Caller {
        tenant: Arc::new(tenant),
        key: "keykeykeykey".into(),
        app: Some("chat".into()),
        team: None,
        buckets: Default::default(),
        counter: None,
        snapshot: Arc::new(snapshot),
        is_weir: false,
    }
}

fn budget(bytes: usize) -> Budget {
    Budget::new(bytes, &Metrics::new(&runtime::telemetry::Metrics::new()).unwrap())
}

fn read(form: Form, body: impl Into<Bytes>) -> Result<Parsed, Problem> {
    parse(form, body.into(), caller(), budget(1 << 30).hold(), NOW_US)
}

fn codes(parsed: &Parsed) -> Vec<&'static str> {
    parsed
        .items
        .iter()
        .map(|item| item.event.as_ref().map_or_else(|reject| reject.code, |_| "ok"))
        .collect()
}

/// An event as a reader of the block finds it.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    id: String,
    team: String,
    subject: String,
    source: String,
    event_type: String,
    user: Option<String>,
    feature: Option<String>,
    app: Option<String>,
    time_us: Option<i64>,
    hold: Option<Uuid>,
    hold_end: bool,
    identity: u128,
    content: u64,
    raw: Vec<u8>,
    attributes: Vec<(String, AttributeKind, String)>,
}

/// Encodes what was accepted as one block, and decodes it with the readers' code.
fn seen(parsed: &Parsed) -> Vec<Seen> {
    let numbers: Vec<u32> =
        parsed.items.iter().filter_map(|item| item.event.as_ref().ok().copied()).collect();
    let mut encoder = Encoder::default();
    assert_eq!(encoder.push(&parsed.batch, &numbers), 0);
    let message = encoder.finish();
    let header = BlockHeader::decode(&message).unwrap();
    assert_eq!(header.tenants[0].events, numbers.len() as u64);
    let body = header.body(&message).unwrap();
    let block = Block::decode(&header, &body).unwrap();
    let text = |number: u32| block.dictionary.get(number).unwrap().to_owned();
    let event = |entry: &Entry<'_>| {
        let Entry::Event(event) = entry else { panic!("{entry:?}") };
        assert_eq!(event.key.map(text).as_deref(), Some("keykeykeykey"));
        let attribute = |attribute: &domain::wire::record::Attribute| {
            let bytes = event.attribute_bytes(attribute);
            (text(attribute.pointer), attribute.kind, String::from_utf8(bytes.to_vec()).unwrap())
        };
        Seen {
            id: event.id.into(),
            team: text(event.team),
            subject: text(event.subject),
            source: text(event.source),
            event_type: text(event.event_type),
            user: event.user.map(text),
            feature: event.feature.map(text),
            app: event.app.map(text),
            time_us: event.time_us,
            hold: event.hold,
            hold_end: event.hold_end,
            identity: event.identity,
            content: event.content,
            raw: event.raw.to_vec(),
            attributes: event.attributes.iter().map(attribute).collect(),
        }
    };
    block.entries.iter().map(event).collect()
}

fn one(event: &Value) -> Seen {
    let parsed = read(Form::Json, event.to_string()).unwrap();
    let seen = seen(&parsed);
    assert_eq!(seen.len(), 1, "{event}: {:?}", parsed.items);
    seen.into_iter().next().unwrap()
}

fn code(event: &str) -> &'static str {
    match read(Form::Json, event.to_owned()) {
        Ok(parsed) => codes(&parsed)[0],
        Err(problem) => problem.code(),
    }
}

#[test]
fn every_form_says_the_same() {
    let data = json!({"provider": "openai", "model": "gpt-4-turbo", "inputTokens": 1200});
    let native = json!({"id": "1", "type": "llm.tokens.v1", "subject": "t", "source": "my-tool/1.0.0", "time": "2026-05-04T03:02:01Z", "data": data});
    let uos = json!({"idempotencyKey": "1", "eventType": "llm.tokens.v1", "teamId": "t", "source": "my-tool/2.0.0",
        "timestamp": "2026-05-04T05:02:01+02:00", "payload": data});
    let cloud = json!({"specversion": "1.0", "id": "1", "type": "llm.tokens.v1", "subject": "t", "source": "my-tool",
        "time": "2026-05-04T03:02:01.000Z", "traceparent": "00-1", "datacontenttype": "application/json", "data": data});
    let flat = json!({"event_id": "1", "event_type": "llm.tokens.v1", "customer_id": "t", "source": "my-tool",
        "timestamp": "2026-05-04T03:02:01Z", "provider": "openai", "model": "gpt-4-turbo", "inputTokens": 1200});
    let first = one(&native);
    assert_eq!(
        (first.team.as_str(), first.source.as_str(), first.app.as_deref()),
        ("t", "my-tool/1.0.0", Some("chat"))
    );
    assert_eq!(first.time_us, Some(1_777_863_721_000_000));
    for other in [uos, cloud, flat] {
        let seen = one(&other);
        assert_eq!(
            (seen.identity, seen.content, seen.time_us),
            (first.identity, first.content, first.time_us),
            "{other}"
        );
        assert_eq!(seen.raw, other.to_string().into_bytes());
        let sorted = |seen: &Seen| {
            let mut attributes = seen.attributes.clone();
            attributes.sort_by(|one, other| one.0.cmp(&other.0));
            attributes
        };
        assert_eq!(sorted(&seen), sorted(&first));
    }
    let array = read(Form::Json, format!(" [ {native} ,\n{native}]\n")).unwrap();
    let lines = read(Form::Lines, format!("\n{native}\r\n\n{native}")).unwrap();
    let undeclared = read(Form::Json, format!("\u{feff}{native}\n{native}\n")).unwrap();
    for parsed in [array, lines, undeclared] {
        assert_eq!(seen(&parsed), [first.clone(), first.clone()]);
    }
    let pretty = read(Form::Json, serde_json::to_string_pretty(&native).unwrap()).unwrap();
    assert_eq!(
        (seen(&pretty)[0].identity, seen(&pretty)[0].content),
        (first.identity, first.content)
    );
    let changed = one(
        &json!({"id": "1", "type": "llm.tokens.v1", "subject": "t", "source": "my-tool", "data": {"inputTokens": 1201}}),
    );
    assert_eq!(changed.identity, first.identity);
    assert_ne!(changed.content, first.content);
}

#[test]
fn teams_users_and_aliases() {
    let with = |extra: Value| {
        let mut event = json!({"id": "1", "type": "TOKEN_USAGE", "input_tokens": 5});
        event.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        one(&event)
    };
    let names = |seen: &Seen| (seen.team.clone(), seen.subject.clone(), seen.user.clone());
    let who = |team: &str, subject: &str, user: Option<&str>| {
        (team.to_owned(), subject.to_owned(), user.map(str::to_owned))
    };
    for seller in ["acme", "acme-ext", "00000000-0000-0000-0000-000000000007"] {
        let seen = with(json!({"customer_id": seller, "user_id": "team-7", "feature_id": "chat"}));
        assert_eq!(names(&seen), who("team-7", "team-7", None), "{seller}");
        assert_eq!(seen.feature.as_deref(), Some("chat"));
        assert_eq!(seen.attributes, [("/input_tokens".into(), AttributeKind::Number, "5".into())]);
    }
    assert_eq!(
        names(&with(json!({"customer_id": "other", "user_id": "ada"}))),
        who("other", "other", Some("ada"))
    );
    assert_eq!(
        names(&with(json!({"subject": "old", "userId": "ada"}))),
        who("new", "old", Some("ada"))
    );
    // Nothing of a body is accepted while a subject of it may become another name.
    for body in [
        r#"{"id":"1","type":"x","subject":"soon"}"#,
        r#"[{"id":"1","type":"x","subject":"t"},{"id":"2","type":"x","subject":"soon"}]"#,
    ] {
        let problem = read(Form::Json, body).unwrap_err();
        assert_eq!((problem.status().as_u16(), problem.code()), (503, "alias_waiting"));
    }
    assert_eq!(code(r#"{"id":"1","type":"x","customer_id":"acme"}"#), "subject_missing");
    let own = with(json!({"subject": "t", "customer_id": "c-9"}));
    assert!(
        own.attributes.contains(&("/customer_id".into(), AttributeKind::Text, "c-9".into())),
        "{own:?}"
    );
    assert_eq!(with(json!({"subject": "t"})).source, "chat");
    let hold = with(
        json!({"subject": "t", "time": "2026-05-04T03:02:01Z", "holdid": "00000000-0000-0000-0000-000000000009", "holdend": true}),
    );
    assert_eq!((hold.hold, hold.hold_end), (Some(Uuid::from_u128(9)), true));
    assert_eq!(
        one(&json!({"id": "1", "type": "x", "subject": "t", "specversion": "1.0", "ext": 1}))
            .attributes,
        []
    );
}

#[test]
fn bad_events_have_their_codes() {
    for (event, want) in [
        (r#"{"type":"x","subject":"t"}"#, "id_missing"),
        (r#"{"id":"","type":"x","subject":"t"}"#, "id_missing"),
        (r#"{"id":null,"type":"x","subject":"t"}"#, "id_missing"),
        (r#"{"id":7,"type":"x","subject":"t"}"#, "field_not_text"),
        (r#"{"id":"1","type":{"a":1},"subject":"t"}"#, "field_not_text"),
        (r#"{"id":"1","subject":"t"}"#, "type_missing"),
        (r#"{"id":"1","type":"x"}"#, "subject_missing"),
        (r#"{"id":"1\u0000","type":"x","subject":"t"}"#, "field_control_character"),
        (r#"{"id":"1","event_id":"2","type":"x","subject":"t"}"#, "ambiguous_field"),
        (r#"{"id":"1","event_id":"\u0031","type":"x","subject":"t"}"#, "ok"),
        (
            r#"{"id":"1","type":"x","subject":"t","data":{"a":[1]},"payload":{"a":[2]}}"#,
            "ambiguous_field",
        ),
        (r#"{"id":"1","type":"x","subject":"t","data":{"a":[1]},"payload":{"a":[1]}}"#, "ok"),
        (r#"{"id":"1","id":"1","type":"x","subject":"t"}"#, "duplicate_member"),
        (
            r#"{"id":"1","type":"x","subject":"t","data":{"a":{"b":1,"\u0062":1}}}"#,
            "duplicate_member",
        ),
        (r#"{"id":"1","type":"x","subject":"t","data":{"a":{"b":1},"c":{"b":1}}}"#, "ok"),
        (r#"{"id":"1","type":"x","subject":"t","data_base64":"aGk="}"#, "data_not_json"),
        (r#"{"id":"1","type":"x","subject":"t","specversion":"0.3"}"#, "specversion_unsupported"),
        (r#"{"id":"1","type":"x","subject":"t","specversion":"1.1"}"#, "ok"),
        (r#"{"id":"1","type":"x","subject":"t","time":1700000000}"#, "time_invalid"),
        (r#"{"id":"1","type":"x","subject":"t","time":"1700000000"}"#, "time_invalid"),
        (r#"{"id":"1","type":"x","subject":"t","time":"2026-05-04T03:02:01"}"#, "time_invalid"),
        (r#"{"id":"1","type":"x","subject":"t","time":"1969-12-31T23:59:59Z"}"#, "time_invalid"),
        (r#"{"id":"1","type":"x","subject":"t","time":"1970-01-01T00:00:00Z"}"#, "ok"),
        (r#"{"id":"1","type":"x","subject":"t","time":"2027-01-15T08:05:00Z"}"#, "ok"),
        (
            r#"{"id":"1","type":"x","subject":"t","time":"2027-01-15T08:05:00.000001Z"}"#,
            "time_in_future",
        ),
        (r#"{"id":"1","type":"x","subject":"t","time":"2027-01-15T10:05:00+02:00"}"#, "ok"),
        (
            r#"{"id":"1","type":"x","subject":"t","holdid":"nine","time":"2026-05-04T03:02:01Z"}"#,
            "hold_invalid",
        ),
        (
            r#"{"id":"1","type":"x","subject":"t","holdid":"00000000-0000-0000-0000-000000000009"}"#,
            "hold_needs_time",
        ),
        (r#"{"id":"1","type":"x","subject":"t","holdend":true}"#, "hold_invalid"),
        (r#"{"id":"1","type":"x","subject":"t","holdend":3}"#, "hold_invalid"),
        (r#"[7]"#, "event_not_object"),
        (r#"{}"#, "id_missing"),
        // Meters decide about quantities; ingest keeps what was written.
        (
            r#"{"id":"1","type":"x","subject":"t","data":{"n":-5,"m":1e30,"d":0.00000000000000000001,"s":"NaN"}}"#,
            "ok",
        ),
        // The whole body.
        (r#"{"id":"1","type":"x","subject":"t","data":{"n":NaN}}"#, "json_invalid"),
        (r#"{"id":"1""#, "json_invalid"),
        (r#"{"id":"1"} {"id":"2"}"#, "json_invalid"),
        ("", "no_events"),
        (" \n ", "no_events"),
        ("[]", "no_events"),
    ] {
        assert_eq!(code(event), want, "{event}");
    }
}

#[test]
fn a_broken_array_is_refused_and_a_broken_line_is_one() {
    let good = r#"{"id":"1","type":"x","subject":"t"}"#;
    let problem = read(Form::Json, format!("[{good},{{\"id\":tru}},{good}]")).unwrap_err();
    assert_eq!((problem.code(), problem.status().as_u16()), ("json_invalid", 400));
    assert!(
        problem.detail().contains(&format!("byte {}", good.len() + 2 + 6)),
        "{}",
        problem.detail()
    );
    let lines = format!("{good}\n{{\"id\":tru}}\n{good} 7\n[{good}]\n{good}\n");
    let parsed = read(Form::Lines, lines).unwrap();
    assert_eq!(codes(&parsed), ["ok", "json_invalid", "json_invalid", "event_not_object", "ok"]);
    assert_eq!((seen(&parsed).len(), parsed.batch.events.len()), (2, 2));
    let Err(reject) = &parsed.items[1].event else { panic!() };
    assert!(reject.detail.starts_with("line 2 is not JSON at byte 6"), "{}", reject.detail);

    let mut bytes = format!("{good}\n").into_bytes();
    bytes.extend_from_slice(b"{\"id\":\"\xff\"}\n");
    bytes.extend_from_slice(good.as_bytes());
    assert_eq!(codes(&read(Form::Lines, bytes.clone()).unwrap()), ["ok", "line_not_utf8", "ok"]);
    let problem = read(Form::Json, [b"[", &bytes[good.len() + 1..], b"]"].concat()).unwrap_err();
    assert_eq!(
        (problem.code(), problem.detail()),
        ("body_not_utf8", "the body is not UTF-8 at byte 8")
    );
}

#[test]
fn limits_hold_at_their_borders() {
    let with_data =
        |data: &str| code(&format!(r#"{{"id":"1","type":"x","subject":"t","data":{data}}}"#));
    for (more, want) in [(0, "ok"), (1, "nesting_too_deep"), (100_000, "nesting_too_deep")] {
        let nested = |levels: usize, inside: &str| {
            format!("{}{inside}{}", "[".repeat(levels), "]".repeat(levels))
        };
        assert_eq!(with_data(&nested(NESTING_MAX + more, "1")), want);
        assert_eq!(with_data(&nested(NESTING_MAX + more, "")), want);
        let flat = format!(
            r#"{{"id":"1","type":"x","subject":"t","a":{}}}"#,
            nested(NESTING_MAX - 1 + more, "1")
        );
        assert_eq!(code(&flat), want);
    }
    assert_eq!(
        with_data(&format!("{}1{}", "[".repeat(NESTING_MAX - 1), "]".repeat(NESTING_MAX - 1))),
        "ok"
    );
    for (count, want) in [
        (ATTRIBUTES_MAX - 1, "ok"),
        (ATTRIBUTES_MAX, "ok"),
        (ATTRIBUTES_MAX + 1, "too_many_attributes"),
    ] {
        assert_eq!(with_data(&format!("[{}1]", "1,".repeat(count - 1))), want, "{count}");
    }
    // One pointer is a slash and the name.
    for (length, want) in [
        (POINTER_BYTES_MAX - 2, "ok"),
        (POINTER_BYTES_MAX - 1, "ok"),
        (POINTER_BYTES_MAX, "pointers_too_long"),
    ] {
        assert_eq!(with_data(&format!("{{\"{}\":1}}", "n".repeat(length))), want, "{length}");
    }
    for name in ["id", "type", "subject", "source", "user", "feature"] {
        for (length, want) in [
            (FIELD_BYTES_MAX - 1, "ok"),
            (FIELD_BYTES_MAX, "ok"),
            (FIELD_BYTES_MAX + 1, "field_too_long"),
            (10_240, "field_too_long"),
        ] {
            let mut event = json!({"id": "1", "type": "x", "subject": "t"});
            event[name] = "é".repeat(length / 2).into();
            if length % 2 == 1 {
                event[name] = format!("{}n", "é".repeat(length / 2)).into();
            }
            assert_eq!(code(&event.to_string()), want, "{name} {length}");
        }
    }
    let frame = r#"{"id":"1","type":"x","subject":"t","data":{"a":""}}"#.len();
    for (length, want) in [
        (EVENT_BYTES_MAX - 1, "ok"),
        (EVENT_BYTES_MAX, "ok"),
        (EVENT_BYTES_MAX + 1, "event_too_large"),
    ] {
        let data = format!(r#"{{"a":"{}"}}"#, "n".repeat(length - frame));
        assert_eq!(with_data(&data), want, "{length}");
    }
    let event = r#"{"id":"1","type":"x","subject":"t"}"#;
    for (count, fits) in [(EVENTS_MAX - 1, true), (EVENTS_MAX, true), (EVENTS_MAX + 1, false)] {
        for (form, body) in [
            (Form::Json, format!("[{}{event}]", format!("{event},").repeat(count - 1))),
            (Form::Lines, format!("{event}\n").repeat(count)),
        ] {
            match read(form, body) {
                Ok(parsed) => assert!(fits && parsed.items.len() == count, "{count}"),
                Err(problem) => assert_eq!(
                    (fits, problem.code(), problem.status().as_u16()),
                    (false, "too_many_events", 413)
                ),
            }
        }
    }
    // Only the event that is too large is refused.
    let large = format!(
        r#"{{"id":"2","type":"x","subject":"t","data":{{"a":"{}"}}}}"#,
        "n".repeat(EVENT_BYTES_MAX)
    );
    assert_eq!(
        codes(&read(Form::Json, format!("[{event},{large},{event}]")).unwrap()),
        ["ok", "event_too_large", "ok"]
    );
}

#[test]
fn the_budget_covers_what_events_need() {
    let events = format!(
        "[{}1]",
        r#"{"id":"1","type":"x","subject":"t","data":[1,2,3,4,5,6,7,8,9,0]},"#.repeat(1_000)
    );
    let refusal = |budget: &Budget, events: String| {
        parse(Form::Json, events.into(), caller(), budget.hold(), NOW_US).unwrap_err()
    };
    let small = budget(50_000);
    let problem = refusal(&small, events.clone());
    assert_eq!((problem.code(), problem.status().as_u16()), ("body_too_complex", 413));
    assert_eq!(small.used(), 0);
    // Where others have the room, there will be some.
    let shared = budget(8 << 20);
    let mut others = shared.hold();
    others.grow((8 << 20) - 50_000).unwrap();
    let problem = refusal(&shared, events);
    assert_eq!((problem.code(), problem.status().as_u16()), ("overloaded", 503));
    drop(others);
    assert_eq!(shared.used(), 0);
    // Events that are refused need memory as well.
    let refused = format!("[{}1]", "1,".repeat(9_999));
    assert_eq!(refusal(&budget(200_000), refused).code(), "body_too_complex");
}

/// Every scalar and every empty container with its pointer, by serde_json.
fn leaves(value: &Value, pointer: String, found: &mut Vec<(String, Value)>) {
    let name = |name: &str| name.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Object(members) if !members.is_empty() => {
            members
                .iter()
                .for_each(|(key, value)| leaves(value, format!("{pointer}/{}", name(key)), found));
        }
        Value::Array(elements) if !elements.is_empty() => {
            elements
                .iter()
                .enumerate()
                .for_each(|(index, value)| leaves(value, format!("{pointer}/{index}"), found));
        }
        leaf => found.push((pointer, leaf.clone())),
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_filter_map("finite", |number| serde_json::Number::from_f64(number)
            .map(Value::Number)),
        any::<String>().prop_map(Value::String),
        "[a-z~/\"\\\\\n]{0,6}".prop_map(Value::String),
    ];
    leaf.prop_recursive(5, 64, 8, |inner| {
        let name = prop_oneof!["[a-z~/\"\\\\\n]{0,4}", any::<String>()];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::Array),
            prop::collection::btree_map(name, inner, 0..8)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_answered(body in prop::collection::vec(any::<u8>(), 0..512)) {
        let _ = read(Form::Json, body.clone());
        let _ = read(Form::Lines, body);
    }

    #[test]
    fn damaged_events_are_answered(place in 0_usize..160, byte: u8, cut in 0_usize..160) {
        let event = json!({"id": "1", "type": "x", "subject": "t", "time": "2026-05-04T03:02:01Z",
            "data": {"a": [1, {"b": "\u{1f600}\n"}], "c": {}}, "holdid": "00000000-0000-0000-0000-000000000009"});
        let mut body = event.to_string().into_bytes();
        if let Some(place) = body.get_mut(place) {
            *place = byte;
        }
        body.truncate(body.len() - cut.min(body.len()) / 8);
        for form in [Form::Json, Form::Lines] {
            if let Ok(parsed) = read(form, body.clone()) {
                let _ = seen(&parsed);
            }
        }
    }

    #[test]
    fn any_data_round_trips(data in any_json(), pretty: bool) {
        let event = json!({"id": "1", "type": "x", "subject": "t", "data": data});
        let body = if pretty { serde_json::to_string_pretty(&event).unwrap() } else { event.to_string() };
        let parsed = read(Form::Json, body.clone()).unwrap();
        prop_assert_eq!(codes(&parsed), ["ok"]);
        let seen = seen(&parsed).remove(0);
        prop_assert_eq!(&seen.raw, body.as_bytes());
        let mut want = Vec::new();
        leaves(&data, String::new(), &mut want);
        // Numbers are compared as text: serde_json reads floats only nearly.
        let mut want: Vec<_> = want.into_iter().map(|(pointer, leaf)| match leaf {
            Value::Number(number) => (pointer, Value::from(format!("number {number}"))),
            leaf => (pointer, leaf),
        }).collect();
        let read = |(pointer, kind, bytes): &(String, AttributeKind, String)| {
            let value = match kind {
                AttributeKind::Number => format!("number {bytes}").into(),
                AttributeKind::Text | AttributeKind::EscapedText => serde_json::from_str(&format!("\"{bytes}\"")).unwrap(),
                _ => serde_json::from_str::<Value>(bytes).unwrap(),
            };
            (pointer.clone(), value)
        };
        let mut found: Vec<_> = seen.attributes.iter().map(read).collect();
        for list in [&mut want, &mut found] {
            list.sort_by(|one, other| one.0.cmp(&other.0));
        }
        prop_assert_eq!(found, want);
        // The order of members says nothing.
        let turned = super::forms::read(Form::Json, format!(r#"{{"payload":{data},"teamId":"t","type":"x","id":"1"}}"#)).unwrap();
        let turned = super::forms::seen(&turned).remove(0);
        prop_assert_eq!((turned.content, turned.attributes), (seen.content, seen.attributes));
    }
}
