//! When something that failed is tried again.

use std::time::{Duration, Instant};

/// A map write that fails for a passing reason (no memory, mostly) is worth another try soon.
const FIRST: Duration = Duration::from_millis(20);
/// And no rarer than this.
const LONGEST: Duration = Duration::from_secs(10);

/// Something that failed and will be tried again.
#[derive(Debug)]
pub(super) struct Retry {
    /// When to try again.
    pub(super) at: Instant,
    /// Since when it should have happened.
    pub(super) since: Instant,
    /// How often in a row it failed without getting any further.
    attempts: u32,
    first: bool,
}

impl Retry {
    /// After a failure at `now`; `before` is what the failure before it led to, if it was not the first. Where some of
    /// the work was done in between, the rest is worth another try soon.
    pub(super) fn after(before: Option<Self>, progress: bool, since: Instant, now: Instant) -> Self {
        let attempts = before.as_ref().filter(|_| !progress).map_or(0, |before| before.attempts);
        let pause = FIRST.saturating_mul(2_u32.saturating_pow(attempts)).min(LONGEST);
        Self {
            at: now + pause,
            since: before.as_ref().map_or(since, |before| before.since.min(since)),
            attempts: attempts + 1,
            first: before.is_none(),
        }
    }

    /// Whether this was the first failure in a row.
    pub(super) fn is_first(&self) -> bool {
        self.first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_ten_seconds() {
        let start = Instant::now();
        let mut retry = Retry::after(None, false, start, start);
        let mut pauses = vec![retry.at - start];
        for _ in 0..40 {
            let now = retry.at;
            retry = Retry::after(Some(retry), false, now, now);
            pauses.push(retry.at - now);
        }
        assert_eq!(pauses[..3], [20, 40, 80].map(Duration::from_millis));
        assert_eq!(pauses.last(), Some(&LONGEST));
        assert_eq!(retry.since, start);

        let now = retry.at;
        let retry = Retry::after(Some(retry), true, now, now);
        assert_eq!((retry.at - now, retry.since), (FIRST, start), "there was progress");
    }
}
