//! Random histories of objects, with failing writes, restarts and crashes: whatever happens on the way, clients never
//! notice, and in the end the maps hold what an agent that starts on empty maps would write.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use lb_agent::{
    datapath::sim::Moment,
    event::{Endpoint, EndpointSlice, Event, ObjectName, Service, ServiceKind, ServicePort, SlicePort, TrafficPolicy},
    model::{DesiredBackend, DesiredPort, EndpointSet, Model, ModelConfig},
};
use lb_common::abi::{Frontend, Proto, scope};
use proptest::{collection::vec, prelude::*};

use crate::agent::{Agent, Faults, NODE, ROOMY};

/// One thing that happens.
#[derive(Clone, Debug)]
enum Action {
    Apply(Service),
    Delete(ObjectName),
    ApplySlice(EndpointSlice),
    DeleteSlice(ObjectName),
    /// The source lists everything again.
    Relist,
    /// The agent gets to work, without waiting for retries.
    Work,
    /// The agent finishes what it has to do.
    Settle,
    /// The agent is replaced; what happens until the next `Relist` or `Settle` happens while none runs.
    Restart,
    /// The agent dies after so many more writes, and is replaced.
    Crash(u64),
}

fn name(kind: &str, index: u8) -> ObjectName {
    ObjectName::new("default", format!("{kind}{index}"))
}

fn service_ip() -> impl Strategy<Value = IpAddr> {
    (1..=3_u8, any::<bool>()).prop_map(|(n, v6)| match v6 {
        false => Ipv4Addr::new(10, 96, 0, n).into(),
        true => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into()).into(),
    })
}

fn ports() -> impl Strategy<Value = Vec<(&'static str, Proto, u16)>> {
    prop_oneof![
        Just(vec![("", Proto::Tcp, 80)]),
        Just(vec![("http", Proto::Tcp, 80)]),
        Just(vec![("dns", Proto::Udp, 53), ("dns-tcp", Proto::Tcp, 53)]),
        Just(vec![("http", Proto::Tcp, 80), ("dns", Proto::Udp, 53)]),
    ]
}

fn service() -> impl Strategy<Value = Service> {
    let kind = prop_oneof![6 => Just(ServiceKind::ClusterIp), 1 => Just(ServiceKind::Headless)];
    let ips = proptest::collection::btree_set(service_ip(), 0..3);
    let policy = || prop_oneof![Just(TrafficPolicy::Cluster), Just(TrafficPolicy::Local)];
    let external = (proptest::collection::btree_set(1..=2_u8, 0..2), policy(), policy());
    (0..4_u8, 0..2_i64, kind, ips, external, ports()).prop_map(
        |(index, created_s, kind, ips, (external_ips, internal_policy, external_policy), ports)| Service {
            created_s,
            kind,
            cluster_ips: ips.into_iter().collect(),
            external_ips: external_ips.into_iter().map(|n| Ipv4Addr::new(192, 0, 2, n).into()).collect(),
            internal_policy,
            external_policy,
            ports: ports
                .into_iter()
                .map(|(name, proto, port)| ServicePort { name: name.into(), proto, port, node_port: None })
                .collect(),
            ..Service::named(name("s", index))
        },
    )
}

fn endpoint(v6: bool) -> impl Strategy<Value = Endpoint> {
    (1..=6_u8, 0..5_u8, 0..3_u8).prop_map(move |(n, condition, node)| Endpoint {
        address: match v6 {
            false => Ipv4Addr::new(10, 244, 0, n).into(),
            true => Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, n.into()).into(),
        },
        ready: condition < 3,
        serving: condition < 4,
        terminating: condition >= 3,
        node: (node > 0).then(|| format!("n{node}").into()),
        zone: None,
        hints: None,
    })
}

fn slice() -> impl Strategy<Value = EndpointSlice> {
    let endpoints = any::<bool>().prop_flat_map(|v6| vec(endpoint(v6), 0..5));
    (0..4_u8, 0..2_u8, endpoints, ports()).prop_map(|(owner, index, endpoints, ports)| EndpointSlice {
        name: name("slice", 10 * owner + index),
        service: name("s", owner).name,
        ports: ports
            .into_iter()
            .map(|(name, proto, port)| SlicePort { name: name.into(), proto, port: Some(port + 8000) })
            .collect(),
        endpoints,
    })
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        8 => service().prop_map(Action::Apply),
        2 => (0..4_u8).prop_map(|index| Action::Delete(name("s", index))),
        8 => slice().prop_map(Action::ApplySlice),
        2 => (0..4_u8, 0..2_u8).prop_map(|(owner, index)| Action::DeleteSlice(name("slice", 10 * owner + index))),
        1 => Just(Action::Relist),
        4 => Just(Action::Work),
        4 => Just(Action::Settle),
        1 => Just(Action::Restart),
        1 => (0..40_u64).prop_map(Action::Crash),
    ]
}

