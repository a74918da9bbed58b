//! Options: read out of the sources, and out of the commented default that `weir config` prints.
//!
//! The tree of options begins at `Config` in `cli/src/config.rs`. A field is an option unless its
//! type is a struct of the same kind of file, which is then a section.

use std::collections::{BTreeMap, BTreeSet};

use crate::{check_none, documents, documents_and_scripts, files, has_word, sources, text};

/// Where the tree of options begins.
const ROOT: (&str, &str) = ("cli/src/config.rs", "Config");
/// What config.toml does not explain, this does in its section "Settings".
const DOCUMENT: &str = "docs/OPERATIONS.md";
/// Sections that several programs share.
const SHARED: &str = "runtime/src/config/sections.rs";

/// A field of a struct, a variant, or a field of a variant.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    /// Its name.
    name: String,
    /// The type of a field; of a variant what stands behind its name.
    text: String,
    /// Whether it has a comment that says what it is.
    documented: bool,
    /// Its attributes.
    attributes: String,
}

/// A struct or an enum.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Declaration {
    /// Its name.
    name: String,
    /// Its attributes.
    attributes: String,
    /// What is in it.
    members: Vec<Member>,
}

/// Reads the structs and enums of a file that is formatted as `rustfmt` does it. What stands in a
/// module of the file is left out.
fn declarations(text: &str) -> Vec<Declaration> {
    let mut found: Vec<Declaration> = Vec::new();
    let (mut attributes, mut documented, mut in_attribute, mut open) =
        (String::new(), false, false, false);
    for line in text.lines() {
        let trimmed = line.trim();
        if in_attribute || trimmed.starts_with("#[") {
            attributes.push_str(trimmed);
            in_attribute = !trimmed.ends_with(']');
            continue;
        }
        if trimmed.starts_with("///") {
            documented = true;
            continue;
        }
        let words = trimmed.trim_start_matches("pub(crate) ").trim_start_matches("pub ");
        let head = words.strip_prefix("struct ").or_else(|| words.strip_prefix("enum "));
        if let Some(head) = head.filter(|_| !line.starts_with(' ')) {
            let name = head.split([' ', '(', '<', ';']).next().unwrap_or_default().to_owned();
            let attributes = std::mem::take(&mut attributes);
            found.push(Declaration { name, attributes, members: Vec::new() });
            open = head.ends_with('{');
        } else if line == "}" {
            open = false;
        } else if let Some((declaration, (name, text))) =
            found.last_mut().filter(|_| open).zip(member(words))
        {
            let attributes = std::mem::take(&mut attributes);
            declaration.members.push(Member { name, text, documented, attributes });
        }
        attributes.clear();
        documented = false;
    }
    found
}

/// The name of a member and what stands behind it, if the line is one.
fn member(line: &str) -> Option<(String, String)> {
    let line = line.trim_start_matches("r#");
    let end = line.find(|char: char| !(char.is_ascii_alphanumeric() || char == '_'))?;
    let (name, rest) = line.split_at(end);
    let begins = rest.starts_with([':', ',', '(']) || rest == " {";
    let text = rest.trim_start_matches(':').trim_end_matches(',').trim();
    (begins && !name.is_empty()).then(|| (name.to_owned(), text.to_owned()))
}

/// Options by key, such as `log.kafka.brokers`, with their fields. `read` gives the text of a file.
fn options(read: &dyn Fn(&str) -> Option<String>) -> BTreeMap<String, Member> {
    let mut options = BTreeMap::new();
    let (file, name) = ROOT;
    add_options(read, (file, name), "", &mut options);
    options
}

fn find(
    read: &dyn Fn(&str) -> Option<String>,
    (file, name): (&str, &str),
) -> Option<(String, Declaration)> {
    // `ledger_writer::config::Config` stands in `ledger-writer/src/config.rs`.
    let file = match name.rsplit("::").nth(2) {
        Some(krate) => format!("{}/src/config.rs", krate.replace('_', "-")),
        None => file.to_owned(),
    };
    let name = name.rsplit("::").next().unwrap_or_default();
    [file, SHARED.to_owned()].into_iter().find_map(|file| {
        let declared = declarations(&read(&file)?).into_iter().find(|one| one.name == name)?;
        Some((file, declared))
    })
}

