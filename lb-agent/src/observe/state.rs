//! What the agent knows about itself: put together from what `watch` and `reconcile` report, read by the HTTP servers
//! and by `record`.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use lb_common::abi::maps;
use tokio::sync::Notify;
use tracing::warn;

use super::metrics::Latency;
pub use crate::reconcile::Problem;
use crate::{
    devices::{
        Outcome,
        findings::{self, Finding},
    },
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

/// Connections of the packet layer that the agent ended, by the reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionsEnded {
    /// They were idle for too long.
    pub idle: u64,
    /// Their backend was gone.
    pub backend_gone: u64,
    /// Half of it was missing or damaged.
    pub broken: u64,
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
    /// Since when it has not been, where it was before.
    pub source_lost: Option<SystemTime>,
    /// Objects and documents of the source that cannot be used now.
    pub source_problems: usize,
    /// The first of these.
    pub first_source_problem: Option<Arc<str>>,
    /// How the maps are doing, as the reconcile loop last said.
    pub report: Report,
    /// Entries of `lb_affinity` when they were last counted, and what fits.
    pub affinities: Option<MapUse>,
    /// Entries of `lb_clients4/6` when they were last looked at, and what fits.
    pub clients: Option<[MapUse; 2]>,
    /// Entries of `lb_conns4/6` when they were last counted, and what fits.
    pub connections: Option<[MapUse; 2]>,
    /// Connections of the packet layer that were ended.
    pub connections_ended: ConnectionsEnded,
    /// Sockets of backends that were gone, which were ended: UDP.
    pub ended_udp: u64,
    /// As above, TCP.
    pub ended_tcp: u64,
    /// Sockets and network namespaces where that failed.
    pub end_failures: u64,
    /// The packet layer's devices were not looked at yet.
    pub devices_pending: bool,
    /// Devices that have the packet layer's programs.
    pub devices: u32,
    /// Those of them that lead to pods; `None` before the first look.
    pub pod_devices: Option<u32>,
    /// What is wrong with this node's settings for the packet layer, but for what [`Self::findings`] adds.
    pub device_findings: Vec<Finding>,
    /// Cgroups that are excluded from the socket layer, and how many can be.
    pub excluded: Option<MapUse>,
    /// The newest error of any part.
    pub last_error: Option<Problem>,
    /// Whether `ready` was said.
    pub(super) ready_said: bool,
}

impl State {
    /// Takes over what the reconcile loop says.
    pub fn take_report(&mut self, mut report: Report) {
        if let Some(problem) = report.last_error.take() {
            self.note(problem);
        }
        self.report = report;
    }

    /// How full the maps are.
    pub fn maps(&self) -> Vec<MapUse> {
        let usage = &self.report.usage;
        let v4 = map_use(&usage.v4, [maps::FRONTENDS4, maps::BACKENDS4, maps::SLOTS4, maps::SOURCES4]);
        let v6 = map_use(&usage.v6, [maps::FRONTENDS6, maps::BACKENDS6, maps::SLOTS6, maps::SOURCES6]);
        let names = MapUse {
            map: maps::NAMES,
            entries: usage.names.try_into().unwrap_or(u64::MAX),
            capacity: usage.v4.capacity.names().into(),
        };
        let counted = self.clients.into_iter().chain(self.connections).flatten();
        let followed = self.affinities.into_iter().chain(self.excluded).chain(counted);
        v4.into_iter().chain(v6).chain([names]).chain(followed).collect()
    }

    /// What is wrong with this node for the packet layer.
    pub fn findings(&self) -> Vec<Finding> {
        let is_needed = self.excluded.is_some_and(|excluded| excluded.entries > 0);
        let pods = self.pod_devices.filter(|_| is_needed);
        let unserved = pods.and_then(|n_devices| findings::unserved(n_devices > 0));
        unserved.into_iter().chain(self.device_findings.iter().cloned()).collect()
    }

    /// Takes over what the source says. `now` is when it lost its servers, if it did.
    pub fn take_source(&mut self, source: SourceStatus, now: SystemTime) {
        self.source_lost = match (self.source_synced, source.synced_since) {
            (_, Some(_)) => None,
            (Some(_), None) => Some(now),
            (None, None) => self.source_lost,
        };
        self.source = Some((source.kind, source.location));
        self.source_synced = source.synced_since;
        self.source_problems = source.problems.len();
        self.first_source_problem = source.problems.into_iter().next();
        if let Some(error) = source.last_error {
            self.note(Problem { at: error.at, text: error.text.to_string() });
        }
    }

