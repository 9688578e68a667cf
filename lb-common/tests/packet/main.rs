//! What the packet layer does with packets, on a simulated node with an uplink, pods of its own and pods elsewhere. Every
//! packet that comes out has its checksums verified by code that knows nothing of ours.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod answers;
mod errors;
mod forward;
mod fragments;
pub(crate) mod history;
mod lifetimes;
mod limits;
mod policies;
mod strange;

use std::{
    env,
    net::{IpAddr, SocketAddr},
};

use lb_common::{
    abi::{
        Backend, ClusterIps, Counter, Device, Endpoint, Family, Flow, FlowKey, Frontend, FrontendKey, NodeConfig,
        Proto, SNAT_FIRST, SNAT_LAST, Slot, V4, V6, backend_state, device_flags, endpoint_sets, frontend_flags, scope,
    },
    logic::{forward::Side, seam::Route},
    sim::{
        Outcome, Rival, SimMaps, SimNode, SimPacket, Traffic,
        frames::{Body, Frame, ends, verify},
    },
};

const UPLINK: u32 = 1;
const PODS: u32 = 2;
/// Leads to pods of other nodes and has no programs: a vxlan device.
const TUNNEL: u32 = 3;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum World {
    V4,
    V6,
}

/// Both families, each with and without checksum offload.
pub(crate) const WORLDS: [(World, bool); 4] =
    [(World::V4, false), (World::V4, true), (World::V6, false), (World::V6, true)];

impl World {
    fn ip(self, net: [u8; 3], last: u8) -> IpAddr {
        let [a, b, c] = net;
        match self {
            Self::V4 => [a, b, c, last].into(),
            Self::V6 => [0xfd00, u16::from(a), u16::from(b), u16::from(c), 0, 0, 0, u16::from(last)].into(),
        }
    }

    /// Bytes of a network header.
    fn header(self) -> usize {
        if self == Self::V4 { 20 } else { 40 }
    }

    fn at(self, net: [u8; 3], last: u8, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(net, last), port)
    }

    pub(crate) fn node(self) -> IpAddr {
        self.ip([192, 168, 2], 1)
    }

    pub(crate) fn node_port(self) -> SocketAddr {
        SocketAddr::new(self.node(), 30_080)
    }

    pub(crate) fn cluster_ip(self, last: u8) -> SocketAddr {
        self.at([10, 96, 0], last, 80)
    }

    pub(crate) fn client(self, last: u8) -> SocketAddr {
        self.at([203, 0, 113], last, 40_000)
    }

    pub(crate) fn local_pod(self, last: u8) -> SocketAddr {
        self.at([10, 244, 1], last, 8080)
    }

    pub(crate) fn remote_pod(self, last: u8) -> SocketAddr {
        self.at([10, 244, 2], last, 8080)
    }

    pub(crate) fn tunnel_pod(self, last: u8) -> SocketAddr {
        self.at([10, 244, 9], last, 8080)
    }
}

/// A node in a world.
pub(crate) struct Net {
    pub(crate) node: SimNode,
    pub(crate) world: World,
    offloaded: bool,
}

impl Net {
    pub(crate) fn new((world, offloaded): (World, bool)) -> Self {
        let mut net = Self { node: SimNode::new(7), world, offloaded };
        let flags = |flags| Device { flags, ..Device::default() };
        net.node.traffic.devices = [(UPLINK, flags(device_flags::UPLINK)), (PODS, flags(device_flags::POD))].into();
        net.node.traffic.node = NodeConfig {
            addr4: V4::from_ip(World::V4.node()).unwrap(),
            addr6: V6::from_ip(World::V6.node()).unwrap(),
            snat_first: SNAT_FIRST,
            snat_last: SNAT_LAST,
            answers_per_s: 1_000,
            flags: 0,
        };
        routes::<V4>(&mut net.node, World::V4, 0);
        routes::<V6>(&mut net.node, World::V6, 40);
        net.guard(world.cluster_ip(1).ip());
        net
    }

    /// Adds a route to one address.
    fn route(&mut self, to: IpAddr, route: Route) {
        match self.world {
            World::V4 => self.node.traffic.v4.routes.push((V4::from_ip(to).unwrap(), 32, route)),
            World::V6 => self.node.traffic.v6.routes.push((V6::from_ip(to).unwrap(), 128, route)),
        }
    }

    /// Lets the kernel choose a source towards one address.
    fn prefer(&mut self, to: IpAddr, source: IpAddr) {
        let addr4 = |ip| V4::from_ip(ip).unwrap();
        let addr6 = |ip| V6::from_ip(ip).unwrap();
        match self.world {
            World::V4 => self.node.traffic.v4.sources.push((addr4(to), 32, addr4(source))),
            World::V6 => self.node.traffic.v6.sources.push((addr6(to), 128, addr6(source))),
        }
    }

    /// Gives a pod a device of its own, as point-to-point network plugins do.
    fn own_device(&mut self, pod: IpAddr, index: u32) {
        self.route(pod, Route::Neighbour(index));
        self.node.traffic.devices.insert(index, Device { flags: device_flags::POD, ..Device::default() });
    }

