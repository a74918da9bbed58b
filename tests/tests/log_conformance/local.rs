//! What only the log on disk can be asked: system calls, and a disk that fails.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
};

use super::{child::Worker, place::Fixture, suite::assert_holds};

/// The system calls in the order in which the tracer saw them.
#[derive(Default)]
struct Trace {
    /// Calls that have begun, by thread.
    begun: HashMap<String, String>,
    /// Messages whose bytes were handed to the kernel.
    written: BTreeSet<(u64, u64)>,
    /// Per thread, what had been written when its `fdatasync` began.
    covered: HashMap<String, BTreeSet<(u64, u64)>>,
    durable: BTreeSet<(u64, u64)>,
    acknowledged: usize,
    /// Acknowledged before they were durable.
    too_early: Vec<(u64, u64)>,
    syncs: usize,
}

impl Trace {
    fn of(text: &str) -> Self {
        let mut trace = Self::default();
        text.lines().for_each(|line| trace.line(line));
        trace
    }

    fn line(&mut self, line: &str) {
        let Some((thread, call)) = line.trim_start().split_once(' ') else { return };
        let call = call.trim_start();
        if call.starts_with("<... ") {
            let Some(begun) = self.begun.remove(thread) else { return };
            self.end(thread, &begun, call);
        } else if let Some(begun) = call.strip_suffix("<unfinished ...>") {
            self.begin(thread, begun);
            self.begun.insert(thread.to_owned(), begun.to_owned());
        } else {
            self.begin(thread, call);
            self.end(thread, call, call);
        }
    }

    fn begin(&mut self, thread: &str, call: &str) {
        if call.starts_with("fdatasync(") {
            self.covered.insert(thread.to_owned(), self.written.clone());
        } else if let Some((_, said)) = call.split_once("\"A ")
            && call.starts_with("write(")
        {
            let mut fields = said.split(' ').map(|field| field.parse::<u64>());
            let message = (fields.next().unwrap().unwrap(), fields.next().unwrap().unwrap());
            self.acknowledged += 1;
            if !self.durable.contains(&message) {
                self.too_early.push(message);
            }
        }
    }

    fn end(&mut self, thread: &str, call: &str, outcome: &str) {
        if call.starts_with("pwrite64(") {
            self.written.extend(messages_in(call));
        } else if call.starts_with("fdatasync(") {
            let covered = self.covered.remove(thread).unwrap();
            if outcome.contains("= 0") {
                self.syncs += 1;
                self.durable.extend(covered);
            }
        }
    }
}

/// The `<thread number>` marks in the bytes of a call.
fn messages_in(call: &str) -> Vec<(u64, u64)> {
    let marks = call.split('<').skip(1).filter_map(|rest| rest.split_once('>'));
    let pairs = marks.filter_map(|(mark, _)| mark.split_once(' '));
    pairs.filter_map(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?))).collect()
}

#[test]
fn the_trace_tells_an_acknowledgement_that_comes_too_early() {
    let sound = r#"
1 pwrite64(5, "..<0 1>...<0 2>", 99, 0) = 99
1 fdatasync(5 <unfinished ...>
2 write(7, "A 9 9 0 0\n", 10) = 10
1 pwrite64(5, "<0 3>", 9, 99) = 9
1 <... fdatasync resumed>) = 0
2 write(7, "A 0 1 0 1\n", 10) = 10
2 write(7, "A 0 2 0 2\n", 10) = 10"#;
    assert_eq!(Trace::of(sound).too_early, [(9, 9)]);
    let early = format!("{sound}\n2 write(7, \"A 0 3 0 3\\n\", 10) = 10");
    assert_eq!(Trace::of(&early).too_early, [(9, 9), (0, 3)]);
    let failed = sound.replace(") = 0", ") = -1 EIO (Input/output error)");
    assert_eq!(Trace::of(&failed).too_early, [(9, 9), (0, 1), (0, 2)]);
}

