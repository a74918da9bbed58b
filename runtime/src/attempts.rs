//! Work that a person may have to make possible again: it is tried again, and `/ready` says meanwhile
//! what is in the way.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    http::{Readiness, State},
    shutdown::Shutdown,
    task::{TaskError, chain, panic_text},
};

/// Between two attempts: what had to be mended may be mended.
const RETRY: Duration = Duration::from_secs(30);
/// How late a stop is noticed during a pause.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Does `body` until it ends without an error or a stop is asked for. INV-21: an error or a panic stops
/// what it is of, and nothing else; `check` is not ready from then on, and the next attempt follows
/// after half a minute. A body whose argument says that it is *doubted* calls the check ready only when
/// it has gone on.
pub fn until_stopped(
    readiness: &Readiness,
    check: &str,
    stop: &Shutdown,
    mut body: impl FnMut(bool) -> Result<(), TaskError>,
) {
    let mut doubted = false;
    while !stop.is_cancelled() {
        let attempt = AssertUnwindSafe(|| body(doubted).map_err(|error| chain(&*error)));
        let ended = catch_unwind(attempt).unwrap_or_else(|panic| Err(panic_text(&*panic)));
        let Err(reason) = ended else { break };
        tracing::error!(check, reason, "stopped; a person has to act, then it goes on by itself");
        readiness.set(check, State::NotReady(reason));
        doubted = true;
        pause(RETRY, stop);
    }
}

/// Blocks this thread for `length`, or until a stop is asked for.
pub fn pause(length: Duration, stop: &Shutdown) {
    let until = Instant::now() + length;
    while !stop.is_cancelled() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        sleep(left.min(LOOK_EVERY));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_and_a_panic_stop_what_they_are_of_and_nothing_else() {
        let (readiness, process) = (Readiness::new(), Shutdown::new());
        let stop = process.child();
        let end: [fn() -> Result<(), TaskError>; 2] =
            [|| Err("position 7 is damaged".into()), || panic!("the sums differ")];
        for (end, reason) in end.iter().zip(["position 7 is damaged", "panicked: the sums differ"])
        {
            let (stop, mut seen) = (stop.child(), Vec::new());
            until_stopped(&readiness, "test.0", &stop, |doubted| {
                seen.push(doubted);
                stop.trigger();
                end()
            });
            assert_eq!(seen, [false]);
            assert_eq!(readiness.not_ready()["test.0"], reason);
        }
        assert!(!process.is_cancelled());
        until_stopped(&readiness, "test.0", &stop, |_| Ok(()));
        assert!(!readiness.is_ready(), "only the body calls it ready");
    }
}
