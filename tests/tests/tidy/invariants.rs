//! Invariants: listed in `docs/RELIABILITY.md`, and named where they are held and where a test would
//! see them broken.

use std::collections::{BTreeMap, BTreeSet};

use crate::{check_none, sources, text};

/// What the name of an invariant begins with; two digits follow.
const PREFIX: &str = "INV-";
/// Crates that ship: where an invariant can be held.
const CRATES: [&str; 9] =
    ["domain", "runtime", "ledger", "ingest", "rater", "ledger-writer", "archiver", "api", "cli"];

/// Where invariants are named: the files, by name of the invariant.
#[derive(Debug, Default)]
struct Named {
    /// In what ships.
    held: BTreeMap<String, BTreeSet<String>>,
    /// In tests.
    tested: BTreeMap<String, BTreeSet<String>>,
    /// In what neither ships nor tests.
    elsewhere: BTreeMap<String, BTreeSet<String>>,
}

/// Names of invariants in a text, each behind the place where it begins.
fn names(text: &str) -> impl Iterator<Item = (usize, String)> {
    text.match_indices(PREFIX).map(|(at, _)| {
        let rest = &text[at + PREFIX.len()..];
        let digits = rest.chars().take_while(char::is_ascii_digit).collect::<String>();
        (at, format!("{PREFIX}{digits}"))
    })
}

/// The invariants that a document lists: what the rows of its tables begin with.
fn listed(document: &str) -> BTreeSet<String> {
    let rows = document.lines().filter_map(|line| line.strip_prefix("| "));
    rows.filter(|row| row.starts_with(PREFIX))
        .filter_map(|row| names(row).next().map(|(_, name)| name))
        .collect()
}

/// Finds the names in sources, given by path and text. From the first item that is compiled for
/// tests only, a file is a test.
fn named(sources: impl IntoIterator<Item = (String, String)>) -> Named {
    let mut named = Named::default();
    for (file, text) in sources {
        // This file and its test speak of invariants, and hold none.
        if file.contains("tests/tidy") {
            continue;
        }
        let (krate, _) = file.split_once('/').unwrap_or_default();
        let test = krate == "tests" || file.contains("/tests/") || file.ends_with("/tests.rs");
        let tests_at = if test { 0 } else { text.find("#[cfg(test)]").unwrap_or(text.len()) };
        for (at, name) in names(&text) {
            let named = match at >= tests_at {
                true => &mut named.tested,
                false if CRATES.contains(&krate) => &mut named.held,
                false => &mut named.elsewhere,
            };
            named.entry(name).or_default().insert(file.clone());
        }
    }
    named
}

/// What is wrong, and what to do about it.
fn faults(listed: &BTreeSet<String>, named: &Named) -> Vec<String> {
    let mut faults = Vec::new();
    for name in listed {
        if !named.held.contains_key(name) {
            faults.push(format!("no source says where {name} is held: name it there"));
        }
        if !named.tested.contains_key(name) {
            faults.push(format!("no test is about {name}: name it in one that fails without it"));
        }
    }
    for (name, files) in named.held.iter().chain(&named.tested).chain(&named.elsewhere) {
        if !listed.contains(name) {
            faults.push(format!("docs/RELIABILITY.md does not list {name} of {files:?}"));
        }
    }
    faults
}

#[test]
fn every_invariant_is_named_where_it_is_held_and_where_it_is_tested() {
    let listed = listed(&text("docs/RELIABILITY.md").unwrap_or_default());
    assert!(listed.len() >= 20, "docs/RELIABILITY.md lists only {listed:?}");
    let named = named(sources());
    check_none("invariants", &faults(&listed, &named));
}

#[test]
fn invariants_are_told_apart_by_who_names_them() {
    let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let sources = [
        file("rater/src/one.rs", "// INV-01.\n#[cfg(test)]\nmod tests { /* INV-02 */ }"),
        file("rater/src/one/tests.rs", "// INV-01, INV-03"),
        file("tests/src/two.rs", "// INV-09"),
        file("benches/src/three.rs", "// INV-04"),
        file("tests/tests/tidy/four.rs", "// INV-05"),
    ];
    let named = named(sources);
    let keys = |map: &BTreeMap<String, BTreeSet<String>>| map.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&named.held), ["INV-01"]);
    assert_eq!(keys(&named.tested), ["INV-01", "INV-02", "INV-03", "INV-09"]);
    let document = "| INV-01 | it |\n| INV-02 | that, as INV-07 |\n| INV-06 | this |\nINV-08";
    let listed = listed(document);
    assert_eq!(listed.iter().collect::<Vec<_>>(), ["INV-01", "INV-02", "INV-06"]);
    let faults = faults(&listed, &named);
    let about = ["INV-02", "INV-06", "INV-06", "INV-03", "INV-09", "INV-04"];
    assert_eq!(faults.len(), about.len(), "{faults:?}");
    for (fault, about) in faults.iter().zip(about) {
        assert!(fault.contains(about), "{faults:?}");
    }
}
