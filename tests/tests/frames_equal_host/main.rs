//! The same random frames, one after the other, through the programs that the agent attaches to devices, run by the kernel
//! over its maps and its routing tables, and on the host over the simulated ones: bytes, verdicts, counters and connection
//! tables must be equal.
//!
//! What is drawn by chance is held fixed: each Service has one backend, and the range of ports for source addresses has one
//! port. The host's clock stands still; the ages of flows that it is told to have are given to the kernel's as well. Needs root and `cargo xtask ebpf`.
//!
//! What the programs cost is told by `costs`, on the same maps and routes.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod costs;

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, PerCpuArray},
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use lb_agent::clock::monotonic_s;
use lb_common::{
    abi::{
        Absent, Backend, ClusterIps, Counter, Device, Family, Flow, FlowKey, Frontend, FrontendKey, N_ABSENT,
        NodeConfig, Proto, Slot, V4, V6, backend_state, context_at, device_flags, endpoint_sets, frontend_flags, maps,
        scope,
    },
    logic::{
        forward::Side,
        seam::{Environment as _, Route},
    },
    sim::{
        Outcome, SimEnvironment, SimMaps, SimNode, SimPacket,
        frames::{Body, Frame, ends},
    },
};
use lb_tests::{NetNs, kernel_objects};

const FRAMES: u32 = 4_000;
const UPLINK: u32 = 11;
const PODS: u32 = 12;
const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PODS_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const NEIGHBOUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const MTU: u32 = 1_400;
const SNAT_PORT: u16 = 61_000;
const NODE_PORT: u16 = 30_080;

/// Addresses by what they are, in both families.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Node,
    /// Another address of the node, which the routes to its backends elsewhere prefer.
    Preferred,
    Client(u8),
    LocalPod(u8),
    RemotePod(u8),
    Service(u8),
    Loopback,
}

impl Who {
    fn ip(self, v6: bool) -> IpAddr {
        let (net, last) = match self {
            Self::Node => ([192, 168, 2], 1),
            Self::Preferred => ([192, 168, 3], 1),
            Self::Client(n) => ([203, 0, 113], n),
            Self::LocalPod(n) => ([10, 244, 1], n),
            Self::RemotePod(n) => ([10, 244, 2], n),
            Self::Service(n) => ([10, 96, 0], n),
            Self::Loopback if v6 => return V6::LOOPBACK.into(),
            Self::Loopback => return V4::LOOPBACK.into(),
        };
        let [a, b, c] = net;
        if v6 { [0xfd00, a.into(), b.into(), c.into(), 0, 0, 0, last.into()].into() } else { [a, b, c, last].into() }
    }

    fn of<F: Family>(self) -> F::Addr {
        F::from_ip(self.ip(F::VERSION == 6)).unwrap()
    }
}

/// The backends of the Services 1, 2 and so on, where they have one.
const BACKENDS: [Option<(Who, u16)>; 6] =
    [Some((Who::LocalPod(1), 8080)), Some((Who::RemotePod(1), 8080)), Some((Who::Node, 8080)), None, None, None];
/// Of these the last answers nobody in silence, and the one before has no port but its guard.
const SILENT: u8 = 6;
const GUARDED: u8 = 5;

