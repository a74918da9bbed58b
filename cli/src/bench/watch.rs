//! What the run takes from the machine: processor time and instructions by role, memory, idle time.

use std::{collections::BTreeMap, time::Duration};

use benches::measure::{
    MachineTime, Process, Threads, peak_memory_kib, processes, tree, tree_memory_kib, tree_time,
};

use super::{
    instructions::{Counter, Counts, EVENT},
    load,
};

/// Threads of Weir's process by the beginning of their names. `weir` is what tokio's workers and
/// its threads for blocking work are called: they serve HTTP and await SQL for all roles.
const ROLES: [(&str, &str); 10] = [
    ("ingest", "ingest"),
    ("rater", "rater"),
    ("ledger", "ledger"),
    ("archive", "archive"),
    ("api", "api"),
    ("local-log", "local-log"),
    ("log-", "kafka client"),
    ("rdk:", "kafka client"),
    ("weir", "tokio (http, sql)"),
    ("", "other"),
];

/// Which processes belong to the run beside our own.
#[derive(Clone, Debug)]
pub struct Pids {
    /// The `weir up`.
    pub weir: u32,
    /// Named roots of process trees.
    pub trees: Vec<(&'static str, u32)>,
}

impl Pids {
    /// Those of a `weir up` and of the servers that it started itself.
    pub fn of(weir: u32) -> Self {
        let children: Vec<Process> =
            processes().into_iter().filter(|process| process.parent == weir).collect();
        let mut trees = Vec::new();
        for child in children {
            if child.command().contains("clickhouse-engine") {
                trees.push(("clickhouse", child.pid));
            } else if child.name == "postgres" {
                trees.push(("postgres", child.pid));
            }
        }
        Self { weir, trees }
    }

    /// Adds a server that somebody else started.
    pub fn add(&mut self, name: &'static str, pid: Option<u32>) {
        self.trees.extend(pid.map(|pid| (name, pid)));
    }
}

/// Measures from its start to its finish.
#[derive(Debug)]
pub struct Watch {
    weir: Threads,
    own: Threads,
    weir_pid: u32,
    before: [Duration; 2],
    trees: Vec<Tree>,
    machine: MachineTime,
    /// Of Weir, then of each tree.
    instructions: Vec<Counter>,
}

#[derive(Debug)]
struct Tree {
    name: &'static str,
    root: u32,
    before: Duration,
    time: Duration,
    peak_kib: u64,
    processes: usize,
}

/// What was used.
#[derive(Clone, Debug)]
pub struct Used {
    /// Processor time by role.
    pub time: BTreeMap<String, Duration>,
    /// Instructions by role.
    pub instructions: Counts,
    /// Most memory by process, in KiB.
    pub peak_kib: BTreeMap<String, u64>,
    /// The part of the machine's time in which it had nothing to do.
    pub idle_share: f64,
}

impl Watch {
    /// Begins.
    pub fn start(pids: &Pids) -> Self {
        let own = std::process::id();
        let tree = |(name, root): &(&'static str, u32)| Tree {
            name,
            root: *root,
            before: Duration::ZERO,
            time: Duration::ZERO,
            peak_kib: 0,
            processes: 0,
        };
        let mut watch = Self {
            weir: Threads::of(pids.weir),
            own: Threads::of(own),
            weir_pid: pids.weir,
            before: [time_of(pids.weir), time_of(own)],
            trees: pids.trees.iter().map(tree).collect(),
            machine: MachineTime::read(),
            instructions: count(pids),
        };
        watch.sample();
        watch.trees.iter_mut().for_each(|tree| tree.before = tree.time);
        watch
    }

    /// Looks at threads and processes, so that those that end are not lost.
    pub fn sample(&mut self) {
        self.weir.sample();
        self.own.sample();
        let all = processes();
        for watched in &mut self.trees {
            let members = tree(watched.root, &all);
            watched.time = watched.time.max(tree_time(&members));
            watched.peak_kib = watched.peak_kib.max(tree_memory_kib(&members));
            watched.processes = watched.processes.max(members.len());
        }
    }

