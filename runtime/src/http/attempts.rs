//! Refused credentials per address, in bounded memory.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::Problem;

/// Addresses remembered at a time: 64 bytes each. More share one bucket.
const ADDRESSES_MAX: usize = 16_384;

/// When all places are taken, those of full buckets are looked for at most this often.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// A token bucket per address.
#[derive(Debug)]
pub struct Attempts {
    most: u32,
    regain: Duration,
    buckets: Mutex<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    /// When the bucket of an address will be full again.
    full_at: HashMap<IpAddr, Instant>,
    others_full_at: Option<Instant>,
    swept_at: Option<Instant>,
}

impl Attempts {
    /// `most` in a row, one more every `regain`.
    #[must_use]
    pub fn new(most: u32, regain: Duration) -> Attempts {
        Attempts { most, regain, buckets: Mutex::default() }
    }

    /// Counts a refused credential; the seconds to wait if the address has used up its attempts.
    pub fn fail(&self, address: IpAddr) -> Result<(), u64> {
        self.fail_at(address, Instant::now())
    }

    /// Counts a refused credential; 429 instead of whatever it would be told, if the address has
    /// used up its attempts.
    pub fn refused(&self, address: IpAddr) -> Result<(), Problem> {
        self.fail(address).map_err(|wait_s| {
            Problem::too_many(
                wait_s,
                "too_many_attempts",
                "too many credentials from this address were refused",
                "correct the key, then wait for the time in Retry-After",
            )
        })
    }

    fn fail_at(&self, address: IpAddr, now: Instant) -> Result<(), u64> {
        let address = network(address);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let buckets = &mut *buckets;
        let taken = |buckets: &Buckets| {
            buckets.full_at.len() >= ADDRESSES_MAX && !buckets.full_at.contains_key(&address)
        };
        let swept = buckets
            .swept_at
            .is_some_and(|swept_at| now.saturating_duration_since(swept_at) < SWEEP_PAUSE);
        if taken(buckets) && !swept {
            buckets.full_at.retain(|_, full_at| *full_at > now);
            buckets.swept_at = Some(now);
        }
        let full_at = if taken(buckets) {
            buckets.others_full_at.get_or_insert(now)
        } else {
            buckets.full_at.entry(address).or_insert(now)
        };
        let next = (*full_at).max(now) + self.regain;
        let over = next.saturating_duration_since(now).saturating_sub(self.regain * self.most);
        if over.is_zero() {
            *full_at = next;
            return Ok(());
        }
        Err(over.as_secs().max(1))
    }
}

/// What one party has: an IPv4 address, or the /64 of an IPv6 address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn an_address_has_its_attempts_and_regains_them() {
        let attempts = Attempts::new(3, Duration::from_secs(2));
        let now = Instant::now();
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        for _ in 0..3 {
            assert_eq!(attempts.fail_at(one, now), Ok(()));
        }
        assert_eq!(attempts.fail_at(one, now), Err(2));
        assert_eq!(attempts.fail_at(other, now), Ok(()));
        let later = now + Duration::from_secs(2);
        assert_eq!(attempts.fail_at(one, later), Ok(()));
        assert_eq!(attempts.fail_at(one, later), Err(2));
    }

    #[test]
    fn memory_is_bounded_and_a_network_is_one() {
        let attempts = Attempts::new(1, Duration::from_secs(60));
        let now = Instant::now();
        for number in 0..100_000_u32 {
            let _ = attempts.fail_at(Ipv4Addr::from_bits(number).into(), now);
        }
        assert_eq!(attempts.buckets.lock().unwrap().full_at.len(), ADDRESSES_MAX);
        let later = now + Duration::from_secs(61);
        assert_eq!(attempts.fail_at("2001:db8::1".parse().unwrap(), later), Ok(()));
        assert!(attempts.fail_at("2001:db8::2".parse().unwrap(), later).is_err());
        assert_eq!(attempts.buckets.lock().unwrap().full_at.len(), 1);
    }
}
