//! Random histories of what is wanted, without a model in between, so that every combination of endpoint sets,
//! restrictions, affinity, guards and scopes comes up. After each single operation on the maps, every frontend means
//! exactly what one of the states since the last agreement says, with everything that it presupposes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ipnet::IpNet;
use lb_agent::{
    datapath::{
        dump::dump,
        faulty::FaultyStore,
        op::{Op, execute},
        sim::SimStore,
        snapshot::{FamilySnapshot, Snapshot},
    },
    event::ObjectName,
    model::{Answer, DesiredBackend, DesiredPort, DesiredService, EndpointSet, FrontendAddr},
    plan::Plan,
};
use lb_common::abi::{
    ClusterIps, Family, Frontend, FrontendKey, Proto, V4, V6, backend_state, endpoint_sets, frontend_flags, scope,
};
use proptest::{
    collection::{btree_map, btree_set, vec},
    prelude::*,
    sample::select,
};

use crate::agent::ROOMY;

/// What is wanted of all Services.
type State = BTreeMap<ObjectName, DesiredService>;

/// What a frontend is in the maps, as far as clients can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Meaning {
    backends: BTreeSet<SocketAddr>,
    flags: u32,
    affinity_s: u32,
    /// Who is let in, if not everybody.
    sources: Option<BTreeSet<IpNet>>,
}

/// Address, port, protocol (0 for a guard) and scope.
type At = (IpAddr, u16, u8, u8);

fn ip(v6: bool, net: u16, end: u16) -> IpAddr {
    let [high, low] = end.to_be_bytes();
    match v6 {
        false => Ipv4Addr::new(10, u8::try_from(net).unwrap(), high, low).into(),
        true => Ipv6Addr::new(0xfd00, net, 0, 0, 0, 0, 0, end).into(),
    }
}

fn frontend() -> impl Strategy<Value = FrontendAddr> {
    let scope = select(vec![scope::INTERNAL, scope::INTERNAL, scope::HOST, scope::BIND]);
    (any::<bool>(), 1..4_u16, 80..82_u16, scope).prop_map(|(v6, end, port, scope)| match scope {
        scope::INTERNAL => FrontendAddr { ip: ip(v6, 96, end), port, scope },
        scope::HOST => FrontendAddr { ip: ip(v6, 127, 1), port: port + 30_000, scope },
        _ if v6 => FrontendAddr { ip: Ipv6Addr::UNSPECIFIED.into(), port: port + 30_000, scope },
        _ => FrontendAddr { ip: Ipv4Addr::UNSPECIFIED.into(), port: port + 30_000, scope },
    })
}

fn answer() -> impl Strategy<Value = Answer> {
    let set = || prop_oneof![Just(EndpointSet::Cluster), Just(EndpointSet::Local)];
    (set(), set(), any::<bool>()).prop_map(|(set, outside, restricted)| Answer { set, outside, restricted })
}

fn backend() -> impl Strategy<Value = DesiredBackend> {
    let state = select(vec![backend_state::READY, backend_state::TERMINATING, backend_state::NOT_READY]);
    // Often in both sets or in neither, so that these are the same.
    let sets = prop_oneof![2 => any::<bool>().prop_map(|both| (both, both)), 1 => any::<(bool, bool)>()];
    (any::<bool>(), 1..6_u16, state, sets, 0..3_u8).prop_map(|(v6, end, state, (in_cluster, in_local), node)| {
        DesiredBackend {
            ip: ip(v6, 244, end),
            port: 8080,
            state,
            in_cluster,
            in_local,
            on_node: node == 1,
            node: (node > 0).then(|| format!("n{node}").into()),
        }
    })
}

fn port() -> impl Strategy<Value = DesiredPort> {
    let sources = btree_set(select(vec!["10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0", "fd00::/16"]), 0..3);
    let affinity_s = prop_oneof![2 => Just(0), 1 => 1..3_u32];
    let proto = prop_oneof![Just(Proto::Tcp), Just(Proto::Udp)];
    let name = select(vec!["", "http"]);
    (name, proto, btree_map(frontend(), answer(), 1..5), affinity_s, sources, vec(backend(), 0..7)).prop_map(
        |(name, proto, frontends, affinity_s, sources, backends)| {
            let backends: BTreeMap<_, _> = backends.into_iter().map(|backend| (backend.ip, backend)).collect();
            DesiredPort {
                port_name: name.into(),
                proto,
                frontends,
                affinity_s,
                sources: sources.into_iter().map(|net| net.parse().unwrap()).collect(),
                backends: backends.into_values().collect(),
            }
        },
    )
}

