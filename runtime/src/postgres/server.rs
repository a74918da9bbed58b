//! A private Postgres server under a folder, from the installed binaries.
//!
//! For `weir up` and for tests. The folder holds `cluster/` (the data), `password` (of the
//! superuser, mode 0600), `port`, `lock` and `server.log`. The server listens on 127.0.0.1 with
//! passwords, and on a Unix socket in `socket/` where that path is short enough.
//!
//! The server does not outlive the process that started it: it is told to stop when that process
//! dies, however it does. What an earlier process left behind is stopped before a start. A
//! [`KeptServer`] is started again when it ends by itself.
//!
//! Postgres refuses to run as root. Root therefore runs it in a user namespace, where the same
//! files belong to another number; so it works below a folder that only root can enter. Where
//! there are no user namespaces it runs as the user `postgres`, which must be able to enter.

mod binaries;
mod folder;
mod kept;
mod process;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::signal::Signal;
use sqlx::{Connection, PgConnection};
use tokio::time::{Instant, sleep};

pub use self::kept::KeptServer;
use self::{
    binaries::{Binaries, RunAs},
    folder::Folder,
    process::Postmaster,
};
use super::{PostgresError, connect_options};
use crate::config::Secret;

/// Name of the superuser of a private server.
pub const SUPERUSER: &str = "postgres";

/// Recovery after a crash reads at most `max_wal_size` again; slow disks do 20 MB/s.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// A fast shutdown writes a checkpoint.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// A port that somebody took between our choice and the start is given up for another.
const START_ATTEMPTS_MAX: u32 = 4;
const POLL: Duration = Duration::from_millis(20);

/// What a private server is started with.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The folder; made if it is missing.
    pub data: PathBuf,
    /// The port on 127.0.0.1, or nothing else; `None` takes that of the last run or a free one.
    pub port: Option<u16>,
    /// Connections, at most.
    pub connections: u32,
    /// `shared_buffers`, in MB.
    pub shared_buffers_mb: u32,
    /// Further settings, as `name=value`, which win over ours.
    pub settings: Vec<String>,
}

impl ServerOptions {
    /// Settings for a small machine, with every commit durable.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            port: None,
            connections: 100,
            shared_buffers_mb: 256,
            settings: Vec::new(),
        }
    }
}

/// A private server could not be started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// There is no Postgres on this machine.
    #[error("no Postgres server is installed; run deploy/setup/postgres.sh, or set DATABASE_URL")]
    NotInstalled,
    /// Another living process has the folder.
    #[error("{0} is in use by another process; stop it or choose another folder")]
    InUse(PathBuf),
    /// Root may not make a user namespace here, and the user that Postgres then runs as cannot come
    /// to its folder.
    #[error(
        "Postgres cannot run as root, this machine allows no user namespaces, and {user} may not enter {folder}; \
         put the data where every user may enter (--data), or set DATABASE_URL"
    )]
    Unreachable {
        /// Whom it would run as.
        user: String,
        /// The first folder on the way that is closed.
        folder: PathBuf,
    },
    /// The folder or a program could not be used.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// A program ended with an error; its last words.
    #[error("{program} failed: {output}")]
    Failed {
        /// The program.
        program: String,
        /// The end of what it wrote.
        output: String,
    },
    /// It runs, but does not answer.
    #[error("postgres did not get ready within {} s: {last}", START_TIMEOUT.as_secs())]
    NotReady {
        /// The last answer.
        last: String,
    },
}

impl ServerError {
    fn io(what: impl fmt::Display) -> impl FnOnce(io::Error) -> Self {
        let what = what.to_string();
        move |source| Self::Io { what, source }
    }
}

/// A running private server. Dropping it stops it at once, without losing what was committed;
/// [`Server::stop`] is kinder, because the next start then has nothing to recover.
#[derive(Debug)]
pub struct Server {
    folder: Folder,
    port: u16,
    password: String,
    postmaster: Postmaster,
}

