//! The front's readers without a server around them: fuzz targets call these.

use std::{collections::BTreeMap, ops::Range};

use axum::http::{HeaderMap, Method};
use bytes::Bytes;

use super::{blocks, engine::BODY_BYTES_MAX, lexer, request, statement};

/// What a request asks the engine to run.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    /// The statement; of an INSERT that brings data, what stands before its FORMAT clause.
    pub sql: Vec<u8>,
    /// Format and data of such an INSERT.
    pub data: Option<(String, Bytes)>,
    /// The database that unqualified names are in.
    pub database: String,
    /// Format of the answer where the statement names none.
    pub format: String,
    /// Settings for this request only, by name.
    pub settings: BTreeMap<String, String>,
}

/// Reads a request; a refusal is ClickHouse's code for it and what is wrong.
pub fn request(
    method: &Method,
    url_query: &str,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<Asked, (u32, String)> {
    let work = request::read(method, url_query, headers, body);
    let work = work.map_err(|refusal| (refusal.code, refusal.message))?;
    let (sql, data) = match work.statement {
        statement::Statement::Plain(sql) => (sql, None),
        statement::Statement::Insert { sql, format, data } => (sql, Some((format, data))),
    };
    let (database, format, settings) = (work.database, work.format, work.settings);
    Ok(Asked { sql, data, database, format, settings })
}

/// Where the tokens of a statement are.
pub fn tokens(text: &[u8]) -> impl Iterator<Item = Range<usize>> + '_ {
    lexer::tokens(text).map(|token| token.place)
}

/// The statements of a script.
#[must_use]
pub fn statements(script: &str) -> Vec<&str> {
    statement::split(script)
}

/// The plain data of compressed blocks, or what is wrong with them.
pub fn decompress(body: &[u8]) -> Result<Bytes, String> {
    blocks::decompress(body, BODY_BYTES_MAX)
}
