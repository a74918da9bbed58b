//! `weir rejected`: events that could not be rated, and sending them again.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use comfy_table::{Table, presets::UTF8_BORDERS_ONLY};
use reqwest::{Method, Url};
use serde_json::{Map, Value, json};

use crate::{
    client::{Client, Target},
    output::sayln,
    process,
};

/// Fields of an event that are shown.
const COLUMNS: [&str; 7] = ["receipt", "time", "team", "type", "id", "reason", "state"];
/// Where rejected events are sent again.
const REINJECT: &str = "/v1/rejected-events/reinject";
/// Events that one request sends again.
const STEP: u32 = 500;

/// What `weir rejected` is started with.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the newest ones that cannot be rated
    List {
        /// How many
        #[arg(long, default_value_t = 50)]
        limit: u32,
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        target: Target,
    },
    /// Send all that are still open again, unchanged: after the catalog was corrected
    Reinject {
        /// Only count them
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        target: Target,
    },
}

/// Which rejected events.
#[derive(Debug, clap::Args)]
struct Filter {
    /// With this reason
    #[arg(long)]
    reason: Option<String>,
    /// Of this team
    #[arg(long)]
    team: Option<String>,
    /// Of this type
    #[arg(long)]
    r#type: Option<String>,
    /// Of this source, as sent
    #[arg(long)]
    source: Option<String>,
    /// Reported by this app
    #[arg(long)]
    app: Option<String>,
    /// First event time, RFC 3339, inclusive
    #[arg(long)]
    from: Option<String>,
    /// Last event time, RFC 3339, exclusive
    #[arg(long)]
    to: Option<String>,
}

impl Filter {
    fn pairs(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all = [
            ("reason", &self.reason),
            ("team", &self.team),
            ("type", &self.r#type),
            ("source", &self.source),
            ("app", &self.app),
            ("from", &self.from),
            ("to", &self.to),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)))
    }
}

/// Lists or sends again; exits with 1 where events could not be sent.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    process::block_on("rejected", async {
        match arguments.command {
            Command::List { limit, filter, target } => {
                list(&target.client()?, &filter, limit).await
            }
            Command::Reinject { dry_run, filter, target } => {
                reinject(&target.client()?, &filter, dry_run).await
            }
        }
    })
}

async fn list(client: &Client, filter: &Filter, limit: u32) -> Result<ExitCode> {
    // The base of the URL is only there to have the query encoded.
    let mut url = Url::parse("http://localhost/v1/rejected-events")?;
    url.query_pairs_mut()
        .append_pair("outcome", "rejected")
        .append_pair("limit", &limit.to_string())
        .extend_pairs(filter.pairs());
    let path = format!("{}?{}", url.path(), url.query().unwrap_or_default());
    let found = client.get(&path).await?;
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(COLUMNS);
    for event in found.get("items").and_then(Value::as_array).into_iter().flatten() {
        let field = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
        table.add_row(COLUMNS.map(field));
    }
    sayln!("{table}");
    if found.get("next_cursor").is_some_and(Value::is_string) {
        sayln!("there are more; narrow the filter, or ask for more with --limit");
    }
    Ok(ExitCode::SUCCESS)
}

async fn reinject(client: &Client, filter: &Filter, dry_run: bool) -> Result<ExitCode> {
    let mut body: Map<String, Value> =
        filter.pairs().map(|(name, value)| (name.to_owned(), Value::from(value))).collect();
    if dry_run {
        body.insert("dry_run".to_owned(), json!(true));
        let counted = post(client, &body).await?;
        let count = counted.get("would_reinject").and_then(Value::as_u64).context("no count")?;
        let more = if counted.get("complete") == Some(&json!(true)) { "" } else { "at least " };
        sayln!("{more}{count} events would be sent again");
        return Ok(ExitCode::SUCCESS);
    }
    body.insert("limit".to_owned(), json!(STEP));
    let (mut sent, mut failed) = (0, 0);
    loop {
        let done = post(client, &body).await?;
        sent += done.get("reinjected").and_then(Value::as_u64).unwrap_or(0);
        for event in done.get("failed").and_then(Value::as_array).into_iter().flatten() {
            let field = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
            sayln!("{} not sent: {} {}", field("receipt"), field("code"), field("detail"));
            failed += 1;
        }
        match done.get("next_cursor").filter(|cursor| cursor.is_string()) {
            Some(cursor) => body.insert("cursor".to_owned(), cursor.clone()),
            None => break,
        };
    }
    sayln!("{sent} events are sent again, {failed} could not be");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What was sent counts once, however often.
async fn post(client: &Client, body: &Map<String, Value>) -> Result<Value> {
    let body = serde_json::to_vec(body)?;
    client.send_patiently(Method::POST, REINJECT, body, &[]).await?.success("send again")
}
