//! The totals of all runs, as `docs/RELIABILITY.md` shows them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::report::Line;

/// What stands before and after the table in the document.
const MARKS: (&str, &str) = ("<!-- totals: begin -->", "<!-- totals: end -->");
/// So much of a commit's name is shown.
const COMMIT_CHARACTERS: usize = 10;
/// Kinds of faults that are told by name.
const KINDS: [(&str, &str); 27] = [
    ("F01", "a process killed (`kill -9`)"),
    ("F02", "an owner paused until another one had its partitions"),
    ("F03", "SIGTERM under load"),
    ("F04", "Postgres killed"),
    ("F05", "Postgres restarted"),
    ("F05s", "all sessions of Postgres ended"),
    ("F06", "the answer of a COMMIT lost"),
    ("F07", "Postgres' disk full"),
    ("F08", "an fsync or a write of Postgres failed"),
    ("F10", "the broker killed"),
    ("F11", "the broker away, mute, or late"),
    ("F12", "the broker's disk full"),
    ("F13", "the archive away, slow, or killed in an insert"),
    ("F14", "a consumer added or removed"),
    ("F15", "every event sent again"),
    ("F16", "another split, order or count of partitions"),
    ("F17", "a clock that is wrong"),
    ("F18", "poison"),
    ("F19", "a role cut off from what it depends on, in one direction or both"),
    ("F20", "links cut one by one, healed in another order"),
    ("F21", "everything slow: links, processors, bandwidth"),
    ("F22", "little memory under as much load as clients can make"),
    ("F23", "no descriptors left, or clients that say nothing or little"),
    ("F24", "far more events than the log takes"),
    ("F25", "a client that hung up"),
    ("F29", "Postgres and the archive lost, and restored from a backup and the log"),
    ("F30", "something changed, removed or added behind Weir's back, and found"),
];

/// The file of the runs that are kept.
pub fn kept() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/faults.jsonl")
}

/// The document.
pub fn document() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/RELIABILITY.md")
}

/// Reads lines of runs.
pub fn read(text: &str) -> Result<Vec<Line>> {
    let line = |(number, text): (usize, &str)| {
        serde_json::from_str(text).with_context(|| format!("line {} of the runs", number + 1))
    };
    text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()).map(line).collect()
}

/// Whether a run has shown anything wrong, or did not come to its end.
fn has_failed(line: &Line) -> bool {
    line.failed.is_some() || line.lost + line.doubled + line.others > 0
}

/// The table, in Markdown: times and events of runs that passed, differences of all. One that failed
/// leaves no bound.
pub fn table(lines: &[Line]) -> String {
    let failed = lines.iter().filter(|line| has_failed(line)).count();
    let passed = lines.iter().filter(|line| !has_failed(line));
    let (walks, runs): (Vec<&Line>, Vec<&Line>) = passed.partition(|line| line.seeds > 0);
    let faults = faults(&runs);
    let of = |kinds: &[&str]| kinds.iter().filter_map(|kind| faults.get(kind)).sum::<u64>();
    let bound = |times: u64| match (times, failed) {
        (1.., 0) => format!("{:.1e}", (3.0 / times as f64).min(1.0)),
        _ => "-".to_owned(),
    };
    let mut text = String::from("| | n | 95 % upper bound per trial |\n|---|---:|---:|\n");
    for (name, times) in [
        ("processes killed", of(&["F01"])),
        ("database crashes", of(&["F04", "F05"])),
        ("broker crashes", of(&["F10"])),
        ("events", runs.iter().map(|line| line.events).sum()),
        ("walks of the simulation (F35)", walks.iter().map(|line| line.seeds).sum()),
    ] {
        let _ = writeln!(text, "| {name} | {times} | {} |", bound(times));
    }
    let sum = |of: fn(&Line) -> u64| lines.iter().map(of).sum::<u64>();
    for (name, times) in [
        ("lost", sum(|line| line.lost)),
        ("doubled", sum(|line| line.doubled)),
        ("other differences", sum(|line| line.others)),
        ("failed runs", failed as u64),
    ] {
        let _ = writeln!(text, "| **{name}** | **{times}** | |");
    }
    let _ = writeln!(text, "\n{}\n\n| fault | | times |\n|---|---|---:|", places(&runs, &walks));
    for (kind, name) in KINDS {
        if let Some(times) = faults.get(kind) {
            let _ = writeln!(text, "| {} | {name} | {times} |", kind.trim_end_matches('s'));
        }
    }
    text
}

/// How often each kind of fault has bitten.
fn faults<'a>(runs: &[&'a Line]) -> BTreeMap<&'a str, u64> {
    let mut faults = BTreeMap::new();
    for (kind, times) in runs.iter().flat_map(|line| &line.faults) {
        *faults.entry(kind.as_str()).or_default() += times;
    }
    faults
}

