//! Processor time of this process and of a server beside it.

use std::time::Duration;

use benches::measure::{Process, processes, tree, tree_time};

/// Processor time, since some moment or since the processes began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    /// Of this process.
    pub own: Duration,
    /// Of the server, with all processes below it.
    pub server: Duration,
}

impl Used {
    /// Since the processes began.
    pub fn now(server: u32) -> Used {
        Used {
            own: Process::read(std::process::id()).map_or(Duration::ZERO, |process| process.own),
            server: tree_time(&tree(server, &processes())),
        }
    }

    /// Since `self`.
    pub fn until_now(self, server: u32) -> Used {
        let now = Used::now(server);
        Used {
            own: now.own.saturating_sub(self.own),
            server: now.server.saturating_sub(self.server),
        }
    }

    /// Both.
    pub fn total(self) -> Duration {
        self.own + self.server
    }
}
