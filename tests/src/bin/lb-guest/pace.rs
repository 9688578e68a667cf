//! A steady beat for threads that make load, and the flag that ends them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Ends the beats of all its clones.
#[derive(Clone, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From now on.
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Beats every `interval` until stopped; a beat that comes late is not made up for.
    pub(crate) fn beats(&self, interval: Duration) -> impl Iterator<Item = ()> {
        let mut next = Instant::now();
        std::iter::from_fn(move || {
            thread::sleep(next.saturating_duration_since(Instant::now()));
            next = Instant::now().max(next + interval);
            (!self.0.load(Ordering::Relaxed)).then_some(())
        })
    }
}
