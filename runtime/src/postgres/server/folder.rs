//! The folder of a private server and the small files in it.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read, Seek, SeekFrom, Write},
    net::TcpListener,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use nix::unistd::Uid;

use super::{ServerError, binaries::RunAs};

/// A Unix socket's path has 108 bytes, its final zero included.
const SOCKET_PATH_LENGTH_MAX: usize = 107;
/// The log of earlier runs is dropped at a start when it is longer.
const LOG_LENGTH_MAX: u64 = 16 * 1024 * 1024;
/// The end of the log that an error quotes.
const LOG_TAIL_LENGTH: u64 = 2_000;
const PASSWORD_LENGTH: usize = 32;

/// An open folder; nobody else opens it while this lives.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    lock: File,
}

impl Folder {
    /// Makes the folder (mode 0700) if it is missing, and locks it.
    pub(super) fn open(path: &Path) -> Result<Self, ServerError> {
        let at = |what: &str| ServerError::io(format!("{what} {}", path.display()));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at("make"))?;
        let path = path.canonicalize().map_err(at("open"))?;
        let lock = private(&path.join("lock")).map_err(ServerError::io("open the lock"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, lock }),
            Err(TryLockError::WouldBlock) => Err(ServerError::InUse(path)),
            Err(TryLockError::Error(error)) => Err(ServerError::io("lock the folder")(error)),
        }
    }

    /// A second handle of the same lock.
    pub(super) fn share(&self) -> Result<Self, ServerError> {
        let lock = self.lock.try_clone().map_err(ServerError::io("keep the lock"))?;
        Ok(Self { path: self.path.clone(), lock })
    }

    pub(super) fn cluster(&self) -> PathBuf {
        self.path.join("cluster")
    }

    pub(super) fn cluster_owner(&self) -> Option<Uid> {
        fs::metadata(self.cluster()).ok().map(|metadata| Uid::from_raw(metadata.uid()))
    }

    pub(super) fn log_path(&self) -> PathBuf {
        self.path.join("server.log")
    }

    pub(super) fn password_path(&self) -> PathBuf {
        self.path.join("password")
    }

    /// Lets another user make files here, when it is another.
    pub(super) fn give_to(&self, run_as: &RunAs) -> Result<(), ServerError> {
        if let RunAs::User(user) = run_as {
            let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
            // The folder of the whole installation is private: the other user may pass it, not list it.
            if let (Some(above), Some(parent)) = (closed(&self.path, uid, gid), self.path.parent())
                && above == parent
            {
                pass(parent)?;
            }
            if let Some(folder) = closed(&self.path, uid, gid) {
                return Err(ServerError::Unreachable { user: user.name.clone(), folder });
            }
        }
        give(&self.path, run_as)
    }

    /// The superuser's password, made the first time.
    pub(super) fn password(&self, run_as: &RunAs) -> Result<String, ServerError> {
        let path = self.password_path();
        if let Ok(password) = fs::read_to_string(&path)
            && password.trim().len() == PASSWORD_LENGTH
        {
            return Ok(password.trim().to_owned());
        }
        let fail = |what| ServerError::io(what);
        let password = crate::keys::random_text(PASSWORD_LENGTH)
            .map_err(|error| fail("make a password")(std::io::Error::other(error)))?;
        let draft = path.with_extension("new");
        let mut file = private(&draft).map_err(fail("write the password"))?;
        file.set_len(0).map_err(fail("write the password"))?;
        file.write_all(password.as_bytes()).map_err(fail("write the password"))?;
        file.sync_all().map_err(fail("write the password"))?;
        give(&draft, run_as)?;
        fs::rename(&draft, &path).map_err(fail("write the password"))?;
        self.sync()?;
        Ok(password)
    }

    /// The port of the last run if it is free, or another free one, which is then kept.
    pub(super) fn port(&self, another: bool) -> Result<u16, ServerError> {
        let path = self.path.join("port");
        let kept = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<u16>().ok());
        if let Some(port) = kept.filter(|_| !another)
            && TcpListener::bind(("127.0.0.1", port)).is_ok()
        {
            return Ok(port);
        }
        let free = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
        let port = free.map_err(ServerError::io("find a free port"))?.port();
        fs::write(&path, port.to_string()).map_err(ServerError::io("keep the port"))?;
        Ok(port)
    }

    /// The folder of the Unix socket, or nothing where its path would be too long.
    pub(super) fn socket_folder(&self, port: u16) -> String {
        let socket = self.cluster().join(format!(".s.PGSQL.{port}"));
        let text = super::path_text(&self.cluster());
        // Commas and quotes would need an escape in the setting.
        let plain = !text.contains([',', '"', '\'']);
        if plain && socket.as_os_str().len() <= SOCKET_PATH_LENGTH_MAX {
            text
        } else {
            String::new()
        }
    }

    /// The log, opened for appending.
    pub(super) fn log(&self) -> Result<File, ServerError> {
        let path = self.log_path();
        let fail = || ServerError::io("open the server's log");
        let log =
            OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(fail())?;
        if log.metadata().map_err(fail())?.len() > LOG_LENGTH_MAX {
            log.set_len(0).map_err(fail())?;
        }
        Ok(log)
    }

    /// Makes renames in the folder durable.
    pub(super) fn sync(&self) -> Result<(), ServerError> {
        let folder = File::open(&self.path).and_then(|folder| folder.sync_all());
        folder.map_err(ServerError::io("make the folder durable"))
    }
}