impl Server {
    /// Starts the server; makes the cluster the first time.
    pub async fn start(options: ServerOptions) -> Result<Self, ServerError> {
        let binaries = Binaries::find()?;
        let folder = Folder::open(&options.data)?;
        let run_as = RunAs::choose(&folder)?;
        folder.give_to(&run_as)?;
        let password = folder.password(&run_as)?;
        process::end_all_in(&folder.cluster()).await?;
        if !folder.cluster().exists() {
            binaries.make_cluster(&folder, &run_as).await?;
        }
        let mut last = String::new();
        for attempt in 0..START_ATTEMPTS_MAX {
            let port = match options.port {
                Some(port) => port,
                None => folder.port(attempt > 0)?,
            };
            let arguments = arguments(&options, &folder, port);
            let log = folder.log()?;
            let command = run_as.server_command(&binaries.postgres(), &arguments);
            let postmaster = Postmaster::start(command, log)?;
            let server =
                Self { folder: folder.share()?, port, password: password.clone(), postmaster };
            match server.wait_until_ready().await {
                Err(ServerError::Failed { output, .. })
                    if output.contains("Address already in use") && options.port.is_none() =>
                {
                    last = output;
                }
                Err(error) => return Err(error),
                Ok(()) => return Ok(server),
            }
        }
        Err(ServerError::Failed { program: "postgres".to_owned(), output: last })
    }

    /// URL of `database` for `user` over TCP.
    pub fn url(&self, user: &str, password: &str, database: &str) -> Secret {
        url(self.port, user, password, database)
    }

    /// URL of the database `postgres` for the superuser.
    pub fn superuser_url(&self) -> Secret {
        self.superuser_url_of("postgres")
    }

    /// URL of `database` for the superuser.
    pub fn superuser_url_of(&self, database: &str) -> Secret {
        self.url(SUPERUSER, &self.password, database)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Process id of the postmaster.
    pub fn pid(&self) -> u32 {
        self.postmaster.pid()
    }

    /// What the server wrote.
    pub fn log_path(&self) -> PathBuf {
        self.folder.log_path()
    }

    /// Whether the postmaster lives.
    pub fn is_running(&self) -> bool {
        self.postmaster.ended().is_none()
    }

    /// Resolves when the postmaster has ended, wanted or not, with how it did.
    pub async fn ended(&self) -> String {
        self.postmaster.wait().await
    }

    /// Ends all sessions, writes a checkpoint and stops.
    pub async fn stop(self) -> Result<(), ServerError> {
        self.postmaster.signal(Signal::SIGINT);
        if tokio::time::timeout(STOP_TIMEOUT, self.postmaster.wait()).await.is_err() {
            tracing::warn!("postgres did not stop in time; stopping it at once");
        }
        Ok(())
    }

    /// Ends the postmaster with SIGKILL, as a crash does. For tests.
    pub async fn kill(self) {
        self.postmaster.signal(Signal::SIGKILL);
        self.postmaster.wait().await;
    }

    async fn wait_until_ready(&self) -> Result<(), ServerError> {
        let url = self.superuser_url();
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let last = match sign_in(&url).await {
                Ok(()) => return Ok(()),
                Err(error) => error.to_string(),
            };
            if let Some(status) = self.postmaster.ended() {
                let output = format!("{status}\n{}", folder::tail(&self.folder.log_path()));
                return Err(ServerError::Failed { program: "postgres".to_owned(), output });
            }
            if Instant::now() > deadline {
                return Err(ServerError::NotReady { last });
            }
            sleep(POLL).await;
        }
    }
}

fn url(port: u16, user: &str, password: &str, database: &str) -> Secret {
    let (user, password) = (escape(user), escape(password));
    Secret::new(format!("postgres://{user}:{password}@127.0.0.1:{port}/{database}?sslmode=disable"))
}

async fn sign_in(url: &Secret) -> Result<(), PostgresError> {
    let options = connect_options(url.expose())?;
    let connection = PgConnection::connect_with(&options).await?;
    Ok(connection.close().await?)
}

/// Settings are given on the command line, so that a new version of ours changes them.
fn arguments(options: &ServerOptions, folder: &Folder, port: u16) -> Vec<String> {
    let mut settings = vec![
        "listen_addresses=127.0.0.1".to_owned(),
        format!("port={port}"),
        format!("unix_socket_directories={}", folder.socket_folder(port)),
        format!("max_connections={}", options.connections),
        format!("shared_buffers={}MB", options.shared_buffers_mb),
        "max_wal_size=2GB".to_owned(),
        "fsync=on".to_owned(),
        "full_page_writes=on".to_owned(),
        "synchronous_commit=on".to_owned(),
        "timezone=UTC".to_owned(),
        "log_timezone=UTC".to_owned(),
        "log_line_prefix=%m [%p] %a ".to_owned(),
        "cluster_name=weir".to_owned(),
    ];
    settings.extend(options.settings.iter().cloned());
    let mut arguments = vec!["-D".to_owned(), path_text(&folder.cluster())];
    for setting in settings {
        arguments.extend(["-c".to_owned(), setting]);
    }
    arguments
}

fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Percent-encodes what a URL cannot hold.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}
