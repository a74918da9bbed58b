//! System calls of running processes that fail as a broken disk makes them: by strace, which goes away
//! again and leaves the processes alone.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::postgres::TestFolder;

/// What strace writes beside a call that it has made fail.
const MARK: &str = "(INJECTED)";

/// Calls that fail for as long as this lives.
#[derive(Debug)]
pub struct Injected {
    strace: Child,
    folder: TestFolder,
}

impl Injected {
    /// Whether this machine has strace, and allows it to attach.
    pub fn possible() -> bool {
        let tried = Command::new("strace")
            .args(["-qq", "-o", "/dev/null", "-e", "inject=getpid:error=EIO", "true"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status();
        tried.is_ok_and(|status| status.success())
    }

    /// From now on `calls` of these processes, and of those that they start, fail with `error`.
    pub fn into(processes: &[u32], calls: &str, error: &str) -> Result<Injected> {
        let folder = TestFolder::new("strace")?;
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o"]).arg(folder.path().join("calls"));
        command.args(["-e", &format!("trace={calls}")]);
        command.args(["-e", &format!("inject={calls}:error={error}")]);
        for process in processes {
            command.args(["-p", &process.to_string()]);
        }
        let strace = command
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("strace is not installed")?;
        Ok(Injected { strace, folder })
    }

    /// Calls that have failed so far.
    pub fn bitten(&self) -> usize {
        let calls = fs::read(self.folder.path().join("calls")).unwrap_or_default();
        String::from_utf8_lossy(&calls).matches(MARK).count()
    }
}

impl Drop for Injected {
    fn drop(&mut self) {
        if let Ok(id) = i32::try_from(self.strace.id()) {
            let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
        }
        let _ = self.strace.wait();
    }
}
