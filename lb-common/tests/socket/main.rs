//! What processes see of Services, on a simulated node: the kernel programs' logic through the system calls that lead to
//! it. Written once for both families and for IPv4 through IPv6 sockets ([`World`]).
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod affinity;
mod connect;
mod datagrams;
mod exclude;
mod frontends;
mod random;

use std::net::{IpAddr, SocketAddr};

use lb_common::{
    abi::{Backend, Endpoint, Family, Frontend, FrontendKey, Proto, Slot, backend_state, map_v4, scope},
    sim::{Domain, SimMaps, SimNode, SimSocket},
};

/// How clients speak in a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum World {
    /// IPv4 sockets.
    V4,
    /// IPv6 sockets.
    V6,
    /// IPv4 Services through IPv6 sockets: `::ffff:10.96.0.10`.
    Mapped,
}

const WORLDS: [World; 3] = [World::V4, World::V6, World::Mapped];

impl World {
    fn ip(self, kind: u8, last: u8) -> IpAddr {
        match self {
            Self::V4 => [10, kind, 0, last].into(),
            Self::V6 => [0xfd00, 0, 0, 0, u16::from(kind), 0, 0, u16::from(last)].into(),
            Self::Mapped => IpAddr::V6(map_v4([10, kind, 0, last]).into()),
        }
    }

    /// The address and port of Service `last`.
    fn service(self, last: u8) -> SocketAddr {
        SocketAddr::new(self.ip(96, last), 53)
    }

    /// The address and port of pod `last`.
    fn pod(self, last: u8) -> SocketAddr {
        SocketAddr::new(self.ip(244, last), 5353)
    }

    fn socket(self, proto: Proto) -> SimSocket {
        SimSocket::new(if self == Self::V4 { Domain::Inet } else { Domain::Inet6 }, proto)
    }

    /// Makes Service `last` answer through these pods, whose backend ids are their numbers.
    fn serve(self, node: &mut SimNode, last: u8, pods: &[u8]) {
        for proto in [Proto::Tcp, Proto::Udp] {
            match self {
                Self::V6 => serve(&mut node.v6, self.service(last), pods.iter().map(|pod| self.pod(*pod)), pods, proto),
                Self::V4 | Self::Mapped => {
                    let plain = |pod: &u8| Self::V4.pod(*pod);
                    serve(&mut node.v4, Self::V4.service(last), pods.iter().map(plain), pods, proto);
                }
            }
        }
    }

    /// Changes the frontends of Service `last`.
    fn alter(self, node: &mut SimNode, last: u8, change: impl Fn(&mut Frontend)) {
        match self {
            Self::V6 => alter(&mut node.v6, last, change),
            Self::V4 | Self::Mapped => alter(&mut node.v4, last, change),
        }
    }

    /// Says what state the backend of a pod is in; `None` removes it.
    fn set_state(self, node: &mut SimNode, pod: u8, state: Option<u8>) {
        match self {
            Self::V6 => set_state(&mut node.v6, pod, state),
            Self::V4 | Self::Mapped => set_state(&mut node.v4, pod, state),
        }
    }
}

fn endpoint<F: Family>(address: SocketAddr) -> Endpoint<F> {
    Endpoint { addr: F::from_ip(address.ip()).unwrap(), port: address.port() }
}

/// A Service's id is the last byte of its address, and its slots begin at a hundred times that.
fn serve<F: Family>(
    maps: &mut SimMaps<F>,
    service: SocketAddr,
    pods: impl Iterator<Item = SocketAddr>,
    ids: &[u8],
    proto: Proto,
) {
    let Endpoint { addr, port } = endpoint::<F>(service);
    let id = u32::from(*addr.as_ref().last().unwrap());
    let first_slot = id * 100;
    maps.backends.values_mut().filter(|backend| backend.service == id).for_each(|backend| backend.sets = 0);
    for (index, (pod, backend)) in pods.zip(ids).enumerate() {
        let Endpoint { addr, port } = endpoint::<F>(pod);
        let backend = u32::from(*backend);
        let slot = first_slot + u32::try_from(index).unwrap();
        maps.slots.insert(slot, Slot { addr, backend, port, reserved: 0 });
        let state = backend_state::READY;
        let value = Backend { addr, port, proto: proto.number(), state, service: id, node: 0, sets: 1 };
        maps.backends.insert(backend, value);
    }
    let key = FrontendKey { addr, port, proto: proto.number(), scope: scope::INTERNAL };
    let n_slots = u32::try_from(ids.len()).unwrap();
    let frontend = Frontend { service: id, first_slot, n_slots, ..Frontend::default() };
    maps.frontends.insert(key, frontend.sealed(&key));
}

fn alter<F: Family>(maps: &mut SimMaps<F>, service: u8, change: impl Fn(&mut Frontend)) {
    for (key, frontend) in maps.frontends.iter_mut().filter(|(_, frontend)| frontend.service == u32::from(service)) {
        change(frontend);
        *frontend = frontend.sealed(key);
    }
}

fn set_state<F: Family>(maps: &mut SimMaps<F>, backend: u8, state: Option<u8>) {
    let id = u32::from(backend);
    match state {
        Some(state) => maps.backends.get_mut(&id).unwrap().state = state,
        None => drop(maps.backends.remove(&id)),
    }
}
