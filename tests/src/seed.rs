//! Random moments that can be repeated: whole-system tests print their seed and take it back.

use std::{env, time::Duration};

use benches::generator::mix;

/// A number that a variable of the environment holds.
pub fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

/// Random numbers (SplitMix64) from the seed in WEIR_SEED, or one of its own.
#[derive(Clone, Debug)]
pub struct Moments {
    seed: u64,
    state: u64,
}

impl Moments {
    /// Takes the seed and prints it with the `scenario`.
    pub fn new(scenario: &str) -> Self {
        // The random half of a UUID.
        let random = || uuid::Uuid::now_v7().as_u64_pair().1;
        let seed = number("WEIR_SEED").unwrap_or_else(random);
        println!("{scenario}: WEIR_SEED={seed}");
        Self { seed, state: seed }
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The next random bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.state)
    }

    /// A number from 0 on, less than `count`.
    pub fn below(&mut self, count: usize) -> usize {
        (self.bits() % count.max(1) as u64) as usize
    }

    /// Puts things in a random order.
    pub fn shuffle<T>(&mut self, things: &mut [T]) {
        for place in (1..things.len()).rev() {
            things.swap(place, self.below(place + 1));
        }
    }

    /// A time of at least `least_ms` and less than `most_ms` milliseconds.
    pub fn between(&mut self, least_ms: u64, most_ms: u64) -> Duration {
        Duration::from_millis(least_ms + self.bits() % (most_ms - least_ms))
    }

    /// Waits for such a time.
    pub async fn pause(&mut self, least_ms: u64, most_ms: u64) {
        tokio::time::sleep(self.between(least_ms, most_ms)).await;
    }
}
