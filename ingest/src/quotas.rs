//! How much usage a tenant may report in a day or month.
//!
//! What is accepted is counted in memory and told to Postgres with each load, which answers what all
//! processes have counted. A process holds its own share exactly; of what the others have accepted
//! since the last load it knows nothing, so together they may let through a second's events more.
//! While Postgres is away each counts on from what it last heard. Doors count against no quota.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use runtime::{
    http::Problem,
    postgres::{Pool, PostgresError},
    task::now_us,
};
use uuid::Uuid;

use crate::{
    limits::{LIMIT, REMAINING, RESET},
    store,
};

/// The longest time that a client is told to wait; periods are longer, and a quota may be raised.
const RETRY_AFTER_MAX_S: u64 = 3_600;
/// Tenants without a quota are told to Postgres with one load in so many.
const UNLIMITED_EVERY: u64 = 10;

/// A quota and what is counted against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// `day` or `month`.
    pub period: String,
    /// Events that may be accepted in it.
    pub events: u64,
    /// What all processes had counted when Postgres was last heard.
    pub used: u64,
    /// When the period ends, microseconds since 1970.
    pub ends_us: i64,
}

/// What one tenant has used.
#[derive(Debug, Default)]
pub struct Counter(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    /// Accepted, or about to be, and not yet told to Postgres.
    untold: u64,
    quotas: Vec<Quota>,
}

impl Counter {
    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts events that are about to be accepted, or none of them.
    pub fn take(&self, events: usize) -> Result<(), Problem> {
        self.take_at(u64::try_from(events).unwrap_or(u64::MAX), now_us())
    }

    fn take_at(&self, events: u64, now_us: i64) -> Result<(), Problem> {
        let mut counted = self.lock();
        for quota in &counted.quotas {
            // A period that has ended has a successor, which Postgres tells of with the next load.
            let used = if quota.ends_us > now_us { quota.used } else { 0 };
            let remaining = quota.events.saturating_sub(used.saturating_add(counted.untold));
            if events > remaining {
                return Err(exceeded(quota, remaining, now_us));
            }
        }
        counted.untold = counted.untold.saturating_add(events);
        Ok(())
    }

    /// Gives back what was not accepted after all.
    pub fn give_back(&self, events: usize) {
        let mut counted = self.lock();
        counted.untold = counted.untold.saturating_sub(u64::try_from(events).unwrap_or(u64::MAX));
    }
}

fn exceeded(quota: &Quota, remaining: u64, now_us: i64) -> Problem {
    let left_us = quota.ends_us.saturating_sub(now_us).max(0);
    let reset_s = u64::try_from(left_us).unwrap_or(0).div_ceil(1_000_000).max(1);
    let Quota { period, events, .. } = quota;
    Problem::too_many(
        reset_s.min(RETRY_AFTER_MAX_S),
        "quota_exceeded",
        format!("the quota of this tenant is {events} events a {period} (UTC)"),
        "send the same events again, with the same ids, when the period is over or the quota is raised; no event was accepted",
    )
    .header(LIMIT, *events)
    .header(REMAINING, remaining)
    .header(RESET, reset_s)
    .with("limited", "tenant")
    .with("period", period.as_str())
    .with("events", *events)
    .with("remaining", remaining)
    .with("reset_s", reset_s)
}

/// The counters of all tenants that have been seen.
#[derive(Debug, Default)]
pub struct Quotas(Mutex<HashMap<Uuid, Arc<Counter>>>);

impl Quotas {
    /// A tenant's counter, made when it is first asked for.
    pub fn of(&self, tenant: Uuid) -> Arc<Counter> {
        Arc::clone(self.lock().entry(tenant).or_default())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<Counter>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells Postgres what was counted and hears what the quotas are now. `load` counts the loads.
    pub async fn exchange(&self, pool: &Pool, load: u64) -> Result<(), PostgresError> {
        let told = self.untold(load.is_multiple_of(UNLIMITED_EVERY));
        let heard = store::quotas::count(pool, &told).await?;
        let mut of_tenant: HashMap<Uuid, Vec<Quota>> = HashMap::new();
        for (tenant, quota) in heard {
            of_tenant.entry(tenant).or_default().push(quota);
        }
        let told: HashMap<Uuid, u64> = told.into_iter().collect();
        for tenant in of_tenant.keys() {
            self.of(*tenant);
        }
        for (tenant, counter) in self.lock().iter() {
            let mut counted = counter.lock();
            let events = told.get(tenant).copied().unwrap_or(0);
            counted.untold = counted.untold.saturating_sub(events);
            counted.quotas = of_tenant.remove(tenant).unwrap_or_default();
        }
        Ok(())
    }

    fn untold(&self, all: bool) -> Vec<(Uuid, u64)> {
        let counters = self.lock();
        let untold = counters.iter().filter_map(|(tenant, counter)| {
            let counted = counter.lock();
            let wanted = counted.untold > 0 && (all || !counted.quotas.is_empty());
            wanted.then_some((*tenant, counted.untold))
        });
        untold.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(quotas: &[(u64, u64, i64)]) -> Counter {
        let quotas = quotas.iter().map(|(events, used, ends_us)| Quota {
            period: "day".to_owned(),
            events: *events,
            used: *used,
            ends_us: *ends_us,
        });
        Counter(Mutex::new(Counted { untold: 0, quotas: quotas.collect() }))
    }

    #[test]
    fn the_tightest_quota_holds_to_the_last_event_and_a_refusal_counts_nothing() {
        let counter = counter(&[(100, 90, 1_000), (12, 0, 2_000)]);
        assert!(counter.take_at(8, 0).is_ok());
        assert_eq!(counter.take_at(3, 0).unwrap_err().code(), "quota_exceeded");
        assert!(counter.take_at(2, 0).is_ok(), "ten of the first quota are used now");
        assert!(counter.take_at(1, 0).is_err());
        counter.give_back(1);
        assert!(counter.take_at(1, 0).is_ok(), "what was not accepted counts nothing");
        assert!(counter.take_at(0, 0).is_ok());
        // The first period is over: its successor counts from what is not told yet.
        assert!(counter.take_at(2, 1_500).is_ok());
        assert!(counter.take_at(1, 1_500).is_err(), "twelve of the second");
    }

    #[test]
    fn without_a_quota_everything_is_let_through_and_counted() {
        let quotas = Quotas::default();
        let tenant = Uuid::from_u128(1);
        assert!(quotas.of(tenant).take_at(u64::MAX, 0).is_ok());
        assert_eq!(quotas.untold(false), []);
        assert_eq!(quotas.untold(true), [(tenant, u64::MAX)]);
    }
}
