//! The data folder of `weir up`: who has it, its secrets, and what lives where in it.
//!
//! ```text
//! lock             held (flock) by the process that runs here
//! endpoints.json   where it answers; written when it is ready (mode 0600)
//! keys/            secrets made once (mode 0600)
//! log/             the local log
//! rater/           filters of the rater's ranges; may be deleted, and are made again
//! postgres/        the private Postgres server
//! clickhouse/      the ClickHouse engine
//! ```

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::stat::{Mode, umask},
};

use runtime::config::Secret;

use crate::endpoints::Endpoints;

/// A folder that this process has to itself.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    _lock: Flock<File>,
}

impl DataFolder {
    /// Makes the folder if it is missing and takes it; says who has it if somebody does.
    pub fn take(path: &Path) -> Result<Self> {
        // Whatever this process and its children make is theirs: a private Postgres of another user
        // may need to pass the folder.
        umask(Mode::S_IRWXG | Mode::S_IRWXO);
        private_folder(path)?;
        let path =
            path.canonicalize().with_context(|| format!("cannot enter {}", path.display()))?;
        let lock = private_file(&path.join("lock"))?;
        match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { path, _lock: lock }),
            Err((_, Errno::EWOULDBLOCK)) => bail!(in_use(&path)),
            Err((_, error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The secret `name`, made by `make` the first time.
    pub fn secret(&self, name: &str, make: impl FnOnce() -> Result<String>) -> Result<String> {
        let folder = self.path.join("keys");
        private_folder(&folder)?;
        let path = folder.join(name);
        match fs::read_to_string(&path) {
            Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
            Ok(_) => bail!("{} is empty; restore it", path.display()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        }
        let secret = make()?;
        write_private(&path, secret.as_bytes())?;
        Ok(secret)
    }

    /// A secret of a folder that another process may have.
    pub fn stored_secret(folder: &Path, name: &str) -> Result<Secret> {
        let path = folder.join("keys").join(name);
        let text = fs::read_to_string(&path);
        let text = text.with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Secret::new(text.trim()))
    }
}

/// What a second process is told.
fn in_use(path: &Path) -> String {
    let path_text = path.display();
    match Endpoints::read(path) {
        Ok(endpoints) => format!(
            "weir is already running in {path_text} at {} (process {}); use it, stop it with \
             `kill {}`, or choose another folder with --data",
            endpoints.http, endpoints.pid, endpoints.pid
        ),
        Err(_) => format!(
            "another process is starting or stopping in {path_text}; wait for it, or choose another \
             folder with --data"
        ),
    }
}

/// Makes a folder that only its owner can enter. One that exists is left as it is.
fn private_folder(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make the folder {}", path.display()))
}

fn private_file(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).write(true).truncate(false).mode(0o600);
    options.open(path).with_context(|| format!("cannot open {}", path.display()))
}

/// Writes a file whole or not at all, readable by its owner alone.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let context = || format!("cannot write {}", path.display());
    let temporary = path.with_extension("new");
    let _ = fs::remove_file(&temporary);
    let mut file = private_file(&temporary)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).with_context(context)?;
    fs::rename(&temporary, path).with_context(context)?;
    if let Some(folder) = path.parent() {
        File::open(folder).and_then(|folder| folder.sync_all()).with_context(context)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_folder_has_one_owner_and_keeps_its_secrets() {
        let path = std::env::temp_dir().join(format!("weir-folder-{}", uuid::Uuid::now_v7()));
        let folder = DataFolder::take(&path).unwrap();
        assert_eq!(folder.secret("one", || Ok("first".to_owned())).unwrap(), "first");
        assert_eq!(folder.secret("one", || bail!("asked again")).unwrap(), "first");
        let mode = fs::metadata(path.join("keys/one")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let refused = DataFolder::take(&path).unwrap_err().to_string();
        assert!(refused.contains("another process is starting"), "{refused}");
        drop(folder);
        assert_eq!(
            DataFolder::take(&path).unwrap().secret("one", || bail!("lost")).unwrap(),
            "first"
        );
        fs::remove_dir_all(&path).unwrap();
    }
}
