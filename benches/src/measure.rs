//! Processor time and memory of processes and of their threads, from `/proc`.
//!
//! Threads are told apart by their names. A thread that has ended leaves nothing behind in `/proc`,
//! so threads are sampled often, and what the process used beyond their sum is reported on its own.

use std::{collections::HashMap, fs, time::Duration};

/// Linux counts processor time in `/proc/PID/stat` in hundredths of a second, on every machine.
const TICKS_PER_SECOND: u64 = 100;

/// A process as `/proc/PID/stat` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// The first 15 bytes of its name.
    pub name: String,
    /// The number of its parent.
    pub parent: u32,
    /// Processor time of its threads, those that have ended included.
    pub own: Duration,
    /// Processor time of its children that have ended and were waited for.
    pub ended_children: Duration,
    /// When it began, in ticks since the machine did: tells two processes of one number apart.
    started: u64,
}

impl Process {
    /// The process `pid`, if there is one.
    #[must_use]
    pub fn read(pid: u32) -> Option<Process> {
        parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Its command line, in words.
    #[must_use]
    pub fn command(&self) -> String {
        let command = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        String::from_utf8_lossy(&command).replace('\0', " ")
    }
}

fn parse_stat(text: &str) -> Option<Process> {
    // A name may hold blanks and brackets; the last bracket ends it.
    let (head, tail) = text.rsplit_once(')')?;
    let (pid, name) = head.split_once('(')?;
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
    let time = |first, second| {
        let ticks = number(first)?.saturating_add(number(second)?);
        Some(Duration::from_millis(ticks.saturating_mul(1_000 / TICKS_PER_SECOND)))
    };
    Some(Process {
        pid: pid.trim().parse().ok()?,
        name: name.to_owned(),
        parent: u32::try_from(number(1)?).ok()?,
        own: time(11, 12)?,
        ended_children: time(13, 14)?,
        started: number(19)?,
    })
}

/// Processor time of the thread that asks, to the nanosecond.
#[must_use]
pub fn thread_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    on_processor(&text).unwrap_or_default()
}

/// All processes of the machine.
#[must_use]
pub fn processes() -> Vec<Process> {
    numbers("/proc").into_iter().filter_map(Process::read).collect()
}

/// The process `root` and all below it, of `all`; `root` first.
#[must_use]
pub fn tree(root: u32, all: &[Process]) -> Vec<Process> {
    let mut members: Vec<Process> =
        all.iter().filter(|process| process.pid == root).cloned().collect();
    let mut next = 0;
    while let Some(parent) = members.get(next).map(|process| process.pid) {
        members.extend(all.iter().filter(|process| process.parent == parent).cloned());
        next += 1;
    }
    members
}

/// Processor time of a tree: of those that run, and of the root's children that have ended.
#[must_use]
pub fn tree_time(tree: &[Process]) -> Duration {
    let ended = tree.first().map_or(Duration::ZERO, |root| root.ended_children);
    tree.iter().map(|process| process.own).sum::<Duration>() + ended
}

/// Most memory that a process has held so far, in KiB.
#[must_use]
pub fn peak_memory_kib(pid: u32) -> Option<u64> {
    status_kib(pid, "VmHWM:")
}

/// Memory that a tree holds now, in KiB: what each process has for itself, and what they share,
/// taken once.
#[must_use]
pub fn tree_memory_kib(tree: &[Process]) -> u64 {
    let field = |process: &Process, name| status_kib(process.pid, name).unwrap_or_default();
    let own: u64 = tree.iter().map(|process| field(process, "RssAnon:")).sum();
    let shared = |process| field(process, "RssFile:") + field(process, "RssShmem:");
    own + tree.iter().map(shared).max().unwrap_or_default()
}

