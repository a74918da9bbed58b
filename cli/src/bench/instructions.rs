//! Instructions of processes, counted by `perf stat` where the machine has counters for them.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Serialize;

/// What is counted: instructions of a program itself, not the kernel's on its behalf.
pub const EVENT: &str = "instructions:u";

const PERF_MISSING: &str = "not counted: perf is missing (apt-get install linux-perf)";
const NOT_SUPPORTED: &str =
    "not supported: this machine has no counters for it; see benches/instructions.sh";

/// What was counted, or why nothing was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Counts {
    /// Instructions by role.
    Counted(BTreeMap<String, u64>),
    /// Why there are none.
    Not(String),
}

/// A `perf stat` of one group of processes, which ends with this.
#[derive(Debug)]
pub struct Counter(Result<Child, String>);

impl Counter {
    /// Counts `event` in all threads of `pids`, and in those that they will start, from now on.
    pub fn start(event: &str, pids: &[u32]) -> Self {
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        let mut command = Command::new("perf");
        command.args(["stat", "--per-thread", "-x", "\\t", "-e", event, "-p", &pids.join(",")]);
        command
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        Self(command.spawn().map_err(|error| match error.kind() {
            ErrorKind::NotFound => PERF_MISSING.to_owned(),
            _ => format!("not counted: perf: {error}"),
        }))
    }

    /// Ends. The counts by thread, with the beginning of the thread's name; or why there are none.
    pub fn finish(mut self) -> Result<Vec<(String, u64)>, String> {
        let failed = |error: &dyn std::fmt::Display| format!("not counted: perf: {error}");
        let child = std::mem::replace(&mut self.0, Err(String::new()))?;
        let pid = i32::try_from(child.id()).map_err(|error| failed(&error))?;
        // If it has ended already, it says why.
        kill(Pid::from_raw(pid), Signal::SIGINT).map_err(|error| failed(&error))?;
        let output = child.wait_with_output().map_err(|error| failed(&error))?;
        parse(&String::from_utf8_lossy(&output.stderr))
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        if let Ok(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Lines of `perf stat --per-thread -x \t`: `name-thread`, the count, its unit, the event, …
fn parse(text: &str) -> Result<Vec<(String, u64)>, String> {
    let mut counts = Vec::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [thread, count, _unit, _event, ..] = fields.as_slice() else { continue };
        let Some((name, _)) = thread.rsplit_once('-') else { continue };
        match *count {
            "<not supported>" => return Err(NOT_SUPPORTED.to_owned()),
            // A thread that did nothing.
            "<not counted>" => {}
            count => {
                let whole = count.split_once('.').map_or(count, |(whole, _)| whole);
                let count = whole.parse().map_err(|error| {
                    format!("not counted: perf says {count:?} of {name}: {error}")
                })?;
                counts.push((name.to_owned(), count));
            }
        }
    }
    if counts.is_empty() {
        let said = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("nothing");
        return Err(format!("not counted: perf says {}", said.trim()));
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_perf_prints_is_read() {
        let counted = "rater-0-797\t1957305473\t\tinstructions:u\t1957305473\t100.00\t\t\n\
            a\u{fffd} b-755\t<not counted>\t\tinstructions:u\t0\t100.00\t\t\n\
            busy-12\t1957.31\tmsec\ttask-clock:u\t1957305473\t100.00\t0.998\tCPUs utilized\n";
        let counts = [("rater-0".to_owned(), 1_957_305_473), ("busy".to_owned(), 1_957)];
        assert_eq!(parse(counted), Ok(counts.to_vec()));
        let unsupported = "weir-755\t<not supported>\t\tinstructions:u\t0\t100.00\t\t\n";
        assert_eq!(parse(unsupported), Err(NOT_SUPPORTED.to_owned()));
        assert_eq!(
            parse("\nError:\nNo permission\n"),
            Err("not counted: perf says Error:".to_owned())
        );
        assert_eq!(parse(""), Err("not counted: perf says nothing".to_owned()));
        assert!(parse("weir-755\t12x\t\tinstructions:u\t0\n").unwrap_err().contains("12x"));
    }

    /// Processor time is counted in the same way, and on every machine that has `perf`.
    #[test]
    fn a_busy_thread_is_counted_under_its_name_where_there_is_perf() {
        let (stop, stopped) = std::sync::mpsc::sync_channel::<()>(0);
        let body = move || while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {};
        let busy = std::thread::Builder::new().name("counted".into()).spawn(body).unwrap();
        let counter = Counter::start("task-clock:u", &[std::process::id()]);
        std::thread::sleep(Duration::from_millis(1_500));
        let counts = counter.finish();
        drop(stop);
        busy.join().unwrap();
        match counts {
            Ok(counts) => {
                let counted = counts.iter().find(|(name, _)| name == "counted");
                assert!(counted.is_some_and(|(_, count)| *count > 0), "{counts:?}");
            }
            // Not installed, or not allowed in this container: the bench says so.
            Err(reason) => assert!(reason.starts_with("not "), "{reason}"),
        }
    }
}
