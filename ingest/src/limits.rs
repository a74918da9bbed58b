//! How fast a tenant, or one of its credentials, may report usage: token buckets in memory.
//!
//! Each process has buckets of its own, full at its start: two processes take twice as much, and a
//! restart gives one burst. Limits are loaded with the keys; while Postgres is away the last ones
//! hold, and without any nothing is limited. A bucket is asked twice per request: whether there is
//! anything left before the body is read, and for all of its events at once before they go to the
//! log. Looking without taking is what ready-made limiters do not offer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use axum::http::{HeaderName, StatusCode};
use runtime::http::Problem;
use uuid::Uuid;

/// Nanoseconds of a second: levels are counted in events times nanoseconds, so nothing is rounded.
const SECOND_NS: u128 = 1_000_000_000;
pub(crate) const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
pub(crate) const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
pub(crate) const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// A limit as it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Events of a second, on average.
    pub events_per_second: u32,
    /// Events at once, after a pause.
    pub burst: u32,
}

/// A limit at work.
#[derive(Debug)]
pub struct Bucket {
    of: Of,
    state: Mutex<State>,
}

/// Whose a limit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// All of a tenant's requests.
    Tenant,
    /// Requests with one key or secret.
    Credential,
}

#[derive(Debug)]
struct State {
    limit: Limit,
    level: u128,
    at: Instant,
}

/// What a bucket says when it has too little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Short {
    of: Of,
    limit: Limit,
    remaining: u64,
    wanted: u32,
    /// Seconds until there is enough; `None` if there never is.
    wait_s: Option<u64>,
}

impl State {
    fn refill(&mut self, now: Instant) {
        let elapsed_ns = now.saturating_duration_since(self.at).as_nanos();
        let gained = elapsed_ns.saturating_mul(self.limit.events_per_second.into());
        self.level = self.level.saturating_add(gained).min(full(self.limit));
        self.at = self.at.max(now);
    }

    fn short(&self, of: Of, wanted: u32) -> Result<(), Short> {
        let missing = (u128::from(wanted) * SECOND_NS).saturating_sub(self.level);
        if missing == 0 {
            return Ok(());
        }
        let wait_s = missing.div_ceil(u128::from(self.limit.events_per_second.max(1)) * SECOND_NS);
        Err(Short {
            of,
            limit: self.limit,
            remaining: u64::try_from(self.level / SECOND_NS).unwrap_or(u64::MAX),
            wanted,
            wait_s: (wanted <= self.limit.burst)
                .then(|| u64::try_from(wait_s).unwrap_or(u64::MAX).max(1)),
        })
    }
}

fn full(limit: Limit) -> u128 {
    u128::from(limit.burst) * SECOND_NS
}

impl Bucket {
    fn new(of: Of, limit: Limit, now: Instant) -> Bucket {
        Bucket { of, state: Mutex::new(State { limit, level: full(limit), at: now }) }
    }

    /// Goes on with another limit; what is in it stays, as far as it fits.
    fn set(&self, limit: Limit, now: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.limit != limit {
            state.refill(now);
            state.limit = limit;
            state.level = state.level.min(full(limit));
        }
    }

    fn with<T>(&self, now: Instant, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.refill(now);
        act(&mut state)
    }

    fn take(&self, events: u32, now: Instant) -> Result<(), Short> {
        self.with(now, |state| {
            state.short(self.of, events)?;
            state.level -= u128::from(events) * SECOND_NS;
            Ok(())
        })
    }

    fn give_back(&self, events: u32, now: Instant) {
        self.with(now, |state| {
            let level = state.level + u128::from(events) * SECOND_NS;
            state.level = level.min(full(state.limit));
        });
    }
}

/// The buckets of one request: its tenant's and its credential's, where they are limited.
#[derive(Clone, Debug, Default)]
pub struct Buckets(Vec<Arc<Bucket>>);

impl Buckets {
    /// Refuses a request when not even one event is left, before its body costs anything.
    pub fn look(&self) -> Result<(), Problem> {
        self.look_at(Instant::now())
    }

    fn look_at(&self, now: Instant) -> Result<(), Problem> {
        let short = |bucket: &Arc<Bucket>| bucket.with(now, |state| state.short(bucket.of, 1));
        self.0.iter().try_for_each(short).map_err(refused)
    }

    /// Takes all of `events` from all buckets, or nothing from any.
    pub fn take(&self, events: usize) -> Result<(), Problem> {
        let events = u32::try_from(events).unwrap_or(u32::MAX);
        self.take_at(events, Instant::now())
    }

    fn take_at(&self, events: u32, now: Instant) -> Result<(), Problem> {
        for (place, bucket) in self.0.iter().enumerate() {
            if let Err(short) = bucket.take(events, now) {
                for taken in self.0.iter().take(place) {
                    taken.give_back(events, now);
                }
                return Err(refused(short));
            }
        }
        Ok(())
    }
}

fn refused(short: Short) -> Problem {
    let Limit { events_per_second, burst } = short.limit;
    let (whose, scope) = match short.of {
        Of::Tenant => ("of this tenant", "tenant"),
        Of::Credential => ("of this key", "credential"),
    };
    let problem = match short.wait_s {
        Some(wait_s) => Problem::too_many(
            wait_s,
            "rate_limited",
            format!("the limit {whose} is {events_per_second} events a second, {burst} at once"),
            "send the same events again, with the same ids, after the time in Retry-After; no event was accepted",
        )
        .header(RESET, wait_s)
        .with("reset_s", wait_s),
        None => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "burst_exceeded",
            format!("the request has {} events; the limit {whose} lets {burst} through at once", short.wanted),
            "send fewer events in one request; no event was accepted",
        ),
    };
    problem
        .header(LIMIT, u64::from(burst))
        .header(REMAINING, short.remaining)
        .with("limited", scope)
        .with("events_per_second", events_per_second)
        .with("burst", burst)
        .with("remaining", short.remaining)
}

