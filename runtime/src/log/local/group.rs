//! Groups within one process: the members of a group share the partitions evenly.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::log::{Membership, Topic};

type Members = Vec<(u64, watch::Sender<Vec<u32>>)>;

/// All groups of a log.
#[derive(Default)]
pub(crate) struct Groups(Mutex<State>);

#[derive(Default)]
struct State {
    last_member: u64,
    members: HashMap<(Topic, String), Members>,
}

impl Groups {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a member; its first list is complete when this returns.
    pub(crate) fn join(
        self: &Arc<Self>,
        topic: Topic,
        group: &str,
        partitions: u32,
    ) -> Box<dyn Membership> {
        let name = (topic, group.to_owned());
        let (sender, owned) = watch::channel(Vec::new());
        let mut state = self.state();
        state.last_member += 1;
        let member = state.last_member;
        let members = state.members.entry(name.clone()).or_default();
        members.push((member, sender));
        share(members, partitions);
        Box::new(LocalMembership { groups: Arc::clone(self), name, member, partitions, owned })
    }
}

struct LocalMembership {
    groups: Arc<Groups>,
    name: (Topic, String),
    member: u64,
    partitions: u32,
    owned: watch::Receiver<Vec<u32>>,
}

impl Membership for LocalMembership {
    fn owned(&self) -> watch::Receiver<Vec<u32>> {
        self.owned.clone()
    }
}

impl Drop for LocalMembership {
    fn drop(&mut self) {
        let mut state = self.groups.state();
        let Some(members) = state.members.get_mut(&self.name) else {
            return;
        };
        // Who still holds the watch of a member that left sees that it owns nothing.
        if let Some((_, left)) = members.extract_if(.., |(id, _)| *id == self.member).next() {
            left.send_replace(Vec::new());
        }
        share(members, self.partitions);
        if members.is_empty() {
            state.members.remove(&self.name);
        }
    }
}

fn share(members: &Members, partitions: u32) {
    for (place, (_, owned)) in members.iter().enumerate() {
        let list: Vec<u32> = (0..partitions).skip(place).step_by(members.len()).collect();
        owned.send_if_modified(|old| {
            let changed = *old != list;
            *old = list;
            changed
        });
    }
}
