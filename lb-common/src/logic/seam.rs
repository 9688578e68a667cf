//! What the logic needs from outside: maps, clock, randomness, the caller, the socket, counters. `lb-ebpf` implements
//! these over helpers, `sim` over collections. Values are copied out of maps, so that the logic holds no kernel pointer.

use crate::abi::{
    Affinity, AffinityKey, Backend, ClientAddr, ClusterIps, Counter, Family, Frontend, FrontendKey, Slot, SockDst,
    SourceKey, UdpPeers,
};

/// The maps of one family, read only: the programs never write what the agent owns.
pub trait Maps<F: Family> {
    /// Looks a frontend up in `lb_frontends4/6`.
    fn frontend(&self, key: &FrontendKey<F>) -> Option<Frontend>;
    /// Reads a slot of `lb_slots4/6`; `None` past the end of the array.
    fn slot(&self, index: u32) -> Option<Slot<F>>;
    /// Looks a backend up in `lb_backends4/6`.
    fn backend(&self, id: u32) -> Option<Backend<F>>;
    /// Reads `lb_clusterips4/6`.
    fn cluster_ips(&self) -> Option<ClusterIps<F>>;
    /// Looks a network namespace's address up in `lb_clients4/6`.
    fn client(&self, netns: u64) -> Option<ClientAddr<F>>;
    /// Whether a range in `lb_sources4/6` holds this address for this Service port.
    fn is_source(&self, key: &SourceKey<F>) -> bool;
}

/// Clock, randomness and counters.
pub trait Environment {
    /// Seconds of the monotonic clock.
    fn now_s(&self) -> u32;
    /// 32 uniformly distributed bits.
    fn random(&self) -> u32;
    /// Adds one to a counter.
    fn count(&self, counter: Counter);
}

/// Why a choice was not added to `lb_affinity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAdded {
    /// There is one for this key.
    Exists,
    /// The map is full, or the kernel had no memory.
    Full,
}

/// The process that made the system call, and what is remembered about it.
pub trait Caller {
    /// The cookie of its network namespace.
    fn netns(&self) -> u64;
    /// Whether its network namespace is the node's own, which is the agent's.
    fn is_on_host(&self) -> bool;
    /// Lets `f` work on an entry of `lb_affinity`, in place. `None` where there is none. Several processors may do so
    /// at once.
    fn with_affinity<R>(&self, key: &AffinityKey, f: impl FnOnce(&mut Affinity) -> R) -> Option<R>;
    /// Adds an entry to `lb_affinity`. Of several that try at once, one succeeds.
    fn add_affinity(&self, key: &AffinityKey, value: Affinity) -> Result<(), NotAdded>;
}

/// What a choice of a backend needs.
pub trait Node<F: Family>: Maps<F> + Environment + Caller {}

impl<F: Family, K: Maps<F> + Environment + Caller> Node<F> for K {}

/// The kernel had no memory for socket storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoStorage;

/// The storage of the socket that the hook runs for. The kernel holds the socket's lock meanwhile.
pub trait Socket<F: Family> {
    /// Whether the socket has a peer now. A UDP socket may lose it again (`connect` to `AF_UNSPEC`, which no hook sees),
    /// so [`Self::translation`] alone does not tell.
    fn is_connected(&self) -> bool;
    /// The translation of the last connect, if that went to a Service.
    fn translation(&self) -> Option<SockDst<F>>;
    /// Records the translation of a connect, and forgets one of the other family: a dual-stack UDP socket may connect
    /// to Services of either in turn.
    fn set_translation(&self, dst: SockDst<F>) -> Result<(), NoStorage>;
    /// Forgets the translation, of either family.
    fn clear_translation(&self);
    /// Lets `f` work on the pairs of an unconnected UDP socket, in place (they are too large for the BPF stack). `None`
    /// where the socket has none and `create` is false, or where the kernel had no memory.
    fn with_peers<R>(&self, create: bool, f: impl FnOnce(&mut UdpPeers<F>) -> R) -> Option<R>;
}
