//! Keeps the engine's process running: started, awaited, restarted with back-off, ended.

use std::{
    io::{BufRead, BufReader, Read},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::sync::oneshot;

use super::engine::{EngineError, PARENT_VARIABLE};
use crate::backoff::Backoff;

/// Where the engine's allocator, jemalloc, takes its options from.
const ALLOCATOR_VARIABLE: &str = "JE_MALLOC_CONF";
/// Each insert needs what the one before it has freed: memory goes back to the system after a minute, not
/// after five seconds, so that its pages need not be cleared again. Allocations are not sampled.
const ALLOCATOR: &str = "prof:false,dirty_decay_ms:60000";

/// Ours, then those of the environment: of two the last one counts.
fn allocator() -> String {
    let own = crate::config::variable(ALLOCATOR_VARIABLE).unwrap_or_default();
    if own.is_empty() { ALLOCATOR.into() } else { format!("{ALLOCATOR},{own}") }
}

/// How to start the engine's process.
#[derive(Debug, Clone)]
pub struct EngineLaunch {
    /// The program whose `arguments` lead to [`super::engine::serve`].
    pub program: PathBuf,
    /// What comes before `--library L --data D --listen A --connections N`.
    pub arguments: Vec<String>,
    /// Path of libchdb.so, see [`super::find_library`].
    pub library: PathBuf,
    /// The engine's data folder.
    pub data: PathBuf,
    /// How many statements run at once.
    pub connections: usize,
}

/// An engine that is kept running. Dropping it ends the process.
#[derive(Debug)]
pub struct Engine {
    address: SocketAddr,
    status: Arc<Status>,
    /// Closed or sent to: the supervisor ends the process and itself.
    stop: Option<mpsc::SyncSender<()>>,
    supervisor: Option<thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Status {
    process: AtomicU32,
    starts: AtomicU32,
}

/// A folder that was killed in the middle of much work is read at start.
const START_TIME_MAX: Duration = Duration::from_secs(120);
/// A little more than the engine gives its running statements.
const STOP_TIME_MAX: Duration = Duration::from_secs(30);
const RESTART_DELAY_MIN: Duration = Duration::from_millis(100);
const RESTART_DELAY_MAX: Duration = Duration::from_secs(10);
/// A process that lived as long has earned a fast restart.
const STEADY_AFTER: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

impl Engine {
    /// Starts the process and waits until it listens. The first start is tried once.
    pub async fn start(launch: EngineLaunch) -> Result<Self, EngineError> {
        let (stop, stop_asked) = mpsc::sync_channel(1);
        let (started, ready) = oneshot::channel();
        let status = Arc::new(Status::default());
        let shared = Arc::clone(&status);
        // A thread that lives as long as the engine: the process dies with the thread that
        // started it, and those of a runtime come and go.
        let supervisor = thread::Builder::new()
            .name("clickhouse-supervisor".into())
            .spawn(move || supervise(&launch, &shared, started, &stop_asked))
            .map_err(|source| system("start a thread", source))?;
        let address = ready
            .await
            .unwrap_or_else(|_| Err(EngineError::Library("the supervisor panicked".into())))?;
        Ok(Self { address, status, stop: Some(stop), supervisor: Some(supervisor) })
    }

    /// Where it answers; stays the same across restarts.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Process id of the engine as last started.
    pub fn process_id(&self) -> u32 {
        self.status.process.load(Ordering::Relaxed)
    }

    /// How often it was started, the first time included.
    pub fn starts(&self) -> u32 {
        self.status.starts.load(Ordering::Relaxed)
    }

    /// Ends the process: it finishes what runs and closes its data folder.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        if let Some(supervisor) = self.supervisor.take() {
            let _ = tokio::task::spawn_blocking(move || supervisor.join()).await;
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(supervisor) = self.supervisor.take() {
            let _ = supervisor.join();
        }
    }
}

fn supervise(
    launch: &EngineLaunch,
    status: &Status,
    started: oneshot::Sender<Result<SocketAddr, EngineError>>,
    stop: &mpsc::Receiver<()>,
) {
    let any_port = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    let (address, mut child) = match launch_once(launch, any_port, status) {
        Ok((address, child)) => {
            let _ = started.send(Ok(address));
            (address, child)
        }
        Err(fault) => {
            let _ = started.send(Err(fault));
            return;
        }
    };
    let mut backoff = Backoff::new(RESTART_DELAY_MIN, RESTART_DELAY_MAX);
    loop {
        let began = Instant::now();
        if let Some(running) = &mut child {
            let Some(exit) = watch(running, stop) else {
                return end(running);
            };
            tracing::error!(%exit, "the ClickHouse engine ended; it is restarted");
        }
        if began.elapsed() > STEADY_AFTER {
            backoff.reset();
        }
        if asked_to_stop(stop, backoff.pause()) {
            return;
        }
        child = match launch_once(launch, address, status) {
            Ok((_, child)) => child,
            Err(fault) => {
                tracing::error!(error = %fault, "the ClickHouse engine does not start");
                None
            }
        };
    }
}

/// Waits `time` for a word to stop; a sender that is gone has asked.
fn asked_to_stop(stop: &mpsc::Receiver<()>, time: Duration) -> bool {
    !matches!(stop.recv_timeout(time), Err(mpsc::RecvTimeoutError::Timeout))
}

/// Waits until the process has ended, or `None` when it is to be ended.
fn watch(child: &mut Child, stop: &mpsc::Receiver<()>) -> Option<String> {
    loop {
        match child.try_wait() {
            Ok(Some(exit)) => return Some(exit.to_string()),
            Ok(None) if asked_to_stop(stop, POLL_INTERVAL) => return None,
            Ok(None) => {}
            Err(fault) => return Some(fault.to_string()),
        }
    }
}

/// SIGTERM, then SIGKILL when that was not enough.
fn end(child: &mut Child) {
    if let Ok(process) = i32::try_from(child.id()) {
        let _ = kill(Pid::from_raw(process), Signal::SIGTERM);
    }
    let deadline = Instant::now() + STOP_TIME_MAX;
    while Instant::now() < deadline {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        thread::sleep(POLL_INTERVAL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn system(what: &str, source: std::io::Error) -> EngineError {
    EngineError::System { what: what.to_owned(), source }
}

/// Starts the process and waits for its address.
fn launch_once(
    launch: &EngineLaunch,
    listen: SocketAddr,
    status: &Status,
) -> Result<(SocketAddr, Option<Child>), EngineError> {
    let mut child = Command::new(&launch.program)
        .args(&launch.arguments)
        .arg("--library")
        .arg(&launch.library)
        .arg("--data")
        .arg(&launch.data)
        .args(["--listen", &listen.to_string()])
        .args(["--connections", &launch.connections.to_string()])
        .env(PARENT_VARIABLE, std::process::id().to_string())
        .env(ALLOCATOR_VARIABLE, allocator())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|source| system(&format!("start {}", launch.program.display()), source))?;
    let Some(output) = child.stdout.take() else {
        return Err(EngineError::Library("the engine has no output".into()));
    };
    match first_line(output).recv_timeout(START_TIME_MAX) {
        Ok(Some(address)) => {
            status.process.store(child.id(), Ordering::Relaxed);
            status.starts.fetch_add(1, Ordering::Relaxed);
            Ok((address, Some(child)))
        }
        _ => {
            let _ = child.kill();
            let exit = child.wait().map(|exit| exit.to_string()).unwrap_or_default();
            let message = format!("the ClickHouse engine did not start: {exit}");
            Err(EngineError::Library(message))
        }
    }
}

/// Reads `listening ADDRESS`, then drains the output so that the process never waits for us.
fn first_line(output: ChildStdout) -> mpsc::Receiver<Option<SocketAddr>> {
    let (found, address) = mpsc::sync_channel(1);
    let reader = thread::Builder::new().name("clickhouse-output".into()).spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = String::new();
        let _ = output.by_ref().take(256).read_line(&mut line);
        let said = line.strip_prefix("listening ").and_then(|said| said.trim().parse().ok());
        let _ = found.send(said);
        let _ = std::io::copy(&mut output, &mut std::io::sink());
    });
    drop(reader);
    address
}
