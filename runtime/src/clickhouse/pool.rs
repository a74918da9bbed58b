//! The engine's connections: a few to one data folder, each used by one request at a time.
//!
//! Settings and the database of a request are set on its connection and taken back after it;
//! a connection whose state is in doubt is closed and opened anew.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    chdb::{ChdbError, Connection, Library},
    statement::{Refusal, Statement, changes_session, literal, quoted_name},
};

/// What every request runs with unless it says otherwise. A query that needs more than its share
/// of memory spills to disk, then fails; it does not take the machine with it.
const SETTINGS: [(&str, &str); 7] = [
    ("max_memory_usage", "1500000000"),
    ("max_bytes_before_external_group_by", "700000000"),
    ("max_bytes_before_external_sort", "700000000"),
    // A client that went away cannot stop its query; this does.
    ("max_execution_time", "300"),
    ("max_insert_threads", "1"),
    ("date_time_input_format", "best_effort"),
    ("http_write_exception_in_output_format", "0"),
];

/// What the engine as a whole may use: caches are small beside the 5 GB that are its defaults.
const SERVER: [&str; 9] = [
    "--max_server_memory_usage=3000000000",
    "--mark_cache_size=134217728",
    "--primary_index_cache_size=134217728",
    "--index_mark_cache_size=33554432",
    "--vector_similarity_index_cache_size=1048576",
    "--text_index_tokens_cache_size=1048576",
    "--text_index_header_cache_size=1048576",
    "--text_index_postings_cache_size=1048576",
    "--logger.level=fatal",
];

/// What one request asks of a connection.
pub(super) struct Work {
    pub(super) statement: Statement,
    /// The database that unqualified names are in.
    pub(super) database: String,
    /// Format of the answer where the statement names none.
    pub(super) format: String,
    /// Settings for this request only, by name.
    pub(super) settings: BTreeMap<String, String>,
}

/// The open connections. Whoever runs work holds one of as many permits as there are connections.
pub(super) struct Pool {
    library: Arc<Library>,
    arguments: Vec<String>,
    idle: Mutex<Vec<Session>>,
    /// Never used: it keeps the engine running when all others are closed and opened anew.
    keeper: Mutex<Option<Connection>>,
}

struct Session {
    connection: Connection,
    database: String,
}

/// ClickHouse's database of a connection that chose none.
const DEFAULT_DATABASE: &str = "default";

impl Pool {
    /// Starts the engine on `data` with so many connections.
    pub(super) fn open(library: &Path, data: &Path, connections: usize) -> Result<Self, ChdbError> {
        let library = Library::load(library)?;
        let mut arguments = vec![format!("--path={}", data.display())];
        arguments.extend(SETTINGS.map(|(name, value)| format!("--{name}={value}")));
        let mut first = arguments.clone();
        first.extend(SERVER.map(str::to_owned));
        // Where `BACKUP … TO File('NAME')` may write.
        first.push(format!("--backups.allowed_path={}", data.join("backups").display()));
        let keeper = library.connect(&first)?;
        let pool = Self {
            library,
            arguments,
            idle: Mutex::new(Vec::new()),
            keeper: Mutex::new(Some(keeper)),
        };
        for _ in 0..connections.max(1) {
            let session = pool.session()?;
            pool.put_back(session);
        }
        Ok(pool)
    }

    /// Runs one request on a free connection. Blocks until it is done.
    pub(super) fn run(&self, work: &Work) -> Result<Vec<u8>, Failure> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut session = match idle {
            Some(session) => session,
            None => self.session()?,
        };
        let outcome = session.run(work);
        let clean = !work.changes_session() && session.restore(work).is_ok();
        if clean {
            self.put_back(session);
        } else {
            drop(session);
            self.put_back(self.session()?);
        }
        outcome
    }

    /// Closes everything; the engine ends with the last connection.
    pub(super) fn close(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn session(&self) -> Result<Session, ChdbError> {
        let connection = self.library.connect(&self.arguments)?;
        Ok(Session { connection, database: DEFAULT_DATABASE.to_owned() })
    }

    fn put_back(&self, session: Session) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(session);
    }
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The engine's exception: `Code: N. DB::Exception: ...`.
    #[error("{0}")]
    Exception(String),
    /// A connection could not be opened.
    #[error(transparent)]
    Connection(#[from] ChdbError),
}

impl Session {
    fn run(&mut self, work: &Work) -> Result<Vec<u8>, Failure> {
        self.prepare(work).map_err(Failure::Exception)?;
        match &work.statement {
            Statement::Plain(sql) => self.connection.query(sql, &work.format),
            Statement::Insert { sql, format, data } => {
                self.connection.insert(sql, format, data).map(|()| Vec::new())
            }
        }
        .map_err(Failure::Exception)
    }

    fn prepare(&mut self, work: &Work) -> Result<(), String> {
        if self.database != work.database {
            self.query(&format!("USE {}", quoted_name(&work.database)))?;
            self.database.clone_from(&work.database);
        }
        let settings = work.settings.iter().map(|(name, value)| (name, literal(value)));
        self.set(settings)
    }

    /// Takes back the settings of a request.
    fn restore(&mut self, work: &Work) -> Result<(), String> {
        let settings = work.settings.keys().map(|name| {
            let usual = SETTINGS.iter().find(|(usual, _)| usual == name);
            (name, usual.map_or("DEFAULT".to_owned(), |(_, value)| literal(value)))
        });
        self.set(settings)
    }

    fn set<'a>(
        &mut self,
        settings: impl Iterator<Item = (&'a String, String)>,
    ) -> Result<(), String> {
        let assignments: Vec<String> =
            settings.map(|(name, value)| format!("{name} = {value}")).collect();
        if assignments.is_empty() {
            return Ok(());
        }
        self.query(&format!("SET {}", assignments.join(", ")))
    }

    fn query(&mut self, sql: &str) -> Result<(), String> {
        self.connection.query(sql.as_bytes(), "TabSeparated").map(|_| ())
    }
}

impl Work {
    fn changes_session(&self) -> bool {
        matches!(&self.statement, Statement::Plain(sql) if changes_session(sql))
    }
}

/// Refuses what is not the name of a setting, as it becomes part of a statement.
pub(super) fn check_setting(name: &str) -> Result<(), Refusal> {
    const UNKNOWN_SETTING: u32 = 115;
    let well_formed = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && name.bytes().next().is_some_and(|byte| !byte.is_ascii_digit());
    if well_formed {
        return Ok(());
    }
    Err(Refusal::new(UNKNOWN_SETTING, format!("Unknown setting {}", literal(name))))
}
