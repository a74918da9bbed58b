//! Processes that run: what they say on `/ready`, and their measures.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{ANSWER_TIME_MAX, Report, target::Target};

/// Asks the `weir up`, the ingest that the api sends events to, and all addresses that were given.
pub async fn check(target: &Target, report: &mut Report) {
    ingest(&target.config.api.ingest_url, report).await;
    let up = target.up.iter().map(|up| &up.http);
    for address in up.chain(&target.processes) {
        match get(address, "/ready").await {
            Ok((200, _)) => report.ok("ready", format!("{address} is ready")),
            Ok((_, body)) => not_ready(address, &body, report),
            Err(error) => {
                report.wrong("ready", format!("{error:#}"), "start it, or look at its log");
            }
        }
    }
}

/// Where rejected events are sent again; empty where ingest is in the api's process.
async fn ingest(address: &str, report: &mut Report) {
    const CHECK: &str = "api.ingest_url";
    if address.is_empty() {
        return;
    }
    let action = "mend api.ingest_url (WEIR_API__INGEST_URL): rejected events cannot be sent again meanwhile";
    match get(address, "/ready").await {
        Ok((200, _)) => report.ok(CHECK, format!("{address} is ready")),
        Ok((status, _)) => {
            report.wrong(CHECK, format!("{address} answers {status} on /ready"), action);
        }
        Err(error) => report.wrong(CHECK, format!("{error:#}"), action),
    }
}

fn not_ready(address: &str, body: &str, report: &mut Report) {
    let answer: Value = serde_json::from_str(body).unwrap_or_default();
    let reasons = answer.get("not_ready").and_then(Value::as_object);
    let Some(reasons) = reasons else {
        report.wrong("ready", format!("{address} is no process of Weir"), "mend --process");
        return;
    };
    for (check, reason) in reasons {
        let found = format!("{address}: {check}: {}", reason.as_str().unwrap_or_default());
        let action =
            "docs/OPERATIONS.md says what to do about each; a stopped partition needs a person";
        report.wrong("ready", found, action);
    }
}

/// Status and body of a page.
pub async fn get(address: &str, path: &str) -> Result<(u16, String)> {
    let client = reqwest::Client::builder().timeout(ANSWER_TIME_MAX).no_proxy().build()?;
    let answer = client.get(format!("{}{path}", address.trim_end_matches('/'))).send().await;
    let answer = answer.with_context(|| format!("{address} does not answer"))?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

/// The values of a gauge in Prometheus' text format, by their labels.
pub fn gauges(text: &str, name: &str) -> BTreeMap<BTreeMap<String, String>, i64> {
    let value = |line: &str| {
        let (labels, value) = line.strip_prefix(name)?.strip_prefix('{')?.split_once("} ")?;
        let label = |label: &str| {
            let (name, value) = label.split_once('=')?;
            Some((name.to_owned(), value.trim_matches('"').to_owned()))
        };
        Some((labels.split(',').map(label).collect::<Option<_>>()?, value.trim().parse().ok()?))
    };
    text.lines().filter_map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_are_read_by_their_whole_name() {
        let text = "# TYPE lag gauge\nlag{stage=\"rated\",partition=\"3\"} 7\nlag_more{stage=\"x\"} 9\nlag 2\n";
        let labels = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let expected = BTreeMap::from([(labels(&[("stage", "rated"), ("partition", "3")]), 7)]);
        assert_eq!(gauges(text, "lag"), expected);
    }
}
