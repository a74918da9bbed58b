//! `make up`, `make status` and `make down`, as they are typed in: everything but the build, which a
//! program called `cargo` that builds nothing stands in for.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tests::{
    postgres::TestFolder,
    process::{command, program},
    wait::eventually,
};

use super::{ARCHIVE, SEND, answered, ended, hinted, output};

/// Ends what was started with this folder, when the test ends before it has.
struct Started(PathBuf);

impl Drop for Started {
    fn drop(&mut self) {
        for (id, words) in commands() {
            if words.contains(&*self.0.to_string_lossy()) {
                let _ = kill(id, Signal::SIGKILL);
            }
        }
    }
}

/// All processes with their command lines.
fn commands() -> Vec<(Pid, String)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let one = |entry: fs::DirEntry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        let words = fs::read(entry.path().join("cmdline")).ok()?;
        Some((Pid::from_raw(id), String::from_utf8_lossy(&words).into_owned()))
    };
    entries.filter_map(one).collect()
}

/// A folder for data, and a `cargo` that writes down what it is asked for.
struct Workshop {
    _started: Started,
    folder: TestFolder,
}

impl Workshop {
    fn new() -> Result<Self> {
        let folder = TestFolder::new("make")?;
        let cargo = folder.path().join("bin/cargo");
        fs::create_dir(folder.path().join("bin"))?;
        fs::write(&cargo, "#!/bin/sh\necho \"$*\" >>\"$(dirname \"$0\")/asked\"\n")?;
        fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755))?;
        Ok(Self { _started: Started(folder.path().to_owned()), folder })
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// What cargo was asked for.
    fn asked(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path().join("bin/asked")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// `make TARGET` in the repository, with the programs that are built already.
    fn make(&self, target: &str) -> Result<Command> {
        let weir = program()?;
        let built = weir.parent().context("a program in a folder")?;
        let profile = built.file_name().and_then(|name| name.to_str()).context("a profile")?;
        let mut make = Command::new("make");
        // Without the settings of whoever runs the tests.
        for (name, value) in command()?.get_envs() {
            match value {
                Some(value) => make.env(name, value),
                None => make.env_remove(name),
            };
        }
        for name in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL"] {
            make.env_remove(name);
        }
        let path = std::env::var("PATH")?;
        make.env("PATH", format!("{}/bin:{path}", self.folder.path().display()))
            .env("CARGO_TARGET_DIR", built.parent().context("a target folder")?)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
            .arg("--no-print-directory")
            .arg(target)
            .arg(format!("DATA={}", self.data().display()))
            .arg(format!("PROFILE={}", if profile == "debug" { "dev" } else { profile }));
        Ok(make)
    }

    /// `make up`: all that it printed, and the hints alone.
    async fn up(&self) -> Result<(String, String)> {
        let said = output(self.make("up")?).await?;
        let place = said.find("Weir is running.").with_context(|| format!("no hints: {said}"))?;
        let hints = said[place..].to_owned();
        Ok((said, hints))
    }
}

/// Whether a process runs.
fn runs(id: u64) -> bool {
    Path::new("/proc").join(id.to_string()).join("exe").exists()
}

#[tokio::test]
async fn make_up_make_status_and_make_down() -> Result<()> {
    let workshop = Workshop::new()?;
    let (_, hints) = workshop.up().await?;
    let asked = workshop.asked();
    ensure!(asked.len() == 1 && asked[0].starts_with("build --locked --profile "), "{asked:?}");
    ensure!(asked[0].ends_with(" --bin weir"), "{asked:?}");
    // Where it runs, nothing is built, and the same is printed.
    assert_eq!(workshop.up().await?, (hints.clone(), hints.clone()));
    assert_eq!(workshop.asked().len(), 1);

    let sent = answered(hinted(&hints, SEND)?).await?;
    assert_eq!(sent["results"][0]["status"], "accepted", "{sent}");
    eventually("make status says that all of it is posted", async || {
        let status = output(workshop.make("status")?).await?;
        ensure!(status.contains(" total "), "{status}");
        Ok(status.contains(" 3001 ") && status.contains("every accepted event is posted"))
    })
    .await?;

    let endpoints: Value =
        serde_json::from_slice(&fs::read(workshop.data().join("endpoints.json"))?)?;
    let process = endpoints["pid"].as_u64().context("no process")?;
    ensure!(runs(process), "process {process} does not run");
    let down = output(workshop.make("down")?).await?;
    ensure!(down.starts_with("weir has stopped; its data are in "), "{down}");
    ensure!(!runs(process), "process {process} runs still");
    let down = output(workshop.make("down")?).await?;
    ensure!(down.starts_with("weir does not run in "), "{down}");
    let status = ended(workshop.make("status")?).await?;
    let said = String::from_utf8_lossy(&status.stderr);
    ensure!(!status.status.success() && said.contains("start `weir up`"), "{said}");

    // The address and the keys are those of before.
    let fixed = |hints: &str| hints.split_once(ARCHIVE).map(|(fixed, _)| fixed.to_owned());
    let (said, second) = workshop.up().await?;
    assert_eq!(fixed(&second), fixed(&hints), "{said}");
    assert_eq!(workshop.asked().len(), 2);
    output(workshop.make("down")?).await?;
    Ok(())
}
