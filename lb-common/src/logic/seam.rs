//! What the logic needs from outside: maps, clock, randomness, the caller, the socket, counters. `lb-ebpf` implements
//! these over helpers, `sim` over collections. Values are copied out of maps, so that the logic holds no kernel pointer.

use crate::abi::{
    Affinity, AffinityKey, Answers, Backend, ClientAddr, ClusterIps, Counter, Device, Family, Flow, FlowKey, Fragment,
    FragmentKey, Frontend, FrontendKey, NodeConfig, Piece, Place, Slot, SockDst, SourceKey, UdpPeers,
};
use crate::packet::Broken;

/// The maps of one family, read only: the programs never write what the agent owns.
pub trait Maps<F: Family> {
    /// Looks a frontend up in `lb_frontends4/6`.
    fn frontend(&self, key: &FrontendKey<F>) -> Option<Frontend>;
    /// The frontend's copy in `lb_copies4/6`, if there is one; whether it was read whole is for the caller to see. For the
    /// programs of sockets only: see [`crate::abi::FrontendCopy`].
    fn frontend_copy(&self, key: &FrontendKey<F>) -> Option<Frontend>;
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
    /// Whether a frontend may be in this place, by `lb_nofront4/6`: see [`crate::abi::Absent`].
    fn may_be_frontend(&self, place: Place) -> bool;
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

/// Why an entry was not added to `lb_affinity` or `lb_conns4/6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAdded {
    /// There is one for this key.
    Exists,
    /// The map is full, or the kernel had no memory.
    Full,
}

/// The process that made the system call.
pub trait Caller {
    /// The cookie of its network namespace.
    fn netns(&self) -> u64;
    /// Whether its network namespace is the node's own, which is the agent's.
    fn is_on_host(&self) -> bool;
}

/// The control groups that the calling process is in, and which of those the agent excluded.
pub trait Cgroups {
    /// Reads [`crate::abi::Exclusion::levels`].
    fn excluded_levels(&self) -> u32;
    /// The id of the process's cgroup at that level, where the root is at level 0; 0 where it is not in one as deep.
    fn cgroup_at(&self, level: u32) -> u64;
    /// Looks a cgroup up in `lb_excluded`.
    fn is_excluded_cgroup(&self, id: u64) -> bool;
}

/// Which client was given which backend, `lb_affinity`.
pub trait Affinities {
    /// Lets `f` work on an entry of `lb_affinity`, in place. `None` where there is none. Several processors may do so
    /// at once.
    fn with_affinity<R>(&self, key: &AffinityKey, f: impl FnOnce(&mut Affinity) -> R) -> Option<R>;
    /// Adds an entry to `lb_affinity`. Of several that try at once, one succeeds.
    fn add_affinity(&self, key: &AffinityKey, value: Affinity) -> Result<(), NotAdded>;
}

/// What a choice of a backend needs.
pub trait Chooser<F: Family>: Maps<F> + Environment + Affinities {}

impl<F: Family, K: Maps<F> + Environment + Affinities> Chooser<F> for K {}

/// What the hooks of the socket layer need.
pub trait Node<F: Family>: Chooser<F> + Caller + Cgroups {}

impl<F: Family, K: Chooser<F> + Caller + Cgroups> Node<F> for K {}

/// What the programs of the packet layer need.
pub trait Router<F: Family>: Chooser<F> + Flows<F> + Known<F> + Network<F> + Pieces {}

impl<F: Family, K: Chooser<F> + Flows<F> + Known<F> + Network<F> + Pieces> Router<F> for K {}

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

