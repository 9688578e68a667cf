//! The maps, as BTF definitions, so that `bpftool map dump` prints their fields. Names and capacities are those of
//! `lb_common::abi::maps`; the agent overrides the capacities at load time and does the pinning.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, PerCpuArray, SkStorage},
    macros::btf_map,
};
use lb_common::{
    abi::{
        AgentStatus, Backend, Family, Frontend, FrontendKey, N_COUNTERS, Name, NameKey, Slot, SockDst, UdpPeers, V4,
        V6,
        maps::{N_BACKENDS, N_FRONTENDS, N_NAMES, N_SLOTS},
    },
    logic::seam::Maps,
};

/// Entries are allocated when they are used, so that a large capacity costs nothing while it is empty. An entry that is
/// replaced is another piece of memory. Since Linux 6.1 (`bpf_mem_alloc`) the old piece may be filled anew while a program
/// still reads it; frontends carry a checksum for that, see `lb_common::abi::Frontend`.
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;
const MMAPABLE: usize = BPF_F_MMAPABLE as usize;

/// `lb_frontends4/6`.
pub type Frontends<F> = HashMap<FrontendKey<F>, Frontend, { N_FRONTENDS as usize }, NO_PREALLOC>;
/// `lb_slots4/6`.
pub type Slots<F> = Array<Slot<F>, { N_SLOTS as usize }, MMAPABLE>;
/// `lb_backends4/6`.
pub type Backends<F> = HashMap<u32, Backend<F>, { N_BACKENDS as usize }, NO_PREALLOC>;

#[btf_map(name = "lb_frontends4")]
static FRONTENDS4: Frontends<V4> = Frontends::new();
#[btf_map(name = "lb_frontends6")]
static FRONTENDS6: Frontends<V6> = Frontends::new();
#[btf_map(name = "lb_slots4")]
static SLOTS4: Slots<V4> = Slots::new();
#[btf_map(name = "lb_slots6")]
static SLOTS6: Slots<V6> = Slots::new();
#[btf_map(name = "lb_backends4")]
static BACKENDS4: Backends<V4> = Backends::new();
#[btf_map(name = "lb_backends6")]
static BACKENDS6: Backends<V6> = Backends::new();
#[btf_map(name = "lb_sock4")]
static SOCK4: SkStorage<SockDst<V4>> = SkStorage::new();
#[btf_map(name = "lb_sock6")]
static SOCK6: SkStorage<SockDst<V6>> = SkStorage::new();
#[btf_map(name = "lb_sockudp4")]
static SOCKUDP4: SkStorage<UdpPeers<V4>> = SkStorage::new();
#[btf_map(name = "lb_sockudp6")]
static SOCKUDP6: SkStorage<UdpPeers<V6>> = SkStorage::new();

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
    /// `lb_slots4/6`.
    fn slots() -> &'static Slots<Self>;
    /// `lb_backends4/6`.
    fn backends() -> &'static Backends<Self>;
    /// `lb_sock4/6`.
    fn sock() -> &'static SkStorage<SockDst<Self>>;
    /// `lb_sockudp4/6`.
    fn sockudp() -> &'static SkStorage<UdpPeers<Self>>;
}

macro_rules! pinned {
    ($family:ty, $other:ty, $frontends:ident, $slots:ident, $backends:ident, $sock:ident, $sockudp:ident) => {
        impl Pinned for $family {
            type Other = $other;

            #[inline(always)]
            fn frontends() -> &'static Frontends<Self> {
                &$frontends
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
            fn sock() -> &'static SkStorage<SockDst<Self>> {
                &$sock
            }

            #[inline(always)]
            fn sockudp() -> &'static SkStorage<UdpPeers<Self>> {
                &$sockudp
            }
        }
    };
}

pinned!(V4, V6, FRONTENDS4, SLOTS4, BACKENDS4, SOCK4, SOCKUDP4);
pinned!(V6, V4, FRONTENDS6, SLOTS6, BACKENDS6, SOCK6, SOCKUDP6);

/// The maps of both families, for the logic.
#[derive(Clone, Copy)]
pub struct KernelMaps;

impl<F: Pinned> Maps<F> for KernelMaps {
    #[inline(always)]
    fn frontend(&self, key: &FrontendKey<F>) -> Option<Frontend> {
        // SAFETY: plain data that is copied at once. Read while its memory is used again it may be a mixture, which its
        // reader finds by the checksum.
        unsafe { F::frontends().get(key) }.copied()
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<Slot<F>> {
        F::slots().get(index).copied()
    }

    #[inline(always)]
    fn backend(&self, id: u32) -> Option<Backend<F>> {
        // SAFETY: plain data that is copied at once. A mixture of two backends matches neither, and is then left.
        unsafe { F::backends().get(id) }.copied()
    }
}
