//! Spreads rows over teams: seeded, skewed, and a function of the row alone.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng as _, SeedableRng as _},
};

/// Bits of a random number that a double holds exactly.
const MANTISSA_BITS: u32 = 53;

/// A Zipf distribution over teams: the weight of team `n` (from 1) is `1 / n^skew`.
///
/// The team of a row depends on the seed and the row's number only, so rows can be spread in any
/// order, and again, with the same outcome.
#[derive(Clone, Debug)]
pub struct Spread {
    seed: u64,
    /// Sums of the weights up to each team.
    cumulative: Vec<f64>,
}

impl Spread {
    /// A spread over `teams` (at least one). A skew of 0 is even; 1 is what customers look like.
    #[must_use]
    pub fn new(teams: u32, seed: u64, skew: f64) -> Self {
        let mut sum = 0.0;
        let weights = (1..=teams.max(1)).map(|team| {
            sum += f64::from(team).powf(-skew);
            sum
        });
        let cumulative = weights.collect();
        Self { seed, cumulative }
    }

    /// The team of a row, from 1.
    #[must_use]
    pub fn team_number(&self, row: u64) -> usize {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(row);
        let bits = random.next_u64() >> (u64::BITS - MANTISSA_BITS);
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
        let part = bits as f64 / (1_u64 << MANTISSA_BITS) as f64;
        let place = part * self.cumulative.last().copied().unwrap_or_default();
        let team = self.cumulative.partition_point(|sum| *sum <= place);
        team.min(self.cumulative.len().saturating_sub(1)) + 1
    }

    /// The name of a row's team: `team-07`.
    #[must_use]
    pub fn team(&self, row: u64) -> String {
        format!("team-{:02}", self.team_number(row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_one_team_and_teams_are_used_by_weight() {
        let spread = Spread::new(20, 7, 1.0);
        let mut rows = [0_u32; 20];
        for row in 0..10_000 {
            let team = spread.team_number(row);
            assert_eq!(team, Spread::new(20, 7, 1.0).team_number(row));
            rows[team - 1] += 1;
        }
        // 1 / H(20) of 10,000 is 2,780; the last team gets a twentieth of that.
        assert!((2_500..3_100).contains(&rows[0]), "{rows:?}");
        assert!((90..200).contains(&rows[19]), "{rows:?}");
        let other = Spread::new(20, 8, 1.0);
        assert!((0..100).any(|row| other.team_number(row) != spread.team_number(row)));
    }

    #[test]
    fn no_skew_is_even_and_one_team_takes_all() {
        let even = Spread::new(4, 1, 0.0);
        let mut rows = [0_u32; 4];
        for row in 0..4_000 {
            rows[even.team_number(row) - 1] += 1;
        }
        assert!(rows.iter().all(|count| (850..1_150).contains(count)), "{rows:?}");
        assert_eq!(Spread::new(1, 1, 1.0).team(5), "team-01");
    }
}
