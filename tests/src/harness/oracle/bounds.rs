//! INV-20: memory, descriptors and connections stay bounded, whatever was done.

use std::fs;

use anyhow::{Result, ensure};

/// Descriptors of one process: its connections, its topics' sockets, its files.
const DESCRIPTORS_MAX: usize = 1_000;
/// Memory of one process after an hour's worth of faults; ingest alone may hold 64 MiB of requests.
const MEMORY_KIB_MAX: u64 = 2 << 20;

/// What a process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Open descriptors.
    pub descriptors: usize,
    /// Most memory that it has held.
    pub memory_kib: u64,
}

impl Usage {
    /// Of a process that runs.
    pub fn of(pid: u32) -> Result<Usage> {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        let memory_kib = benches::measure::peak_memory_kib(pid).unwrap_or_default();
        Ok(Usage { descriptors, memory_kib })
    }

    /// Fails beyond the limits.
    pub fn check(self, name: &str) -> Result<()> {
        ensure!(self.descriptors <= DESCRIPTORS_MAX, "{name} has {} descriptors", self.descriptors);
        ensure!(self.memory_kib <= MEMORY_KIB_MAX, "{name} has held {} KiB", self.memory_kib);
        ensure!(self.descriptors > 0 && self.memory_kib > 0, "{name}: {self:?}");
        Ok(())
    }
}
