//! Processes that can be killed: this binary run again, told by its environment what to do.
//!
//! A child writes a line per happening to its report with one `write`, so the report is complete
//! up to the moment of its death.
//!
//! * `A thread number partition position`: this append was acknowledged there.
//! * `U ...`, `R ...`: the outcome of this append is unknown, it was refused.
//! * `O 0,1,2`: these partitions are owned now.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::Write as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use runtime::{
    config::variable,
    log::{AppendError, Pending, SharedLog},
};

use tests::process::freeze;

use super::place::{Fixture, ONE, PARTITIONS, Place};

/// Appends of one thread that may be on their way at once.
const IN_FLIGHT: usize = 8;
/// A thread gives up after so many refusals in a row.
const REFUSED_MAX: usize = 20;

/// Not a test: what a child runs. On its own it does nothing.
#[test]
fn entry() {
    let Some(task) = variable("WEIR_TEST_TASK") else { return };
    let place = Place::from_text(&variable("WEIR_TEST_PLACE").unwrap());
    let report = PathBuf::from(variable("WEIR_TEST_REPORT").unwrap());
    let report = File::options().create(true).append(true).open(report).unwrap();
    let log = place.open();
    match task.split(' ').collect::<Vec<_>>().as_slice() {
        ["append", threads, count] => append(&log, &report, number(threads), number(count)),
        ["own"] => own(&log, &report),
        _ => panic!("not a task: {task}"),
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap()
}

fn say(mut report: &File, line: &str) {
    report.write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// A message that names its writer, of a length that varies.
pub fn payload(thread: u64, number: u64) -> Bytes {
    let mut text = format!("<{thread} {number}>");
    text.extend(std::iter::repeat_n('.', (number as usize * 131 + thread as usize) % 1500));
    Bytes::from(text)
}

/// The writer and number of a message.
pub fn author(payload: &[u8]) -> (u64, u64) {
    let text = std::str::from_utf8(payload).unwrap();
    let inner = text.strip_prefix('<').unwrap().split_once('>').unwrap().0;
    let (thread, at) = inner.split_once(' ').unwrap();
    let author = (number(thread), number(at));
    assert_eq!(payload, self::payload(author.0, author.1), "the whole message is as it was sent");
    author
}

/// Threads that append, each to one partition, several at a time.
fn append(log: &SharedLog, report: &File, threads: u64, count: u64) {
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                let partition = (thread % u64::from(PARTITIONS)) as u32;
                let mut flying = VecDeque::new();
                let mut refused = 0;
                for number in 0..count {
                    flying.push_back((number, log.append(ONE, partition, payload(thread, number))));
                    if flying.len() == IN_FLIGHT {
                        let fate = land(report, thread, partition, flying.pop_front());
                        refused = if fate == Some('R') { refused + 1 } else { 0 };
                    }
                    if refused == REFUSED_MAX {
                        break;
                    }
                }
                while !flying.is_empty() {
                    land(report, thread, partition, flying.pop_front());
                }
            });
        }
    });
}

/// Waits for an append and reports its fate: the letter of its line.
fn land(
    report: &File,
    thread: u64,
    partition: u32,
    flying: Option<(u64, Pending)>,
) -> Option<char> {
    let (number, pending) = flying?;
    let line = match pending.0.blocking_recv().unwrap() {
        Ok(appended) => format!("A {thread} {number} {partition} {}", appended.position),
        Err(AppendError::Unknown(reason)) => format!("U {thread} {number} {reason}"),
        Err(AppendError::Refused(reason)) => {
            // Do not ask again at full speed.
            std::thread::sleep(Duration::from_millis(1));
            format!("R {thread} {number} {reason}")
        }
    };
    say(report, &line);
    line.chars().next()
}

/// A member of a group that appends to what it believes to own, until it is killed.
fn own(log: &SharedLog, report: &File) {
    let membership = log.join(ONE, "owners").unwrap();
    let owned = membership.owned();
    let mut before = Vec::new();
    for number in 0.. {
        let now = owned.borrow().clone();
        if now != before {
            let list: Vec<String> = now.iter().map(u32::to_string).collect();
            say(report, &format!("O {}", list.join(",")));
            before.clone_from(&now);
        }
        for partition in now {
            let pending = log.append(ONE, partition, payload(100, number));
            land(report, 100, partition, Some((number, pending)));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A child at work.
pub struct Worker {
    child: Child,
    report: PathBuf,
}

impl Worker {
    pub fn start(fixture: &Fixture, task: &str) -> Self {
        Self::start_under(fixture, task, &[])
    }

    /// Starts it by a program that runs the command it is given, such as `strace`.
    pub fn start_under(fixture: &Fixture, task: &str, wrapper: &[&str]) -> Self {
        let report = fixture.folder.path().join(format!("report-{}", uuid::Uuid::now_v7()));
        File::create(&report).unwrap();
        let program = std::env::current_exe().unwrap();
        let words = wrapper.iter().map(|word| (*word).to_owned());
        let mut words = words.chain([program.to_str().unwrap().to_owned()]);
        let child = Command::new(words.next().unwrap())
            .args(words)
            .args(["--exact", "child::entry", "--test-threads", "1"])
            .env("WEIR_TEST_TASK", task)
            .env("WEIR_TEST_PLACE", fixture.place.to_text())
            .env("WEIR_TEST_REPORT", &report)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, report }
    }

    /// The lines so far; one that is still being written is left out.
    pub fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.report).unwrap();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(str::to_owned).collect()
    }

    /// The acknowledged appends so far.
    pub fn acknowledged(&self) -> Vec<Acknowledged> {
        let lines = self.lines();
        lines.iter().filter_map(|line| Acknowledged::parse(line)).collect()
    }

    pub fn signal(&self, signal: Signal) {
        if signal == Signal::SIGSTOP {
            return freeze(self.child.id()).unwrap();
        }
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its own end; `false` if it failed.
    pub fn finish(&mut self) -> bool {
        self.child.wait().unwrap().success()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One acknowledged append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    pub thread: u64,
    pub number: u64,
    pub partition: u32,
    pub position: i64,
}

impl Acknowledged {
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<i64> =
            line.strip_prefix("A ")?.split(' ').map(|field| field.parse().unwrap()).collect();
        let [thread, number, partition, position] = fields.as_slice() else { return None };
        Some(Self {
            thread: *thread as u64,
            number: *number as u64,
            partition: *partition as u32,
            position: *position,
        })
    }
}
