//! The maps, as BTF definitions, so that `bpftool map dump` prints their fields. Names and capacities are those of
//! `lb_common::abi::maps`; the agent overrides the capacities at load time and does the pinning.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, bpf_fib_lookup},
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, SkStorage, lpm_trie},
    macros::btf_map,
};
use lb_common::{
    abi::{
        Absent, Affinity, AffinityKey, AgentStatus, Answers, Backend, ClientAddr, ClusterIps, Device, Exclusion,
        Family, Flow, FlowKey, Fragment, FragmentKey, Frontend, FrontendCopy, FrontendKey, N_ABSENT, N_COPIES,
        N_COUNTERS, N_PIECES, Name, NameKey, NodeConfig, Piece, Slot, SockDst, SourceKey, UdpPeers, V4, V6,
        maps::{
            N_AFFINITIES, N_BACKENDS, N_CLIENTS, N_CONNS, N_DEVICES, N_EXCLUDED, N_FRAGS, N_FRONTENDS, N_NAMES,
            N_SLOTS, N_SOURCES,
        },
    },
    logic::work::Work,
};

/// Entries are allocated when they are used, so that a large capacity costs nothing while it is empty. An entry that is
/// replaced is another piece of memory. Since Linux 6.1 (`bpf_mem_alloc`) the old piece may be filled anew while a program
/// still reads it; frontends carry a checksum for that, see `lb_common::abi::Frontend`.
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;
const MMAPABLE: usize = BPF_F_MMAPABLE as usize;

/// `lb_frontends4/6`.
pub type Frontends<F> = HashMap<FrontendKey<F>, Frontend, { N_FRONTENDS as usize }, NO_PREALLOC>;
/// `lb_copies4/6`. Pinned nowhere: each installation of the programs has its own, see `lb_common::abi::FrontendCopy`. Nobody
/// maps it; the kernel begins such an array at a page, so that an element of IPv4 is in one line of the cache.
pub type Copies<F> = Array<FrontendCopy<F>, { N_COPIES as usize }, MMAPABLE>;
/// `lb_slots4/6`.
pub type Slots<F> = Array<Slot<F>, { N_SLOTS as usize }, MMAPABLE>;
/// `lb_backends4/6`.
pub type Backends<F> = HashMap<u32, Backend<F>, { N_BACKENDS as usize }, NO_PREALLOC>;
/// `lb_clients4/6`.
pub type Clients<F> = HashMap<u64, ClientAddr<F>, { N_CLIENTS as usize }, NO_PREALLOC>;
/// `lb_sources4/6`.
pub type Sources<F> = LpmTrie<SourceKey<F>, u32, { N_SOURCES as usize }, NO_PREALLOC>;
/// `lb_conns4/6`. Not an LRU map: a flood of new flows must not push established ones out.
pub type Conns<F> = HashMap<FlowKey<F>, Flow<F>, { N_CONNS as usize }, NO_PREALLOC>;
/// `lb_work4/6`: the memory of a run. Runs on one processor are one after the other: at TC hooks the kernel has
/// interrupts of its own turned off (`local_bh_disable`), and these programs are at no others.
pub type Works<F> = PerCpuArray<Work<F>, 1>;
/// `lb_nofront4/6`, `lb_noback4/6`.
pub type Absents = Array<Absent, { N_ABSENT as usize }>;
/// `lb_frags4/6`. The kernel allocates LRU maps whole.
pub type Frags<F> = LruHashMap<FragmentKey<F>, Fragment, { N_FRAGS as usize }>;