fn state() -> impl Strategy<Value = State> {
    let guards = || btree_set((any::<bool>(), prop_oneof![1..4_u16, 200..202_u16]), 0..3);
    btree_map(0..3_u8, (vec(port(), 0..3), guards()), 0..4).prop_map(|services| {
        let (mut held, mut guarded) = (BTreeSet::new(), BTreeSet::new());
        let service = |(index, (mut ports, guards)): (u8, (Vec<DesiredPort>, BTreeSet<_>))| {
            ports.sort_by(|a, b| (&a.port_name, a.proto).cmp(&(&b.port_name, b.proto)));
            ports.dedup_by(|a, b| (&a.port_name, a.proto) == (&b.port_name, b.proto));
            for port in &mut ports {
                for (at, answer) in &mut port.frontends {
                    if at.scope != scope::INTERNAL {
                        answer.outside = answer.set;
                    }
                }
                port.frontends.retain(|at, _| held.insert((*at, port.proto)));
            }
            ports.retain(|port| !port.frontends.is_empty());
            let guards = guards.into_iter().map(|(v6, end)| ip(v6, 96, end)).filter(|ip| guarded.insert(*ip)).collect();
            let name = ObjectName::new("default", format!("s{index}"));
            (name.clone(), DesiredService { name, ports, guards, health_check: None })
        };
        services.into_iter().map(service).collect()
    })
}

/// What every frontend means in a state.
fn meanings(state: &State) -> BTreeMap<At, Meaning> {
    let mut meanings = BTreeMap::new();
    let nobody = Meaning { backends: BTreeSet::new(), flags: 0, affinity_s: 0, sources: None };
    for service in state.values() {
        for port in &service.ports {
            for (at, answer) in &port.frontends {
                let key = (at.ip, at.port, port.proto.number(), at.scope);
                let meaning = if at.scope == scope::BIND { nobody.clone() } else { meaning(port, *answer, at.ip) };
                meanings.insert(key, meaning);
                if answer.differs_outside() {
                    let outside = Answer { set: answer.outside, ..*answer };
                    let key = (at.ip, at.port, port.proto.number(), scope::EXTERNAL);
                    meanings.insert(key, self::meaning(port, outside, at.ip));
                }
            }
        }
        meanings.extend(service.guards.iter().map(|ip| ((*ip, 0, 0, scope::INTERNAL), nobody.clone())));
    }
    meanings
}

fn meaning(port: &DesiredPort, answer: Answer, at: IpAddr) -> Meaning {
    let local = answer.set == EndpointSet::Local;
    let takes = |backend: &&DesiredBackend| if local { backend.in_local } else { backend.in_cluster };
    let of_family = |backend: &&DesiredBackend| backend.ip.is_ipv4() == at.is_ipv4();
    let at_port = |backend: &DesiredBackend| (backend.ip, backend.port).into();
    let backends: BTreeSet<SocketAddr> = port.backends.iter().filter(takes).filter(of_family).map(at_port).collect();
    let usable = |backend: &DesiredBackend| backend.state != backend_state::NOT_READY;
    let elsewhere = port.backends.iter().filter(of_family).any(usable);
    let flag = |holds, flag| if holds { flag } else { 0 };
    let sources = || port.sources.iter().filter(|net| net.addr().is_ipv4() == at.is_ipv4()).copied().collect();
    Meaning {
        flags: flag(local, frontend_flags::LOCAL)
            | flag(answer.restricted, frontend_flags::SOURCES)
            | flag(answer.differs_outside(), frontend_flags::EXTERNAL_DIFFERS)
            | flag(local && backends.is_empty() && elsewhere, frontend_flags::DROP),
        backends,
        affinity_s: port.affinity_s,
        sources: answer.restricted.then(sources),
    }
}

/// What the maps of one family say now.
fn seen<F: Family>(snapshot: &FamilySnapshot<F>, into: &mut BTreeMap<At, Meaning>) {
    for (key, frontend) in &snapshot.frontends {
        let slots = snapshot.slots_of(frontend).expect("the slots are in the array");
        let backends = slots.iter().map(|slot| SocketAddr::new(F::to_ip(slot.addr), slot.port)).collect();
        let restricted = frontend.flags & frontend_flags::SOURCES != 0;
        let meaning = Meaning {
            backends,
            flags: frontend.flags,
            affinity_s: frontend.affinity_s,
            sources: restricted.then(|| sources(snapshot, frontend.service)),
        };
        into.insert((F::to_ip(key.addr), key.port, key.proto, key.scope), meaning);
        check_guard(key, &snapshot.cluster_ips);
    }
}