/// A network namespace whose routes are those of [`fill`].
fn network() -> NetNs {
    let netns = NetNs::new("frames").unwrap();
    netns.sysctl("net/ipv4/ip_forward", "1").unwrap();
    netns.sysctl("net/ipv6/conf/all/forwarding", "1").unwrap();
    let mut commands = vec![
        format!("link add up0 index {UPLINK} address 02:00:00:00:00:01 mtu {MTU} type veth peer name far0"),
        format!("link add pod0 index {PODS} address 02:00:00:00:00:02 mtu {MTU} type veth peer name far1"),
    ];
    commands.extend(["up0", "far0", "pod0", "far1"].map(|link| format!("link set {link} up")));
    for v6 in [false, true] {
        let (own, net) = if v6 { (128, 112) } else { (32, 24) };
        let (node, preferred) = (Who::Node.ip(v6), Who::Preferred.ip(v6));
        let router = if v6 { "fe80::9" } else { "169.254.9.9" };
        let nodad = if v6 { " nodad" } else { "" };
        commands.push(format!("addr add {node}/{own} dev up0{nodad}"));
        commands.push(format!("addr add {preferred}/{own} dev lo{nodad}"));
        commands.push(format!("neigh add {router} lladdr 02:00:00:00:00:09 dev up0 nud permanent"));
        for (who, source) in [(Who::Client(0), node), (Who::RemotePod(0), preferred)] {
            commands.push(format!("route add {}/{net} via {router} dev up0 onlink src {source}", who.ip(v6)));
        }
        commands.push(format!("route add {}/{net} dev pod0 src {node}", Who::LocalPod(0).ip(v6)));
        for pod in 0..4 {
            let pod = Who::LocalPod(pod).ip(v6);
            commands.push(format!("neigh add {pod} lladdr 02:00:00:00:00:09 dev pod0 nud permanent"));
        }
    }
    netns.ip(commands).unwrap();
    netns.wait_up(&["up0", "pod0"]).unwrap();
    netns
}

/// The maps that the agent writes, and the routes.
fn fill<F: Family>(
    maps: &mut SimMaps<F>,
    routes: &mut Vec<(F::Addr, u32, Route)>,
    sources: &mut Vec<(F::Addr, u32, F::Addr)>,
) {
    for (service, backend) in (1..).zip(BACKENDS) {
        let id = u32::from(service);
        if let Some((who, port)) = backend {
            let addr = who.of::<F>();
            maps.slots.insert(id, Slot { addr, backend: id, port, reserved: 0 });
            let sets =
                endpoint_sets::CLUSTER | if matches!(who, Who::RemotePod(_)) { 0 } else { endpoint_sets::ON_NODE };
            let state = backend_state::READY;
            maps.backends.insert(id, Backend { addr, port, proto: 0, state, service: id, node: 0, sets });
        }
        let flags = if service == SILENT { frontend_flags::DROP } else { 0 };
        let n_slots = u32::from(backend.is_some());
        let value = Frontend { service: id, first_slot: id, n_slots, flags, ..Frontend::default() };
        let mut put = |who: Who, port, proto, value: Frontend| {
            let key = FrontendKey { addr: who.of::<F>(), port, proto, scope: scope::INTERNAL };
            maps.frontends.insert(key, value.sealed(&key));
        };
        for proto in [Proto::Tcp, Proto::Udp].map(Proto::number) {
            if service != GUARDED {
                put(Who::Service(service), 80, proto, value);
            }
            put(Who::Node, NODE_PORT + u16::from(service), proto, value);
        }
        put(Who::Service(service), 0, 0, Frontend { service: id, ..Frontend::default() });
    }
    maps.cluster_ips = ClusterIps { prefix: Who::Service(0).of::<F>(), mask: mask::<F>() };
    let bits = if F::VERSION == 6 { 112 } else { 24 };
    let to = |who: Who, route| (who.of::<F>(), bits, route);
    routes.extend([
        to(Who::Client(0), Route::Router(UPLINK)),
        to(Who::RemotePod(0), Route::Router(UPLINK)),
        to(Who::LocalPod(0), Route::Neighbour(PODS)),
    ]);
    let under = |who: Who, source: Who| (who.of::<F>(), bits, source.of::<F>());
    sources.extend([under(Who::RemotePod(0), Who::Preferred), under(Who::LocalPod(0), Who::Node)]);
}

/// Of the 24 or 112 bits that the Services share.
fn mask<F: Family>() -> F::Addr {
    let all: IpAddr = if F::VERSION == 6 {
        [0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0].into()
    } else {
        [255, 255, 255, 0].into()
    };
    F::from_ip(all).unwrap()
}

