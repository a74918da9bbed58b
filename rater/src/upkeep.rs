//! What an owner does for its table beside rating: what leaves it gets a filter, and a range that has
//! lost its filter gets it again. Both are made on other threads; the loop only looks whether they are
//! done.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::{
    filter::{Filter, Name},
    partition::{PartitionError, Shared},
    ranges::Range,
    rebuild::{rebuild, sealed},
    state::State,
    table::Departure,
};

/// Between attempts to make a missing filter again.
const MEND_EVERY: Duration = Duration::from_secs(10);

/// What leaves the table while its filter is being built.
struct Leaving {
    departure: Departure,
    filter: JoinHandle<Option<Filter>>,
}

/// A range whose filter is being made again.
struct Mending {
    name: Name,
    parts: JoinHandle<Result<Vec<Range>, PartitionError>>,
}

/// The work under way.
pub(crate) struct Upkeep {
    leaving: Option<Leaving>,
    mending: Option<Mending>,
    mended_at: Instant,
}

impl Upkeep {
    pub fn new() -> Upkeep {
        Upkeep { leaving: None, mending: None, mended_at: Instant::now() }
    }

    /// Takes what is done and starts what is due; `held` is the `A` of a look-up under way. True if
    /// the table has changed.
    pub fn turn(&mut self, shared: &Shared, state: &mut State, held: Option<i64>) -> bool {
        let left = self.let_leave(shared, state, held);
        self.mend(shared, state) || left
    }

    fn let_leave(&mut self, shared: &Shared, state: &mut State, held: Option<i64>) -> bool {
        let done = self.leaving.take_if(|leaving| leaving.filter.is_finished());
        let changed = done.is_some();
        if let Some(Leaving { departure, filter }) = done {
            state.depart(departure, shared.handle.block_on(filter).unwrap_or(None));
        }
        if self.leaving.is_none()
            && let Some(departure) = state.departure(held)
        {
            let (folder, name) = (shared.folder.clone(), departure.name);
            let identities = departure.identities.clone();
            let filter = shared.handle.spawn_blocking(move || sealed(&folder, &name, identities));
            self.leaving = Some(Leaving { departure, filter });
        }
        changed
    }

    fn mend(&mut self, shared: &Shared, state: &mut State) -> bool {
        let mut changed = false;
        if let Some(Mending { name, parts }) =
            self.mending.take_if(|mending| mending.parts.is_finished())
        {
            let partition = name.partition;
            match shared.handle.block_on(parts) {
                Ok(Ok(parts)) => {
                    state.replace_range(&name, parts);
                    changed = true;
                }
                Ok(Err(reason)) => {
                    tracing::info!(partition, %reason, "a filter cannot be made yet");
                }
                Err(error) => tracing::warn!(partition, %error, "a filter was not made"),
            }
            self.mended_at = Instant::now();
        }
        let due = self.mending.is_none() && self.mended_at.elapsed() >= MEND_EVERY;
        let missing = if due { state.table().ranges().missing() } else { None };
        if let Some(name) = missing {
            let own = shared.clone();
            let parts = shared.handle.spawn_blocking(move || rebuild(&own, name));
            self.mending = Some(Mending { name, parts });
        }
        changed
    }
}
