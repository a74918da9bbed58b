//! `weir status`: the conservation statement, for people.

use std::process::ExitCode;

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};
use serde_json::Value;

use crate::{client::Target, output::sayln, process};

/// What `weir status` is started with.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Print the statement as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// Columns: the heading, and where the value stands in a partition's statement.
const COLUMNS: [(&str, &str); 14] = [
    ("partition", "/partition"),
    ("accepted", "/counts/accepted"),
    ("rated", "/counts/rated"),
    ("unpriced", "/counts/unpriced"),
    ("unmetered", "/counts/unmetered"),
    ("duplicates", "/counts/duplicates"),
    ("conflicts", "/counts/conflicts"),
    ("rejected", "/counts/rejected"),
    ("pending", "/pending"),
    ("late", "/pending_forwards"),
    ("posted", "/posted_position"),
    ("archived", "/archived_position"),
    ("end", "/end_position"),
    ("balanced", "/balanced"),
];

/// Asks and prints; exits with 1 if the statement does not balance.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    process::block_on("status", status(arguments))
}

async fn status(arguments: Arguments) -> Result<ExitCode> {
    let statement = arguments.target.client()?.get("/v1/conservation").await?;
    let total = statement.get("total").unwrap_or(&Value::Null);
    if arguments.json {
        sayln!("{}", serde_json::to_string_pretty(&statement)?);
    } else {
        sayln!("{}", table(&statement, total));
        sayln!("{}", total.get("summary").and_then(Value::as_str).unwrap_or_default());
        for text in unposted(&statement) {
            sayln!("{text}");
        }
        if statement.get("archive_available") == Some(&Value::Bool(false)) {
            sayln!("the archive does not answer; how far it is, is not known");
        }
    }
    let balanced = total.get("balanced") == Some(&Value::Bool(true));
    Ok(if balanced { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Lag in money, a line for each currency that has any.
fn unposted(statement: &Value) -> Vec<String> {
    let amounts = statement.get("unposted").and_then(Value::as_array);
    let line = |amount: &Value| {
        let text = |name: &str| amount.get(name).and_then(Value::as_str);
        let (rated, unrated) = (text("rated")?, text("unrated_estimate")?);
        let currency = text("currency")?;
        ((rated, unrated) != ("0", "0")).then(|| {
            format!(
                "not yet posted: {rated} {currency} rated, about {unrated} {currency} not yet rated"
            )
        })
    };
    amounts.into_iter().flatten().filter_map(line).collect()
}

fn table(statement: &Value, total: &Value) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(COLUMNS.map(|(heading, _)| heading));
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let partitions = statement.get("partitions").and_then(Value::as_array);
    for partition in partitions.into_iter().flatten() {
        table.add_row(COLUMNS.map(|(_, pointer)| cell(partition.pointer(pointer))));
    }
    let mut sums = COLUMNS.map(|(_, pointer)| cell(total.pointer(pointer)));
    if let Some(first) = sums.first_mut() {
        "total".clone_into(first);
    }
    table.add_row(sums);
    table
}

fn cell(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(true)) => "yes".to_owned(),
        Some(Value::Bool(false)) => "NO".to_owned(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}
