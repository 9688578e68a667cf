//! What the agent writes about itself into the map `lb_agent`, where `lb-agent status` finds it, also after its death.
//! Pure.

use std::time::SystemTime;

use lb_common::abi::{AgentStatus, ERROR_LEN, FIRST_LEN, SOURCE_LEN, VERSION_LEN, self_test, source_kind};

use super::{SelfTest, State};
use crate::{clock, watch::SourceKind};

/// What does not change while the agent runs.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// When it started.
    pub started: SystemTime,
    /// Its process id.
    pub pid: u32,
    /// Its version.
    pub version: &'static str,
}

/// The map's element.
pub fn agent_status(identity: &Identity, state: &State) -> AgentStatus {
    let ms = |time: Option<SystemTime>| time.map_or(0, clock::ms);
    // In sync is who has both: the source's lists, and these in the maps.
    let synced = state.source_synced.zip(state.report.synced).map(|(source, maps)| source.max(maps));
    let (kind, location) = match &state.source {
        Some((SourceKind::Kubernetes, location)) => (source_kind::KUBERNETES, &**location),
        Some((SourceKind::Manifests, location)) => (source_kind::MANIFESTS, &**location),
        None => (source_kind::NONE, ""),
    };
    let (test, failure) = match &state.self_test {
        SelfTest::Pending => (self_test::PENDING, ""),
        SelfTest::Passed => (self_test::PASSED, ""),
        SelfTest::Failed(why) => (self_test::FAILED, &**why),
    };
    let count = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    let first = |line: Option<&str>| text::<FIRST_LEN>(line.unwrap_or_default());
    let error = state.last_error.as_ref();
    let findings = state.findings();
    AgentStatus {
        started_ms: clock::ms(identity.started),
        synced_ms: ms(synced),
        lost_ms: ms(state.source_lost),
        changed_ms: ms(state.report.updated),
        error_ms: ms(error.map(|error| error.at)),
        pid: identity.pid,
        source_kind: kind,
        self_test: test,
        services: count(state.report.usage.services),
        failing: count(state.report.failing),
        not_fitting: count(state.report.not_fitting),
        conflicts: count(state.report.conflicts),
        source_problems: count(state.source_problems),
        devices: state.devices,
        findings: count(findings.len()),
        version: text::<VERSION_LEN>(identity.version),
        source: text::<SOURCE_LEN>(location),
        last_error: text::<ERROR_LEN>(error.map_or("", |error| &error.text)),
        self_test_failure: text::<FIRST_LEN>(failure),
        first_not_fitting: first(state.report.first_not_fitting.as_deref()),
        first_conflict: first(state.report.first_conflict.as_deref()),
        first_source_problem: first(state.first_source_problem.as_deref()),
        first_finding: first(findings.first().map(ToString::to_string).as_deref()),
    }
}

/// Filled up with NUL; cut between characters if too long, with at least one NUL at the end.
fn text<const N: usize>(text: &str) -> [u8; N] {
    let end = (0..N).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    let mut bytes = [0; N];
    bytes[..end].copy_from_slice(&text.as_bytes()[..end]);
    bytes
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::reconcile::Report;

    fn at(seconds: u64) -> Option<SystemTime> {
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }

    fn synced_ms(source: Option<SystemTime>, programmed: Option<SystemTime>) -> u64 {
        let identity = Identity { started: SystemTime::UNIX_EPOCH, pid: 1, version: "1" };
        let state = State {
            source_synced: source,
            report: Report { synced: programmed, ..Report::default() },
            ..State::default()
        };
        agent_status(&identity, &state).synced_ms
    }

    #[test]
    fn in_sync_needs_the_lists_and_the_maps() {
        assert_eq!(synced_ms(at(5), at(7)), 7_000);
        assert_eq!(synced_ms(at(9), at(7)), 9_000, "the source came back later");
        assert_eq!(synced_ms(None, at(7)), 0, "the source is lost");
        assert_eq!(synced_ms(at(5), None), 0);
    }

    #[test]
    fn long_texts_are_cut_between_characters_and_end_with_nul() {
        assert_eq!(text::<6>("abc"), *b"abc\0\0\0");
        assert_eq!(text::<4>("abcdef"), *b"abc\0");
        assert_eq!(text::<4>("ab\u{e9}f"), *b"ab\0\0");
    }
}
