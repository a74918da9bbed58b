//! Named tasks and threads. One that fails or panics stops the whole process with its reason.
//!
//! The only place that spawns: elsewhere `clippy.toml` refuses `tokio::spawn` and
//! `std::thread::spawn`. It is also the only place that reads the wall clock: [`now_us`].

use std::{
    any::Any,
    error::Error,
    fmt::Write as _,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::oneshot,
    task::AbortHandle,
    time::{Instant, timeout_at},
};

use crate::shutdown::{Failure, Shutdown};

/// What a task or thread may end with.
pub type TaskError = Box<dyn Error + Send + Sync>;

/// Linux keeps 15 bytes of a thread's name; processor time is accounted by it.
const THREAD_NAME_LENGTH_MAX: usize = 15;

/// Microseconds since 1970 UTC by the wall clock. It may jump; measure with `Instant` instead.
#[expect(clippy::disallowed_methods, reason = "the one reader of the wall clock")]
pub fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// A running task or thread. Dropping it does not stop it.
#[derive(Debug)]
pub struct Task {
    name: String,
    ended: oneshot::Receiver<()>,
    abort: Option<AbortHandle>,
}

impl Task {
    /// The name it was spawned with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Resolves when it has ended, however it did.
    pub async fn ended(self) {
        let _ = self.ended.await;
    }
}

/// Spawns `future`; its error or panic stops the process.
pub fn spawn(
    name: impl Into<String>,
    shutdown: &Shutdown,
    future: impl Future<Output = Result<(), TaskError>> + Send + 'static,
) -> Task {
    let (name, shutdown) = (name.into(), shutdown.clone());
    let (sender, ended) = oneshot::channel();
    let watched = name.clone();
    let inner = spawn_detached(future);
    let abort = Some(inner.abort_handle());
    spawn_detached(async move {
        match inner.await {
            Ok(Ok(())) => tracing::debug!(task = watched, "task ended"),
            Ok(Err(error)) => shutdown.fail(&watched, chain(&*error)),
            Err(error) if error.is_panic() => {
                shutdown.fail(&watched, panic_text(&*error.into_panic()))
            }
            Err(_) => tracing::warn!(task = watched, "task aborted"),
        }
        let _ = sender.send(());
    });
    Task { name, ended, abort }
}

/// Spawns a plain thread called `name` (at most 15 bytes); its error or panic stops the process.
pub fn spawn_thread(
    name: impl Into<String>,
    shutdown: &Shutdown,
    body: impl FnOnce() -> Result<(), TaskError> + Send + 'static,
) -> io::Result<Task> {
    let (name, shutdown) = (name.into(), shutdown.clone());
    if name.len() > THREAD_NAME_LENGTH_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("thread name {name} is longer than {THREAD_NAME_LENGTH_MAX} bytes"),
        ));
    }
    let (sender, ended) = oneshot::channel();
    let watched = name.clone();
    std::thread::Builder::new().name(name.clone()).spawn(move || {
        match catch_unwind(AssertUnwindSafe(body)) {
            Ok(Ok(())) => tracing::debug!(task = watched, "thread ended"),
            Ok(Err(error)) => shutdown.fail(&watched, chain(&*error)),
            Err(panic) => shutdown.fail(&watched, panic_text(&*panic)),
        }
        let _ = sender.send(());
    })?;
    Ok(Task { name, ended, abort: None })
}

/// Runs `future` to its end even if the caller's own future is dropped, as a server does when a
/// client hangs up. Every mutation behind a request goes through here.
pub async fn to_completion<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> Result<T, Failure> {
    let context = crate::http::request_id();
    let future = crate::http::with_request_id(context, future);
    spawn_detached(future).await.map_err(|error| Failure {
        task: "request".to_owned(),
        message: if error.is_panic() {
            panic_text(&*error.into_panic())
        } else {
            "the runtime stopped".to_owned()
        },
    })
}

/// Runs blocking work (files, compression, decoding) on tokio's threads for it.
pub async fn blocking<T: Send + 'static>(
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(body)
        .await
        .map_err(|error| Failure { task: "blocking".to_owned(), message: error.to_string() })
}

#[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
pub(crate) fn spawn_detached<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    tokio::spawn(future)
}

/// All tasks of a process, for the last of the five steps of `run`: wait and drain.
#[derive(Debug)]
pub struct Tasks {
    shutdown: Shutdown,
    tasks: Vec<Task>,
}

impl Tasks {
    /// An empty set under `shutdown`.
    pub fn new(shutdown: &Shutdown) -> Self {
        Self { shutdown: shutdown.clone(), tasks: Vec::new() }
    }

    /// [`spawn`], and remembers the task.
    pub fn spawn(
        &mut self,
        name: impl Into<String>,
        future: impl Future<Output = Result<(), TaskError>> + Send + 'static,
    ) {
        self.tasks.push(spawn(name, &self.shutdown, future));
    }

    /// [`spawn_thread`], and remembers the thread.
    pub fn spawn_thread(
        &mut self,
        name: impl Into<String>,
        body: impl FnOnce() -> Result<(), TaskError> + Send + 'static,
    ) -> io::Result<()> {
        self.tasks.push(spawn_thread(name, &self.shutdown, body)?);
        Ok(())
    }

    /// Adds a task that was spawned elsewhere.
    pub fn add(&mut self, task: Task) {
        self.tasks.push(task);
    }

    /// Waits until a stop is asked for, then gives the tasks `drain` to end. What is still running
    /// after that is aborted (a thread cannot be) and is a failure, unless there was one before.
    pub async fn wait(self, drain: Duration) -> Result<(), Failure> {
        self.shutdown.cancelled().await;
        self.drain(drain).await
    }

    /// Gives the tasks `within` to end, without waiting for a stop to be asked for.
    pub async fn drain(self, within: Duration) -> Result<(), Failure> {
        let deadline = Instant::now() + within;
        for mut task in self.tasks {
            if timeout_at(deadline, &mut task.ended).await.is_err() {
                if let Some(abort) = &task.abort {
                    abort.abort();
                }
                self.shutdown
                    .fail(&task.name, format!("did not end within {} s", within.as_secs()));
            }
        }
        self.shutdown.failure().map_or(Ok(()), Err)
    }
}

/// An error and its causes on one line.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            let _ = write!(text, ": {message}");
        }
        cause = error.source();
    }
    text
}

/// The message that a panic carried.
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned());
    format!("panicked: {text}")
}

#[cfg(test)]
mod tests;