/// The first folder above `path` that a user may not enter, by owner, group and mode.
fn closed(path: &Path, uid: u32, gid: u32) -> Option<PathBuf> {
    let open = |folder: &Path| {
        fs::metadata(folder).is_ok_and(|metadata| {
            let enter = match () {
                () if metadata.uid() == uid => 0o100,
                () if metadata.gid() == gid => 0o010,
                () => 0o001,
            };
            metadata.mode() & enter != 0
        })
    };
    let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
    above.reverse();
    above.into_iter().find(|folder| !open(folder)).map(Path::to_owned)
}

/// Lets others pass a folder of ours.
fn pass(folder: &Path) -> Result<(), ServerError> {
    let fail = || ServerError::io(format!("open {} to the server's user", folder.display()));
    let metadata = fs::metadata(folder).map_err(fail())?;
    if metadata.uid() != nix::unistd::geteuid().as_raw() {
        return Ok(());
    }
    let mut permissions = metadata.permissions();
    permissions.set_mode(metadata.mode() | 0o001);
    fs::set_permissions(folder, permissions).map_err(fail())
}

/// The end of a log.
pub(super) fn tail(path: &Path) -> String {
    let read = || {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_LENGTH)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        std::io::Result::Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    read().unwrap_or_default()
}

fn private(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
}

fn give(path: &Path, run_as: &RunAs) -> Result<(), ServerError> {
    let RunAs::User(user) = run_as else {
        return Ok(());
    };
    chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).map_err(ServerError::io(format!(
        "give {} to {}",
        path.display(),
        user.name
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_closed_folder_on_the_way_is_named() {
        let top = std::env::temp_dir().join(format!("weir-closed-{}", uuid::Uuid::now_v7()));
        let inner = top.join("open/closed/data");
        fs::create_dir_all(&inner).unwrap();
        for (name, mode) in [("", 0o755), ("open", 0o711), ("open/closed", 0o700)] {
            fs::set_permissions(top.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let own = fs::metadata(&top).unwrap();
        assert_eq!(closed(&inner, own.uid(), own.gid()), None);
        let other = (own.uid() + 1, own.gid() + 1);
        assert_eq!(closed(&inner, other.0, other.1), Some(top.join("open/closed")));
        assert_eq!(closed(&top.join("open/closed"), other.0, other.1), None);
        fs::remove_dir_all(&top).unwrap();
    }
}
