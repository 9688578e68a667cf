//! What the agent asks the programs `lb_owner4/6`, which hang on no hook: is there a socket with these two ends, and what
//! does its storage say? The packet of a `BPF_PROG_TEST_RUN`, question and answer in one. Not a map layout.

use super::{Family, SockDst};

/// What the programs return.
pub mod owner_answer {
    /// No such socket.
    pub const NO_SOCKET: u32 = 1;
    /// A socket that no hook translated, or one that has connected elsewhere since.
    pub const NOT_OURS: u32 = 2;
    /// [`super::OwnerCall::translation`] is the socket's.
    pub const OURS: u32 = 3;
}

/// The packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct OwnerCall<F: Family> {
    /// In the place of the Ethernet header, which every test packet must have. All 0: a protocol that the kernel does
    /// not look into.
    pub ethernet: [u8; 14],
    /// IP protocol number.
    pub proto: u8,
    /// Always 0.
    pub reserved: u8,
    /// Which socket.
    pub ends: Ends<F>,
    /// The answer.
    pub translation: SockDst<F>,
}

/// Both ends of a connected socket: `struct bpf_sock_tuple` (include/uapi/linux/bpf.h), as a packet to the socket would
/// have them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(4))]
pub struct Ends<F: Family> {
    /// The peer's address, wire order.
    pub remote_addr: F::Addr,
    /// The socket's own address, wire order.
    pub local_addr: F::Addr,
    /// The peer's port, wire order.
    pub remote_port: [u8; 2],
    /// The socket's own port, wire order.
    pub local_port: [u8; 2],
}
