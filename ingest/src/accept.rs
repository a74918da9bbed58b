//! Whether an event can be accepted, and the record that it becomes.

use std::borrow::Cow;

use domain::{
    event::{
        ATTRIBUTES_MAX, BACKFILL_SOURCE, ContentHasher, EVENT_BYTES_MAX, FIELD_BYTES_MAX,
        NESTING_MAX, POINTER_BYTES_MAX, member::Field, unescape, without_version,
    },
    meter::{CLOSING_SOURCE, CLOSING_TYPE},
    partition::partition_of,
    planted::{self, Bug},
    time::{self, FUTURE_US_MAX},
    wire::record::{Attribute, AttributeKind},
};
use uuid::Uuid;

use crate::{
    batch::{Batch, Prepared},
    collect::{Collector, Fault, Found, name_of},
    scan::Leaf,
    store::Tenant,
    usage,
};

/// Source of events that name none and come from a key without an app.
const DEFAULT_SOURCE: &str = "api";

/// Why an event is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Stable code; `docs/ERRORS.md` describes it.
    pub code: &'static str,
    /// What is wrong.
    pub detail: Cow<'static, str>,
    /// What to do.
    pub action: &'static str,
}

impl Reject {
    /// A reject with a text that says what is wrong and one that says what to do.
    pub fn new(
        code: &'static str,
        detail: impl Into<Cow<'static, str>>,
        action: &'static str,
    ) -> Reject {
        Reject { code, detail: detail.into(), action }
    }
}

/// Adds the collected event to `batch`, or says why not. `text` is what the collector's places are
/// in, and begins at byte `text_at` of the batch's body; `now_us` is ingest's clock.
///
/// Answers the event's number in the batch, or why it is not there, with its id, as far as there is
/// a usable one.
pub fn accept(
    collected: &mut Collector,
    batch: &mut Batch,
    (text, text_at): (&str, usize),
    (begin, end): (usize, usize),
    now_us: i64,
) -> Result<u32, (Option<String>, Reject)> {
    let id = field(collected, text, Field::Id).map_err(|reject| (None, reject))?;
    match prepare(collected, batch, text, (begin, end), id.as_deref(), now_us) {
        Ok(mut event) => {
            event.raw_at += text_at;
            batch.events.push(event);
            Ok(u32::try_from(batch.events.len() - 1).unwrap_or(u32::MAX))
        }
        Err(reject) => Err((id.map(Cow::into_owned), reject)),
    }
}

