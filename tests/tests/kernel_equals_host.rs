//! The same logic on the same random calls, compiled for BPF and run by the kernel over its maps, and on the host over the
//! simulated ones: answers, counters and what the sockets hold afterwards must be equal to the byte.
//!
//! The kernel's side is a program of its own (`lb-ebpf/src/bin/lb_probe.rs`), because `BPF_PROG_TEST_RUN` does not know
//! sock_addr programs; socket storage is data there. Needs root and `cargo xtask ebpf`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData},
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use lb_common::{
    abi::{
        Backend, Counter, Family, Frontend, FrontendKey, Proto, Slot, V4, V6, backend_state, map_v4, mapped_v4, maps,
        scope,
    },
    logic::seam::Environment as _,
    probe::{Call, answer, hook},
    sim::{Domain, SimEnvironment, SimMaps, SimNode, SimSocket},
};

const CALLS: u32 = 20_000;
const SERVICES: u8 = 12;
const PODS: u8 = 5;
/// Some frontends name slots past the end.
const N_SLOTS: u32 = 100;

/// Random numbers from a seed.
struct Dice(SimEnvironment);

impl Dice {
    fn below(&self, n: u32) -> u32 {
        self.0.random() % n
    }

    fn one_in(&self, n: u32) -> bool {
        self.below(n) == 0
    }

    fn byte(&self, n: u8) -> u8 {
        u8::try_from(self.below(u32::from(n))).unwrap()
    }

    fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[self.below(u32::try_from(from.len()).unwrap()) as usize]
    }
}

/// The kernel's side.
struct Kernel {
    ebpf: Ebpf,
    call: Array<MapData, Call>,
}

