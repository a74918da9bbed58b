//! The postmaster, and what earlier ones left behind.

use std::{
    fs::File,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{POLL, ServerError};
use crate::{shutdown::Shutdown, task};

/// How long leftovers have to end after each of the signals that [`end_all_in`] sends.
const PATIENCE: [(Signal, Duration); 3] = [
    (Signal::SIGINT, Duration::from_secs(30)),
    (Signal::SIGQUIT, Duration::from_secs(10)),
    (Signal::SIGKILL, Duration::from_secs(10)),
];
/// How long a dropped server is waited for.
const DROP_PATIENCE: Duration = Duration::from_secs(5);

/// A running postmaster and the thread that owns it. The signal on the parent's death is sent
/// when the *thread* that started the child ends, so this thread does nothing but wait for it.
#[derive(Debug)]
pub(super) struct Postmaster {
    pid: u32,
    status: watch::Receiver<Option<String>>,
}

impl Postmaster {
    pub(super) fn start(mut command: Command, log: File) -> Result<Self, ServerError> {
        let fail = || ServerError::io("start postgres");
        let errors = log.try_clone().map_err(fail())?;
        // Ctrl-C reaches the terminal's whole process group; ours must drain before this one stops.
        command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
        let (status_sender, status) = watch::channel(None);
        let (started_sender, started) = mpsc::sync_channel(1);
        // Its end is reported through `status`, not as a failure of the process.
        task::spawn_thread("postmaster", &Shutdown::new(), move || {
            let mut child = match command.spawn() {
                Ok(child) => child,
                Err(error) => return Ok(started_sender.send(Err(error))?),
            };
            started_sender.send(Ok(child.id()))?;
            let ended =
                child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
            status_sender.send_replace(Some(ended));
            Ok(())
        })
        .map_err(fail())?;
        let outcome = started.recv().map_err(|error| fail()(std::io::Error::other(error)))?;
        Ok(Self { pid: outcome.map_err(fail())?, status })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// How it ended, if it has.
    pub(super) fn ended(&self) -> Option<String> {
        self.status.borrow().clone()
    }

    /// Waits for its end.
    pub(super) async fn wait(&self) -> String {
        let mut status = self.status.clone();
        match status.wait_for(Option::is_some).await {
            Ok(ended) => ended.clone().unwrap_or_default(),
            Err(_) => "ended".to_owned(),
        }
    }

    /// Sends `signal` unless it has ended.
    pub(super) fn signal(&self, signal: Signal) {
        if self.ended().is_none() {
            send(self.pid, signal);
        }
    }
}

impl Drop for Postmaster {
    fn drop(&mut self) {
        self.signal(Signal::SIGQUIT);
        let deadline = std::time::Instant::now() + DROP_PATIENCE;
        while self.ended().is_none() && std::time::Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
    }
}

/// Ends every Postgres process that works in `cluster`: a postmaster whose parent was killed, or
/// the children of one that was killed itself. The caller holds the folder's lock, so none of
/// them belongs to a living process of ours. Then a leftover `postmaster.pid` means nothing.
pub(super) async fn end_all_in(cluster: &Path) -> Result<(), ServerError> {
    for (signal, patience) in PATIENCE {
        let deadline = Instant::now() + patience;
        let mut sent = false;
        loop {
            let left = processes_in(cluster);
            if left.is_empty() {
                return forget_pid_file(cluster);
            }
            if !sent {
                tracing::info!(count = left.len(), %signal, "stopping what an earlier postgres left");
                left.iter().for_each(|pid| send(*pid, signal));
                sent = true;
            }
            if Instant::now() > deadline {
                break;
            }
            sleep(POLL).await;
        }
    }
    Err(ServerError::InUse(cluster.to_owned()))
}

fn forget_pid_file(cluster: &Path) -> Result<(), ServerError> {
    match std::fs::remove_file(cluster.join("postmaster.pid")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(ServerError::io("remove a leftover postmaster.pid")(error))
        }
        _ => Ok(()),
    }
}

/// Postmaster and children have the cluster as their working folder, and our names.
fn processes_in(cluster: &Path) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let works_here = |pid: &u32| {
        let folder = std::fs::read_link(format!("/proc/{pid}/cwd"));
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        folder.is_ok_and(|folder| folder == cluster)
            && name.is_ok_and(|name| name.starts_with("postgres"))
    };
    pids.filter(works_here).collect()
}

fn send(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}
