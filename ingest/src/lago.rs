//! Lago's form of events: each becomes a CloudEvent in structured mode, and is answered as Lago does.
//!
//! `transaction_id` is the id, `external_subscription_id` the subject, `code` the type, `properties`
//! the data, and the source is `lago`. What stands in `properties` is taken over byte for byte.

use std::{borrow::Cow, fmt};

use domain::{
    event::EVENTS_MAX,
    time::{self, TIME_US_END, TimeError},
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{IgnoredAny, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    accept::Reject,
    binary::{member, text},
};

/// Source of all events that come in this form.
pub const SOURCE: &str = "lago";

/// Why a body in Lago's form is refused as a whole.
#[derive(Debug)]
pub enum LagoError {
    /// Not JSON, or not of this shape.
    Form(serde_json::Error),
    /// More events than a request may hold.
    TooMany,
    /// The event of this number, from 0, cannot be accepted.
    Event(usize, Reject),
}

/// The events of a body, not yet looked at.
#[derive(Debug)]
pub struct LagoEvents<'a> {
    events: Vec<LagoEvent<'a>>,
    /// Whether they came as `events`, and go back so.
    batch: bool,
}

#[derive(Debug, Deserialize)]
struct LagoEvent<'a> {
    #[serde(borrow)]
    transaction_id: Option<&'a RawValue>,
    #[serde(borrow)]
    external_subscription_id: Option<&'a RawValue>,
    #[serde(borrow)]
    code: Option<&'a RawValue>,
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow)]
    properties: Option<&'a RawValue>,
    #[serde(borrow)]
    precise_total_amount_cents: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct One<'a> {
    #[serde(borrow)]
    event: LagoEvent<'a>,
}

#[derive(Deserialize)]
struct Several<'a> {
    #[serde(borrow)]
    events: Bounded<'a>,
}

/// As many events as a request may hold, or `None`.
struct Bounded<'a>(Option<Vec<LagoEvent<'a>>>);

impl<'de: 'a, 'a> Deserialize<'de> for Bounded<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Events;
        impl<'de> Visitor<'de> for Events {
            type Value = Bounded<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an array of events")
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut elements: A,
            ) -> Result<Bounded<'de>, A::Error> {
                let mut events = Vec::new();
                while let Some(event) = elements.next_element()? {
                    if events.len() == EVENTS_MAX {
                        while elements.next_element::<IgnoredAny>()?.is_some() {}
                        return Ok(Bounded(None));
                    }
                    events.push(event);
                }
                Ok(Bounded(Some(events)))
            }
        }
        deserializer.deserialize_seq(Events)
    }
}

/// Whether a JSON body is an event in Lago's form: an object with an `event`, and no CloudEvent.
#[must_use]
pub fn looks_like_lago(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Top {
        event: Option<IgnoredAny>,
        specversion: Option<IgnoredAny>,
    }
    body.trim_ascii_start().starts_with(b"{")
        && serde_json::from_slice::<Top>(body)
            .is_ok_and(|top| top.event.is_some() && top.specversion.is_none())
}

impl<'a> LagoEvents<'a> {
    /// Of `{"event": {…}}`.
    pub fn one(body: &'a [u8]) -> Result<LagoEvents<'a>, LagoError> {
        let One { event } = serde_json::from_slice(body).map_err(LagoError::Form)?;
        Ok(LagoEvents { events: vec![event], batch: false })
    }

    /// Of `{"events": [{…}, …]}`.
    pub fn several(body: &'a [u8]) -> Result<LagoEvents<'a>, LagoError> {
        let Several { events } = serde_json::from_slice(body).map_err(LagoError::Form)?;
        Ok(LagoEvents { events: events.0.ok_or(LagoError::TooMany)?, batch: true })
    }

    /// The events in structured mode, as a JSON array.
    pub fn structured(&self) -> Result<Vec<u8>, LagoError> {
        let mut array = b"[".to_vec();
        for (number, event) in self.events.iter().enumerate() {
            if number > 0 {
                array.push(b',');
            }
            event.structured(&mut array).map_err(|reject| LagoError::Event(number, reject))?;
        }
        array.push(b']');
        Ok(array)
    }

    /// What Lago answers to these events: JSON. `identities` are those of the events, in order.
    pub fn answer(&self, identities: &[u128], now_us: i64) -> serde_json::Result<Vec<u8>> {
        let now = time::format(now_us);
        let answers = self.events.iter().zip(identities).map(|(event, identity)| LagoAnswer {
            lago_id: Uuid::from_u128(*identity),
            transaction_id: event.transaction_id,
            lago_customer_id: None,
            lago_subscription_id: None,
            external_subscription_id: event.external_subscription_id,
            code: event.code,
            timestamp: event.time().ok().flatten().unwrap_or(Cow::Borrowed(&now)),
            precise_total_amount_cents: event.precise_total_amount_cents.map(unquoted),
            properties: event.properties,
            created_at: &now,
        });
        if self.batch {
            #[derive(Serialize)]
            struct Events<'a> {
                events: Vec<LagoAnswer<'a>>,
            }
            return serde_json::to_vec(&Events { events: answers.collect() });
        }
        #[derive(Serialize)]
        struct Event<'a> {
            event: Option<LagoAnswer<'a>>,
        }
        let mut answers = answers;
        serde_json::to_vec(&Event { event: answers.next() })
    }
}

