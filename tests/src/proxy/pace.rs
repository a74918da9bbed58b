//! How fast bytes pass: what has arrived is taken at once, and passes when it may.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::{
    io::AsyncReadExt as _,
    net::tcp::ReadHalf,
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};

use super::{Counters, Fault, count};

const PIECE_BYTES_MAX: usize = 64 << 10;
/// Pieces that wait in each direction of a connection; beyond them the sender waits.
const PIECES_MAX: usize = 256;
/// Pieces a second, where so many bytes a second pass.
const PIECES_PER_SECOND: usize = 20;

/// What was read at once, and when.
pub(super) struct Arrived {
    at: Instant,
    pub(super) bytes: Vec<u8>,
}

/// The pieces of one direction, from who reads to who writes.
pub(super) fn pieces() -> (mpsc::Sender<Arrived>, mpsc::Receiver<Arrived>) {
    mpsc::channel(PIECES_MAX)
}

/// Takes what arrives until there is no more. A piece that is late does not hold up the arrival of the next.
pub(super) async fn take(mut from: ReadHalf<'_>, pieces: mpsc::Sender<Arrived>) -> Result<()> {
    let mut chunk = vec![0; PIECE_BYTES_MAX];
    loop {
        let length = from.read(&mut chunk).await?;
        if length == 0 {
            return Ok(());
        }
        let piece = Arrived { at: Instant::now(), bytes: chunk[..length].to_vec() };
        pieces.send(piece).await.context("nobody passes it on")?;
    }
}

/// Waits until what arrived is as late as it is to be.
pub(super) async fn be_late(arrived: &Arrived, fault: Fault, counters: &Counters) {
    if let Fault::Delay(delay) = fault {
        count(&counters.delayed, 1);
        sleep_until(arrived.at + delay).await;
    }
}

/// How many of `length` bytes pass at once.
pub(super) fn piece_of(fault: Fault, length: usize) -> usize {
    match fault {
        Fault::Trickle => 1,
        Fault::Narrow(bytes) => (bytes / PIECES_PER_SECOND).clamp(1, length),
        _ => length,
    }
}

/// Waits until the next piece may pass, or until the fault is another one.
pub(super) async fn wait_after_a_piece(
    fault: Fault,
    changes: &mut watch::Receiver<Fault>,
    counters: &Counters,
) {
    let (counter, pause) = match fault {
        Fault::Trickle => (&counters.trickled, Duration::from_secs(1)),
        Fault::Narrow(_) => (&counters.narrowed, Duration::from_secs(1) / PIECES_PER_SECOND as u32),
        _ => return,
    };
    count(counter, 1);
    let _ = timeout(pause, changes.wait_for(|now| *now != fault)).await;
}
