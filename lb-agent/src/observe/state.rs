//! What the agent knows about itself: put together from what `watch` and `reconcile` report, read by the HTTP servers
//! and by `record`.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Instant, SystemTime},
};

use lb_common::abi::maps;
use tokio::sync::Notify;

use super::metrics::Latency;
pub use crate::reconcile::Problem;
use crate::{
    plan::FamilyUsage,
    reconcile::Report,
    watch::{SourceKind, SourceStatus},
};

/// How the agent's test of its own hooks went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SelfTest {
    /// Not tried yet.
    #[default]
    Pending,
    /// The hooks were seen to work.
    Passed,
    /// They were not: why.
    Failed(String),
}

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapUse {
    /// Its name.
    pub map: &'static str,
    /// Entries in use.
    pub entries: u64,
    /// Entries it can hold.
    pub capacity: u64,
}

/// The agent's own state.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The test of the hooks.
    pub self_test: SelfTest,
    /// What kind of source is in use, and which.
    pub source: Option<(SourceKind, Arc<str>)>,
    /// Since when the source has been in sync; `None` while it is not, also after it has been.
    pub source_synced: Option<SystemTime>,
    /// Objects and documents of the source that cannot be used now.
    pub source_problems: usize,
    /// Since when the first full lists have been in the maps.
    pub programmed: Option<SystemTime>,
    /// Since when the oldest change that is not in the maps has been waiting.
    pub pending_since: Option<Instant>,
    /// When the maps were last changed.
    pub updated: Option<SystemTime>,
    /// How full the maps are.
    pub maps: Vec<MapUse>,
    /// Services that are served.
    pub services: usize,
    /// Services whose last write failed and is tried again.
    pub failing: usize,
    /// Services that keep what they had because a map is full.
    pub not_fitting: usize,
    /// Map writes that failed.
    pub write_errors: u64,
    /// The newest error of any part.
    pub last_error: Option<Problem>,
}

impl State {
    /// Takes over what the reconcile loop says.
    pub fn take_report(&mut self, report: Report) {
        self.programmed = report.synced;
        self.pending_since = report.pending_since;
        self.updated = report.updated;
        self.maps = map_use(&report.usage.v4, [maps::FRONTENDS4, maps::BACKENDS4, maps::SLOTS4]);
        self.maps.extend(map_use(&report.usage.v6, [maps::FRONTENDS6, maps::BACKENDS6, maps::SLOTS6]));
        self.services = report.usage.services;
        self.failing = report.failing;
        self.not_fitting = report.not_fitting;
        self.write_errors = report.write_errors;
        if let Some(problem) = report.last_error {
            self.note(problem);
        }
    }

    /// Takes over what the source says.
    pub fn take_source(&mut self, source: SourceStatus) {
        self.source = Some((source.kind, source.location));
        self.source_synced = source.synced_since;
        self.source_problems = source.problems.len();
        if let Some(error) = source.last_error {
            self.note(Problem { at: error.at, text: error.text.to_string() });
        }
    }

    /// Keeps an error if it is the newest.
    pub fn note(&mut self, problem: Problem) {
        if self.last_error.as_ref().is_none_or(|known| known.at <= problem.at) {
            self.last_error = Some(problem);
        }
    }
}

fn map_use(usage: &FamilyUsage, [frontends, backends, slots]: [&'static str; 3]) -> Vec<MapUse> {
    let row = |map, entries: u32, capacity: u32| MapUse { map, entries: entries.into(), capacity: capacity.into() };
    vec![
        row(frontends, usage.frontends, usage.capacity.frontends),
        row(backends, usage.backends, usage.capacity.backends),
        // Resting slots cannot be used yet, so they count.
        row(slots, usage.slots + usage.slots_resting, usage.capacity.slots),
    ]
}

/// A handle on [`State`], one for each part that reports or reads.
#[derive(Clone, Debug, Default)]
pub struct Observer {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    latency: Latency,
}

impl Observer {
    /// Changes the state. `change` must not block: `/healthz` waits for it.
    pub fn update<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let result = change(&mut self.lock());
        self.changed.notify_one();
        result
    }

    /// Returns at the next [`Self::update`], at once if there was one since the last call. For one waiter.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The state now.
    pub fn state(&self) -> State {
        self.lock().clone()
    }

    /// From a change's arrival to the end of its last map write.
    pub fn latency(&self) -> &Latency {
        &self.latency
    }

    /// A panic while the lock was held cannot leave the state half-changed in a way that matters: each field stands
    /// alone.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_newest_error_is_kept_whoever_reports_last() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let problem = |seconds, text: &str| Problem { at: at(seconds), text: text.to_owned() };
        let mut state = State::default();
        state.note(problem(10, "map is full"));
        state.note(problem(5, "an older one"));
        assert_eq!(state.last_error, Some(problem(10, "map is full")));
        state.note(problem(11, "newer"));
        assert_eq!(state.last_error, Some(problem(11, "newer")));
    }
}
