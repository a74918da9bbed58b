//! The architecture as tests: what may depend on what, and where things may stand.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

#[path = "tidy/changes.rs"]
mod changes;
#[path = "tidy/codes.rs"]
mod codes;
#[path = "tidy/invariants.rs"]
mod invariants;
#[path = "tidy/metrics.rs"]
mod metrics;
#[path = "tidy/migrations.rs"]
mod migrations;
#[path = "tidy/options.rs"]
mod options;
#[path = "tidy/tokens.rs"]
mod tokens;
#[path = "tidy/totals.rs"]
mod totals;

use tokens::{Token, tokens, without_tests};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Files that are or will be in the repository, by their path in it.
fn files() -> Vec<String> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut files: Vec<String> =
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    files.retain(|file| root().join(file).is_file());
    assert!(files.len() > 50, "git lists only {files:?}");
    files
}

/// A file's text, or `None` if it is not text.
fn text(file: &str) -> Option<String> {
    fs::read_to_string(root().join(file)).ok()
}

/// Names in `[dependencies]` of a crate.
fn dependencies(krate: &str) -> BTreeSet<String> {
    let manifest = text(&format!("{krate}/Cargo.toml")).unwrap();
    let (_, rest) = manifest.split_once("[dependencies]").unwrap();
    let section = rest.split("\n[").next().unwrap();
    let name = |line: &str| line.split(['.', ' ', '=']).next().unwrap().to_owned();
    section
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(name)
        .collect()
}

fn check_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

#[test]
fn domain_depends_on_exactly_this() {
    // Nothing here does I/O, reads a clock, draws a random number or is asynchronous.
    let expected = [
        "blake3",
        "cel",
        "ethnum",
        "hashbrown",
        "jiff",
        "lz4_flex",
        "serde",
        "serde_json",
        "siphasher",
        "smallvec",
        "thiserror",
        "uuid",
        "xxhash-rust",
    ];
    let expected: BTreeSet<String> = expected.map(str::to_owned).into();
    assert_eq!(dependencies("domain"), expected);
}

#[test]
fn arrows_point_from_services_to_ledger_to_runtime_to_domain() {
    let services = ["ingest", "rater", "ledger-writer", "archiver", "api"];
    let mut found = Vec::new();
    for service in services {
        for other in services.into_iter().chain(["cli", "tests", "benches"]) {
            if dependencies(service).contains(other) {
                found.push(format!("{service} depends on {other}"));
            }
        }
    }
    for (lower, higher) in
        [("domain", "runtime"), ("domain", "ledger"), ("runtime", "ledger"), ("runtime", "domain")]
    {
        if dependencies(lower).contains(higher) {
            found.push(format!("{lower} depends on {higher}"));
        }
    }
    for krate in ["ingest", "rater", "archiver"] {
        if dependencies(krate).contains("ledger") {
            found.push(format!("{krate} depends on ledger"));
        }
    }
    check_none("services meet in topics and tables only", &found);
}

/// Whether `word` stands in `text` by itself.
fn has_word(text: &str, word: &str) -> bool {
    let inside =
        |char: Option<char>| char.is_some_and(|char| char.is_ascii_alphanumeric() || char == '_');
    text.match_indices(word).any(|(at, _)| {
        !inside(text[..at].chars().next_back()) && !inside(text[at + word.len()..].chars().next())
    })
}

#[test]
fn runtime_knows_no_business_nouns() {
    let nouns = [
        "team",
        "customer",
        "meter",
        "wallet",
        "invoice",
        "price",
        "rating",
        "subscription",
        "coupon",
        "entitlement",
        "ledger",
        "receivable",
        "charge",
        "billing",
    ];
    let mut found = Vec::new();
    for file in files().iter().filter(|file| file.starts_with("runtime/src/")) {
        for (number, line) in text(file).unwrap_or_default().lines().enumerate() {
            let line = line.to_lowercase();
            for noun in nouns.iter().filter(|noun| has_word(&line, noun)) {
                found.push(format!("{file}:{}: {noun}", number + 1));
            }
        }
    }
    check_none("runtime is plumbing", &found);
}

/// Where a float stands in a source: a type, or a number with a point.
fn floats(source: &str) -> Vec<String> {
    let found = without_tests(tokens(source));
    let sign = |at: usize| found.get(at).is_some_and(|(token, _)| token.is('.'));
    let other = |at: usize| matches!(found.get(at), Some((Token::Other, _)));
    let mut floats = Vec::new();
    for (at, (token, line)) in found.iter().enumerate() {
        match token.word() {
            Some(word) if ["f32", "f64"].contains(&word) => floats.push(format!("{line}: {word}")),
            // Not the second field of a field, which has a point before it.
            None if other(at) && sign(at + 1) && other(at + 2) && !(at > 0 && sign(at - 1)) => {
                floats.push(format!("{line}: a number with a point"));
            }
            _ => {}
        }
    }
    floats
}

