//! Clock, randomness and counters of a simulated node. The same seed gives the same choices.

use std::{cell::Cell, collections::BTreeMap};

use crate::{abi::Counter, logic::seam::Environment};

/// What the logic asks its surroundings for.
#[derive(Debug)]
pub struct SimEnvironment {
    now_s: Cell<u32>,
    random_state: Cell<u64>,
    counts: std::cell::RefCell<BTreeMap<Counter, u64>>,
}

impl SimEnvironment {
    /// A clock that stands at 1,000 s, and choices that depend on `seed` alone.
    pub fn new(seed: u64) -> Self {
        Self { now_s: Cell::new(1_000), random_state: Cell::new(seed), counts: BTreeMap::new().into() }
    }

    /// Moves the clock.
    pub fn advance(&self, seconds: u32) {
        self.now_s.set(self.now_s.get().wrapping_add(seconds));
    }

    /// A number below `n`, which is not 0.
    pub fn below(&self, n: u32) -> u32 {
        self.random() % n
    }

    /// Once in `n` times true.
    pub fn one_in(&self, n: u32) -> bool {
        self.below(n) == 0
    }

    /// One of several, of which there is one at least.
    pub fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[self.random() as usize % from.len()]
    }

    /// How often `counter` was counted.
    pub fn counted(&self, counter: Counter) -> u64 {
        self.counts.borrow().get(&counter).copied().unwrap_or(0)
    }
}

impl Default for SimEnvironment {
    fn default() -> Self {
        Self::new(1)
    }
}

impl Environment for SimEnvironment {
    fn now_s(&self) -> u32 {
        self.now_s.get()
    }

    /// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014), upper half.
    fn random(&self) -> u32 {
        let state = self.random_state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random_state.set(state);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let [high, ..] = split(z ^ (z >> 31));
        high
    }

    fn count(&self, counter: Counter) {
        *self.counts.borrow_mut().entry(counter).or_default() += 1;
    }
}

/// The two halves of a word, upper first.
#[expect(clippy::cast_possible_truncation, reason = "each half is what is wanted")]
fn split(word: u64) -> [u32; 2] {
    [(word >> 32) as u32, word as u32]
}
