//! Reading a body up to a limit.

use std::{future::poll_fn, pin::Pin};

use axum::body::{Body, HttpBody};
use bytes::{Bytes, BytesMut};

use super::Problem;

/// Reads `body` whole, at most `limit` bytes; a longer one is a 413.
pub async fn read_body(mut body: Body, limit: usize) -> Result<Bytes, Problem> {
    let announced = body.size_hint().lower();
    if usize::try_from(announced).unwrap_or(usize::MAX) > limit {
        return Err(too_large(limit));
    }
    let mut read = BytesMut::new();
    let mut only: Option<Bytes> = None;
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let frame = frame.map_err(|error| {
            Problem::bad_request(
                "body_incomplete",
                format!("the body ended early: {error}"),
                "send the request again",
            )
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let length = read.len() + only.as_ref().map_or(0, Bytes::len) + data.len();
        if length > limit {
            return Err(too_large(limit));
        }
        // Most bodies come in one frame: those are not copied.
        if read.is_empty() && only.is_none() {
            only = Some(data);
            continue;
        }
        if let Some(first) = only.take() {
            read.extend_from_slice(&first);
        }
        read.extend_from_slice(&data);
    }
    Ok(only.unwrap_or_else(|| read.freeze()))
}

fn too_large(limit: usize) -> Problem {
    Problem::payload_too_large(
        "body_too_large",
        format!("the body is longer than {limit} bytes"),
        "send less in one request",
    )
}