fn node() -> SimNode {
    let mut node = SimNode::new(1);
    let (v4, v6) = (&mut node.traffic.v4, &mut node.traffic.v6);
    fill::<V4>(&mut node.v4, &mut v4.routes, &mut v4.sources);
    fill::<V6>(&mut node.v6, &mut v6.routes, &mut v6.sources);
    let device = |flags| Device { flags, ..Device::default() };
    node.traffic.devices = [(UPLINK, device(device_flags::UPLINK)), (PODS, device(device_flags::POD))].into();
    node.traffic.mtus = [(UPLINK, MTU), (PODS, MTU)].into();
    let (addr4, addr6) = (Who::Node.of::<V4>(), Who::Node.of::<V6>());
    let (snat_first, snat_last, answers_per_s) = (SNAT_PORT, SNAT_PORT, u32::MAX);
    node.traffic.node = NodeConfig { addr4, addr6, snat_first, snat_last, answers_per_s, flags: 0 };
    node
}

/// The kernel's side.
struct Kernel {
    ebpf: Ebpf,
}

impl Kernel {
    /// Loads the programs of an object, with the node's maps.
    fn load(node: &SimNode, object: &Path) -> Self {
        let object = kernel_objects::read(object);
        let mut kernel = Self { ebpf: EbpfLoader::new().load(&object).unwrap() };
        for program in ["lb_uplink", "lb_pod", "lb_egress"] {
            kernel.program(program).load().unwrap();
        }
        kernel.put_absent(maps::NOFRONT4, node.v4.nofront());
        kernel.put_absent(maps::NOFRONT6, node.v6.nofront());
        for name in [maps::NOBACK4, maps::NOBACK6] {
            kernel.put_absent(name, vec![Absent::NOBODY; N_ABSENT as usize]);
        }
        kernel.put_family(&node.v4, [maps::FRONTENDS4, maps::SLOTS4, maps::BACKENDS4, maps::CLUSTERIPS4]);
        kernel.put_family(&node.v6, [maps::FRONTENDS6, maps::SLOTS6, maps::BACKENDS6, maps::CLUSTERIPS6]);
        kernel.put_hash(maps::DEVICES, &node.traffic.devices);
        let mut map: Array<_, NodeConfig> = kernel.ebpf.map_mut(maps::NODE).unwrap().try_into().unwrap();
        map.set(0, node.traffic.node, 0).unwrap();
        kernel
    }

    fn program(&mut self, name: &str) -> &mut SchedClassifier {
        self.ebpf.program_mut(name).unwrap().try_into().unwrap()
    }

    fn put_family<F: Family>(&mut self, sim: &SimMaps<F>, [frontends, slots, backends, cluster_ips]: [&str; 4]) {
        self.put_hash(frontends, &sim.frontends);
        self.put_hash(backends, &sim.backends);
        let mut map: Array<_, ClusterIps<F>> = self.ebpf.map_mut(cluster_ips).unwrap().try_into().unwrap();
        map.set(0, sim.cluster_ips, 0).unwrap();
        let mut map: Array<_, Slot<F>> = self.ebpf.map_mut(slots).unwrap().try_into().unwrap();
        sim.slots.iter().for_each(|(index, slot)| map.set(*index, slot, 0).unwrap());
    }

    /// Objects that are compared with this one may lack these maps.
    fn put_absent(&mut self, name: &str, lines: Vec<Absent>) {
        let Some(map) = self.ebpf.map_mut(name) else { return };
        let mut map: Array<_, Absent> = map.try_into().unwrap();
        (0..).zip(lines).for_each(|(index, line)| map.set(index, line, 0).unwrap());
    }

