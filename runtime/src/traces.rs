//! Distributed traces, sent to an OpenTelemetry collector (OTLP over HTTP). Off until [`start`].
//!
//! A request is followed when its caller says so (`traceparent` with the sampled flag, W3C Trace
//! Context), or when it is the nth that brings no decision. Spans are recorded when they have ended,
//! with their ids given: work that a log separates from its cause has no call to hang on. What is
//! not followed costs one look at a header.

use std::{
    borrow::Cow,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use axum::http::HeaderMap;
use opentelemetry::{
    InstrumentationScope, KeyValue, Value,
    trace::{SpanContext, SpanKind, Status, TraceFlags, TraceState},
};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor as _},
};

use crate::config::TracesConfig;

/// The header that names the caller's span.
pub const TRACEPARENT: &str = "traceparent";
/// Path of traces at a collector.
const TRACES_PATH: &str = "/v1/traces";
/// Time for the last spans when a process ends.
const STOP_TIME_MAX: Duration = Duration::from_secs(2);

tokio::task_local! {
    static CURRENT: Option<Place>;
}

/// A span of a trace. Neither is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The trace.
    pub trace: u128,
    /// The span.
    pub span: u64,
}

/// What kind of work a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Answering a request.
    Server,
    /// Handing a message to the log.
    Producer,
    /// Working on what the log has.
    Consumer,
}