#[test]
fn no_float_on_the_way_of_quantities_and_money() {
    // What CEL reads of a number with a point tells its sign, and that the text is the number's.
    let but = [("domain/src/formula/parse.rs", 2)];
    let on_the_way = ["domain", "ledger", "ingest", "rater", "ledger-writer"];
    let mut checked = 0;
    for (file, text) in sources() {
        let is_test = file.ends_with("/tests.rs") || file.contains("/tests/");
        if !is_test && on_the_way.iter().any(|krate| file.starts_with(&format!("{krate}/src/"))) {
            checked += 1;
            let found = floats(&text);
            let allowed = but.iter().find(|(name, _)| *name == file).map_or(0, |(_, count)| *count);
            assert_eq!(found.len(), allowed, "{file} {found:?}");
        }
    }
    assert!(checked > 100, "{checked} files");
    let seen = floats("fn a(b: f64) -> (u8, c) { (1.5 * b, d.0.1, 0..5, 2, \"1.5 f64\") } // 2.5");
    assert_eq!(seen, ["1: f64", "1: a number with a point"]);
}

#[test]
fn sql_stands_in_stores_the_ledger_and_the_archiver() {
    let allowed = |file: &str| {
        file.starts_with("ledger/")
            || file.starts_with("archiver/")
            || file.starts_with("tests/")
            || file.starts_with("runtime/src/postgres")
            || file.starts_with("runtime/src/clickhouse")
            || file.contains("/store/")
            || file.ends_with("/store.rs")
            || file.contains("/tests/")
    };
    let calls =
        ["sqlx::query", "sqlx::raw_sql", "AssertSqlSafe", "query_json_rows(\"", "execute(\""];
    let mut found = Vec::new();
    for file in files().iter().filter(|file| file.ends_with(".rs") && !allowed(file)) {
        for (number, line) in text(file).unwrap_or_default().lines().enumerate() {
            if calls.iter().any(|call| line.contains(call)) && !line.trim_start().starts_with("//")
            {
                found.push(format!("{file}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    check_none("SQL stands with its store", &found);
}

#[test]
fn every_migration_is_compiled_in() {
    let sources: String = files()
        .iter()
        .filter(|file| file.starts_with("cli/src/") && file.ends_with(".rs"))
        .filter_map(|file| text(file))
        .collect();
    let migrations: Vec<String> =
        files().into_iter().filter(|file| file.starts_with("migrations/")).collect();
    assert!(migrations.len() >= 2, "{migrations:?}");
    let missing: Vec<String> =
        migrations.into_iter().filter(|file| !sources.contains(&format!("/{file}\""))).collect();
    check_none("not in cli/src", &missing);
}

#[test]
fn links_in_documents_resolve() {
    let mut found = Vec::new();
    for file in files().iter().filter(|file| file.ends_with(".md")) {
        let document = text(file).unwrap_or_default();
        let folder = root().join(file).parent().unwrap().to_owned();
        for (at, _) in document.match_indices("](") {
            let link = document[at + 2..].split([')', ' ']).next().unwrap_or_default();
            let path = link.split('#').next().unwrap_or_default();
            let elsewhere = link.contains("://") || link.starts_with("mailto:") || path.is_empty();
            if !elsewhere && !folder.join(path).exists() {
                found.push(format!("{file}: {link}"));
            }
        }
    }
    check_none("broken links", &found);
}

#[test]
fn no_machine_is_named() {
    // Written in pieces, so that this file passes its own test.
    let banned = [["/ro", "ot/"], ["/wo", "rk/"], ["/ho", "me/"]].map(|parts| parts.concat());
    let mut found = Vec::new();
    for file in files() {
        for (number, line) in text(&file).unwrap_or_default().lines().enumerate() {
            if banned.iter().any(|path| line.contains(path.as_str())) {
                found.push(format!("{file}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    check_none("paths of one machine", &found);
}

#[test]
fn every_crate_says_what_it_is() {
    let mut found = Vec::new();
    for krate in ["ingest", "rater", "ledger-writer", "archiver", "api"] {
        let readme = text(&format!("{krate}/README.md")).unwrap_or_default();
        if readme.lines().count() < 5 {
            found.push(format!("{krate}/README.md"));
        }
    }
    check_none("a service has a README of one screen", &found);
}

/// What the workspace may depend on of others, each with the text above it. Parts of one library
/// (`serde` and `serde_json`) share theirs.
fn workspace_dependencies() -> Vec<(String, String)> {
    let manifest = text("Cargo.toml").unwrap();
    let (_, rest) = manifest.split_once("[workspace.dependencies]").unwrap();
    let family = |name: &str| name.split(['-', '_']).next().unwrap().to_owned();
    let mut found: Vec<(String, String)> = Vec::new();
    let mut reason = String::new();
    for line in rest.split("\n[").next().unwrap().lines() {
        if let Some(comment) = line.strip_prefix('#') {
            reason.push_str(comment);
        } else if let Some((name, value)) = line.split_once(" = ")
            && !value.contains("path = ")
        {
            let shared = found.last().filter(|(before, _)| family(before) == family(name));
            let shared = shared.filter(|_| reason.is_empty()).map(|(_, reason)| reason.clone());
            found.push((name.to_owned(), shared.unwrap_or_else(|| std::mem::take(&mut reason))));
            reason.clear();
        }
    }
    assert!(found.len() > 40, "{found:?}");
    found
}

fn crates() -> Vec<String> {
    let manifests = files().into_iter().filter(|file| file.ends_with("/Cargo.toml"));
    manifests.map(|file| file.trim_end_matches("/Cargo.toml").to_owned()).collect()
}

#[test]
fn every_dependency_has_its_reason_and_its_user() {
    let mut found = Vec::new();
    let crates = crates();
    for (name, reason) in workspace_dependencies() {
        if reason.split_whitespace().count() < 3 {
            found.push(format!("{name} has no sentence that says why it is there"));
        }
        let needs = |krate: &String| {
            let manifest = text(&format!("{krate}/Cargo.toml")).unwrap();
            manifest.lines().any(|line| {
                line.strip_prefix(&name).is_some_and(|rest| rest.starts_with([' ', '.']))
            })
        };
        if !crates.iter().any(needs) {
            found.push(format!("{name} is used by no crate"));
        }
    }
    check_none("dependencies", &found);
}

#[test]
fn no_crate_names_a_dependency_that_it_does_not_use() {
    let mut found = Vec::new();
    for krate in crates() {
        let sources: String = files()
            .iter()
            .filter(|file| file.starts_with(&format!("{krate}/")) && file.ends_with(".rs"))
            .filter_map(|file| text(file))
            .collect();
        let manifest = text(&format!("{krate}/Cargo.toml")).unwrap();
        let (_, rest) = manifest.split_once("[dependencies]").unwrap();
        for line in rest.lines() {
            let Some((name, _)) = line.split_once(".workspace = true") else { continue };
            // The mapping of `weir replay` is compiled into the fuzz targets.
            let elsewhere = krate == "fuzz" && ["anyhow", "jiff"].contains(&name);
            if !has_word(&sources, &name.replace('-', "_")) && !elsewhere {
                found.push(format!("{krate}: {name}"));
            }
        }
    }
    check_none("unused dependencies", &found);
}

#[test]
fn every_build_keeps_to_the_lockfile() {
    let builds = [
        "cargo build",
        "cargo test",
        "cargo run",
        "cargo clippy",
        "cargo install",
        "cargo metadata",
        "cargo bench",
    ];
    let mut found = Vec::new();
    for file in files()
        .iter()
        .filter(|file| file.ends_with(".sh") || file.ends_with(".md") || file.ends_with("Makefile"))
    {
        for (number, line) in text(file).unwrap_or_default().lines().enumerate() {
            let build = builds.iter().any(|build| line.contains(build));
            if build && !line.contains("--locked") && !line.contains("--version") {
                found.push(format!("{file}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    check_none("a build that may take other versions than were tested", &found);
}

fn sources() -> Vec<(String, String)> {
    let sources = files().into_iter().filter(|file| file.ends_with(".rs"));
    sources.filter_map(|file| text(&file).map(|text| (file, text))).collect()
}

#[test]
fn every_code_is_described_and_every_code_described_is_there() {
    let codes = codes::codes(sources());
    check_none("write the code as a text, as a constant, or call it `code`", &codes.faults);
    let described = codes::described(&text("docs/ERRORS.md").unwrap_or_default());
    let mut found = Vec::new();
    for (code, places) in &codes.places {
        if !described.contains_key(code) {
            found.push(format!("docs/ERRORS.md lacks `{code}` of {places:?}"));
        }
    }
    for (code, status) in &codes.statuses {
        if described.get(code).is_some_and(|statuses| !statuses.contains(status.as_str())) {
            found.push(format!(
                "docs/ERRORS.md does not say that `{code}` is answered with {status}"
            ));
        }
    }
    for code in described.keys().filter(|code| !codes.places.contains_key(*code)) {
        found.push(format!("no source has `{code}` of docs/ERRORS.md"));
    }
    check_none("codes", &found);

    // One of each way in which a code is written.
    let known = [
        "all_rejected",
        "body_too_large",
        "catalog_invalid",
        "dimension_too_long",
        "id_missing",
        "internal",
        "log_unavailable",
        "method_not_allowed",
        "others_rejected",
        "quantity_negative",
        "starting",
        "token_expired",
        "token_malformed",
    ];
    assert!(codes.places.len() >= 120, "only {:?}", codes.places.keys());
    for code in known {
        assert!(codes.places.contains_key(code), "{code} is not found");
    }
}

#[test]
fn codes_are_found_however_they_are_written() {
    let source = r##"
        //! Problem::bad_request("in_a_comment", "", "")
        const NAMED: &str = "by_constant";
        impl Problem {
            pub fn new(status: StatusCode, code: &'static str, detail: &str) -> Self { todo() }
            pub fn not_found(code: &'static str, detail: &str) -> Self {
                Self::new(StatusCode::NOT_FOUND, code, detail)
            }
            fn own() -> Self { Self::new(StatusCode::CONFLICT, "by_self", "x, \"y\"") }
        }
        fn helper(map: BTreeMap<u8, u8>, code: &'static str) -> Problem { Problem::not_found(code, "") }
        fn calls() {
            let quote = '"';
            Problem::not_found(
                // On a line of its own.
                "by_call",
                format!("{quote} is {}", missing("no_code", (1, 2))),
            );
            Problem::new(StatusCode::GONE, NAMED, r#"not "a" code"#);
            helper(map(1, 2), "by_helper");
            let refuse = |reason, detail: &str| Rejection { reason, detail };
            refuse("by_closure", "some text");
            let (status, code) = match fault { Fault::One => (400, "by_tuple"), _ => other(1, "not_one") };
            let code = if one { "by_variable" } else { "by_other" };
            Rejection { reason: "by_field", detail };
            Result { code: Some("by_option"), detail: None };
            Problem::not_found(fault.code(), "");
            Problem::not_found(pick(fault), "");
        }
        fn code(self) -> &'static str { match self { Fault::One => "by_function" } }
        #[cfg(test)]
        mod tests { fn test() { Problem::not_found("in_a_test", ""); } }
    "##;
    let file = |name: &str| (name.to_owned(), source.to_owned());
    let codes = codes::codes([file("api/src/one.rs")]);
    let found: Vec<&str> = codes.places.keys().map(String::as_str).collect();
    let wanted = [
        "by_call",
        "by_closure",
        "by_constant",
        "by_field",
        "by_function",
        "by_helper",
        "by_option",
        "by_other",
        "by_self",
        "by_tuple",
        "by_variable",
    ];
    assert_eq!(found, wanted);
    let status = |code: &str, status: &str| (code.to_owned(), status.to_owned());
    assert_eq!(codes.statuses, [status("by_call", "404"), status("by_self", "409")].into());
    assert_eq!(codes.faults.len(), 1, "{:?}", codes.faults);
    let elsewhere = codes::codes([file("tests/src/one.rs"), file("api/src/one/tests.rs")]);
    assert!(elsewhere.places.is_empty(), "{elsewhere:?}");

    let document =
        "| code | status |\n|---|---|\n| `one`, `two` | 400 | `not_this` |\nand `not_that`";
    let described = codes::described(document);
    assert_eq!(described.keys().map(String::as_str).collect::<Vec<_>>(), ["one", "two"]);
}

/// What people read about how it is, by path and text. The changelog says how it was.
fn documents() -> Vec<(String, String)> {
    let documents = files().into_iter().filter(|file| file.ends_with(".md"));
    documents
        .filter(|file| file != "CHANGELOG.md")
        .filter_map(|file| text(&file).map(|text| (file, text)))
        .collect()
}

/// [`documents`], and what machines read beside them: units, rules, scripts.
fn documents_and_scripts() -> Vec<(String, String)> {
    let scripts = files()
        .into_iter()
        .filter(|file| file.starts_with("deploy/") && !file.ends_with(".md"))
        .filter_map(|file| text(&file).map(|text| (file, text)));
    documents().into_iter().chain(scripts).collect()
}
