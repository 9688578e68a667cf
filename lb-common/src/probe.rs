//! One hook call as data, for the test that runs the same calls in the kernel and on the host: `BPF_PROG_TEST_RUN` does
//! not know sock_addr programs, so a program of another type runs the logic on this. Not part of any installation.

use crate::abi::{N_COUNTERS, SockDst, UdpPeers, V4, V6};

/// How deep cgroups are in a call.
pub const N_CGROUPS: usize = 4;

/// Values of [`Call::hook`].
pub mod hook {
    /// connect4, and so on.
    pub const CONNECT4: u32 = 0;
    /// See [`CONNECT4`].
    pub const CONNECT6: u32 = 1;
    /// See [`CONNECT4`].
    pub const SENDMSG4: u32 = 2;
    /// See [`CONNECT4`].
    pub const SENDMSG6: u32 = 3;
    /// See [`CONNECT4`].
    pub const RECVMSG4: u32 = 4;
    /// See [`CONNECT4`].
    pub const RECVMSG6: u32 = 5;
    /// See [`CONNECT4`].
    pub const PEERNAME4: u32 = 6;
    /// See [`CONNECT4`].
    pub const PEERNAME6: u32 = 7;
    /// After bind.
    pub const BIND4: u32 = 8;
    /// See [`BIND4`].
    pub const BIND6: u32 = 9;
}

/// Values of [`Call::answer`].
pub mod answer {
    /// Left alone.
    pub const PASS: u32 = 1;
    /// Rewritten to [`super::Call::addr4`] or [`super::Call::addr6`].
    pub const REWRITE: u32 = 2;
    /// Refused.
    pub const REFUSE: u32 = 3;
}

/// What `skb->csum` of a packet was found to be, as an index of the test program's counts (`lb_sums`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Summed {
    /// Not a sum of the whole packet: it has another state than `CHECKSUM_COMPLETE`.
    Not,
    /// What the packet sums up to.
    Right,
    /// Something else.
    Wrong,
    /// The packet is too long to be summed.
    Long,
}

/// How many values [`Summed`] has.
pub const N_SUMMED: u32 = 4;

/// A socket, a call and its outcome. Element 0 of the test program's map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Call {
    /// See [`hook`].
    pub hook: u32,
    /// 6 or 17.
    pub proto: u32,
    /// What the clock says.
    pub now_s: u32,
    /// What is drawn.
    pub random: u32,
    /// Not 0: the socket has a peer.
    pub connected: u32,
    /// Not 0: the socket is an `AF_INET6` one.
    pub inet6: u32,
    /// The cookie of the caller's network namespace.
    pub netns: u32,
    /// The cookie of the node's.
    pub node_netns: u32,
    /// The cgroups of the caller from the root down, by their ids; 0 below its own.
    pub cgroups: [u32; N_CGROUPS],
    /// Not 0: no new storage can be had.
    pub no_memory: u32,
    /// See [`answer`]; 0 before the call.
    pub answer: u32,
    /// The port asked for, then the one answered, host byte order.
    pub port: u32,
    /// The address asked for, then the one answered, at IPv4 hooks.
    pub addr4: [u8; 4],
    /// As [`Self::addr4`], at IPv6 hooks.
    pub addr6: [u8; 16],
    /// How often each counter was counted in this call.
    pub counts: [u32; N_COUNTERS as usize],
    /// Not 0: [`Self::translation4`] is there.
    pub has_translation4: u32,
    /// Not 0: [`Self::translation6`] is there.
    pub has_translation6: u32,
    /// Not 0: [`Self::peers4`] is there.
    pub has_peers4: u32,
    /// Not 0: [`Self::peers6`] is there.
    pub has_peers6: u32,
    /// The socket's storage.
    pub translation4: SockDst<V4>,
    /// The socket's storage.
    pub translation6: SockDst<V6>,
    /// The socket's storage.
    pub peers4: UdpPeers<V4>,
    /// The socket's storage.
    pub peers6: UdpPeers<V6>,
}