fn sources<F: Family>(snapshot: &FamilySnapshot<F>, service: u32) -> BTreeSet<IpNet> {
    let of_service = snapshot.sources.iter().filter(|(key, _)| key.service == service);
    let net = |(key, len): &(_, u32)| -> IpNet {
        let key: &lb_common::abi::SourceKey<F> = key;
        IpNet::new(F::to_ip(key.addr), u8::try_from(*len - 32).unwrap()).unwrap()
    };
    of_service.map(net).collect()
}

fn check_guard<F: Family>(key: &FrontendKey<F>, prefix: &ClusterIps<F>) {
    if (key.port, key.proto) == (0, 0) {
        let mask: u32 = prefix.mask.as_ref().iter().map(|byte| byte.count_ones()).sum();
        let net = IpNet::new(F::to_ip(prefix.prefix), u8::try_from(mask).unwrap()).unwrap();
        assert!(net.contains(&F::to_ip(key.addr)), "guard {key:?} is looked for within {net} only");
    }
}

/// A remembered backend is checked by its own sets: they agree with the slots.
fn check_sets<F: Family>(snapshot: &FamilySnapshot<F>) {
    let sets: BTreeMap<u32, u32> = snapshot.backends.iter().map(|(id, backend)| (*id, backend.sets)).collect();
    for (_, frontend) in &snapshot.frontends {
        let local = frontend.flags & frontend_flags::LOCAL != 0;
        let bit = if local { endpoint_sets::LOCAL } else { endpoint_sets::CLUSTER };
        for slot in snapshot.slots_of(frontend).into_iter().flatten() {
            assert!(sets[&slot.backend] & bit != 0, "backend {} in {sets:?} of {frontend:?}", slot.backend);
        }
    }
}

/// Frontends of one port whose sets are the same backends lead to the same slots.
fn check_sharing<F: Family>(snapshot: &FamilySnapshot<F>) {
    let mut ranges: BTreeMap<(u32, Vec<u32>), u32> = BTreeMap::new();
    let leading: Vec<&Frontend> = snapshot.frontends.iter().map(|(_, f)| f).filter(|f| f.n_slots > 0).collect();
    for frontend in leading {
        let ids = snapshot.slots_of(frontend).into_iter().flatten().map(|slot| slot.backend).collect();
        let first = ranges.entry((frontend.service, ids)).or_insert(frontend.first_slot);
        assert_eq!(*first, frontend.first_slot, "{snapshot:?}");
    }
}

/// The plan, the maps, and which states clients may see.
struct Driver {
    plan: Plan,
    store: FaultyStore<SimStore>,
    /// The states since the maps last agreed with one, that one included.
    states: Vec<BTreeMap<At, Meaning>>,
}

impl Driver {
    fn new(percent: u32, seed: u64) -> Self {
        let store = FaultyStore::new(SimStore::new(seed, ROOMY), percent, seed);
        let plan = Plan::adopt(Snapshot::read(&store).unwrap());
        Self { plan, store, states: vec![BTreeMap::new()] }
    }

    /// Carries out operations up to the first failure, and looks at the maps after each.
    fn execute(&mut self, ops: &[Op]) -> Result<(), ()> {
        for (done, op) in ops.iter().enumerate() {
            if execute(&mut self.store, op).is_err() {
                self.plan.abandon(&ops[done..]);
                return Err(());
            }
            self.plan.record(op);
            self.check(op);
        }
        Ok(())
    }

    fn check(&self, op: &Op) {
        let violations = self.store.inner().violations();
        assert!(violations.is_empty(), "{op:?}: {violations:?}");
        let snapshot = Snapshot::read(&self.store).unwrap();
        let mut now = BTreeMap::new();
        seen(&snapshot.v4, &mut now);
        seen(&snapshot.v6, &mut now);
        for (at, meaning) in &now {
            let right = self.states.iter().filter_map(|state| state.get(at)).any(|wanted| is_as(meaning, wanted));
            assert!(right, "{op:?} left {at:?} as {meaning:?}, which it never was in {:?}", self.states);
        }
        let throughout = |at: &&At| self.states.iter().all(|state| state.contains_key(at));
        let gone = self.states[0].keys().filter(throughout).find(|at| !now.contains_key(at));
        assert!(gone.is_none(), "{op:?} left no {gone:?}");
    }

