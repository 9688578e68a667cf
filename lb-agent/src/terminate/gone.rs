//! Which sockets have lost their backend: the decision. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use lb_common::abi::Proto;

use super::Connected;
use crate::reconcile::GoneBackend;

/// What a socket's storage says: which backend it was given by which Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The backend's address and port.
    pub addr: SocketAddr,
    /// Service-port id.
    pub service: u32,
    /// Backend id.
    pub backend: u32,
}

/// A peer that sockets may have lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// TCP or UDP.
    pub proto: Proto,
    /// Address and port.
    pub addr: SocketAddr,
    /// Service-port id and backend id of what is known to be gone there. None where that is only to be looked into.
    pub known: Option<(u32, u32)>,
}

impl From<GoneBackend> for Suspect {
    fn from(GoneBackend { addr, proto, service, backend }: GoneBackend) -> Self {
        Self { proto, addr, known: Some((service, backend)) }
    }
}

type Peer = (Proto, SocketAddr);

/// Suspects, found by the peer of a socket, and who serves at their addresses.
#[derive(Debug, Default)]
pub struct Suspects {
    by_peer: BTreeMap<Peer, BTreeSet<(u32, u32)>>,
    serving: BTreeMap<Peer, BTreeSet<u32>>,
}

impl FromIterator<Suspect> for Suspects {
    fn from_iter<I: IntoIterator<Item = Suspect>>(suspects: I) -> Self {
        let mut by_peer: BTreeMap<Peer, BTreeSet<(u32, u32)>> = BTreeMap::new();
        for suspect in suspects {
            by_peer.entry((suspect.proto, suspect.addr)).or_default().extend(suspect.known);
        }
        Self { by_peer, serving: BTreeMap::new() }
    }
}

impl Suspects {
    /// Whether there is one that speaks this protocol.
    pub fn has(&self, proto: Proto) -> bool {
        self.by_peer.keys().any(|(other, _)| *other == proto)
    }

    /// Whether the socket's peer is one, so that its storage is worth a question. It says nothing of whether the socket
    /// went there through a Service.
    pub fn concern(&self, socket: &Connected) -> bool {
        self.by_peer.contains_key(&(socket.proto, socket.peer()))
    }

    /// This endpoint of a Service port serves now.
    pub fn serves(&mut self, proto: Proto, service: u32, addr: SocketAddr) {
        let peer = (proto, addr);
        if self.by_peer.contains_key(&peer) {
            self.serving.entry(peer).or_default().insert(service);
        }
    }

    /// Whether the socket has lost its backend. To be asked when all that serves was told to [`Self::serves`].
    ///
    /// Its storage must be of this very connection, and its Service port must not be served there, under whichever id:
    /// the endpoint may be listed again. Where another Service is served there, the backend must be known to be gone:
    /// ids change when a port is renamed, and then the endpoint serves as before.
    pub fn lost(&self, socket: &Connected, translation: &Translation) -> bool {
        let peer = (socket.proto, socket.peer());
        let Some(known) = self.by_peer.get(&peer).filter(|_| translation.addr == peer.1) else {
            return false;
        };
        match self.serving.get(&peer) {
            None => true,
            Some(services) => {
                !services.contains(&translation.service) && known.contains(&(translation.service, translation.backend))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "10.0.0.1:53";

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// Backend 3 of Service port 7 is known to be gone.
    fn suspects() -> Suspects {
        [Suspect { proto: Proto::Udp, addr: addr(PEER), known: Some((7, 3)) }].into_iter().collect()
    }

    fn socket(local: &str, remote: &str) -> Connected {
        Connected { proto: Proto::Udp, local: addr(local), remote: addr(remote), interface: 0, cookie: [1; 8] }
    }

    fn translation() -> Translation {
        Translation { addr: addr(PEER), service: 7, backend: 3 }
    }

    #[test]
    fn a_socket_has_lost_its_backend_only_if_its_storage_is_of_this_connection() {
        let there = socket("10.0.0.9:4000", PEER);
        assert!(suspects().concern(&there) && suspects().lost(&there, &translation()));
        let elsewhere = Translation { addr: addr("10.0.0.2:53"), ..translation() };
        assert!(!suspects().lost(&there, &elsewhere), "it has connected to that address by itself since");
        assert!(!suspects().concern(&socket("10.0.0.9:4000", "10.0.0.2:53")));
        let tcp = Connected { proto: Proto::Tcp, ..there };
        assert!(!suspects().concern(&tcp) && !suspects().lost(&tcp, &translation()));
        assert!(suspects().has(Proto::Udp) && !suspects().has(Proto::Tcp));
    }

    #[test]
    fn an_ipv6_socket_that_talks_ipv4_has_an_ipv4_peer() {
        let mapped = socket("[::ffff:10.0.0.9]:4000", "[::ffff:10.0.0.1]:53");
        assert!(suspects().concern(&mapped) && suspects().lost(&mapped, &translation()));
    }

    #[test]
    fn an_endpoint_that_is_back_under_another_id_keeps_its_sockets() {
        let mut suspects = suspects();
        suspects.serves(Proto::Udp, 7, addr(PEER));
        assert!(!suspects.lost(&socket("10.0.0.9:4000", PEER), &translation()));
    }

    #[test]
    fn an_endpoint_that_left_one_service_and_serves_another_loses_the_sockets_of_the_first() {
        let mut suspects = suspects();
        suspects.serves(Proto::Udp, 8, addr(PEER));
        let there = socket("10.0.0.9:4000", PEER);
        assert!(suspects.lost(&there, &translation()));
        assert!(!suspects.lost(&there, &Translation { service: 8, ..translation() }));
    }

    #[test]
    fn ids_that_nobody_knows_any_more_decide_nothing_while_the_endpoint_serves() {
        // The port was renamed: Service port 7 is 9 now.
        let old = Translation { service: 6, backend: 2, ..translation() };
        let there = socket("10.0.0.9:4000", PEER);
        let mut suspects = suspects();
        suspects.serves(Proto::Udp, 9, addr(PEER));
        assert!(!suspects.lost(&there, &old));
        let suspect = Suspect { proto: Proto::Udp, addr: addr(PEER), known: None };
        assert!(Suspects::from_iter([suspect]).lost(&there, &old), "nobody serves there");
    }
}