    /// Makes all ports of a ClusterIP refuse that no Service has.
    fn guard(&mut self, ip: IpAddr) {
        match self.world {
            World::V4 => guard(&mut self.node.v4, ip),
            World::V6 => guard(&mut self.node.v6, ip),
        }
    }

    /// Makes these pods answer at `address` for TCP and UDP, and nobody else. The Service's id is the last byte of its address,
    /// and its slots begin at a hundred times that; a backend's id is that of the Service and the last byte of the pod's.
    pub(crate) fn serve(&mut self, address: SocketAddr, pods: &[SocketAddr]) {
        self.serve_with(address, scope::INTERNAL, pods, |frontend| frontend);
    }

    fn serve_with(&mut self, address: SocketAddr, scope: u8, pods: &[SocketAddr], change: fn(Frontend) -> Frontend) {
        match self.world {
            World::V4 => serve(&mut self.node.v4, address, scope, pods, change),
            World::V6 => serve(&mut self.node.v6, address, scope, pods, change),
        }
    }

    /// Nobody says on which nodes the backends are.
    fn forget_nodes(&mut self) {
        fn forget<F: Family>(maps: &mut SimMaps<F>) {
            for backend in maps.backends.values_mut() {
                (backend.node, backend.sets) = (0, endpoint_sets::CLUSTER);
            }
        }
        forget(&mut self.node.v4);
        forget(&mut self.node.v6);
    }

    fn arrives(&self, frame: &Frame, side: Side) -> Outcome {
        let packet = frame.packet(self.offloaded);
        summed(frame, &packet, checked(self.node.arrives(packet.clone(), side)))
    }

    fn leaves(&self, frame: &Frame) -> Outcome {
        let packet = frame.packet(self.offloaded);
        summed(frame, &packet, checked(self.node.leaves(packet.clone())))
    }

    fn counted(&self, counter: Counter) -> u64 {
        self.node.environment.counted(counter)
    }

    /// Every half has its other half, and both say the same of the flow.
    pub(crate) fn assert_no_half_is_alone(&self) {
        halves::<V4>(&self.node);
        halves::<V6>(&self.node);
    }

    pub(crate) fn n_entries(&self) -> usize {
        self.node.traffic.v4.conns.borrow().len() + self.node.traffic.v6.conns.borrow().len()
    }

    pub(crate) fn set_capacity(&mut self, n_conns: u32) {
        self.node.traffic.v4.n_conns = n_conns;
        self.node.traffic.v6.n_conns = n_conns;
    }

    /// A TCP connection of `client` through `service`, of which all three segments of the handshake were seen. Returns what
    /// the backend sees: the client's end, and its own.
    pub(crate) fn connect(&self, client: SocketAddr, service: SocketAddr, side: Side) -> (SocketAddr, SocketAddr) {
        let (from, to) = sent(self.arrives(&Frame::tcp(client, service, SYN), side));
        self.answer(&Frame::tcp(to, from, SYN | ACK), (service, client));
        sent(self.arrives(&Frame::tcp(client, service, ACK), side));
        (from, to)
    }

    /// An answer of a backend, which must arrive as one of the Service's.
    fn answer(&self, frame: &Frame, expected: (SocketAddr, SocketAddr)) {
        let local = [self.world.local_pod(0).ip(), self.world.node()].iter().any(|ip| same_net(*ip, frame.src.ip()));
        let outcome = if local { self.leaves(frame) } else { self.arrives(frame, Side::Uplink) };
        assert_eq!(sent(outcome), expected);
    }
}

/// How many random cases a test tries: more where `LB_HISTORIES` says so, for a long run.
fn histories(usual: u32) -> u32 {
    env::var("LB_HISTORIES").map_or(usual, |text| text.parse().expect("LB_HISTORIES is a number"))
}

fn same_net(a: IpAddr, b: IpAddr) -> bool {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => a.octets()[..3] == b.octets()[..3],
        (IpAddr::V6(a), IpAddr::V6(b)) => a.octets()[..14] == b.octets()[..14],
        _ => false,
    }
}

/// Checksums of what comes out.
fn checked(outcome: Outcome) -> Outcome {
    assert_ne!(outcome, Outcome::Lost, "left to a stack that does not take it");
    match &outcome {
        Outcome::Passed(packet)
        | Outcome::Rewritten(packet)
        | Outcome::Sent(_, packet)
        | Outcome::Entered(_, packet)
        | Outcome::Answered(packet) => {
            verify(packet).unwrap_or_else(|what| panic!("{what}: {packet:x?}"));
        }
        // As they came.
        Outcome::Again(_) | Outcome::Dropped | Outcome::Lost => {}
    }
    outcome
}