    fn program(&mut self, desired: &DesiredService) -> Result<(), ()> {
        loop {
            let staged = self.plan.stage(desired);
            assert!(staged.full.is_none(), "{:?}", staged.full);
            self.execute(&staged.ops)?;
            if !staged.wants_readers_gone {
                return Ok(());
            }
            self.execute(&[Op::WaitForReaders])?;
        }
    }

    fn sweep(&mut self) -> Result<(), ()> {
        let mut result = Ok(());
        let mut last = None;
        while let Some(id) = self.plan.next_garbage(last) {
            last = Some(id);
            let ops = self.plan.sweep(id);
            result = self.execute(&ops).and(result);
        }
        for op in self.plan.sweep_rest() {
            result = self.execute(&[op]).and(result);
        }
        result
    }

    /// Tries everything once, in an order that `turn` decides.
    fn attempt(&mut self, state: &State, turn: usize) -> Result<(), ()> {
        let there: BTreeSet<ObjectName> = self.plan.services().chain(state.keys()).cloned().collect();
        let mut names: Vec<_> = there.into_iter().collect();
        let middle = turn % names.len().max(1);
        names.rotate_left(middle);
        let mut result = Ok(());
        for name in names {
            let nothing = || DesiredService {
                name: name.clone(),
                ports: Vec::new(),
                guards: BTreeSet::new(),
                health_check: None,
            };
            let desired = state.get(&name).cloned().unwrap_or_else(nothing);
            result = self.program(&desired).and(result);
        }
        self.plan.prune();
        self.sweep().and(result)
    }

    fn restart(&mut self) {
        self.store.revive();
        self.plan = Plan::adopt(Snapshot::read(&self.store).unwrap());
    }

    fn settle(&mut self, state: &State, turn: usize) {
        while self.attempt(state, turn).is_err() {}
        self.states = vec![meanings(state)];
        let snapshot = Snapshot::read(&self.store).unwrap();
        check_sets::<V4>(&snapshot.v4);
        check_sets::<V6>(&snapshot.v6);
        check_sharing(&snapshot.v4);
        check_sharing(&snapshot.v6);
    }
}

/// More ranges of clients may be there, while one state follows another.
fn is_as(seen: &Meaning, wanted: &Meaning) -> bool {
    let let_in = match (&seen.sources, &wanted.sources) {
        (Some(seen), Some(wanted)) => seen.is_superset(wanted),
        (seen, wanted) => seen == wanted,
    };
    let plain = |meaning: &Meaning| Meaning { sources: None, ..meaning.clone() };
    let_in && plain(seen) == plain(wanted)
}

/// What happens once a new state is wanted.
#[derive(Clone, Debug)]
enum Action {
    /// Everything is tried once, in some order.
    Attempt(usize),
    /// The agent dies after so many more writes, and is replaced.
    Crash(usize, u64),
    /// Until the maps agree.
    Settle(usize),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => any::<usize>().prop_map(Action::Attempt),
        2 => (any::<usize>(), 0..20_u64).prop_map(|(turn, writes)| Action::Crash(turn, writes)),
        2 => any::<usize>().prop_map(Action::Settle),
    ]
}

fn play(steps: &[(State, Action)], percent: u32, seed: u64) {
    let mut driver = Driver::new(percent, seed);
    for (state, action) in steps {
        driver.states.push(meanings(state));
        match action {
            Action::Attempt(turn) => {
                let _whatever_came_of_it = driver.attempt(state, *turn);
            }
            Action::Crash(turn, writes) => {
                driver.store.die_after(*writes);
                let _whatever_came_of_it = driver.attempt(state, *turn);
                driver.restart();
            }
            Action::Settle(turn) => driver.settle(state, *turn),
        }
    }
    let Some((last, _)) = steps.last() else { return };
    driver.settle(last, 0);
    let mut fresh = Driver::new(0, 1);
    fresh.states.push(meanings(last));
    fresh.settle(last, 0);
    let text = |driver: &Driver| dump(&Snapshot::read(&driver.store).unwrap());
    assert_eq!(text(&driver), text(&fresh), "after the history (left) and written at once (right)");
    let before = driver.store.inner().operations();
    driver.settle(last, 1);
    assert_eq!(driver.store.inner().operations(), before, "written although nothing changed");
    driver.restart();
    driver.settle(last, 2);
    assert_eq!(driver.store.inner().operations(), before, "written although only the agent is another");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_frontend_always_means_what_one_state_says_and_the_maps_end_as_if_written_at_once(
        steps in vec((state(), action()), 1..8), percent in prop_oneof![Just(0_u32), Just(10), Just(30)],
        seed in any::<u64>(),
    ) {
        play(&steps, percent, seed);
    }
}
