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
/// Kinds of faults that are told by name.
const KINDS: [(&str, &str); 24] = [
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
    ("F25", "a client that hung up"),
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

/// The table, in Markdown.
pub fn table(lines: &[Line]) -> String {
    let (simulated, lines): (Vec<&Line>, Vec<&Line>) =
        lines.iter().partition(|line| line.seeds > 0);
    let mut faults = BTreeMap::<&str, u64>::new();
    for (kind, times) in lines.iter().flat_map(|line| &line.faults) {
        *faults.entry(kind).or_default() += times;
    }
    let of = |kinds: &[&str]| kinds.iter().filter_map(|kind| faults.get(kind)).sum::<u64>();
    let sum = |of: fn(&Line) -> u64| lines.iter().map(|line| of(line)).sum::<u64>();
    let walks: u64 = simulated.iter().map(|line| line.seeds).sum();
    let (events, lost, doubled) =
        (sum(|line| line.events), sum(|line| line.lost), sum(|line| line.doubled));
    let bound = |times: u64| match (times, lost + doubled) {
        (1.., 0) => format!("{:.1e}", (3.0 / times as f64).min(1.0)),
        _ => "-".to_owned(),
    };
    let seeds: BTreeSet<u64> = lines.iter().map(|line| line.seed).collect();
    let commits: BTreeSet<&str> = lines.iter().map(|line| line.commit.as_str()).collect();
    let mut text = String::from("| | n | 95 % upper bound per trial |\n|---|---:|---:|\n");
    for (name, times) in [
        ("processes killed", of(&["F01"])),
        ("database crashes", of(&["F04", "F05"])),
        ("broker crashes", of(&["F10"])),
        ("events", events),
        ("walks of the simulation (F35)", walks),
    ] {
        let _ = writeln!(text, "| {name} | {times} | {} |", bound(times));
    }
    let _ = writeln!(text, "| **lost** | **{lost}** | |\n| **doubled** | **{doubled}** | |");
    let hours = sum(|line| line.seconds) as f64 / 3_600.0;
    let _ = writeln!(
        text,
        "\n{} runs of {} seeds in {hours:.1} h, at {}.\n\n| fault | | times |\n|---|---|---:|",
        lines.len(),
        seeds.len(),
        commits.into_iter().collect::<Vec<_>>().join(", ")
    );
    for (kind, name) in KINDS {
        if let Some(times) = faults.get(kind) {
            let _ = writeln!(text, "| {} | {name} | {times} |", kind.trim_end_matches('s'));
        }
    }
    text
}

/// The document with this table in it.
pub fn put(document: &str, table: &str) -> Result<String> {
    let (before, rest) =
        document.split_once(MARKS.0).context("the document has no place for it")?;
    let (_, after) = rest.split_once(MARKS.1).context("the document's place for it has no end")?;
    Ok(format!("{before}{}\n{table}{}{after}", MARKS.0, MARKS.1))
}

/// Makes the document's table from the runs that are kept; answers whether it was another one.
pub fn renew() -> Result<bool> {
    let text = fs::read_to_string(document())?;
    let renewed = put(&text, &table(&read(&fs::read_to_string(kept())?)?))?;
    let changed = renewed != text;
    if changed {
        fs::write(document(), renewed)?;
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_sums() {
        let line = |seed: u64, kills: u64| Line {
            scenario: "s".to_owned(),
            seed,
            commit: "abc".to_owned(),
            faults: BTreeMap::from([("F01".to_owned(), kills), ("F05s".to_owned(), 10)]),
            events: 1_000,
            lost: 0,
            doubled: 0,
            seconds: 60,
            seeds: 0,
        };
        let simulated = Line { seeds: 500, ..line(9, 7) };
        let lines = [line(1, 10), line(2, 20), simulated];
        let text = table(&lines);
        assert!(text.contains("| processes killed | 30 | 1.0e-1 |"), "{text}");
        assert!(text.contains("| events | 2000 | 1.5e-3 |"), "{text}");
        assert!(text.contains("(F35) | 500 | 6.0e-3 |"), "{text}");
        assert!(text.contains("| F05 | all sessions of Postgres ended | 20 |"), "{text}");
        assert!(text.contains("2 runs of 2 seeds in 0.0 h, at abc."), "{text}");
        let written: Vec<String> =
            lines.iter().map(|line| serde_json::to_string(line).unwrap()).collect();
        assert_eq!(table(&read(&written.join("\n")).unwrap()), text);
        let lost = table(&[Line { lost: 1, ..line(3, 1) }]);
        assert!(
            lost.contains("| **lost** | **1** |") && lost.contains("| processes killed | 1 | - |"),
            "{lost}"
        );
        let document = put("a<!-- totals: begin -->old<!-- totals: end -->b", "new\n").unwrap();
        assert_eq!(document, "a<!-- totals: begin -->\nnew\n<!-- totals: end -->b");
    }
}
