//! What the targets of ingest need around them: one tenant with an alias, and a bound on memory.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, LazyLock},
    time::Duration,
};

use domain::{
    catalog::{Catalog, CatalogDocument},
    event::IdentityKey,
    rating::{Binding, Lines, NoTotals, Rating, Scratch, rate},
    wire::{
        block::{Block, BlockHeader},
        record::Entry,
    },
};
use ingest::{
    admit::{Caller, Door},
    budget::Budget,
    metrics::Metrics,
    quotas::Quotas,
    store::{Alias, Snapshot, Tenant},
};
use runtime::{http::Attempts, telemetry};
use uuid::Uuid;

/// The time of everything here, microseconds.
pub const NOW_US: i64 = 1_780_000_000_000_000;

/// Who reports, and what its memory is counted against.
pub struct World {
    pub caller: Caller,
    pub budget: Budget,
}

pub static WORLD: LazyLock<World> = LazyLock::new(|| {
    let metrics = Metrics::new(&telemetry::Metrics::new()).expect("metrics are declared once");
    let alias = Alias { team: "team-1".into(), waiting: false };
    let tenant = Tenant {
        id: Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001),
        key: "default".into(),
        external_key: Some("seller".into()),
        aliases: HashMap::from([("other-name".into(), alias)]),
        apps: HashSet::from(["app".into()]),
        backfills: HashSet::new(),
        disabled: false,
    };
    let mut known = Snapshot::empty(IdentityKey([7; 16]), 16, NOW_US);
    known.tenants = HashMap::from([("default".into(), Arc::new(tenant))]);
    let attempts = Attempts::new(10, Duration::from_secs(1));
    let door = Door::new(known, Duration::MAX, attempts, Quotas::default(), &metrics);
    let caller = door.writer_of("default").expect("the lease holds").expect("the tenant is known");
    World { caller, budget: Budget::new(256 << 20, &metrics) }
});

/// A catalog whose meters look at everything that an event has.
pub static DOCUMENT: LazyLock<CatalogDocument> =
    LazyLock::new(|| serde_json::from_str(include_str!("../catalog.json")).expect("a document"));

/// The same as it is used.
pub static CATALOG: LazyLock<Arc<Catalog>> =
    LazyLock::new(|| Arc::new(DOCUMENT.compile().expect("a catalog without faults")));

/// Reads a block and rates what is in it.
pub fn rate_block(message: &[u8]) {
    let Ok(header) = BlockHeader::decode(message) else { return };
    let Ok(body) = header.body(message) else { return };
    let Ok(block) = Block::decode(&header, &body) else { return };
    let binding = Binding::new(&CATALOG, &block.dictionary);
    let (mut scratch, mut lines) = (Scratch::default(), Lines::new());
    for entry in &block.entries {
        let (Entry::Event(event) | Entry::Copy(_, _, event)) = entry else { continue };
        let rating = Rating {
            catalog: &CATALOG,
            binding: &binding,
            dictionary: &block.dictionary,
            time_us: event.time_us.unwrap_or(NOW_US),
            append_time_us: NOW_US,
        };
        let first =
            rate(&rating, event, &NoTotals, &mut scratch, &mut lines).map(|_| lines.clone());
        let again =
            rate(&rating, event, &NoTotals, &mut scratch, &mut lines).map(|_| lines.clone());
        assert_eq!(first, again, "rating twice gives the same");
    }
}
