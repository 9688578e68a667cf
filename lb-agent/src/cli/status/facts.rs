//! What `status` reads, decoded.

use lb_common::abi::{AgentStatus, source_kind};
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
}

impl AgentFacts {
    /// Decodes the map's element.
    pub(in crate::cli) fn new(running: bool, status: &AgentStatus) -> Self {
        let kind = match status.source_kind {
            source_kind::KUBERNETES => "kubernetes ",
            source_kind::MANIFESTS => "manifests ",
            _ => "",
        };
        Self {
            running,
            pid: status.pid,
            started_ms: status.started_ms,
            synced_ms: status.synced_ms,
            changed_ms: status.changed_ms,
            error_ms: status.error_ms,
            version: text(&status.version),
            source: format!("{kind}{}", text(&status.source)),
            last_error: text(&status.last_error),
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
    /// The flag that sets its capacity.
    pub flag: &'static str,
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

/// A kernel counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(in crate::cli) struct CounterFacts {
    /// Its label, as in the metrics.
    pub name: &'static str,
    /// Its value.
    pub value: u64,
}
