//! Refused credentials per address and per credential, in bounded memory.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, Hash, RandomState},
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::Problem;

/// Parties of a kind remembered at a time: 64 bytes each. More share one bucket.
const PARTIES_MAX: usize = 16_384;

/// When all places are taken, those of full buckets are looked for at most this often.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// A token bucket per address, and one per public id that was presented.
#[derive(Debug)]
pub struct Attempts {
    most: u32,
    regain: Duration,
    addresses: Mutex<Buckets<IpAddr>>,
    /// By a keyed hash of the id: who presents it chooses it.
    ids: Mutex<Buckets<u64>>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Buckets<Party> {
    /// When the bucket of a party will be full again.
    full_at: HashMap<Party, Instant>,
    others_full_at: Option<Instant>,
    swept_at: Option<Instant>,
}

impl<Party> Default for Buckets<Party> {
    fn default() -> Self {
        Self { full_at: HashMap::new(), others_full_at: None, swept_at: None }
    }
}

impl Attempts {
    /// `most` in a row, one more every `regain`.
    #[must_use]
    pub fn new(most: u32, regain: Duration) -> Attempts {
        let (addresses, ids) = (Mutex::default(), Mutex::default());
        Attempts { most, regain, addresses, ids, hasher: RandomState::new() }
    }

    /// Counts a refused credential, which has this public id if it is well-formed; 429 instead of
    /// whatever it would be told, if the address, or all who present the id, have used up their
    /// attempts. Ids count whether they exist or not: the answer does not tell which do.
    pub fn refused(&self, address: IpAddr, id: Option<&str>) -> Result<(), Problem> {
        self.fail(address, id, Instant::now()).map_err(|wait_s| {
            Problem::too_many(
                wait_s,
                "too_many_attempts",
                "too many credentials from this address, or with this id, were refused",
                "correct the key, then wait for the time in Retry-After",
            )
        })
    }

    /// The seconds to wait, if attempts are used up.
    fn fail(&self, address: IpAddr, id: Option<&str>, now: Instant) -> Result<(), u64> {
        // An address that is told to wait costs nobody else anything.
        self.take(&self.addresses, network(address), now)?;
        id.map_or(Ok(()), |id| self.take(&self.ids, self.hasher.hash_one(id), now))
    }

    fn take<Party: Eq + Hash>(
        &self,
        buckets: &Mutex<Buckets<Party>>,
        party: Party,
        now: Instant,
    ) -> Result<(), u64> {
        let mut buckets = buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let full_at = buckets.of(party, now);
        let next = (*full_at).max(now) + self.regain;
        let over = next.saturating_duration_since(now).saturating_sub(self.regain * self.most);
        if over.is_zero() {
            *full_at = next;
            return Ok(());
        }
        Err(over.as_secs().max(1))
    }
}

impl<Party: Eq + Hash> Buckets<Party> {
    fn of(&mut self, party: Party, now: Instant) -> &mut Instant {
        let taken = |buckets: &Self| {
            buckets.full_at.len() >= PARTIES_MAX && !buckets.full_at.contains_key(&party)
        };
        let swept = self
            .swept_at
            .is_some_and(|swept_at| now.saturating_duration_since(swept_at) < SWEEP_PAUSE);
        if taken(self) && !swept {
            self.full_at.retain(|_, full_at| *full_at > now);
            self.swept_at = Some(now);
        }
        if taken(self) {
            self.others_full_at.get_or_insert(now)
        } else {
            self.full_at.entry(party).or_insert(now)
        }
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
            assert_eq!(attempts.fail(one, None, now), Ok(()));
        }
        assert_eq!(attempts.fail(one, None, now), Err(2));
        assert_eq!(attempts.fail(other, None, now), Ok(()));
        let later = now + Duration::from_secs(2);
        assert_eq!(attempts.fail(one, None, later), Ok(()));
        assert_eq!(attempts.fail(one, None, later), Err(2));
    }

    #[test]
    fn an_id_has_its_attempts_from_whatever_address() {
        let attempts = Attempts::new(3, Duration::from_secs(2));
        let now = Instant::now();
        let address = |number: u32| IpAddr::from(Ipv4Addr::from_bits(number));
        for number in 0..3 {
            assert_eq!(attempts.fail(address(number), Some("one"), now), Ok(()));
        }
        assert_eq!(attempts.fail(address(3), Some("one"), now), Err(2));
        assert_eq!(attempts.fail(address(4), Some("other"), now), Ok(()));
        assert_eq!(attempts.fail(address(5), None, now), Ok(()));
        // An address without attempts uses up those of no id.
        for _ in 0..9 {
            let _ = attempts.fail(address(9), None, now);
        }
        assert!(attempts.fail(address(9), Some("victim"), now).is_err());
        for number in 10..13 {
            assert_eq!(attempts.fail(address(number), Some("victim"), now), Ok(()));
        }
        let later = now + Duration::from_secs(2);
        assert_eq!(attempts.fail(address(6), Some("one"), later), Ok(()));
        assert_eq!(attempts.fail(address(7), Some("one"), later), Err(2));
    }

    #[test]
    fn memory_is_bounded_and_a_network_is_one() {
        let attempts = Attempts::new(1, Duration::from_secs(60));
        let now = Instant::now();
        for number in 0..100_000_u32 {
            let id = number.to_string();
            let _ = attempts.fail(Ipv4Addr::from_bits(number).into(), Some(&id), now);
        }
        assert_eq!(attempts.addresses.lock().unwrap().full_at.len(), PARTIES_MAX);
        assert_eq!(attempts.ids.lock().unwrap().full_at.len(), PARTIES_MAX);
        let later = now + Duration::from_secs(61);
        assert_eq!(attempts.fail("2001:db8::1".parse().unwrap(), None, later), Ok(()));
        assert!(attempts.fail("2001:db8::2".parse().unwrap(), None, later).is_err());
        assert_eq!(attempts.addresses.lock().unwrap().full_at.len(), 1);
    }
}
