//! Random histories of a node's connection table beside a naive one: packets of several clients and backends in all
//! directions, foreign ones, repeated ones, ends and beginnings, silence, backends that come and go, a table that is too
//! small, and at times a single port of the node's, so that it is plain whose turn it is. After each packet both must hold the same flows, and what came out must be what the naive one says.

use std::collections::BTreeMap;

use lb_common::logic::{flow::expired, seam::Environment as _};
use proptest::prelude::*;

use super::*;

/// Entries of the table: few enough to run out, and an odd number, so that there comes a flow of which one half finds room.
pub(crate) const CAPACITY: u32 = 25;

/// One step of a history.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Any packet between any of the places that there are.
    Packet { src: usize, dst: usize, packet: Packet },
    /// A packet of a client to a Service.
    Ask { client: usize, service: usize, packet: Packet },
    /// A packet on a flow that is there, of its client or its backend.
    Known { flow: usize, of_backend: bool, packet: Packet },
    /// An ICMP error about a packet of a flow, on the way to its backend or to its client.
    Error { flow: usize, to_backend: bool },
    /// Other backends for a Service.
    Serve { service: usize, pods: Vec<usize> },
    /// Time.
    Wait { seconds: u32 },
    /// The agent removes what has expired.
    Age,
    /// The node has one port for connections to backends elsewhere, or more than are ever used.
    Ports { one: bool },
}

/// What a packet is, and where it is met.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    /// `None`: UDP.
    pub(crate) tcp: Option<u8>,
    pub(crate) egress: bool,
    pub(crate) pod_side: bool,
}

