//! The story of docs/WALLETS.md, typed as it stands.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::{system::System, wait::eventually};

const DOCUMENT: &str = include_str!("../../../docs/WALLETS.md");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_story_of_the_document_is_true() -> Result<()> {
    let system = System::embedded().await?;
    let api = system.api()?;
    let block = DOCUMENT.split("```sh").nth(1).and_then(|block| block.split("```").next());
    let mut shell = Command::new("bash");
    shell.args(["-euc", block.context("the story")?]).env("URL", &api.base).env("KEY", api.key());
    let output = tokio::task::spawn_blocking(move || shell.output()).await??;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    ensure!(said.contains("\"code\":\"insufficient_funds\""), "16 more were not refused: {said}");

    // However busy the machine is, it comes to this.
    let wallets: Value = api.get("/v1/teams/story/wallets").await?;
    let wallet = wallets["items"][0]["id"].as_str().context("a wallet")?;
    let steps = async || -> Result<Vec<String>> {
        let entries: Value = api.get(&format!("/v1/wallets/{wallet}/entries")).await?;
        let step = |entry: &Value| {
            let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            format!("{} {} {}", text("reason"), text("balance_before"), text("balance_after"))
        };
        Ok(entries["items"].as_array().context("entries")?.iter().rev().map(step).collect())
    };
    let wanted =
        ["grant 0 20", "grant 20 25", "settlement 25 20", "settlement 20 18", "refund 18 0"];
    eventually("the last entry is the refund", async || Ok(steps().await? == wanted)).await?;
    Ok(())
}
