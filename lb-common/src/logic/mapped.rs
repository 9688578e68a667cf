//! IPv4 through an IPv6 socket: a dual-stack socket of a Java or Go program names `::ffff:10.96.0.10` at the IPv6 hooks
//! and means the IPv4 Service. It uses the IPv4 maps and the IPv4 socket storage, and is answered in its own form.
//!
//! There is no `sendmsg` here: `udpv6_sendmsg` hands a mapped destination to `udp_sendmsg` before it runs any hook, so
//! the sendmsg4 hook sees it as plain IPv4 (net/ipv6/udp.c, the same from 5.10 to 6.18).

use super::{
    seam::{Node, Socket},
    socket::{self, Verdict},
};
use crate::abi::{Endpoint, Proto, V4, V6, map_v4, mapped_v4};

/// What the IPv6 hooks need: both families' maps and storage.
pub trait DualStack: Node<V4> + Node<V6> + Socket<V4> + Socket<V6> {}

impl<K: Node<V4> + Node<V6> + Socket<V4> + Socket<V6>> DualStack for K {}

/// [`socket::connect`] at the connect6 hook.
#[inline(always)]
pub fn connect(kernel: &impl DualStack, dst: Endpoint<V6>, proto: Proto) -> Verdict<V6> {
    match mapped_v4(dst.addr) {
        Some(addr) => match socket::connect::<V4, _>(kernel, Endpoint { addr, port: dst.port }, proto) {
            Verdict::Pass => Verdict::Pass,
            Verdict::Rewrite(backend) => Verdict::Rewrite(to_mapped(backend)),
            Verdict::Refuse => Verdict::Refuse,
        },
        None => socket::connect::<V6, _>(kernel, dst, proto),
    }
}

/// [`socket::recvmsg`] at the recvmsg6 hook, which shows the sender of an IPv4 datagram in mapped form.
#[inline(always)]
pub fn recvmsg(kernel: &impl DualStack, src: Endpoint<V6>) -> Option<Endpoint<V6>> {
    match mapped_v4(src.addr) {
        Some(addr) => socket::recvmsg::<V4, _>(kernel, Endpoint { addr, port: src.port }).map(to_mapped),
        None => socket::recvmsg::<V6, _>(kernel, src),
    }
}

/// [`socket::peername`] at the getpeername6 hook.
#[inline(always)]
pub fn peername(kernel: &impl DualStack, peer: Endpoint<V6>) -> Option<Endpoint<V6>> {
    match mapped_v4(peer.addr) {
        Some(addr) => socket::peername::<V4>(kernel, Endpoint { addr, port: peer.port }).map(to_mapped),
        None => socket::peername::<V6>(kernel, peer),
    }
}

#[inline(always)]
fn to_mapped(endpoint: Endpoint<V4>) -> Endpoint<V6> {
    Endpoint { addr: map_v4(endpoint.addr), port: endpoint.port }
}
