//! Real Postgres for tests: one private server, as many databases as wanted.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use runtime::{
    config::{PostgresConfig, Secret},
    postgres::{
        Pool, connect,
        server::{Server, ServerOptions},
    },
};
use sqlx::{
    AssertSqlSafe, Connection as _, Executor as _, PgConnection, migrate::Migrator, raw_sql,
};

/// A private server in a folder of its own, gone with this value.
#[derive(Debug)]
pub struct TestPostgres {
    // Before the folder, because fields are dropped in this order.
    server: Option<Server>,
    folder: TestFolder,
}

/// A folder (mode 0700) that is removed when dropped.
#[derive(Debug)]
pub struct TestFolder(PathBuf);

impl TestFolder {
    /// Makes an empty folder under the system's folder for temporary files.
    pub fn new(name: &str) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let path = std::env::temp_dir().join(format!("weir-{name}-{}", uuid::Uuid::now_v7()));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TestFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl TestPostgres {
    /// Starts a server with settings for many small databases.
    pub async fn start() -> Result<Self> {
        let folder = TestFolder::new("postgres")?;
        let server = Some(Server::start(options(&folder)).await?);
        Ok(Self { server, folder })
    }

    /// The server.
    pub fn server(&self) -> Result<&Server> {
        self.server.as_ref().context("the server was stopped")
    }

    /// Stops it (fast).
    pub async fn stop(&mut self) -> Result<()> {
        Ok(self.server.take().context("the server was stopped")?.stop().await?)
    }

    /// Starts it again on the same data.
    pub async fn start_again(&mut self) -> Result<()> {
        self.server = Some(Server::start(options(&self.folder)).await?);
        Ok(())
    }

    /// Ends the postmaster with SIGKILL, and starts again on the same data.
    pub async fn kill_and_restart(&mut self) -> Result<()> {
        self.server.take().context("the server was stopped")?.kill().await;
        self.start_again().await
    }

    /// Makes a database and gives the superuser's URL of it.
    pub async fn database(&self, name: &str) -> Result<Secret> {
        let server = self.server()?;
        let mut connection = PgConnection::connect(server.superuser_url().expose()).await?;
        connection.execute(AssertSqlSafe(format!("CREATE DATABASE \"{name}\""))).await?;
        connection.close().await?;
        Ok(server.superuser_url_of(name))
    }

    /// A pool on `url`, as the processes open theirs.
    pub async fn pool(&self, url: &Secret, role: Option<&str>, connections: u32) -> Result<Pool> {
        let config = PostgresConfig { url: url.clone(), connections };
        Ok(connect(&config, role, "test").await?)
    }
}

fn options(folder: &TestFolder) -> ServerOptions {
    ServerOptions { shared_buffers_mb: 64, ..ServerOptions::new(folder.path().join("postgres")) }
}

/// Roles and tables, as `weir migrate` makes them.
pub async fn migrate(admin: &Pool) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let roles = std::fs::read_to_string(root.join("deploy/postgres/roles.sql"))?;
    raw_sql(AssertSqlSafe(roles)).execute(admin).await?;
    Migrator::new(root.join("migrations/postgres")).await?.run(admin).await?;
    Ok(())
}