#[test]
fn every_acknowledgement_follows_a_sync_of_its_bytes() {
    let fixture = Fixture::local();
    let trace = fixture.folder.path().join("trace");
    let wrapper = [
        "strace",
        "-f",
        "-s",
        "10000000",
        "-o",
        trace.to_str().unwrap(),
        "-e",
        "trace=write,pwrite64,writev,pwritev,pwritev2,fdatasync",
    ];
    let mut writer = Worker::start_under(&fixture, "append 6 40", &wrapper);
    assert!(writer.finish());
    assert_eq!(writer.acknowledged().len(), 240);
    let seen = Trace::of(&fs::read_to_string(&trace).unwrap());
    assert_eq!(seen.too_early, []);
    assert_eq!(seen.acknowledged, 240, "every acknowledgement was seen");
    assert!(seen.syncs < 240, "{} syncs for 240 messages: commits are shared", seen.syncs);
    assert_holds(&fixture.open(), &writer.acknowledged());
}

/// The log stops at the first failure: what was on its way is unknown, the rest refused, and
/// everything acknowledged is there when it is opened again.
fn assert_stops(fixture: &Fixture, mut writer: Worker) {
    assert!(writer.finish());
    let lines = writer.lines();
    let first = lines.iter().position(|line| line.starts_with('U')).unwrap();
    assert!(lines[..first].iter().any(|line| line.starts_with('A')), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with('R')));
    let unknown: Vec<_> = lines.iter().filter(|line| line.starts_with('U')).collect();
    assert!(unknown.iter().all(|line| line.contains("failed")), "{unknown:?}");
    let acknowledged = writer.acknowledged();
    let log = fixture.open();
    assert_holds(&log, &acknowledged);
    super::suite::append(&log, super::place::ONE, 0, super::child::payload(9, 0));
}

#[test]
fn after_a_failed_sync_nothing_more_is_acknowledged() {
    let fixture = Fixture::local();
    let wrapper = [
        "strace",
        "-f",
        "-o",
        "/dev/null",
        "-e",
        "trace=fdatasync",
        "-e",
        "inject=fdatasync:error=EIO:when=25",
    ];
    let writer = Worker::start_under(&fixture, "append 6 3000", &wrapper);
    assert_stops(&fixture, writer);
}

#[test]
fn a_full_disk_is_unknown_once_and_then_refused() {
    let fixture = Fixture::local();
    // No file may be longer than 190 blocks of 512 bytes; segments would be 100,000 bytes.
    let limit = r#"trap '' XFSZ; ulimit -f 190; exec "$0" "$@""#;
    let writer = Worker::start_under(&fixture, "append 6 3000", &["sh", "-c", limit]);
    assert_stops(&fixture, writer);
}

/// While there is no room everything is refused and nothing changes; then the log goes on by itself.
#[test]
fn a_disk_that_was_full_is_used_again() {
    let fixture = Fixture::local();
    let wrapper = [
        "strace",
        "-f",
        "-o",
        "/dev/null",
        "-e",
        "trace=fallocate",
        "-e",
        "inject=fallocate:error=ENOSPC:when=3..20",
    ];
    let mut writer = Worker::start_under(&fixture, "append 6 3000", &wrapper);
    assert!(writer.finish());
    let lines = writer.lines();
    assert!(lines.iter().all(|line| !line.starts_with('U')), "an outcome is unknown");
    let refused: Vec<_> = lines.iter().filter(|line| line.starts_with('R')).collect();
    assert!(!refused.is_empty(), "the fault did not bite");
    assert!(refused.iter().all(|line| line.contains("the disk is full")), "{refused:?}");
    let last = lines.iter().rposition(|line| line.starts_with('R')).unwrap();
    assert!(lines[last..].iter().any(|line| line.starts_with('A')), "it did not go on");
    assert_holds(&fixture.open(), &writer.acknowledged());
}
