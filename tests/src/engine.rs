//! The ClickHouse engine under test: libchdb in a child process, in a folder of its own.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context, Result, ensure};
use runtime::{
    clickhouse::{ClickHouse, ClickHouseConfig, Engine, EngineLaunch, Migration, find_library},
    config::Secret,
};

/// Number, name and text of the archive's migrations, in their order.
pub const ARCHIVE_MIGRATIONS: &[Migration<'static>] = &[
    (1, "spine", include_str!("../../migrations/clickhouse/0001_spine.sql")),
    (2, "look_ups", include_str!("../../migrations/clickhouse/0002_look_ups.sql")),
    (3, "compact_parts", include_str!("../../migrations/clickhouse/0003_compact_parts.sql")),
    (4, "audit_heads", include_str!("../../migrations/clickhouse/0004_audit_heads.sql")),
    (5, "origins", include_str!("../../migrations/clickhouse/0005_origins.sql")),
    (6, "fewer_merges", include_str!("../../migrations/clickhouse/0006_fewer_merges.sql")),
    (7, "plain_words", include_str!("../../migrations/clickhouse/0007_plain_words.sql")),
    (8, "uncorrected", include_str!("../../migrations/clickhouse/0008_uncorrected.sql")),
    (9, "observed", include_str!("../../migrations/clickhouse/0009_observed.sql")),
];

/// libchdb.so, fetched by `deploy/setup/clickhouse.sh` when it is not there yet.
pub fn library() -> Result<PathBuf> {
    static LIBRARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = LIBRARY.get_or_init(|| match find_library() {
        Some(library) => Ok(library),
        None => fetch().map_err(|fault| format!("{fault:#}")),
    });
    found.clone().map_err(anyhow::Error::msg)
}

fn fetch() -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/setup/clickhouse.sh");
    let output = Command::new(&script).output().context("run deploy/setup/clickhouse.sh")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let path = PathBuf::from(String::from_utf8(output.stdout)?.trim());
    ensure!(path.is_file(), "{} is missing", path.display());
    Ok(path)
}

/// A folder of one test, removed with it.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes an empty folder whose name tells the test.
    pub fn new(test: &str) -> Result<Self> {
        let name = format!("weir-{test}-{}", uuid::Uuid::now_v7().simple());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Starts `program` (the test binary `clickhouse-engine`) on a folder.
pub async fn start(program: &str, folder: &Folder, connections: usize) -> Result<Engine> {
    let launch = EngineLaunch {
        program: program.into(),
        arguments: Vec::new(),
        library: library()?,
        data: folder.path().join("clickhouse"),
        connections,
    };
    Ok(Engine::start(launch).await?)
}

/// A client of an engine or server, in one of its databases.
pub fn client(url: &str, database: &str) -> ClickHouse {
    ClickHouse::new(&ClickHouseConfig {
        url: url.to_owned(),
        database: database.to_owned(),
        user: String::new(),
        password: Secret::new(""),
    })
}
