//! Draws teams by weight in constant time: Walker's alias method over a Zipf distribution.

/// A Zipf distribution over teams: the weight of team `n` (from 1) is `1 / n^skew`.
#[derive(Clone, Debug)]
pub struct Teams {
    columns: Vec<Column>,
}

/// A column of the table: the team itself up to a threshold, another team above it.
#[derive(Clone, Copy, Debug)]
struct Column {
    threshold: u32,
    alias: u32,
}

impl Teams {
    /// A distribution over `count` teams, at least one. A skew of 0 is even.
    #[must_use]
    pub fn new(count: u32, skew: f64) -> Teams {
        let count = count.max(1);
        let weights: Vec<f64> = (1..=count).map(|team| f64::from(team).powf(-skew)).collect();
        let mean = weights.iter().sum::<f64>() / f64::from(count);
        let mut parts: Vec<f64> = weights.iter().map(|weight| weight / mean).collect();
        let mut columns: Vec<Column> =
            (0..count).map(|alias| Column { threshold: u32::MAX, alias }).collect();
        let (mut small, mut large) = (Vec::new(), Vec::new());
        for (team, part) in (0_u32..).zip(&parts) {
            if *part < 1.0 { small.push(team) } else { large.push(team) }
        }
        while let (Some(poor), Some(rich)) = (small.pop(), large.last().copied()) {
            let part = part(&parts, poor);
            if let Some(column) = at_mut(&mut columns, poor) {
                *column = Column { threshold: scaled(part), alias: rich };
            }
            let left = self::part(&parts, rich) + part - 1.0;
            if let Some(of_rich) = at_mut(&mut parts, rich) {
                *of_rich = left;
            }
            if left < 1.0 {
                large.pop();
                small.push(rich);
            }
        }
        Teams { columns }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.columns.len()
    }

    /// The team, from 0, that 64 random bits choose.
    #[must_use]
    pub fn draw(&self, bits: u64) -> u32 {
        let (high, low) = (bits >> 32, bits & u64::from(u32::MAX));
        let place = (high * self.columns.len() as u64) >> 32;
        let column = usize::try_from(place).ok().and_then(|place| self.columns.get(place));
        let own = u32::try_from(place).unwrap_or_default();
        match column {
            Some(column) if low > u64::from(column.threshold) => column.alias,
            _ => own,
        }
    }
}

fn part(parts: &[f64], team: u32) -> f64 {
    usize::try_from(team).ok().and_then(|team| parts.get(team)).copied().unwrap_or(1.0)
}

fn at_mut<T>(values: &mut [T], team: u32) -> Option<&mut T> {
    usize::try_from(team).ok().and_then(|team| values.get_mut(team))
}

/// A share of one in units of 2⁻³².
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share is within 0 and 1"
)]
pub(crate) fn scaled(share: f64) -> u32 {
    (share.clamp(0.0, 1.0) * f64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::mix;

    fn drawn(teams: &Teams, draws: u64) -> Vec<u32> {
        let mut counts = vec![0; teams.count()];
        for number in 0..draws {
            counts[teams.draw(mix(number)) as usize] += 1;
        }
        counts
    }

    #[test]
    fn teams_are_drawn_by_weight() {
        let counts = drawn(&Teams::new(20, 1.0), 100_000);
        // 1 / H(20) of 100,000 is 27,795; the last team gets a twentieth of that.
        assert!((27_300..28_300).contains(&counts[0]), "{counts:?}");
        assert!((13_500..14_300).contains(&counts[1]), "{counts:?}");
        assert!((1_250..1_530).contains(&counts[19]), "{counts:?}");
    }

    #[test]
    fn no_skew_is_even_and_one_team_takes_all() {
        let counts = drawn(&Teams::new(4, 0.0), 40_000);
        assert!(counts.iter().all(|count| (9_600..10_400).contains(count)), "{counts:?}");
        assert_eq!(drawn(&Teams::new(0, 1.0), 100), [100]);
    }
}
