//! Socket storage: what a socket was told, so that it can be told the same again. Dies with its socket; cannot be evicted.

use super::Family;

/// Value of `lb_sock4/6`: the translation of a connected socket (TCP, or UDP after `connect`). Written only by the
/// connect hooks; removed when the same socket connects to something that is not a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct SockDst<F: Family> {
    /// What the application asked for.
    pub frontend_addr: F::Addr,
    /// What it was given.
    pub backend_addr: F::Addr,
    /// Host byte order.
    pub frontend_port: u16,
    /// Host byte order.
    pub backend_port: u16,
    /// Service-port id.
    pub service: u32,
    /// Backend id.
    pub backend: u32,
}

/// How many Services one unconnected UDP socket can talk to at the same time and still get its answers from the
/// Service's address. A socket that uses more loses the least recently used pair.
pub const N_UDP_PEERS: usize = 8;

/// One pair of an unconnected UDP socket: datagrams to this frontend go to this backend, answers of this backend come
/// from this frontend. Empty when `backend` is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct UdpPeer<F: Family> {
    /// The Service address.
    pub frontend_addr: F::Addr,
    /// The backend's address.
    pub backend_addr: F::Addr,
    /// Host byte order.
    pub frontend_port: u16,
    /// Host byte order.
    pub backend_port: u16,
    /// Service-port id.
    pub service: u32,
    /// Backend id; 0 marks an empty entry.
    pub backend: u32,
    /// When a datagram was last sent or received, in seconds of the monotonic clock.
    pub last_used_s: u32,
}

/// Value of `lb_sockudp4/6`. Its hooks run with the socket locked, so it has one writer at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct UdpPeers<F: Family> {
    /// In no order.
    pub peers: [UdpPeer<F>; N_UDP_PEERS],
}