/// The sum of the whole packet that a device may have formed when it came in is right when it leaves.
fn summed(frame: &Frame, before: &SimPacket, outcome: Outcome) -> Outcome {
    // Nobody looks at the sum of a datagram without checksum.
    let is_looked_at = !before.offloaded && frame.body != Body::Udp { unsummed: true };
    if let Outcome::Rewritten(packet) | Outcome::Sent(_, packet) | Outcome::Entered(_, packet) = &outcome
        && is_looked_at
    {
        assert_eq!(packet.whole_sum(0), before.whole_sum(packet.sums_differently), "{frame:?} became {packet:x?}");
    }
    outcome
}

/// Source and destination of a packet that was rewritten.
fn sent(outcome: Outcome) -> (SocketAddr, SocketAddr) {
    match outcome {
        Outcome::Sent(_, packet) | Outcome::Entered(_, packet) | Outcome::Rewritten(packet) => {
            ends(&packet.bytes).unwrap()
        }
        other => panic!("not sent on: {other:x?}"),
    }
}

fn passed(outcome: Outcome) -> SimPacket {
    match outcome {
        Outcome::Passed(packet) => packet,
        other => panic!("not left alone: {other:x?}"),
    }
}

fn answered(outcome: Outcome) -> SimPacket {
    match outcome {
        Outcome::Answered(packet) => packet,
        other => panic!("not answered: {other:x?}"),
    }
}

/// A number of this many bytes in a packet, in wire order.
fn number(packet: &SimPacket, at: usize, len: usize) -> u32 {
    packet.bytes.get(at..at + len).unwrap().iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn routes<F: Traffic>(node: &mut SimNode, world: World, more_bits: u32) {
    let all = if world == World::V4 { 32 } else { 128 };
    let net = if world == World::V4 { 24 } else { 24 + more_bits };
    let addr = |ip| F::from_ip(ip).unwrap();
    F::flows_mut(&mut node.traffic).routes = vec![
        (addr(world.ip([0, 0, 0], 0)), 0, Route::Router(UPLINK)),
        (addr(world.node()), all, Route::NotForwarded),
        (addr(world.local_pod(0).ip()), net, Route::Neighbour(PODS)),
        (addr(world.tunnel_pod(0).ip()), net, Route::Router(TUNNEL)),
    ];
}

fn endpoint<F: Family>(address: SocketAddr) -> Endpoint<F> {
    Endpoint { addr: F::from_ip(address.ip()).unwrap(), port: address.port() }
}

fn id(ip: IpAddr) -> u32 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip.octets()[3]),
        IpAddr::V6(ip) => u32::from(ip.octets()[15]),
    }
}

fn guard<F: Family>(maps: &mut SimMaps<F>, ip: IpAddr) {
    let key = FrontendKey { addr: F::from_ip(ip).unwrap(), port: 0, proto: 0, scope: scope::INTERNAL };
    maps.frontends.insert(key, Frontend::default().sealed(&key));
    // All of them: as in a new map.
    maps.cluster_ips = ClusterIps::default();
}

fn serve<F: Family>(
    maps: &mut SimMaps<F>,
    address: SocketAddr,
    scope: u8,
    pods: &[SocketAddr],
    change: fn(Frontend) -> Frontend,
) {
    let service = id(address.ip());
    let first_slot = service * 100 + u32::from(scope) * 10;
    if scope == scope::INTERNAL {
        maps.backends.retain(|_, backend| backend.service != service);
    }
    for (index, pod) in pods.iter().enumerate() {
        let Endpoint { addr, port } = endpoint::<F>(*pod);
        let backend = service << 8 | id(pod.ip());
        maps.slots.insert(first_slot + u32::try_from(index).unwrap(), Slot { addr, backend, port, reserved: 0 });
        let here = same_net(World::V4.local_pod(0).ip(), pod.ip()) || same_net(World::V6.local_pod(0).ip(), pod.ip());
        let sets = endpoint_sets::CLUSTER | if here { endpoint_sets::ON_NODE | endpoint_sets::LOCAL } else { 0 };
        let (state, node) = (backend_state::READY, if here { 1 } else { 2 });
        maps.backends.insert(backend, Backend { addr, port, proto: 0, state, service, node, sets });
    }
    for proto in [Proto::Tcp, Proto::Udp] {
        let Endpoint { addr, port } = endpoint::<F>(address);
        let key = FrontendKey { addr, port, proto: proto.number(), scope };
        let n_slots = u32::try_from(pods.len()).unwrap();
        let frontend = change(Frontend { service, first_slot, n_slots, ..Frontend::default() });
        maps.frontends.insert(key, frontend.sealed(&key));
    }
}

fn halves<F: Traffic>(node: &SimNode) {
    let conns = F::flows(&node.traffic).conns.borrow();
    for (key, half) in conns.iter() {
        assert!(half.is_of(key), "{key:?} has another's value: {half:?}");
        let partner = half.partner(key);
        let other: Option<&Flow<F>> = conns.get(&partner);
        let other = other.unwrap_or_else(|| panic!("{key:?} is alone, without {partner:?}"));
        assert_eq!(other.partner(&partner), *key as FlowKey<F>, "the other half belongs to another flow");
        assert_ne!(half.is_reply(), other.is_reply());
    }
}