fn prepare(
    collected: &mut Collector,
    batch: &mut Batch,
    text: &str,
    (begin, end): (usize, usize),
    id: Option<&str>,
    now_us: i64,
) -> Result<Prepared, Reject> {
    if let Some(fault) = collected.fault {
        return Err(of_fault(fault));
    }
    check_envelope(collected, text)?;
    let id = id.ok_or_else(|| missing("id_missing", "id"))?;
    let event_type =
        field(collected, text, Field::Type)?.ok_or_else(|| missing("type_missing", "type"))?;
    let (subject, user) = subject_and_user(collected, batch, text)?;
    let source = field(collected, text, Field::Source)?;
    let app = batch.caller.app.clone();
    let source = source.as_deref().or(app.as_deref()).unwrap_or(DEFAULT_SOURCE);
    if !batch.caller.is_weir {
        refuse_reserved(&event_type, source)?;
        refuse_closed(&batch.caller.tenant, source)?;
    }
    let feature = field(collected, text, Field::Feature)?;
    let time_us = event_time(collected, text, now_us)?;
    let (hold, hold_end) = hold(collected, text, time_us)?;

    let found = data(collected, batch);
    if let Some(fault) = found.fault {
        return Err(of_fault(fault));
    }
    let content = content(found, batch, text, &event_type, &subject);
    let derived = usage::derive(found, &mut batch.strings, text.as_bytes())?;
    let timed = planted::is(Bug::TimeIdentifies).then(|| format!("{id} {time_us:?}"));
    let parts = batch.identity_parts(&subject, source, timed.as_deref().unwrap_or(id));
    let identity = batch.caller.snapshot.identity_key.identity(&parts);
    let Some(team) = batch.caller.team_of(&subject) else {
        // The whole body is refused for it: see `forms::parse`.
        batch.alias_waits = true;
        return Err(Reject::new("alias_waiting", "the alias of `subject` waits", "send it again"));
    };
    if !batch.caller.may_report(team) {
        return Err(Reject::new(
            "team_not_yours",
            "the token may not report usage of this team",
            "send a token of this team, or one without a team",
        ));
    }
    let partition = partition_of(batch.caller.tenant.id, team, batch.caller.snapshot.partitions);

    let attributes_at = batch.attributes.len();
    let shift = u32::try_from(begin).unwrap_or(u32::MAX);
    batch.attributes.extend(found.attributes.iter().chain(&derived).map(|attribute| Attribute {
        offset: attribute.offset.saturating_sub(shift),
        ..*attribute
    }));
    let texts = [
        team,
        &*subject,
        source,
        &*event_type,
        user.as_deref().unwrap_or(""),
        feature.as_deref().unwrap_or(""),
    ];
    // Each text of a dictionary stands behind its length.
    let derived_bytes: usize =
        derived.iter().map(|attribute| batch.strings.get(attribute.pointer).len()).sum();
    let string_bytes = found.pointer_bytes
        + derived_bytes
        + 2 * (found.attributes.len() + derived.len())
        + texts.iter().map(|text| text.len() + 2).sum::<usize>();
    let (strings, id_at) = (&mut batch.strings, batch.ids.len());
    batch.ids.push_str(id);
    let before = batch.events.last();
    let team_number = strings.intern_like(before.map(|event| event.team), team);
    Ok(Prepared {
        partition,
        team: team_number,
        subject: strings.intern_like(Some(team_number), &subject),
        source: strings.intern_like(before.map(|event| event.source), source),
        event_type: strings.intern_like(before.map(|event| event.event_type), &event_type),
        user: user.map(|user| strings.intern(&user)),
        feature: feature.map(|feature| strings.intern(&feature)),
        id_at,
        id_length: id.len(),
        identity,
        content,
        time_us,
        hold,
        hold_end,
        attributes_at,
        attributes: found.attributes.len() + derived.len(),
        string_bytes,
        raw_at: begin,
        raw_length: end - begin,
    })
}

/// What closes a period is Weir's own to say.
fn refuse_reserved(event_type: &str, source: &str) -> Result<(), Reject> {
    if !event_type.starts_with(CLOSING_TYPE) && without_version(source) != CLOSING_SOURCE {
        return Ok(());
    }
    Err(Reject::new(
        "type_reserved",
        "the type begins with `weir.closed.`, or the source is `weir.closings`: these close periods",
        "choose another type or source",
    ))
}

/// A backfill takes events while it is open.
fn refuse_closed(tenant: &Tenant, source: &str) -> Result<(), Reject> {
    match source.strip_prefix(BACKFILL_SOURCE) {
        Some(backfill) if !tenant.backfills.contains(backfill) => Err(Reject::new(
            "backfill_not_open",
            format!("there is no open backfill `{backfill}`"),
            "open it (POST /v1/backfills) and send it again a minute later, or use another source",
        )),
        _ => Ok(()),
    }
}

/// What must not be there, or not like this.
fn check_envelope(collected: &Collector, text: &str) -> Result<(), Reject> {
    if collected.field(Field::DataBase64).is_some() {
        return Err(Reject::new(
            "data_not_json",
            "`data_base64` holds bytes, and meters read JSON",
            "send `data` as JSON",
        ));
    }
    let version = field(collected, text, Field::SpecVersion)?;
    if version.is_some_and(|version| !version.starts_with("1.")) {
        let action = "send CloudEvents 1.0, or leave `specversion` out";
        return Err(Reject::new("specversion_unsupported", "`specversion` is not 1.x", action));
    }
    Ok(())
}

