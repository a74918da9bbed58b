//! Secrets must be nowhere but where they belong: not in logs, metrics, answers, output, command
//! lines, core dumps, or at rest (INV-23). A run plants its own, or takes those of its system, and
//! looks at all that it left behind.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    process::{Http, Process},
    system::System,
};

/// Shorter texts are no secrets: they would be found anywhere.
const SECRET_LENGTH_MIN: usize = 16;
/// The name of the key of a system.
const ADMIN: &str = "the admin's key";
/// Files in the folder of a run and the secrets that belong there, by name: in the addresses of
/// `weir up` its key and the password of Postgres, and the key where people are shown it. In
/// `data/keys` each file has its own.
const KEPT: [(&str, &[&str]); 3] = [
    ("data/endpoints.json", &[ADMIN, "data/keys/postgres", "DATABASE_URL"]),
    ("up.out", &[ADMIN]),
    ("keys.out", &[ADMIN]),
];
/// Pages of a process that anybody may ask for.
const PAGES: [&str; 6] = ["/metrics", "/health", "/ready", "/", "/openapi.json", "/nothing"];

/// The secrets of a run, and what it said.
#[derive(Debug, Default)]
pub struct Canaries {
    /// By name.
    secrets: Vec<(String, String)>,
    /// Texts to look at, by name: answers and the like.
    heard: Vec<(String, String)>,
}

impl Canaries {
    /// The secrets that a system was started with and made: its key, its settings' keys and
    /// passwords, and what stands in its folder's `keys`.
    pub fn of(system: &System) -> Result<Self> {
        let mut canaries = Self::default();
        canaries.key(ADMIN, system.api()?.key())?;
        for (name, value) in system.settings() {
            if ["KEY", "PASSWORD"].iter().any(|word| name.ends_with(word)) {
                canaries.plant(name, value)?;
            }
            if let Some(password) = password_of(value) {
                canaries.plant(name, password)?;
            }
        }
        let keys = system.data().join("keys");
        for entry in fs::read_dir(keys).into_iter().flatten() {
            let path = entry?.path();
            canaries.plant(&path.display().to_string(), fs::read_to_string(&path)?.trim())?;
        }
        Ok(canaries)
    }

    /// A secret that must be nowhere.
    pub fn plant(&mut self, name: &str, secret: &str) -> Result<()> {
        ensure!(
            secret.len() >= SECRET_LENGTH_MIN,
            "{name} is too short to be told from other text"
        );
        self.secrets.push((name.to_owned(), secret.to_owned()));
        Ok(())
    }

    /// An API key, of which the id is public.
    pub fn key(&mut self, name: &str, key: &str) -> Result<()> {
        let secret = key.split('_').nth(3).context("a key without a secret")?;
        self.plant(name, secret)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.secrets.len()
    }

    /// A text that somebody could read.
    pub fn hear(&mut self, name: &str, text: impl Into<String>) {
        self.heard.push((name.to_owned(), text.into()));
    }

    /// Looks at a running system: its pages, what its commands say, its processes' command lines and
    /// its files. Fails with every place that tells a secret.
    pub async fn check(&mut self, system: &System) -> Result<()> {
        for base in system.addresses() {
            let http = Http::new(&base, "nobody's")?;
            for page in PAGES {
                // One that was killed says nothing.
                if let Ok((status, text)) = http.page(page).await {
                    self.hear(&format!("{base}{page}"), format!("{status} {text}"));
                }
            }
        }
        let data = system.data();
        let data = data.to_str().context("a path that is text")?;
        let api = system.api()?;
        for (name, arguments) in [
            ("canary-doctor", vec!["doctor", "--data", data, "--process", &api.base]),
            ("canary-doctor-json", vec!["doctor", "--json", "--data", data]),
            ("canary-status", vec!["status", "--data", data]),
            ("canary-config", vec!["config"]),
        ] {
            // What they find out is another test's matter: their files are looked at below.
            let started = Process::start(name, &system.folder(), &arguments, system.settings());
            started?.ended(std::time::Duration::from_secs(120)).await?;
        }
        for id in processes()? {
            // It may have ended meanwhile.
            let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            self.hear(&format!("/proc/{id}/cmdline"), String::from_utf8_lossy(&line));
        }
        let undumped = processes()?.into_iter().map(leaves_no_dump).collect::<Result<Vec<_>>>()?;
        ensure!(undumped.contains(&true), "no process of weir is seen in /proc");
        self.look(&system.folder())
    }