/// Work that has ended.
#[derive(Clone, Debug)]
pub struct Span {
    /// The trace.
    pub trace: u128,
    /// Its own id.
    pub span: u64,
    /// The span it belongs to; 0 for none.
    pub parent: u64,
    /// What kind of work it was.
    pub kind: Kind,
    /// What was done.
    pub name: Cow<'static, str>,
    /// When it began and ended, microseconds since 1970.
    pub time_us: (i64, i64),
    /// More about it.
    pub attributes: Vec<(&'static str, Value)>,
    /// Why it failed, if it did.
    pub error: Option<Cow<'static, str>>,
}

/// Traces cannot be sent.
#[derive(Debug, thiserror::Error)]
#[error("telemetry.traces.endpoint {endpoint:?}: {reason}")]
pub struct TracesError {
    /// The collector.
    endpoint: String,
    /// What is wrong.
    reason: String,
}

struct Process {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
    one_in: u64,
    undecided: AtomicU64,
}

static PROCESS: OnceLock<Process> = OnceLock::new();

/// Sends the spans of this process from now on, as those of `service`, if a collector is named.
pub fn start(config: &TracesConfig, service: &str) -> Result<(), TracesError> {
    if config.endpoint.is_empty() {
        return Ok(());
    }
    let endpoint = format!("{}{TRACES_PATH}", config.endpoint.trim_end_matches('/'));
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(&endpoint)
        .build()
        .map_err(|error| TracesError { endpoint, reason: error.to_string() })?;
    let mut processor = BatchSpanProcessor::builder(exporter).build();
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource =
        Resource::builder().with_service_name(service.to_owned()).with_attribute(version).build();
    processor.set_resource(&resource);
    let scope = InstrumentationScope::builder("weir").build();
    let process = Process { processor, scope, one_in: config.one_in, undecided: AtomicU64::new(0) };
    // A second start in one process changes nothing.
    let _ = PROCESS.set(process);
    Ok(())
}

/// Sends what is left. Spans that end later are lost.
pub fn stop() {
    if let Some(process) = PROCESS.get()
        && let Err(error) = process.processor.shutdown_with_timeout(STOP_TIME_MAX)
    {
        tracing::warn!(%error, "the last spans were not sent");
    }
}

impl Span {
    /// What a stage did with something that it read from a partition of the log: trace, own span and parent,
    /// since when, and the position that it names.
    #[must_use]
    pub fn of_reader(
        name: &'static str,
        (trace, span, parent): (u128, u64, u64),
        since_us: i64,
        partition: u32,
        (position_name, position): (&'static str, i64),
    ) -> Span {
        let attributes =
            vec![("weir.partition", i64::from(partition).into()), (position_name, position.into())];
        let time_us = (since_us, crate::task::now_us());
        let (kind, name, error) = (Kind::Consumer, name.into(), None);
        Span { trace, span, parent, kind, name, time_us, attributes, error }
    }
}

/// Records a span, to be sent soon; drops it where too many wait.
pub fn record(span: Span) {
    let Some(process) = PROCESS.get() else { return };
    let sampled = TraceFlags::SAMPLED;
    let context = SpanContext::new(
        span.trace.into(),
        span.span.into(),
        sampled,
        false,
        TraceState::default(),
    );
    let attributes = span.attributes.into_iter().map(|(name, value)| KeyValue::new(name, value));
    process.processor.on_end(SpanData {
        span_context: context,
        parent_span_id: span.parent.into(),
        parent_span_is_remote: span.parent != 0,
        span_kind: match span.kind {
            Kind::Server => SpanKind::Server,
            Kind::Producer => SpanKind::Producer,
            Kind::Consumer => SpanKind::Consumer,
        },
        name: span.name,
        start_time: time(span.time_us.0),
        end_time: time(span.time_us.1),
        attributes: attributes.collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: span.error.map_or(Status::Unset, Status::error),
        instrumentation_scope: process.scope.clone(),
    });
}

fn time(us: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(us).unwrap_or(0))
}

/// The span of the request that the current task answers, if it is followed.
#[must_use]
pub fn current() -> Option<Place> {
    CURRENT.try_with(|place| *place).ok().flatten()
}

/// Runs `future` as part of a span.
pub async fn within<T>(place: Option<Place>, future: impl Future<Output = T>) -> T {
    match place {
        None => future.await,
        some => CURRENT.scope(some, future).await,
    }
}

/// Whether a request is followed: the place of its own span and the id of its caller's (0 for none).
#[must_use]
pub fn follow(headers: &HeaderMap) -> Option<(Place, u64)> {
    let process = PROCESS.get()?;
    match headers.get(TRACEPARENT).and_then(|value| parse(value.as_bytes())) {
        Some((parent, true)) => {
            Some((Place { trace: parent.trace, span: random_u64()? }, parent.span))
        }
        Some((_, false)) => None,
        None => {
            let number = process.undecided.fetch_add(1, Ordering::Relaxed);
            let chosen = process.one_in > 0 && number.is_multiple_of(process.one_in);
            chosen.then(root).flatten().map(|place| (place, 0))
        }
    }
}

fn root() -> Option<Place> {
    let trace = (u128::from(random_u64()?) << 64) | u128::from(random_u64()?);
    Some(Place { trace, span: random_u64()? })
}

fn random_u64() -> Option<u64> {
    getrandom::u64().ok().map(|number| number.max(1))
}

/// Reads a [`TRACEPARENT`], `version-trace-span-flags`: the caller's span, and whether it is sampled.
/// Later versions may have more behind it.
#[must_use]
pub fn parse(text: &[u8]) -> Option<(Place, bool)> {
    let text = std::str::from_utf8(text).ok()?;
    let mut parts = text.split('-');
    let version = hexadecimal(parts.next()?, 2)?;
    let trace = hexadecimal(parts.next()?, 32)?;
    let span = u64::try_from(hexadecimal(parts.next()?, 16)?).ok()?;
    let flags = hexadecimal(parts.next()?, 2)?;
    let complete = version != 0xff && (version > 0 || parts.next().is_none());
    (complete && trace != 0 && span != 0).then_some((Place { trace, span }, flags & 1 == 1))
}

fn hexadecimal(text: &str, length: usize) -> Option<u128> {
    let plain = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let fits = text.len() == length && text.bytes().all(plain);
    fits.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_decision_is_read_from_its_header() {
        let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let place =
            Place { trace: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, span: 0x00f0_67aa_0ba9_02b7 };
        assert_eq!(parse(header.as_bytes()), Some((place, true)));
        let not_sampled = header.replace("-01", "-00");
        assert_eq!(parse(not_sampled.as_bytes()), Some((place, false)));
        let later = format!("{}-more", header.replace("00-4bf", "01-4bf"));
        assert_eq!(parse(later.as_bytes()), Some((place, true)));
    }

    #[test]
    fn what_is_no_such_header_decides_nothing() {
        let zeros = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        let none = "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01";
        let upper = "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01";
        let more = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more";
        let version = "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        for text in ["", "-", "00", &zeros, none, upper, more, version, "00-+bf9-2-1"] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(parse(b"\xff\xfe"), None);
    }
}
