//! Signals become one token that every task watches; the first failure decides the exit code.
//!
//! The first SIGTERM or SIGINT asks for a drain, the second ends the process at once with 130.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// Exit code of a process that was told twice to stop.
const EXIT_CODE_SECOND_SIGNAL: i32 = 130;

/// Why a process stopped although nobody asked it to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("task {task} failed: {message}")]
pub struct Failure {
    /// Name of the task or thread.
    pub task: String,
    /// Its error, or the message of its panic.
    pub message: String,
}

/// The request to stop, shared by all tasks of a process. Clones share the request; a
/// [`Shutdown::child`] can be triggered without stopping its parent.
#[derive(Clone, Debug)]
pub struct Shutdown {
    token: CancellationToken,
    process: Arc<Process>,
}

#[derive(Debug)]
struct Process {
    token: CancellationToken,
    failure: Mutex<Option<Failure>>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// A request that only [`Shutdown::trigger`] or a failure makes.
    pub fn new() -> Self {
        let token = CancellationToken::new();
        let process = Process { token: token.clone(), failure: Mutex::new(None) };
        Self { token, process: Arc::new(process) }
    }

    /// Also listens to SIGTERM and SIGINT. Must be called inside of the tokio runtime.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::new();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        crate::task::spawn_detached(listen(shutdown.clone(), terminate, interrupt));
        Ok(shutdown)
    }

    /// The token, for libraries that want one.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Resolves when a stop has been asked for.
    pub fn cancelled(&self) -> WaitForCancellationFuture<'_> {
        self.token.cancelled()
    }

    /// Whether a stop has been asked for.
    pub fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Asks for a stop.
    pub fn trigger(&self) {
        self.token.cancel();
    }

    /// A request that is made when this one is, and can be made by itself.
    pub fn child(&self) -> Self {
        Self { token: self.token.child_token(), process: Arc::clone(&self.process) }
    }

    /// Records why the process must stop, and stops all of it. The first failure is kept.
    pub fn fail(&self, task: &str, message: impl Into<String>) {
        let failure = Failure { task: task.to_owned(), message: message.into() };
        tracing::error!(task = %failure.task, error = %failure.message, "task failed; stopping");
        self.slot().get_or_insert(failure);
        self.process.token.cancel();
    }

    /// The first failure of any task of the process.
    pub fn failure(&self) -> Option<Failure> {
        self.slot().clone()
    }

    /// 0 after an orderly stop, 1 after a failure.
    pub fn exit_code(&self) -> u8 {
        u8::from(self.failure().is_some())
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Failure>> {
        self.process.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn listen(shutdown: Shutdown, mut terminate: Signal, mut interrupt: Signal) {
    for count in 1.. {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if count > 1 {
            tracing::error!("second signal; ending without a drain");
            std::process::exit(EXIT_CODE_SECOND_SIGNAL);
        }
        tracing::info!("signal received; draining");
        shutdown.trigger();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_stops_alone_and_a_failure_stops_all() {
        let shutdown = Shutdown::new();
        let child = shutdown.child();
        child.trigger();
        assert!(child.is_cancelled() && !shutdown.is_cancelled());
        let other = shutdown.child();
        other.fail("reader", "gone");
        other.fail("writer", "second");
        assert!(shutdown.is_cancelled());
        let failure = shutdown.failure().unwrap();
        assert_eq!((failure.task.as_str(), failure.message.as_str()), ("reader", "gone"));
        assert_eq!(shutdown.exit_code(), 1);
        assert_eq!(Shutdown::new().exit_code(), 0);
    }
}
