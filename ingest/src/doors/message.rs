//! What a door's message holds: CloudEvents' Kafka binding (structured, batched, binary), or what a
//! request's body may be. What cannot be accepted is kept with its reason.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use domain::{event::BODY_BYTES_MAX, partition::partition_of_tenant};
use runtime::{http::Problem, log::kafka::Letter};

use crate::{
    accept::Reject,
    admit::{ALIAS_WAITING, Caller},
    batch::{Batch, DoorPlace, Refusal},
    binary,
    budget::{Budget, Full},
    forms::{self, Form, Parsed},
};

/// Of what is refused, so many bytes are kept: all of what a topic takes by default.
const RAW_BYTES_MAX: usize = 1 << 20;

/// A message that was read.
#[derive(Debug)]
pub struct Read {
    /// Its events, and what was refused.
    pub batch: Arc<Batch>,
    /// How many of both there are.
    pub items: usize,
    /// The place in the message of each event of the batch.
    places: Vec<usize>,
}

impl Read {
    /// The numbers of the batch.
    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        0..u32::try_from(self.items).unwrap_or(u32::MAX)
    }

    /// The place in the message of a number of the batch; the same whenever the message is read.
    pub fn item(&self, number: u32) -> usize {
        let event = usize::try_from(number).ok().and_then(|number| self.places.get(number));
        match event {
            Some(place) => *place,
            None => self.batch.refusal(number).map_or(usize::MAX, |refusal| {
                usize::try_from(refusal.door_index).unwrap_or(usize::MAX)
            }),
        }
    }
}

/// Why a whole message is refused.
struct Whole {
    code: &'static str,
    detail: String,
}

impl From<Reject> for Whole {
    fn from(reject: Reject) -> Whole {
        Whole { code: reject.code, detail: reject.detail.into_owned() }
    }
}

impl From<Problem> for Whole {
    fn from(problem: Problem) -> Whole {
        Whole { code: problem.code(), detail: problem.detail().to_owned() }
    }
}

fn whole(code: &'static str, detail: impl Into<String>) -> Whole {
    Whole { code, detail: detail.into() }
}

/// Why a message cannot be read now. Reading it again gives the same items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// Memory is short.
    Memory,
    /// A subject of it has an alias that waits.
    Alias,
}

impl From<Full> for Unread {
    fn from(_: Full) -> Unread {
        Unread::Memory
    }
}

/// Reads a message of `door`.
pub fn read(
    letter: &Letter,
    door: &str,
    caller: Caller,
    budget: &Budget,
    now_us: i64,
) -> Result<Read, Unread> {
    let place =
        DoorPlace { door: door.into(), partition: letter.place.partition, offset: letter.offset };
    let value = letter.value.clone().unwrap_or_default();
    let fault = match body(letter) {
        Ok((form, body)) => {
            let mut held = budget.hold();
            held.grow(body.len())?;
            match forms::parse(form, body, caller.clone(), held, now_us) {
                Ok(parsed) => return Ok(with_refused(parsed, place)),
                Err(problem) if problem.code() == ALIAS_WAITING => return Err(Unread::Alias),
                // Nothing else of it is ours.
                Err(problem) if problem.status().is_server_error() => return Err(Unread::Memory),
                Err(problem) => problem.into(),
            }
        }
        Err(fault) => fault,
    };
    let mut held = budget.hold();
    held.grow(value.len().min(RAW_BYTES_MAX))?;
    Ok(refuse_all(Batch::new(caller, value, held), place, fault))
}

/// The form of a message's events, and the text that holds them.
fn body(letter: &Letter) -> Result<(Form, Bytes), Whole> {
    let Some(value) = &letter.value else {
        return Err(whole("no_events", "the message has no value"));
    };
    if value.len() > BODY_BYTES_MAX {
        let detail = format!("the message is longer than {BODY_BYTES_MAX} bytes");
        return Err(whole("body_too_large", detail));
    }
    let content_type = header(letter, "content-type").map(|value| text("content-type", value));
    let content_type = content_type.transpose()?;
    let structured = content_type
        .is_some_and(|text| text.to_ascii_lowercase().starts_with("application/cloudevents"));
    if !structured && header(letter, "ce_specversion").is_some() {
        let event = binary::structured(attributes(letter)?, content_type, value)?;
        // Headers are not limited as they are over HTTP.
        if event.len() > BODY_BYTES_MAX {
            let detail =
                format!("the event is longer than {BODY_BYTES_MAX} bytes, with its headers");
            return Err(whole("body_too_large", detail));
        }
        return Ok((Form::Json, event.into()));
    }
    let named = Form::named(content_type.unwrap_or_default()).ok_or_else(|| {
        whole("content_type_unsupported", "the content type is none that holds events")
    })?;
    Ok((named, value.clone()))
}

/// The attributes of an event in binary mode.
fn attributes(letter: &Letter) -> Result<Vec<(&str, Cow<'_, str>)>, Whole> {
    let attributes = letter.headers.iter().filter_map(|(name, value)| {
        let (prefix, attribute) = name.split_at_checked(3)?;
        prefix.eq_ignore_ascii_case("ce_").then_some((attribute, name, value))
    });
    attributes.map(|(attribute, name, value)| Ok((attribute, text(name, value)?.into()))).collect()
}

fn header<'a>(letter: &'a Letter, name: &str) -> Option<&'a Bytes> {
    let found = letter.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value)
}

fn text<'a>(name: &str, value: &'a [u8]) -> Result<&'a str, Whole> {
    str::from_utf8(value)
        .map_err(|_| whole("field_not_text", format!("the header `{name}` is not UTF-8")))
}

/// The batch of a message that was read, with what of it cannot be accepted.
fn with_refused(parsed: Parsed, place: DoorPlace) -> Read {
    let Parsed { mut batch, items } = parsed;
    batch.place = Some(place);
    let count = items.len();
    let mut places = Vec::new();
    for (place, item) in items.into_iter().enumerate() {
        match item.event {
            Ok(_) => places.push(place),
            Err(reject) => refuse(&mut batch, place, item.raw, reject.into()),
        }
    }
    Read { batch: Arc::new(batch), items: count, places }
}

/// The batch of a message whose events cannot be told apart.
fn refuse_all(mut batch: Batch, place: DoorPlace, fault: Whole) -> Read {
    batch.place = Some(place);
    let raw = (0, batch.body.len());
    refuse(&mut batch, 0, raw, fault);
    Read { batch: Arc::new(batch), items: 1, places: Vec::new() }
}

fn refuse(batch: &mut Batch, place: usize, (raw_at, length): (usize, usize), fault: Whole) {
    let raw_length = length.min(RAW_BYTES_MAX);
    let mut detail = fault.detail;
    if raw_length < length {
        detail.push_str(&format!("; of its {length} bytes the first {raw_length} are kept"));
    }
    batch.refused.push(Refusal {
        partition: partition_of_tenant(batch.caller.tenant.id, batch.caller.snapshot.partitions),
        reason: fault.code,
        detail,
        door_index: u32::try_from(place).unwrap_or(u32::MAX),
        raw_at,
        raw_length,
    });
}
