//! `weir catalog`: a catalog out of one installation and into another, and providers' prices.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{process::Process, system::System};

/// What a command may take on a busy machine.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(120);

async fn catalog(system: &System, arguments: &[&str]) -> Result<String> {
    let data = system.folder().join("data");
    let data = data.to_str().context("a path")?;
    let arguments = [&["catalog"], arguments, &["--data", data]].concat();
    system.run("catalog", &arguments).await
}

async fn document(system: &System) -> Result<Value> {
    Ok(system.api()?.get("/v1/catalog").await?["catalog"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_catalog_moves_to_another_installation() -> Result<()> {
    let (one, other) = (System::embedded().await?, System::embedded().await?);
    // The flat meters of the demo take part by name.
    let shown = catalog(&one, &["import", "--builtin", "--yes"]).await?;
    ensure!(shown.contains("+ openai/gpt-4.1 cache_read: 0.5 USD per 1000000"), "{shown}");
    ensure!(shown.contains("models.dev of 2026-07-02:"), "{shown}");
    let again = catalog(&one, &["import", "--builtin"]).await?;
    ensure!(again.contains(" 0 added, 0 changed, 0 removed"), "{again}");
    let meters = ["--meter", "llm_input_tokens=input", "--meter", "llm_output_tokens=output"];
    let made = catalog(&one, &[&["cost-card", "--yes"], &meters[..]].concat()).await?;
    ensure!(made.contains("cost card providers, version 2"), "{made}");
    let before = document(&other).await?;
    let changed = document(&one).await?;
    assert_ne!(before, changed);
    let rows = changed["cards"][1]["versions"][1]["rates"].as_array().context("rows")?;
    ensure!(rows.contains(&json!({"meter": "api_calls", "price": "0", "per": 1})), "{rows:?}");

    let file = one.folder().join("catalog.json");
    let file = file.to_str().context("a path")?;
    catalog(&one, &["export", file]).await?;
    // Nobody is there to be asked, so nothing is changed.
    let data = other.folder().join("data");
    let arguments = ["catalog", "import", file, "--data", data.to_str().context("a path")?];
    let mut unasked = Process::start("unasked", &other.folder(), &arguments, &[])?;
    ensure!(unasked.ended(COMMAND_TIME_MAX).await? == Some(1), "{}", unasked.output());
    ensure!(unasked.output().contains("+ cards[providers].versions[2]"), "{}", unasked.output());
    assert_eq!(document(&other).await?, before);
    catalog(&other, &["import", file, "--yes"]).await?;
    assert_eq!(document(&other).await?, changed);
    let same = catalog(&other, &["import", file]).await?;
    ensure!(same.contains("the same already"), "{same}");
    Ok(())
}
