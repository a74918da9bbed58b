//! The task that moves the posted part on: about each second, in one snapshot of Postgres.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use domain::{chain::Place, money::Amount};
use runtime::{
    http::State,
    postgres::{PostgresError, transaction},
    task::TaskError,
};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Live, News, Plan, Receivable, Stored, Wallet, hash};
use crate::{
    state::{Api, Shared},
    store::balances::{self, PlaceRow, ReceivableRow, WalletRow},
};

/// What one snapshot brings, by partition, and whether that is in place of everything.
type AllNews = HashMap<u32, (bool, News)>;

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
    for (partition, (whole, news)) in news {
        if whole {
            tracing::debug!(partition, x = news.posted.x, r = news.posted.r, "balances loaded");
        }
        live.take(partition, whole, &news);
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
async fn ask(snapshot: &mut PgConnection, live: &Live) -> Result<AllNews, PostgresError> {
    balances::begin_snapshot(snapshot).await?;
    let missing_from = balances::missing_from(snapshot).await?;
    let posted = places(&balances::places(snapshot).await?)?;
    let mut news = AllNews::new();
    let (mut whole, mut teams): (Vec<i32>, HashSet<(Uuid, Arc<str>)>) = Default::default();
    let mut since: Vec<(i32, u64)> = Vec::new();
    for (number, plan) in live.plans(&posted, missing_from) {
        let partition = i32::try_from(number).unwrap_or(i32::MAX);
        let is_whole = match plan {
            Plan::Nothing => continue,
            Plan::Load => {
                whole.push(partition);
                true
            }
            Plan::Advance(touched, from) => {
                teams.extend(touched);
                since.push((partition, from));
                false
            }
        };
        let place = posted.get(&number).copied().unwrap_or(Place::EMPTY);
        news.insert(number, (is_whole, News::at(place, missing_from)));
    }
    if !whole.is_empty() {
        spread(&mut news, true, balances::receivables_of_partitions(snapshot, &whole).await?)?;
        let wallets = balances::wallets_of_partitions(snapshot, &whole).await?;
        spread_wallets(&mut news, true, wallets)?;
    }
    if !since.is_empty() {
        let changed = balances::wallets_changed(snapshot, &since).await?;
        teams.extend(changed.iter().map(|row| (row.tenant_id, Arc::from(row.team.as_str()))));
        spread_wallets(&mut news, false, changed)?;
    }
    if !teams.is_empty() {
        let teams: Vec<(Uuid, Arc<str>)> = teams.into_iter().collect();
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

/// The news of a partition, if they are of that kind.
fn news_of(news: &mut AllNews, partition: i32, whole: bool) -> Option<&mut News> {
    let (is_whole, news) = news.get_mut(&u32::try_from(partition).ok()?)?;
    (*is_whole == whole).then_some(news)
}

/// Gives each partition its receivables.
fn spread(news: &mut AllNews, whole: bool, rows: Vec<ReceivableRow>) -> Result<(), PostgresError> {
    for row in rows {
        let raw = raw("receivable", (&row.team, &row.currency), &row.balance)?;
        if let Some(news) = news_of(news, row.partition, whole) {
            let (tenant, team, currency) = (row.tenant_id, row.team, row.currency);
            news.receivables.push(Receivable { tenant, team, currency, raw });
        }
    }
    Ok(())
}

/// Gives each partition its wallets.
fn spread_wallets(
    news: &mut AllNews,
    whole: bool,
    rows: Vec<WalletRow>,
) -> Result<(), PostgresError> {
    for row in rows {
        let raw = |text: &str| raw("wallet", (&row.team, &row.currency), text);
        let stored = Stored { balance: raw(&row.balance)?, held: raw(&row.held)? };
        if let Some(news) = news_of(news, row.partition, whole) {
            let (tenant, team, currency) = (row.tenant_id, row.team, row.currency);
            news.wallets.push(Wallet { tenant, team, currency, stored });
        }
    }
    Ok(())
}

/// A balance of a team in a currency, in raw units.
fn raw(what: &str, (team, currency): (&str, &str), text: &str) -> Result<i128, PostgresError> {
    let amount = Amount::parse_sum(text).map_err(|error| {
        PostgresError::Broken(format!("the {what} {currency} of {team} is {text}: {error}"))
    });
    Ok(amount?.raw())
}

impl Live {
    fn plans(&self, posted: &HashMap<u32, Place>, missing_from: u64) -> Vec<(u32, Plan)> {
        let plan = |(number, partition): (u32, std::sync::MutexGuard<'_, super::Partition>)| {
            let posted = posted.get(&number).copied().unwrap_or(Place::EMPTY);
            (number, partition.plan(posted, missing_from))
        };
        self.all().map(plan).collect()
    }

    fn take(&self, number: u32, whole: bool, news: &News) {
        let Some(mut partition) = self.lock(number) else { return };
        if whole {
            partition.load(news);
        } else {
            partition.advance(news);
        }
    }
}
