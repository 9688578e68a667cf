//! The same logic on the same random calls, compiled for BPF and run by the kernel over its maps, and on the host over the
//! simulated ones: answers, counters and what the sockets hold afterwards must be equal to the byte.
//!
//! The kernel's side is a program of its own (`lb-ebpf/src/bin/lb_probe.rs`), because `BPF_PROG_TEST_RUN` does not know
//! sock_addr programs; socket storage is data there. Needs root and `cargo xtask ebpf`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, LpmTrie, MapData, lpm_trie},
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use lb_common::{
    abi::{
        Absent, Affinity, AffinityKey, Backend, ClientAddr, ClusterIps, Counter, Exclusion, Family, Frontend,
        FrontendCopy, FrontendKey, N_COPIES, Proto, Slot, SourceKey, V4, V6, backend_state, frontend_flags, map_v4,
        mapped_v4, maps, scope,
    },
    logic::seam::Environment as _,
    probe::{Call, N_CGROUPS, answer, hook},
    sim::{Domain, SimEnvironment, SimMaps, SimNode, SimSocket},
};
use lb_tests::kernel_objects;

const CALLS: u32 = 20_000;
const SERVICES: u8 = 12;
const PODS: u8 = 5;
/// Cookies of network namespaces: the node's and pods'.
const NETNS: [u8; 4] = [1, 2, 3, 4];
/// Ids of cgroups at each level below the root.
const CGROUPS: [[u8; 3]; N_CGROUPS - 1] = [[10, 11, 12], [20, 21, 22], [30, 31, 32]];
/// Fewer than there are clients of Services with affinity.
const N_AFFINITIES: u32 = 30;
const NODE_PORT: u16 = 30053;
/// Some frontends name slots past the end.
const N_SLOTS: u32 = 100;

/// A number below that one.
fn byte(dice: &SimEnvironment, below: u8) -> u8 {
    u8::try_from(dice.below(u32::from(below))).unwrap()
}

/// The kernel's side.
struct Kernel {
    ebpf: Ebpf,
    call: Array<MapData, Call>,
}

impl Kernel {
    fn load() -> Self {
        let object = kernel_objects::read(&kernel_objects::probe_object());
        let mut loader = EbpfLoader::new();
        for map in [maps::SLOTS4, maps::SLOTS6] {
            loader.map_max_entries(map, N_SLOTS);
        }
        loader.map_max_entries(maps::AFFINITY, N_AFFINITIES);
        let mut ebpf = loader.load(&object).unwrap();
        let program: &mut SchedClassifier = ebpf.program_mut("lb_probe").unwrap().try_into().unwrap();
        program.load().unwrap();
        let call = ebpf.take_map("lb_call").unwrap().try_into().unwrap();
        Self { ebpf, call }
    }

    fn run(&mut self, call: Call) -> Call {
        self.call.set(0, call, 0).unwrap();
        let program: &mut SchedClassifier = self.ebpf.program_mut("lb_probe").unwrap().try_into().unwrap();
        let packet = [0; 64];
        program.test_run(TestRunOptions { data_in: Some(&packet), ..TestRunOptions::new() }).unwrap();
        self.call.get(&0, 0).unwrap()
    }

    /// Makes a hash map of the kernel's hold these entries and no others.
    fn fill_hash<K: Pod + Ord, V: Pod>(&mut self, name: &str, entries: &BTreeMap<K, V>) {
        let mut map: HashMap<_, K, V> = self.ebpf.map_mut(name).unwrap().try_into().unwrap();
        let old: Vec<K> = map.keys().map(Result::unwrap).collect();
        old.iter().filter(|key| !entries.contains_key(key)).for_each(|key| map.remove(key).unwrap());
        entries.iter().for_each(|(key, value)| map.insert(key, value, 0).unwrap());
    }