fn add_options(
    read: &dyn Fn(&str) -> Option<String>,
    place: (&str, &str),
    prefix: &str,
    options: &mut BTreeMap<String, Member>,
) {
    let Some((file, declared)) = find(read, place) else { return };
    for member in declared.members {
        let key = format!("{prefix}{}", member.name);
        let text = member.text.clone();
        if find(read, (&file, &text)).is_some() {
            add_options(read, (&file, &text), &format!("{key}."), options);
        } else {
            options.insert(key, member);
        }
    }
}

/// Keys of a commented TOML, with whether a comment speaks of each: the first key below a comment is
/// what it is about; of those that follow, the comment must have a word of their names.
fn settings(toml: &str) -> BTreeMap<String, bool> {
    let mut found = BTreeMap::new();
    let (mut section, mut comment, mut first) = (String::new(), String::new(), true);
    for line in toml.lines() {
        let without = line.trim_start_matches("# ");
        let key = without.split_once(" = ").map(|(key, _)| key);
        let key =
            key.filter(|key| key.chars().all(|char| char.is_ascii_lowercase() || char == '_'));
        if let Some(key) = key {
            let parts = || key.split('_').filter(|part| part.len() > 3);
            let spoken =
                !comment.is_empty() && (first || parts().any(|part| comment.contains(part)));
            found.insert(format!("{section}{key}"), spoken);
            first = false;
        } else if let Some(name) = line.strip_prefix('[') {
            // The comment above a table that has no keys of its own is about the table.
            found.insert(name.trim_end_matches(']').to_owned(), first && !comment.is_empty());
            section = format!("{}.", name.trim_end_matches(']'));
            (comment, first) = (String::new(), true);
        } else if let Some(text) = line.strip_prefix('#') {
            if !first {
                (comment, first) = (String::new(), true);
            }
            comment.push_str(text);
        } else {
            (comment, first) = (String::new(), true);
        }
    }
    found
}

/// Keys that a text sets by the environment: `WEIR_SECTION__KEY`.
fn variables(text: &str) -> BTreeSet<String> {
    let words = text.split(|char: char| !(char.is_ascii_alphanumeric() || char == '_'));
    words
        .filter_map(|word| word.strip_prefix("WEIR_"))
        .filter(|word| word.contains("__") && !word.ends_with('_'))
        .map(|word| word.to_lowercase().replace("__", "."))
        .collect()
}

