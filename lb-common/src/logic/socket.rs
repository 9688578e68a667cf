//! The socket layer: what connect, sendmsg, recvmsg and getpeername do.
//!
//! connect and sendmsg turn a Service's address into a backend's; recvmsg and getpeername turn it back, for exactly
//! those sockets that were told so. All four leave everything else alone.
//!
//! To a process of an excluded workload ([`exclude`](super::exclude)) nothing is a Service. What its sockets were told before
//! stays true for them.

use super::{
    client::Namespace,
    exclude::is_excluded,
    lookup::{Found, lookup, lookup_datagram},
    peers,
    seam::{Environment, Node, Socket},
    select::select,
};
use crate::abi::{Counter, Endpoint, Family, Frontend, FrontendKey, Proto, Slot, SockDst};

/// What a hook does with the destination it was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<F: Family> {
    /// Not a Service: leave it.
    Pass,
    /// Go there instead.
    Rewrite(Endpoint<F>),
    /// A Service that nobody serves, or not for this client, or not at this port: ECONNREFUSED.
    Refuse,
}

/// connect(2) of a TCP or UDP socket to `dst`.
#[inline(always)]
pub fn connect<F, K>(kernel: &K, dst: Endpoint<F>, proto: Proto) -> Verdict<F>
where
    F: Family,
    K: Node<F> + Socket<F>,
{
    match sought(kernel, dst, proto) {
        Found::NotAService => {
            // The socket may have been connected to a Service before: a UDP socket at any time, a TCP socket after a
            // refusal. Its new peer must not be shown as that Service.
            kernel.clear_translation();
            Verdict::Pass
        }
        // A connect that fails here changes nothing: a UDP socket keeps the peer that it has (inet_dgram_connect).
        Found::Refuse => Verdict::Refuse,
        Found::Frontend(key, frontend) => match select(kernel, &frontend, Namespace) {
            Err(_) => Verdict::Refuse,
            Ok(slot) => translate(kernel, proto, &key, &frontend, &slot),
        },
    }
}

/// What the destination is to the calling process. Only who asks for a Service is asked whether it may have one.
#[inline(always)]
fn sought<F, K>(kernel: &K, dst: Endpoint<F>, proto: Proto) -> Found<F>
where
    F: Family,
    K: Node<F>,
{
    match lookup(kernel, dst, proto) {
        Found::NotAService => Found::NotAService,
        Found::Refuse | Found::Frontend(..) if is_excluded(kernel) => Found::NotAService,
        found => found,
    }
}

#[inline(always)]
fn translate<F, K>(kernel: &K, proto: Proto, key: &FrontendKey<F>, frontend: &Frontend, slot: &Slot<F>) -> Verdict<F>
where
    F: Family,
    K: Environment + Socket<F>,
{
    if kernel.set_translation(translation(key, frontend, slot)).is_err() {
        // The connection is worth more than its peer's name.
        kernel.count(Counter::NoStorage);
    }
    kernel.count(match proto {
        Proto::Tcp => Counter::TcpConnect,
        Proto::Udp => Counter::UdpConnect,
    });
    Verdict::Rewrite(Endpoint { addr: slot.addr, port: slot.port })
}

fn translation<F: Family>(key: &FrontendKey<F>, frontend: &Frontend, slot: &Slot<F>) -> SockDst<F> {
    SockDst {
        frontend_addr: key.addr,
        backend_addr: slot.addr,
        frontend_port: key.port,
        backend_port: slot.port,
        service: frontend.service,
        backend: slot.backend,
    }
}

/// sendto(2)/sendmsg(2) with the address `dst` on a UDP socket. The socket stays with the backend it was given as long
/// as that backend serves and the two keep talking: a protocol of more than one datagram (TFTP, QUIC, SIP) works.
#[inline(always)]
pub fn sendmsg<F, K>(kernel: &K, dst: Endpoint<F>) -> Verdict<F>
where
    F: Family,
    K: Node<F> + Socket<F>,
{
    let (key, frontend) = match lookup_datagram(kernel, dst) {
        Found::NotAService => {
            kernel.with_peers(false, |peers| peers::forget(peers, dst));
            return Verdict::Pass;
        }
        Found::Refuse if is_excluded(kernel) => return Verdict::Pass,
        Found::Refuse => return Verdict::Refuse,
        Found::Frontend(key, frontend) => (key, frontend),
    };
    if let Some(backend) = connected_backend(kernel, &key, &frontend) {
        return Verdict::Rewrite(backend);
    }
    let now_s = kernel.now_s();
    let known = kernel.with_peers(false, |peers| peers::recall(kernel, peers, &key, &frontend, now_s)).flatten();
    if let Some(backend) = known {
        return Verdict::Rewrite(backend);
    }
    // Not before: a conversation that is under way stays with its backend.
    if is_excluded(kernel) {
        return Verdict::Pass;
    }
    let Ok(slot) = select(kernel, &frontend, Namespace) else {
        return Verdict::Refuse;
    };
    if kernel.with_peers(true, |peers| peers::remember(kernel, peers, &key, &frontend, &slot, now_s)).is_none() {
        kernel.count(Counter::NoStorage);
    }
    kernel.count(Counter::UdpSelect);
    Verdict::Rewrite(Endpoint { addr: slot.addr, port: slot.port })
}

/// A connected socket that names its own Service again must stay with its backend: it hears nobody else.
#[inline(always)]
fn connected_backend<F, K>(kernel: &K, key: &FrontendKey<F>, frontend: &Frontend) -> Option<Endpoint<F>>
where
    F: Family,
    K: Socket<F>,
{
    if !kernel.is_connected() {
        return None;
    }
    let dst = kernel.translation()?;
    let same = dst.frontend_addr == key.addr && dst.frontend_port == key.port && dst.service == frontend.service;
    same.then_some(Endpoint { addr: dst.backend_addr, port: dst.backend_port })
}

/// recvmsg(2) on a UDP socket got a datagram from `src`: what to show as its sender, if not `src` itself. A connected
/// socket hears its peer only, so what it once sent unconnected does not count.
#[inline(always)]
pub fn recvmsg<F, K>(kernel: &K, src: Endpoint<F>) -> Option<Endpoint<F>>
where
    F: Family,
    K: Environment + Socket<F>,
{
    if kernel.is_connected() {
        return peername(kernel, src);
    }
    kernel.with_peers(false, |peers| peers::sender(peers, src, kernel.now_s())).flatten()
}

/// getpeername(2) on a connected socket whose peer is `peer`: what to show instead, if anything.
#[inline(always)]
pub fn peername<F: Family>(socket: &impl Socket<F>, peer: Endpoint<F>) -> Option<Endpoint<F>> {
    let dst = socket.translation()?;
    let same = dst.backend_addr == peer.addr && dst.backend_port == peer.port;
    same.then_some(Endpoint { addr: dst.frontend_addr, port: dst.frontend_port })
}
