//! Exports: rows of the archive as they are, in one of ClickHouse's formats, while they are read.
//!
//! ClickHouse writes every byte, so memory does not depend on the number of rows. Texts of a CSV that a
//! spreadsheet would run as a formula have a `'` in front; Parquet has types and keeps them as they are.

use bytes::Bytes;
use futures_util::stream::Stream;
use runtime::clickhouse::{ClickHouse, ClickHouseError};

use super::{
    analytics::{Selection, event_filter, line_filter, once},
    usage::Statement,
};
use crate::{auth::TenantScope, error::ApiError};

/// What an export is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Csv,
    Parquet,
}

/// A column by its kind.
#[derive(Clone, Copy)]
enum Column {
    /// What somebody chose.
    Text(&'static str),
    /// A number; sums of it come out as they are in the archive.
    Number(&'static str),
    Time(&'static str),
    /// Texts by their names.
    Texts(&'static str),
    /// Where the event stands, as its receipt has it.
    Receipt,
}

use Column::{Number, Receipt, Text, Texts, Time};

const LINES: &[Column] = &[
    Receipt,
    Number("line_number"),
    Text("event_id"),
    Text("source"),
    Text("type"),
    Text("subject"),
    Text("team"),
    Text("user"),
    Text("app"),
    Text("feature"),
    Time("time"),
    Time("append_time"),
    Text("outcome"),
    Text("meter"),
    Text("unit"),
    Number("quantity"),
    Text("status"),
    Text("card"),
    Number("card_version"),
    Text("currency"),
    Number("charge"),
    Text("cost_card"),
    Number("cost_card_version"),
    Text("cost_currency"),
    Number("cost"),
    Texts("dimensions"),
    Number("catalog_version"),
    Number("sign"),
    Number("rating_run"),
];

const EVENTS: &[Column] = &[
    Receipt,
    Text("event_id"),
    Text("source"),
    Text("type"),
    Text("subject"),
    Text("team"),
    Text("user"),
    Text("app"),
    Text("feature"),
    Time("time"),
    Time("append_time"),
    Text("outcome"),
    Number("catalog_version"),
    Number("sign"),
    Number("rating_run"),
    Text("raw"),
];

/// A text for a spreadsheet: one that begins like a formula gets a `'` in front, so that it stays a
/// text. Numbers never pass through here.
pub(super) fn spreadsheet_text(text: &str) -> String {
    format!(
        "if(substring({text}, 1, 1) IN ('=', '+', '-', '@', '\\t', '\\r'), concat('\\'', {text}), {text})"
    )
}

impl Column {
    /// The column of a row `u`.
    fn sql(self, format: Format) -> String {
        match (self, format) {
            (Text(name), Format::Csv) => {
                format!("{} AS `{name}`", spreadsheet_text(&format!("toString(u.`{name}`)")))
            }
            (Text(name), Format::Parquet) => format!("toString(u.`{name}`) AS `{name}`"),
            (Time(name), Format::Csv) => {
                format!("formatDateTime(u.`{name}`, '%Y-%m-%dT%H:%i:%S.%fZ', 'UTC') AS `{name}`")
            }
            (Texts(name), Format::Csv) => format!("toJSONString(u.`{name}`) AS `{name}`"),
            (Number(name) | Time(name) | Texts(name), _) => format!("u.`{name}` AS `{name}`"),
            (Receipt, _) => {
                "concat(toString(u.partition), ':', toString(u.position), ':', toString(u.`index`)) AS receipt"
                    .to_owned()
            }
        }
    }
}

/// Lines of usage.
pub(crate) async fn lines(
    clickhouse: &ClickHouse,
    tenant: TenantScope,
    selection: &Selection,
    format: Format,
) -> Result<impl Stream<Item = Result<Bytes, ClickHouseError>> + Send + use<>, ApiError> {
    let mut statement = Statement::default();
    let filter = line_filter(&mut statement, tenant, selection);
    let rows = format!("(SELECT * FROM usage_lines WHERE {filter})");
    write(clickhouse, statement, LINES, &rows, format).await
}

/// Events that took their id, each once.
pub(crate) async fn events(
    clickhouse: &ClickHouse,
    tenant: TenantScope,
    selection: &Selection,
    format: Format,
) -> Result<impl Stream<Item = Result<Bytes, ClickHouseError>> + Send + use<>, ApiError> {
    let mut statement = Statement::default();
    let filter = event_filter(&mut statement, tenant, selection);
    write(clickhouse, statement, EVENTS, &once("*", &filter), format).await
}

/// Writes rows. What is limited: the time that an export takes, and its memory, most of which are the
/// groups of rows of a Parquet file.
async fn write(
    clickhouse: &ClickHouse,
    mut statement: Statement,
    columns: &[Column],
    rows: &str,
    format: Format,
) -> Result<impl Stream<Item = Result<Bytes, ClickHouseError>> + Send + use<>, ApiError> {
    let columns: Vec<String> = columns.iter().map(|column| column.sql(format)).collect();
    let (name, settings) = match format {
        Format::Csv => ("CSVWithNames", "format_csv_null_representation = ''"),
        Format::Parquet => ("Parquet", "output_format_parquet_row_group_size = 50000"),
    };
    statement.sql = format!(
        "SELECT {} FROM {rows} AS u
         SETTINGS max_execution_time = 300, max_memory_usage = 1000000000, {settings}",
        columns.join(", ")
    );
    statement.stream(clickhouse, name).await
}
