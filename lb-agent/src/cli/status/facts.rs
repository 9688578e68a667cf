//! What `status` reads, decoded.

use std::net::IpAddr;

use lb_common::abi::{AgentStatus, self_test, source_kind};
use serde::Serialize;

/// Everything `status` knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(in crate::cli) struct Facts {
    /// When this was read, milliseconds since the epoch.
    pub now_ms: u64,
    /// The pin directory.
    pub pins: String,
    /// What the agent last said about itself.
    pub agent: AgentFacts,
    /// The maps with a capacity that can run out.
    pub maps: Vec<MapFacts>,
    /// The programs there should be, in a fixed order.
    pub programs: Vec<ProgramFacts>,
    /// The packet layer's devices, by number.
    pub devices: Vec<DeviceFacts>,
    /// The kernel's counters, summed over CPUs.
    pub counters: Vec<CounterFacts>,
}

/// [`AgentStatus`], decoded. Times are milliseconds since the epoch, 0 for "never".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(in crate::cli) struct AgentFacts {
    /// Whether a process holds the lock on the pin directory.
    pub running: bool,
    /// Its process id, in its own pid namespace; the last agent's if none runs.
    pub pid: u32,
    /// When it started.
    pub started_ms: u64,
    /// Since when it has been in sync; 0 while it is not.
    pub synced_ms: u64,
    /// Since when the source has been lost that was in sync before; 0 if it is not.
    pub lost_ms: u64,
    /// When the maps were last changed.
    pub changed_ms: u64,
    /// When the last error happened.
    pub error_ms: u64,
    /// Version and build.
    pub version: String,
    /// `kubernetes URL` or `manifests DIR`.
    pub source: String,
    /// The last error.
    pub last_error: String,
    /// Why the programs were not seen to work; empty where they were, or were not tried yet.
    pub self_test_failure: String,
    /// Services that are served.
    pub services: u32,
    /// Services whose last map write failed and is tried again.
    pub failing: u32,
    /// Services that are not up to date because a map is full.
    pub not_fitting: Several,
    /// Addresses and ports that a Service does not get because another Service holds them.
    pub conflicts: Several,
    /// What is wrong with single objects or documents of the source.
    pub source_problems: Several,
    /// What is wrong with the node's settings for the packet layer.
    pub findings: Several,
}

/// Things of one kind that are wrong now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(in crate::cli) struct Several {
    /// How many.
    pub count: u32,
    /// The first, in words.
    pub first: String,
}

impl AgentFacts {
    /// Decodes the map's element.
    pub(in crate::cli) fn new(running: bool, status: &AgentStatus) -> Self {
        let kind = match status.source_kind {
            source_kind::KUBERNETES => "kubernetes ",
            source_kind::MANIFESTS => "manifests ",
            _ => "",
        };
        let several = |count, first: &[u8]| Several { count, first: text(first) };
        let failed = status.self_test == self_test::FAILED;
        Self {
            running,
            pid: status.pid,
            started_ms: status.started_ms,
            synced_ms: status.synced_ms,
            lost_ms: status.lost_ms,
            changed_ms: status.changed_ms,
            error_ms: status.error_ms,
            version: text(&status.version),
            source: format!("{kind}{}", text(&status.source)),
            last_error: text(&status.last_error),
            self_test_failure: if failed { text(&status.self_test_failure) } else { String::new() },
            services: status.services,
            failing: status.failing,
            not_fitting: several(status.not_fitting, &status.first_not_fitting),
            conflicts: several(status.conflicts, &status.first_conflict),
            source_problems: several(status.source_problems, &status.first_source_problem),
            findings: several(status.findings, &status.first_finding),
        }
    }
}

/// UTF-8 up to the first NUL.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// A map that can be full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(in crate::cli) struct MapFacts {
    /// Its name.
    pub name: &'static str,
    /// Entries in use.
    pub entries: u64,
    /// Entries it can hold.
    pub capacity: u64,
    /// The flag that sets its capacity, if one does.
    pub flag: Option<&'static str>,
}

/// A program that should be attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(in crate::cli) struct ProgramFacts {
    /// Its name.
    pub name: &'static str,
    /// Its id in the kernel, if a pinned link attaches it.
    pub id: Option<u32>,
    /// The cgroup it is attached to: its path, or its id where no path is found.
    pub cgroup: Option<String>,
}

/// A device of the packet layer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(in crate::cli) struct DeviceFacts {
    /// Its number.
    pub index: u32,
    /// Its name when it was chosen.
    pub name: String,
    /// What it is served as; none where the programs do not count on it.
    pub role: Option<String>,
    /// Why it was chosen.
    pub why: String,
    /// The id of our program at ingress, if there is one.
    pub ingress: Option<u32>,
    /// The same at egress.
    pub egress: Option<u32>,
    /// The sources of packets that leave by it under the node's name; where it has none of a family, the node's.
    pub addresses: Vec<IpAddr>,
}

/// A kernel counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(in crate::cli) struct CounterFacts {
    /// Its label, as in the metrics.
    pub name: &'static str,
    /// Its value.
    pub value: u64,
}
