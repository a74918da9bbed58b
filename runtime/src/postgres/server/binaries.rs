//! Finding Postgres' programs, and running them as somebody who is not root.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use nix::unistd::{Gid, Uid, User};

use super::{SUPERUSER, ServerError, folder::Folder};

/// Where Debian, Ubuntu and the packages of the project itself put the versions.
const VERSIONS: &str = "/usr/lib/postgresql";

/// The folder of Postgres' programs.
pub(super) struct Binaries(PathBuf);

impl Binaries {
    /// The newest version installed, or the one on the search path.
    pub(super) fn find() -> Result<Self, ServerError> {
        let has_server =
            |folder: &PathBuf| folder.join("postgres").is_file() && folder.join("initdb").is_file();
        let version = |folder: &PathBuf| {
            let name = folder.parent()?.file_name()?.to_str()?;
            name.split('.').next()?.parse::<u32>().ok()
        };
        let versions = std::fs::read_dir(VERSIONS).into_iter().flatten().flatten();
        let newest =
            versions.map(|entry| entry.path().join("bin")).filter(has_server).max_by_key(version);
        let on_path = || {
            let path = crate::config::variable("PATH")?;
            std::env::split_paths(&path).find(has_server)
        };
        newest.or_else(on_path).map(Self).ok_or(ServerError::NotInstalled)
    }

    pub(super) fn postgres(&self) -> PathBuf {
        self.0.join("postgres")
    }

    /// Makes the cluster beside its place and moves it there when it is whole.
    pub(super) async fn make_cluster(
        &self,
        folder: &Folder,
        run_as: &RunAs,
    ) -> Result<(), ServerError> {
        let (cluster, draft) = (folder.cluster(), folder.cluster().with_extension("new"));
        if draft.exists() {
            std::fs::remove_dir_all(&draft)
                .map_err(ServerError::io("remove an unfinished cluster"))?;
        }
        let arguments = [
            "--pgdata".to_owned(),
            super::path_text(&draft),
            format!("--username={SUPERUSER}"),
            format!("--pwfile={}", super::path_text(&folder.password_path())),
            "--auth-host=scram-sha-256".to_owned(),
            "--auth-local=scram-sha-256".to_owned(),
            "--data-checksums".to_owned(),
            "--encoding=UTF8".to_owned(),
            "--locale=C".to_owned(),
        ];
        let mut command =
            tokio::process::Command::from(run_as.command(&self.0.join("initdb"), &arguments));
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = command.output().await.map_err(ServerError::io("run initdb"))?;
        if !output.status.success() {
            let text = [output.stdout, output.stderr].concat();
            return Err(ServerError::Failed {
                program: "initdb".to_owned(),
                output: String::from_utf8_lossy(&text).trim().to_owned(),
            });
        }
        std::fs::rename(&draft, &cluster)
            .map_err(ServerError::io("put the new cluster in place"))?;
        folder.sync()
    }
}

/// As whom the server runs.
#[derive(Clone, Debug)]
pub(super) enum RunAs {
    /// As this process, which is not root.
    Ourselves,
    /// As root outside, and as this user (who need not own anything) inside of a namespace.
    Namespace(Uid, Gid),
    /// As this user, through `setpriv`.
    User(User),
}

impl RunAs {
    /// An existing cluster keeps the owner that it has.
    pub(super) fn choose(folder: &Folder) -> Result<Self, ServerError> {
        if !Uid::effective().is_root() {
            return Ok(Self::Ourselves);
        }
        let find = |name| User::from_name(name).ok().flatten();
        let owner = folder.cluster_owner().filter(|owner| !owner.is_root());
        if let Some(owner) = owner {
            let user = User::from_uid(owner).ok().flatten();
            return user.map(Self::User).ok_or_else(|| ServerError::Failed {
                program: "postgres".to_owned(),
                output: format!("the cluster belongs to the unknown user {owner}; give it to root"),
            });
        }
        // initdb and postgres look their user up by its number, so it must be one that exists.
        let inside = find("postgres").or_else(|| find("nobody")).or_else(|| find("daemon"));
        if let Some(user) = &inside {
            let namespace = Self::Namespace(user.uid, user.gid);
            if namespace.works() {
                return Ok(namespace);
            }
        }
        find("postgres").map(Self::User).ok_or_else(|| ServerError::Failed {
            program: "postgres".to_owned(),
            output: "root cannot run it: there are neither user namespaces nor a user postgres; \
                     start weir as another user"
                .to_owned(),
        })
    }

    /// A command that runs `program` so.
    pub(super) fn command(&self, program: &Path, arguments: &[String]) -> std::process::Command {
        let mut command = match self {
            Self::Ourselves => std::process::Command::new(program),
            Self::Namespace(user, group) => {
                let mut command = std::process::Command::new("unshare");
                command.arg("--user").arg(format!("--map-user={user}"));
                command.arg(format!("--map-group={group}")).arg("--").arg(program);
                command
            }
            Self::User(user) => {
                let mut command = std::process::Command::new("setpriv");
                command.arg(format!("--reuid={}", user.uid)).arg(format!("--regid={}", user.gid));
                command.arg("--init-groups").arg("--").arg(program);
                command
            }
        };
        // Variables such as PGDATA or a locale of the caller must not change what the server does.
        command.args(arguments).env_clear().env("LC_ALL", "C");
        if let Some(path) = crate::config::variable("PATH") {
            command.env("PATH", path);
        }
        command
    }

    /// [`RunAs::command`] for the server: told to stop (fast) when the thread that started it
    /// ends. `setpriv`, which asks for that, runs last: gaining another user would forget it.
    pub(super) fn server_command(
        &self,
        program: &Path,
        arguments: &[String],
    ) -> std::process::Command {
        let mut all =
            vec!["--pdeathsig=INT".to_owned(), "--".to_owned(), super::path_text(program)];
        all.extend_from_slice(arguments);
        self.command(Path::new("setpriv"), &all)
    }

    fn works(&self) -> bool {
        let mut command = self.command(Path::new("true"), &[]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }
}