    /// Ends.
    pub fn finish(mut self) -> Used {
        self.sample();
        let instructions = self.counted();
        let idle_share = MachineTime::read().idle_share_since(self.machine);
        let own_pid = std::process::id();
        let [weir_before, own_before] = self.before;
        let weir_total = time_of(self.weir_pid).saturating_sub(weir_before);
        let own_total = time_of(own_pid).saturating_sub(own_before);
        let mut time = by_role(&self.weir, weir_total);
        let generator: Duration = self
            .own
            .times()
            .filter(|(name, _)| name.starts_with(load::THREAD_NAME))
            .map(|(_, time)| time)
            .sum();
        time.insert("generator".to_owned(), generator);
        time.insert("probes, measuring".to_owned(), own_total.saturating_sub(generator));
        let mut peak_kib = BTreeMap::new();
        for (name, pid) in [("weir", self.weir_pid), ("generator", own_pid)] {
            peak_kib.insert(name.to_owned(), peak_memory_kib(pid).unwrap_or_default());
        }
        for tree in &self.trees {
            time.insert(tree.name.to_owned(), tree.time.saturating_sub(tree.before));
            // Of a single process the kernel knows the peak better than our samples do.
            let exact = peak_memory_kib(tree.root).filter(|_| tree.processes == 1);
            peak_kib.insert(tree.name.to_owned(), exact.unwrap_or(tree.peak_kib));
        }
        Used { time, instructions, peak_kib, idle_share }
    }

    fn counted(&mut self) -> Counts {
        let mut counters = self.instructions.drain(..);
        let mut by_role = BTreeMap::<String, u64>::new();
        let of_weir = counters.next().map_or(Ok(Vec::new()), Counter::finish);
        let trees = self.trees.iter().map(|tree| tree.name).zip(counters);
        // All are ended before one's reason is told.
        let trees: Vec<_> = trees.map(|(name, counter)| (name, counter.finish())).collect();
        let all = std::iter::once((None, of_weir))
            .chain(trees.into_iter().map(|(name, counted)| (Some(name), counted)));
        for (tree, counted) in all {
            match counted {
                Ok(counts) => {
                    for (thread, count) in counts {
                        let role = tree.unwrap_or_else(|| role_of(&thread)).to_owned();
                        *by_role.entry(role).or_default() += count;
                    }
                }
                Err(reason) => return Counts::Not(reason),
            }
        }
        Counts::Counted(by_role)
    }
}

/// One counter for Weir, whose threads are its roles, and one for each tree.
fn count(pids: &Pids) -> Vec<Counter> {
    let all = processes();
    let weir = Counter::start(EVENT, &[pids.weir]);
    let of_tree = |(_, root): &(&'static str, u32)| {
        let members: Vec<u32> = tree(*root, &all).iter().map(|process| process.pid).collect();
        Counter::start(EVENT, &members)
    };
    std::iter::once(weir).chain(pids.trees.iter().map(of_tree)).collect()
}

fn role_of(thread: &str) -> &'static str {
    let role = ROLES.iter().find(|(beginning, _)| thread.starts_with(beginning));
    role.map_or("other", |(_, role)| role)
}

/// Processor time of a process so far.
pub fn time_of(pid: u32) -> Duration {
    Process::read(pid).map_or(Duration::ZERO, |process| process.own)
}

/// Time of Weir's threads by role. What the process used beyond them is of threads that ended
/// between two samples.
fn by_role(threads: &Threads, total: Duration) -> BTreeMap<String, Duration> {
    let mut times = BTreeMap::<String, Duration>::new();
    for (name, time) in threads.times() {
        *times.entry(role_of(name).to_owned()).or_default() += time;
    }
    let seen: Duration = times.values().sum();
    *times.entry("other".to_owned()).or_default() += total.saturating_sub(seen);
    times
}