/// Names between quotes in the constant `name` of a source.
fn constant(source: &str, name: &str) -> BTreeSet<String> {
    let begin = source.find(&format!("const {name}:")).unwrap_or(source.len());
    let value = source[begin..].split("];").next().unwrap_or_default();
    value.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// What the command line takes and does not explain, in a source of the program: `--help` prints
/// these comments.
fn unexplained(source: &str) -> (usize, Vec<String>) {
    let (mut seen, mut found) = (0, Vec::new());
    for declared in declarations(source) {
        let derived = ["Args", "Parser", "Subcommand"];
        if !derived.iter().any(|derived| declared.attributes.contains(derived)) {
            continue;
        }
        for member in declared.members {
            let elsewhere = member.attributes.contains("#[command(");
            if !elsewhere {
                seen += 1;
                if !member.documented {
                    found.push(format!("{}.{}", declared.name, member.name));
                }
            }
        }
    }
    (seen, found)
}

#[test]
fn every_option_is_explained_and_every_option_that_is_spoken_of_is_there() {
    let options = options(&text);
    assert!(options.len() >= 50, "only {:?}", options.keys());
    for known in ["http.listen", "log.kafka.brokers", "ledger_writer.audit_key"] {
        assert!(options.contains_key(known), "{known} is not found");
    }
    let default: String = files()
        .iter()
        .filter(|file| file.ends_with("/config.toml") && file.split('/').count() == 2)
        .filter_map(|file| text(file))
        .collect();
    let settings = settings(&default);
    let documents: String = documents().into_iter().map(|(_, text)| text).collect();
    let operations = text(DOCUMENT).unwrap_or_default();
    let section = operations.split("\n## ").find(|section| section.starts_with("Settings\n"));
    let section = section.unwrap_or_default();
    let mut found = Vec::new();
    for (key, field) in &options {
        if !field.documented {
            found.push(format!("the field of {key} has no comment"));
        }
        let spoken = settings.get(key).is_some_and(|spoken| *spoken);
        if !spoken && !section.contains(&format!("`{key}`")) {
            found
                .push(format!("neither config.toml nor \"Settings\" of {DOCUMENT} explains {key}"));
        }
    }
    for key in settings.keys() {
        let known = options.keys().any(|option| {
            option == key
                || option.strip_prefix(key.as_str()).is_some_and(|rest| rest.starts_with('.'))
        });
        if !known {
            found.push(format!("no field is {key} of config.toml"));
        }
    }
    for (file, text) in documents_and_scripts() {
        for key in variables(&text) {
            if !options.contains_key(&key) && key != "section.key" {
                found.push(format!("{file} sets {key}, which is no option"));
            }
        }
    }
    let environment = text("runtime/src/config/environment.rs").unwrap_or_default();
    let mut names = constant(&environment, "RESERVED");
    names.append(&mut constant(&environment, "WELL_KNOWN"));
    names.retain(|name| name.chars().any(|char| char.is_ascii_uppercase()));
    assert!(names.len() >= 10, "only {names:?}");
    for name in names.iter().filter(|name| !has_word(&documents, name)) {
        found.push(format!("no document says what {name} is"));
    }
    check_none("options", &found);
}

#[test]
fn everything_on_the_command_line_is_explained() {
    let (mut seen, mut found) = (0, Vec::new());
    for (file, text) in sources().iter().filter(|(file, _)| file.starts_with("cli/src/")) {
        let (arguments, unexplained) = unexplained(text);
        seen += arguments;
        found.extend(unexplained.into_iter().map(|name| format!("{file}: {name}")));
    }
    assert!(seen >= 90, "only {seen} commands and arguments are found");
    check_none("`--help` says nothing about it; write a comment above it", &found);
}

#[test]
fn options_are_found_however_they_are_written() {
    let source = "
#[derive(Args)]
struct Config {
    /// Explained.
    #[arg(
        long
    )]
    pub one: u32,
    pub(crate) two: other_crate::config::Config,
    #[command(flatten)]
    three: Three,
}

#[derive(Subcommand)]
enum Three {
    /// Explained.
    Four(Arguments),
    Five {
        r#type: bool,
    },
}
fn not_a_member() {
    let six: u32 = 6;
}
";
    let read = |file: &str| match file {
        "cli/src/config.rs" => Some(source.to_owned()),
        "other-crate/src/config.rs" => Some("struct Config {\n    seven: u8,\n}".to_owned()),
        _ => None,
    };
    let options = options(&read);
    assert_eq!(
        options.keys().collect::<Vec<_>>(),
        ["one", "three.Five", "three.Four", "three.type", "two.seven"]
    );
    assert!(options["one"].documented && !options["two.seven"].documented);
    let (seen, found) = unexplained(source);
    assert_eq!((seen, found.len()), (5, 3), "{found:?}");

    let toml = "# About it.\n[one]\n# First.\ntwo = 1\nthree = 2\n\n# Counts words.\nfour = 1\n\
                words_max = 2\n# five = 3\nsix = 4\n[one.seven]\n# \"eight.nine\" = 1";
    let spoken = settings(toml);
    let without: Vec<_> =
        spoken.iter().filter(|(_, spoken)| !**spoken).map(|(key, _)| key).collect();
    assert_eq!(without, ["one.five", "one.seven", "one.six", "one.three"]);
    assert_eq!(spoken.len(), 8);
    assert_eq!(variables("WEIR_A__B=1 WEIR_KEY WEIR_C_D__E").len(), 2);
}
