//! The built `weir` as a child process, and HTTP to it.

use std::{
    env, fs,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// A start after `kill -9` on a busy machine, with everything to recover.
const START_TIME_MAX: Duration = Duration::from_secs(120);
/// What a drain may take, and stopping the databases after it.
const STOP_TIME_MAX: Duration = Duration::from_secs(60);

/// How long it may take until a process that was told to stand still does, on a busy machine.
const FREEZE_TIME_MAX: Duration = Duration::from_secs(30);

/// Sends SIGSTOP to a process and waits until each of its threads stands still: one that runs on another
/// processor goes on for a moment, and may answer what is sent right after the signal.
pub fn freeze(process: u32) -> Result<()> {
    kill(Pid::from_raw(i32::try_from(process)?), Signal::SIGSTOP)?;
    let deadline = Instant::now() + FREEZE_TIME_MAX;
    while !stands_still(process)? {
        ensure!(Instant::now() < deadline, "the process {process} does not stand still");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Whether all threads of a process are stopped; those that have ended meanwhile are not asked.
fn stands_still(process: u32) -> Result<bool> {
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let state = fs::read_to_string(thread?.path().join("stat")).unwrap_or_default();
        // Behind the name, which is in parentheses.
        let state = state.rsplit_once(") ").map(|(_, rest)| rest.chars().next());
        if !matches!(state, None | Some(Some('T' | 'Z' | 'X'))) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The built program, beside the test programs.
pub fn program() -> Result<PathBuf> {
    let test = env::current_exe()?;
    let target = test.ancestors().nth(2).context("the test program is in no target folder")?;
    let weir = target.join("weir");
    ensure!(weir.is_file(), "{} is missing; run: cargo build --bin weir", weir.display());
    Ok(weir)
}

/// A command with `program`, without any setting of the caller's environment. Its process is killed
/// when the thread that starts it ends, however it does.
pub fn command() -> Result<Command> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program()?);
    for (name, _) in env::vars_os() {
        let name_text = name.to_string_lossy();
        let ours = name_text.starts_with("WEIR_")
            && name_text != "WEIR_PLANT"
            && name_text != "WEIR_TOOLS"
            && name_text != "WEIR_LIBCHDB";
        if ours || name_text == "DATABASE_URL" || name_text == "CLICKHOUSE_URL" {
            command.env_remove(&name);
        }
    }
    Ok(command)
}

/// A `weir` that was started; ended with SIGKILL when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
    output: PathBuf,
}

impl Process {
    /// Starts `weir` with `arguments` and settings; output and log go to files in `folder`.
    pub fn start(
        name: &str,
        folder: &Path,
        arguments: &[&str],
        settings: &[(String, String)],
    ) -> Result<Self> {
        Self::start_under(name, folder, &[], arguments, settings)
    }

    /// [`Process::start`] by a `wrapper`: a command that ends by executing what follows it.
    pub fn start_under(
        name: &str,
        folder: &Path,
        wrapper: &[&str],
        arguments: &[&str],
        settings: &[(String, String)],
    ) -> Result<Self> {
        let (log, output) =
            (folder.join(format!("{name}.log")), folder.join(format!("{name}.out")));
        let log_file = File::options().create(true).append(true).open(&log)?;
        let weir = command()?;
        let mut command = match wrapper {
            [] => weir,
            [program, rest @ ..] => {
                let mut command = Command::new(program);
                command.args(rest).arg(weir.get_program()).args(weir.get_args());
                for (name, value) in weir.get_envs() {
                    match value {
                        Some(value) => command.env(name, value),
                        None => command.env_remove(name),
                    };
                }
                command
            }
        };
        let child = command
            .args(arguments)
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(File::create(&output)?)
            .stderr(log_file)
            .spawn()
            .context("cannot start weir; is setpriv (util-linux) installed?")?;
        Ok(Self { child, name: name.to_owned(), log, output })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `look` gives something; fails with its log when it ends before.
    pub async fn until<T>(&mut self, what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + START_TIME_MAX;
        loop {
            if let Some(found) = look() {
                return Ok(found);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "{} ended with {status} before {what}; its log ends with\n{}",
                    self.name,
                    self.log_tail()
                );
            }
            ensure!(
                Instant::now() < deadline,
                "no {what} of {} in time; its log ends with\n{}",
                self.name,
                self.log_tail()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The address that a role says it listens on.
    pub async fn address(&mut self) -> Result<String> {
        let output = self.output.clone();
        self.until("address", || {
            let text = fs::read_to_string(&output).ok()?;
            let (_, address) = text.split_once("listens on ")?;
            address.split_once('\n').map(|(address, _)| address.to_owned())
        })
        .await
    }

    /// Sends a signal; after SIGSTOP it stands still.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if signal == Signal::SIGSTOP {
            return freeze(self.child.id());
        }
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }

    /// Ends it with SIGKILL.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Ends it with SIGTERM; answers its exit code and the time it took.
    pub async fn terminate(mut self) -> Result<(Option<i32>, Duration)> {
        let began = Instant::now();
        self.signal(Signal::SIGTERM)?;
        let status = self.ended(STOP_TIME_MAX).await?;
        Ok((status, began.elapsed()))
    }

    /// Waits until it has ended by itself; answers its exit code.
    pub async fn ended(&mut self, within: Duration) -> Result<Option<i32>> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code());
            }
            ensure!(
                Instant::now() < deadline,
                "{} did not end in {within:?}; its log ends with\n{}",
                self.name,
                self.log_tail()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What it wrote to standard output.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address and a key.
#[derive(Clone, Debug)]
pub struct Http {
    client: reqwest::Client,
    /// `http://host:port`.
    pub base: String,
    key: String,
}

impl Http {
    /// A client of `base` with `key`.
    pub fn new(base: &str, key: &str) -> Result<Self> {
        // Fails only where it was done before, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client =
            reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(40)).build()?;
        Ok(Self { client, base: base.to_owned(), key: key.to_owned() })
    }

    /// The key that it sends.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// GET; fails on anything but success.
    pub async fn get(&self, path: &str) -> Result<Value> {
        let request = self.client.get(format!("{}{path}", self.base));
        self.success(path, request).await
    }

    /// GET of what is no JSON; fails on anything but success.
    pub async fn text(&self, path: &str) -> Result<String> {
        let request = self.client.get(format!("{}{path}", self.base)).bearer_auth(&self.key);
        Ok(request.send().await?.error_for_status()?.text().await?)
    }

    /// A page, whatever the answer is: its status and its text.
    pub async fn page(&self, path: &str) -> Result<(u16, String)> {
        let response =
            self.client.get(format!("{}{path}", self.base)).bearer_auth(&self.key).send().await?;
        Ok((response.status().as_u16(), response.text().await?))
    }

    /// A body sent with `method`; fails on anything but success.
    pub async fn send(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let method = reqwest::Method::from_bytes(method.as_bytes())?;
        let request = self.client.request(method, format!("{}{path}", self.base)).json(body);
        let request = request.header("Idempotency-Key", uuid::Uuid::now_v7().to_string());
        self.success(path, request).await
    }

    /// A body sent with `method`; the status and the answer, whatever they are.
    pub async fn exchange(&self, method: &str, path: &str, body: Vec<u8>) -> Result<(u16, Value)> {
        let method = reqwest::Method::from_bytes(method.as_bytes())?;
        let request = self.client.request(method, format!("{}{path}", self.base));
        let request = request.header("Content-Type", "application/json").body(body);
        let response = request.bearer_auth(&self.key).send().await?;
        let status = response.status().as_u16();
        let text = response.bytes().await?;
        Ok((status, serde_json::from_slice(&text).unwrap_or_default()))
    }

    async fn success(&self, path: &str, request: reqwest::RequestBuilder) -> Result<Value> {
        let response = request.bearer_auth(&self.key).send().await?;
        let status = response.status();
        let text = response.text().await?;
        ensure!(status.is_success(), "{path}: {status}: {text}");
        serde_json::from_str(&text).with_context(|| format!("{path} did not answer JSON: {text}"))
    }
}
