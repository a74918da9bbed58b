//! The task that moves the posted part on: about each second, in one snapshot of Postgres.

use std::{collections::HashMap, sync::Arc, time::Duration};

use domain::chain::Place;
use runtime::{
    http::State,
    postgres::{PostgresError, transaction},
    task::TaskError,
};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Live, Plan, Receivable, hash};
use crate::{
    state::{Api, Shared},
    store::balances::{self, PlaceRow, ReceivableRow},
};

/// What one snapshot brings for one partition.
struct News {
    posted: Place,
    whole: bool,
    receivables: Vec<Receivable>,
}

/// The task.
pub(crate) async fn run(api: Api) -> Result<(), TaskError> {
    let mut told = None;
    let pause = Duration::from_millis(api.config.balance_refresh_ms);
    while !api.shutdown.is_cancelled() {
        match refresh(&api).await {
            Ok(()) => {
                told = None;
                api.readiness.set("api", State::Ready);
            }
            Err(error) => {
                // What it refuses counts too: a person may mend it.
                let reason = error.to_string();
                if told.as_ref() != Some(&reason) {
                    tracing::warn!(reason, "posted balances stand still");
                }
                let said = if error.is_passing() { "postgres is away" } else { &reason };
                api.readiness.set("api", State::NotReady(said.to_owned()));
                told = Some(reason);
            }
        }
        tokio::select! {
            () = api.shutdown.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
    Ok(())
}

async fn refresh(api: &Shared) -> Result<(), PostgresError> {
    let live = &api.live;
    let news =
        transaction(&api.reader, |mut snapshot| async move { ask(&mut snapshot, live).await })
            .await?;
    for (partition, news) in news {
        if news.whole {
            tracing::debug!(partition, x = news.posted.x, r = news.posted.r, "balances loaded");
        }
        live.take(partition, &news);
        let entries = i64::try_from(live.entries(partition)).unwrap_or(i64::MAX);
        let label = partition.to_string();
        api.metrics.live_entries.with_label_values(&[label.as_str()]).set(entries);
    }
    for (currency, unposted) in live.unposted(None, |_| None) {
        for (stage, raw) in [("rated", unposted.rated), ("unrated", unposted.unrated)] {
            let gauge = api.metrics.unposted.with_label_values(&[&*currency, stage]);
            gauge.set(about(raw));
        }
    }
    Ok(())
}

/// An amount for a gauge, which is a float; no book is kept by it.
fn about(raw: i128) -> f64 {
    raw as f64 / 1e12
}

/// Reads places first, decides what is needed for them, and reads that in the same snapshot.
async fn ask(
    snapshot: &mut PgConnection,
    live: &Live,
) -> Result<HashMap<u32, News>, PostgresError> {
    balances::begin_snapshot(snapshot).await?;
    let posted = places(&balances::places(snapshot).await?)?;
    let mut news = HashMap::new();
    let (mut whole, mut teams): (Vec<i32>, Vec<(Uuid, Arc<str>)>) = (Vec::new(), Vec::new());
    for (partition, plan) in live.plans(&posted) {
        let posted = posted.get(&partition).copied().unwrap_or(Place::EMPTY);
        match plan {
            Plan::Nothing => continue,
            Plan::Load => whole.push(i32::try_from(partition).unwrap_or(i32::MAX)),
            Plan::Advance(ref touched) => teams.extend(touched.iter().cloned()),
        }
        news.insert(
            partition,
            News { posted, whole: matches!(plan, Plan::Load), receivables: Vec::new() },
        );
    }
    if !whole.is_empty() {
        spread(&mut news, true, balances::receivables_of_partitions(snapshot, &whole).await?)?;
    }
    if !teams.is_empty() {
        spread(&mut news, false, balances::receivables_of_teams(snapshot, &teams).await?)?;
    }
    Ok(news)
}

fn places(rows: &[PlaceRow]) -> Result<HashMap<u32, Place>, PostgresError> {
    let place = |row: &PlaceRow| {
        Some((u32::try_from(row.partition).ok()?, Place { x: row.x, r: row.r, c: hash(&row.c)? }))
    };
    let places = rows.iter().map(place).collect::<Option<_>>();
    places.ok_or_else(|| PostgresError::Broken("a row of partitions cannot be read".to_owned()))
}

/// Gives each partition its receivables.
fn spread(
    news: &mut HashMap<u32, News>,
    whole: bool,
    rows: Vec<ReceivableRow>,
) -> Result<(), PostgresError> {
    for row in rows {
        let partition = u32::try_from(row.partition).unwrap_or(u32::MAX);
        let balance = domain::money::Amount::parse_sum(&row.balance).map_err(|error| {
            PostgresError::Broken(format!(
                "the receivable {} of {} is {}: {error}",
                row.currency, row.team, row.balance
            ))
        })?;
        let receivable = Receivable {
            tenant: row.tenant_id,
            team: row.team,
            currency: row.currency,
            raw: balance.raw(),
        };
        if let Some(news) = news.get_mut(&partition).filter(|news| news.whole == whole) {
            news.receivables.push(receivable);
        }
    }
    Ok(())
}

impl Live {
    fn plans(&self, posted: &HashMap<u32, Place>) -> Vec<(u32, Plan)> {
        let plan = |(number, partition): (u32, std::sync::MutexGuard<'_, super::Partition>)| {
            let posted = posted.get(&number).copied().unwrap_or(Place::EMPTY);
            (number, partition.plan(posted))
        };
        self.all().map(plan).collect()
    }

    fn take(&self, number: u32, news: &News) {
        let Some(mut partition) = self.lock(number) else { return };
        if news.whole {
            partition.load(news.posted, &news.receivables);
        } else {
            partition.advance(news.posted, &news.receivables);
        }
    }
}
