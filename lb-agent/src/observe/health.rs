//! What /healthz and /livez answer, in the form of kube-proxy 1.36 (`pkg/proxy/healthcheck/proxy_health.go`). Pure.
//!
//! /healthz tells load balancers whether to send traffic to this node; /livez tells kubelet whether a restart of the
//! agent would help. Both fail when changes have been waiting too long. Only /healthz fails when the node is about to go
//! (KEP-3836): load balancers then move their connections elsewhere, while the agent must go on for those that stay.
//! Unlike kube-proxy's, /healthz also fails until the first full lists are in the maps and the hooks were seen to work:
//! before that, nobody knows whether a Service can be reached from this node. Losing the API server later fails neither:
//! traffic goes on with the last state.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;

use super::state::{SelfTest, State};

/// How long a change may wait. kube-proxy: twice its sync period of 30 s (`healthzTimeout`).
const MAX_PENDING: Duration = Duration::from_secs(60);

/// An answer, before it is HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// When the maps were last up to date; now, if healthy (as kube-proxy says it).
    #[serde(rename = "lastUpdated")]
    last_updated: String,
    #[serde(rename = "currentTime")]
    current_time: String,
    /// Of /healthz only.
    #[serde(rename = "nodeEligible", skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    /// By IP family. One agent serves both, so they say the same.
    status: BTreeMap<&'static str, FamilyStatus>,
    /// Why the answer is 503; not in kube-proxy's form.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct FamilyStatus {
    #[serde(rename = "lastUpdated")]
    last_updated: String,
    healthy: bool,
}

impl Answer {
    /// Whether the HTTP status is 200; else it is 503.
    pub fn is_healthy(&self) -> bool {
        self.problem.is_none()
    }
}

/// `/healthz`.
pub fn healthz(state: &State, now: Instant, wall: SystemTime) -> Answer {
    let mut answer = answer(state, problem(state, now), wall);
    answer.node_eligible = Some(!state.report.node_going_away);
    if answer.problem.is_none() && state.report.node_going_away {
        answer.problem = Some("the node is about to be deleted: load balancers should leave it".to_owned());
    }
    answer
}

/// What load balancers must not send traffic for, apart from the node's own fate.
pub(super) fn problem(state: &State, now: Instant) -> Option<String> {
    not_serving(state).or_else(|| stuck(state, now))
}

/// `/livez`.
pub fn livez(state: &State, now: Instant, wall: SystemTime) -> Answer {
    answer(state, stuck(state, now), wall)
}

fn not_serving(state: &State) -> Option<String> {
    match &state.self_test {
        SelfTest::Pending => Some("starting: the programs were not tested yet".to_owned()),
        SelfTest::Failed(why) => Some(format!("the programs do not work: {why}")),
        SelfTest::Passed if state.report.synced.is_none() => {
            Some("not in sync: the source has not delivered its first full lists yet".to_owned())
        }
        SelfTest::Passed if state.devices_pending => {
            Some("starting: the programs are not on the network devices yet".to_owned())
        }
        SelfTest::Passed => None,
    }
}

fn stuck(state: &State, now: Instant) -> Option<String> {
    let waiting = now.saturating_duration_since(state.report.pending_since?);
    (waiting >= MAX_PENDING)
        .then(|| format!("changes have been waiting for {} s to be written to the maps", waiting.as_secs()))
}

fn answer(state: &State, problem: Option<String>, wall: SystemTime) -> Answer {
    let healthy = problem.is_none();
    let family = FamilyStatus { last_updated: json_time(state.report.updated), healthy };
    let last_updated = json_time(if healthy { Some(wall) } else { state.report.updated });
    let status = [("IPv4", family.clone()), ("IPv6", family)].into();
    Answer { last_updated, current_time: json_time(Some(wall)), node_eligible: None, healthy, status, problem }
}