/// By credential; the tenant's own has an empty one.
type OfTenant = HashMap<Box<str>, Arc<Bucket>>;

/// All buckets of the process, by tenant.
#[derive(Debug, Default)]
pub struct Limits(Mutex<HashMap<Uuid, OfTenant>>);

impl Limits {
    /// The buckets for a request. A bucket is made when it is first asked for.
    pub fn buckets(
        &self,
        tenant: (Uuid, Option<Limit>),
        credential: (&str, Option<Limit>),
    ) -> Buckets {
        if tenant.1.is_none() && credential.1.is_none() {
            return Buckets::default();
        }
        let now = Instant::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_tenant = all.entry(tenant.0).or_default();
        let mut buckets = Vec::with_capacity(2);
        for (of, name, limit) in
            [(Of::Tenant, "", tenant.1), (Of::Credential, credential.0, credential.1)]
        {
            let Some(limit) = limit else { continue };
            let bucket = match of_tenant.get(name) {
                Some(bucket) => Arc::clone(bucket),
                None => {
                    let bucket = Arc::new(Bucket::new(of, limit, now));
                    of_tenant.insert(name.into(), Arc::clone(&bucket));
                    bucket
                }
            };
            bucket.set(limit, now);
            buckets.push(bucket);
        }
        Buckets(buckets)
    }

    /// Forgets the buckets of limits that are not set any more.
    pub fn keep(&self, set: impl Fn(Uuid, &str) -> bool) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|tenant, buckets| {
            buckets.retain(|credential, _| set(*tenant, credential));
            !buckets.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const TENANT: Uuid = Uuid::from_u128(1);

    fn limit(events_per_second: u32, burst: u32) -> Limit {
        Limit { events_per_second, burst }
    }

    #[test]
    fn a_bucket_is_full_at_first_and_refills_exactly() {
        let start = Instant::now();
        let bucket = Bucket::new(Of::Tenant, limit(3, 10), start);
        assert_eq!(bucket.take(10, start), Ok(()));
        let short = bucket.take(1, start).unwrap_err();
        assert_eq!((short.remaining, short.wait_s), (0, Some(1)));
        let after = |ns| start + Duration::from_nanos(ns);
        assert!(bucket.take(1, after(333_333_333)).is_err());
        assert_eq!(bucket.take(1, after(333_333_334)), Ok(()));
        assert_eq!(bucket.take(2, after(1_000_000_000)), Ok(()), "nothing is rounded away");
        assert!(bucket.take(1, after(1_000_000_000)).is_err());
        assert_eq!(bucket.take(11, after(9_000_000_000)).unwrap_err().wait_s, None);
        assert_eq!(bucket.take(10, after(9_000_000_000)), Ok(()));
        assert_eq!(bucket.take(4, after(9_000_000_000)).unwrap_err().wait_s, Some(2));
    }

    #[test]
    fn both_limits_hold_and_a_refusal_takes_nothing() {
        let limits = Limits::default();
        let ask = |name| limits.buckets((TENANT, Some(limit(1, 10))), (name, Some(limit(1, 4))));
        let now = Instant::now();
        assert_eq!(ask("a").take_at(5, now).unwrap_err().code(), "burst_exceeded");
        assert!(ask("a").take_at(4, now).is_ok());
        assert_eq!(ask("a").look_at(now).unwrap_err().code(), "rate_limited");
        assert!(ask("b").take_at(4, now).is_ok());
        assert!(ask("c").take_at(3, now).is_err(), "two of the tenant's ten are left");
        assert!(ask("c").take_at(2, now).is_ok());
        limits.keep(|_, credential| credential.is_empty());
        assert_eq!(limits.0.lock().unwrap()[&TENANT].len(), 1);
        assert!(limits.buckets((TENANT, None), ("a", None)).take_at(u32::MAX, now).is_ok());
    }

    #[test]
    fn a_changed_limit_goes_on_with_what_is_left() {
        let now = Instant::now();
        let bucket = Bucket::new(Of::Tenant, limit(1, 10), now);
        bucket.take(9, now).unwrap();
        bucket.set(limit(100, 1000), now);
        assert_eq!(bucket.take(2, now).unwrap_err().remaining, 1);
        assert_eq!(bucket.take(101, now + Duration::from_secs(1)), Ok(()));
        bucket.set(limit(1, 1), now + Duration::from_secs(30));
        assert_eq!(bucket.take(1, now + Duration::from_secs(30)), Ok(()));
        assert!(bucket.take(1, now + Duration::from_secs(30)).is_err());
    }

    proptest! {
        /// Whoever asks for more than the limit gets it all, and no more: rate times time plus burst.
        #[test]
        fn what_gets_through_is_the_rate_and_one_burst(
            (rate, burst) in (1_u32..5_000, 1_u32..5_000),
            asks in prop::collection::vec((0_u64..20_000_000, 1_u32..50), 1..400),
        ) {
            let start = Instant::now();
            let bucket = Bucket::new(Of::Tenant, limit(rate, burst), start);
            let (mut now_ns, mut through) = (0, 0_u128);
            for (pause_ns, events) in asks {
                now_ns += pause_ns;
                if bucket.take(events, start + Duration::from_nanos(now_ns)).is_ok() {
                    through += u128::from(events);
                }
                let allowed = u128::from(burst) * SECOND_NS + u128::from(now_ns) * u128::from(rate);
                prop_assert!(through * SECOND_NS <= allowed);
            }
        }
    }
}
