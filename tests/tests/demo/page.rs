//! The page at `/`.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use tests::system::System;

use super::typed;

/// Values of an attribute.
fn values<'a>(page: &'a str, attribute: &str) -> Vec<&'a str> {
    let begin = format!(" {attribute}=\"");
    page.split(&begin).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

/// Places where a host may be named: two slashes, and a name after them.
fn hosts(text: &str) -> Vec<&str> {
    let after = text.match_indices("//").map(|(place, _)| &text[place + 2..]);
    let named =
        |rest: &&str| rest.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '[');
    after
        .filter(named)
        .map(|rest| rest.split(['"', '\'', ' ', '\n']).next().unwrap_or_default())
        .collect()
}

#[test]
fn hosts_are_seen() {
    let text = "// a remark\n'//cdn.example/a.js' url(https://b.example/c)";
    assert_eq!(hosts(text), ["cdn.example/a.js", "b.example/c)"]);
}

#[tokio::test]
async fn the_page_is_one_file_and_names_no_other_host() -> Result<()> {
    let system = System::embedded().await?;
    let base = system.base("up")?;
    // Without a key: the page asks for one.
    let answer = typed(&format!("curl -sS -i {base}/")).await?;
    let (head, page) = answer.split_once("\r\n\r\n").context("no head")?;
    ensure!(
        head.starts_with("HTTP/1.1 200 ") && head.contains("content-type: text/html"),
        "{head}"
    );
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../api/static/index.html");
    assert_eq!(page, fs::read_to_string(file)?);

    let policy = head.lines().find_map(|line| line.strip_prefix("content-security-policy: "));
    let policy = policy.with_context(|| format!("no policy: {head}"))?;
    for directive in policy.split(';') {
        let mut words = directive.split_whitespace();
        let name = words.next().context("a directive without a name")?;
        let own = |source: &str| source.starts_with('\'') || source == "data:";
        ensure!(words.all(own), "{name} lets something in from elsewhere: {directive}");
    }
    ensure!(policy.contains("default-src 'none'"), "{policy}");

    let named = ["src", "href", "action"].map(|attribute| values(page, attribute)).concat();
    ensure!(!named.is_empty(), "no link in the page");
    let mut rest = page.to_owned();
    for value in named {
        let data = value.starts_with("data:");
        ensure!(data || (value.starts_with('/') && !value.starts_with("//")), "it names {value}");
        if data {
            // Nobody is asked for what stands in the page itself, such as the name of SVG.
            rest = rest.replace(value, "");
        }
    }
    assert_eq!(hosts(&rest), Vec::<&str>::new());
    Ok(())
}
