//! `weir keys create`: an API key made directly in the database, such as the first one.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use runtime::{config::Secret, keys};
use sqlx::Connection as _;

use crate::{
    config::Config,
    endpoints::Endpoints,
    output::sayln,
    process,
    store::{
        keys::{Grant, insert},
        tenants,
    },
};

/// What `weir keys` is started with.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a key and print it; it is shown this once
    Create(Create),
}

#[derive(Debug, clap::Args)]
struct Create {
    /// Tenant, by its key
    #[arg(long, default_value = tenants::DEFAULT)]
    tenant: String,
    /// What people call the key
    #[arg(long, default_value = "")]
    name: String,
    /// The app that will hold it; made if it is new
    #[arg(long)]
    app: Option<String>,
    /// What it may do, comma separated, such as events:write; all by default
    #[arg(long, value_delimiter = ',', default_value = "*")]
    scopes: Vec<String>,
    /// When it ends, RFC 3339
    #[arg(long, value_name = "TIME")]
    expires_at: Option<String>,
    /// Configuration with the database
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
    config: Option<PathBuf>,
    /// Folder of the `weir up` that runs, used where no database is configured
    #[arg(long, value_name = "DIR", default_value = ".weir")]
    data: PathBuf,
}

/// Makes the key.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let Command::Create(create) = arguments.command;
    process::block_on("keys", make(create))
}

async fn make(create: Create) -> Result<ExitCode> {
    for scope in &create.scopes {
        anyhow::ensure!(
            api::auth::Scope::known().any(|known| known == scope),
            "there is no scope {scope:?}; there are: {}",
            api::auth::Scope::known().collect::<Vec<_>>().join(", ")
        );
    }
    let mut url = Config::read(create.config.as_deref())?.postgres.url;
    if url.is_empty() {
        url = Secret::new(Endpoints::read(&create.data)?.postgres);
    }
    let mut connection = process::sign_in(&url).await?;
    let key = keys::generate()?;
    let grant = Grant {
        tenant: tenants::find(&mut connection, &create.tenant).await?,
        name: &create.name,
        app: create.app.as_deref(),
        scopes: &create.scopes,
        expires_at: create.expires_at.as_deref(),
    };
    insert(&mut connection, &key, &grant).await.context("cannot make the key")?;
    connection.close().await?;
    sayln!("{}", key.text);
    Ok(ExitCode::SUCCESS)
}
