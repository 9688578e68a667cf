//! Which sockets are ours, by the protocol number that the kernel shows.

use lb_common::abi::Proto;

const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
/// A Multipath TCP socket is a TCP socket to a Service.
const IPPROTO_MPTCP: u32 = 262;

/// `None` for what Services do not have.
#[inline(always)]
pub(crate) fn from_kernel(protocol: u32) -> Option<Proto> {
    match protocol {
        IPPROTO_TCP | IPPROTO_MPTCP => Some(Proto::Tcp),
        IPPROTO_UDP => Some(Proto::Udp),
        _ => None,
    }
}