    /// Looks at what was heard and at all files below `folder`, but for secrets where they belong; first
    /// shows that it would find one.
    pub fn look(&self, folder: &Path) -> Result<()> {
        ensure!(!self.secrets.is_empty(), "there is no secret to look for");
        let (name, secret) = self.secrets.last().context("a secret")?;
        let planted = folder.join("planted");
        fs::write(&planted, [b"\0text before ", secret.as_bytes(), b"\xff"].concat())?;
        let found = self.files_with_secrets(folder)?;
        fs::remove_file(&planted)?;
        ensure!(found.contains(&planted), "{name} was planted and not found: {found:?}");
        let mut hits = Vec::new();
        for path in found.iter().filter(|path| **path != planted) {
            let names = self.out_of_place(folder, path);
            if !names.is_empty() {
                hits.push(format!("{} holds {names:?}", path.display()));
            }
        }
        ensure!(!self.names_in(&format!("a{secret}b")).is_empty(), "{name} would not be heard");
        for (name, text) in &self.heard {
            let names = self.names_in(text);
            if !names.is_empty() {
                hits.push(format!("{name} tells {names:?}"));
            }
        }
        ensure!(hits.is_empty(), "secrets are told:\n{}", hits.join("\n"));
        Ok(())
    }

    /// Names of the secrets that a file tells and that do not belong there.
    fn out_of_place(&self, folder: &Path, path: &Path) -> Vec<&str> {
        let named = |name: &str| {
            let here = KEPT.iter().filter(|(place, _)| path == folder.join(place));
            let mut names = here.flat_map(|(_, names)| names.iter());
            path == Path::new(name)
                || names.any(|kept| name == *kept || folder.join(kept) == Path::new(name))
        };
        let kept: Vec<&String> =
            self.secrets.iter().filter(|(name, _)| named(name)).map(|(_, secret)| secret).collect();
        // One secret may have several names, and a key has its secret in it.
        let belongs = |secret: &String| {
            kept.iter().any(|kept| kept.contains(secret.as_str()) || secret.contains(kept.as_str()))
        };
        let text = read(path);
        let told = self.secrets.iter().filter(|(_, secret)| tells(&text, secret));
        told.filter(|(_, secret)| !belongs(secret)).map(|(name, _)| name.as_str()).collect()
    }

    /// Names of the secrets that a text tells, as they are or escaped in a URL.
    fn names_in(&self, text: &str) -> Vec<&str> {
        let names = self.secrets.iter().filter(|(_, secret)| tells(text, secret));
        names.map(|(name, _)| name.as_str()).collect()
    }

    /// Files that hold a secret, whatever else is in them.
    fn files_with_secrets(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let mut grep = Command::new("grep")
            .args(["--recursive", "--files-with-matches", "--text", "--fixed-strings"])
            .args(["--file=-", "--no-messages"])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("grep is missing")?;
        let mut input = grep.stdin.take().context("grep takes no input")?;
        for (_, secret) in &self.secrets {
            writeln!(input, "{secret}\n{}", escaped(secret))?;
        }
        drop(input);
        let output = grep.wait_with_output()?;
        let text = String::from_utf8(output.stdout)?;
        Ok(text.lines().map(PathBuf::from).collect())
    }
}

fn tells(text: &str, secret: &str) -> bool {
    text.contains(secret) || text.contains(&escaped(secret))
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// The password in a URL.
fn password_of(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let (user, _) = rest.split_once('@')?;
    let (_, password) = user.split_once(':')?;
    Some(password).filter(|password| password.len() >= SECRET_LENGTH_MIN)
}

fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().fold(String::new(), |escaped, byte| {
        if plain(byte) {
            format!("{escaped}{}", char::from(byte))
        } else {
            format!("{escaped}%{byte:02X}")
        }
    })
}

