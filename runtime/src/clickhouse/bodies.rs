//! Bodies of requests, in memory that is used again: a statement takes its data in one piece, and some
//! 20 MB that are given back to the system each second come back from it as pages to be cleared.

use std::{
    future::poll_fn,
    mem,
    pin::Pin,
    sync::{Mutex, PoisonError},
};

use axum::body::{Body, HttpBody as _};
use bytes::{Bytes, BytesMut};

/// More than this is not kept.
const KEPT_BYTES_MAX: usize = 128 << 20;

/// The memory of the newest body. Who reads beside another one takes new memory.
#[derive(Default)]
pub(super) struct Bodies(Mutex<BytesMut>);

impl Bodies {
    /// Reads a body of at most `bytes_max`. The error says why it is none.
    pub(super) async fn read(&self, mut body: Body, bytes_max: usize) -> Result<Bytes, String> {
        let mut buffer = mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            let frame = frame.map_err(|fault| fault.to_string())?;
            let Ok(piece) = frame.into_data() else { continue };
            if buffer.len().saturating_add(piece.len()) > bytes_max {
                return Err("it is longer".into());
            }
            buffer.extend_from_slice(&piece);
        }
        let body = buffer.split().freeze();
        // What is left of it knows the rest, and takes all of it again when the body is gone.
        if body.len() <= KEPT_BYTES_MAX {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = buffer;
        }
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn memory_is_used_again_when_nobody_reads_it() {
        let bodies = Bodies::default();
        let long = || Body::from(vec![7_u8; 1 << 20]);
        let first = bodies.read(long(), 1 << 20).await.unwrap();
        let beside = bodies.read(long(), 1 << 20).await.unwrap();
        assert_ne!(first.as_ptr(), beside.as_ptr());
        let place = beside.as_ptr();
        drop((first, beside));
        let again = bodies.read(long(), 1 << 20).await.unwrap();
        assert_eq!((again.as_ptr(), again.len()), (place, 1 << 20));
        assert!(bodies.read(long(), (1 << 20) - 1).await.is_err(), "one byte too many");
        assert!(bodies.read(Body::empty(), 0).await.unwrap().is_empty());
    }
}