    fn put_hash<K: aya::Pod, V: aya::Pod>(&mut self, name: &str, entries: &BTreeMap<K, V>) {
        let mut map: HashMap<_, K, V> = self.ebpf.map_mut(name).unwrap().try_into().unwrap();
        entries.iter().for_each(|(key, value)| map.insert(key, value, 0).unwrap());
    }

    /// Runs a program on a frame that is on this device.
    fn run(&mut self, program: &str, index: u32, frame: &[u8]) -> (i32, Vec<u8>) {
        let (verdict, frame, _) = self.timed(program, index, frame, 1);
        (verdict, frame)
    }

    /// As [`Self::run`], again and again on the same packet, with the time of a run by the kernel's own account.
    fn timed(&mut self, program: &str, index: u32, frame: &[u8], repeat: u32) -> (i32, Vec<u8>, Duration) {
        let mut out = vec![0; 4_096];
        let result = self
            .program(program)
            .test_run(TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut out),
                ctx_in: Some(&context_at(index)),
                repeat,
                ..TestRunOptions::new()
            })
            .unwrap();
        out.truncate(result.data_size_out as usize);
        (result.return_value.cast_signed(), out, result.duration)
    }

    /// Makes the flows as old as the host takes them to be.
    fn age_as(&mut self, node: &SimNode) {
        let (now_s, host_s) = (monotonic_s(), node.environment.now_s());
        self.age_family(maps::CONNS4, &node.traffic.v4.conns.borrow(), now_s.wrapping_sub(host_s));
        self.age_family(maps::CONNS6, &node.traffic.v6.conns.borrow(), now_s.wrapping_sub(host_s));
    }

    fn age_family<F: Family>(&mut self, name: &str, conns: &BTreeMap<FlowKey<F>, Flow<F>>, ahead_s: u32) {
        let mut map: HashMap<_, FlowKey<F>, Flow<F>> = self.ebpf.map_mut(name).unwrap().try_into().unwrap();
        for (key, half) in conns {
            let in_kernel = map.get(key, 0).unwrap();
            let last_seen_s = half.last_seen_s.wrapping_add(ahead_s);
            if in_kernel.last_seen_s != last_seen_s {
                map.insert(key, Flow { last_seen_s, ..in_kernel }, 0).unwrap();
            }
        }
    }

    /// The connection table without times.
    fn conns<F: Family>(&self, name: &str) -> BTreeMap<FlowKey<F>, Flow<F>> {
        let map: HashMap<_, FlowKey<F>, Flow<F>> = self.ebpf.map(name).unwrap().try_into().unwrap();
        timeless(map.iter().map(Result::unwrap))
    }

    fn counted(&self, counter: Counter) -> u64 {
        let map: PerCpuArray<_, u64> = self.ebpf.map(maps::STATS).unwrap().try_into().unwrap();
        map.get(&(counter as u32), 0).unwrap().iter().sum()
    }
}

fn timeless<F: Family>(all: impl IntoIterator<Item = (FlowKey<F>, Flow<F>)>) -> BTreeMap<FlowKey<F>, Flow<F>> {
    all.into_iter().map(|(key, half)| (key, Flow { created_s: 0, last_seen_s: 0, ..half })).collect()
}

/// The programs by where a packet is.
#[derive(Clone, Copy, Debug)]
enum Hook {
    Uplink,
    Pod,
    Egress,
}

/// What became of a frame: the verdict, the packet, and the link-layer addresses where it was sent somewhere.
type Fate = (i32, Option<Vec<u8>>, Option<[[u8; 6]; 2]>);

/// What comes in again.
type Again = Vec<SimPacket>;

const PASS: i32 = -1;
const DROP: i32 = 2;
const REDIRECT: i32 = 7;

impl Hook {
    fn device(self) -> (&'static str, u32, [u8; 6]) {
        match self {
            Self::Uplink => ("lb_uplink", UPLINK, UPLINK_MAC),
            Self::Pod => ("lb_pod", PODS, PODS_MAC),
            Self::Egress => ("lb_egress", UPLINK, UPLINK_MAC),
        }
    }

