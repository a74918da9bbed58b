//! The schema: numbered scripts, applied once, in order, and recorded in `schema_migrations`.
//!
//! ClickHouse has no transaction around DDL. A script that failed in the middle is applied again
//! from its beginning, so its statements say `IF NOT EXISTS`.

use xxhash_rust::xxh3::xxh3_128;

use super::{
    client::{ClickHouse, ClickHouseError},
    statement::split,
};

/// A script: its number, its name, and statements separated by semicolons.
pub type Migration<'a> = (u32, &'a str, &'a str);

/// What the scripts leave open.
#[derive(Debug, Clone, Copy)]
pub struct Templating<'a> {
    /// Replaces `{engine}`: `MergeTree`, or `ReplicatedMergeTree(...)` on a cluster.
    pub engine: &'a str,
    /// Replaces `{on_cluster}`: empty, or `ON CLUSTER name`.
    pub on_cluster: &'a str,
}

impl Default for Templating<'_> {
    fn default() -> Self {
        Self { engine: "MergeTree", on_cluster: "" }
    }
}

/// Why the schema is not what the scripts say.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// ClickHouse did not do it.
    #[error("migration {number} ({name}): {source}")]
    Statement {
        /// Number of the script; 0 for the table of migrations itself.
        number: u32,
        /// Name of the script.
        name: String,
        /// What ClickHouse said.
        source: ClickHouseError,
    },
    /// A script was changed after it was applied; write a new one instead.
    #[error("migration {number} ({name}) was applied with another text")]
    Changed {
        /// Number of the script.
        number: u32,
        /// Name of the script.
        name: String,
    },
}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS schema_migrations {on_cluster} (
    number UInt32, name String, hash String, applied_at DateTime64(6, 'UTC') DEFAULT now64(6)
) ENGINE = {engine} ORDER BY number";

impl ClickHouse {
    /// Makes the database if it is missing. Asked in `default`, as the own one may not be there.
    pub async fn create_database(
        &self,
        name: &str,
        templating: Templating<'_>,
    ) -> Result<(), ClickHouseError> {
        let sql = format!(
            "CREATE DATABASE IF NOT EXISTS {} {}",
            super::statement::quoted_name(name),
            templating.on_cluster
        );
        self.in_default_database().execute(&sql).await
    }

    /// Applies the scripts that were not applied yet and returns their numbers.
    pub async fn migrate(
        &self,
        migrations: &[Migration<'_>],
        templating: Templating<'_>,
    ) -> Result<Vec<u32>, MigrateError> {
        let table = failed(0, "schema_migrations");
        self.execute(&fill(TABLE, templating)).await.map_err(&table)?;
        let applied = self.applied().await.map_err(&table)?;
        let mut done = Vec::new();
        for (number, name, script) in migrations {
            let hash = format!("{:032x}", xxh3_128(script.as_bytes()));
            match applied.iter().find(|(known, _)| known == number) {
                Some((_, known)) if *known == hash => continue,
                Some(_) => {
                    let name = (*name).to_owned();
                    return Err(MigrateError::Changed { number: *number, name });
                }
                None => self.apply(*number, name, script, &hash, templating).await?,
            }
            done.push(*number);
        }
        Ok(done)
    }

    /// Numbers and hashes of the scripts that were applied.
    async fn applied(&self) -> Result<Vec<(u32, String)>, ClickHouseError> {
        let rows = self.query_json_rows("SELECT number, hash FROM schema_migrations", &[]).await?;
        let read = |row: &serde_json::Value| {
            let number = u32::try_from(row.get("number")?.as_u64()?).ok()?;
            Some((number, row.get("hash")?.as_str()?.to_owned()))
        };
        Ok(rows.iter().filter_map(read).collect())
    }

    async fn apply(
        &self,
        number: u32,
        name: &str,
        script: &str,
        hash: &str,
        templating: Templating<'_>,
    ) -> Result<(), MigrateError> {
        for statement in split(&fill(script, templating)) {
            self.execute(statement).await.map_err(failed(number, name))?;
        }
        let record = "INSERT INTO schema_migrations (number, name, hash)
            SELECT {number:UInt32}, {name:String}, {hash:String}";
        let number_text = number.to_string();
        let values = [("number", number_text.as_str()), ("name", name), ("hash", hash)];
        self.execute_with(record, &values).await.map_err(failed(number, name))
    }
}

fn fill(script: &str, templating: Templating<'_>) -> String {
    script.replace("{engine}", templating.engine).replace("{on_cluster}", templating.on_cluster)
}

fn failed(number: u32, name: &str) -> impl Fn(ClickHouseError) -> MigrateError {
    move |source| MigrateError::Statement { number, name: name.to_owned(), source }
}
