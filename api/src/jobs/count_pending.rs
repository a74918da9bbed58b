//! Counts the events that are accepted and not yet posted, copies of late ones too, from the headers
//! of blocks.
//!
//! Per partition the counts of the blocks after the posted position are kept, so that the next
//! statement reads only what has come since. What is kept and the time spent are bounded; a count
//! that stopped early says so.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use domain::wire::block::{BlockHeader, TenantCount};
use runtime::log::LogError;
use uuid::Uuid;

use crate::{USAGE, state::Shared};

/// Wait for a message that must be there.
const WAIT: Duration = Duration::from_millis(100);
/// Wait for the bounds of a partition.
const BOUNDS_WAIT: Duration = Duration::from_secs(2);

/// The counts of all partitions.
pub(crate) struct PendingCounts(Vec<Mutex<Scanned>>);

/// What is known of one partition after its posted position.
#[derive(Default)]
struct Scanned {
    /// Blocks up to here have been dropped.
    posted: i64,
    /// The first position not looked at.
    next: i64,
    blocks: VecDeque<(i64, Vec<TenantCount>)>,
}

/// What is accepted and not posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    /// Events of the tenant, and copies of late ones with their verdict.
    pub events: u64,
    /// Position after the last block.
    pub end: i64,
    /// Whether all blocks up to `end` were looked at.
    pub complete: bool,
}

impl PendingCounts {
    /// Nothing known, for `partitions`.
    pub fn new(partitions: u32) -> Self {
        Self((0..partitions).map(|_| Mutex::default()).collect())
    }
}

/// Counts a tenant's events after `posted` in a partition, until `deadline`. Blocks its thread.
pub(crate) fn count(
    api: &Shared,
    tenant: Uuid,
    partition: u32,
    posted: i64,
    deadline: Instant,
) -> Result<Pending, LogError> {
    let scanned = usize::try_from(partition).ok().and_then(|place| api.pending.0.get(place));
    let Some(scanned) = scanned else {
        return Err(LogError::Broken(format!("there is no partition {partition}")));
    };
    let mut scanned = scanned.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, end) = api.log.bounds(USAGE, partition, BOUNDS_WAIT)?;
    scanned.forget(posted);
    scanned.read_on(api, partition, end, deadline)?;
    Ok(Pending { events: scanned.events_of(tenant), end, complete: scanned.next >= end })
}

impl Scanned {
    /// Drops blocks that are posted by now.
    fn forget(&mut self, posted: i64) {
        if posted < self.posted {
            // The database was set back: what lies between was dropped.
            *self = Self { next: posted + 1, ..Self::default() };
        }
        self.posted = posted;
        while self.blocks.pop_front_if(|(position, _)| *position <= posted).is_some() {}
        self.next = self.next.max(posted + 1);
    }

    fn events_of(&self, tenant: Uuid) -> u64 {
        let counts = self.blocks.iter().flat_map(|(_, counts)| counts);
        let own = counts.filter(|count| count.tenant == tenant);
        own.map(|count| count.events.saturating_add(count.copies)).sum()
    }

    fn read_on(
        &mut self,
        api: &Shared,
        partition: u32,
        end: i64,
        deadline: Instant,
    ) -> Result<(), LogError> {
        if self.next >= end || self.blocks.len() >= api.config.pending_blocks_max {
            return Ok(());
        }
        let mut reader = api.log.reader(USAGE, partition, self.next)?;
        while self.next < end
            && self.blocks.len() < api.config.pending_blocks_max
            && Instant::now() < deadline
        {
            let Some(message) = reader.next(WAIT)? else { continue };
            // The rater has stopped there and says so; what lies behind is at least not less.
            let Ok(header) = BlockHeader::decode(&message.payload) else { return Ok(()) };
            self.next = message.position + 1;
            self.blocks.push_back((message.position, header.tenants));
        }
        Ok(())
    }
}
