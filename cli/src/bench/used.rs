//! Processor time of this process and of a server beside it.

use std::time::Duration;

use benches::measure::{processes, tree, tree_time};

use super::watch::time_of;

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
        Used { own: time_of(std::process::id()), server: tree_time(&tree(server, &processes())) }
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
