//! The forms of a body: one event, an array, or lines; each to the same events.

use bytes::Bytes;
use domain::event::EVENTS_MAX;
use runtime::http::Problem;

use crate::{
    accept::{Reject, accept},
    admit::{self, Caller},
    batch::Batch,
    budget::{Full, Held},
    collect::Collector,
    scan::{Scanner, SyntaxError},
};

/// What the content type says about the form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One event or an array, plain or CloudEvents; or lines, if the first line is a whole event.
    Json,
    /// One event per line.
    Lines,
}

impl Form {
    /// The form that a content type names, `None` if none. Types that tools send without thinking
    /// count as JSON; without one it is JSON too.
    #[must_use]
    pub fn named(content_type: &str) -> Option<Form> {
        let text = content_type.to_ascii_lowercase();
        let mut parts = text.split(';').map(str::trim);
        let form = match parts.next().unwrap_or_default() {
            "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/x-jsonlines" => Some(Form::Lines),
            ""
            | "application/json"
            | "text/json"
            | "text/plain"
            | "application/octet-stream"
            | "application/x-www-form-urlencoded" => Some(Form::Json),
            other if other.starts_with("application/") && other.ends_with("+json") => {
                Some(Form::Json)
            }
            _ => None,
        };
        let charset =
            parts.find_map(|part| part.strip_prefix("charset=")).map(|name| name.trim_matches('"'));
        let readable = matches!(charset, None | Some("utf-8" | "utf8" | "us-ascii"));
        form.filter(|_| readable)
    }
}

/// What was read out of a body: the events that may go into the log, and one item per event sent.
#[derive(Debug)]
pub struct Parsed {
    /// The accepted ones.
    pub batch: Batch,
    /// In the order of the body.
    pub items: Vec<Item>,
}

/// One event of the body.
#[derive(Clone, Debug)]
pub struct Item {
    /// The id of one that is not in the batch, where it has a usable one.
    pub id: Option<String>,
    /// Its number in the batch, or why it is not there.
    pub event: Result<u32, Reject>,
    /// Its first byte in the body, and its length.
    pub raw: (usize, usize),
}

/// Reads the events of a body. A problem means that none is accepted.
pub fn parse(
    form: Form,
    body: Bytes,
    caller: Caller,
    held: Held,
    now_us: i64,
) -> Result<Parsed, Problem> {
    let mut parser = Parser {
        parsed: Parsed { batch: Batch::new(caller, body.clone(), held), items: Vec::new() },
        collector: Collector::default(),
        item_bytes: 0,
        now_us,
    };
    let at = if body.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    if form == Form::Lines || looks_like_lines(body.get(at..).unwrap_or_default()) {
        parser.lines(&body, at)?;
    } else {
        parser.json(&body, at)?;
    }
    if parser.parsed.items.is_empty() {
        return Err(Problem::bad_request(
            "no_events",
            "the body holds no event",
            "send at least one",
        ));
    }
    if parser.parsed.batch.alias_waits {
        return Err(admit::alias_waiting());
    }
    Ok(parser.parsed)
}

/// A body whose only event cannot be read at all.
#[must_use]
pub fn refused(caller: Caller, held: Held, reject: Reject) -> Parsed {
    let batch = Batch::new(caller, Bytes::new(), held);
    Parsed { batch, items: vec![Item { id: None, event: Err(reject), raw: (0, 0) }] }
}

/// Whether a body that does not say so holds lines: its first line is a whole object, and there is
/// another one.
fn looks_like_lines(body: &[u8]) -> bool {
    let body = body.trim_ascii();
    let Some((first, rest)) = split_line(body) else { return false };
    let first = first.trim_ascii();
    if rest.trim_ascii().is_empty() || !first.starts_with(b"{") || !first.ends_with(b"}") {
        return false;
    }
    let Ok(first) = std::str::from_utf8(first) else { return true };
    let mut scanner = Scanner::new(first, 0);
    scanner.value(|_| {}).is_ok() && scanner.peek().is_none()
}

/// The bytes before and after the first line feed.
fn split_line(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let place = text.iter().position(|byte| *byte == b'\n')?;
    Some((text.get(..place)?, text.get(place + 1..)?))
}

struct Parser {
    parsed: Parsed,
    collector: Collector,
    item_bytes: usize,
    now_us: i64,
}

impl Parser {
    fn json(&mut self, body: &[u8], at: usize) -> Result<(), Problem> {
        let text = std::str::from_utf8(body).map_err(|error| {
            let detail = format!("the body is not UTF-8 at byte {}", error.valid_up_to());
            Problem::bad_request("body_not_utf8", detail, "send JSON in UTF-8")
        })?;
        let mut scanner = Scanner::new(text, at);
        if scanner.peek().is_none() {
            return Err(Problem::bad_request(
                "no_events",
                "the body is empty",
                "send at least one event",
            ));
        }
        if scanner.take(b'[') {
            if scanner.take(b']') {
                return Ok(());
            }
            loop {
                self.event(&mut scanner, (text, 0))?.map_err(|error| broken(&error))?;
                if scanner.take(b']') {
                    break;
                }
                if !scanner.take(b',') {
                    return Err(broken(&scanner.error("`,` or `]`")));
                }
            }
        } else {
            self.event(&mut scanner, (text, 0))?.map_err(|error| broken(&error))?;
        }
        match scanner.peek() {
            None => Ok(()),
            Some(_) => Err(broken(
                &scanner.error("the end of the body; send several events as an array or as lines"),
            )),
        }
    }