    /// Copies the simulated maps of a family into the kernel's.
    fn fill<F: Family>(&mut self, sim: &SimMaps<F>, names: &Names) {
        self.fill_hash(names.frontends, &sim.frontends);
        self.fill_hash(names.backends, &sim.backends);
        self.fill_hash(names.clients, &sim.clients);
        let mut map: Array<_, Slot<F>> = self.ebpf.map_mut(names.slots).unwrap().try_into().unwrap();
        sim.slots
            .iter()
            .filter(|(index, _)| **index < N_SLOTS)
            .for_each(|(index, slot)| map.set(*index, slot, 0).unwrap());
        let mut map: Array<_, ClusterIps<F>> = self.ebpf.map_mut(names.cluster_ips).unwrap().try_into().unwrap();
        map.set(0, sim.cluster_ips, 0).unwrap();
        let mut map: Array<_, Absent> = self.ebpf.map_mut(names.nofront).unwrap().try_into().unwrap();
        (0..).zip(sim.nofront()).for_each(|(index, line)| map.set(index, line, 0).unwrap());
        self.copy_frontends(sim, names.copies);
        let mut map: LpmTrie<_, SourceKey<F>, u32> = self.ebpf.map_mut(names.sources).unwrap().try_into().unwrap();
        let old: Vec<_> = map.keys().map(Result::unwrap).collect();
        old.iter().for_each(|key| map.remove(key).unwrap());
        sim.sources.iter().for_each(|(length, key)| map.insert(&lpm_trie::Key::new(*length, *key), 1, 0).unwrap());
    }

    fn copy_frontends<F: Family>(&mut self, sim: &SimMaps<F>, name: &str) {
        let mut map: Array<_, FrontendCopy<F>> = self.ebpf.map_mut(name).unwrap().try_into().unwrap();
        for place in 0..N_COPIES {
            map.set(place, sim.copies.get(&place).copied().unwrap_or_default(), 0).unwrap();
        }
    }

    fn fill_all(&mut self, node: &SimNode) {
        self.fill(&node.v4, &NAMES4);
        self.fill(&node.v6, &NAMES6);
        self.fill_hash(maps::EXCLUDED, &node.excluded.iter().map(|id| (*id, 1_u32)).collect());
        let mut map: Array<_, Exclusion> = self.ebpf.map_mut(maps::EXCLUSION).unwrap().try_into().unwrap();
        map.set(0, node.exclusion, 0).unwrap();
    }

    /// What the programs remember about clients.
    fn affinities(&self) -> BTreeMap<AffinityKey, Affinity> {
        let map: HashMap<_, AffinityKey, Affinity> = self.ebpf.map(maps::AFFINITY).unwrap().try_into().unwrap();
        map.iter().map(Result::unwrap).collect()
    }
}

/// The maps of a family.
struct Names {
    frontends: &'static str,
    slots: &'static str,
    backends: &'static str,
    cluster_ips: &'static str,
    clients: &'static str,
    sources: &'static str,
    nofront: &'static str,
    copies: &'static str,
}

const NAMES4: Names = Names {
    frontends: maps::FRONTENDS4,
    slots: maps::SLOTS4,
    backends: maps::BACKENDS4,
    cluster_ips: maps::CLUSTERIPS4,
    clients: maps::CLIENTS4,
    sources: maps::SOURCES4,
    nofront: maps::NOFRONT4,
    copies: maps::COPIES4,
};
const NAMES6: Names = Names {
    frontends: maps::FRONTENDS6,
    slots: maps::SLOTS6,
    backends: maps::BACKENDS6,
    cluster_ips: maps::CLUSTERIPS6,
    clients: maps::CLIENTS6,
    sources: maps::SOURCES6,
    nofront: maps::NOFRONT6,
    copies: maps::COPIES6,
};

fn ip(v6: bool, kind: u8, last: u8) -> IpAddr {
    if v6 { [0xfd00, 0, 0, 0, u16::from(kind), 0, 0, u16::from(last)].into() } else { [10, kind, 0, last].into() }
}

