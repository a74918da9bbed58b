//! Exports, read back.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use axum::{body::Body, http::Request};
use bytes::Bytes;
use serde_json::Value;
use tests::engine::Folder;
use tower::ServiceExt as _;

use crate::{
    data::{ALL, EVENTS, PERIOD, expected, of_period},
    world::{TENANT, World},
};

/// Fetches a file: its name, its type and its bytes.
async fn fetch(world: &World, file: &str, period: &str) -> Result<(String, String, Bytes)> {
    let request = Request::get(format!("/v1/exports/{file}?{period}"))
        .header("authorization", format!("Bearer {}", world.key))
        .body(Body::empty())?;
    let response = world.router.clone().oneshot(request).await?;
    ensure!(response.status().is_success(), "{file}: {}", response.status());
    let header = |name: &str| response.headers()[name].to_str().map(str::to_owned);
    let (disposition, kind) = (header("content-disposition")?, header("content-type")?);
    Ok((disposition, kind, axum::body::to_bytes(response.into_body(), 64 << 20).await?))
}

/// Rows of a CSV by the names of its columns.
fn rows(text: &str) -> Result<Vec<BTreeMap<String, String>>> {
    let (mut rows, mut row, mut field) = (Vec::new(), Vec::new(), String::new());
    let (mut quoted, mut chars) = (false, text.chars().peekable());
    while let Some(char) = chars.next() {
        match char {
            '"' if quoted && chars.peek() == Some(&'"') => field.extend(chars.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => row.push(std::mem::take(&mut field)),
            '\n' if !quoted => {
                row.push(std::mem::take(&mut field));
                rows.push(std::mem::take(&mut row));
            }
            other => field.push(other),
        }
    }
    ensure!(!quoted && row.is_empty() && field.is_empty(), "the CSV has no end");
    let mut rows = rows.into_iter();
    let names = rows.next().context("no names")?;
    let named = |row: Vec<String>| names.iter().cloned().zip(row).collect();
    Ok(rows.map(named).collect())
}

/// Both kinds in both formats.
pub async fn exports(world: &World) -> Result<()> {
    csv_of_lines(world).await?;
    csv_of_events(world).await?;
    parquet(world).await?;
    // Another report for spreadsheets.
    let path = "/v1/usage-report?period=2026-03&group_by=feature,provider&meter=tokens&format=csv";
    let report = world.get(path).await?;
    assert!(report.text.contains("\"'=1+1\",\"'@lab\",\"tokens\""), "{}", report.text);
    Ok(())
}

async fn csv_of_lines(world: &World) -> Result<()> {
    let (disposition, kind, bytes) = fetch(world, "usage_lines.csv", PERIOD).await?;
    assert_eq!(
        disposition,
        "attachment; filename=\"usage_lines_20260315T000000Z_20260402T000000Z.csv\""
    );
    assert_eq!(kind, "text/csv; charset=utf-8; header=present");
    let rows = rows(std::str::from_utf8(&bytes)?)?;
    let used = of_period();
    // Both lines of what was taken back are there twice: once with each sign.
    assert_eq!(rows.len(), used.len() + 4);
    let mut sums: BTreeMap<(&str, &str), i128> = BTreeMap::new();
    for row in &rows {
        let sign: i128 = row["sign"].parse()?;
        let charge = &row["charge"];
        if charge.is_empty() {
            assert_eq!((row["status"].as_str(), row["currency"].as_str()), ("unpriced", ""));
            continue;
        }
        let charge = domain::money::Amount::parse_exact(charge)?.raw();
        *sums.entry((&row["team"], &row["currency"])).or_default() += sign * charge;
    }
    let wanted = expected(&used, "revenue", &["team"]);
    let mut wanted: Vec<[String; 3]> = wanted
        .iter()
        .filter(|row| !row["currency"].is_null())
        .map(|row| {
            [&row["group"]["team"], &row["currency"], &row["revenue"]]
                .map(|value: &Value| value.as_str().unwrap().to_owned())
        })
        .collect();
    wanted.sort();
    let sums = sums.into_iter().map(|((team, currency), sum)| {
        [team.to_owned(), currency.to_owned(), crate::data::text(sum)]
    });
    assert_eq!(sums.collect::<Vec<_>>(), wanted);

    // A spreadsheet runs none of it; numbers, times and what is no formula are as they were.
    let new = rows.iter().find(|row| row["event_id"] == "new" && row["meter"] == "tokens");
    let new = new.context("the event")?;
    assert_eq!((new["feature"].as_str(), new["user"].as_str()), ("'=1+1", "'-1"));
    assert_eq!(new["dimensions"], r#"{"model":"gamma","provider":"@lab"}"#);
    assert_eq!((new["quantity"].as_str(), new["cost"].as_str()), ("5", "0.5"));
    assert_eq!(new["time"], "2026-03-29T01:00:00.000000Z");
    let back = rows.iter().find(|row| row["sign"] == "-1" && row["meter"] == "tokens");
    assert_eq!(back.context("a reversal")?["charge"], "100");
    Ok(())
}

async fn csv_of_events(world: &World) -> Result<()> {
    let (_, _, bytes) = fetch(world, "events.csv", ALL).await?;
    let rows = rows(std::str::from_utf8(&bytes)?)?;
    assert_eq!(rows.len(), EVENTS.len() + 1, "the reversal besides");
    for event in EVENTS {
        let row = rows.iter().find(|row| row["event_id"] == event.id).context("an event")?;
        assert_eq!((row["team"].as_str(), row["sign"].as_str()), (event.team, "1"));
        let raw: Value = serde_json::from_str(&row["raw"])?;
        assert_eq!(raw["id"], event.id);
        let found = world.get(&format!("/v1/events/{}", row["receipt"])).await?.expect(200)?;
        assert_eq!(found["id"], event.id);
    }
    Ok(())
}

/// What ClickHouse reads from the file is what is in the archive.
async fn parquet(world: &World) -> Result<()> {
    let folder = Folder::new("analytics-exports")?;
    for (name, source, number) in [
        (
            "usage_lines",
            "usage_lines",
            "sum(cityHash64(team, event_id, meter, quantity, charge, cost, toUnixTimestamp64Micro(time), mapSort(dimensions), sign))",
        ),
        (
            "events",
            "(SELECT DISTINCT * FROM usage_events)",
            "sum(cityHash64(team, event_id, type, toUnixTimestamp64Micro(time), raw, sign))",
        ),
    ] {
        let (disposition, kind, bytes) = fetch(world, &format!("{name}.parquet"), ALL).await?;
        assert_eq!(kind, "application/vnd.apache.parquet");
        assert!(disposition.ends_with(".parquet\""), "{disposition}");
        ensure!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"), "no Parquet file");
        let path = folder.path().join(format!("{name}.parquet"));
        std::fs::write(&path, &bytes)?;
        let read = async |from: String, more: &str| {
            let sql = format!("SELECT count() AS rows, {number} AS hash FROM {from}{more}");
            world.context.clickhouse.query_json_rows(&sql, &[]).await
        };
        let file = format!("file('{}', Parquet)", path.display());
        let own = format!(" WHERE tenant_id = '{TENANT}'");
        assert_eq!(read(file.clone(), "").await?, read(source.to_owned(), &own).await?, "{name}");
        if name == "usage_lines" {
            let sql = format!(
                "SELECT toTypeName(charge) AS charge, toTypeName(time) AS time FROM {file} LIMIT 1"
            );
            let types = world.context.clickhouse.query_json_rows(&sql, &[]).await?;
            assert_eq!(types[0]["charge"], "Nullable(Decimal(38, 12))");
            assert!(
                types[0]["time"].as_str().is_some_and(|kind| kind.contains("DateTime64(6")),
                "{types:?}"
            );
        }
    }
    Ok(())
}
