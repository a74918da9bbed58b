//! `weir catalog`: a tenant's catalog and the providers' prices, out of and into an installation.
//! Whatever changes something shows first what, and asks.

use std::{
    collections::BTreeMap,
    fs,
    io::{IsTerminal as _, stdin},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    catalog_diff::diff,
    client::{Client, Target},
    output::{note, sayln},
    process,
};

mod as_code;

/// What `weir catalog` is started with.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Write the whole catalog as JSON: meters, rate cards and cost cards with all their versions
    Export(Export),
    /// Bring in a catalog, or a price list of providers
    Import(Import),
    /// Show what publishing a catalog of YAML or JSON would change: exits with 0 for nothing, 2 for differences, 1 for
    /// errors
    Diff(as_code::Diff),
    /// Publish a catalog of YAML or JSON, if that changes anything
    Apply(as_code::Apply),
    /// Write the JSON schema of a catalog's file, for editors
    Schema(as_code::WriteSchema),
    /// Make a version of a cost card of the providers' prices
    CostCard(CostCard),
}

#[derive(Debug, clap::Args)]
struct Export {
    /// The file to write; standard output by default
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
#[group(id = "what", required = true, multiple = false, args = ["file", "provider_prices", "builtin"])]
struct Import {
    /// A catalog that `weir catalog export` wrote; it becomes the whole catalog
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// A price list of providers, all that they charge
    #[arg(long, value_name = "FILE")]
    provider_prices: Option<PathBuf>,
    /// The price list that comes with Weir
    #[arg(long)]
    builtin: bool,
    /// The price list is not all that its providers charge: withdraw no price
    #[arg(long, conflicts_with = "file")]
    partial: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct CostCard {
    /// The cost card, made if it is new
    #[arg(long, default_value = "providers")]
    card: String,
    /// The class of usage of a meter whose path names none, such as llm_input_tokens=input
    #[arg(long = "meter", value_name = "METER=CLASS")]
    meters: Vec<String>,
    /// Take the prices of this time, RFC 3339; now by default
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// From which event time the version holds, RFC 3339; for ever by default
    #[arg(long, value_name = "TIME")]
    effective_from: Option<String>,
    /// Make it the default cost card
    #[arg(long)]
    default: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    target: Target,
}

/// Does it; exits with 1 where the answer was no.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    process::block_on("catalog", async {
        match arguments.command {
            Command::Export(export) => write_catalog(export).await,
            Command::Import(import) => match &import.file {
                Some(file) => import_catalog(&import, file).await,
                None => import_prices(&import).await,
            },
            Command::Diff(diff) => as_code::diff(diff).await,
            Command::Apply(apply) => as_code::apply(apply).await,
            Command::Schema(schema) => as_code::write_schema(schema),
            Command::CostCard(card) => make_cost_card(card).await,
        }
    })
}

