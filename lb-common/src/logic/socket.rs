//! The socket layer: what connect, sendmsg, recvmsg and getpeername do.
//!
//! connect and sendmsg turn a Service's address into a backend's; recvmsg and getpeername turn it back, for exactly
//! those sockets that were told so. All four leave everything else alone.

use super::{
    seam::{Environment, Maps, Socket},
    select::{Found, choose, lookup},
};
use crate::abi::{
    Counter, Endpoint, Family, Frontend, FrontendKey, Proto, Slot, SockDst, UdpPeer, UdpPeers, backend_state,
};

/// How long an unconnected UDP socket stays with a backend while it is silent. The value of
/// `nf_conntrack_udp_timeout_stream`, which is what decides it under kube-proxy.
pub const UDP_PEER_TIMEOUT_S: u32 = 120;

/// What a hook does with the destination it was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<F: Family> {
    /// Not a Service: leave it.
    Pass,
    /// Go there instead.
    Rewrite(Endpoint<F>),
    /// A Service that nobody serves: ECONNREFUSED.
    Refuse,
}

/// connect(2) of a TCP or UDP socket to `dst`.
#[inline(always)]
pub fn connect<F, K>(kernel: &K, dst: Endpoint<F>, proto: Proto) -> Verdict<F>
where
    F: Family,
    K: Maps<F> + Environment + Socket<F>,
{
    let verdict = match lookup(kernel, dst, proto) {
        Found::NotAService => Verdict::Pass,
        Found::Damaged => Verdict::Refuse,
        Found::Frontend(key, frontend) => match choose(kernel, &frontend) {
            None => Verdict::Refuse,
            Some(slot) => return translate(kernel, proto, &key, &frontend, &slot),
        },
    };
    // The socket may have been connected to a Service before: a UDP socket at any time, a TCP socket after a refusal.
    // Its new peer must not be shown as that Service.
    kernel.clear_translation();
    verdict
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
    K: Maps<F> + Environment + Socket<F>,
{
    let (key, frontend) = match lookup(kernel, dst, Proto::Udp) {
        Found::NotAService => return Verdict::Pass,
        Found::Damaged => return Verdict::Refuse,
        Found::Frontend(key, frontend) => (key, frontend),
    };
    if let Some(backend) = connected_backend(kernel, &key, &frontend) {
        return Verdict::Rewrite(backend);
    }
    let now_s = kernel.now_s();
    let known = kernel.with_peers(false, |peers| recall(kernel, peers, &key, &frontend, now_s)).flatten();
    if let Some((backend, backend_state::READY)) = known {
        return Verdict::Rewrite(backend);
    }
    let Some(slot) = choose(kernel, &frontend) else {
        return Verdict::Refuse;
    };
    if let Some((backend, _)) = known
        && kernel.backend(slot.backend).is_some_and(|chosen| chosen.state == backend_state::TERMINATING)
    {
        // Only where nobody is ready do the slots hold such backends: then moving would gain nothing.
        return Verdict::Rewrite(backend);
    }
    if kernel.with_peers(true, |peers| remember(kernel, peers, &key, &frontend, &slot, now_s)).is_none() {
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
    K: Maps<F> + Socket<F>,
{
    if !kernel.is_connected() {
        return None;
    }
    let dst = kernel.translation()?;
    let same = dst.frontend_addr == key.addr && dst.frontend_port == key.port && dst.service == frontend.service;
    same.then_some(Endpoint { addr: dst.backend_addr, port: dst.backend_port })
}

/// The backend that this socket's datagrams to `key` went to, with its state, if it still serves.
#[inline(always)]
fn recall<F, K>(
    kernel: &K,
    peers: &mut UdpPeers<F>,
    key: &FrontendKey<F>,
    frontend: &Frontend,
    now_s: u32,
) -> Option<(Endpoint<F>, u8)>
where
    F: Family,
    K: Maps<F>,
{
    let peer = peers.peers.iter_mut().find(|peer| is_for(peer, key))?;
    if now_s.wrapping_sub(peer.last_used_s) > UDP_PEER_TIMEOUT_S {
        return None;
    }
    let state = serving_state(kernel, peer, frontend)?;
    peer.last_used_s = now_s;
    Some((Endpoint { addr: peer.backend_addr, port: peer.backend_port }, state))
}

#[inline(always)]
fn is_for<F: Family>(peer: &UdpPeer<F>, key: &FrontendKey<F>) -> bool {
    peer.backend != 0 && peer.frontend_port == key.port && peer.frontend_addr == key.addr
}

/// An id can be given out again, to another endpoint or Service, so everything that identifies the backend is compared.
///
/// A terminating backend still serves, but datagrams leave it at once for a ready one, as kube-proxy's conntrack cleanup
/// makes them: [`sendmsg`].
#[inline(always)]
fn serving_state<F: Family>(kernel: &impl Maps<F>, peer: &UdpPeer<F>, frontend: &Frontend) -> Option<u8> {
    let backend = kernel.backend(peer.backend)?;
    let same = backend.service == frontend.service
        && backend.addr == peer.backend_addr
        && backend.port == peer.backend_port
        && (backend.state == backend_state::READY || backend.state == backend_state::TERMINATING);
    same.then_some(backend.state)
}

/// Puts the pair where its frontend's old one is, else in an empty entry, else over the least recently used.
#[inline(always)]
fn remember<F, K>(
    kernel: &K,
    peers: &mut UdpPeers<F>,
    key: &FrontendKey<F>,
    frontend: &Frontend,
    slot: &Slot<F>,
    now_s: u32,
) where
    F: Family,
    K: Environment,
{
    let mut place = None;
    let mut age = 0;
    for (index, peer) in peers.peers.iter().enumerate() {
        let peer_age = if is_for(peer, key) {
            u64::MAX
        } else if peer.backend == 0 {
            u64::MAX - 1
        } else {
            1 + u64::from(now_s.wrapping_sub(peer.last_used_s))
        };
        if peer_age > age {
            (place, age) = (Some(index), peer_age);
        }
    }
    if age < u64::MAX - 1 {
        kernel.count(Counter::PeerEvicted);
    }
    if let Some(peer) = place.and_then(|index| peers.peers.get_mut(index)) {
        *peer = UdpPeer {
            frontend_addr: key.addr,
            backend_addr: slot.addr,
            frontend_port: key.port,
            backend_port: slot.port,
            service: frontend.service,
            backend: slot.backend,
            last_used_s: now_s,
        };
    }
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
    kernel.with_peers(false, |peers| sender(peers, src, kernel.now_s())).flatten()
}

/// Two Services may have led this socket to one backend; then the one used last is the likelier.
#[inline(always)]
fn sender<F: Family>(peers: &mut UdpPeers<F>, src: Endpoint<F>, now_s: u32) -> Option<Endpoint<F>> {
    let mut found: Option<&mut UdpPeer<F>> = None;
    for peer in &mut peers.peers {
        let matches = peer.backend != 0 && peer.backend_port == src.port && peer.backend_addr == src.addr;
        let older = found.as_ref().is_some_and(|best| best.last_used_s >= peer.last_used_s);
        if matches && !older {
            found = Some(peer);
        }
    }
    let peer = found?;
    peer.last_used_s = now_s;
    Some(Endpoint { addr: peer.frontend_addr, port: peer.frontend_port })
}

/// getpeername(2) on a connected socket whose peer is `peer`: what to show instead, if anything.
#[inline(always)]
pub fn peername<F: Family>(socket: &impl Socket<F>, peer: Endpoint<F>) -> Option<Endpoint<F>> {
    let dst = socket.translation()?;
    let same = dst.backend_addr == peer.addr && dst.backend_port == peer.port;
    same.then_some(Endpoint { addr: dst.frontend_addr, port: dst.frontend_port })
}
