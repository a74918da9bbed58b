//! Metrics: read out of the sources, and out of the documents and rules that name them.
//!
//! A metric stands in the sources as a text that begins with `weir_` and is the first argument of a
//! call whose second one is a text as well, its help; or in a text with `# HELP` before it.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    check_none, documents_and_scripts, sources, text,
    tokens::{Token, tokens, without_tests},
};

/// What every metric begins with.
const PREFIX: &str = "weir_";
/// Crates whose metrics are served.
const CRATES: [&str; 7] = ["runtime", "ingest", "rater", "ledger-writer", "archiver", "api", "cli"];
/// What Prometheus adds to the name of a histogram.
const OF_HISTOGRAMS: [&str; 3] = ["_bucket", "_sum", "_count"];
/// Beginnings of credentials, which look like metrics.
const CREDENTIALS: [&str; 2] = ["weir_live_", "weir_app_"];

/// What the sources name.
#[derive(Debug, Default)]
struct Metrics {
    /// Where each metric is registered.
    places: BTreeMap<String, String>,
    /// Other texts that look like metrics, with their places.
    others: BTreeMap<String, String>,
}

/// Whether a character may stand in a name.
fn inside(char: char) -> bool {
    char.is_ascii_alphanumeric() || char == '_'
}

/// Names that begin as metrics do, in any text.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|char: char| !inside(char));
    words.filter(|word| word.starts_with(PREFIX)).map(str::to_owned).collect()
}

/// Reads the metrics of sources, given by path and text.
fn registered(sources: impl IntoIterator<Item = (String, String)>) -> Metrics {
    let mut metrics = Metrics::default();
    for (file, text) in sources {
        let (krate, rest) = file.split_once('/').unwrap_or_default();
        let is_test = rest.ends_with("tests.rs") || rest.contains("/tests/");
        if !CRATES.contains(&krate) || !rest.starts_with("src/") || is_test {
            continue;
        }
        let tokens = without_tests(tokens(&text));
        for (number, (token, line)) in tokens.iter().enumerate() {
            let Token::Text(text) = token else { continue };
            let place = format!("{file}:{line}");
            let near = |at: usize| tokens.get(at).map(|(token, _)| token);
            let first = number > 0 && near(number - 1).is_some_and(|token| token.is('('));
            let helped = near(number + 1).is_some_and(|token| token.is(','))
                && matches!(near(number + 2), Some(Token::Text(_)));
            let helps = text.split("# HELP ").skip(1).flat_map(|rest| rest.split(' ').next());
            metrics.places.extend(helps.map(|name| (name.to_owned(), place.clone())));
            if text.starts_with(PREFIX) && text.chars().all(inside) {
                let found = if first && helped { &mut metrics.places } else { &mut metrics.others };
                found.insert(text.clone(), place);
            }
        }
    }
    metrics
}

/// Metrics that a document describes: those that begin the rows of its tables, with whether all
/// their cells say something.
fn described(document: &str) -> BTreeMap<String, bool> {
    let mut found = BTreeMap::new();
    for line in document.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let whole = cells.len() == 4 && cells.iter().all(|cell| !cell.is_empty());
        let first = cells.first().copied().unwrap_or_default();
        found.extend(names(first).into_iter().map(|name| (name, whole)));
    }
    found
}

impl Metrics {
    /// What a document, rule or source calls `name`, and nobody registers: neither a metric, nor the
    /// beginning of some, nor one of the `roles` of Postgres, nor the beginning of a credential.
    fn is_unknown(&self, name: &str, roles: &BTreeSet<String>) -> bool {
        let metric = |name: &str| self.places.contains_key(name);
        let of_histogram =
            OF_HISTOGRAMS.iter().any(|end| name.strip_suffix(end).is_some_and(metric));
        let beginning =
            name.ends_with('_') && self.places.keys().any(|metric| metric.starts_with(name));
        let credential = CREDENTIALS.iter().any(|credential| name.starts_with(credential));
        !(metric(name) || of_histogram || beginning || credential || roles.contains(name))
    }
}

#[test]
fn every_metric_is_described_and_every_metric_that_is_spoken_of_is_there() {
    let metrics = registered(sources());
    assert!(metrics.places.len() >= 60, "only {:?}", metrics.places.keys());
    for known in ["weir_not_ready", "weir_lag_seconds", "weir_ledger_writer_windows_total"] {
        assert!(metrics.places.contains_key(known), "{known} is not found");
    }
    let described = described(&text("docs/METRICS.md").unwrap_or_default());
    let roles = names(&text("deploy/postgres/roles.sql").unwrap_or_default());
    let mut found = Vec::new();
    for (name, place) in &metrics.places {
        match described.get(name) {
            Some(true) => {}
            Some(false) => found.push(format!("docs/METRICS.md has an empty cell beside {name}")),
            None => found.push(format!("docs/METRICS.md lacks {name} of {place}")),
        }
    }
    for name in described.keys().filter(|name| !metrics.places.contains_key(*name)) {
        found.push(format!("no source registers {name} of docs/METRICS.md"));
    }
    for (file, text) in documents_and_scripts() {
        for name in names(&text) {
            if metrics.is_unknown(&name, &roles) {
                found.push(format!("{file} speaks of {name}, which nobody registers"));
            }
        }
    }
    for (name, place) in &metrics.others {
        if metrics.is_unknown(name, &roles) {
            found.push(format!("{place}: {name} looks like a metric: write its help beside it"));
        }
    }
    check_none("metrics", &found);
}

#[test]
fn metrics_are_found_however_they_are_written() {
    let source = r##"
        //! counter("weir_in_a_comment", "Help.")
        fn new(registry: &Registry) {
            registry.counter("weir_one_total", "Help.");
            by_closure(
                "weir_two_seconds",
                // A comment.
                "Help.",
                &["label"],
            );
            text.push_str("# HELP weir_three About it.\n# TYPE weir_three gauge\n");
            connect("weir_role");
            gauges(&text, "weir_one_total");
        }
        #[cfg(test)]
        mod tests { fn test() { registry.counter("weir_in_a_test", "Help."); } }
    "##;
    let metrics = registered([("api/src/one.rs".to_owned(), source.to_owned())]);
    let found: Vec<&str> = metrics.places.keys().map(String::as_str).collect();
    assert_eq!(found, ["weir_one_total", "weir_three", "weir_two_seconds"]);
    let roles = BTreeSet::from(["weir_role".to_owned()]);
    let unknown = |name: &str| metrics.is_unknown(name, &roles);
    assert!(
        ["weir_role", "weir_two_seconds_bucket", "weir_one_"].into_iter().all(|one| !unknown(one))
    );
    assert!(["weir_one", "weir_four", "weir_five_"].into_iter().all(unknown));
    let table =
        "| `weir_one_total{label}` | counter | it | wait |\n| `weir_two_seconds` | gauge | | |";
    let whole = described(table).into_values().collect::<Vec<_>>();
    assert_eq!(whole, [true, false]);
}
