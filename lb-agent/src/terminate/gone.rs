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
    /// The Service's address and port, as the application asked for.
    pub frontend: SocketAddr,
    /// The backend's address and port.
    pub addr: SocketAddr,
    /// Service-port id.
    pub service: u32,
    /// Backend id.
    pub backend: u32,
}

/// Who holds a frontend now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Service-port id.
    pub service: u32,
    /// Whether a new connection gets a backend.
    pub answered: bool,
}

/// What becomes of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is left alone.
    Keep,
    /// So it is while nobody answers at its frontend: it would get no other backend, and its own may be back soon.
    Wait,
    /// It has lost its backend.
    Lost,
}

/// A peer that sockets may have lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

    /// What was said by [`Self::serves`] is out of date.
    pub fn serves_nobody(&mut self) {
        self.serving.clear();
    }

    /// This endpoint of a Service port keeps its clients.
    pub fn serves(&mut self, proto: Proto, service: u32, addr: SocketAddr) {
        let peer = (proto, addr);
        if self.by_peer.contains_key(&peer) {
            self.serving.entry(peer).or_default().insert(service);
        }
    }

    /// What becomes of the socket. To be asked when all that serves was told to [`Self::serves`]; `holder` has held the
    /// socket's frontend since before that.
    ///
    /// Its storage must be of this very connection. As kube-proxy does with UDP flows (pkg/proxy/conntrack), whoever
    /// holds the frontend now decides, whichever id it has: the endpoint may be listed again, the port or the Service be
    /// renamed. Kube-proxy leaves a flow alone, too, while nobody serves.
    pub fn verdict(&self, socket: &Connected, translation: &Translation, holder: Option<Holder>) -> Verdict {
        let peer = (socket.proto, socket.peer());
        let Some(known) = self.by_peer.get(&peer).filter(|_| translation.addr == peer.1) else {
            return Verdict::Keep;
        };
        let serves = |service| self.serving.get(&peer).is_some_and(|services| services.contains(&service));
        match holder {
            Some(holder) if serves(holder.service) => Verdict::Keep,
            Some(holder) if socket.proto == Proto::Udp => {
                if holder.answered {
                    Verdict::Lost
                } else {
                    Verdict::Wait
                }
            }
            _ if self.has_lost(known, peer, translation) => Verdict::Lost,
            _ => Verdict::Keep,
        }
    }

    /// Where nobody holds the frontend any more, and for TCP: its Service port must not be served there. Where another
    /// Service is, the backend must be known to be gone: ids change when a port is renamed, and then the endpoint serves
    /// as before.
    fn has_lost(&self, known: &BTreeSet<(u32, u32)>, peer: Peer, translation: &Translation) -> bool {
        self.serving.get(&peer).is_none_or(|services| {
            !services.contains(&translation.service) && known.contains(&(translation.service, translation.backend))
        })
    }

    /// The suspect that a socket like this has to be looked at again for.
    pub fn like(&self, proto: Proto, translation: &Translation) -> Suspect {
        let ids = (translation.service, translation.backend);
        let known = self.by_peer.get(&(proto, translation.addr)).is_some_and(|known| known.contains(&ids));
        Suspect { proto, addr: translation.addr, known: known.then_some(ids) }
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
        Translation { frontend: addr("10.96.0.1:53"), addr: addr(PEER), service: 7, backend: 3 }
    }

    /// Whether it is lost where nobody holds the frontend.
    fn lost(suspects: &Suspects, socket: &Connected, translation: &Translation) -> bool {
        suspects.verdict(socket, translation, None) == Verdict::Lost
    }

    fn holder(service: u32) -> Option<Holder> {
        Some(Holder { service, answered: true })
    }

    #[test]
    fn a_socket_has_lost_its_backend_only_if_its_storage_is_of_this_connection() {
        let there = socket("10.0.0.9:4000", PEER);
        assert!(suspects().concern(&there) && lost(&suspects(), &there, &translation()));
        let elsewhere = Translation { addr: addr("10.0.0.2:53"), ..translation() };
        assert!(!lost(&suspects(), &there, &elsewhere), "it has connected to that address by itself since");
        assert!(!suspects().concern(&socket("10.0.0.9:4000", "10.0.0.2:53")));
        let tcp = Connected { proto: Proto::Tcp, ..there };
        assert!(!suspects().concern(&tcp) && !lost(&suspects(), &tcp, &translation()));
        assert!(suspects().has(Proto::Udp) && !suspects().has(Proto::Tcp));
    }

    #[test]
    fn an_ipv6_socket_that_talks_ipv4_has_an_ipv4_peer() {
        let mapped = socket("[::ffff:10.0.0.9]:4000", "[::ffff:10.0.0.1]:53");
        assert!(suspects().concern(&mapped) && lost(&suspects(), &mapped, &translation()));
    }

    #[test]
    fn an_endpoint_that_is_back_under_another_id_keeps_its_sockets() {
        let mut suspects = suspects();
        suspects.serves(Proto::Udp, 7, addr(PEER));
        assert!(!lost(&suspects, &socket("10.0.0.9:4000", PEER), &translation()));
    }

    #[test]
    fn an_endpoint_that_left_one_service_and_serves_another_loses_the_sockets_of_the_first() {
        let mut suspects = suspects();
        suspects.serves(Proto::Udp, 8, addr(PEER));
        let there = socket("10.0.0.9:4000", PEER);
        assert!(lost(&suspects, &there, &translation()));
        assert!(!lost(&suspects, &there, &Translation { service: 8, ..translation() }));
    }

    #[test]
    fn ids_that_nobody_knows_any_more_decide_nothing_while_the_endpoint_serves() {
        // The port was renamed: Service port 7 is 9 now.
        let old = Translation { service: 6, backend: 2, ..translation() };
        let there = socket("10.0.0.9:4000", PEER);
        let mut suspects = suspects();
        suspects.serves(Proto::Udp, 9, addr(PEER));
        assert!(!lost(&suspects, &there, &old));
        let suspect = Suspect { proto: Proto::Udp, addr: addr(PEER), known: None };
        assert!(lost(&Suspects::from_iter([suspect]), &there, &old), "nobody serves there");
    }

    #[test]
    fn the_service_that_holds_the_frontend_now_decides_whichever_id_it_has() {
        let there = socket("10.0.0.9:4000", PEER);
        let mut suspects = suspects();
        suspects.serves(Proto::Udp, 9, addr(PEER));
        assert_eq!(suspects.verdict(&there, &translation(), holder(9)), Verdict::Keep, "its Service was renamed");
        assert_eq!(suspects.verdict(&there, &translation(), holder(7)), Verdict::Lost);
        suspects.serves(Proto::Udp, 7, addr(PEER));
        assert_eq!(suspects.verdict(&there, &translation(), holder(8)), Verdict::Lost, "the address was given away");
    }

    #[test]
    fn a_udp_socket_waits_while_nobody_answers_at_its_frontend() {
        let there = socket("10.0.0.9:4000", PEER);
        let nobody = Some(Holder { service: 7, answered: false });
        assert_eq!(suspects().verdict(&there, &translation(), nobody), Verdict::Wait);
        assert_eq!(suspects().verdict(&there, &translation(), holder(7)), Verdict::Lost);
        let tcp = Connected { proto: Proto::Tcp, ..there };
        let gone = Suspect { proto: Proto::Tcp, addr: addr(PEER), known: Some((7, 3)) };
        assert_eq!(Suspects::from_iter([gone]).verdict(&tcp, &translation(), nobody), Verdict::Lost, "was deleted");
    }
}