type Text<'a> = Cow<'a, str>;

/// The subject as sent, and the person. Where OM0's `customer_id` is the seller itself, its
/// `user_id` is the customer.
fn subject_and_user<'a>(
    collected: &Collector,
    batch: &Batch,
    text: &'a str,
) -> Result<(Text<'a>, Option<Text<'a>>), Reject> {
    let user = field(collected, text, Field::User)?;
    if let Some(subject) = field(collected, text, Field::Subject)? {
        return Ok((subject, user));
    }
    match field(collected, text, Field::Customer)? {
        Some(customer) if batch.caller.tenant.is_called(&customer) => match user {
            Some(user) => Ok((user, None)),
            None => Err(missing("subject_missing", "user_id")),
        },
        Some(customer) => Ok((customer, user)),
        None => Err(missing("subject_missing", "subject")),
    }
}

fn event_time(collected: &Collector, text: &str, now_us: i64) -> Result<Option<i64>, Reject> {
    let Some(leaf) = collected.field(Field::Time) else { return Ok(None) };
    if leaf.kind == AttributeKind::Number {
        let detail =
            "`time` is a number, and nothing says whether it counts seconds or milliseconds";
        return Err(Reject::new(
            "time_invalid",
            detail,
            "send RFC 3339 with an offset, such as 2026-05-04T03:02:01.5Z",
        ));
    }
    let Some(text) = field(collected, text, Field::Time)? else { return Ok(None) };
    let time_us = time::parse(&text).map_err(|error| {
        let detail = format!("`time` is {error}");
        Reject::new(
            "time_invalid",
            detail,
            "send RFC 3339 with an offset, such as 2026-05-04T03:02:01.5Z, or no time",
        )
    })?;
    if time_us > now_us.saturating_add(FUTURE_US_MAX) {
        let detail =
            format!("`time` is more than 5 minutes after {}, which is now", time::format(now_us));
        return Err(Reject::new(
            "time_in_future",
            detail,
            "correct the clock of the sender, or send the event later",
        ));
    }
    Ok(Some(time_us))
}

fn hold(
    collected: &Collector,
    text: &str,
    time_us: Option<i64>,
) -> Result<(Option<Uuid>, bool), Reject> {
    let invalid = |detail| {
        Reject::new(
            "hold_invalid",
            detail,
            "send the hold's id as it was given, and `holdend` as true or false",
        )
    };
    let hold_end = match collected.field(Field::HoldEnd) {
        None => false,
        Some(leaf) => match (leaf.kind, leaf.bytes(text.as_bytes())) {
            (AttributeKind::True, _) | (AttributeKind::Text, b"true") => true,
            (AttributeKind::False, _) | (AttributeKind::Text, b"false" | b"") => false,
            _ => return Err(invalid("`holdend` is neither true nor false")),
        },
    };
    let Some(hold) = field(collected, text, Field::Hold)? else {
        return if hold_end {
            Err(invalid("`holdend` without `holdid`"))
        } else {
            Ok((None, false))
        };
    };
    let hold = Uuid::parse_str(&hold).map_err(|_| invalid("`holdid` is not a UUID"))?;
    if time_us.is_none() {
        return Err(Reject::new(
            "hold_needs_time",
            "an event of a hold has no `time`",
            "send the time of the usage",
        ));
    }
    Ok((Some(hold), hold_end))
}

/// What is the data: `data`, or of a body without one all that is not the envelope. CloudEvents
/// without data have extension attributes there, which are none.
fn data<'a>(collected: &'a mut Collector, batch: &mut Batch) -> &'a Found {
    if collected.has_data {
        return &collected.data;
    }
    if collected.field(Field::SpecVersion).is_some() {
        // No `data` was found, so this is empty.
        return &collected.data;
    }
    // With a subject of its own, a customer's id is but another number.
    if collected.field(Field::Subject).is_some()
        && let Some(customer) = collected.field(Field::Customer)
    {
        collected.rest.add("/customer_id", customer, &mut batch.strings);
    }
    &collected.rest
}