/// Every Service anew: other backends, other states, other rules, at times an empty one or one with slots that do not
/// exist.
fn shuffle<F: Family>(dice: &SimEnvironment, maps: &mut SimMaps<F>) {
    *maps = SimMaps { n_slots: N_SLOTS, slots: std::mem::take(&mut maps.slots), ..SimMaps::default() };
    for service in 1..=SERVICES {
        let value = endpoints(dice, maps, service);
        for proto in [Proto::Tcp, Proto::Udp] {
            frontends(dice, maps, service, proto, value);
        }
    }
    copies(&SimEnvironment::new(u64::from(F::VERSION)), maps);
    let addr = |kind, last| F::from_ip(ip(F::VERSION == 6, kind, last)).unwrap();
    // At times everything is below the prefix, at times all ClusterIPs are, at times nothing.
    let (prefix, mask) = dice.pick(&[
        (F::Addr::default(), F::Addr::default()),
        (F::from_ip(prefix::<F>()).unwrap(), F::from_ip(mask::<F>()).unwrap()),
        (addr(1, 1), addr(255, 255)),
    ]);
    maps.cluster_ips = ClusterIps { prefix, mask };
    for netns in NETNS.into_iter().filter(|_| !dice.one_in(4)) {
        maps.clients.insert(u64::from(netns), ClientAddr { addr: addr(244, netns) });
    }
    for service in 1..=SERVICES {
        let key = SourceKey { service: u32::from(service), addr: addr(244, 1 + byte(dice, 4)) };
        let bits = u32::try_from(8 * size_of::<F::Addr>()).unwrap();
        maps.sources.insert((32 + bits - dice.below(3), key));
    }
}

/// Other cgroups: at times none, at times with bits for levels where there is none.
fn exclude(dice: &SimEnvironment, node: &mut SimNode) {
    node.excluded.clear();
    node.exclusion = Exclusion::default();
    for level in (1..N_CGROUPS).filter(|_| dice.one_in(10)) {
        node.excluded.insert(u64::from(dice.pick(&CGROUPS[level - 1])));
        node.exclusion.levels |= 1 << level;
    }
    if dice.one_in(4) {
        node.exclusion.levels |= dice.random();
    }
}

fn prefix<F: Family>() -> IpAddr {
    if F::VERSION == 6 { [0xfd00, 0, 0, 0, 96, 0, 0, 0].into() } else { [10, 96, 0, 0].into() }
}

fn mask<F: Family>() -> IpAddr {
    if F::VERSION == 6 { [0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0, 0, 0].into() } else { [255, 255, 0, 0].into() }
}

/// Backends and slots of a Service, and what its frontends say.
fn endpoints<F: Family>(dice: &SimEnvironment, maps: &mut SimMaps<F>, service: u8) -> Frontend {
    let first_slot = if dice.one_in(20) { N_SLOTS - 1 } else { u32::from(service) * 7 };
    let n_slots = dice.below(5);
    for slot in first_slot..first_slot + n_slots {
        let pod = 1 + byte(dice, PODS);
        let backend = u32::from(pod) + 10 * u32::from(byte(dice, 3));
        let addr = F::from_ip(ip(F::VERSION == 6, 244, pod)).unwrap();
        maps.slots.insert(slot, Slot { addr, backend, port: 5353, reserved: 0 });
        let state = dice.pick(&[backend_state::READY, backend_state::READY, backend_state::TERMINATING, 3]);
        let (service, sets) = (u32::from(service), dice.below(4));
        maps.backends.insert(backend, Backend { addr, port: 5353, proto: 17, state, service, node: 0, sets });
    }
    Frontend {
        service: u32::from(service),
        first_slot,
        n_slots,
        flags: dice.pick(&[frontend_flags::NONE, frontend_flags::LOCAL]) | dice.pick(&[0, 0, frontend_flags::SOURCES]),
        affinity_s: dice.pick(&[0, 0, 3, 100]),
        check: 0,
    }
}