/// The connection table of a family, `lb_conns4/6`, and the fragments of its datagrams. Several processors work on them
/// at once.
pub trait Flows<F: Family> {
    /// Lets `f` look at a half, and note in `last_seen_s` and `seen` that it has had a packet; other changes are lost.
    /// `None` where there is none.
    fn with_flow<R>(&self, key: &FlowKey<F>, f: impl FnOnce(&mut Flow<F>) -> R) -> Option<R>;
    /// Adds a half. Of several that try at once, one succeeds.
    fn add_flow(&self, key: &FlowKey<F>, half: &Flow<F>) -> Result<(), NotAdded>;
    /// Adds a half, or puts it in the place of the one that is there. `false` where the map is full, or the kernel had no
    /// memory.
    fn put_flow(&self, key: &FlowKey<F>, half: &Flow<F>) -> bool;
    /// Removes a half. `false` where there is none: of several that try at once, one succeeds.
    fn remove_flow(&self, key: &FlowKey<F>) -> bool;
    /// Looks a datagram up in `lb_frags4/6`.
    fn fragment(&self, key: &FragmentKey<F>) -> Option<Fragment>;
    /// Records a datagram in `lb_frags4/6`, over the least recently used one where that is full.
    fn put_fragment(&self, key: &FragmentKey<F>, fragment: &Fragment);
}

/// Copies of fragments, `lb_pieces`, by their places ([`crate::abi::PieceKey::place`]). Several processors work on them at once.
pub trait Pieces {
    /// Lets `f` look at what is in a place. `None` where there is nothing.
    fn with_piece<R>(&self, place: u32, f: impl FnOnce(&Piece) -> R) -> Option<R>;
    /// Puts what `fill` makes into an empty place; the rest of its bytes are anything. `false` where the place is taken, `fill`
    /// fails or the kernel had no memory. Of several that try at once, one succeeds.
    fn add_piece(&self, place: u32, fill: impl FnOnce(&mut Piece) -> Result<(), Broken>) -> bool;
    /// Empties a place. `false` where it is empty: of several that try at once, one succeeds.
    fn remove_piece(&self, place: u32) -> bool;
}

/// What is certainly no flow's, `lb_noback4/6`: see [`crate::abi::Absent`].
pub trait Known<F: Family> {
    /// Whether a flow may have a backend there.
    fn may_be_backend(&self, place: Place) -> bool;
    /// From now on a flow may have a backend there. Before any of its entries is added.
    fn note_backend(&self, place: Place);
}

/// Where a packet to some address would go, as the node's routing has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To the node itself, or nowhere: `bpf_fib_lookup` does not tell one from the other
    /// (`BPF_FIB_LKUP_RET_NOT_FWDED`).
    NotForwarded,
    /// Out of the device with this index, on whose link the address itself is.
    Neighbour(u32),
    /// Out of the device with this index, to a router.
    Router(u32),
    /// Not known: refused by a route or a rule, or the device does not forward.
    Unknown,
}

impl Route {
    /// No interface has this index.
    pub const NO_DEVICE: u32 = 0;

    /// The index of the device, or [`Self::NO_DEVICE`].
    #[inline(always)]
    pub fn device(self) -> u32 {
        match self {
            Self::Neighbour(index) | Self::Router(index) => index,
            Self::NotForwarded | Self::Unknown => Self::NO_DEVICE,
        }
    }
}

/// What the packet layer knows about the node and its devices.
pub trait Network<F: Family> {
    /// Where packets of this tuple would go. Expensive (`bpf_fib_lookup`).
    fn route(&self, tuple: &FlowKey<F>) -> Route;
    /// Puts the address in `addr` under which the node itself would send to the destination of this tuple: what the route
    /// prefers, or the kernel chooses for it. Leaves `addr` as it is where that is not known. As expensive.
    fn source(&self, tuple: &FlowKey<F>, addr: &mut F::Addr);
    /// Looks a device up in `lb_devices`: is it one where packets are translated back?
    fn device(&self, index: u32) -> Option<Device>;
    /// Reads `lb_node`.
    fn node(&self) -> Option<NodeConfig>;
    /// Lets `f` work on this processor's element of `lb_answers`.
    fn with_answers<R>(&self, f: impl FnOnce(&mut Answers) -> R) -> Option<R>;
}
