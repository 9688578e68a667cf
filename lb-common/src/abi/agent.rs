//! `lb_agent`: what the agent says about itself, one element. `lb-agent status` reads it, also after the agent's death
//! (whether it lives is told by its lock on the pin directory, not by this entry).

/// Bytes of [`AgentStatus::last_error`].
pub const ERROR_LEN: usize = 512;
/// Bytes of [`AgentStatus::source`].
pub const SOURCE_LEN: usize = 256;
/// Bytes of [`AgentStatus::version`].
pub const VERSION_LEN: usize = 64;

/// Values of [`AgentStatus::source_kind`].
pub mod source_kind {
    /// Not told yet.
    pub const NONE: u32 = 0;
    /// A Kubernetes API server; `source` is its URL.
    pub const KUBERNETES: u32 = 1;
    /// A manifest directory; `source` is its path.
    pub const MANIFESTS: u32 = 2;
}

/// The one element of `lb_agent`. Times are milliseconds since the Unix epoch, 0 for "never"; texts are UTF-8, filled up
/// with NUL. Read and written whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct AgentStatus {
    /// When the agent started.
    pub started_ms: u64,
    /// Since when the source has been in sync; 0 while it is not.
    pub synced_ms: u64,
    /// When the maps were last changed.
    pub changed_ms: u64,
    /// When the last error happened.
    pub error_ms: u64,
    /// The agent's process id in its own pid namespace.
    pub pid: u32,
    /// See [`source_kind`].
    pub source_kind: u32,
    /// The agent's version and build.
    pub version: [u8; VERSION_LEN],
    /// The source's URL or path.
    pub source: [u8; SOURCE_LEN],
    /// The last error, empty when there was none.
    pub last_error: [u8; ERROR_LEN],
}
