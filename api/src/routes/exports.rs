//! Exports of a period as files, written by the archive while they are read.

use axum::{
    body::Body,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::Stream;
use jiff::Timestamp;
use runtime::{
    clickhouse::ClickHouseError,
    http::{Path, Problem},
};
use utoipa::{IntoParams, ToSchema};

use super::analytics::{
    ask::{Ask, Takes},
    may_see_money,
};
use crate::{
    auth::{Caller, Scope},
    error::ApiError,
    extract::Query,
    openapi::Refusals,
    state::Api,
    store::{
        analytics::Selection,
        exports::{self, Format},
    },
};

/// What is exported.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its documentation is used")]
pub(crate) struct ExportQuery {
    /// First event time, RFC 3339, inclusive.
    #[param(format = DateTime, example = "2026-03-01T00:00:00Z")]
    from: String,
    /// Last event time, RFC 3339, exclusive; at most 400 days after `from`.
    #[param(format = DateTime, example = "2026-04-01T00:00:00Z")]
    to: String,
    /// One team; all if absent.
    team: Option<String>,
}

/// A Parquet file.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "only its documentation is used")]
pub(crate) struct ParquetFile(Vec<u8>);

/// Export lines of usage as CSV
///
/// A row for each line, as the view `usage_lines` has it: multiply by `sign`. What is unknown is empty; a text that a
/// spreadsheet would run has a `'` in front. An export that breaks off ends without the end of its body: take it again.
#[utoipa::path(get, path = "/v1/exports/usage_lines.csv", tag = "analytics", params(ExportQuery), responses(
    (status = 200, body = String, content_type = "text/csv"), Refusals))]
pub(crate) async fn usage_lines_csv(
    State(api): State<Api>,
    caller: Caller,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    usage_lines(&api, &caller, pairs, Format::Csv).await
}

/// Export lines of usage as Parquet
///
/// The same columns with their types: decimals of 12 places, times in microseconds, dimensions as a map.
#[utoipa::path(get, path = "/v1/exports/usage_lines.parquet", tag = "analytics", params(ExportQuery), responses(
    (status = 200, body = ParquetFile, content_type = "application/vnd.apache.parquet"), Refusals))]
pub(crate) async fn usage_lines_parquet(
    State(api): State<Api>,
    caller: Caller,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    usage_lines(&api, &caller, pairs, Format::Parquet).await
}

/// Export events as CSV
///
/// A row for each event that took its id, with what was sent where it is kept, and without money.
#[utoipa::path(get, path = "/v1/exports/events.csv", tag = "analytics", params(ExportQuery), responses(
    (status = 200, body = String, content_type = "text/csv"), Refusals))]
pub(crate) async fn events_csv(
    State(api): State<Api>,
    caller: Caller,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    events(&api, &caller, pairs, Format::Csv).await
}

/// Export events as Parquet
///
/// The same columns with their types.
#[utoipa::path(get, path = "/v1/exports/events.parquet", tag = "analytics", params(ExportQuery), responses(
    (status = 200, body = ParquetFile, content_type = "application/vnd.apache.parquet"), Refusals))]
pub(crate) async fn events_parquet(
    State(api): State<Api>,
    caller: Caller,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    events(&api, &caller, pairs, Format::Parquet).await
}

/// Answers for a file that is not exported, or not in this format.
pub(crate) async fn unknown(_: Caller, Path(file): Path<String>) -> ApiError {
    Problem::not_found(
        "export_unknown",
        format!("there is no export `{file}`"),
        "ask for usage_lines or events, with .csv or .parquet",
    )
    .into()
}

async fn usage_lines(
    api: &Api,
    caller: &Caller,
    pairs: Vec<(String, String)>,
    format: Format,
) -> Result<Response, ApiError> {
    let mut selection = Ask::read(pairs, Takes::Team)?.selection;
    let tenant = may_see_money(caller, &mut selection)?;
    let rows = exports::lines(&api.clickhouse, tenant, &selection, format).await?;
    Ok(file("usage_lines", &selection, format, rows))
}

async fn events(
    api: &Api,
    caller: &Caller,
    pairs: Vec<(String, String)>,
    format: Format,
) -> Result<Response, ApiError> {
    let mut selection = Ask::read(pairs, Takes::Team)?.selection;
    let tenant = caller.may_filter(Scope::UsageRead, &mut selection.team)?;
    let rows = exports::events(&api.clickhouse, tenant, &selection, format).await?;
    Ok(file("events", &selection, format, rows))
}

/// A file whose name says what it has, from when to when.
fn file(
    what: &str,
    selection: &Selection,
    format: Format,
    rows: impl Stream<Item = Result<Bytes, ClickHouseError>> + Send + 'static,
) -> Response {
    let (ending, kind) = match format {
        Format::Csv => ("csv", "text/csv; charset=utf-8; header=present"),
        Format::Parquet => ("parquet", "application/vnd.apache.parquet"),
    };
    let (from, to) = (second(selection.from_us), second(selection.to_us));
    let disposition = format!("attachment; filename=\"{what}_{from}_{to}.{ending}\"");
    let mut response = Body::from_stream(rows).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Ok(disposition) = HeaderValue::from_str(&disposition) {
        headers.insert(header::CONTENT_DISPOSITION, disposition);
    }
    response
}

/// A time as a file's name can have it.
fn second(time_us: i64) -> String {
    let time = Timestamp::from_microsecond(time_us).unwrap_or_default();
    time.strftime("%Y%m%dT%H%M%SZ").to_string()
}