/// The ClusterIP's frontend and guard, a loopback NodePort, and ports that must not be bound.
fn frontends<F: Family>(dice: &SimEnvironment, maps: &mut SimMaps<F>, service: u8, proto: Proto, value: Frontend) {
    let cluster_ip = F::from_ip(ip(F::VERSION == 6, 96, service)).unwrap();
    let node = F::from_ip(ip(F::VERSION == 6, 2, 1)).unwrap();
    let mut put = |addr, port, proto, scope, value: Frontend| {
        let key = FrontendKey { addr, port, proto, scope };
        maps.frontends.insert(key, value.sealed(&key));
    };
    put(cluster_ip, 53, proto.number(), scope::INTERNAL, value);
    let refuse = Frontend { service: value.service, ..Frontend::default() };
    if !dice.one_in(3) {
        put(cluster_ip, 0, 0, scope::INTERNAL, refuse);
    }
    if dice.one_in(10) {
        put(F::LOOPBACK, NODE_PORT, proto.number(), scope::HOST, value);
    }
    if dice.one_in(10) {
        put(F::Addr::default(), NODE_PORT, proto.number(), scope::BIND, refuse);
    }
    if dice.one_in(10) {
        put(node, NODE_PORT, proto.number(), scope::INTERNAL, value);
    }
}

/// What programs may find in the places of the frontends' copies: nothing, a frontend as it is, one that leads elsewhere (so that
/// it is seen which of the two was asked), one that is half written, or another's.
fn copies<F: Family>(dice: &SimEnvironment, maps: &mut SimMaps<F>) {
    for (key, value) in maps.frontends.iter().filter(|(key, _)| FrontendCopy::is_for(key)) {
        let elsewhere = Frontend { first_slot: value.first_slot + 1, ..*value };
        let others = FrontendKey { scope: scope::EXTERNAL, ..*key };
        let copy = dice.pick(&[
            FrontendCopy::default(),
            FrontendCopy { key: *key, value: *value },
            FrontendCopy { key: *key, value: elsewhere.sealed(key) },
            FrontendCopy { key: *key, value: elsewhere },
            FrontendCopy { key: others, value: elsewhere.sealed(&others) },
        ]);
        maps.copies.insert(FrontendCopy::place(key), copy);
    }
}

/// A socket on both sides.
struct Pair {
    sim: SimSocket,
    domain: Domain,
    proto: Proto,
    /// What the kernel's side left behind.
    call: Call,
    peer: Option<SocketAddr>,
}

impl Pair {
    fn new(dice: &SimEnvironment) -> Self {
        let domain = dice.pick(&[Domain::Inet, Domain::Inet6]);
        let proto = dice.pick(&[Proto::Tcp, Proto::Udp, Proto::Udp]);
        let sim = SimSocket::new(domain, proto).in_netns(u64::from(dice.pick(&NETNS)));
        sim.no_memory.set(dice.one_in(10));
        let depth = dice.below(4) as usize;
        sim.cgroups.borrow_mut().extend(CGROUPS[..depth].iter().map(|level| u64::from(dice.pick(level))));
        Self { sim, domain, proto, call: Call::default(), peer: None }
    }

    /// An address as a process would name it: a Service, a pod or something else, in the socket's family or mapped.
    fn address(&self, dice: &SimEnvironment) -> SocketAddr {
        let (kind, last) = dice.pick(&[(96, SERVICES + 2), (96, SERVICES), (96, SERVICES), (244, PODS)]);
        let port = dice.pick(&[53, 53, 53, 5353, 5353, 1]);
        let address = ip(self.is_ipv6(dice), kind, 1 + byte(dice, last));
        self.spelled(dice, SocketAddr::new(address, port))
    }

    /// An address of the node itself, or the unspecified one.
    fn local(&self, dice: &SimEnvironment) -> SocketAddr {
        let v6 = self.is_ipv6(dice);
        let [unspecified, loopback]: [IpAddr; 2] =
            if v6 { [[0; 16].into(), V6::LOOPBACK.into()] } else { [[0; 4].into(), V4::LOOPBACK.into()] };
        let address = dice.pick(&[unspecified, loopback, ip(v6, 2, 1), ip(v6, 2, 2)]);
        self.spelled(dice, SocketAddr::new(address, dice.pick(&[NODE_PORT, NODE_PORT, 53])))
    }

    fn is_ipv6(&self, dice: &SimEnvironment) -> bool {
        self.domain == Domain::Inet6 && dice.one_in(2)
    }