/// What was true of a frontend since the maps were last in agreement with the objects.
#[derive(Debug)]
struct Seen {
    wanted_throughout: bool,
    ready_throughout: bool,
    backends: BTreeSet<SocketAddr>,
}

/// Address, protocol (0 for a guard) and scope.
type FrontendName = (SocketAddr, u8, u8);

/// The objects there are, and what clients may expect of them.
struct World {
    services: BTreeMap<ObjectName, Service>,
    slices: BTreeMap<ObjectName, EndpointSlice>,
    /// Knows every object at once, unlike the agent's.
    model: Model,
    seen: BTreeMap<FrontendName, Seen>,
}

impl World {
    fn new() -> Self {
        let model = Model::new(ModelConfig { node_name: NODE.into(), ..ModelConfig::default() });
        Self { services: BTreeMap::new(), slices: BTreeMap::new(), model, seen: BTreeMap::new() }
    }

    fn lists(&self) -> [Event; 2] {
        let services: Vec<_> = self.services.values().cloned().collect();
        let slices: Vec<_> = self.slices.values().cloned().collect();
        [Event::ServicesReset(services.into()), Event::SlicesReset(slices.into())]
    }

    fn apply(&mut self, event: Event) {
        match event.clone() {
            Event::ServiceApplied(service) => drop(self.services.insert(service.name.clone(), service)),
            Event::ServiceDeleted(name) => drop(self.services.remove(&name)),
            Event::SliceApplied(slice) => drop(self.slices.insert(slice.name.clone(), slice)),
            Event::SliceDeleted(name) => drop(self.slices.remove(&name)),
            _ => {}
        }
        self.model.apply(event);
        let now = self.leads();
        for (frontend, seen) in &mut self.seen {
            seen.wanted_throughout &= now.contains_key(frontend);
            seen.ready_throughout &= now.get(frontend).is_some_and(|backends| !backends.is_empty());
        }
        for (frontend, backends) in now {
            let seen = self.seen.entry(frontend).or_insert_with(|| Seen {
                wanted_throughout: false,
                ready_throughout: false,
                backends: BTreeSet::new(),
            });
            seen.backends.extend(backends);
        }
    }

    /// Where each frontend should lead.
    fn leads(&self) -> BTreeMap<FrontendName, BTreeSet<SocketAddr>> {
        let mut leads = BTreeMap::new();
        let desired: Vec<_> = self.services.keys().map(|name| self.model.desired(name)).collect();
        for guard in desired.iter().flat_map(|service| &service.guards) {
            leads.insert((SocketAddr::new(*guard, 0), 0, scope::INTERNAL), BTreeSet::new());
        }
        for port in desired.iter().flat_map(|service| &service.ports) {
            for (frontend, answer) in &port.frontends {
                let at = SocketAddr::new(frontend.ip, frontend.port);
                let proto = port.proto.number();
                leads.insert((at, proto, frontend.scope), answering(port, at, answer.set));
                if answer.differs_outside() {
                    leads.insert((at, proto, scope::EXTERNAL), answering(port, at, answer.outside));
                }
            }
        }
        leads
    }

    /// The maps agree with the objects now.
    fn agreed(&mut self) {
        let seen =
            |backends: BTreeSet<_>| Seen { wanted_throughout: true, ready_throughout: !backends.is_empty(), backends };
        self.seen = self.leads().into_iter().map(|(frontend, backends)| (frontend, seen(backends))).collect();
    }

