//! `weir up`: everything on this machine, in one process and its children.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use runtime::{
    clickhouse::{Engine, EngineLaunch, find_library},
    config::Secret,
    context::{Context, DRAIN},
    http::{State, bind},
    keys,
    postgres::server::{KeptServer, ServerOptions},
    shutdown::Shutdown,
    task::Tasks,
};
use sqlx::Connection as _;
use tokio::time::Instant;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    client::Client,
    config::Config,
    demo,
    endpoints::Endpoints,
    folder::DataFolder,
    local_log, measures,
    output::sayln,
    process::{self, ArchiveArguments, NamedLog},
    roles::Role,
    startup::Startup,
    store, web,
};

/// Statements that the ClickHouse engine runs at once.
const ENGINE_CONNECTIONS: usize = 4;
/// An engine that was told to stop gives running statements 20 s.
const ENGINE_END_TIME_MAX: Duration = Duration::from_secs(30);
const ENGINE_ATTEMPTS_MAX: u32 = 5;
/// Characters of a made password: 190 bits of base 62.
const PASSWORD_LENGTH: usize = 32;
/// How often the start looks whether the roles are ready.
const READY_POLL: Duration = Duration::from_millis(50);
/// How often a start that waits says for what.
const READY_REPORT: Duration = Duration::from_secs(10);
/// Before this, a role may not have said yet that it is not ready.
const READY_FOR: Duration = Duration::from_millis(200);

/// What `weir up` is started with.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Folder for all that is kept
    #[arg(long, value_name = "DIR", default_value = ".weir")]
    data: PathBuf,
    /// Where to listen, instead of http.listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Publish a catalog to try things with, and send it some usage
    #[arg(long)]
    demo: bool,
    /// Configuration; what it does not say is as in `weir config`
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
    config: Option<PathBuf>,
    /// Copies of every partition, for topics of Kafka that do not exist yet
    #[arg(long, default_value_t = 1)]
    replication: u32,
    /// Trim segments of the local log so soon, instead of log.local.retention_hours: for tests
    #[arg(long, value_name = "SECONDS", hide = true)]
    trim_after: Option<u64>,
    #[command(flatten)]
    archive: ArchiveArguments,
}

/// Runs until it is told to stop.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let mut config = Config::read(arguments.config.as_deref())?;
    if let Some(listen) = arguments.listen {
        config.http.listen = listen;
    }
    process::telemetry(&config.telemetry, "weir")?;
    let folder = DataFolder::take(&arguments.data)?;
    Endpoints::remove(folder.path());
    if config.ledger_writer.audit_key.is_empty() {
        config.ledger_writer.audit_key = Secret::new(folder.secret("audit", random_key)?);
    }
    if config.api.master_key.is_empty() && config.ingest.master_key.is_empty() {
        let key = Secret::new(folder.secret("master", random_key)?);
        (config.api.master_key, config.ingest.master_key) = (key.clone(), key);
    }
    if config.rater.directory.is_empty() {
        config.rater.directory = folder.path().join("rater").to_string_lossy().into_owned();
    }
    config.check(&Role::ALL)?;
    process::block_on("weir", up(config, folder, arguments))
}