fn packet() -> impl Strategy<Value = Packet> {
    let flags = prop_oneof![4 => Just(SYN), 2 => Just(SYN | ACK), 4 => Just(ACK), 2 => Just(FIN | ACK), 1 => Just(RST)];
    (proptest::option::of(flags), any::<bool>(), any::<bool>()).prop_map(|(tcp, egress, pod_side)| Packet {
        tcp,
        egress,
        pod_side,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let index = || 0..100_usize;
    prop_oneof![
        2 => (index(), index(), packet()).prop_map(|(src, dst, packet)| Step::Packet { src, dst, packet }),
        6 => (index(), index(), packet()).prop_map(|(client, service, packet)| Step::Ask { client, service, packet }),
        8 => (index(), any::<bool>(), packet())
            .prop_map(|(flow, of_backend, packet)| Step::Known { flow, of_backend, packet }),
        1 => (index(), any::<bool>()).prop_map(|(flow, to_backend)| Step::Error { flow, to_backend }),
        1 => (index(), proptest::collection::vec(index(), 0..3))
            .prop_map(|(service, pods)| Step::Serve { service, pods }),
        1 => any::<bool>().prop_map(|one| Step::Ports { one }),
        2 => prop_oneof![1..5_u32, 1..40_u32, 100..140_u32, Just(3_700), Just(90_000)].prop_map(|seconds| Step::Wait { seconds }),
        1 => Just(Step::Age),
    ]
}

/// Protocol, source, destination.
type Tuple = (bool, SocketAddr, SocketAddr);

/// A flow as one who watches sees it: all that was sent.
#[derive(Clone, Debug)]
struct Watched {
    /// What the backend sees as the client, and the backend.
    ends: (SocketAddr, SocketAddr),
    from_client: Vec<u8>,
    from_backend: Vec<u8>,
    last_s: u32,
}

impl Watched {
    fn is_reset(&self) -> bool {
        [&self.from_client, &self.from_backend].iter().any(|sent| sent.last().is_some_and(|flags| flags & RST != 0))
    }

    fn n_ended(&self) -> usize {
        let ended = |sent: &[u8]| sent.iter().any(|flags| flags & FIN != 0);
        usize::from(ended(&self.from_client)) + usize::from(ended(&self.from_backend))
    }

    /// Both ends have forgotten it, so that its port may be another's.
    fn rests(&self, tcp: bool, now_s: u32) -> bool {
        tcp && (self.is_reset() || self.n_ended() == 2) && now_s - self.last_s >= 3
    }

    fn patience_s(&self, tcp: bool) -> u32 {
        match (tcp, self.from_backend.is_empty()) {
            (false, true) => 30,
            (false, false) => 120,
            _ if self.is_reset() => 10,
            _ if self.n_ended() == 2 => 30,
            _ if self.n_ended() == 1 => 3_600,
            (true, true) => 120,
            _ if !self.from_client.iter().any(|flags| flags & (ACK | SYN) == ACK) => 60,
            _ => 86_400,
        }
    }
}

/// The naive connection table, and the world around it.
pub(crate) struct Naive {
    net: Net,
    flows: BTreeMap<Tuple, Watched>,
    places: Vec<SocketAddr>,
    clients: Vec<SocketAddr>,
    services: Vec<SocketAddr>,
    pods: Vec<SocketAddr>,
    serving: BTreeMap<SocketAddr, Vec<SocketAddr>>,
    now_s: u32,
}

impl Naive {
    pub(crate) fn new(world: (World, bool)) -> Self {
        let mut net = Net::new(world);
        net.set_capacity(CAPACITY);
        let world = world.0;
        let pods = vec![
            world.local_pod(5),
            world.local_pod(6),
            world.remote_pod(7),
            world.tunnel_pod(8),
            SocketAddr::new(world.node(), 8080),
        ];
        let clients = vec![
            world.client(1),
            world.client(2),
            world.at([10, 244, 1], 5, 50_000),
            world.at([10, 244, 1], 9, 50_000),
            world.at([10, 244, 9], 9, 50_000),
        ];
        let services = vec![world.node_port(), world.cluster_ip(2), world.cluster_ip(3)];
        services[1..].iter().for_each(|service| net.guard(service.ip()));
        let places = [&pods[..], &clients[..], &services[..]].concat();
        let mut naive =
            Self { net, flows: BTreeMap::new(), places, clients, services, pods, serving: BTreeMap::new(), now_s: 0 };
        for service in 0..3 {
            naive.serve(service, &[service, service + 1, 4]);
        }
        naive
    }

    fn serve(&mut self, service: usize, pods: &[usize]) {
        let service = pick(&self.services, service);
        let mut pods: Vec<_> = pods.iter().map(|pod| pick(&self.pods, *pod)).collect();
        pods.sort_unstable();
        pods.dedup();
        self.net.serve(service, &pods);
        self.serving.insert(service, pods);
    }

    fn has_one_port(&self) -> bool {
        self.net.node.traffic.node.snat_last == SNAT_FIRST
    }

    fn is_over(&self, tuple: &Tuple, flow: &Watched) -> bool {
        self.now_s - flow.last_s > flow.patience_s(tuple.0)
    }

    fn send(&mut self, src: SocketAddr, dst: SocketAddr, packet: Packet) -> Result<(), TestCaseError> {
        let frame = match packet.tcp {
            Some(flags) => Frame::tcp(src, dst, flags),
            None => Frame::udp(src, dst),
        };
        let side = if packet.pod_side { Side::Pod } else { Side::Uplink };
        let outcome = if packet.egress { self.net.leaves(&frame) } else { self.net.arrives(&frame, side) };
        let tuple = (packet.tcp.is_some(), src, dst);
        let flags = packet.tcp.unwrap_or(0);
        let answered = self.flows.iter().find(|(asked, flow)| asked.0 == tuple.0 && flow.ends == (dst, src));
        if let Some(asked) = answered.map(|(asked, _)| *asked) {
            return self.of_backend(asked, flags, &frame, outcome);
        }
        if packet.egress {
            prop_assert_eq!(passed(outcome), frame.packet(self.net.offloaded), "no answer");
            return Ok(());
        }
        if let Some(flow) = self.flows.get(&tuple).cloned() {
            let backend_gone = !self.serving[&dst].contains(&flow.ends.1);
            let anew = flags == SYN && (flow.is_reset() || flow.n_ended() == 2 || backend_gone);
            if !anew && !self.is_over(&tuple, &flow) {
                prop_assert_eq!(sent(outcome), flow.ends, "the packet of a known client");
                let flow = self.flows.get_mut(&tuple).unwrap();
                flow.from_client.push(flags);
                flow.last_s = self.now_s;
                return Ok(());
            }
            self.flows.remove(&tuple);
        }
        self.unknown(tuple, packet, &frame, outcome)
    }

    /// A packet of a backend on one of its flows.
    fn of_backend(&mut self, asked: Tuple, flags: u8, frame: &Frame, outcome: Outcome) -> Result<(), TestCaseError> {
        if self.is_over(&asked, &self.flows[&asked]) {
            self.flows.remove(&asked);
            prop_assert_eq!(passed(outcome), frame.packet(self.net.offloaded), "an answer to nothing");
            return Ok(());
        }
        prop_assert_eq!(sent(outcome), (asked.2, asked.1), "exactly what the client had asked");
        let flow = self.flows.get_mut(&asked).unwrap();
        flow.from_backend.push(flags);
        flow.last_s = self.now_s;
        Ok(())
    }

    /// A packet that belongs to no flow.
    fn unknown(
        &mut self,
        (tcp, src, dst): Tuple,
        Packet { tcp: flags, pod_side, .. }: Packet,
        frame: &Frame,
        outcome: Outcome,
    ) -> Result<(), TestCaseError> {
        let flags = flags.unwrap_or(0);
        let Some(pods) = self.serving.get(&dst) else {
            prop_assert_eq!(passed(outcome), frame.packet(self.net.offloaded), "not a Service");
            return Ok(());
        };
        let node = self.net.world.node();
        let spoofed = pod_side != same_net(src.ip(), self.net.world.local_pod(0).ip());
        if tcp && flags != SYN && dst.ip() == node {
            prop_assert_eq!(passed(outcome), frame.packet(self.net.offloaded), "for the stack");
        } else if tcp && flags & RST != 0 || spoofed || self.services.iter().any(|service| service.ip() == src.ip()) {
            prop_assert_eq!(outcome, Outcome::Dropped);
        } else if tcp && flags != SYN || pods.is_empty() {
            let packet = answered(outcome);
            let (from, to) = ends(&packet.bytes).unwrap();
            prop_assert_eq!((from.ip(), to.ip()), (dst.ip(), src.ip()));
        } else if outcome == Outcome::Dropped {
            let has_port = |flow: &Watched| {
                let (from, to) = flow.ends;
                from.port() == SNAT_FIRST && (from.ip() == node || from.ip() == src.ip()) && pods.contains(&to)
            };
            let waits = |flow: &Watched| has_port(flow) && !flow.rests(tcp, self.now_s);
            let no_port = self.has_one_port() && self.flows.iter().any(|(other, flow)| other.0 == tcp && waits(flow));
            prop_assert!(no_port || self.net.n_entries() + 2 > CAPACITY as usize, "there was room");
        } else {
            let (from, to) = sent(outcome);
            prop_assert!(pods.contains(&to), "sent to {}, but {:?} serve", to, pods);
            let renamed =
                (from.ip() == node || from.ip() == src.ip()) && (SNAT_FIRST..=SNAT_LAST).contains(&from.port());
            prop_assert!(from == src || renamed, "{} is shown as {}", src, from);
            let before = self.flows.iter().find(|(other, flow)| other.0 == tcp && flow.ends == (from, to));
            if let Some((other, flow)) = before.map(|(other, flow)| (*other, flow.clone())) {
                let is_free = self.has_one_port() && from != src && flow.rests(tcp, self.now_s);
                prop_assert!(is_free, "{} to {} is another flow: {:?}", from, to, flow);
                self.flows.remove(&other);
            }
            let watched =
                Watched { ends: (from, to), from_client: vec![flags], from_backend: Vec::new(), last_s: self.now_s };
            self.flows.insert((tcp, src, dst), watched);
        }
        Ok(())
    }

    fn error(&self, flow: usize, to_backend: bool) -> Result<(), TestCaseError> {
        let Some(((tcp, client, service), flow)) = self.flows.iter().nth(flow % self.flows.len().max(1)) else {
            return Ok(());
        };
        let (from, backend) = flow.ends;
        // Who sent the packet and whom to, after it was translated and before.
        let (sender, receiver) = if to_backend { (from, backend) } else { (*service, *client) };
        let before = if to_backend { (*client, *service) } else { (backend, from) };
        let quoted = if *tcp { Frame::tcp(sender, receiver, ACK) } else { Frame::udp(sender, receiver) };
        let kind = if self.net.world == World::V4 { (3, 4, 1_300) } else { (2, 0, 1_300) };
        let router = self.net.world.ip([10, 7, 7], 7);
        let error = Frame::icmp(router, sender.ip(), kind, quoted.bytes());
        let outcome = self.net.arrives(&error, Side::Uplink);
        let (Outcome::Sent(_, packet) | Outcome::Rewritten(packet)) = outcome else {
            return Err(TestCaseError::fail(format!("not turned back: {outcome:x?}")));
        };
        prop_assert_eq!(ends(&packet.bytes).unwrap().1.ip(), before.0.ip());
        let quote = SimPacket::new(packet.bytes[self.net.world.header() + 8..].to_vec());
        prop_assert_eq!(ends(&quote.bytes), Some(before));
        prop_assert_eq!(verify(&quote), Ok(()));
        Ok(())
    }

    /// [`expired`] over all pairs.
    fn age(&mut self) {
        age_all(&self.net.node);
        let over: Vec<_> =
            self.flows.iter().filter(|(tuple, flow)| self.is_over(tuple, flow)).map(|(tuple, _)| *tuple).collect();
        over.iter().for_each(|tuple| drop(self.flows.remove(tuple)));
    }

    pub(crate) fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Packet { src, dst, packet } => self.send(pick(&self.places, src), pick(&self.places, dst), packet)?,
            Step::Ask { client, service, packet } => {
                let packet = Packet { egress: false, pod_side: client % 5 >= 2 && client % 5 < 4, ..packet };
                self.send(pick(&self.clients, client), pick(&self.services, service), packet)?;
            }
            Step::Known { flow, of_backend, packet } => {
                let Some((tuple, flow)) = self.flows.iter().nth(flow % self.flows.len().max(1)) else {
                    return Ok(());
                };
                let (src, dst) = if of_backend { (flow.ends.1, flow.ends.0) } else { (tuple.1, tuple.2) };
                let tcp = tuple.0.then_some(packet.tcp.unwrap_or(ACK));
                self.send(src, dst, Packet { tcp, ..packet })?;
            }
            Step::Error { flow, to_backend } => self.error(flow, to_backend)?,
            Step::Serve { service, pods } => self.serve(service, &pods),
            Step::Wait { seconds } => {
                self.net.node.environment.advance(seconds);
                self.now_s += seconds;
            }
            Step::Age => self.age(),
            Step::Ports { one } => self.net.node.traffic.node.snat_last = if one { SNAT_FIRST } else { SNAT_LAST },
        }
        self.net.assert_no_half_is_alone();
        prop_assert_eq!(self.net.n_entries(), 2 * self.flows.len(), "both hold the same flows: {:?}", self.flows);
        Ok(())
    }
}

/// The agent's ageing, of both families.
pub(crate) fn age_all(node: &SimNode) {
    age::<V4>(node, node.environment.now_s());
    age::<V6>(node, node.environment.now_s());
}

fn age<F: Traffic>(node: &SimNode, now_s: u32) {
    let mut conns = F::flows(&node.traffic).conns.borrow_mut();
    let all = conns.clone();
    for (key, half) in all.iter().filter(|(_, half)| !half.is_reply()) {
        let partner = half.partner(key);
        if expired(key.proto, half, &all[&partner], now_s) {
            conns.remove(key);
            conns.remove(&partner);
        }
    }
}

fn pick<T: Copy>(all: &[T], index: usize) -> T {
    all[index % all.len()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: histories(400), ..ProptestConfig::default() })]

    #[test]
    fn the_connection_table_holds_what_a_naive_one_holds(
        steps in proptest::collection::vec(step(), 1..120),
        world in proptest::sample::select(&WORLDS[..]),
    ) {
        let mut naive = Naive::new(world);
        for step in steps {
            naive.take(step)?;
        }
    }
}
