//! `lb_frontends4/6`: where clients connect to, and which slots answer for it.

use super::{Family, endpoint_sets};

/// Which clients a frontend entry is for. Kept in the key so that one address and port can mean different backends to
/// clients on this node and to clients outside (externalTrafficPolicy, internalTrafficPolicy).
pub mod scope {
    /// Clients on this node and inside the cluster; what the socket hooks look up.
    pub const INTERNAL: u8 = 0;
    /// Clients outside the cluster; what the packet layer looks up for NodePort, LoadBalancer and external addresses.
    pub const EXTERNAL: u8 = 1;
    /// Processes in the node's own network namespace only: NodePorts of loopback addresses. A pod's loopback is its own.
    pub const HOST: u8 = 2;
    /// Ports that a process in the node's own network namespace may not bind, because NodePorts have them. The address
    /// is the unspecified one.
    pub const BIND: u8 = 3;
}

/// Bits of [`Frontend::flags`]. Readers must ignore bits they do not know.
pub mod frontend_flags {
    /// No flag.
    pub const NONE: u32 = 0;
    /// Only endpoints on this node answer (a traffic policy `Local`): a remembered backend must be in
    /// [`crate::abi::endpoint_sets::LOCAL`], not in [`crate::abi::endpoint_sets::CLUSTER`].
    pub const LOCAL: u32 = 1;
    /// `spec.loadBalancerSourceRanges`: only clients in `lb_sources4/6` under the Service-port id.
    pub const SOURCES: u32 = 2;
    /// Clients outside get another answer (externalTrafficPolicy): the packet layer looks for them in the entry of scope
    /// [`super::scope::EXTERNAL`]. Never in such an entry itself. Without the flag there is none, and packets of foreign
    /// destinations cost no lookup for it.
    pub const EXTERNAL_DIFFERS: u32 = 4;
    /// With no slots: packets are dropped in silence and not refused, as kube-proxy does where a traffic policy `Local`
    /// leaves none of a Service's endpoints, so that a load balancer tries another node. The socket layer refuses.
    pub const DROP: u32 = 8;
}

/// Key of `lb_frontends4/6`.
///
/// With port 0 and protocol 0 it stands for every port of a ClusterIP that no Service has: its value has no slots, so
/// clients are refused. The programs look there only for addresses in [`super::ClusterIps`].
///
/// Aligned for the sake of the programs: BPF moves an address of alignment 1 byte by byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C, align(4))]
pub struct FrontendKey<F: Family> {
    /// The Service address, wire order.
    pub addr: F::Addr,
    /// The Service port, host byte order.
    pub port: u16,
    /// IP protocol number, see [`super::Proto`].
    pub proto: u8,
    /// See [`scope`].
    pub scope: u8,
}

/// Value of `lb_frontends4/6`. Replacing it is the moment at which a Service changes: the slots it names were written
/// before, and those it named rest until no program can still read them.
///
/// It says for itself whether it was read whole. A program holds a pointer into the map while it copies the value, and
/// since 6.1 a hash map gives the memory of a replaced or deleted element out again at once, without waiting for readers
/// (kernel/bpf/memalloc.c, `bpf_mem_cache_free`; before that, maps with preallocation did the same). So a program that is
/// interrupted between lookup and copy may find another frontend's value, or parts of two. [`Frontend::is_of`] tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Frontend {
    /// Service-port id: the key of its name in `lb_names`, and what [`super::Backend::service`] refers to.
    pub service: u32,
    /// Index of the first slot in `lb_slots4/6`.
    pub first_slot: u32,
    /// Number of slots; 0 means that nobody serves here: refuse.
    pub n_slots: u32,
    /// See [`frontend_flags`].
    pub flags: u32,
    /// Session affinity timeout in seconds; 0 means no affinity. See [`super::AffinityKey`].
    pub affinity_s: u32,
    /// Checksum of key and value, see [`Frontend::sealed`].
    pub check: u32,
}

impl Frontend {
    /// The same with the checksum for its place in the map. Only sealed values belong there.
    #[must_use]
    pub fn sealed<F: Family>(self, key: &FrontendKey<F>) -> Self {
        Self { check: self.checksum(key), ..self }
    }

    /// Whether this value, as it was read, is what was once written for `key`.
    #[inline(always)]
    pub fn is_of<F: Family>(&self, key: &FrontendKey<F>) -> bool {
        self.check == self.checksum(key)
    }

    /// Which of [`super::endpoint_sets`] answers here.
    #[inline(always)]
    pub fn endpoint_set(&self) -> u32 {
        if self.flags & frontend_flags::LOCAL == 0 { endpoint_sets::CLUSTER } else { endpoint_sets::LOCAL }
    }

    /// A sum of products: each word has an odd factor of its own, so that a change of one word is always seen, and a change
    /// of several is missed once in 2^32 times. The products do not wait for one another, which a chain of hash steps
    /// would make them do.
    #[inline(always)]
    fn checksum<F: Family>(&self, key: &FrontendKey<F>) -> u32 {
        let ports = u32::from(key.port) << 16 | u32::from(key.proto) << 8 | u32::from(key.scope);
        let value = [self.service, self.first_slot, self.n_slots, self.flags, self.affinity_s, ports];
        let addr = F::words(key.addr);
        let words = value.iter().chain(addr.as_ref()).zip(FACTORS);
        words.fold(START, |sum, (word, factor)| sum.wrapping_add(word.wrapping_mul(factor)))
    }
}

/// Where a checksum begins, so that memory full of zeros is no frontend.
const START: u32 = 0x6a09_e667;

/// One for each word of a value and its key: the first constants of SHA-256 (FIPS 180-4, section 4.2.2), which nobody chose
/// for their relations to one another, made odd.
const FACTORS: [u32; 10] = [
    0x428a_2f99,
    0x7137_4491,
    0xb5c0_fbcf,
    0xe9b5_dba5,
    0x3956_c25b,
    0x59f1_11f1,
    0x923f_82a5,
    0xab1c_5ed5,
    0xd807_aa99,
    0x1283_5b01,
];
