//! `lb_affinity`: which backend a client of a Service with `sessionAffinity: ClientIP` was given.

/// Values of [`AffinityKey::client_kind`].
pub mod client_kind {
    /// `client` holds a network namespace's cookie, native order, in its first 8 bytes; the rest is 0. At the socket
    /// hooks a client's address is not known yet; all processes of a pod share its network namespace.
    pub const NETNS: u16 = 1;
    /// `client` holds an address in wire order, in its first 4 or 16 bytes; the rest is 0. For packets.
    pub const ADDRESS: u16 = 2;
    /// Besides: given by a frontend that only endpoints on this node answer ([`super::super::frontend_flags::LOCAL`]).
    pub const LOCAL: u16 = 0x100;
}

/// Key of `lb_affinity`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct AffinityKey {
    /// Service-port id. Shared by all frontends of the port that choose from one set of backends, as in kube-proxy.
    pub service: u32,
    /// 4 or 6: backends of each family are remembered apart.
    pub family: u16,
    /// See [`client_kind`].
    pub client_kind: u16,
    /// Who.
    pub client: [u8; 16],
}

/// Value of `lb_affinity`. Good while the backend is in the slots of the frontend asked for and not more than
/// [`super::Frontend::affinity_s`] have passed. Written by the programs, aged by the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Affinity {
    /// Backend id.
    pub backend: u32,
    /// When a connection was last given to it, in seconds of the monotonic clock.
    pub last_used_s: u32,
}
