//! A small disk under a folder, which can be filled: mounted in the scenario's own namespace, so that
//! nobody else sees it and it ends with the scenario.

use std::{
    fs,
    fs::File,
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use super::contained::is_contained;
use crate::postgres::TestFolder;

/// What takes the room.
const FILLER: &str = "filler";
const CHUNK_BYTES: usize = 256 << 10;
/// The last room is taken in pieces of a page.
const PAGE_BYTES: usize = 4 << 10;

/// A disk of its own under a folder. Its contents go with it.
#[derive(Debug)]
pub struct SmallDisk {
    folder: PathBuf,
}

fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {arguments:?}: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is text")
}

impl SmallDisk {
    /// Whether the scenario may mount what nobody else sees.
    pub fn possible() -> bool {
        let tried = || {
            let folder = TestFolder::new("mount")?;
            SmallDisk::mount(folder.path(), 1).map(drop)
        };
        is_contained() && tried().is_ok()
    }

    fn mount(folder: &Path, size_mib: u64) -> Result<SmallDisk> {
        let size = format!("size={size_mib}m");
        run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", text(folder)?])?;
        Ok(SmallDisk { folder: folder.to_owned() })
    }

    /// Moves a folder, which nobody may use meanwhile, to a disk that has so much room left.
    pub fn under(folder: &Path, room_mib: u64) -> Result<SmallDisk> {
        let aside = folder.with_extension("aside");
        fs::rename(folder, &aside).with_context(|| format!("move {}", folder.display()))?;
        fs::create_dir(folder)?;
        let used = run("du", &["-sm", text(&aside)?])?;
        let used: u64 = used.split_whitespace().next().context("a size")?.parse()?;
        let disk = SmallDisk::mount(folder, used + room_mib)?;
        run("cp", &["-a", text(&aside.join("."))?, text(folder)?])?;
        fs::remove_dir_all(aside)?;
        Ok(disk)
    }

    /// Takes all the room that is left; answers how many bytes that were.
    pub fn fill(&self) -> Result<u64> {
        let mut filler = File::options().create(true).append(true).open(self.filler())?;
        Ok(fill_by(&mut filler, CHUNK_BYTES)? + fill_by(&mut filler, PAGE_BYTES)?)
    }

    fn filler(&self) -> PathBuf {
        self.folder.join(FILLER)
    }

    /// Gives the room back.
    pub fn empty(&self) -> Result<()> {
        Ok(fs::remove_file(self.filler())?)
    }
}

fn fill_by(filler: &mut File, length: usize) -> Result<u64> {
    let (chunk, mut taken) = (vec![0; length], 0);
    loop {
        match filler.write(&chunk) {
            Ok(written) => taken += written as u64,
            Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(taken),
            Err(error) => return Err(error.into()),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let Some(folder) = self.folder.to_str() else { return };
        let _ = run("umount", &["--lazy", folder]);
    }
}

/// What a log says from a moment on.
#[derive(Debug)]
pub struct LogFrom {
    path: PathBuf,
    start: u64,
}

impl LogFrom {
    /// From now on.
    pub fn now(path: &Path) -> Result<LogFrom> {
        let length = fs::metadata(path).with_context(|| format!("look at {}", path.display()))?;
        Ok(LogFrom { path: path.to_owned(), start: length.len() })
    }

    /// The first line since then that has `text`.
    pub fn line_with(&self, text: &str) -> Result<Option<String>> {
        let bytes = fs::read(&self.path)?;
        let since = String::from_utf8_lossy(bytes.get(self.start as usize..).unwrap_or_default());
        Ok(since.lines().find(|line| line.contains(text)).map(str::to_owned))
    }
}