fn content(found: &Found, batch: &Batch, text: &str, event_type: &str, subject: &str) -> u64 {
    let mut hasher = ContentHasher::new(event_type, subject);
    for attribute in &found.attributes {
        let place = |place: u32| usize::try_from(place).unwrap_or(usize::MAX);
        let leaf = Leaf {
            kind: attribute.kind,
            offset: place(attribute.offset),
            length: place(attribute.length),
        };
        let bytes = match attribute.kind {
            // `{ }` says what `{}` says.
            AttributeKind::EmptyObject | AttributeKind::EmptyArray => &[][..],
            _ => leaf.bytes(text.as_bytes()),
        };
        hasher.scalar(batch.strings.get(attribute.pointer), attribute.kind, bytes);
    }
    hasher.finish()
}

/// A text of the envelope; empty is absent.
fn field<'a>(
    collected: &Collector,
    text: &'a str,
    field: Field,
) -> Result<Option<Cow<'a, str>>, Reject> {
    let Some(leaf) = collected.field(field) else { return Ok(None) };
    let name = name_of(field);
    let inside = text.get(leaf.offset..leaf.offset + leaf.length).unwrap_or_default();
    let value: Cow<'a, str> = match leaf.kind {
        AttributeKind::Text => inside.into(),
        AttributeKind::EscapedText => unescape(inside.as_bytes()).into(),
        _ => {
            return Err(Reject::new(
                "field_not_text",
                format!("`{name}` is not a string"),
                "send it as a string in quotes",
            ));
        }
    };
    if value.len() > FIELD_BYTES_MAX {
        let detail = format!("`{name}` has {} bytes; at most {FIELD_BYTES_MAX}", value.len());
        return Err(Reject::new("field_too_long", detail, "send a shorter one"));
    }
    // Without escapes, JSON itself allows but one of ASCII's control characters.
    let controls = match (value.is_ascii(), leaf.kind) {
        (true, AttributeKind::Text) => value.as_bytes().contains(&0x7f),
        (true, _) => value.bytes().any(|byte| byte.is_ascii_control()),
        (false, _) => value.chars().any(char::is_control),
    };
    if controls {
        let detail = format!("`{name}` holds a control character");
        return Err(Reject::new(
            "field_control_character",
            detail,
            "send it without control characters",
        ));
    }
    Ok(Some(value).filter(|value| !value.is_empty()))
}

fn missing(code: &'static str, name: &'static str) -> Reject {
    let action = match name {
        "id" => "send an `id` that stays the same when the event is sent again",
        "type" => "send the `type` of the usage, such as llm.tokens.v1",
        "user_id" => "send the customer as `user_id`: `customer_id` is the seller",
        _ => "send the team that pays as `subject`",
    };
    Reject::new(code, format!("the event has no `{name}`"), action)
}

fn of_fault(fault: Fault) -> Reject {
    match fault {
        Fault::TooLarge => Reject::new(
            "event_too_large",
            format!("the event is longer than {EVENT_BYTES_MAX} bytes"),
            "send only what is metered or needed to explain it",
        ),
        Fault::Duplicate => Reject::new(
            "duplicate_member",
            "an object has two members of one name",
            "send each name once",
        ),
        Fault::Ambiguous(name) => Reject::new(
            "ambiguous_field",
            format!("`{name}` is there under two names with different values"),
            "send it under one name",
        ),
        Fault::Nesting => Reject::new(
            "nesting_too_deep",
            format!("the data is nested more than {NESTING_MAX} levels deep"),
            "send flatter data",
        ),
        Fault::Attributes => Reject::new(
            "too_many_attributes",
            format!("the data holds more than {ATTRIBUTES_MAX} values"),
            "send only what is metered or needed to explain it",
        ),
        Fault::Pointers => Reject::new(
            "pointers_too_long",
            format!("the paths of the data's values take more than {POINTER_BYTES_MAX} bytes"),
            "send shorter names or flatter data",
        ),
    }
}