impl Kernel {
    fn load() -> Self {
        let executable = std::env::current_exe().unwrap();
        let target = executable.ancestors().find(|directory| directory.join("CACHEDIR.TAG").exists()).unwrap();
        let path: PathBuf = match std::env::var_os("LB_PROBE_OBJECT") {
            Some(path) => path.into(),
            None => target.join("bpf/build/bpfel-unknown-none/bpf/lb-probe"),
        };
        let object =
            fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; run `cargo xtask ebpf`", path.display()));
        let mut loader = EbpfLoader::new();
        for map in [maps::SLOTS4, maps::SLOTS6] {
            loader.map_max_entries(map, N_SLOTS);
        }
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

    /// Copies the simulated maps of a family into the kernel's, which hold nothing else.
    fn fill<F: Family>(&mut self, sim: &SimMaps<F>, [frontends, slots, backends]: [&str; 3]) {
        let mut map: HashMap<_, FrontendKey<F>, Frontend> = self.ebpf.map_mut(frontends).unwrap().try_into().unwrap();
        sim.frontends.iter().for_each(|(key, value)| map.insert(key, value, 0).unwrap());
        let mut map: Array<_, Slot<F>> = self.ebpf.map_mut(slots).unwrap().try_into().unwrap();
        sim.slots
            .iter()
            .filter(|(index, _)| **index < N_SLOTS)
            .for_each(|(index, slot)| map.set(*index, slot, 0).unwrap());
        let mut map: HashMap<_, u32, Backend<F>> = self.ebpf.map_mut(backends).unwrap().try_into().unwrap();
        let old: Vec<u32> = map.keys().map(Result::unwrap).collect();
        old.iter().filter(|id| !sim.backends.contains_key(id)).for_each(|id| map.remove(id).unwrap());
        sim.backends.iter().for_each(|(id, backend)| map.insert(id, backend, 0).unwrap());
    }

    fn fill_all(&mut self, node: &SimNode) {
        self.fill(&node.v4, [maps::FRONTENDS4, maps::SLOTS4, maps::BACKENDS4]);
        self.fill(&node.v6, [maps::FRONTENDS6, maps::SLOTS6, maps::BACKENDS6]);
    }
}

fn ip(v6: bool, kind: u8, last: u8) -> IpAddr {
    if v6 { [0xfd00, 0, 0, 0, u16::from(kind), 0, 0, u16::from(last)].into() } else { [10, kind, 0, last].into() }
}

/// Every Service anew: other backends, other states, at times an empty one or one with slots that do not exist.
fn shuffle<F: Family>(dice: &Dice, maps: &mut SimMaps<F>) {
    maps.n_slots = N_SLOTS;
    maps.backends.clear();
    let v6 = F::VERSION == 6;
    for service in 1..=SERVICES {
        let first_slot = if dice.one_in(20) { N_SLOTS - 1 } else { u32::from(service) * 7 };
        let n_slots = dice.below(5);
        for slot in first_slot..first_slot + n_slots {
            let pod = 1 + dice.byte(PODS);
            let backend = u32::from(pod) + 10 * u32::from(dice.byte(3));
            let addr = F::from_ip(ip(v6, 244, pod)).unwrap();
            maps.slots.insert(slot, Slot { addr, backend, port: 5353, reserved: 0 });
            let state = dice.pick(&[backend_state::READY, backend_state::READY, backend_state::TERMINATING, 3]);
            let value = Backend { addr, port: 5353, proto: 17, state, service: u32::from(service), node: 0, sets: 1 };
            maps.backends.insert(backend, value);
        }
        for proto in [Proto::Tcp, Proto::Udp] {
            let (proto, scope, port) = (proto.number(), scope::INTERNAL, 53);
            let key = FrontendKey { addr: F::from_ip(ip(v6, 96, service)).unwrap(), port, proto, scope };
            let value =
                Frontend { service: u32::from(service), first_slot, n_slots, ..Frontend::default() }.sealed(&key);
            maps.frontends.insert(key, value);
        }
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
    fn new(dice: &Dice) -> Self {
        let domain = dice.pick(&[Domain::Inet, Domain::Inet6]);
        let proto = dice.pick(&[Proto::Tcp, Proto::Udp, Proto::Udp]);
        let sim = SimSocket::new(domain, proto);
        sim.no_memory.set(dice.one_in(10));
        Self { sim, domain, proto, call: Call::default(), peer: None }
    }

    /// An address as a process would name it: a Service, a pod or something else, in the socket's family or mapped.
    fn address(&self, dice: &Dice) -> SocketAddr {
        let (kind, last) = dice.pick(&[(96, SERVICES + 2), (96, SERVICES), (244, PODS)]);
        let v6 = self.domain == Domain::Inet6 && dice.one_in(2);
        let port = dice.pick(&[53, 53, 5353, 5353, 1]);
        let address = match ip(v6, kind, 1 + dice.byte(last)) {
            IpAddr::V4(ip) if self.domain == Domain::Inet6 && !dice.one_in(4) => IpAddr::V6(map_v4(ip.octets()).into()),
            ip => ip,
        };
        SocketAddr::new(address, port)
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

/// Makes one random call on both sides. `Err` says how they differ.
fn step(dice: &Dice, kernel: &mut Kernel, node: &mut SimNode, pair: &mut Pair) -> Result<u32, String> {
    let seed = u64::from(dice.0.random());
    let now_s = node.environment.now_s() + dice.below(4);
    node.environment = SimEnvironment::new(seed);
    node.environment.advance(now_s.wrapping_sub(node.environment.now_s()));

    let mut call = Call {
        proto: u32::from(pair.proto.number()),
        now_s,
        random: SimEnvironment::new(seed).random(),
        connected: u32::from(pair.sim.is_connected()),
        no_memory: u32::from(pair.sim.no_memory.get()),
        answer: 0,
        counts: Default::default(),
        ..pair.call
    };
    let address = pair.address(dice);
    let kind = if pair.proto == Proto::Tcp { dice.pick(&[0, 3]) } else { dice.below(5) };
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
    let dice = Dice(SimEnvironment::new(20_261_122));
    let mut kernel = Kernel::load();
    let mut node = SimNode::default();
    let mut pairs: Vec<Pair> = Vec::new();
    let mut answers = [0_u32; 4];
    for number in 0..CALLS {
        if number % 200 == 0 {
            shuffle(&dice, &mut node.v4);
            shuffle(&dice, &mut node.v6);
            kernel.fill_all(&node);
        }
        if number % 500 == 0 {
            pairs = (0..3).map(|_| Pair::new(&dice)).collect();
        }
        let pair = &mut pairs[dice.below(3) as usize];
        let answer = step(&dice, &mut kernel, &mut node, pair).unwrap_or_else(|what| panic!("call {number}: {what}"));
        answers[answer as usize] += 1;
    }
    let [_, pass, rewrite, refuse] = answers;
    assert!(pass > CALLS / 10 && rewrite > CALLS / 10 && refuse > CALLS / 50, "too few of one kind: {answers:?}");
    println!("{CALLS} calls: {pass} passed, {rewrite} rewritten, {refuse} refused");
}
