//! A thin client: statements, rows already encoded, rows as JSON. It retries nothing.
//!
//! It stands on the `clickhouse` crate (`query_raw`, `insert_formatted_with`), with the crate's
//! compression off: rows arrive compressed by us or stay on the machine.

use std::{fmt, future::Future, time::Duration};

use bytes::Bytes;
use clickhouse::{Client, Compression, error::Error};
use futures_util::{
    StreamExt as _,
    stream::{self, Stream},
};

use super::exception_code;
use crate::config::ClickHouseConfig;

/// Why ClickHouse did not do what was asked, by who can act.
#[derive(Debug, thiserror::Error)]
pub enum ClickHouseError {
    /// It cannot be reached or is overloaded. The same call may succeed later; an insert may have
    /// happened, so repeat it with the same token.
    #[error("ClickHouse is unavailable: {0}")]
    Unavailable(String),
    /// What we asked is wrong, and will be wrong again.
    #[error("ClickHouse refused: {message}")]
    Refused {
        /// ClickHouse's exception code; 0 for an answer that could not be read.
        code: u32,
        /// The exception, or what was wrong with the answer.
        message: String,
    },
}

/// A statement that takes longer has failed.
const STATEMENT_TIME_MAX: Duration = Duration::from_secs(300);
/// The sending of an insert, and then the wait for its answer.
const INSERT_TIME_MAX: Duration = Duration::from_secs(120);
/// Of one answer as JSON; a query with more is to be asked in pages.
const ANSWER_BYTES_MAX: &str = "268435456";

/// A client; cheap to clone, clones share their connections.
#[derive(Clone)]
pub struct ClickHouse {
    client: Client,
}

impl fmt::Debug for ClickHouse {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ClickHouse").finish_non_exhaustive()
    }
}

impl ClickHouse {
    /// Makes a client. Nothing is sent yet.
    pub fn new(config: &ClickHouseConfig) -> Self {
        let mut client = Client::default()
            .with_url(config.url.as_str())
            .with_database(config.database.as_str())
            .with_compression(Compression::None);
        if !config.user.is_empty() {
            client = client.with_user(config.user.as_str());
        }
        if !config.password.is_empty() {
            client = client.with_password(config.password.expose());
        }
        Self { client }
    }

    /// Runs one statement that has no answer.
    pub async fn execute(&self, sql: &str) -> Result<(), ClickHouseError> {
        let query = self.client.query_raw(sql).with_setting("wait_end_of_query", "1");
        within(STATEMENT_TIME_MAX, query.execute()).await
    }

    /// Runs one statement with values for its `{name:Type}`, and forgets its answer.
    pub async fn execute_with(
        &self,
        sql: &str,
        parameters: &[(&str, &str)],
    ) -> Result<(), ClickHouseError> {
        let mut query = self.client.query_raw(sql).with_setting("wait_end_of_query", "1");
        for (name, value) in parameters {
            query = query.param(name, value);
        }
        within(STATEMENT_TIME_MAX, query.execute()).await
    }

    /// Inserts rows that are in one of ClickHouse's formats already, as one block, at most once per
    /// token. They come in pieces; where one is an error, nothing is inserted.
    ///
    /// The rows must be less than a gigabyte and 100 million, so that one token is one block; the
    /// table needs `non_replicated_deduplication_window` (or be replicated) for the token to count.
    /// An empty token means none. `columns` is what stands between the parentheses.
    pub async fn insert<E: From<ClickHouseError>>(
        &self,
        table: &str,
        columns: &str,
        format: &str,
        deduplication_token: &str,
        rows: impl IntoIterator<Item = Result<Bytes, E>>,
    ) -> Result<(), E> {
        let sql = format!("INSERT INTO {table} ({columns}) FORMAT {format}");
        let mut insert = self
            .client
            .insert_formatted_with(sql)
            .with_timeouts(Some(INSERT_TIME_MAX), Some(INSERT_TIME_MAX))
            .with_setting("max_insert_block_size", "100000000")
            .with_setting("min_insert_block_size_rows", "100000000")
            .with_setting("min_insert_block_size_bytes", "1073741824")
            .with_setting("async_insert", "0")
            .with_setting("wait_end_of_query", "1");
        if !deduplication_token.is_empty() {
            insert = insert.with_setting("insert_deduplication_token", deduplication_token);
        }
        let mut damage = None;
        let sent = async {
            for piece in rows {
                match piece {
                    Ok(piece) => insert.send(piece).await?,
                    Err(error) => {
                        damage = Some(error);
                        // Dropped without its end, it is none.
                        return Ok(());
                    }
                }
            }
            insert.end().await
        };
        within(INSERT_TIME_MAX * 2, sent).await?;
        damage.map_or(Ok(()), Err)
    }

