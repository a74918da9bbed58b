//! Which partition of `[usage]` a team lives in: fixed for ever, because its duplicates, its
//! receivable and its running totals are there.

use uuid::Uuid;

/// Length of a tenant's id as text.
const TENANT_BYTES: usize = uuid::fmt::Hyphenated::LENGTH;
/// Most keys are shorter.
const KEY_BYTES: usize = 128;

/// The partition of a team: Kafka's default partitioner over the key `tenant/team`, so that any
/// producer of Kafka finds the same one.
#[must_use]
pub fn partition_of(tenant: Uuid, team: &str, partitions: u32) -> u32 {
    let mut key = [0_u8; KEY_BYTES];
    tenant.hyphenated().encode_lower(&mut key);
    let length = TENANT_BYTES.saturating_add(1).saturating_add(team.len());
    let hash = match key.get_mut(TENANT_BYTES..length) {
        Some([slash, rest @ ..]) => {
            *slash = b'/';
            rest.copy_from_slice(team.as_bytes());
            murmur2(key.get(..length).unwrap_or_default())
        }
        // A longer name than most.
        _ => murmur2(&[&key[..TENANT_BYTES], b"/", team.as_bytes()].concat()),
    };
    (hash & 0x7fff_ffff) % partitions.max(1)
}

/// The partition of what belongs to a tenant and to no team that is known: Kafka's default
/// partitioner over the tenant.
#[must_use]
pub fn partition_of_tenant(tenant: Uuid, partitions: u32) -> u32 {
    let mut key = [0_u8; uuid::fmt::Hyphenated::LENGTH];
    let tenant = tenant.hyphenated().encode_lower(&mut key);
    (murmur2(tenant.as_bytes()) & 0x7fff_ffff) % partitions.max(1)
}

const SEED: u32 = 0x9747_b28c;
const MULTIPLIER: u32 = 0x5bd1_e995;

/// MurmurHash2 of 32 bits as Kafka's Java client computes it.
#[must_use]
pub fn murmur2(data: &[u8]) -> u32 {
    // Lengths of keys fit; Kafka, too, takes the low 32 bits.
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let (words, rest) = data.as_chunks::<4>();
    let mut hash = SEED ^ length;
    for word in words {
        let mut mixed = u32::from_le_bytes(*word).wrapping_mul(MULTIPLIER);
        mixed ^= mixed >> 24;
        hash = hash.wrapping_mul(MULTIPLIER) ^ mixed.wrapping_mul(MULTIPLIER);
    }
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0_u32, |tail, byte| (tail << 8) | u32::from(*byte));
        hash = (hash ^ tail).wrapping_mul(MULTIPLIER);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(MULTIPLIER);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's own test (`UtilsTest.testMurmur2`).
    #[test]
    fn it_is_the_hash_of_kafka() {
        for (key, want) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), want, "{key}");
        }
    }

    #[test]
    fn teams_spread_and_stay() {
        let tenant = Uuid::from_u128(7);
        let mut counts = [0_u32; 16];
        for team in 0..16_000 {
            let partition = partition_of(tenant, &format!("team-{team}"), 16);
            assert_eq!(partition, partition_of(tenant, &format!("team-{team}"), 16));
            counts[partition as usize] += 1;
        }
        assert!(counts.iter().all(|count| (800..1_200).contains(count)), "{counts:?}");
        assert_eq!(partition_of(tenant, "team", 1), 0);
    }
}
