//! A block on its way through rating: what its entries share, and the entry being decided.

use std::sync::Arc;

use domain::{
    catalog::Catalog,
    rating::Binding,
    wire::{
        block::{Block, BlockHeader},
        record::{EventRecord, Origin, Verdict},
        row::RowPlace,
    },
};
use hashbrown::HashMap;

use crate::{names::Names, totals::TeamName};

/// Where a block stands.
#[derive(Clone, Copy, Debug)]
pub struct BlockPlace {
    /// Partition of `[usage]`.
    pub partition: u32,
    /// Position in it.
    pub position: i64,
    /// When the log appended it, microseconds.
    pub append_time_us: i64,
}

/// One block on its way through rating: everything its entries share.
pub(super) struct Desk<'a> {
    pub position: i64,
    pub partition: u32,
    pub append_time_us: i64,
    pub header: &'a BlockHeader,
    pub block: &'a Block<'a>,
    /// Per tenant of the block: its place in the batch's counts.
    pub tenants: Vec<u32>,
    /// Per string of the block: its number as a team of the sums.
    pub teams: Vec<Option<u32>>,
    /// Teams whose usage counts in running totals, by tenant and string of the block.
    pub counted: HashMap<(u32, u32), TeamName>,
}

/// The entry being decided.
pub(super) struct Case<'a> {
    pub index: u32,
    pub event: &'a EventRecord<'a>,
    pub copy: Option<(Verdict, Origin)>,
}

/// The catalog in force for an entry.
pub(super) struct Rules<'a> {
    pub catalog: &'a Catalog,
    pub binding: &'a Binding,
    pub names: &'a mut Names,
    pub version: u64,
}

impl Rules<'_> {
    pub fn place(&self) -> (u64, u32) {
        (self.version, self.names.serial)
    }
}

/// The team of an event whose usage counts in running totals.
pub(super) fn counted(desk: &mut Desk<'_>, event: &EventRecord<'_>) -> TeamName {
    let (header, dictionary) = (desk.header, &desk.block.dictionary);
    let name = || {
        let team = dictionary.get(event.team).unwrap_or_default();
        (header.tenant(event.tenant).unwrap_or_default(), Arc::from(team))
    };
    desk.counted.entry((event.tenant, event.team)).or_insert_with(name).clone()
}

pub(super) fn batch_tenant(desk: &Desk<'_>, tenant: u32) -> u32 {
    usize::try_from(tenant).ok().and_then(|tenant| desk.tenants.get(tenant)).copied().unwrap_or(0)
}

pub(super) fn row_place<'a>(
    desk: &Desk<'a>,
    index: u32,
    tenant: u32,
    (catalog_version, serial): (u64, u32),
    copy: Option<(Verdict, Origin)>,
) -> RowPlace<'a> {
    RowPlace {
        position: desk.position,
        index,
        partition: desk.partition,
        tenant: desk.header.tenant(tenant).unwrap_or_default(),
        append_time_us: desk.append_time_us,
        catalog_version,
        dictionary: &desk.block.dictionary,
        copy,
        corrects: None,
        serial,
    }
}
