//! The clock, as an argument: tests move it by hand.

use std::time::{Instant, SystemTime};

/// Tells the time.
pub trait Clock {
    /// Monotonic, for pauses and durations.
    fn now(&self) -> Instant;
    /// What people read.
    fn wall(&self) -> SystemTime;
}

/// The system's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}
