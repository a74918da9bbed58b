//! How often each fault is done: WEIR_TIER is `test` (`make test`, `make soak`) or `deep`. WEIR_RATE is
//! for machines that do not bear the tier's events per second.

use std::env;

use crate::seed::number;

/// Counts of faults.
#[derive(Clone, Copy, Debug)]
pub struct Tier {
    /// F01: kills of each role.
    pub kills: u64,
    /// F02: owners paused until others have their partitions.
    pub zombies: u64,
    /// F03: SIGTERM under load.
    pub terminations: u64,
    /// F04: Postgres killed.
    pub postgres_kills: u64,
    /// F05: Postgres restarted.
    pub postgres_restarts: u64,
    /// F05: all sessions ended.
    pub session_ends: u64,
    /// F06: answers of COMMIT lost.
    pub commits_lost: u64,
    /// F07: Postgres' disk full, and the disk of its write-ahead log.
    pub full_disks: u64,
    /// F08: system calls of Postgres, and of the broker, that fail.
    pub failed_calls: u64,
    /// F10: the broker killed.
    pub broker_kills: u64,
    /// F11: times that the broker cannot be reached.
    pub broker_outages: u64,
    /// F11: how long, in seconds.
    pub broker_outage_s: u64,
    /// F12: the broker's disk full.
    pub full_broker_disks: u64,
    /// F13: how long the archive is away, in seconds.
    pub archive_outage_s: u64,
    /// F14: consumers added or removed.
    pub rebalances: u64,
    /// F17: clocks that are wrong.
    pub skews: usize,
    /// F19: roles cut off from what they depend on.
    pub partitions: u64,
    /// F20: rounds of cutting links one by one.
    pub swizzles: u64,
    /// F21: how long everything is slow, in seconds, in each way.
    pub slow_s: u64,
    /// F22: how long clients send as fast as they can, in seconds.
    pub overload_s: u64,
    /// F23: connections that say nothing.
    pub idle_sockets: usize,
    /// F25: clients that hang up.
    pub hang_ups: u64,
    /// Events per second that clients send.
    pub rate: u64,
    /// The same where faults go on for minutes: every event is looked at in the end.
    pub long_rate: u64,
    /// Tenants.
    pub tenants: usize,
}

/// The counts of `make test`.
const TEST: Tier = Tier {
    kills: 3,
    zombies: 1,
    terminations: 2,
    postgres_kills: 2,
    postgres_restarts: 3,
    session_ends: 10,
    commits_lost: 20,
    full_disks: 1,
    failed_calls: 1,
    broker_kills: 2,
    broker_outages: 2,
    broker_outage_s: 10,
    full_broker_disks: 1,
    archive_outage_s: 60,
    rebalances: 4,
    skews: 2,
    partitions: 4,
    swizzles: 1,
    slow_s: 10,
    overload_s: 10,
    idle_sockets: 1_000,
    hang_ups: 500,
    rate: 2_000,
    long_rate: 2_000,
    tenants: 50,
};

/// The counts of `make test-deep`.
const DEEP: Tier = Tier {
    kills: 20,
    zombies: 6,
    terminations: 20,
    postgres_kills: 5,
    postgres_restarts: 10,
    session_ends: 50,
    commits_lost: 50,
    full_disks: 3,
    failed_calls: 3,
    broker_kills: 10,
    broker_outages: 20,
    broker_outage_s: 30,
    full_broker_disks: 3,
    archive_outage_s: 300,
    rebalances: 24,
    skews: 6,
    partitions: 36,
    swizzles: 5,
    slow_s: 30,
    overload_s: 20,
    idle_sockets: 3_000,
    hang_ups: 2_000,
    rate: 10_000,
    long_rate: 2_000,
    tenants: 50,
};

impl Tier {
    /// The tier that the environment names, at the rate that it names.
    pub fn of_environment() -> Tier {
        let deep = env::var("WEIR_TIER").as_deref() == Ok("deep");
        let tier = if deep { DEEP } else { TEST };
        Tier { rate: number("WEIR_RATE").unwrap_or(tier.rate), ..tier }
    }
}