    /// What a client met at some moment was right by some state of the objects since the maps last agreed with them.
    fn check(&self, moment: &Moment) {
        let seen = self.seen.get(&(moment.frontend, moment.proto, moment.scope));
        match (&moment.backends, seen) {
            (None, seen) => assert!(!seen.is_some_and(|seen| seen.wanted_throughout), "{moment:?} gone: {seen:?}"),
            (Some(backends), Some(seen)) if backends.is_empty() => {
                assert!(!seen.ready_throughout, "{moment:?} refused: {seen:?}");
            }
            (Some(backends), Some(seen)) => assert!(backends.is_subset(&seen.backends), "{moment:?}: {seen:?}"),
            (Some(_), None) => panic!("{moment:?} is no Service"),
        }
    }
}

fn answering(port: &DesiredPort, at: SocketAddr, set: EndpointSet) -> BTreeSet<SocketAddr> {
    let is_in = |backend: &&DesiredBackend| match set {
        EndpointSet::Cluster => backend.in_cluster,
        EndpointSet::Local => backend.in_local,
    };
    let of_family = port.backends.iter().filter(|backend| backend.ip.is_ipv4() == at.is_ipv4());
    of_family.filter(is_in).map(|backend| SocketAddr::new(backend.ip, backend.port)).collect()
}

/// The world and an agent in it.
struct History {
    world: World,
    agent: Agent,
    /// Whether the agent hears what happens.
    connected: bool,
}

impl History {
    fn new(faults: Faults) -> Self {
        let mut history = Self { world: World::new(), agent: Agent::start(ROOMY, faults), connected: false };
        history.connect();
        history
    }

    fn connect(&mut self) {
        let before = self.agent.maps().operations();
        for event in self.world.lists() {
            if !self.connected {
                assert_eq!(self.agent.maps().operations(), before, "written before both lists were there");
            }
            self.agent.receive([event]);
            self.agent.step();
        }
        self.connected = true;
    }

    fn restart(&mut self) {
        self.connected = false;
        self.agent.restart(|store| store.revive());
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Apply(service) => self.happen(Event::ServiceApplied(service)),
            Action::Delete(name) => self.happen(Event::ServiceDeleted(name)),
            Action::ApplySlice(slice) => self.happen(Event::SliceApplied(slice)),
            Action::DeleteSlice(name) => self.happen(Event::SliceDeleted(name)),
            Action::Relist => self.connect(),
            Action::Work => drop(self.agent.step()),
            Action::Settle => self.settle(),
            Action::Restart => self.restart(),
            Action::Crash(writes) => {
                self.agent.reconciler().store_mut().die_after(writes);
                self.agent.step();
                self.restart();
            }
        }
        self.check_clients();
    }

    fn happen(&mut self, event: Event) {
        self.world.apply(event.clone());
        if self.connected {
            self.agent.receive([event]);
        }
    }

    fn settle(&mut self) {
        if !self.connected {
            self.connect();
        }
        self.agent.settle();
        self.check_clients();
        self.world.agreed();
    }

    fn check_clients(&mut self) {
        let maps = self.agent.reconciler().store_mut().inner_mut();
        assert!(maps.violations().is_empty(), "{:?}", maps.violations());
        for moment in maps.take_history() {
            self.world.check(&moment);
        }
    }

    /// The maps hold what a new agent would write into empty ones, and no slot is lost.
    fn check_end(&mut self) {
        self.settle();
        let mut fresh = Agent::start(ROOMY, Faults::NONE);
        fresh.receive(self.world.lists());
        fresh.settle();
        assert_eq!(self.agent.dump(), fresh.dump());
        let usage = self.agent.report().usage;
        let node = self.agent.maps().node();
        assert_eq!(usage.v4.slots, slots_named(node.v4.frontends.values()));
        assert_eq!(usage.v6.slots, slots_named(node.v6.frontends.values()));
    }
}

/// How many slots the ranges of these frontends have, shared ones counted once.
fn slots_named<'a>(frontends: impl Iterator<Item = &'a Frontend>) -> u32 {
    let ranges: BTreeSet<_> = frontends.map(|frontend| (frontend.first_slot, frontend.n_slots)).collect();
    ranges.iter().map(|(_, n)| n).sum()
}

fn play(actions: Vec<Action>, faults: Faults) {
    let mut history = History::new(faults);
    for action in actions {
        history.act(action);
    }
    history.check_end();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn clients_never_notice_and_the_maps_end_as_if_written_at_once(
        actions in vec(action(), 0..60), percent in prop_oneof![Just(0_u32), Just(10), Just(40)], seed in any::<u64>(),
    ) {
        play(actions, Faults { percent, seed });
    }
}