fn status_kib(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Processor time of a process' threads since the first sample, by name.
#[derive(Debug)]
pub struct Threads {
    pid: u32,
    seen: HashMap<(u32, u64), Thread>,
    sampled: bool,
}

#[derive(Clone, Debug)]
struct Thread {
    name: String,
    before: Duration,
    time: Duration,
}

impl Threads {
    /// Takes the first sample.
    #[must_use]
    pub fn of(pid: u32) -> Threads {
        let mut threads = Threads { pid, seen: HashMap::new(), sampled: false };
        threads.sample();
        threads
    }

    /// Looks again.
    pub fn sample(&mut self) {
        let folder = format!("/proc/{}/task", self.pid);
        for thread in numbers(&folder) {
            let file = |name: &str| fs::read_to_string(format!("{folder}/{thread}/{name}")).ok();
            let Some(stat) = file("stat").and_then(|text| parse_stat(&text)) else { continue };
            // To the nanosecond where the kernel keeps it.
            let exact = file("schedstat").and_then(|text| on_processor(&text));
            let time = exact.unwrap_or(stat.own);
            let before = if self.sampled { Duration::ZERO } else { time };
            let entry = self.seen.entry((stat.pid, stat.started));
            let known = entry.or_insert_with(|| Thread { name: String::new(), before, time });
            (known.name, known.time) = (stat.name, time);
        }
        self.sampled = true;
    }

    /// Name and time of every thread seen.
    pub fn times(&self) -> impl Iterator<Item = (&str, Duration)> {
        self.seen
            .values()
            .map(|thread| (thread.name.as_str(), thread.time.saturating_sub(thread.before)))
    }
}

/// The first number of `schedstat`: nanoseconds on a processor.
fn on_processor(text: &str) -> Option<Duration> {
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

fn numbers(folder: &str) -> Vec<u32> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Time of all processors together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MachineTime {
    idle: u64,
    total: u64,
}

impl MachineTime {
    /// Until now.
    #[must_use]
    pub fn read() -> MachineTime {
        parse_machine(&fs::read_to_string("/proc/stat").unwrap_or_default()).unwrap_or_default()
    }

    /// The part of the time since `before` in which processors had nothing to do.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "ticks of a run are far below 2⁵³")]
    pub fn idle_share_since(self, before: MachineTime) -> f64 {
        let total = self.total.saturating_sub(before.total).max(1);
        self.idle.saturating_sub(before.idle) as f64 / total as f64
    }
}

/// user, nice, system, idle, iowait, irq, softirq, steal of the line `cpu`.
fn parse_machine(text: &str) -> Option<MachineTime> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> =
        line.split_whitespace().take(8).filter_map(|text| text.parse().ok()).collect();
    let idle = ticks.get(3)?.saturating_add(*ticks.get(4)?);
    Some(MachineTime { idle, total: ticks.iter().sum() })
}

/// Name of the processor and how many of them there are.
#[must_use]
pub fn machine() -> (String, usize) {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    (model.map_or("unknown", |(_, name)| name).to_owned(), count)
}

/// Kind of the file system that holds `path`, which must be absolute.
#[must_use]
pub fn file_system(path: &str) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let holds = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?.to_owned(), fields.next()?.to_owned());
        let rest = path.strip_prefix(point.trim_end_matches('/'))?;
        (rest.is_empty() || rest.starts_with('/')).then_some((point.len(), kind))
    };
    // Of two mounts at one place, the later one is what is seen.
    let kind = mounts.lines().filter_map(holds).max_by_key(|(length, _)| *length);
    kind.map_or_else(|| "unknown".to_owned(), |(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let text = "12 (a) b (c) S 7 1 1 0 -1 4 1 2 3 4 150 50 30 20 20 0 9 0 777 1 2";
        let process = parse_stat(text).unwrap();
        assert_eq!((process.pid, process.parent, process.started), (12, 7, 777));
        assert_eq!(process.name, "a) b (c");
        assert_eq!((process.own.as_millis(), process.ended_children.as_millis()), (2_000, 500));
        assert_eq!(parse_stat("12 (a) S 7"), None);
    }

    #[test]
    fn a_tree_is_its_root_and_all_below() {
        let process = |pid, parent, own| Process {
            pid,
            name: String::new(),
            parent,
            own: Duration::from_secs(own),
            ended_children: Duration::from_secs(100),
            started: 0,
        };
        let all = [
            process(5, 4, 1),
            process(2, 1, 2),
            process(4, 2, 4),
            process(3, 1, 8),
            process(6, 2, 16),
        ];
        let tree = tree(2, &all);
        assert_eq!(tree.first().map(|root| root.pid), Some(2));
        assert_eq!(tree_time(&tree), Duration::from_secs(100 + 1 + 2 + 4 + 16));
        assert!(super::tree(9, &all).is_empty());
    }

    #[test]
    fn work_is_seen_under_its_threads_name() {
        let mut threads = Threads::of(std::process::id());
        let before = Process::read(std::process::id()).unwrap().own;
        let (stop, stopped) = std::sync::mpsc::sync_channel::<()>(0);
        let body = move || {
            let mut bits = 1;
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                bits = crate::generator::mix(bits);
            }
            std::hint::black_box(bits);
        };
        let worker = std::thread::Builder::new().name("measured".into()).spawn(body).unwrap();
        let of_worker = |threads: &Threads| {
            threads
                .times()
                .filter(|(name, _)| *name == "measured")
                .map(|(_, time)| time)
                .sum::<Duration>()
        };
        while of_worker(&threads) < Duration::from_millis(50) {
            threads.sample();
        }
        drop(stop);
        worker.join().unwrap();
        threads.sample();
        assert!(
            of_worker(&threads) >= Duration::from_millis(50),
            "an ended thread is not forgotten"
        );
        assert!(Process::read(std::process::id()).unwrap().own > before);
        assert!(peak_memory_kib(std::process::id()).unwrap() > 1_000);
    }

    #[test]
    fn idle_time_is_a_share() {
        let before = parse_machine("cpu  10 0 10 70 10 0 0 0 5 5\ncpu0 1").unwrap();
        let after = parse_machine("cpu  60 0 10 110 20 0 0 0 9 9\ncpu0 1").unwrap();
        assert!((after.idle_share_since(before) - 0.5).abs() < 1e-9);
        assert_eq!(parse_machine("intr 1"), None);
    }
}
