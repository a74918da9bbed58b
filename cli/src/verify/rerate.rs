//! Stored events, rated again: the raw text is read as ingest reads it, rated by the catalog version
//! that is recorded beside it, and encoded as the rater encodes it. The bytes must be the same.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use bytes::Bytes;
use domain::{
    catalog::Catalog,
    event::{IdentityKey, IdentityParts},
    rating::{Binding, Line, LineTotal, Lines, Outcome, Rating, Scratch, TotalName, Totals, rate},
    wire::{
        block::{Block, BlockHeader},
        codec::Input,
        record::{Entry, EventRecord, Origin, Verdict},
        row::{Corrected, RowPlace, put_usage_event},
    },
};
use ingest::{
    admit::Caller,
    batch::Encoder,
    budget::Budget,
    forms::{self, Form},
    limits::Buckets,
    metrics::Metrics,
    store::{Alias, Snapshot, Tenant},
};
use ledger::verify::{Check, archive::Ends};
use runtime::{clickhouse::ClickHouse, telemetry};
use sqlx::PgConnection;
use uuid::Uuid;

use super::row::Row;
use crate::store::stored;

const NAME: &str = "ratings";
/// Memory for one event and what is read out of it.
const MEMORY_BYTES: usize = 64 << 20;

/// Rates `count` events again, chosen by `seed` among those up to the archive's positions.
pub async fn sample(
    snapshot: &mut PgConnection,
    clickhouse: &ClickHouse,
    archived: &Ends,
    (count, seed): (u32, u64),
) -> Result<Check> {
    let mut check = Check::new(NAME);
    let ends = by_partition(archived);
    if ends.is_empty() || count == 0 {
        return Ok(check);
    }
    let bytes = stored::sample(clickhouse, &ends, count, seed).await?;
    let rows = rows_of(&bytes)?;
    let mut again = Again::open(snapshot).await?;
    again.read_catalogs(snapshot, &rows).await?;
    // Nothing erases texts yet: whoever empties one hides what else he has changed.
    let mut without_text = Vec::new();
    for row in &rows {
        let place = place(row)?;
        if row.bytes("raw")?.is_empty() {
            without_text.push(place);
            continue;
        }
        check.rows += 1;
        if let Err(reason) = again.compare(row) {
            check.blame(|| format!("the event {place}: {reason:#}"));
        }
    }
    check.left_out = without_text.first().map(|first| {
        let (count, of) = (without_text.len(), rows.len());
        format!("{count} of {of} events have no text to rate again, the first is {first}")
    });
    Ok(check)
}

/// The last positions of the partitions, of which 0 is the first; −1 where there is none.
pub fn by_partition(ends: &Ends) -> Vec<i64> {
    let partitions = ends.keys().next_back().map_or(0, |last| last.saturating_add(1));
    (0..partitions).map(|one| ends.get(&one).copied().unwrap_or(-1)).collect()
}

/// Rows as ClickHouse answers them.
pub fn rows_of(bytes: &[u8]) -> Result<Vec<Row<'_>>> {
    let mut rows = Vec::new();
    let mut input = Input::new(bytes);
    while !input.is_empty() {
        rows.push(Row::take(&mut input)?);
    }
    Ok(rows)
}

/// Partition, position and index of a row.
pub fn place(row: &Row<'_>) -> Result<String> {
    Ok(format!("{}:{}:{}", row.u32("partition")?, row.i64("position")?, row.u32("index")?))
}

/// What rating needs besides the event.
pub struct Again {
    identity_key: IdentityKey,
    partitions: u32,
    tenants: HashMap<Uuid, (String, Option<String>)>,
    catalogs: BTreeMap<(Uuid, u64), Arc<Catalog>>,
    budget: Budget,
}

impl Again {
    /// Reads the installation and its tenants.
    pub async fn open(snapshot: &mut PgConnection) -> Result<Again> {
        let installation = ledger::install::read(&mut *snapshot).await?;
        let tenants = stored::tenants(&mut *snapshot).await?;
        Ok(Again {
            identity_key: IdentityKey(installation.identity_key),
            partitions: installation.partitions,
            tenants: tenants.into_iter().map(|(id, key, external)| (id, (key, external))).collect(),
            catalogs: BTreeMap::new(),
            budget: Budget::new(MEMORY_BYTES, &Metrics::new(&telemetry::Metrics::new())?),
        })
    }