/// RFC 3339 in UTC, as Go's JSON has it; Go's zero time for "never".
fn json_time(time: Option<SystemTime>) -> String {
    let time = time.and_then(|time| jiff::Timestamp::try_from(time).ok());
    time.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::Report;

    /// 2026-10-14 17:46:40 UTC.
    fn wall() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_792_000_000_250)
    }

    fn serving() -> State {
        with(|_| {})
    }

    /// A serving agent, but for what `change` does to the loop's report.
    fn with(change: impl FnOnce(&mut Report)) -> State {
        let mut report = Report { synced: Some(wall()), updated: Some(wall()), ..Report::default() };
        change(&mut report);
        State { report, self_test: SelfTest::Passed, ..State::default() }
    }

    fn check(state: &State) -> (bool, bool) {
        let now = Instant::now();
        (healthz(state, now, wall()).is_healthy(), livez(state, now, wall()).is_healthy())
    }

    #[test]
    fn healthy_means_in_sync_and_tested() {
        assert_eq!(check(&serving()), (true, true));
        assert_eq!(check(&with(|report| report.synced = None)), (false, true));
        assert_eq!(check(&State { self_test: SelfTest::Pending, ..serving() }), (false, true));
        assert_eq!(check(&State { devices_pending: true, ..serving() }), (false, true));
        assert_eq!(check(&State { self_test: SelfTest::Failed("x".to_owned()), ..serving() }), (false, true));
    }

    #[test]
    fn losing_the_source_after_the_first_lists_is_not_unhealthy() {
        assert_eq!(check(&State { source_synced: None, ..serving() }), (true, true));
    }

    #[test]
    fn a_node_that_is_about_to_go_is_left_by_load_balancers_but_not_restarted_by_kubelet() {
        let leaving = with(|report| report.node_going_away = true);
        assert_eq!(check(&leaving), (false, true));
        let body = serde_json::to_value(healthz(&leaving, Instant::now(), wall())).unwrap();
        assert_eq!((&body["nodeEligible"], &body["healthy"]), (&false.into(), &true.into()));
    }

    #[test]
    fn a_change_that_waits_for_a_minute_makes_both_unhealthy() {
        let now = Instant::now();
        let waiting = |seconds| with(|report| report.pending_since = Some(now)).pending(now, seconds);
        assert_eq!(waiting(59), (true, true));
        assert_eq!(waiting(60), (false, false));
    }

    impl State {
        /// The two answers so many seconds after `since`.
        fn pending(&self, since: Instant, seconds: u64) -> (bool, bool) {
            let now = since + Duration::from_secs(seconds);
            (healthz(self, now, wall()).is_healthy(), livez(self, now, wall()).is_healthy())
        }
    }

    #[test]
    fn the_body_has_the_form_of_kube_proxy_s() {
        let json = |answer: &Answer| serde_json::to_string(answer).unwrap();
        let now = Instant::now();
        assert_eq!(
            json(&healthz(&serving(), now, wall())),
            r#"{"lastUpdated":"2026-10-14T17:46:40.25Z","currentTime":"2026-10-14T17:46:40.25Z","nodeEligible":true,"healthy":true,"status":{"IPv4":{"lastUpdated":"2026-10-14T17:46:40.25Z","healthy":true},"IPv6":{"lastUpdated":"2026-10-14T17:46:40.25Z","healthy":true}}}"#
        );
        assert_eq!(
            json(&livez(&serving(), now, wall())),
            r#"{"lastUpdated":"2026-10-14T17:46:40.25Z","currentTime":"2026-10-14T17:46:40.25Z","healthy":true,"status":{"IPv4":{"lastUpdated":"2026-10-14T17:46:40.25Z","healthy":true},"IPv6":{"lastUpdated":"2026-10-14T17:46:40.25Z","healthy":true}}}"#
        );
        let starting = json(&healthz(&State::default(), now, wall()));
        assert!(starting.starts_with(r#"{"lastUpdated":"0001-01-01T00:00:00Z""#), "{starting}");
        assert!(starting.contains(r#""problem":"starting: "#), "{starting}");
    }
}
