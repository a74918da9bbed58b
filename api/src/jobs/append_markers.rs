//! Appends the markers of published catalogs to every partition of `[usage]`.
//!
//! One process at a time, strictly in the order of the numbers. A version is done only when every
//! partition has acknowledged its marker; an append that failed or whose outcome is unknown is
//! repeated, for a repeated marker changes nothing. What waits is in Postgres, so it cannot be
//! forgotten.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use domain::wire::{block::BlockWriter, record::Entry};
use runtime::{
    http::{Heartbeat, Problem, State},
    postgres::{PostgresError, scoped},
    task::TaskError,
};
use sqlx::PgConnection;
use tokio::{sync::Notify, time::Instant};

use crate::{
    USAGE,
    auth::TenantScope,
    error::ApiError,
    state::{Api, Shared},
    store::{
        catalog,
        outbox::{self, Waiting},
    },
};

/// A look without being asked: for versions that another process published and left behind.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A look at what another process has appended, while a caller waits.
const WAIT_POLL: Duration = Duration::from_millis(100);
/// Back-off of appends and of Postgres.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Versions read at a time.
const VERSIONS_MAX: i64 = 100;
/// Versions whose places are remembered for those who wait.
const REMEMBERED_MAX: usize = 1_000;

/// What waiting callers and the task share.
#[derive(Debug, Default)]
pub(crate) struct Markers {
    /// Rung when something was published.
    published: Notify,
    /// Rung when a version is in the log.
    appended: Notify,
    /// Places of the newest markers by version.
    places: Mutex<BTreeMap<i64, Vec<String>>>,
}

impl Markers {
    fn remember(&self, number: i64, places: Vec<String>) {
        let mut known = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(number, places);
        if known.len() > REMEMBERED_MAX {
            known.pop_first();
        }
        drop(known);
        self.appended.notify_waiters();
    }

    fn places(&self, number: i64) -> Option<Vec<String>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }
}

/// Waits until the markers of a version are in the log; answers where they stand. The version is
/// published whatever this answers.
pub(crate) async fn wait(
    api: &Api,
    tenant: TenantScope,
    number: i64,
) -> Result<Vec<String>, ApiError> {
    api.markers.published.notify_one();
    let deadline = Instant::now() + Duration::from_millis(api.config.publish_wait_ms);
    loop {
        let appended = api.markers.appended.notified();
        if let Some(places) = api.markers.places(number) {
            return Ok(places);
        }
        if is_appended(api, tenant, number).await? {
            // By this process a moment ago, or by another one, which alone knows the places.
            return Ok(api.markers.places(number).unwrap_or_default());
        }
        if Instant::now() >= deadline {
            return Err(late(number).into());
        }
        let _ = tokio::time::timeout(WAIT_POLL, appended).await;
    }
}

async fn is_appended(api: &Api, tenant: TenantScope, number: i64) -> Result<bool, ApiError> {
    let appended = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        catalog::is_appended(&mut transaction, tenant, number).await
    });
    appended.await
}

fn late(number: i64) -> Problem {
    Problem::unavailable(
        5,
        "marker_waiting",
        format!("catalog version {number} is published in the database, but its markers are not in the log yet; they follow by themselves"),
        "nothing has to be done; a repeat with the same Idempotency-Key waits for the markers again",
    )
    .with("catalog_version", number)
}

/// The check of this task: new prices do not get into the log while it is not ready.
const CHECK: &str = "api.markers";

/// The task.
pub(crate) async fn run(api: Api) -> Result<(), TaskError> {
    let heartbeat = Heartbeat::new(&api.readiness, CHECK, Duration::ZERO);
    let mut pause = RETRY_MIN;
    while !api.shutdown.is_cancelled() {
        let next = match drain(&api).await {
            Ok(()) => {
                heartbeat.beat();
                api.readiness.set(CHECK, State::Ready);
                pause = RETRY_MIN;
                LOOK_EVERY
            }
            Err(error) => {
                tracing::warn!(%error, "catalog markers wait");
                if !error.is_passing() {
                    api.readiness.set(CHECK, State::NotReady(error.to_string()));
                }
                pause = (pause * 2).min(RETRY_MAX);
                pause
            }
        };
        tokio::select! {
            () = api.shutdown.cancelled() => {}
            () = api.markers.published.notified() => {}
            () = tokio::time::sleep(next) => {}
        }
    }
    Ok(())
}

/// Appends everything that waits, unless another process is doing so.
async fn drain(api: &Shared) -> Result<(), PostgresError> {
    if !outbox::is_waiting(&api.reader).await? {
        return Ok(());
    }
    let Some(mut connection) = outbox::lock(&api.reader).await? else {
        return Ok(());
    };
    loop {
        let waiting = outbox::waiting(&mut connection, VERSIONS_MAX).await?;
        if waiting.is_empty() {
            return Ok(());
        }
        for version in &waiting {
            let Some(places) = append(api, &mut connection, version).await? else {
                return Ok(());
            };
            outbox::mark_appended(&api.pool, version.tenant_id, version.catalog_version).await?;
            api.markers.remember(version.catalog_version, places);
        }
    }
}

/// Appends one version's marker to every partition, until all have it. `None` when a stop was
/// asked for. `connection` holds the right to append: without it we must not go on.
async fn append(
    api: &Shared,
    connection: &mut PgConnection,
    version: &Waiting,
) -> Result<Option<Vec<String>>, PostgresError> {
    let marker = marker(version)?;
    let mut places: BTreeMap<u32, String> = BTreeMap::new();
    let mut pause = RETRY_MIN;
    loop {
        let missing: Vec<u32> =
            (0..api.log.partitions()).filter(|partition| !places.contains_key(partition)).collect();
        let pending: Vec<_> = missing
            .iter()
            .map(|partition| (*partition, api.log.append(USAGE, *partition, marker.clone())))
            .collect();
        for (partition, pending) in pending {
            match pending.outcome().await {
                Ok(appended) => {
                    api.metrics.markers_appended.inc();
                    places.insert(partition, format!("{partition}:{}:0", appended.position));
                }
                Err(error) => {
                    api.metrics.markers_failed.inc();
                    let catalog_version = version.catalog_version;
                    tracing::warn!(%error, partition, catalog_version, "a catalog marker is not in the log yet; it is appended again");
                }
            }
        }
        if places.len() == usize::try_from(api.log.partitions()).unwrap_or(usize::MAX) {
            return Ok(Some(places.into_values().collect()));
        }
        tokio::select! {
            () = api.shutdown.cancelled() => return Ok(None),
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY_MAX),
        }
        outbox::check_lock(connection).await?;
    }
}

fn marker(version: &Waiting) -> Result<Bytes, PostgresError> {
    let broken = || {
        PostgresError::Broken(format!(
            "catalog version {} in the outbox is damaged",
            version.catalog_version
        ))
    };
    let mut block = BlockWriter::default();
    block.push(&Entry::Marker {
        tenant: version.tenant_id,
        catalog_version: u64::try_from(version.catalog_version).map_err(|_| broken())?,
        document_hash: version.document_hash.as_slice().try_into().map_err(|_| broken())?,
    });
    Ok(Bytes::from(block.finish()))
}
