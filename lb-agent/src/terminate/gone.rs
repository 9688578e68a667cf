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

impl Translation {
    /// The backend.
    pub fn as_gone(&self, proto: Proto) -> GoneBackend {
        GoneBackend { addr: self.addr, proto, service: self.service, backend: self.backend }
    }
}

/// Gone backends, found by the peer of a socket.
#[derive(Debug, Default)]
pub struct GoneSet {
    by_peer: BTreeMap<(Proto, SocketAddr), BTreeSet<GoneBackend>>,
}

impl FromIterator<GoneBackend> for GoneSet {
    fn from_iter<I: IntoIterator<Item = GoneBackend>>(backends: I) -> Self {
        let mut set = Self::default();
        for backend in backends {
            set.by_peer.entry((backend.proto, backend.addr)).or_default().insert(backend);
        }
        set
    }
}

impl GoneSet {
    /// Whether nothing is gone.
    pub fn is_empty(&self) -> bool {
        self.by_peer.is_empty()
    }

    /// Whether some of it spoke this protocol.
    pub fn has(&self, proto: Proto) -> bool {
        self.by_peer.keys().any(|(other, _)| *other == proto)
    }

    /// Whether the socket's peer is one of these, so that its storage is worth a question. It says nothing of whether
    /// the socket went to it through a Service.
    pub fn concerns(&self, socket: &Connected) -> bool {
        self.by_peer.contains_key(&(socket.proto, socket.peer()))
    }

    /// Whether the socket was given one of these by its Service, and still has it as its peer.
    pub fn took(&self, socket: &Connected, translation: &Translation) -> bool {
        let backends = self.by_peer.get(&(socket.proto, socket.peer()));
        // The set holds only backends with that very address, so the storage is of this connection, too.
        backends.is_some_and(|backends| backends.contains(&translation.as_gone(socket.proto)))
    }

    /// This endpoint serves, under whichever id: it was listed again.
    pub fn is_back(&mut self, proto: Proto, service: u32, addr: SocketAddr) {
        let key = (proto, addr);
        if let Some(backends) = self.by_peer.get_mut(&key) {
            backends.retain(|backend| backend.service != service);
            if backends.is_empty() {
                self.by_peer.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn gone(text: &str) -> GoneBackend {
        GoneBackend { addr: addr(text), proto: Proto::Udp, service: 7, backend: 3 }
    }

    fn socket(local: &str, remote: &str) -> Connected {
        Connected { proto: Proto::Udp, local: addr(local), remote: addr(remote), interface: 0, cookie: [1; 8] }
    }

    fn translation(text: &str) -> Translation {
        Translation { addr: addr(text), service: 7, backend: 3 }
    }

    #[test]
    fn a_socket_is_taken_only_for_the_very_backend_that_its_storage_names() {
        let set = GoneSet::from_iter([gone("10.0.0.1:53")]);
        let there = socket("10.0.0.9:4000", "10.0.0.1:53");
        assert!(set.took(&there, &translation("10.0.0.1:53")));
        assert!(!set.took(&there, &Translation { backend: 4, ..translation("10.0.0.1:53") }), "another endpoint");
        assert!(!set.took(&there, &Translation { service: 8, ..translation("10.0.0.1:53") }), "another Service");
        assert!(!set.took(&there, &translation("10.0.0.2:53")), "it has connected elsewhere since");
        assert!(!set.took(&socket("10.0.0.9:4000", "10.0.0.2:53"), &translation("10.0.0.1:53")));
        let tcp = Connected { proto: Proto::Tcp, ..there };
        assert!(!set.concerns(&tcp) && !set.took(&tcp, &translation("10.0.0.1:53")));
    }

    #[test]
    fn an_ipv6_socket_that_talks_ipv4_has_an_ipv4_peer() {
        let set = GoneSet::from_iter([gone("10.0.0.1:53")]);
        let mapped = socket("[::ffff:10.0.0.9]:4000", "[::ffff:10.0.0.1]:53");
        assert!(set.concerns(&mapped) && set.took(&mapped, &translation("10.0.0.1:53")));
    }

    #[test]
    fn an_endpoint_that_is_back_under_another_id_is_not_gone_for_its_service() {
        let other = GoneBackend { service: 8, ..gone("10.0.0.1:53") };
        let mut set = GoneSet::from_iter([gone("10.0.0.1:53"), other]);
        set.is_back(Proto::Udp, 7, addr("10.0.0.1:53"));
        let there = socket("10.0.0.9:4000", "10.0.0.1:53");
        assert!(!set.took(&there, &translation("10.0.0.1:53")));
        assert!(set.took(&there, &Translation { service: 8, ..translation("10.0.0.1:53") }));
        set.is_back(Proto::Udp, 8, addr("10.0.0.1:53"));
        assert!(set.is_empty() && !set.has(Proto::Udp));
    }
}
