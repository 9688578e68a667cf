//! What the logic needs from outside: maps, clock, randomness, the socket, counters. `lb-ebpf` implements these over
//! helpers, `sim` over collections. Values are copied out of maps, so that the logic holds no kernel pointer.

use crate::abi::{Backend, Counter, Family, Frontend, FrontendKey, Slot, SockDst, UdpPeers};

/// The maps of one family, read only: the programs never write what the agent owns.
pub trait Maps<F: Family> {
    /// Looks a frontend up in `lb_frontends4/6`.
    fn frontend(&self, key: &FrontendKey<F>) -> Option<Frontend>;
    /// Reads a slot of `lb_slots4/6`; `None` past the end of the array.
    fn slot(&self, index: u32) -> Option<Slot<F>>;
    /// Looks a backend up in `lb_backends4/6`.
    fn backend(&self, id: u32) -> Option<Backend<F>>;
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
