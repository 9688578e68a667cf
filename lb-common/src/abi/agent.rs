//! `lb_agent`: what the agent says about itself, one element. `lb-agent status` reads it, also after the agent's death
//! (whether it lives is told by its lock on the pin directory, not by this entry).

/// Bytes of [`AgentStatus::last_error`].
pub const ERROR_LEN: usize = 512;
/// Bytes of [`AgentStatus::source`].
pub const SOURCE_LEN: usize = 256;
/// Bytes of [`AgentStatus::version`].
pub const VERSION_LEN: usize = 64;

/// Bytes of each of the texts that name the first of several things that are wrong, as
/// [`AgentStatus::first_conflict`].
pub const FIRST_LEN: usize = 256;

/// Values of [`AgentStatus::source_kind`].
pub mod source_kind {
    /// Not told yet.
    pub const NONE: u32 = 0;
    /// A Kubernetes API server; `source` is its URL.
    pub const KUBERNETES: u32 = 1;
    /// A manifest directory; `source` is its path.
    pub const MANIFESTS: u32 = 2;
}

/// Values of [`AgentStatus::self_test`].
pub mod self_test {
    /// Not tried yet.
    pub const PENDING: u32 = 0;
    /// The programs were seen to work.
    pub const PASSED: u32 = 1;
    /// They were not; `self_test_failure` says why. It is tried again.
    pub const FAILED: u32 = 2;
}

/// The one element of `lb_agent`. Times are milliseconds since the Unix epoch, 0 for "never"; texts are UTF-8, filled up
/// with NUL. Counts and texts tell what is so now, whenever it began; only `last_error` may be long over. Read and
/// written whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct AgentStatus {
    /// When the agent started.
    pub started_ms: u64,
    /// Since when the source has been in sync; 0 while it is not.
    pub synced_ms: u64,
    /// Since when the source has been lost that was in sync before; 0 while it is in sync, or where it never was.
    pub lost_ms: u64,
    /// When the maps were last changed.
    pub changed_ms: u64,
    /// When the last error happened.
    pub error_ms: u64,
    /// The agent's process id in its own pid namespace.
    pub pid: u32,
    /// See [`source_kind`].
    pub source_kind: u32,
    /// See [`self_test`].
    pub self_test: u32,
    /// Services that are served.
    pub services: u32,
    /// Services whose last map write failed and is tried again.
    pub failing: u32,
    /// Services that are not up to date because a map is full.
    pub not_fitting: u32,
    /// Addresses and ports that a Service does not get because another Service holds them.
    pub conflicts: u32,
    /// What is wrong with single objects or documents of the source.
    pub source_problems: u32,
    /// Network devices that have the packet layer's programs.
    pub devices: u32,
    /// What is wrong with this node's settings for the packet layer; `lb-agent check` lists it.
    pub findings: u32,
    /// The agent's version and build.
    pub version: [u8; VERSION_LEN],
    /// The source's URL or path.
    pub source: [u8; SOURCE_LEN],
    /// The last error, empty when there was none.
    pub last_error: [u8; ERROR_LEN],
    /// Why the self-test failed.
    pub self_test_failure: [u8; FIRST_LEN],
    /// The first of those that `not_fitting` counts, and why.
    pub first_not_fitting: [u8; FIRST_LEN],
    /// The first of `conflicts`.
    pub first_conflict: [u8; FIRST_LEN],
    /// The first of `source_problems`.
    pub first_source_problem: [u8; FIRST_LEN],
    /// The first of `findings`.
    pub first_finding: [u8; FIRST_LEN],
}
