//! Somebody's own rows: `weir replay` of a file with other columns, a mistake in it, and a compressed
//! copy.

use std::{collections::BTreeSet, fs::File, io::Write as _, path::Path};

use anyhow::{Context as _, Result, ensure};
use flate2::{Compression, write::GzEncoder};
use tests::system::System;

use super::status::{Said, said};

const COLUMNS: [&str; 10] = [
    "--map",
    "when=time",
    "--map",
    "read=data.inputTokens",
    "--set",
    "data.outputTokens=0",
    "--set",
    "type=llm.tokens.v1",
    "--set",
    "data.model=gpt-4-turbo",
];

/// Rows of a file, in columns that a semicolon ends; the third has no time in `broken`.
fn rows(broken: bool) -> String {
    let row = |number: u32| match number {
        3 if broken => "soon;7\n".to_owned(),
        _ => format!("2026-01-01 10:00:{number:02};{number}\n"),
    };
    "when;read\n".to_owned() + &(1..=40).map(row).collect::<String>()
}

async fn replay(system: &System, file: &Path, further: &[&str]) -> Result<Said> {
    let data = system.data();
    let text = |path: &Path| path.to_str().context("a path that is text").map(str::to_owned);
    let (file, data) = (text(file)?, text(&data)?);
    let own = ["replay", "--csv", &file, "--data", &data, "--set", "data.provider=openai"];
    said(&system.folder(), &[&own, &COLUMNS[..], further].concat()).await
}

#[tokio::test]
async fn a_row_that_is_no_event_is_named_and_the_file_can_be_sent_again() -> Result<()> {
    let system = System::embedded().await?;
    let file = system.folder().join("own.csv");
    std::fs::write(&file, rows(true))?;
    let semicolons = ["--delimiter", ";", "--batch", "7"];

    let without = replay(&system, &file, &[]).await?;
    assert_eq!(without.code, Some(1));
    ensure!(without.faults.contains("there is no column \"when\""), "{}", without.faults);
    let two = replay(&system, &file, &["--delimiter", ";;"]).await?;
    assert_eq!(two.code, Some(2), "{}", two.faults);

    let broken = replay(&system, &file, &semicolons).await?;
    assert_eq!(broken.code, Some(1));
    for said in ["own.csv, row 3: the 2 rows before it are sent", "soon"] {
        ensure!(broken.faults.contains(said), "{said} is missing in {}", broken.faults);
    }
    let counts = system.settled(Some(2)).await?;
    assert_eq!(counts["rated"], 2, "{counts:?}");

    // Mended and compressed, it has the same events.
    let compressed = system.folder().join("own.csv.gz");
    let mut encoder = GzEncoder::new(File::create(&compressed)?, Compression::fast());
    encoder.write_all(rows(false).as_bytes())?;
    encoder.finish()?;
    let mended = replay(&system, &compressed, &semicolons).await?;
    assert_eq!(mended.code, Some(0), "{}", mended.faults);
    ensure!(mended.output.starts_with("40 events: 40 accepted, 0 rejected"), "{}", mended.output);
    let counts = system.settled(Some(42)).await?;
    assert_eq!((counts["rated"], counts["duplicates"]), (40, 2), "{counts:?}");
    Ok(())
}

#[tokio::test]
async fn rows_are_spread_over_as_many_teams_as_asked_for() -> Result<()> {
    let system = System::embedded().await?;
    let file = system.folder().join("own.csv");
    std::fs::write(&file, rows(false))?;
    let spread = ["--delimiter", ";", "--teams", "3", "--seed", "7", "--skew", "0"];
    let sent = replay(&system, &file, &spread).await?;
    assert_eq!(sent.code, Some(0), "{}", sent.faults);
    // Sent again it has the same teams; the same ids for other teams are other events.
    replay(&system, &file, &spread).await?;
    let counts = system.settled(Some(80)).await?;
    assert_eq!((counts["rated"], counts["duplicates"]), (40, 40), "{counts:?}");
    let teams: BTreeSet<String> = system.receivables().await?.into_keys().collect();
    assert_eq!(teams, ["team-01", "team-02", "team-03"].map(str::to_owned).into());
    Ok(())
}
