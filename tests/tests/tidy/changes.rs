//! Tests that the changelog names: what holds a change must be there as long as the line is.

use std::collections::BTreeSet;

use crate::{check_none, files, sources, text};

/// What stands before the names of what holds a change.
const HELD: &str = "eld by ";

/// What may hold a change.
struct Holders {
    files: BTreeSet<String>,
    sources: Vec<(String, String)>,
}

/// Names in the first sentence behind each [`HELD`] of a line, and paths of tests anywhere in it.
fn named(line: &str) -> BTreeSet<&str> {
    let behind = line.split(HELD).skip(1).filter_map(|rest| rest.split(". ").next());
    let held = behind.flat_map(quoted);
    held.chain(quoted(line).filter(|name| name.starts_with("tests/"))).collect()
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

impl Holders {
    /// A file of tests, a fuzz target or one of its inputs, or a function that is a test.
    fn has(&self, name: &str) -> bool {
        let input = format!("fuzz/corpus/{name}");
        let inputs = format!("{input}/");
        let function = name.rsplit("::").next().unwrap_or(name);
        let module = name.rsplit("::").nth(1).map(|module| format!("/{module}.rs"));
        let tests = |(file, text): &(String, String)| {
            module.as_ref().is_none_or(|module| file.ends_with(module))
                && text.contains(&format!("fn {function}("))
        };
        self.files.contains(name)
            || self.files.iter().any(|file| *file == input || file.starts_with(&inputs))
            || self.sources.iter().any(tests)
    }
}

#[test]
fn what_the_changelog_says_holds_a_change_is_there() {
    let holders = Holders { files: files().into_iter().collect(), sources: sources() };
    let changes = text("CHANGELOG.md").unwrap();
    let mut missing = Vec::new();
    let mut found = 0;
    for (number, line) in (1..).zip(changes.lines()) {
        let names = named(line);
        found += names.len();
        if line.contains(HELD) && names.is_empty() {
            missing
                .push(format!("CHANGELOG.md:{number} says that something holds it, and not what"));
        }
        let gone = names.into_iter().filter(|name| !holders.has(name));
        missing.extend(gone.map(|name| format!("CHANGELOG.md:{number} names `{name}`")));
    }
    check_none("no test has this name", &missing);
    assert!(found > 10, "the changelog names {found} tests");
}

#[test]
fn names_of_tests_are_found_in_lines() {
    let line =
        "- api: `x` is `y` (`tests/tests/late.rs`). Held by `one::two` and `three`. Not `four`.";
    assert_eq!(named(line), ["one::two", "tests/tests/late.rs", "three"].into());
    let source = "fn two() {} fn threefold() {}".to_owned();
    let files = ["tests/tests/late.rs", "fuzz/corpus/json/deep"].map(str::to_owned).into();
    let holders = Holders { files, sources: vec![("a/one.rs".to_owned(), source)] };
    for name in ["one::two", "two", "tests/tests/late.rs", "json", "json/deep"] {
        assert!(holders.has(name), "{name}");
    }
    for name in ["three", "one::three", "other::two", "tests/tests/soon.rs", "jso", "json/de"] {
        assert!(!holders.has(name), "{name}");
    }
}
