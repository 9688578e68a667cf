//! How long to wait before a server is asked again. Outlives the watchers of kube, which a restart replaces: a server whose
//! every watch fails must not be asked for full lists without pause.

use std::{fmt, time::Duration};

use kube::runtime::{
    utils::Backoff as _,
    // From 0.8 s on, with jitter; begins anew by itself after 120 s without trouble.
    watcher::DefaultBackoff,
};
use tokio::time::Instant;

/// The longest pause between two tries. client-go's is 30 s; the agent that waited out an outage should not add that.
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// Watches that expire more often than this do so for no good reason: servers remember the last minutes.
const EXPIRES_TOO_OFTEN: Duration = Duration::from_secs(120);

/// The troubles with one kind of object.
#[derive(Default)]
pub(super) struct Pace {
    backoff: DefaultBackoff,
    /// When a watch last expired, if nothing came by a watch since.
    expired: Option<Instant>,
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pace").field("expired", &self.expired).finish_non_exhaustive()
    }
}

impl Pace {
    /// How long to wait this time.
    pub(super) fn pause(&mut self) -> Duration {
        self.backoff.next().unwrap_or(MAX_BACKOFF).min(MAX_BACKOFF)
    }

    /// A watch expired. Returns whether one did so shortly before, too.
    pub(super) fn expired(&mut self) -> bool {
        self.expired.replace(Instant::now()).is_some_and(|last| last.elapsed() < EXPIRES_TOO_OFTEN)
    }

    /// A change came by a watch, so watches work. Lists, and watches that are only accepted, prove nothing.
    pub(super) fn delivered(&mut self) {
        self.backoff.reset();
        self.expired = None;
    }
}