#[btf_map(name = "lb_frontends4")]
static FRONTENDS4: Frontends<V4> = Frontends::new();
#[btf_map(name = "lb_frontends6")]
static FRONTENDS6: Frontends<V6> = Frontends::new();
#[btf_map(name = "lb_copies4")]
static COPIES4: Copies<V4> = Copies::new();
#[btf_map(name = "lb_copies6")]
static COPIES6: Copies<V6> = Copies::new();
#[btf_map(name = "lb_slots4")]
static SLOTS4: Slots<V4> = Slots::new();
#[btf_map(name = "lb_slots6")]
static SLOTS6: Slots<V6> = Slots::new();
#[btf_map(name = "lb_backends4")]
static BACKENDS4: Backends<V4> = Backends::new();
#[btf_map(name = "lb_backends6")]
static BACKENDS6: Backends<V6> = Backends::new();
#[btf_map(name = "lb_clusterips4")]
static CLUSTERIPS4: Array<ClusterIps<V4>, 1> = Array::new();
#[btf_map(name = "lb_clusterips6")]
static CLUSTERIPS6: Array<ClusterIps<V6>, 1> = Array::new();
#[btf_map(name = "lb_clients4")]
static CLIENTS4: Clients<V4> = Clients::new();
#[btf_map(name = "lb_clients6")]
static CLIENTS6: Clients<V6> = Clients::new();
#[btf_map(name = "lb_sources4")]
static SOURCES4: Sources<V4> = Sources::new();
#[btf_map(name = "lb_sources6")]
static SOURCES6: Sources<V6> = Sources::new();
#[btf_map(name = "lb_sock4")]
static SOCK4: SkStorage<SockDst<V4>> = SkStorage::new();
#[btf_map(name = "lb_sock6")]
static SOCK6: SkStorage<SockDst<V6>> = SkStorage::new();
#[btf_map(name = "lb_sockudp4")]
static SOCKUDP4: SkStorage<UdpPeers<V4>> = SkStorage::new();
#[btf_map(name = "lb_sockudp6")]
static SOCKUDP6: SkStorage<UdpPeers<V6>> = SkStorage::new();
#[btf_map(name = "lb_conns4")]
static CONNS4: Conns<V4> = Conns::new();
#[btf_map(name = "lb_conns6")]
static CONNS6: Conns<V6> = Conns::new();
#[btf_map(name = "lb_frags4")]
static FRAGS4: Frags<V4> = Frags::new();
#[btf_map(name = "lb_frags6")]
static FRAGS6: Frags<V6> = Frags::new();
#[btf_map(name = "lb_nofront4")]
static NOFRONT4: Absents = Absents::new();
#[btf_map(name = "lb_nofront6")]
static NOFRONT6: Absents = Absents::new();
#[btf_map(name = "lb_noback4")]
static NOBACK4: Absents = Absents::new();
#[btf_map(name = "lb_noback6")]
static NOBACK6: Absents = Absents::new();
#[btf_map(name = "lb_work4")]
static WORK4: Works<V4> = Works::new();
#[btf_map(name = "lb_work6")]
static WORK6: Works<V6> = Works::new();

/// `lb_affinity`.
#[btf_map(name = "lb_affinity")]
pub static AFFINITY: HashMap<AffinityKey, Affinity, { N_AFFINITIES as usize }, NO_PREALLOC> = HashMap::new();
/// `lb_exclusion`.
#[btf_map(name = "lb_exclusion")]
pub static EXCLUSION: Array<Exclusion, 1> = Array::new();
/// `lb_excluded`.
#[btf_map(name = "lb_excluded")]
pub static EXCLUDED: HashMap<u64, u32, { N_EXCLUDED as usize }, NO_PREALLOC> = HashMap::new();
/// `lb_devices`.
#[btf_map(name = "lb_devices")]
pub static DEVICES: HashMap<u32, Device, { N_DEVICES as usize }, NO_PREALLOC> = HashMap::new();
/// `lb_node`.
#[btf_map(name = "lb_node")]
pub static NODE: Array<NodeConfig, 1> = Array::new();
/// `lb_fib`: what the kernel's routing is asked, see [`crate::route`].
#[btf_map(name = "lb_fib")]
pub static FIB: PerCpuArray<bpf_fib_lookup, 1> = PerCpuArray::new();
/// `lb_pieces`. A place that is taken is not written to, and what is removed from it may be used again at once: see
/// `lb_common::logic::piece`. Nobody but the programs has to do with it, so it is not pinned.
#[btf_map(name = "lb_pieces")]
pub static PIECES: HashMap<u32, Piece, { N_PIECES as usize }, NO_PREALLOC> = HashMap::new();
/// `lb_piece`: where a piece is put together, as [`Works`].
#[btf_map(name = "lb_piece")]
pub static PIECE: PerCpuArray<Piece, 1> = PerCpuArray::new();
/// `lb_answers`.
#[btf_map(name = "lb_answers")]
pub static ANSWERS: PerCpuArray<Answers, 1> = PerCpuArray::new();
/// `lb_stats`.
#[btf_map(name = "lb_stats")]
pub static STATS: PerCpuArray<u64, { N_COUNTERS as usize }> = PerCpuArray::new();

// The programs never touch these; they are defined here so that they get their types and names in one way with the rest.
/// `lb_abi`.
#[btf_map(name = "lb_abi")]
pub static ABI: Array<u32, 1> = Array::new();
/// `lb_agent`.
#[btf_map(name = "lb_agent")]
pub static AGENT: Array<AgentStatus, 1> = Array::new();
/// `lb_names`.
#[btf_map(name = "lb_names")]
pub static NAMES: HashMap<NameKey, Name, { N_NAMES as usize }, NO_PREALLOC> = HashMap::new();