impl LagoEvent<'_> {
    fn structured(&self, out: &mut Vec<u8>) -> Result<(), Reject> {
        let id = required(self.transaction_id, "id_missing", "transaction_id")?;
        let event_type = required(self.code, "type_missing", "code")?;
        let subject =
            required(self.external_subscription_id, "subject_missing", "external_subscription_id")?;
        let mut event = b"{".to_vec();
        member(&mut event, "specversion", b"\"1.0\"");
        member(&mut event, "id", id.as_bytes());
        member(&mut event, "source", text(SOURCE).as_bytes());
        member(&mut event, "type", event_type.as_bytes());
        member(&mut event, "subject", subject.as_bytes());
        if let Some(time) = self.time()? {
            member(&mut event, "time", text(&time).as_bytes());
        }
        // An attribute's name has no underscores.
        if let Some(amount) = self.precise_total_amount_cents {
            member(&mut event, "precisetotalamountcents", amount.get().as_bytes());
        }
        let properties = self.properties.map_or("{}", RawValue::get);
        member(&mut event, "data", properties.as_bytes());
        event.push(b'}');
        out.append(&mut event);
        Ok(())
    }

    /// RFC 3339 of `timestamp`. A text that is no number is taken as it is.
    fn time(&self) -> Result<Option<Cow<'_, str>>, Reject> {
        let Some(raw) = self.timestamp else { return Ok(None) };
        let inside = unquoted(raw);
        if inside.is_empty() {
            return Ok(None);
        }
        match epoch_us(&inside) {
            Some(Ok(time_us)) => Ok(Some(time::format(time_us).into())),
            None if raw.get().starts_with('"') => Ok(Some(inside)),
            failed => {
                let error = failed.and_then(Result::err).unwrap_or(TimeError::NotATime);
                let detail = format!("`timestamp` is {error}");
                let action = "send seconds since 1970, with a fraction if wanted, or no timestamp";
                Err(Reject::new("time_invalid", detail, action))
            }
        }
    }
}

/// Seconds since 1970 with an optional fraction, in microseconds; further digits are cut. `None` for
/// what is no such number.
fn epoch_us(text: &str) -> Option<Result<i64, TimeError>> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(seconds.strip_prefix('-').unwrap_or(seconds)) || !digits(fraction) {
        return None;
    }
    let micros: String = fraction.chars().chain("00000".chars()).take(6).collect();
    let time_us = seconds
        .parse::<i64>()
        .ok()
        .and_then(|seconds| seconds.checked_mul(1_000_000)?.checked_add(micros.parse().ok()?));
    Some(
        time_us
            .filter(|time_us| !seconds.starts_with('-') && *time_us < TIME_US_END)
            .ok_or(TimeError::OutOfRange),
    )
}

/// A value that must be a text with something in it.
fn required<'a>(
    value: Option<&'a RawValue>,
    code: &'static str,
    name: &str,
) -> Result<&'a str, Reject> {
    let action = "send it as a string in quotes";
    match value.map(RawValue::get) {
        None | Some("\"\"") => Err(Reject::new(code, format!("the event has no `{name}`"), action)),
        Some(text) if text.starts_with('"') => Ok(text),
        Some(_) => Err(Reject::new("field_not_text", format!("`{name}` is not a string"), action)),
    }
}

/// The inside of a text; anything else as it was written.
fn unquoted(value: &RawValue) -> Cow<'_, str> {
    serde_json::from_str::<String>(value.get()).map_or(Cow::Borrowed(value.get()), Cow::Owned)
}

#[derive(Serialize)]
struct LagoAnswer<'a> {
    lago_id: Uuid,
    transaction_id: Option<&'a RawValue>,
    lago_customer_id: Option<Uuid>,
    lago_subscription_id: Option<Uuid>,
    external_subscription_id: Option<&'a RawValue>,
    code: Option<&'a RawValue>,
    timestamp: Cow<'a, str>,
    precise_total_amount_cents: Option<Cow<'a, str>>,
    properties: Option<&'a RawValue>,
    created_at: &'a str,
}

