//! `weir rejected`: an operator sees what could not be rated, corrects the meter, and sends it again.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::system::System;

use super::status::{Said, said};

const EVENTS: usize = 7;

async fn rejected(system: &System, arguments: &[&str]) -> Result<Said> {
    let data = system.data();
    let data = ["--data", data.to_str().context("a path that is text")?];
    said(&system.folder(), &[&["rejected"], arguments, &data[..]].concat()).await
}

#[tokio::test]
async fn what_could_not_be_rated_is_listed_and_sent_again() -> Result<()> {
    let system = System::embedded().await?;
    let (api, ingest) = (system.api()?, system.ingest()?);
    let meter = json!({"key": "disk", "event_types": ["disk.day"], "aggregation": "sum", "value": "$.amount", "unit": "GB"});
    api.send("POST", "/v1/meters", &meter).await?;
    let send = async |id: String, data: serde_json::Value| {
        let event = json!({"id": id, "type": "disk.day", "source": "disks", "subject": "team-01", "data": data});
        ingest.send("POST", "/v1/events", &event).await
    };
    for number in 0..EVENTS {
        send(format!("disk-{number}"), json!({"amount": "three", "gigabytes": 3})).await?;
    }
    send("well".to_owned(), json!({"amount": 5, "gigabytes": 5})).await?;
    let counts = system.settled(Some(8)).await?;
    assert_eq!((counts["rejected"], counts["unpriced"]), (7, 1), "{counts:?}");

    let listed = rejected(&system, &["list", "--source", "disks", "--limit", "3"]).await?;
    assert_eq!(listed.code, Some(0), "{}", listed.faults);
    ensure!(listed.output.contains("there are more"), "{}", listed.output);
    assert_eq!(listed.output.matches("disk-").count(), 3, "{}", listed.output);
    ensure!(listed.output.contains("quantity_not_a_number"), "{}", listed.output);
    let none = rejected(&system, &["list", "--reason", "quantity_negative"]).await?;
    ensure!(!none.output.contains("disk-"), "{}", none.output);
    let bad = rejected(&system, &["list", "--from", "yesterday"]).await?;
    assert_eq!(bad.code, Some(1));
    ensure!(bad.faults.contains("time_invalid"), "{}", bad.faults);

    // Before the meter is corrected, they are rejected again; after it, they are rated.
    let counted = rejected(&system, &["reinject", "--dry-run", "--team", "team-01"]).await?;
    assert_eq!(counted.output.trim(), "7 events would be sent again", "{}", counted.faults);
    let mut catalog = api.get("/v1/catalog").await?["catalog"].take();
    let meters = catalog["meters"].as_array_mut().context("no meters")?;
    let disk = meters.iter_mut().find(|meter| meter["key"] == "disk").context("no meter")?;
    disk["value"] = json!("$.gigabytes");
    api.send("PUT", "/v1/catalog", &catalog).await?;
    let sent = rejected(&system, &["reinject", "--type", "disk.day"]).await?;
    assert_eq!(sent.code, Some(0), "{}", sent.faults);
    assert_eq!(sent.output.trim(), "7 events are sent again, 0 could not be");
    let counts = system.settled(Some(15)).await?;
    assert_eq!((counts["rejected"], counts["unpriced"]), (7, 8), "{counts:?}");
    let again = rejected(&system, &["reinject"]).await?;
    assert_eq!(again.output.trim(), "0 events are sent again, 0 could not be");
    Ok(())
}
