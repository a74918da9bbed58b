//! `weir tenants`: who sells, on an installation with several; directly in the database.

use std::process::ExitCode;

use anyhow::{Error, Result, ensure};
use comfy_table::{Table, presets::UTF8_BORDERS_ONLY};
use domain::event::FIELD_BYTES_MAX;
use sqlx::Connection as _;

use crate::{commands::keys::Database, output::sayln, process, store::tenants};

/// What `weir tenants` is started with.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the tenants
    List(List),
    /// Make a tenant
    Create(Create),
    /// Say what a tenant is called in other systems
    Set(Set),
    /// Refuse a tenant's keys, tokens and doors; what was accepted is rated and posted
    Disable(Named),
    /// Take from a tenant again
    Enable(Named),
}

#[derive(Debug, clap::Args)]
struct List {
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    database: Database,
}

#[derive(Debug, clap::Args)]
struct Create {
    /// Its key: letters, digits, - and _, 64 at most
    key: String,
    /// What people call it
    #[arg(long, default_value = "")]
    name: String,
    /// What it is called in other systems: events whose customer is called so are its own
    #[arg(long, value_parser = external_key)]
    external_key: Option<String>,
    #[command(flatten)]
    database: Database,
}

#[derive(Debug, clap::Args)]
struct Set {
    /// Its key
    key: String,
    /// What it is called in other systems; empty for nothing
    #[arg(long)]
    external_key: String,
    #[command(flatten)]
    database: Database,
}

#[derive(Debug, clap::Args)]
struct Named {
    /// Its key
    key: String,
    #[command(flatten)]
    database: Database,
}

/// Does what was asked for.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    process::block_on("tenants", async {
        match arguments.command {
            Command::List(list) => show(list).await,
            Command::Create(create) => make(create).await,
            Command::Set(set) => call(set).await,
            Command::Disable(named) => set_disabled(named, true).await,
            Command::Enable(named) => set_disabled(named, false).await,
        }
    })
}

async fn show(list: List) -> Result<ExitCode> {
    let mut connection = list.database.connect().await?;
    let rows = tenants::list(&mut connection).await?;
    connection.close().await?;
    if list.json {
        sayln!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header([
        "tenant",
        "name",
        "external key",
        "id",
        "disabled since",
    ]);
    for row in rows {
        let since = row.disabled_at.unwrap_or_default();
        let external_key = row.external_key.unwrap_or_default();
        table.add_row([row.key, row.name, external_key, row.tenant_id.to_string(), since]);
    }
    sayln!("{table}");
    Ok(ExitCode::SUCCESS)
}

async fn make(create: Create) -> Result<ExitCode> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let fits = (1..=64).contains(&create.key.len()) && create.key.bytes().all(plain);
    ensure!(fits, "a tenant's key is 1 to 64 letters, digits, - and _");
    let mut connection = create.database.connect().await?;
    let external_key = create.external_key.as_deref();
    let made = tenants::create(&mut connection, &create.key, &create.name, external_key).await?;
    ensure!(made, "there is a tenant of the key or external key {:?} already", create.key);
    connection.close().await?;
    sayln!("{} is made; `weir keys create --tenant {}` makes a key of it", create.key, create.key);
    Ok(ExitCode::SUCCESS)
}

/// What others may call a tenant: as long as a field of an event, without control characters.
fn external_key(text: &str) -> Result<String, String> {
    let fits = (1..=FIELD_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
    if fits {
        Ok(text.to_owned())
    } else {
        Err(format!("an external key has 1 to {FIELD_BYTES_MAX} bytes and no control character"))
    }
}

async fn call(set: Set) -> Result<ExitCode> {
    let wanted = Some(set.external_key).filter(|text| !text.is_empty());
    let wanted = wanted.map(|text| external_key(&text).map_err(Error::msg)).transpose()?;
    let mut connection = set.database.connect().await?;
    let tenant = tenants::find(&mut connection, &set.key).await?;
    let changed = tenants::set_external_key(&mut connection, tenant, wanted.as_deref()).await?;
    connection.close().await?;
    let already = if changed { "" } else { " already" };
    match wanted {
        Some(text) => sayln!("{} is called {text} in other systems{already}", set.key),
        None => sayln!("{} has no other name{already}", set.key),
    }
    Ok(ExitCode::SUCCESS)
}

async fn set_disabled(named: Named, disabled: bool) -> Result<ExitCode> {
    let mut connection = named.database.connect().await?;
    let tenant = tenants::find(&mut connection, &named.key).await?;
    let changed = tenants::set_disabled(&mut connection, tenant, disabled).await?;
    connection.close().await?;
    let (state, already) =
        (if disabled { "disabled" } else { "enabled" }, if changed { "" } else { " already" });
    sayln!("{} is {state}{already}", named.key);
    Ok(ExitCode::SUCCESS)
}
