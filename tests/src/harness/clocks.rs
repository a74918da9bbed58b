//! Wall clocks that are set wrong while their processes run: `clock.c`, which says how.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::postgres::TestFolder;

/// The source, beside this file.
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/harness/clock.c");

/// A library that processes are started with, and a file for each that says how wrong its clock is.
#[derive(Debug)]
pub struct Clocks {
    folder: TestFolder,
}

impl Clocks {
    /// Builds the library in a folder of its own.
    pub fn new() -> Result<Clocks> {
        let clocks = Clocks { folder: TestFolder::new("clocks")? };
        let output = Command::new("cc")
            .args(["-O2", "-shared", "-fPIC", "-o"])
            .args([&clocks.library(), Path::new(SOURCE)])
            .output()
            .context("starting cc: run deploy/setup/build.sh, which installs it")?;
        ensure!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
        Ok(clocks)
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("clock.so")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Settings of a process whose clock is right at first.
    pub fn settings(&self, name: &str) -> Result<[(&'static str, String); 2]> {
        File::create(self.file(name))?;
        self.set(name, 0)?;
        let text = |path: PathBuf| path.to_str().map(str::to_owned).context("a path that is text");
        Ok([("LD_PRELOAD", text(self.library())?), ("CLOCK_OFFSET", text(self.file(name))?)])
    }

    /// Puts a clock so many seconds ahead, or back where it is negative, at once.
    pub fn set(&self, name: &str, seconds: i64) -> Result<()> {
        self.write(name, [seconds, 0, 0])
    }

    /// Lets a clock that is right run twice as fast from now on.
    pub fn set_twice_as_fast(&self, name: &str) -> Result<()> {
        self.write(name, [0, 0, runtime::task::now_us() * 1_000])
    }

    fn write(&self, name: &str, numbers: [i64; 3]) -> Result<()> {
        let file = File::options().write(true).open(self.file(name))?;
        Ok(file.write_all_at(&numbers.map(i64::to_le_bytes).concat(), 0)?)
    }

    /// How often it was read since it was set wrong.
    pub fn reads(&self, name: &str) -> Result<i64> {
        let mut bytes = [0; 8];
        File::open(self.file(name))?.read_exact_at(&mut bytes, 8)?;
        Ok(i64::from_le_bytes(bytes))
    }
}
