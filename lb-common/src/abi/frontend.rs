//! `lb_frontends4/6`: where clients connect to, and which slots answer for it.

use super::Family;

/// Which clients a frontend entry is for. Kept in the key so that one address and port can mean different backends to
/// clients on this node and to clients outside (externalTrafficPolicy, internalTrafficPolicy).
pub mod scope {
    /// Clients on this node and inside the cluster; what the socket hooks look up.
    pub const INTERNAL: u8 = 0;
    /// Clients outside the cluster; what the packet layer looks up for NodePort, LoadBalancer and external addresses.
    pub const EXTERNAL: u8 = 1;
}

/// Bits of [`Frontend::flags`]. None is defined yet at this ABI version: readers must ignore bits they do not know.
pub mod frontend_flags {
    /// No flag.
    pub const NONE: u32 = 0;
}

/// Key of `lb_frontends4/6`. Aligned for the sake of the programs: BPF moves an address of alignment 1 byte by byte.
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
    /// Session affinity timeout in seconds; 0 means no affinity. Not yet acted upon at this ABI version.
    pub affinity_s: u32,
}