    fn lines(&mut self, body: &[u8], at: usize) -> Result<(), Problem> {
        let mut line_at = at;
        for (number, line) in
            body.get(at..).unwrap_or_default().split(|byte| *byte == b'\n').enumerate()
        {
            let begin = line_at;
            line_at += line.len() + 1;
            if line.trim_ascii().is_empty() {
                continue;
            }
            let number = number + 1;
            let Ok(text) = std::str::from_utf8(line) else {
                let detail = format!("line {number} is not UTF-8");
                let reject = Reject::new("line_not_utf8", detail, "send JSON in UTF-8");
                self.reject(reject, (begin, line.len()))?;
                continue;
            };
            self.line(text, begin, number)?;
        }
        Ok(())
    }

    fn line(&mut self, text: &str, begin: usize, number: usize) -> Result<(), Problem> {
        let before = (self.parsed.items.len(), self.parsed.batch.events.len());
        let mut scanner = Scanner::new(text, 0);
        let outcome = self.event(&mut scanner, (text, begin))?;
        let outcome = outcome.and_then(|()| match scanner.peek() {
            None => Ok(()),
            Some(_) => Err(scanner.error("the end of the line")),
        });
        let Err(error) = outcome else { return Ok(()) };
        // An event before what does not belong there is not accepted either.
        self.parsed.items.truncate(before.0);
        self.parsed.batch.events.truncate(before.1);
        let detail = format!("line {number} is {error} of the line");
        let reject = Reject::new("json_invalid", detail, "correct this line and send it again");
        self.reject(reject, (begin, text.len()))
    }

    /// Reads one event at the scanner's place. The inner error is one of syntax.
    fn event(
        &mut self,
        scanner: &mut Scanner<'_>,
        (text, text_at): (&str, usize),
    ) -> Result<Result<(), SyntaxError>, Problem> {
        let is_object = scanner.peek() == Some(b'{');
        let begin = scanner.at();
        let Parser { parsed, collector, now_us, .. } = self;
        collector.start(begin);
        let strings = &mut parsed.batch.strings;
        if let Err(error) = scanner.value(|token| collector.token(token, text.as_bytes(), strings))
        {
            return Ok(Err(error));
        }
        let end = scanner.at();
        collector.finish(end);
        if !is_object {
            let detail = "the event is not a JSON object";
            let reject = Reject::new("event_not_object", detail, "send each event as an object");
            return self.reject(reject, (text_at + begin, end - begin)).map(Ok);
        }
        let (id, event) =
            match accept(collector, &mut parsed.batch, (text, text_at), (begin, end), *now_us) {
                Ok(number) => (None, Ok(number)),
                Err((id, reject)) => (id, Err(reject)),
            };
        self.item(Item { id, event, raw: (text_at + begin, end - begin) }).map(Ok)
    }

    fn reject(&mut self, reject: Reject, raw: (usize, usize)) -> Result<(), Problem> {
        self.item(Item { id: None, event: Err(reject), raw })
    }

    fn item(&mut self, item: Item) -> Result<(), Problem> {
        if self.parsed.items.len() >= EVENTS_MAX {
            return Err(too_many());
        }
        let detail = item.event.as_ref().err().map_or(0, |reject| reject.detail.len());
        self.item_bytes += size_of::<Item>() + item.id.as_ref().map_or(0, String::len) + detail;
        self.parsed.items.push(item);
        self.parsed.batch.hold(self.item_bytes).map_err(no_room)
    }
}

fn broken(error: &SyntaxError) -> Problem {
    Problem::bad_request(
        "json_invalid",
        format!("the body is {error}"),
        "correct it and send all of it again: no event was accepted",
    )
}

/// The answer to more events than a request may hold.
pub fn too_many() -> Problem {
    let detail = format!("the body holds more than {EVENTS_MAX} events");
    Problem::payload_too_large("too_many_events", detail, "send fewer events in one request")
}

/// The answer when there is no room in the budget.
pub fn no_room(full: Full) -> Problem {
    match full {
        Full::Now => Problem::unavailable(
            1,
            "overloaded",
            "too many events wait for the log",
            "send the same events again, with the same ids, after the time in Retry-After",
        ),
        Full::Always => Problem::payload_too_large(
            "body_too_complex",
            "the events of the body have too many values, or too many different names of values, for one request",
            "send fewer events in one request; what differs from event to event belongs into values, not names",
        ),
    }
}