async fn write_catalog(export: Export) -> Result<ExitCode> {
    let client = export.target.client()?;
    let text = serde_json::to_string_pretty(&read_catalog(&client).await?)?;
    match export.file {
        None => sayln!("{text}"),
        Some(file) => fs::write(&file, text + "\n")
            .with_context(|| format!("cannot write {}", file.display()))?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn read_catalog(client: &Client) -> Result<Value> {
    let mut current = client.get("/v1/catalog").await?;
    current.get_mut("catalog").map(Value::take).context("the answer has no catalog")
}

fn read_json(file: &PathBuf) -> Result<Value> {
    let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", file.display()))
}

async fn import_catalog(import: &Import, file: &PathBuf) -> Result<ExitCode> {
    let new = read_json(file)?;
    let client = import.target.client()?;
    let lines = diff(&read_catalog(&client).await?, &new);
    if lines.is_empty() {
        sayln!("the catalog is the same already");
        return Ok(ExitCode::SUCCESS);
    }
    for line in &lines {
        sayln!("{line}");
    }
    if !agreed(import.yes, "Publish this catalog?")? {
        return Ok(ExitCode::FAILURE);
    }
    let body = serde_json::to_vec(&new)?;
    let published = change(&client, Method::PUT, "/v1/catalog", body).await?;
    sayln!("published as version {}", text(&published, "catalog_version"));
    Ok(ExitCode::SUCCESS)
}

async fn import_prices(import: &Import) -> Result<ExitCode> {
    let (name, list) = match &import.provider_prices {
        Some(file) => ("list", read_json(file)?),
        None => ("builtin", json!(true)),
    };
    let body = json!({ "partial": import.partial, (name): list });
    let client = import.target.client()?;
    let path = "/v1/providers/pricing/imports";
    let preview = dry_run(&client, path, &body).await?;
    show_prices(&preview);
    let counts = preview.get("counts").unwrap_or(&Value::Null);
    let count = |name: &str| counts.get(name).and_then(Value::as_u64).unwrap_or(0);
    if count("added") + count("changed") + count("removed") == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    if !agreed(import.yes, "Import these prices?")? {
        return Ok(ExitCode::FAILURE);
    }
    let done = change(&client, Method::POST, path, serde_json::to_vec(&body)?).await?;
    sayln!("imported as {}", text(&done, "import_id"));
    Ok(ExitCode::SUCCESS)
}

/// Prints what an import of prices changes.
fn show_prices(preview: &Value) {
    for (kind, sign) in [("added", '+'), ("changed", '~'), ("removed", '-')] {
        for price in preview.get(kind).and_then(Value::as_array).into_iter().flatten() {
            let above = match price.get("above").and_then(Value::as_u64) {
                Some(0) | None => String::new(),
                Some(above) => format!(" above {above}"),
            };
            let moved = match kind {
                "added" => text(price, "after"),
                "removed" => text(price, "before"),
                _ => format!("{} -> {}", text(price, "before"), text(price, "after")),
            };
            sayln!(
                "{sign} {}/{} {}{above}: {moved} {} per {}",
                text(price, "provider"),
                text(price, "model"),
                text(price, "class"),
                text(price, "currency"),
                text(price, "per"),
            );
        }
    }
    let counts = preview.get("counts").unwrap_or(&Value::Null);
    sayln!(
        "{} of {}: {} added, {} changed, {} removed, {} unchanged",
        text(preview, "source"),
        text(preview, "date"),
        text(counts, "added"),
        text(counts, "changed"),
        text(counts, "removed"),
        text(counts, "unchanged"),
    );
}

async fn make_cost_card(card: CostCard) -> Result<ExitCode> {
    let mut meters = BTreeMap::new();
    for pair in &card.meters {
        let (meter, class) =
            pair.split_once('=').with_context(|| format!("--meter {pair}: write METER=CLASS"))?;
        meters.insert(meter, class);
    }
    let body = json!({
        "card": card.card, "meters": meters, "default": card.default,
        "at": card.at, "effective_from": card.effective_from,
    });
    let client = card.target.client()?;
    let path = "/v1/providers/pricing/cost-card";
    let preview = dry_run(&client, path, &body).await?;
    for reason in preview.get("left_out").and_then(Value::as_array).into_iter().flatten() {
        note(&format!("left out: {}", reason.as_str().unwrap_or_default()));
    }
    for (meter, class) in preview.get("meters").and_then(Value::as_object).into_iter().flatten() {
        sayln!("{meter} by the prices of {}", class.as_str().unwrap_or_default());
    }
    sayln!(
        "cost card {}, version {}: {} rows; {} added, {} changed, {} removed",
        text(&preview, "card"),
        text(&preview, "version"),
        text(&preview, "rows"),
        text(&preview, "added"),
        text(&preview, "changed"),
        text(&preview, "removed"),
    );
    if !agreed(card.yes, "Publish this version?")? {
        return Ok(ExitCode::FAILURE);
    }
    let done = change(&client, Method::POST, path, serde_json::to_vec(&body)?).await?;
    sayln!("published as version {} of the catalog", text(&done, "catalog_version"));
    Ok(ExitCode::SUCCESS)
}

/// Asks what a call would change.
async fn dry_run(client: &Client, path: &str, body: &Value) -> Result<Value> {
    let mut body = body.clone();
    if let Some(members) = body.as_object_mut() {
        members.insert("dry_run".to_owned(), json!(true));
    }
    change(client, Method::POST, path, serde_json::to_vec(&body)?).await
}

/// Sends a change; a fault of what was sent is shown with all its places.
async fn change(client: &Client, method: Method, path: &str, body: Vec<u8>) -> Result<Value> {
    let answer = client.send(method, path, "application/json", body, &[]).await?;
    for fault in answer.body.get("faults").and_then(Value::as_array).into_iter().flatten() {
        note(&format!("{}: {}", text(fault, "place"), text(fault, "reason")));
    }
    answer.success(path)
}

/// Whether to go on; nobody to ask is an error.
fn agreed(yes: bool, question: &str) -> Result<bool> {
    if yes {
        return Ok(true);
    }
    ensure!(stdin().is_terminal(), "nothing was changed; give --yes to go on without being asked");
    note(&format!("{question} [y/N]"));
    let mut answer = String::new();
    if stdin().read_line(&mut answer)? == 0 {
        bail!("nothing was changed");
    }
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// A member as people read it.
fn text(value: &Value, name: &str) -> String {
    match value.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "none".to_owned(),
        Some(other) => other.to_string(),
    }
}