    /// An IPv6 socket names IPv4 addresses as mapped ones, mostly.
    fn spelled(&self, dice: &SimEnvironment, at: SocketAddr) -> SocketAddr {
        let address = match at.ip() {
            IpAddr::V4(ip) if self.domain == Domain::Inet6 && !dice.one_in(4) => IpAddr::V6(map_v4(ip.octets()).into()),
            ip => ip,
        };
        SocketAddr::new(address, at.port())
    }
}

/// The hook of a pair for an address, and the address in the call.
fn aim(call: &mut Call, hooks: [u32; 2], address: SocketAddr) {
    call.port = u32::from(address.port());
    match address.ip() {
        IpAddr::V4(ip) => (call.hook, call.addr4) = (hooks[0], ip.octets()),
        IpAddr::V6(ip) => (call.hook, call.addr6) = (hooks[1], ip.octets()),
    }
}

/// The call as both sides find it, but for hook and address.
fn before(pair: &Pair, node: &SimNode, seed: u64) -> Call {
    Call {
        proto: u32::from(pair.proto.number()),
        now_s: node.environment.now_s(),
        random: SimEnvironment::new(seed).random(),
        connected: u32::from(pair.sim.is_connected()),
        inet6: u32::from(pair.domain == Domain::Inet6),
        netns: u32::try_from(pair.sim.netns.get()).unwrap(),
        node_netns: u32::try_from(node.netns).unwrap(),
        cgroups: cgroups(&pair.sim),
        no_memory: u32::from(pair.sim.no_memory.get()),
        answer: 0,
        counts: Default::default(),
        ..pair.call
    }
}

fn cgroups(socket: &SimSocket) -> [u32; N_CGROUPS] {
    let mut all = [0; N_CGROUPS];
    all.iter_mut().zip(socket.cgroups.borrow().iter()).for_each(|(to, id)| *to = u32::try_from(*id).unwrap());
    all
}

/// Makes one random call on both sides. `Err` says how they differ.
fn step(dice: &SimEnvironment, kernel: &mut Kernel, node: &mut SimNode, pair: &mut Pair) -> Result<u32, String> {
    let seed = u64::from(dice.random());
    let now_s = node.environment.now_s() + dice.below(4);
    node.environment = SimEnvironment::new(seed);
    node.environment.advance(now_s.wrapping_sub(node.environment.now_s()));

    let mut call = before(pair, node, seed);
    let address = if dice.one_in(8) { pair.local(dice) } else { pair.address(dice) };
    let kind = if pair.proto == Proto::Tcp { dice.pick(&[0, 3, 5]) } else { dice.below(6) };
    let (asked, host) = match kind {
        0 => {
            aim(&mut call, [hook::CONNECT4, hook::CONNECT6], address);
            let outcome = pair.sim.connect(node, address);
            pair.peer = outcome.ok().or(pair.peer);
            (address, outcome.ok())
        }
        1 => {
            // A mapped destination is IPv4 before the hook sees it.
            let plain = match address.ip() {
                IpAddr::V6(ip) => {
                    mapped_v4(ip.octets()).map_or(address, |v4| SocketAddr::new(v4.into(), address.port()))
                }
                IpAddr::V4(_) => address,
            };
            aim(&mut call, [hook::SENDMSG4, hook::SENDMSG6], plain);
            (plain, pair.sim.send_to(node, plain).ok())
        }
        2 => {
            aim(&mut call, [hook::RECVMSG4, hook::RECVMSG6], address);
            (address, Some(pair.sim.recv_from(node, address)))
        }
        3 if pair.peer.is_some() => {
            let peer = pair.peer.unwrap();
            let named = match peer.ip() {
                IpAddr::V4(ip) if pair.domain == Domain::Inet6 => {
                    SocketAddr::new(IpAddr::V6(map_v4(ip.octets()).into()), peer.port())
                }
                _ => peer,
            };
            aim(&mut call, [hook::PEERNAME4, hook::PEERNAME6], named);
            let shown = pair.sim.peer_name(node).unwrap();
            (named, Some(if shown == peer { named } else { shown }))
        }
        5 => {
            let local = pair.local(dice);
            aim(&mut call, [hook::BIND4, hook::BIND6], local);
            (local, pair.sim.bind(node, local).ok().map(|()| local))
        }
        _ => {
            pair.sim.disconnect();
            pair.peer = None;
            return Ok(0);
        }
    };
    pair.call = kernel.run(call);
    compare(pair, node, asked, host)
        .map_err(|what| format!("{what}\ncall {call:?}\nkernel {:?}\n{:?}", pair.call, pair.sim))
        .map(|()| pair.call.answer)
}