/// What was run where, and how fast.
fn places(runs: &[&Line], walks: &[&Line]) -> String {
    let rates = || runs.iter().map(|line| line.rate).filter(|rate| *rate > 0);
    let rates = rates().min().zip(rates().max()).map_or_else(String::new, |(least, most)| {
        format!(" Clients had answers to {least} to {most} events a second.")
    });
    let seeds: BTreeSet<u64> = runs.iter().map(|line| line.seed).collect();
    let hours = runs.iter().map(|line| line.seconds).sum::<u64>() as f64 / 3_600.0;
    format!(
        "{} runs of {} seeds in {hours:.1} h, at {}; the walks at {}.{rates}",
        runs.len(),
        seeds.len(),
        commits(runs),
        commits(walks)
    )
}

fn commits(lines: &[&Line]) -> String {
    let short = |line: &&Line| line.commit.chars().take(COMMIT_CHARACTERS).collect::<String>();
    let commits: BTreeSet<String> = lines.iter().map(short).collect();
    match commits.is_empty() {
        true => "none".to_owned(),
        false => commits.into_iter().collect::<Vec<_>>().join(", "),
    }
}

/// The document with this table in it.
pub fn put(document: &str, table: &str) -> Result<String> {
    let (before, rest) =
        document.split_once(MARKS.0).context("the document has no place for it")?;
    let (_, after) = rest.split_once(MARKS.1).context("the document's place for it has no end")?;
    Ok(format!("{before}{}\n{table}{}{after}", MARKS.0, MARKS.1))
}

/// The document as it is, and with the table of the runs that are kept.
pub fn renewed() -> Result<(String, String)> {
    let text = fs::read_to_string(document())?;
    let renewed = put(&text, &table(&read(&fs::read_to_string(kept())?)?))?;
    Ok((text, renewed))
}

/// Makes the document's table from the runs that are kept; answers whether it was another one.
pub fn renew() -> Result<bool> {
    let (text, renewed) = renewed()?;
    let changed = renewed != text;
    if changed {
        fs::write(document(), renewed)?;
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(seed: u64, kills: u64) -> Line {
        Line {
            scenario: "s".to_owned(),
            seed,
            commit: "abc".to_owned(),
            faults: BTreeMap::from([("F01".to_owned(), kills), ("F05s".to_owned(), 10)]),
            events: 1_000,
            rate: 100 * seed,
            lost: 0,
            doubled: 0,
            others: 0,
            failed: None,
            seconds: 60,
            seeds: 0,
        }
    }

    #[test]
    fn totals_are_sums() {
        let walks = Line { seeds: 500, commit: "0123456789ab".to_owned(), ..line(9, 7) };
        let lines = [line(1, 10), line(2, 20), walks];
        let text = table(&lines);
        assert!(text.contains("| processes killed | 30 | 1.0e-1 |"), "{text}");
        assert!(text.contains("| events | 2000 | 1.5e-3 |"), "{text}");
        assert!(text.contains("(F35) | 500 | 6.0e-3 |"), "{text}");
        assert!(text.contains("| F05 | all sessions of Postgres ended | 20 |"), "{text}");
        let places = "2 runs of 2 seeds in 0.0 h, at abc; the walks at 0123456789. \
                      Clients had answers to 100 to 200 events a second.";
        assert!(text.contains(places), "{text}");
        assert!(text.contains("| **failed runs** | **0** |"), "{text}");
        let written: Vec<String> =
            lines.iter().map(|line| serde_json::to_string(line).unwrap()).collect();
        assert_eq!(table(&read(&written.join("\n")).unwrap()), text);
    }

    #[test]
    fn a_failed_run_leaves_no_bound_and_counts_for_nothing() {
        let late = Line { failed: Some("not in time".to_owned()), events: 0, ..line(3, 5) };
        let wrong = |lost, doubled, others| Line { lost, doubled, others, ..line(4, 5) };
        let walks = Line { seeds: 500, ..late.clone() };
        for (one, row) in [
            (late, "| **lost** | **0** |"),
            (wrong(1, 0, 0), "| **lost** | **1** |"),
            (wrong(0, 2, 0), "| **doubled** | **2** |"),
            (wrong(0, 0, 3), "| **other differences** | **3** |"),
            (walks, "(F35) | 0 | - |"),
        ] {
            let text = serde_json::to_string(&one).unwrap();
            let text = table(&[vec![line(1, 10)], read(&text).unwrap()].concat());
            for row in [row, "killed | 10 | - |", "| events | 1000 | - |", "runs** | **1** |"] {
                assert!(text.contains(row), "{row}: {text}");
            }
        }
    }

    #[test]
    fn the_table_has_its_place() {
        let document = put("a<!-- totals: begin -->old<!-- totals: end -->b", "new\n").unwrap();
        assert_eq!(document, "a<!-- totals: begin -->\nnew\n<!-- totals: end -->b");
        assert!(put("a", "new\n").is_err());
    }
}