/// One usage fact in Lago's form.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LagoEvent)]
pub struct LagoEventDocument {
    /// The event's id: stays the same when it is sent again. At most 256 bytes.
    pub transaction_id: String,
    /// The team that pays, or an alias of it.
    pub external_subscription_id: String,
    /// The event's type.
    pub code: String,
    /// Seconds since 1970 as a number or a text, with a fraction if wanted; the time of acceptance when
    /// absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<serde_json::Value>,
    /// What is metered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub properties: Option<serde_json::Value>,
    /// Kept with the event; no meter reads it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precise_total_amount_cents: Option<String>,
}

/// Several usage facts in Lago's form.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LagoEvents)]
pub struct LagoEventsDocument {
    /// At most 10,000.
    pub events: Vec<LagoEventDocument>,
}

/// An accepted event as Lago answers it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LagoAnswer)]
pub struct LagoAnswerDocument {
    /// The event.
    pub event: LagoAcceptedDocument,
}

/// An accepted event in Lago's form.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LagoAcceptedEvent)]
pub struct LagoAcceptedDocument {
    /// Names the event; the same when it is sent again.
    pub lago_id: Uuid,
    /// As sent.
    pub transaction_id: String,
    /// Always null.
    pub lago_customer_id: Option<Uuid>,
    /// Always null.
    pub lago_subscription_id: Option<Uuid>,
    /// As sent.
    pub external_subscription_id: String,
    /// As sent.
    pub code: String,
    /// RFC 3339.
    pub timestamp: String,
    /// As sent.
    pub precise_total_amount_cents: Option<String>,
    /// As sent.
    pub properties: Option<serde_json::Value>,
    /// When it was answered, RFC 3339.
    pub created_at: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn structured(event: &str) -> Result<String, &'static str> {
        let body = format!("{{\"event\":{event}}}");
        let events = LagoEvents::one(body.as_bytes()).unwrap();
        match events.structured() {
            Ok(array) => Ok(String::from_utf8(array).unwrap()),
            Err(LagoError::Event(0, reject)) => Err(reject.code),
            Err(error) => panic!("{error:?}"),
        }
    }

    #[test]
    fn an_event_is_taken_over() {
        let event = r#"{"transaction_id":"t\n1","external_subscription_id":"team","code":"calls","timestamp":"1700000000.1234567",
            "properties":{"n": "1.50"},"precise_total_amount_cents":"12.3","other":1}"#;
        assert_eq!(
            structured(event).unwrap(),
            r#"[{"specversion":"1.0","id":"t\n1","source":"lago","type":"calls","subject":"team","time":"2023-11-14T22:13:20.123456Z","precisetotalamountcents":"12.3","data":{"n": "1.50"}}]"#
        );
        let event = r#"{"transaction_id":"1","external_subscription_id":"t","code":"c"}"#;
        assert_eq!(
            structured(event).unwrap(),
            r#"[{"specversion":"1.0","id":"1","source":"lago","type":"c","subject":"t","data":{}}]"#
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        for (event, code) in [
            (r#"{"external_subscription_id":"t","code":"c"}"#, "id_missing"),
            (r#"{"transaction_id":null,"external_subscription_id":"t","code":"c"}"#, "id_missing"),
            (
                r#"{"transaction_id":"1","external_subscription_id":"","code":"c"}"#,
                "subject_missing",
            ),
            (r#"{"transaction_id":"1","external_subscription_id":"t"}"#, "type_missing"),
            (r#"{"transaction_id":1,"external_subscription_id":"t","code":"c"}"#, "field_not_text"),
        ] {
            assert_eq!(structured(event), Err(code), "{event}");
        }
    }

    #[test]
    fn timestamps_are_seconds() {
        for (text, wanted) in [
            ("0", Some(Ok(0))),
            ("1700000000", Some(Ok(1_700_000_000_000_000))),
            ("1700000000.5", Some(Ok(1_700_000_000_500_000))),
            ("1700000000.123456789", Some(Ok(1_700_000_000_123_456))),
            ("1700000000123", Some(Err(TimeError::OutOfRange))),
            ("-1", Some(Err(TimeError::OutOfRange))),
            ("-0.5", Some(Err(TimeError::OutOfRange))),
            ("99999999999999999999", Some(Err(TimeError::OutOfRange))),
            ("1e9", None),
            ("1.", None),
            ("2023-11-14T22:13:20Z", None),
            ("", None),
        ] {
            assert_eq!(epoch_us(text), wanted, "{text}");
        }
    }

    #[test]
    fn bodies_are_told_apart() {
        assert!(looks_like_lago(br#" {"event":{}}"#));
        assert!(!looks_like_lago(br#"{"specversion":"1.0","event":{}}"#));
        assert!(!looks_like_lago(br#"[{"event":{}}]"#) && !looks_like_lago(b"{"));
        let many = format!("{{\"events\":[{}{{}}]}}", "{},".repeat(EVENTS_MAX));
        assert!(matches!(LagoEvents::several(many.as_bytes()), Err(LagoError::TooMany)));
    }
}