    /// Reads rows as JSON objects. 64-bit integers and decimals arrive as strings, so that none
    /// passes through a float. Values for `{name:Type}` are sent beside the statement.
    pub async fn query_json_rows(
        &self,
        sql: &str,
        parameters: &[(&str, &str)],
    ) -> Result<Vec<serde_json::Value>, ClickHouseError> {
        let mut query = self
            .client
            .query_raw(sql)
            .with_setting("output_format_json_quote_64bit_integers", "1")
            .with_setting("output_format_json_quote_decimals", "1")
            .with_setting("max_result_bytes", ANSWER_BYTES_MAX);
        for (name, value) in parameters {
            query = query.param(name, value);
        }
        let fetched = async { query.fetch_bytes("JSONEachRow")?.collect().await };
        let bytes = within(STATEMENT_TIME_MAX, fetched).await?;
        serde_json::Deserializer::from_slice(&bytes)
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(|fault| ClickHouseError::Refused { code: 0, message: fault.to_string() })
    }

    /// Reads a whole answer in one of ClickHouse's formats.
    pub async fn query_bytes(&self, sql: &str, format: &str) -> Result<Bytes, ClickHouseError> {
        let query = self.client.query_raw(sql).with_setting("max_result_bytes", ANSWER_BYTES_MAX);
        let fetched = async { query.fetch_bytes(format)?.collect().await };
        within(STATEMENT_TIME_MAX, fetched).await
    }

    /// Reads an answer in one of ClickHouse's formats while it is made. An error before the first
    /// byte is answered here; one after it is the reader's, so that nobody takes a part for all.
    pub async fn query_stream(
        &self,
        sql: &str,
        parameters: &[(&str, &str)],
        format: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, ClickHouseError>> + Send + use<>, ClickHouseError>
    {
        let mut query = self.client.query_raw(sql);
        for (name, value) in parameters {
            query = query.param(name, value);
        }
        let begun = async {
            let mut answer = query.fetch_bytes(format)?;
            Ok((answer.next().await?, answer))
        };
        let (first, answer) = within(STATEMENT_TIME_MAX, begun).await?;
        // Not by the cursor's `AsyncRead`: it forgets what it has copied when the next piece is
        // not there yet (clickhouse 0.15.3).
        let rest = stream::try_unfold(answer, |mut answer| async {
            let piece = answer.next().await.map_err(classify)?;
            Ok(piece.map(|piece| (piece, answer)))
        });
        Ok(stream::iter(first.map(Ok)).chain(rest))
    }

    /// The same server, with `default` as the database.
    pub(super) fn in_default_database(&self) -> Self {
        Self { client: self.client.clone().with_database("default") }
    }

    /// Whether it answers.
    pub async fn ping(&self) -> Result<(), ClickHouseError> {
        within(Duration::from_secs(5), self.client.query_raw("SELECT 1 FORMAT Null").execute())
            .await
    }
}

async fn within<T>(
    time: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, ClickHouseError> {
    match tokio::time::timeout(time, call).await {
        Ok(outcome) => outcome.map_err(classify),
        Err(_) => Err(ClickHouseError::Unavailable(format!("no answer within {time:?}"))),
    }
}

fn classify(error: Error) -> ClickHouseError {
    match error {
        Error::BadResponse(message) => match exception_code(&message) {
            Some(code) if passes(code) => ClickHouseError::Unavailable(message),
            Some(code) => ClickHouseError::Refused { code, message },
            // No exception: something between us and ClickHouse answered.
            None => ClickHouseError::Unavailable(message),
        },
        Error::Network(source) => ClickHouseError::Unavailable(chain(&*source)),
        Error::TimedOut => ClickHouseError::Unavailable("no answer in time".into()),
        other => ClickHouseError::Refused { code: 0, message: other.to_string() },
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

/// Exceptions about the state of the server or cluster, not about what was asked.
fn passes(code: u32) -> bool {
    const TRANSIENT: [u32; 25] = [
        159, // TIMEOUT_EXCEEDED
        198, // DNS_ERROR
        202, // TOO_MANY_SIMULTANEOUS_QUERIES
        203, // NO_FREE_CONNECTION
        209, // SOCKET_TIMEOUT
        210, // NETWORK_ERROR
        225, // NO_ZOOKEEPER
        236, // ABORTED
        241, // MEMORY_LIMIT_EXCEEDED
        242, // TABLE_IS_READ_ONLY
        243, // NOT_ENOUGH_SPACE
        252, // TOO_MANY_PARTS
        279, // ALL_CONNECTION_TRIES_FAILED
        285, // TOO_FEW_LIVE_REPLICAS
        286, // UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE
        289, // REPLICA_IS_NOT_IN_QUORUM
        319, // UNKNOWN_STATUS_OF_INSERT
        394, // QUERY_WAS_CANCELLED
        425, // SYSTEM_ERROR
        439, // CANNOT_SCHEDULE_TASK
        473, // DEADLOCK_AVOIDED
        574, // DISTRIBUTED_TOO_MANY_PENDING_BYTES
        735, // QUERY_WAS_CANCELLED_BY_CLIENT
        745, // SERVER_OVERLOADED
        999, // KEEPER_EXCEPTION
    ];
    TRANSIENT.contains(&code)
}
