//! Reading a body: decompressed on the way, cut off at the limit, counted against the budget.

use std::{
    future::poll_fn,
    io::{self, Write},
    pin::Pin,
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    http::{HeaderMap, StatusCode, header},
};
use bytes::Bytes;
use domain::event::BODY_BYTES_MAX;
use flate2::write::MultiGzDecoder;
use runtime::http::Problem;
use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, InBuffer, Operation, OutBuffer};

use crate::{
    budget::{Budget, Full, Held},
    forms::{Form, no_room},
};

/// Memory that a zstd frame may ask for: 8 MiB, what RFC 8878 wants every decoder to support.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// Bytes of decompressed text taken out of zstd at a time.
const CHUNK_BYTES: usize = 32 * 1024;
/// A body that is refused is read on for so many bytes and so long, because a client that is still
/// sending when the connection closes does not see the answer.
const DISCARD_BYTES_MAX: usize = 32 << 20;
const DISCARD_TIME_MAX: Duration = Duration::from_secs(2);

/// The form that the content type names.
pub fn form(headers: &HeaderMap) -> Result<Form, Problem> {
    Form::named(content_type(headers).unwrap_or_default()).ok_or_else(|| {
        Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "content_type_unsupported",
            "the content type is none that holds events",
            "send application/json, application/x-ndjson, application/cloudevents+json or application/cloudevents-batch+json, in UTF-8",
        )
    })
}

/// The content type as sent; `?` stands for one that is no text.
pub fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"))
}

/// The `ce-` headers of an event in CloudEvents' binary mode, without their prefix; `None` where the
/// event is in the body.
pub fn binary_attributes(headers: &HeaderMap) -> Option<Vec<(&str, &[u8])>> {
    let structured = content_type(headers)
        .is_some_and(|text| text.to_ascii_lowercase().starts_with("application/cloudevents"));
    if structured || !headers.contains_key("ce-specversion") {
        return None;
    }
    let attributes = headers
        .iter()
        .filter_map(|(name, value)| Some((name.as_str().strip_prefix("ce-")?, value.as_bytes())));
    Some(attributes.collect())
}

/// Reads the body, decompressed; what it takes of the budget comes with it.
pub async fn read(
    headers: &HeaderMap,
    mut body: Body,
    budget: &Budget,
) -> Result<(Bytes, Held), Problem> {
    let outcome = match decoder(headers, budget) {
        Ok(decoder) => collect(&mut body, decoder).await,
        Err(problem) => Err(problem),
    };
    if outcome.is_err() {
        let _ = tokio::time::timeout(DISCARD_TIME_MAX, discard(&mut body)).await;
    }
    outcome
}

async fn collect(body: &mut Body, mut decoder: Decoder) -> Result<(Bytes, Held), Problem> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > BODY_BYTES_MAX {
        return Err(too_large());
    }
    let mut received = 0;
    while let Some(data) = next(body).await? {
        // Compressed bytes have the same limit, or empty frames could go on for ever.
        received += data.len();
        if received > BODY_BYTES_MAX {
            return Err(too_large());
        }
        decoder.push(data)?;
    }
    decoder.finish()
}

async fn next(body: &mut Body) -> Result<Option<Bytes>, Problem> {
    while let Some(frame) = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await {
        let frame = frame.map_err(|error| {
            let detail = format!("the body ended early: {error}");
            Problem::bad_request(
                "body_incomplete",
                detail,
                "send the request again, with the same ids",
            )
        })?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

async fn discard(body: &mut Body) {
    let mut discarded = 0;
    while let Ok(Some(data)) = next(body).await {
        discarded += data.len();
        if discarded > DISCARD_BYTES_MAX {
            return;
        }
    }
}

enum Decoder {
    /// The one frame that most bodies come in is not copied.
    Identity(Option<Bytes>, Sink),
    Gzip(Box<MultiGzDecoder<Sink>>),
    Zstd {
        decoder: ZstdDecoder<'static>,
        sink: Sink,
        whole: bool,
    },
}

fn decoder(headers: &HeaderMap, budget: &Budget) -> Result<Decoder, Problem> {
    let sink = Sink { out: Vec::new(), held: budget.hold(), fault: None };
    let encoding = headers
        .get(header::CONTENT_ENCODING)
        .map(|value| value.to_str().unwrap_or("?").trim().to_ascii_lowercase());
    match encoding.as_deref() {
        None | Some("" | "identity") => Ok(Decoder::Identity(None, sink)),
        Some("gzip" | "x-gzip") => Ok(Decoder::Gzip(Box::new(MultiGzDecoder::new(sink)))),
        Some("zstd") => {
            let mut decoder = ZstdDecoder::new().map_err(|error| zstd_failed(&error))?;
            decoder
                .set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))
                .map_err(|error| zstd_failed(&error))?;
            Ok(Decoder::Zstd { decoder, sink, whole: false })
        }
        Some(_) => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "encoding_unsupported",
            "the content encoding is not supported",
            "send the body as it is, or with gzip or zstd",
        )),
    }
}

