//! A catalog as code: a file of YAML or JSON, what publishing it would change, and publishing it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail, ensure};
use api::catalog_file::{Settled, schema, settle};
use reqwest::Method;
use serde_json::{Value, json};

use super::{agreed, change, text};
use crate::{
    catalog_diff::{Difference, differences},
    catalog_file,
    catalog_lines::line_of,
    client::{Client, Target},
    output::{note, sayln},
};

/// The exit code of `diff` where there are differences.
const DIFFERENT: u8 = 2;
/// Why a catalog is not published that was compared with one that is none any more.
const MEANWHILE: &str = "nothing was changed: somebody else has published meanwhile; run this again and look at what is different now";
/// Teams that are shown.
const TEAMS_SHOWN_MAX: usize = 10;

#[derive(Debug, clap::Args)]
pub(super) struct Diff {
    /// The catalog, as YAML, or as JSON where its name ends with .json
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Answer as JSON: `differences`, `notes`, and the `preview` of the api
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
pub(super) struct Apply {
    /// The catalog, as YAML, or as JSON where its name ends with .json
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
pub(super) struct WriteSchema {
    /// The file to write; standard output by default
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

/// A file beside what is published.
struct Compared {
    catalog: Value,
    notes: Vec<String>,
    differences: Vec<Difference>,
    /// The answer of the api to the catalog, where anything is different.
    preview: Value,
}

/// Shows what applying the file would change.
pub(super) async fn diff(diff: Diff) -> Result<ExitCode> {
    let client = diff.target.client()?;
    let compared = compare(&client, &diff.file).await?;
    if diff.json {
        let answer = json!({"differences": compared.differences, "notes": compared.notes, "preview": compared.preview});
        sayln!("{}", serde_json::to_string_pretty(&answer)?);
    } else {
        show(&compared);
    }
    refuse_faults(&diff.file, &compared)?;
    Ok(if compared.differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DIFFERENT) })
}

/// Publishes the file, if that changes anything.
pub(super) async fn apply(apply: Apply) -> Result<ExitCode> {
    let client = apply.target.client()?;
    let compared = compare(&client, &apply.file).await?;
    show(&compared);
    if compared.differences.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    refuse_faults(&apply.file, &compared)?;
    show_affected(&compared.preview);
    if !agreed(apply.yes, "Publish this catalog?")? {
        return Ok(ExitCode::FAILURE);
    }
    let (_, version) = published(&client).await?;
    ensure!(compared.preview.get("catalog_version") == Some(&version), MEANWHILE);
    let body = serde_json::to_vec(&compared.catalog)?;
    let done = change(&client, Method::PUT, "/v1/catalog", body).await?;
    sayln!("published as version {}", text(&done, "catalog_version"));
    Ok(ExitCode::SUCCESS)
}

/// Writes the JSON schema of a catalog's file.
pub(super) fn write_schema(write: WriteSchema) -> Result<ExitCode> {
    let text = serde_json::to_string_pretty(&schema())?;
    match write.file {
        None => sayln!("{text}"),
        Some(file) => fs::write(&file, text + "\n")
            .with_context(|| format!("cannot write {}", file.display()))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The catalog in force and its number.
async fn published(client: &Client) -> Result<(Value, Value)> {
    let mut current = client.get("/v1/catalog").await?;
    let mut take = |name: &str| {
        let member = current.get_mut(name).map(Value::take);
        member.with_context(|| format!("the answer has no {name}"))
    };
    Ok((take("catalog")?, take("catalog_version")?))
}

async fn compare(client: &Client, path: &Path) -> Result<Compared> {
    let file = catalog_file::read(path)?;
    let (before, version) = published(client).await?;
    let Settled { catalog, notes } = match settle(file, &before) {
        Ok(settled) => settled,
        Err(faults) => {
            let at = At::of(path, Value::Null);
            for fault in &faults {
                note(&format!("{}{}: {}", at.line(&fault.place), fault.place, fault.reason));
            }
            bail!("the catalog has {} fault(s); nothing was changed", faults.len());
        }
    };
    let differences = differences(&before, &catalog);
    let preview = if differences.is_empty() {
        Value::Null
    } else {
        let body = serde_json::to_vec(&catalog)?;
        let preview = change(client, Method::POST, "/v1/catalog/preview", body).await?;
        ensure!(preview.get("catalog_version") == Some(&version), MEANWHILE);
        preview
    };
    Ok(Compared { catalog, notes, differences, preview })
}

fn show(compared: &Compared) {
    for line in &compared.notes {
        note(line);
    }
    for difference in &compared.differences {
        sayln!("{difference}");
    }
    if compared.differences.is_empty() {
        sayln!("the catalog is the same already");
    }
}

/// A catalog with faults is not published; all that the api tells are shown.
/// A file in which places are looked up, and what it means.
struct At {
    name: String,
    text: String,
    catalog: Value,
}

impl At {
    fn of(path: &Path, catalog: Value) -> At {
        let text = fs::read_to_string(path).unwrap_or_default();
        At { name: path.display().to_string(), text, catalog }
    }

    /// The file and the line of a place, where that is found, to stand before it.
    fn line(&self, place: &str) -> String {
        let line = line_of(&self.text, place, &self.newest(place).unwrap_or_default());
        line.map_or_else(String::new, |line| format!("{}:{line}: ", self.name))
    }

    /// The number of the newest version of the card that a place is of.
    fn newest(&self, place: &str) -> Option<String> {
        let cards = self.catalog.get("cards")?.as_array()?;
        let card = cards.iter().find(|card| {
            let key = text(card, "key");
            place.strip_prefix(&format!("cards[{key}]")).is_some()
        })?;
        Some(text(card.get("versions")?.as_array()?.last()?, "version"))
    }
}

fn refuse_faults(file: &Path, compared: &Compared) -> Result<()> {
    let preview = &compared.preview;
    let at = At::of(file, compared.catalog.clone());
    let faults = preview.get("faults").and_then(Value::as_array).into_iter().flatten();
    for fault in faults {
        let place = text(fault, "place");
        note(&format!("{}{place}: {}", at.line(&place), text(fault, "reason")));
    }
    match preview.get("fault_count").and_then(Value::as_u64) {
        None | Some(0) => Ok(()),
        Some(count) => bail!("the catalog has {count} fault(s); nothing was changed"),
    }
}

/// Prints whose usage may be charged otherwise.
fn show_affected(preview: &Value) {
    let list = |value: &Value, name: &str| -> Vec<Value> {
        value.get(name).and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let meters = list(preview, "meters");
    let meters: Vec<&str> = meters.iter().filter_map(Value::as_str).collect();
    if meters.is_empty() {
        return sayln!("no price in use changes");
    }
    let Some(affected) = preview.get("affected").filter(|affected| !affected.is_null()) else {
        return sayln!(
            "other prices of {}; this key cannot read who uses them (usage:read)",
            meters.join(", ")
        );
    };
    sayln!(
        "other prices of {}: {} team(s) used them since {}",
        meters.join(", "),
        text(affected, "team_count"),
        text(affected, "from"),
    );
    let teams = list(affected, "teams");
    for team in teams.iter().take(TEAMS_SHOWN_MAX) {
        for usage in list(team, "usage") {
            let charge = match usage.get("charge").and_then(Value::as_str) {
                Some(charge) => format!("charged {charge} {}", text(&usage, "currency")),
                None => "without a known price".to_owned(),
            };
            let (team, meter) = (text(team, "team"), text(&usage, "meter"));
            sayln!("  {team}: {} of {meter}, {charge}", text(&usage, "quantity"));
        }
    }
    if teams.len() > TEAMS_SHOWN_MAX {
        sayln!("  and others: `weir catalog diff --json` lists a hundred");
    }
}
