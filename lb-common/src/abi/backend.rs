//! `lb_backends4/6`: is a remembered backend still good?

use super::Family;

/// Values of [`Backend::state`].
pub mod backend_state {
    /// Takes new connections.
    pub const READY: u8 = 1;
    /// Keeps what it has (a serving, terminating endpoint); new connections go elsewhere unless nothing is ready.
    pub const TERMINATING: u8 = 2;
    /// Known but not ready: neither new connections nor remembered ones.
    pub const NOT_READY: u8 = 3;
}

/// Bits of [`Backend::sets`]: which clients' new connections may be given to this backend.
pub mod endpoint_sets {
    /// In the slots for the traffic policy `Cluster` (all usable endpoints, or those that topology hints leave).
    pub const CLUSTER: u32 = 1;
    /// In the slots for the traffic policy `Local` (usable endpoints on this node).
    pub const LOCAL: u32 = 2;
    /// Not a set: the endpoint is on this node, so that its answers to a client outside pass through here.
    pub const ON_NODE: u32 = 4;
}

/// Value of `lb_backends4/6`, keyed by backend id (`u32`, never 0). An id belongs to one endpoint of one Service port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Backend<F: Family> {
    /// Wire order.
    pub addr: F::Addr,
    /// Host byte order.
    pub port: u16,
    /// IP protocol number.
    pub proto: u8,
    /// See [`backend_state`].
    pub state: u8,
    /// The Service-port id that this backend serves.
    pub service: u32,
    /// Id of the node's name in `lb_names`; 0 where the node is not known.
    pub node: u32,
    /// See [`endpoint_sets`].
    pub sets: u32,
}
