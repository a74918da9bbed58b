//! Requests made from the OpenAPI document by Schemathesis, right ones and wrong ones, with a key that
//! may do everything and with one that nobody made: Weir keeps to what the document says, and nothing
//! makes it fail.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use runtime::keys;
use serde_json::json;
use tests::system::System;
use tokio::process::Command;

/// Requests of both runs together.
const REQUESTS_MIN: u64 = 20_000;
/// Made-up cases of each operation and run, besides those that the document itself gives rise to.
const CASES_PER_OPERATION: &str = "40";
/// What every answer must be: documented, and no fault of ours.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance";

/// Answers by operation and status.
type Counts = BTreeMap<String, BTreeMap<u16, u64>>;

/// A path of the repository.
fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The Python that has Schemathesis.
async fn python() -> Result<PathBuf> {
    let script = repository("deploy/setup/schemathesis.sh");
    let output = Command::new(script).stderr(Stdio::inherit()).output().await?;
    ensure!(output.status.success(), "schemathesis.sh: {}", output.status);
    Ok(String::from_utf8(output.stdout)?.trim().into())
}

/// One run of Schemathesis.
struct Run<'a> {
    name: &'a str,
    seed: &'a str,
    key: &'a str,
}

impl Run<'_> {
    /// Runs it to its end; its answers. Fails with its whole report if there is anything in it.
    async fn counts(&self, python: &Path, system: &System) -> Result<Counts> {
        let api = system.api()?;
        let counts = system.folder().join(format!("{}.json", self.name));
        let key_id = api.key().split('_').nth(2).context("a key without an id")?;
        let output = Command::new(python)
            .args(["-m", "schemathesis.cli", "run", &format!("{}/openapi.json", api.base)])
            .args(["--header", &format!("Authorization: Bearer {}", self.key)])
            .args(["--checks", CHECKS, "--phases", "examples,coverage,fuzzing"])
            .args(["--seed", self.seed, "--max-examples", CASES_PER_OPERATION])
            .args(["--generation-database", "none", "--no-shrink", "--continue-on-failure"])
            .args(["--generation-with-security-parameters", "false"])
            .args(["--suppress-health-check", "all", "--workers", "1", "--no-color"])
            .env("SCHEMATHESIS_HOOKS", "hooks")
            .env("PYTHONPATH", repository("tests/fuzz"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("WEIR_FUZZ_KEY_ID", key_id)
            .env("WEIR_FUZZ_COUNTS", &counts)
            .current_dir(system.folder())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await?;
        ensure!(
            output.status.success(),
            "the run with the {} key: {}\n{}\n{}",
            self.name,
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(serde_json::from_slice(&std::fs::read(counts)?)?)
    }
}

/// Answers whose status is in `statuses`.
fn answers(counts: &Counts, statuses: std::ops::Range<u16>) -> u64 {
    counts.values().flat_map(|by_status| by_status.range(statuses.clone())).map(|(_, n)| n).sum()
}

#[tokio::test]
async fn every_answer_is_as_documented() -> Result<()> {
    let python = python().await?;
    // Most of the wrong key's requests are to be looked at, and the others to be answered with 429.
    // One with a key that is not known waits for the next load.
    let settings = [
        ("WEIR_API__FAILED_ATTEMPTS_MAX", "6000"),
        ("WEIR_INGEST__FAILED_ATTEMPTS_MAX", "600"),
        ("WEIR_INGEST__REFRESH_MS", "50"),
        ("WEIR_API__PUBLISH_WAIT_MS", "20000"),
    ];
    let system = System::embedded_with(&settings, &[], &[]).await?;
    let api = system.api()?;
    let event = json!({"id": "1", "type": "llm.tokens.v1", "subject": "team-7", "source": "fuzz", "user": "ada",
        "data": {"provider": "openai", "model": "gpt-4-turbo", "inputTokens": 10, "outputTokens": 2}});
    api.send("POST", "/v1/events", &json!([event, {"id": "2"}])).await?;

    let began = Instant::now();
    let right = Run { name: "right", seed: "1", key: api.key() };
    let wrong_key = keys::generate()?.text;
    let wrong = Run { name: "wrong", seed: "2", key: &wrong_key };
    let (right, wrong) =
        tokio::try_join!(right.counts(&python, &system), wrong.counts(&python, &system))?;
    let seconds = began.elapsed().as_secs_f64();

    let document = api.get("/openapi.json").await?;
    let paths = document["paths"].as_object().context("a document without paths")?;
    for (path, operations) in paths {
        for method in operations.as_object().context("a path without operations")?.keys() {
            let operation = format!("{} {path}", method.to_uppercase());
            for counts in [&right, &wrong] {
                ensure!(counts.contains_key(&operation), "{operation} was not asked");
            }
        }
    }
    let all = |counts: &Counts| answers(counts, 0..1000);
    let requests = all(&right) + all(&wrong);
    println!("{requests} requests in {seconds:.0} s: {:.0} per second", requests as f64 / seconds);
    for (name, counts) in [("right", &right), ("wrong", &wrong)] {
        let mut statuses: BTreeMap<u16, u64> = BTreeMap::new();
        for (status, count) in counts.values().flatten() {
            *statuses.entry(*status).or_default() += count;
        }
        println!("{name} key: {statuses:?}");
        ensure!(answers(counts, 500..1000) == 0, "{name} key: {counts:?}");
    }
    ensure!(answers(&right, 200..300) > 500, "hardly a request was right: {right:?}");
    ensure!(answers(&wrong, 200..300) == 0, "a key of nobody was let in: {wrong:?}");
    ensure!(requests >= REQUESTS_MIN, "{requests} requests are fewer than {REQUESTS_MIN}");
    // And it still works.
    api.get("/ready").await?;
    system.settled(None).await?;
    Ok(())
}