    fn on_the_host(self, node: &SimNode, packet: &SimPacket) -> (Fate, Again) {
        let (_, _, own) = self.device();
        let mut again = Vec::new();
        let outcome = match self {
            Self::Uplink => node.arrives(packet.clone(), Side::Uplink),
            Self::Pod => node.arrives(packet.clone(), Side::Pod),
            Self::Egress => node.leaves(packet.clone()),
        };
        let fate = match outcome {
            Outcome::Passed(packet) | Outcome::Rewritten(packet) => (PASS, Some(packet.bytes), None),
            Outcome::Again(packets) => {
                let bytes = packets.last().map(|packet| packet.bytes.clone());
                again = packets;
                (REDIRECT, bytes, Some([own, NEIGHBOUR_MAC]))
            }
            Outcome::Sent(UPLINK, packet) => (REDIRECT, Some(packet.bytes), Some([NEIGHBOUR_MAC, UPLINK_MAC])),
            Outcome::Sent(_, packet) | Outcome::Entered(_, packet) => {
                (REDIRECT, Some(packet.bytes), Some([NEIGHBOUR_MAC, PODS_MAC]))
            }
            Outcome::Answered(packet) => (REDIRECT, Some(packet.bytes), Some([NEIGHBOUR_MAC, own])),
            Outcome::Dropped => (DROP, None, None),
            // The simulation does not keep what the stack loses.
            Outcome::Lost => (PASS, None, None),
        };
        (fate, again)
    }

