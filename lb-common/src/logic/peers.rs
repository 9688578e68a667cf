//! What an unconnected UDP socket remembers: which backend its datagrams to a Service went to, and which Service the
//! answers of a backend come from.

use super::seam::{Environment, Maps};
use crate::abi::{Counter, Endpoint, Family, Frontend, FrontendKey, Slot, UdpPeer, UdpPeers, backend_state};

/// How long an unconnected UDP socket stays with a backend while it is silent, and how long that backend's answers are
/// shown as the Service's. The value of `nf_conntrack_udp_timeout_stream`, which is what decides it under kube-proxy.
pub const UDP_PEER_TIMEOUT_S: u32 = 120;

/// The backend that this socket's datagrams to `key` went to, if it still serves.
#[inline(always)]
pub(super) fn recall<F, K>(
    kernel: &K,
    peers: &mut UdpPeers<F>,
    key: &FrontendKey<F>,
    frontend: &Frontend,
    now_s: u32,
) -> Option<Endpoint<F>>
where
    F: Family,
    K: Maps<F>,
{
    let peer = peers.peers.iter_mut().find(|peer| is_for(peer, key))?;
    if is_over(peer, now_s) || !serves(kernel, peer, frontend) {
        return None;
    }
    peer.last_used_s = now_s;
    Some(Endpoint { addr: peer.backend_addr, port: peer.backend_port })
}

#[inline(always)]
fn is_for<F: Family>(peer: &UdpPeer<F>, key: &FrontendKey<F>) -> bool {
    peer.backend != 0 && peer.frontend_port == key.port && peer.frontend_addr == key.addr
}

#[inline(always)]
fn is_over<F: Family>(peer: &UdpPeer<F>, now_s: u32) -> bool {
    now_s.wrapping_sub(peer.last_used_s) > UDP_PEER_TIMEOUT_S
}

/// Datagrams stay with a backend that is ready, also if new clients go elsewhere (another zone, another node), or that
/// new clients may be given, also if it terminates (nobody is ready). So a terminating backend is left as soon as there
/// is a ready one, which is when kube-proxy removes its conntrack entries.
///
/// An id can be given out again, to another endpoint or Service, so everything that identifies the backend is compared.
#[inline(always)]
fn serves<F: Family>(kernel: &impl Maps<F>, peer: &UdpPeer<F>, frontend: &Frontend) -> bool {
    kernel.backend(peer.backend).is_some_and(|backend| {
        let same = backend.service == frontend.service
            && backend.addr == peer.backend_addr
            && backend.port == peer.backend_port;
        same && (backend.state == backend_state::READY || backend.sets & frontend.endpoint_set() != 0)
    })
}

/// Puts the pair where its frontend's old one is, else in an empty entry, else over the least recently used.
#[inline(always)]
pub(super) fn remember<F, K>(
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
    let known = peers.peers.iter().position(|peer| is_for(peer, key));
    let place = known.or_else(|| peers.peers.iter().position(|peer| peer.backend == 0)).unwrap_or_else(|| {
        kernel.count(Counter::PeerEvicted);
        oldest(peers, now_s)
    });
    if let Some(peer) = peers.peers.get_mut(place) {
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

/// The least recently used pair.
#[inline(always)]
fn oldest<F: Family>(peers: &UdpPeers<F>, now_s: u32) -> usize {
    let mut place = 0;
    let mut age_s = 0;
    for (index, peer) in peers.peers.iter().enumerate() {
        let peer_age_s = now_s.wrapping_sub(peer.last_used_s);
        if peer_age_s > age_s {
            (place, age_s) = (index, peer_age_s);
        }
    }
    place
}

/// The socket sends to `dst`, which is not a Service. If that is a backend that it also knows from a Service, the answers
/// from there are to this datagram, and must come from where it went: the pair is forgotten. The next datagram to the
/// Service is given a backend anew.
#[inline(always)]
pub(super) fn forget<F: Family>(peers: &mut UdpPeers<F>, dst: Endpoint<F>) {
    for peer in &mut peers.peers {
        if is_from(peer, dst) {
            peer.backend = 0;
        }
    }
}

#[inline(always)]
fn is_from<F: Family>(peer: &UdpPeer<F>, src: Endpoint<F>) -> bool {
    peer.backend != 0 && peer.backend_port == src.port && peer.backend_addr == src.addr
}

/// The Service that a datagram from `src` comes from for this socket. Two Services may have led it to one backend; then
/// the one used last is the likelier.
#[inline(always)]
pub(super) fn sender<F: Family>(peers: &mut UdpPeers<F>, src: Endpoint<F>, now_s: u32) -> Option<Endpoint<F>> {
    let mut found: Option<&mut UdpPeer<F>> = None;
    for peer in &mut peers.peers {
        let older = found.as_ref().is_some_and(|best| best.last_used_s >= peer.last_used_s);
        if is_from(peer, src) && !older {
            found = Some(peer);
        }
    }
    let peer = found.filter(|peer| !is_over(peer, now_s))?;
    peer.last_used_s = now_s;
    Some(Endpoint { addr: peer.frontend_addr, port: peer.frontend_port })
}