/// 64 hexadecimal digits of which nobody knows any: the hash of 380 random bits.
fn random_key() -> Result<String> {
    let text = keys::random_text(2 * PASSWORD_LENGTH)?;
    Ok(keys::hash(&text).iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What `weir up` brought along because nobody named another.
struct Brought {
    postgres: Option<KeptServer>,
    clickhouse: Option<Engine>,
}

async fn up(mut config: Config, folder: DataFolder, arguments: Arguments) -> Result<ExitCode> {
    let shutdown = Shutdown::on_signals()?;
    let listener = bind(config.http.listen).await?;
    let address = listener.local_addr()?;
    sayln!("weir listens on http://{address}");
    let mut tasks = Tasks::new(&shutdown);
    let startup = Startup::begin(listener, &config.http, &shutdown, &mut tasks);
    let brought = Brought::start(&mut config, &folder).await?;
    let up = Up { config, folder, arguments, address, startup, shutdown: shutdown.clone() };
    brought.watch_postgres(&up, &mut tasks);
    let started = up.start(&mut tasks).await;
    if started.is_err() {
        shutdown.trigger();
    }
    let ended = tasks.wait(DRAIN).await;
    Endpoints::remove(up.folder.path());
    brought.stop().await;
    started?;
    ended?;
    Ok(ExitCode::SUCCESS)
}

impl Brought {
    async fn start(config: &mut Config, folder: &DataFolder) -> Result<Self> {
        let clickhouse = match config.clickhouse.url.is_empty() {
            true => Some(start_engine(folder).await?),
            false => None,
        };
        if let Some(engine) = &clickhouse {
            config.clickhouse.url = engine.url();
        }
        let mut postgres = None;
        if config.postgres.url.is_empty() {
            let options = ServerOptions::new(folder.path().join("postgres"));
            let server = KeptServer::start(options).await?;
            let password = folder.secret("postgres", || Ok(keys::random_text(PASSWORD_LENGTH)?))?;
            config.postgres.url = store::private::set_up(&server, &password).await?;
            postgres = Some(server);
        }
        Ok(Self { postgres, clickhouse })
    }

    /// Lets `/ready` say while the private Postgres is being started again.
    fn watch_postgres(&self, up: &Up, tasks: &mut Tasks) {
        let Some(server) = &self.postgres else { return };
        let (mut running, readiness) = (server.running(), up.startup.readiness.clone());
        let shutdown = up.shutdown.clone();
        tasks.spawn("postgres-watch", async move {
            loop {
                let state = match *running.borrow_and_update() {
                    Some(_) => State::Ready,
                    None => State::NotReady("it ended and is being started again".to_owned()),
                };
                readiness.set("private postgres", state);
                tokio::select! {
                    () = shutdown.cancelled() => return Ok(()),
                    changed = running.changed() => changed?,
                }
            }
        });
    }

    async fn stop(self) {
        let postgres = async {
            if let Some(server) = self.postgres {
                server.stop().await;
            }
        };
        let clickhouse = async {
            if let Some(engine) = self.clickhouse {
                engine.stop().await;
            }
        };
        tokio::join!(postgres, clickhouse);
    }
}

async fn start_engine(folder: &DataFolder) -> Result<Engine> {
    let library = find_library().context(
        "there is no ClickHouse: set CLICKHOUSE_URL, or run deploy/setup/clickhouse.sh, which fetches the engine",
    )?;
    let launch = EngineLaunch {
        program: std::env::current_exe().context("cannot find our own program")?,
        arguments: vec!["clickhouse-engine".to_owned()],
        library,
        data: folder.path().join("clickhouse"),
        connections: ENGINE_CONNECTIONS,
    };
    let status = launch.data.join("status");
    let mut attempt = 1;
    loop {
        wait_until_unlocked(&status).await;
        match Engine::start(launch.clone()).await {
            Ok(engine) => return Ok(engine),
            // An engine that outlived its parent by a moment was faster with the lock.
            Err(error) if attempt < ENGINE_ATTEMPTS_MAX => {
                tracing::warn!(%error, attempt, "the ClickHouse engine did not start; trying again");
                attempt += 1;
                tokio::time::sleep(READY_POLL).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits until nobody holds the lock of the engine's folder. The folder is ours, so it can only be
/// an engine whose `weir up` was killed, and which is still closing its tables.
async fn wait_until_unlocked(status: &Path) {
    let deadline = Instant::now() + ENGINE_END_TIME_MAX;
    while Instant::now() < deadline {
        let Ok(file) = File::options().read(true).write(true).open(status) else { return };
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Err((_, Errno::EWOULDBLOCK)) => tokio::time::sleep(READY_POLL).await,
            _ => return,
        }
    }
}

/// A `weir up` that has what it brings along.
struct Up {
    config: Config,
    folder: DataFolder,
    arguments: Arguments,
    address: SocketAddr,
    startup: Startup,
    shutdown: Shutdown,
}

impl Up {
    /// Waits for the servers, starts all roles under `tasks` and says where they answer; returns
    /// early when a stop was asked for.
    async fn start(&self, tasks: &mut Tasks) -> Result<()> {
        let (config, startup) = (&self.config, &self.startup);
        let database = startup
            .wait_for("postgres", async || process::sign_in(&config.postgres.url).await.map(drop));
        let archive = startup.wait_for("clickhouse", async || {
            process::prepare_clickhouse(config, &self.arguments.archive).await
        });
        let (Some(named), Some(()), Some(())) =
            tokio::try_join!(self.open_log(), database, archive)?
        else {
            return Ok(());
        };
        let prepare = async || {
            process::prepare_postgres(config, &named.name, named.log.partitions()).await?;
            admin_key(config, &self.folder).await
        };
        let Some(admin_key) = startup.wait_for("postgres", prepare).await? else { return Ok(()) };
        let readiness = startup.readiness.clone();
        let context = process::context(config, named.log, readiness, self.shutdown.clone());
        if let Some(log) = &named.local {
            local_log::keep(log, self.retention(), &context, tasks);
        }
        let router = tokio::select! {
            () = self.shutdown.cancelled() => return Ok(()),
            router = start_roles(config, &context, tasks) => router?,
        };
        let folder = named.local.as_ref().map(|_| self.log_folder());
        measures::keep(folder, &context, tasks)?;
        startup.finish(web::router(router, &context, &config.http));
        if wait_until_ready(&context).await {
            announce(&self.endpoints(admin_key), &self.folder, &self.arguments).await?;
        }
        Ok(())
    }

    async fn open_log(&self) -> Result<Option<NamedLog>> {
        let config = &self.config.log;
        if config.kafka.brokers.is_empty() {
            return Ok(Some(process::local_log(config, &self.log_folder()).await?));
        }
        let connect = async || {
            process::make_topics(config, self.arguments.replication).await?;
            process::kafka_log(config).await
        };
        self.startup.wait_for("kafka", connect).await
    }

    /// The folder of the local log.
    fn log_folder(&self) -> PathBuf {
        self.config.log.directory.clone().unwrap_or_else(|| self.folder.path().join("log"))
    }

    /// How long the local log keeps what everybody has read; `None` keeps it forever.
    fn retention(&self) -> Option<Duration> {
        let config = &self.config.log.local;
        let seconds = config.retention_hours.saturating_mul(3600);
        let seconds = self.arguments.trim_after.unwrap_or(seconds);
        config.trim.then(|| Duration::from_secs(seconds))
    }

    fn endpoints(&self, admin_key: String) -> Endpoints {
        let brokers = self.config.log.kafka.brokers.clone();
        Endpoints {
            http: format!("http://{}", self.address),
            postgres: self.config.postgres.url.expose().to_owned(),
            clickhouse: self.config.clickhouse.url.clone(),
            kafka: Some(brokers).filter(|brokers| !brokers.is_empty()),
            admin_key,
            pid: std::process::id(),
        }
    }
}

async fn start_roles(
    config: &Config,
    context: &Context,
    tasks: &mut Tasks,
) -> Result<OpenApiRouter> {
    let mut router = OpenApiRouter::new();
    for role in Role::ALL {
        let own = role.start_beside(&router, config, context, tasks).await?;
        router = router.merge(own);
    }
    Ok(router)
}

/// The admin key of the folder, made and stored where it is missing.
async fn admin_key(config: &Config, folder: &DataFolder) -> Result<String> {
    let all = ["*".to_owned()];
    let text = folder.secret("admin", || Ok(keys::generate()?.text))?;
    let mut connection = process::sign_in(&config.postgres.url).await?;
    let Ok(parsed) = keys::parse(&text) else {
        bail!(
            "{}/keys/admin is damaged; restore it, or remove it to have a new key",
            folder.path().display()
        );
    };
    if !store::keys::is_valid(&mut connection, &parsed, &all).await? {
        let grant = store::keys::Grant {
            tenant: store::tenants::find(&mut connection, store::tenants::DEFAULT).await?,
            name: "weir up",
            app: None,
            scopes: &all,
            expires_at: None,
        };
        let key =
            keys::NewKey { text: text.clone(), id: parsed.id, secret_hash: parsed.secret_hash };
        store::keys::insert(&mut connection, &key, &grant).await.context(
            "the key in keys/admin was revoked or belongs elsewhere; remove the file to have a new key",
        )?;
    }
    connection.close().await?;
    Ok(text)
}

/// Waits until all roles have been ready for a moment; false when a stop was asked for.
async fn wait_until_ready(context: &Context) -> bool {
    let (mut since, mut reported) = (None, Instant::now());
    loop {
        if context.readiness.is_ready() {
            if since.get_or_insert_with(Instant::now).elapsed() >= READY_FOR {
                return true;
            }
        } else {
            since = None;
        }
        if reported.elapsed() > READY_REPORT {
            reported = Instant::now();
            tracing::warn!(not_ready = ?context.readiness.not_ready(), "still starting");
        }
        tokio::select! {
            () = context.shutdown.cancelled() => return false,
            () = tokio::time::sleep(READY_POLL) => {}
        }
    }
}

/// Sends the demo's usage, then tells scripts and people where to go.
async fn announce(endpoints: &Endpoints, folder: &DataFolder, arguments: &Arguments) -> Result<()> {
    if arguments.demo {
        let client = Client::new(&endpoints.http, &endpoints.admin_key)?;
        demo::run(&client, folder).await.context("the demo could not be set up")?;
    }
    endpoints.write(folder.path())?;
    sayln!("weir is ready at {} (process {})", endpoints.http, endpoints.pid);
    sayln!("  addresses and the admin key: {}/endpoints.json", folder.path().display());
    sayln!("  what to try: weir hints --data {}", folder.path().display());
    Ok(())
}