    /// Takes over how the packet layer's devices are doing.
    pub fn take_devices(&mut self, outcome: Outcome, now: SystemTime) {
        self.devices_pending = false;
        self.devices = outcome.served;
        self.pod_devices = Some(outcome.pods);
        self.device_findings = outcome.findings;
        for text in outcome.failures {
            self.note(Problem { at: now, text });
        }
    }

    /// Takes over how the self-test went. Returns whether that is news: a failure that is met again for the same reason
    /// is none.
    pub fn take_self_test(&mut self, result: SelfTest, now: SystemTime) -> bool {
        let is_new = self.self_test != result;
        if let SelfTest::Failed(text) = &result
            && is_new
        {
            self.note(Problem { at: now, text: text.clone() });
        }
        self.self_test = result;
        is_new
    }

    /// Whether `ready` is to be said now: the first full lists are in the maps, the programs were seen to work, and the
    /// devices that are to be served are, whichever came last. True once.
    pub fn becomes_ready(&mut self) -> bool {
        let ready = self.report.synced.is_some() && self.self_test == SelfTest::Passed && !self.devices_pending;
        let first = ready && !self.ready_said;
        self.ready_said |= ready;
        first
    }

    /// Keeps an error if it is the newest.
    pub fn note(&mut self, problem: Problem) {
        if self.last_error.as_ref().is_none_or(|known| known.at <= problem.at) {
            self.last_error = Some(problem);
        }
    }
}

fn map_use(usage: &FamilyUsage, [frontends, backends, slots, sources]: [&'static str; 4]) -> [MapUse; 4] {
    let row = |map, entries: u32, capacity: u32| MapUse { map, entries: entries.into(), capacity: capacity.into() };
    [
        row(frontends, usage.frontends, usage.capacity.frontends),
        row(backends, usage.backends, usage.capacity.backends),
        // Resting slots cannot be used yet, so they count.
        row(slots, usage.slots + usage.slots_resting, usage.capacity.slots),
        row(sources, usage.sources, usage.capacity.sources()),
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

    /// Logs a problem that the agent goes on with, and keeps it for `status`.
    pub fn warn(&self, text: String) {
        warn!("{text}");
        self.update(|state| state.note(Problem { at: SystemTime::now(), text }));
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

    #[test]
    fn a_source_is_lost_only_after_it_was_in_sync_and_from_its_first_silence_on() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let status = |synced_since| SourceStatus {
            kind: SourceKind::Kubernetes,
            location: "https://192.0.2.1".into(),
            synced_since,
            last_error: None,
            problems: vec!["first".into(), "second".into()],
        };
        let mut state = State::default();
        let mut lost = |now, synced| {
            state.take_source(status(synced), at(now));
            assert_eq!((state.source_problems, state.first_source_problem.as_deref()), (2, Some("first")));
            state.source_lost
        };
        assert_eq!(lost(1, None), None, "it never was in sync");
        assert_eq!(lost(2, Some(at(2))), None);
        assert_eq!(lost(3, None), Some(at(3)));
        assert_eq!(lost(9, None), Some(at(3)), "still lost");
        assert_eq!(lost(10, Some(at(10))), None);
    }

    #[test]
    fn ready_is_said_once_whichever_condition_comes_last() {
        const NOW: SystemTime = SystemTime::UNIX_EPOCH;
        let steps: [fn(&mut State); 3] = [
            |state| assert!(state.take_self_test(SelfTest::Passed, NOW)),
            |state| state.report.synced = Some(NOW),
            |state| state.take_devices(Outcome::default(), NOW),
        ];
        for last in 0..steps.len() {
            let mut state = State { devices_pending: true, ..State::default() };
            for i in 1..=steps.len() {
                assert!(!state.becomes_ready());
                steps[(last + i) % steps.len()](&mut state);
            }
            assert_eq!([state.becomes_ready(), state.becomes_ready()], [true, false]);
        }
    }

    #[test]
    fn a_failed_self_test_is_news_once_for_each_reason() {
        let mut state = State::default();
        let mut news = |result: SelfTest| state.take_self_test(result, SystemTime::UNIX_EPOCH);
        let failed = |why: &str| SelfTest::Failed(why.to_owned());
        let results = [failed("a"), failed("a"), failed("b"), SelfTest::Passed, failed("b")];
        assert_eq!(results.map(&mut news), [true, false, true, true, true]);
        assert_eq!(state.last_error.map(|error| error.text), Some("b".to_owned()));
    }
}
