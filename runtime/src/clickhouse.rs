//! ClickHouse: the [client](ClickHouse), and the engine that a single machine brings along.
//!
//! With a server of your own only the client matters. Without one, `weir up` and the tests run
//! libchdb, the real engine as a library, in a [child process](engine::serve) that speaks
//! ClickHouse's HTTP interface, and [`Engine`] keeps that process running: a crash of the library
//! takes nothing else with it.
//!
//! What was found out about libchdb 26.7.3, so that nobody has to again:
//! * **Data after `FORMAT RowBinary` in the statement is not safe.** Leading bytes that look like
//!   blanks are swallowed, and of 200,000 rows 29,578 arrived, without an error. Data goes through
//!   `chdb_stream_insert_n` instead, which takes any bytes and was exact every time.
//! * **Blocks.** One insert is one block up to 1,048,449 rows; beyond, the settings that
//!   [`ClickHouse::insert`] sends keep it one (seen with 2 M rows). Deduplication by
//!   token works across connections and across `kill -9`.
//! * **Parallelism.** A connection runs one statement at a time, several run in parallel: an
//!   insert beside a heavy aggregation takes 3 to 10 ms, and the slowest of 80 by 8 clients on 4
//!   connections of a machine with 2 cores took 67 ms. Settings made with `SET` are the
//!   connection's own; `SET x = DEFAULT` takes them back.
//! * **Speed**, HTTP and a debug build of ours included: 50,000 rows in 36 ms, 200,000 in 125 ms.
//! * **Start.** 0.1 s warm, 0.7 s when the 566 MB of the library are not in the page cache. A stop
//!   takes 0.04 s.
//! * **Memory.** 210 MB after the start, 240 MB after an insert of 200,000 rows, 450 MB after one
//!   of 1.5 M, 1.2 GB right after a query that hit its own limit of 1.5 GB. Server settings
//!   (`max_server_memory_usage`, cache sizes) are taken from the arguments of the first connection.
//! * **Durability.** An insert that was answered survives `kill -9`. A power failure is another
//!   matter: set `fsync_after_insert` on tables that cannot be written again.

use std::path::{Path, PathBuf};

use crate::config::variable;

mod blocks;
mod bodies;
mod chdb;
mod client;
pub mod engine;
mod lexer;
mod migrate;
pub mod outside;
mod pool;
mod request;
mod statement;
mod supervisor;

pub use crate::config::ClickHouseConfig;
pub use client::{ClickHouse, ClickHouseError};
pub use engine::{EngineError, EngineOptions};
pub use migrate::{MigrateError, Migration, Templating};
pub use supervisor::{Engine, EngineLaunch};

/// Finds libchdb.so: where `WEIR_LIBCHDB` says, else the newest that `deploy/setup/clickhouse.sh`
/// has fetched.
pub fn find_library() -> Option<PathBuf> {
    if let Some(named) = variable("WEIR_LIBCHDB") {
        return Some(PathBuf::from(named)).filter(|path| path.is_file());
    }
    let folder = |name: &str| variable(name).map(PathBuf::from);
    let tools = folder("WEIR_TOOLS").or_else(|| {
        let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
        Some(cache?.join("weir"))
    })?;
    newest_library(&tools)
}

/// The library with the highest version below the folder of tools.
fn newest_library(tools: &Path) -> Option<PathBuf> {
    let folders = std::fs::read_dir(tools).ok()?.filter_map(Result::ok);
    folders
        .filter_map(|folder| {
            let name = folder.file_name().into_string().ok()?;
            let version = version_numbers(name.strip_prefix("chdb-")?);
            let library = folder.path().join("libchdb.so");
            library.is_file().then_some((version, library))
        })
        .max()
        .map(|(_, library)| library)
}

/// The numbers in a version, so that 26.10 is newer than 26.9.
fn version_numbers(version: &str) -> Vec<u64> {
    version
        .split(|byte: char| !byte.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

/// The code in `Code: 60. DB::Exception: ...`.
fn exception_code(message: &str) -> Option<u32> {
    let (_, rest) = message.split_once("Code: ")?;
    let digits = rest.split(|byte: char| !byte.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_library_is_found_by_its_numbers() {
        let tools = std::env::temp_dir().join(format!("weir-tools-{}", std::process::id()));
        for version in ["26.9.0", "26.10.1-stable.1", "26.10.1"] {
            let folder = tools.join(format!("chdb-{version}"));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("libchdb.so"), b"").unwrap();
        }
        // Not finished, and not ours.
        std::fs::create_dir_all(tools.join("chdb-99.0.0")).unwrap();
        let newest = newest_library(&tools);
        std::fs::remove_dir_all(&tools).unwrap();
        assert_eq!(newest, Some(tools.join("chdb-26.10.1-stable.1/libchdb.so")));
    }

    #[test]
    fn the_code_of_an_exception() {
        assert_eq!(exception_code("Code: 60. DB::Exception: no table"), Some(60));
        assert_eq!(exception_code("404 Not Found"), None);
    }
}