fn compare(pair: &Pair, node: &SimNode, asked: SocketAddr, host: Option<SocketAddr>) -> Result<(), String> {
    let call = &pair.call;
    let port = u16::try_from(call.port).unwrap();
    let kernel = match (call.answer, asked.ip()) {
        (answer::PASS, _) => Some(asked),
        (answer::REWRITE, IpAddr::V4(_)) => Some(SocketAddr::new(V4::to_ip(call.addr4), port)),
        (answer::REWRITE, IpAddr::V6(_)) => Some(SocketAddr::new(V6::to_ip(call.addr6), port)),
        (answer::REFUSE, _) => None,
        (other, _) => return Err(format!("answer {other}")),
    };
    let equal = |what: &str, equal: bool| if equal { Ok(()) } else { Err(format!("{what} differ")) };
    equal(&format!("answers kernel {kernel:?} and host {host:?}"), kernel == host)?;
    equal("IPv4 translations", (call.has_translation4 != 0).then_some(call.translation4) == pair.sim.translation4())?;
    equal("IPv6 translations", (call.has_translation6 != 0).then_some(call.translation6) == pair.sim.translation6())?;
    equal("IPv4 peers", (call.has_peers4 != 0).then_some(call.peers4) == pair.sim.peers4())?;
    equal("IPv6 peers", (call.has_peers6 != 0).then_some(call.peers6) == pair.sim.peers6())?;
    Counter::ALL
        .iter()
        .zip(call.counts)
        .try_for_each(|(counter, count)| equal(counter.label(), u64::from(count) == node.environment.counted(*counter)))
}

#[test]
fn kernel_and_host_agree_on_random_calls() {
    let dice = SimEnvironment::new(20_261_122);
    let mut kernel = Kernel::load();
    let mut node = SimNode::default();
    let mut pairs: Vec<Pair> = Vec::new();
    node.n_affinities = N_AFFINITIES;
    let mut answers = [0_u32; 4];
    let mut counted: BTreeMap<Counter, u32> = BTreeMap::new();
    for number in 0..CALLS {
        if number % 200 == 0 {
            shuffle(&dice, &mut node.v4);
            shuffle(&dice, &mut node.v6);
            exclude(&dice, &mut node);
            kernel.fill_all(&node);
        }
        if number % 500 == 0 {
            pairs = (0..3).map(|_| Pair::new(&dice)).collect();
        }
        let pair = &mut pairs[dice.below(3) as usize];
        let answer = step(&dice, &mut kernel, &mut node, pair).unwrap_or_else(|what| panic!("call {number}: {what}"));
        answers[answer as usize] += 1;
        for counter in Counter::ALL.iter().filter(|counter| node.environment.counted(**counter) > 0) {
            *counted.entry(*counter).or_default() += 1;
        }
        if number % 20 == 0 {
            assert_eq!(kernel.affinities(), *node.affinities.borrow(), "call {number}: lb_affinity");
        }
    }
    let [_, pass, rewrite, refuse] = answers;
    assert!(pass > CALLS / 10 && rewrite > CALLS / 10 && refuse > CALLS / 50, "too few of one kind: {answers:?}");
    // Entries of the agent's are never torn here, and what comes after the socket layer's counters is the packet layer's.
    let mut never = vec![Counter::FrontendReread];
    never.extend(Counter::ALL.iter().filter(|counter| **counter > Counter::BindRefused));
    let missing: Vec<_> = Counter::ALL.iter().filter(|counter| !counted.contains_key(counter)).collect();
    assert_eq!(missing, never.iter().collect::<Vec<_>>(), "{counted:?}");
    println!("{CALLS} calls: {pass} passed, {rewrite} rewritten, {refuse} refused");
}