/// Whether a process is one of ours that leaves no dump of its memory; fails if it may leave one.
fn leaves_no_dump(id: u32) -> Result<bool> {
    let about = |what: &str| fs::read_to_string(format!("/proc/{id}/{what}")).unwrap_or_default();
    let (name, limits) = (about("comm"), about("limits"));
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size"));
    // It may have ended meanwhile.
    let Some(core) = core.filter(|_| name.trim_end() == "weir") else { return Ok(false) };
    let words: Vec<&str> = core.split_whitespace().collect();
    ensure!(words == ["0", "0", "bytes"], "{id} may leave a core dump: {core}");
    Ok(true)
}

/// All that this process has started, and what that has.
fn processes() -> Result<Vec<u32>> {
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let folder = entry?.path();
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Ok(id) = name.parse::<u32>() else { continue };
        // It may have ended meanwhile.
        let Ok(stat) = fs::read_to_string(folder.join("stat")) else { continue };
        let behind_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let parent = behind_name.split(' ').nth(1).and_then(|parent| parent.parse::<u32>().ok());
        processes.push((id, parent.unwrap_or(0)));
    }
    let mut ours = vec![std::process::id()];
    let mut at = 0;
    while let Some(parent) = ours.get(at).copied() {
        let children = processes.iter().filter(|(_, of)| *of == parent).map(|(id, _)| *id);
        ours.extend(children.collect::<Vec<_>>());
        at += 1;
    }
    ensure!(ours.len() > 1, "no process of ours is seen in /proc");
    Ok(ours)
}

/// S17: the secrets of a system and further keys, by name, are nowhere in all that it left behind.
/// Answers how many there are.
pub async fn secrets_are_nowhere<'a>(
    system: &System,
    keys: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<usize> {
    let mut canaries = Canaries::of(system)?;
    for (name, key) in keys {
        canaries.key(name, key)?;
    }
    canaries.check(system).await?;
    Ok(canaries.count())
}

/// A line of a log as an object; fails unless it is one and holds no control character.
pub fn log_line(line: &[u8]) -> Result<Value> {
    let text = std::str::from_utf8(line).context("a log line is not UTF-8")?;
    ensure!(
        !text.contains(|char: char| char.is_control()),
        "a log line has a control character: {text:?}"
    );
    let object: Value = serde_json::from_str(text).with_context(|| format!("no JSON: {text:?}"))?;
    ensure!(object["level"].is_string() && object["target"].is_string(), "no log line: {text}");
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::TestFolder;

    #[test]
    fn a_secret_belongs_to_its_place_and_no_other() {
        let folder = TestFolder::new("canaries").unwrap();
        let keys = folder.path().join("data/keys");
        fs::create_dir_all(&keys).unwrap();
        let (master, audit) = (keys.join("master"), keys.join("audit"));
        let mut canaries = Canaries::default();
        canaries.plant(ADMIN, "the secret of admins").unwrap();
        canaries.plant(&master.display().to_string(), "the master's secret").unwrap();
        canaries.plant("another name of it", "the master's secret").unwrap();
        canaries.plant(&audit.display().to_string(), "the secret of audits").unwrap();
        let say = |path: &Path, text: &str| fs::write(path, format!("it is {text}.")).unwrap();
        say(&master, "the master's secret");
        say(&audit, "the secret of audits");
        canaries.plant("a password", "the word of databases").unwrap();
        let output = folder.path().join("up.out");
        say(&output, "the secret of admins");
        canaries.look(folder.path()).unwrap();
        for (path, wrong) in [
            (&output, "the word of databases"),
            (&output, "the master's secret"),
            (&audit, "the master's secret"),
            (&audit, "the secret of admins"),
        ] {
            let right = read(path);
            say(path, wrong);
            let told = canaries.look(folder.path()).unwrap_err().to_string();
            assert!(told.contains(&path.display().to_string()), "{told}");
            fs::write(path, right).unwrap();
        }
    }
}
