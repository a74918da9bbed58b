//! `weir keys`: API keys made, listed and revoked directly in the database, such as the first one; and
//! secrets stored anew when the master key is replaced.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use comfy_table::{Table, presets::UTF8_BORDERS_ONLY};
use runtime::{
    config::Secret,
    keys::{self, MasterKeys},
};
use sqlx::{Connection as _, PgConnection};

use crate::{
    config::Config,
    endpoints::Endpoints,
    folder::DataFolder,
    output::sayln,
    process,
    store::{
        self,
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
    /// List keys: what they may do, and whether they still do
    List(List),
    /// Revoke a key
    Revoke(Revoke),
    /// Store secrets of apps under the newest master key: WEIR_MASTER_KEY=NEW,OLD
    Seal(Database),
}

/// Where the keys are.
#[derive(Debug, clap::Args)]
pub struct Database {
    /// Configuration with the database
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
    config: Option<PathBuf>,
    /// Folder of the `weir up` that runs, used where no database is configured
    #[arg(long, value_name = "DIR", default_value = ".weir")]
    data: PathBuf,
}

#[derive(Debug, clap::Args)]
struct List {
    /// Tenant, by its key
    #[arg(long, default_value = tenants::DEFAULT)]
    tenant: String,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    database: Database,
}

#[derive(Debug, clap::Args)]
struct Revoke {
    /// The key's public id: the characters after weir_live_
    key_id: String,
    /// Tenant, by its key
    #[arg(long, default_value = tenants::DEFAULT)]
    tenant: String,
    #[command(flatten)]
    database: Database,
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
    #[command(flatten)]
    database: Database,
}

/// Does what was asked for.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    process::block_on("keys", async {
        match arguments.command {
            Command::Create(create) => make(create).await,
            Command::List(list) => show(list).await,
            Command::Revoke(revoke) => end(revoke).await,
            Command::Seal(database) => seal(database).await,
        }
    })
}

impl Database {
    fn config(&self) -> Result<Config> {
        Ok(Config::read(self.config.as_deref())?)
    }

    async fn sign_in(&self, config: &Config) -> Result<PgConnection> {
        let mut url = config.postgres.url.clone();
        if url.is_empty() {
            url = Secret::new(Endpoints::read(&self.data)?.postgres);
        }
        process::sign_in(&url).await
    }

    /// A connection to it.
    pub async fn connect(&self) -> Result<PgConnection> {
        self.sign_in(&self.config()?).await
    }
}

async fn make(create: Create) -> Result<ExitCode> {
    for scope in &create.scopes {
        anyhow::ensure!(
            api::auth::Scope::known().any(|known| known == scope),
            "there is no scope {scope:?}; there are: {}",
            api::auth::Scope::known().collect::<Vec<_>>().join(", ")
        );
    }
    let mut connection = create.database.connect().await?;
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

async fn show(list: List) -> Result<ExitCode> {
    let mut connection = list.database.connect().await?;
    let tenant = tenants::find(&mut connection, &list.tenant).await?;
    let rows = store::keys::list(&mut connection, tenant).await?;
    connection.close().await?;
    if list.json {
        sayln!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new();
    table
        .load_style(UTF8_BORDERS_ONLY)
        .set_header(["key", "name", "app", "scopes", "created", "expires", "state"]);
    for row in rows {
        table.add_row([
            format!("{}{}", keys::PREFIX, row.key_id),
            row.name,
            row.app.unwrap_or_default(),
            row.scopes.join(","),
            row.created_at,
            row.expires_at.unwrap_or_default(),
            row.state,
        ]);
    }
    sayln!("{table}");
    Ok(ExitCode::SUCCESS)
}

async fn end(revoke: Revoke) -> Result<ExitCode> {
    let mut connection = revoke.database.connect().await?;
    let tenant = tenants::find(&mut connection, &revoke.tenant).await?;
    let id = revoke.key_id.strip_prefix(keys::PREFIX).unwrap_or(&revoke.key_id);
    // A whole key is taken as well; only its id is looked at.
    let id = id.split('_').next().unwrap_or_default();
    let revoked = store::keys::revoke(&mut connection, tenant, id).await?;
    ensure!(revoked, "there is no such key, or it is revoked already");
    connection.close().await?;
    sayln!("{id} is revoked");
    Ok(ExitCode::SUCCESS)
}

async fn seal(database: Database) -> Result<ExitCode> {
    let config = database.config()?;
    let mut text = config.api.master_key.clone();
    if text.is_empty() {
        text = DataFolder::stored_secret(&database.data, "master")?;
    }
    let master_keys = MasterKeys::parse(&text).context("the master key")?;
    let master_keys = master_keys.context("WEIR_MASTER_KEY is not set")?;
    let mut connection = database.sign_in(&config).await?;
    let (newest, mut done) = (master_keys.newest_id(), 0);
    for old in store::secrets::under_others(&mut connection, newest).await? {
        let context = domain::token::secret_context(old.tenant_id, &old.secret_id);
        let plain = master_keys.open(&old.master_key_id, &context, &old.sealed);
        let plain = plain.with_context(|| format!("the secret {}", old.secret_id))?;
        let sealed = master_keys.seal(&context, &plain)?;
        let replaced = store::secrets::replace(&mut connection, &old, &sealed, newest).await?;
        done += usize::from(replaced);
    }
    connection.close().await?;
    sayln!("{done} secrets are stored anew; the older master keys are not needed any more");
    Ok(ExitCode::SUCCESS)
}