fn zstd_failed(error: &io::Error) -> Problem {
    tracing::error!(%error, "zstd cannot be set up");
    Problem::internal()
}

impl Decoder {
    fn push(&mut self, data: Bytes) -> Result<(), Problem> {
        match self {
            Decoder::Identity(only, sink) => {
                if only.is_none() && sink.out.is_empty() {
                    sink.count(data.len()).map_err(|_| sink.problem())?;
                    *only = Some(data);
                    return Ok(());
                }
                if let Some(first) = only.take() {
                    // Counted when it came.
                    sink.out.extend_from_slice(&first);
                }
                sink.write_all(&data).map_err(|_| sink.problem())
            }
            Decoder::Gzip(decoder) => {
                decoder.write_all(&data).map_err(|_| decoder.get_ref().problem())
            }
            Decoder::Zstd { decoder, sink, whole } => {
                let mut chunk = vec![0; CHUNK_BYTES];
                let mut input = InBuffer::around(&data);
                loop {
                    let mut output = OutBuffer::around(chunk.as_mut_slice());
                    let hint = decoder.run(&mut input, &mut output).map_err(|_| broken())?;
                    let written = output.pos();
                    sink.write_all(chunk.get(..written).unwrap_or_default())
                        .map_err(|_| sink.problem())?;
                    *whole = hint == 0;
                    // A full chunk in the middle of a frame may have more behind it.
                    if input.pos() >= data.len() && (*whole || written < CHUNK_BYTES) {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn finish(self) -> Result<(Bytes, Held), Problem> {
        match self {
            Decoder::Identity(Some(only), sink) => Ok((only, sink.held)),
            Decoder::Identity(None, sink) => Ok(sink.done()),
            Decoder::Gzip(mut decoder) => {
                decoder.try_finish().map_err(|_| decoder.get_ref().problem())?;
                decoder.finish().map(Sink::done).map_err(|_| broken())
            }
            Decoder::Zstd { whole: true, sink, .. } => Ok(sink.done()),
            Decoder::Zstd { .. } => Err(broken()),
        }
    }
}

/// Where decompressed bytes go, up to the limit.
#[derive(Debug)]
struct Sink {
    out: Vec<u8>,
    held: Held,
    fault: Option<SinkFault>,
}

#[derive(Clone, Copy, Debug)]
enum SinkFault {
    TooLarge,
    Full(Full),
}

impl Sink {
    fn count(&mut self, bytes: usize) -> io::Result<()> {
        if self.out.len() + bytes > BODY_BYTES_MAX {
            self.fault = Some(SinkFault::TooLarge);
        } else if let Err(full) = self.held.grow(bytes) {
            self.fault = Some(SinkFault::Full(full));
        }
        if self.fault.is_some() { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(()) }
    }

    /// Why a write failed: the sink's own limits, else what came was not compressed like this.
    fn problem(&self) -> Problem {
        match self.fault {
            Some(SinkFault::TooLarge) => too_large(),
            Some(SinkFault::Full(full)) => no_room(full),
            None => broken(),
        }
    }

    fn done(self) -> (Bytes, Held) {
        (self.out.into(), self.held)
    }
}

impl Write for Sink {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.count(data.len())?;
        self.out.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn too_large() -> Problem {
    Problem::payload_too_large(
        "body_too_large",
        format!("the body is longer than {BODY_BYTES_MAX} bytes, or would be when decompressed"),
        "send fewer events in one request",
    )
}

fn broken() -> Problem {
    Problem::bad_request(
        "encoding_broken",
        "the body is not compressed as Content-Encoding says",
        "send it again, or uncompressed",
    )
}