    /// Reads the catalogs that rated these rows, unless it has them.
    pub async fn read_catalogs(
        &mut self,
        snapshot: &mut PgConnection,
        rows: &[Row<'_>],
    ) -> Result<()> {
        for row in rows {
            let (tenant, version) = (row.uuid("tenant_id")?, row.u64("catalog_version")?);
            if self.catalogs.contains_key(&(tenant, version)) {
                continue;
            }
            let catalog = match stored::catalog(&mut *snapshot, tenant, version).await? {
                Some(document) => document
                    .compile()
                    .map_err(|faults| anyhow!("the catalog {version} of {tenant}: {faults:?}"))?,
                None => Catalog::default(),
            };
            self.catalogs.insert((tenant, version), Arc::new(catalog));
        }
        Ok(())
    }

    fn compare(&self, recorded: &Row<'_>) -> Result<()> {
        let bytes = self.encode(recorded)?;
        let again = Row::take(&mut Input::new(&bytes))?;
        match recorded.difference(&again) {
            None => Ok(()),
            Some(column) => Err(anyhow!("rated again, it has another {column}")),
        }
    }

    /// The row as the rater would write it.
    fn encode(&self, row: &Row<'_>) -> Result<Vec<u8>> {
        self.rated(row, |place, event, (time_us, outcome), catalog, lines| {
            let mut bytes = Vec::new();
            put_usage_event(&mut bytes, place, event, time_us, outcome, catalog, lines);
            bytes
        })
    }

    /// The running totals that its lines move on.
    pub fn totals(&self, row: &Row<'_>) -> Result<Vec<LineTotal>> {
        self.rated(row, |_, _, _, _, lines| {
            lines.iter().filter_map(|line| line.total.as_deref().cloned()).collect()
        })
    }

    /// Rates the event again and takes of it what is wanted.
    fn rated<T>(
        &self,
        row: &Row<'_>,
        take: impl FnOnce(&RowPlace<'_>, &EventRecord<'_>, (i64, Outcome), &Catalog, &[Line<'_>]) -> T,
    ) -> Result<T> {
        let block = self.block(row)?;
        let header = BlockHeader::decode(&block)?;
        let body = header.body(&block)?;
        let block = Block::decode(&header, &body)?;
        let Some(Entry::Event(event)) = block.entries.first() else {
            return Err(anyhow!("its text is no event any more"));
        };
        let tenant = row.uuid("tenant_id")?;
        let version = row.u64("catalog_version")?;
        let catalog = self.catalogs.get(&(tenant, version)).context("its catalog is missing")?;
        let copy = copy(row)?;
        let corrects = corrects(row)?;
        let corrected;
        let event = match corrects {
            None => match self.moved(row, tenant, copy.is_some())? {
                None => event,
                Some((identity, content)) => {
                    let identity = identity.unwrap_or(event.identity);
                    corrected = EventRecord { identity, content, ..event.clone() };
                    &corrected
                }
            },
            // It left id and content with the event that it corrects, and touches no hold.
            Some(_) => {
                let content = row.u64("content_hash")?;
                let hold = None;
                corrected =
                    EventRecord { identity: 0, content, hold, hold_end: false, ..event.clone() };
                &corrected
            }
        };
        let append_time_us = row.i64("append_time")?;
        // A copy has the times of its origin, of which only the row's own time is kept; a correction those of
        // its event.
        let is_own = copy.is_none() && corrects.is_none();
        let origin_us = if is_own { append_time_us } else { row.i64("time")? };
        let time_us = event.time_us.unwrap_or(origin_us);
        let rating = Rating {
            catalog,
            binding: &Binding::new(catalog, &block.dictionary),
            dictionary: &block.dictionary,
            time_us,
            append_time_us: append_time_us.max(origin_us),
        };
        let mut lines = Lines::new();
        let totals = Recorded(row.totals_before()?);
        let outcome = rate(&rating, event, &totals, &mut Scratch::default(), &mut lines)
            .map_err(|rejection| anyhow!("it would be rejected: {}", rejection.detail))?;
        let place = RowPlace {
            position: row.i64("position")?,
            index: row.u32("index")?,
            partition: row.u32("partition")?,
            tenant,
            append_time_us,
            catalog_version: version,
            dictionary: &block.dictionary,
            copy,
            corrects,
            serial: 0,
        };
        Ok(take(&place, event, (time_us, outcome), catalog, &lines))
    }

    /// Of a copy that may have been moved to another team: its content, which is that of the event as it was sent,
    /// whatever it was amended to; and the identity that it has if that was in its own partition.
    fn moved(
        &self,
        row: &Row<'_>,
        tenant: Uuid,
        is_copy: bool,
    ) -> Result<Option<(Option<u128>, u64)>> {
        if !is_copy || row.text("subject")? == row.text("team")? {
            return Ok(None);
        }
        let (subject, source, id) =
            (row.text("subject")?, row.text("source")?, row.text("event_id")?);
        let moved = self.identity_key.moved(&IdentityParts { tenant, subject, source, id });
        let (low, high) = row.uuid("identity")?.as_u64_pair();
        let moved = Some(moved).filter(|moved| *moved == u128::from(high) << 64 | u128::from(low));
        Ok(Some((moved, row.u64("content_hash")?)))
    }

    /// A block with the event alone.
    fn block(&self, row: &Row<'_>) -> Result<Bytes> {
        let raw = Bytes::copy_from_slice(row.bytes("raw")?);
        let caller = self.caller(row)?;
        let parsed = forms::parse(Form::Json, raw, caller, self.budget.hold(), i64::MAX)
            .map_err(|problem| anyhow!("its text cannot be read: {}", problem.code()))?;
        let [item] = parsed.items.as_slice() else {
            return Err(anyhow!("its text is {} events", parsed.items.len()));
        };
        if let Err(reject) = &item.event {
            return Err(anyhow!("it would not be accepted: {}", reject.detail));
        }
        let mut encoder = Encoder::default();
        let first = encoder.push(&parsed.batch, &[0]);
        ensure!(first == 0, "a block of one event");
        Ok(encoder.finish())
    }

    /// Whoever sent it, as far as that is recorded. An alias that was in force is one still.
    fn caller(&self, row: &Row<'_>) -> Result<Caller> {
        let id = row.uuid("tenant_id")?;
        let (key, external_key) =
            self.tenants.get(&id).cloned().context("its tenant is missing")?;
        let (subject, team) = (row.text("subject")?, row.text("team")?);
        let mut aliases = HashMap::new();
        if subject != team {
            aliases.insert(subject.into(), Alias { team: team.into(), waiting: false });
        }
        let apps = std::collections::HashSet::new();
        let backfills = std::collections::HashSet::new();
        let tenant = Tenant { id, key, external_key, aliases, apps, backfills, disabled: false };
        let snapshot = Snapshot::empty(self.identity_key, self.partitions, i64::MAX);
        let app = Some(row.text("app")?).filter(|app| !app.is_empty());
        Ok(Caller {
            tenant: Arc::new(tenant),
            key: row.text("key")?.into(),
            app: app.map(Arc::from),
            team: None,
            buckets: Buckets::default(),
            counter: None,
            snapshot: Arc::new(snapshot),
            is_weir: true,
        })
    }
}

/// Running totals as they stand beside the lines: a meter has one line of an event.
struct Recorded<'a>(Vec<(&'a str, i128)>);

impl Totals for Recorded<'_> {
    fn before(&self, name: &TotalName) -> i128 {
        let of_meter = self.0.iter().find(|(meter, _)| *meter == &*name.meter);
        of_meter.map_or(0, |(_, total)| *total)
    }
}

/// Of a correction: which event it corrects.
fn corrects(row: &Row<'_>) -> Result<Option<Corrected>> {
    let run = row.u32("rating_run")?;
    Ok((run > 0).then_some(Corrected {
        position: row.i64("origin_position")?,
        index: row.u32("origin_index")?,
        run,
        checked_to: row.i64("checked_to")?,
    }))
}

/// Of a copy: what the slow lane found, and where it came from.
fn copy(row: &Row<'_>) -> Result<Option<(Verdict, Origin)>> {
    let checked_to = row.i64("checked_to")?;
    let verdict = match row.u8("verdict")? {
        0 => return Ok(None),
        1 => Verdict::New { checked_to },
        2 => Verdict::DuplicateOf { position: checked_to, index: 0 },
        _ => Verdict::ConflictWith { position: checked_to, index: 0 },
    };
    let origin = Origin {
        partition: row.u32("origin_partition")?,
        position: row.i64("origin_position")?,
        index: row.u32("origin_index")?,
        append_time_us: row.i64("time")?,
        has_client_time: row.u8("has_client_time")? == 1,
    };
    Ok(Some((verdict, origin)))
}