/// The maps of a family.
pub trait Pinned: Family {
    /// The other family: a dual-stack socket may hold storage of both.
    type Other: Pinned;
    /// `lb_frontends4/6`.
    fn frontends() -> &'static Frontends<Self>;
    /// `lb_copies4/6`.
    fn copies() -> &'static Copies<Self>;
    /// `lb_slots4/6`.
    fn slots() -> &'static Slots<Self>;
    /// `lb_backends4/6`.
    fn backends() -> &'static Backends<Self>;
    /// `lb_clusterips4/6`.
    fn cluster_ips() -> &'static Array<ClusterIps<Self>, 1>;
    /// `lb_clients4/6`.
    fn clients() -> &'static Clients<Self>;
    /// `lb_sources4/6`.
    fn sources() -> &'static Sources<Self>;
    /// `lb_sock4/6`.
    fn sock() -> &'static SkStorage<SockDst<Self>>;
    /// `lb_sockudp4/6`.
    fn sockudp() -> &'static SkStorage<UdpPeers<Self>>;
    /// `lb_conns4/6`.
    fn conns() -> &'static Conns<Self>;
    /// `lb_frags4/6`.
    fn frags() -> &'static Frags<Self>;
    /// `lb_nofront4/6`.
    fn nofront() -> &'static Absents;
    /// `lb_noback4/6`.
    fn noback() -> &'static Absents;
    /// `lb_work4/6`.
    fn works() -> &'static Works<Self>;
}

macro_rules! pinned {
    (
        $family:ty,
        $other:ty,
        [$frontends:ident, $copies:ident, $slots:ident, $backends:ident, $cluster_ips:ident, $clients:ident, $sources:ident],
        [$sock:ident, $sockudp:ident],
        [$conns:ident, $frags:ident, $nofront:ident, $noback:ident, $works:ident]
    ) => {
        impl Pinned for $family {
            type Other = $other;

            #[inline(always)]
            fn frontends() -> &'static Frontends<Self> {
                &$frontends
            }

            #[inline(always)]
            fn copies() -> &'static Copies<Self> {
                &$copies
            }

            #[inline(always)]
            fn slots() -> &'static Slots<Self> {
                &$slots
            }

            #[inline(always)]
            fn backends() -> &'static Backends<Self> {
                &$backends
            }

            #[inline(always)]
            fn cluster_ips() -> &'static Array<ClusterIps<Self>, 1> {
                &$cluster_ips
            }

            #[inline(always)]
            fn clients() -> &'static Clients<Self> {
                &$clients
            }

            #[inline(always)]
            fn sources() -> &'static Sources<Self> {
                &$sources
            }

            #[inline(always)]
            fn sock() -> &'static SkStorage<SockDst<Self>> {
                &$sock
            }

            #[inline(always)]
            fn sockudp() -> &'static SkStorage<UdpPeers<Self>> {
                &$sockudp
            }

            #[inline(always)]
            fn conns() -> &'static Conns<Self> {
                &$conns
            }

            #[inline(always)]
            fn frags() -> &'static Frags<Self> {
                &$frags
            }

            #[inline(always)]
            fn nofront() -> &'static Absents {
                &$nofront
            }

            #[inline(always)]
            fn noback() -> &'static Absents {
                &$noback
            }

            #[inline(always)]
            fn works() -> &'static Works<Self> {
                &$works
            }
        }
    };
}

pinned!(
    V4,
    V6,
    [FRONTENDS4, COPIES4, SLOTS4, BACKENDS4, CLUSTERIPS4, CLIENTS4, SOURCES4],
    [SOCK4, SOCKUDP4],
    [CONNS4, FRAGS4, NOFRONT4, NOBACK4, WORK4]
);
pinned!(
    V6,
    V4,
    [FRONTENDS6, COPIES6, SLOTS6, BACKENDS6, CLUSTERIPS6, CLIENTS6, SOURCES6],
    [SOCK6, SOCKUDP6],
    [CONNS6, FRAGS6, NOFRONT6, NOBACK6, WORK6]
);

/// What `lb_sources4/6` is asked for: the longest range that holds the whole key.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "20 bytes at most")]
pub fn source<F: Family>(key: &SourceKey<F>) -> lpm_trie::Key<SourceKey<F>> {
    lpm_trie::Key::new(8 * size_of::<SourceKey<F>>() as u32, *key)
}