    /// The packet with a link-layer header.
    fn frame(self, packet: &SimPacket) -> Vec<u8> {
        let (_, _, own) = self.device();
        let ethertype: [u8; 2] = if packet.bytes[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
        [&own[..], &NEIGHBOUR_MAC, &ethertype, &packet.bytes].concat()
    }

    fn in_the_kernel(self, kernel: &mut Kernel, packet: &SimPacket) -> Fate {
        let (program, index, _) = self.device();
        let (verdict, frame) = kernel.run(program, index, &self.frame(packet));
        let mac = |at: usize| <[u8; 6]>::try_from(&frame[at..at + 6]).unwrap();
        match verdict {
            DROP => (DROP, None, None),
            REDIRECT => (REDIRECT, Some(frame[14..].to_vec()), Some([mac(0), mac(6)])),
            other => (other, Some(frame[14..].to_vec()), None),
        }
    }
}

/// A random packet: to a Service, in answer to an earlier one, an error about one, or of no concern.
fn packet(dice: &SimEnvironment, number: u32, seen: &[Vec<u8>]) -> SimPacket {
    let v6 = dice.one_in(2);
    if dice.one_in(8) {
        return turnover(dice, v6).packet(false);
    }
    if dice.one_in(4) {
        return piece(dice, number / 24).packet(false);
    }
    let mut frame = if seen.is_empty() || dice.one_in(2) { request(dice, v6) } else { reaction(dice, seen) };
    frame.hops = dice.pick(&[64, 64, 64, 2, 1]);
    frame.options = dice.pick(&[0, 0, 0, 4]) * usize::from(frame.src.is_ipv4());
    frame.may_fragment = dice.one_in(3);
    if !matches!(frame.body, Body::Icmp(..)) {
        frame.data = vec![7; dice.pick(&[0, 5, 700, 1_330, 1_400])];
        frame.fragment = dice.one_in(8).then(|| dice.below(4));
    }
    frame.packet(false)
}

/// Clients outside that take turns at the one port for the backend elsewhere: the beginning of a connection, or its end.
fn turnover(dice: &SimEnvironment, v6: bool) -> Frame {
    let at = |who: Who, port| SocketAddr::new(who.ip(v6), port);
    if dice.one_in(2) {
        return Frame::tcp(at(Who::RemotePod(1), 8080), at(Who::Preferred, SNAT_PORT), 20);
    }
    Frame::tcp(at(dice.pick(&[Who::Client(1), Who::Client(2)]), 40_000), at(Who::Node, NODE_PORT + 2), 2)
}

/// One of the three pieces of a datagram, in any order: to a Service, from a backend, or of no concern.
fn piece(dice: &SimEnvironment, id: u32) -> Frame {
    const UNITS: u16 = 160;
    let v6 = id.is_multiple_of(2);
    let at = |who: Who, port| SocketAddr::new(who.ip(v6), port);
    let client = at(Who::Client(1), 40_000);
    let pairs = [
        (client, at(Who::Service(1), 80)),
        (client, at(Who::Service(4), 80)),
        (client, at(Who::Node, NODE_PORT + 1)),
        (client, at(Who::Node, 22)),
        (client, at(Who::LocalPod(3), 22)),
        (at(Who::LocalPod(1), 8080), client),
        (at(Who::RemotePod(1), 8080), client),
    ];
    let (src, dst) = pairs[id as usize / 2 % pairs.len()];
    let units = UNITS * u16::try_from(dice.below(3)).unwrap();
    let frame = Frame { fragment: Some(100 + id), ..Frame::udp(src, dst) };
    if units == 0 {
        return Frame { data: vec![1; usize::from(UNITS) * 8 - 8], ..frame };
    }
    let proto = dice.pick(&[17, 17, 17, 17, if v6 { 58 } else { 1 }]);
    Frame { body: Body::Later(units, proto), data: vec![2; dice.pick(&[8, 1_280])], ..frame }
}

fn segment(dice: &SimEnvironment, src: SocketAddr, dst: SocketAddr) -> Frame {
    match dice.below(4) {
        0 => Frame { body: Body::Udp { unsummed: src.is_ipv4() && dice.one_in(3) }, ..Frame::udp(src, dst) },
        1 => Frame::udp(src, dst),
        2 => Frame::tcp(src, dst, 2),
        _ => Frame::tcp(src, dst, dice.pick(&[2, 16, 18, 17, 4, 24, 20])),
    }
}

fn request(dice: &SimEnvironment, v6: bool) -> Frame {
    let who = dice.pick(&[Who::Client(1), Who::Client(2), Who::LocalPod(1), Who::LocalPod(2), Who::RemotePod(1)]);
    let who = if dice.one_in(20) { dice.pick(&[Who::Node, Who::Loopback, Who::Service(1)]) } else { who };
    let service = u8::try_from(1 + dice.below(6)).unwrap();
    let (to, port) = match dice.below(6) {
        0 | 1 => (Who::Service(service), 80),
        2 | 3 => (Who::Node, NODE_PORT + u16::from(service)),
        4 => (Who::Service(service), 81),
        _ => (dice.pick(&[Who::Node, Who::Client(3), Who::LocalPod(3)]), 22),
    };
    let from = SocketAddr::new(who.ip(v6), dice.pick(&[40_000, 40_001]));
    segment(dice, from, SocketAddr::new(to.ip(v6), port))
}

/// Something about a packet that came out before.
fn reaction(dice: &SimEnvironment, seen: &[Vec<u8>]) -> Frame {
    let quoted = &seen[dice.below(u32::try_from(seen.len()).unwrap()) as usize];
    let (src, dst) = ends(quoted).unwrap();
    if dice.one_in(4) {
        let v6 = src.is_ipv6();
        let kinds = if v6 {
            [(1, 4, 0), (2, 0, 1_280), (3, 0, 0), (128, 0, 0)]
        } else {
            [(3, 3, 0), (3, 4, 1_280), (11, 0, 0), (8, 0, 0)]
        };
        let sender = if dice.one_in(2) { dst.ip() } else { Who::Client(9).ip(v6) };
        let len = quoted.len().min(dice.pick(&[28, 60, 548]).max(if v6 { 48 } else { 28 }));
        return Frame::icmp(sender, src.ip(), dice.pick(&kinds), quoted[..len].to_vec());
    }
    segment(dice, dst, src)
}

/// Nothing is heard of any flow for some seconds.
fn silence(node: &SimNode) {
    fn quieten<F: Family>(conns: &RefCell<BTreeMap<FlowKey<F>, Flow<F>>>) {
        conns.borrow_mut().values_mut().for_each(|half| half.last_seen_s = half.last_seen_s.wrapping_sub(4));
    }
    quieten(&node.traffic.v4.conns);
    quieten(&node.traffic.v6.conns);
}

#[test]
fn kernel_and_host_do_the_same_to_random_frames() {
    network().run(compare).unwrap();
}

fn compare() {
    let node = node();
    let mut kernel = Kernel::load(&node, &kernel_objects::agent_object());
    let dice = SimEnvironment::new(20_261_122);
    let mut verdicts: BTreeMap<i32, u32> = BTreeMap::new();
    let mut seen: Vec<Vec<u8>> = Vec::new();
    let mut again: VecDeque<(Hook, SimPacket)> = VecDeque::new();
    let mut aged_s = monotonic_s();
    for number in 0..FRAMES {
        let is_silent = dice.one_in(20);
        if is_silent {
            silence(&node);
        }
        if is_silent || monotonic_s() != aged_s {
            aged_s = monotonic_s();
            kernel.age_as(&node);
        }
        let drawn =
            || (dice.pick(&[Hook::Uplink, Hook::Uplink, Hook::Pod, Hook::Egress]), packet(&dice, number, &seen));
        let (hook, packet) = again.pop_front().unwrap_or_else(drawn);
        let (on_host, sent_again) = hook.on_the_host(&node, &packet);
        again.extend(sent_again.into_iter().map(|packet| (hook, packet)));
        let mut in_kernel = hook.in_the_kernel(&mut kernel, &packet);
        if on_host.1.is_none() {
            in_kernel.1 = None;
        }
        assert_eq!(in_kernel, on_host, "frame {number}, {hook:?}, kernel first: {:x?}", packet.bytes);
        *verdicts.entry(on_host.0).or_default() += 1;
        if let (_, Some(bytes), _) = on_host
            && ends(&bytes).is_some_and(|(src, dst)| src.port() != 0 && dst.port() != 0)
        {
            seen.push(bytes);
            seen.drain(..seen.len().saturating_sub(50));
        }
        if number % 100 == 0 {
            same_maps(&kernel, &node, number);
        }
    }
    let n_taken_over = node.environment.counted(Counter::SnatTakenOver);
    assert!(n_taken_over > 10, "{n_taken_over} ports of connections that are over were taken over");
    let n_released = node.environment.counted(Counter::FragmentReleased);
    assert!(n_released > 10, "{n_released} fragments that came too early were sent on");
    let flows = node.traffic.v4.conns.borrow().len() + node.traffic.v6.conns.borrow().len();
    assert!(flows > 20, "{flows} halves of flows");
    let few = |verdict| verdicts.get(&verdict).is_none_or(|n| *n < FRAMES / 50);
    assert!(![PASS, DROP, REDIRECT].into_iter().any(few), "too few of one kind: {verdicts:?}");
    println!("{FRAMES} frames: {verdicts:?}, {flows} halves of flows");
}

fn same_maps(kernel: &Kernel, node: &SimNode, number: u32) {
    assert_eq!(kernel.conns::<V4>(maps::CONNS4), timeless(node.traffic.v4.conns.borrow().clone()), "frame {number}");
    assert_eq!(kernel.conns::<V6>(maps::CONNS6), timeless(node.traffic.v6.conns.borrow().clone()), "frame {number}");
    for counter in Counter::ALL {
        let (in_kernel, on_host) = (kernel.counted(*counter), node.environment.counted(*counter));
        assert_eq!(in_kernel, on_host, "{} after frame {number}", counter.label());
    }
}
