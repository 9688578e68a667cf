//! Agents that find maps which they did not leave so: damaged, or with entries of somebody else.

use std::collections::BTreeMap;

use lb_agent::{
    event::{EndpointSlice, Event, FullList, ObjectName},
    watch::manifests::memory::InMemory,
};
use lb_common::{
    abi::{Backend, ClusterIps, Family, Frontend, FrontendKey, SourceKey, name_kind},
    sim::{SimMaps, SimNode},
};
use proptest::{collection::vec, prelude::*};

use crate::agent::{Agent, Faults, ROOMY};

const MANIFESTS: &str = r#"
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Service
  metadata: {name: web}
  spec:
    clusterIP: 10.96.0.10
    clusterIPs: [10.96.0.10, "fd00:10:96::a"]
    ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: {name: web-4, labels: {kubernetes.io/service-name: web}}
  addressType: IPv4
  ports: [{name: http, port: 8080}, {name: dns, port: 8053, protocol: UDP}]
  endpoints:
  - {addresses: [10.244.1.1], nodeName: n1}
  - {addresses: [10.244.2.2], nodeName: n2}
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: {name: web-6, labels: {kubernetes.io/service-name: web}}
  addressType: IPv6
  ports: [{name: http, port: 8080}]
  endpoints:
  - {addresses: ["fd00:10:244:1::1"], nodeName: n1}
- apiVersion: v1
  kind: Service
  metadata: {name: other}
  spec: {clusterIP: 10.96.0.11, ports: [{port: 80}]}
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: {name: other-1, labels: {kubernetes.io/service-name: other}}
  addressType: IPv4
  ports: [{port: 9090}]
  endpoints:
  - {addresses: [10.244.2.3], nodeName: n2}
"#;

/// The names in the map, by kind and id.
type Names = BTreeMap<(u32, u32), String>;

/// One wrong thing in the maps. Numbers pick entries, and are values for fields.
#[derive(Clone, Debug)]
enum Damage {
    /// A frontend gets this value.
    Frontend(usize, Frontend),
    /// A frontend that nobody asked for.
    StrangeFrontend(u8, Frontend),
    /// A backend vanishes.
    NoBackend(usize),
    /// A backend gets another Service and node.
    Backend(usize, u32, u32),
    /// A backend is there again, under another id.
    Twice(usize, u32),
    /// A slot says something else.
    Slot(u32, u32),
    /// A range of all clients, of this Service port and with a prefix that may not even cover the port.
    Source(u32, u32),
    /// The prefix of the guards holds nobody, or everybody.
    Prefix(bool),
    /// A name vanishes.
    NoName(usize),
    /// Some name under some id.
    Name(u32, u32, &'static str),
}

fn frontend() -> impl Strategy<Value = Frontend> {
    let id = prop_oneof![0..6_u32, Just(u32::MAX)];
    let slot = prop_oneof![0..12_u32, 7_990..8_010_u32, Just(u32::MAX)];
    let n = prop_oneof![0..6_u32, Just(u32::MAX)];
    (id, slot, n, 0..2_u32).prop_map(|(service, first_slot, n_slots, flags)| Frontend {
        service,
        first_slot,
        n_slots,
        flags,
        ..Frontend::default()
    })
}

fn damage() -> impl Strategy<Value = Damage> {
    let id = || prop_oneof![0..8_u32, Just(u32::MAX)];
    let name = prop_oneof![
        Just("default/web:http"),
        Just("default/other"),
        Just("default/gone"),
        Just("n1"),
        Just("/"),
        Just(""),
    ];
    // Not a device's: those are no business of the plan.
    let kind = prop_oneof![0..name_kind::DEVICE, Just(name_kind::DEVICE + 1)];
    prop_oneof![
        (any::<usize>(), frontend()).prop_map(|(pick, value)| Damage::Frontend(pick, value)),
        (1..4_u8, frontend()).prop_map(|(port, value)| Damage::StrangeFrontend(port, value)),
        any::<usize>().prop_map(Damage::NoBackend),
        (any::<usize>(), id(), id()).prop_map(|(pick, service, node)| Damage::Backend(pick, service, node)),
        (any::<usize>(), id()).prop_map(|(pick, id)| Damage::Twice(pick, id)),
        (0..8_u32, id()).prop_map(|(slot, id)| Damage::Slot(slot, id)),
        (id(), 20..33_u32).prop_map(|(service, prefix_len)| Damage::Source(service, prefix_len)),
        any::<bool>().prop_map(Damage::Prefix),
        any::<usize>().prop_map(Damage::NoName),
        (kind, id(), name).prop_map(|(kind, id, name)| Damage::Name(kind, id, name)),
    ]
}

fn pick<K: Copy + Ord, V>(map: &BTreeMap<K, V>, n: usize) -> Option<K> {
    map.keys().nth(n.checked_rem(map.len())?).copied()
}

fn damage_family<F: Family>(maps: &mut SimMaps<F>, damage: &Damage) {
    match *damage {
        Damage::Frontend(n, value) => {
            if let Some(key) = pick(&maps.frontends, n) {
                maps.frontends.insert(key, value);
            }
        }
        Damage::StrangeFrontend(port, value) => {
            let key = FrontendKey { port: port.into(), proto: 6, ..FrontendKey::default() };
            maps.frontends.insert(key, value);
        }
        Damage::NoBackend(n) => drop(pick(&maps.backends, n).and_then(|id| maps.backends.remove(&id))),
        Damage::Backend(n, service, node) => {
            if let Some(backend) = pick(&maps.backends, n).and_then(|id| maps.backends.get_mut(&id)) {
                *backend = Backend { service, node, ..*backend };
            }
        }
        Damage::Twice(n, id) => {
            if let Some(backend) = pick(&maps.backends, n).and_then(|id| maps.backends.get(&id)).copied() {
                maps.backends.insert(id, backend);
            }
        }
        Damage::Slot(index, id) => {
            maps.slots.entry(index).or_default().backend = id;
        }
        Damage::Source(service, prefix_len) => {
            maps.sources.insert((prefix_len, SourceKey { service, addr: F::Addr::default() }));
        }
        Damage::Prefix(nobody) => {
            let mask = if nobody { F::LOOPBACK } else { F::Addr::default() };
            maps.cluster_ips = ClusterIps { prefix: mask, mask };
        }
        Damage::NoName(_) | Damage::Name(..) => {}
    }
}

fn damage_all(node: &mut SimNode, names: &mut Names, damage: &Damage) {
    match *damage {
        Damage::NoName(n) => drop(pick(names, n).and_then(|key| names.remove(&key))),
        Damage::Name(kind, id, name) => drop(names.insert((kind, id), name.to_owned())),
        _ => {
            damage_family(&mut node.v4, damage);
            damage_family(&mut node.v6, damage);
        }
    }
}

fn agent_with_services(faults: Faults) -> (Agent, InMemory) {
    let mut manifests = InMemory::default();
    let (_, problems) = manifests.put("all.yaml", Some(MANIFESTS));
    assert!(problems.is_empty(), "{problems:?}");
    let mut agent = Agent::start(ROOMY, faults);
    agent.receive(manifests.full_lists());
    agent.settle();
    (agent, manifests)
}

proptest! {
    #[test]
    fn whatever_the_maps_held_they_are_right_in_the_end(
        damages in vec(damage(), 1..12), percent in prop_oneof![Just(0_u32), Just(20)], seed in any::<u64>(),
    ) {
        let (mut agent, manifests) = agent_with_services(Faults { percent, seed });
        let expected = agent.dump();
        agent.restart(|store| {
            store.inner_mut().edit(|node, names| damages.iter().for_each(|damage| damage_all(node, names, damage)));
        });
        let damaged = agent.dump();
        agent.step();
        prop_assert_eq!(agent.dump(), damaged, "changed before the lists were there");
        agent.receive(manifests.full_lists());
        agent.settle();
        prop_assert_eq!(&agent.dump(), &expected);

        // And the agent is as good as any from here on: no id or slot is lost or used twice.
        agent.restart(|store| store.inner_mut().edit(|_, _| {}));
        let before = agent.maps().violations().len();
        agent.receive(manifests.full_lists());
        agent.settle();
        prop_assert_eq!(&agent.dump(), &expected);
        prop_assert_eq!(&agent.maps().violations()[before..], &[] as &[String]);
    }
}

/// A Service that only the first agent could read.
const WEB: &str = "default/web";

fn lines_of(agent: &Agent, service: &str) -> Vec<String> {
    agent.dump().into_iter().filter(|line| line.starts_with(service)).collect()
}

/// An agent that has programmed everything and is replaced by another, which hears `lists` of the rest.
fn restarted(change: impl FnOnce(&mut [Event; 3])) -> (Agent, Agent) {
    let mut manifests = InMemory::default();
    manifests.put("all.yaml", Some(MANIFESTS));
    let mut before = Agent::start(ROOMY, Faults::NONE);
    before.receive(manifests.full_lists());
    before.settle();
    let mut agent = Agent::start(ROOMY, Faults::NONE);
    let mut lists = manifests.full_lists();
    agent.receive(lists.clone());
    agent.settle();
    agent.restart(|_| {});
    change(&mut lists);
    agent.receive(lists);
    agent.settle();
    (before, agent)
}

#[test]
fn a_service_that_the_next_agent_cannot_read_stays_as_it_is_until_it_is_read_or_gone() {
    let web = || ObjectName::new("default", "web");
    for unnamed in [false, true] {
        let (before, mut agent) = restarted(|[_, _, services]| {
            let Event::ServicesReset(list) = services else { panic!("{services:?}") };
            list.objects.retain(|service| service.name != web());
            (list.unreadable, list.unnamed) = if unnamed { (vec![], true) } else { (vec![web()], false) };
        });
        assert_eq!(agent.dump(), before.dump(), "unnamed: {unnamed}");
        agent.receive([Event::ServiceDeleted(ObjectName::new("default", "other"))]);
        agent.settle();
        assert!(lines_of(&agent, "default/other").is_empty());
        assert_eq!(lines_of(&agent, WEB), lines_of(&before, WEB), "unnamed: {unnamed}");
        let gone = FullList { objects: vec![], unreadable: vec![], unnamed: false };
        agent.receive([if unnamed { Event::ServicesReset(gone) } else { Event::ServiceDeleted(web()) }]);
        agent.settle();
        assert!(agent.dump().is_empty(), "{:?}", agent.dump());
    }
}

#[test]
fn a_service_whose_slices_the_next_agent_cannot_read_stays_as_it_is_until_one_is_read() {
    let other = ObjectName::new("default", "other-1");
    let mut slice = None;
    let (before, mut agent) = restarted(|[_, slices, _]| {
        let Event::SlicesReset(list) = slices else { panic!("{slices:?}") };
        slice = list.objects.iter().position(|slice| slice.name == other).map(|at| list.objects.remove(at));
        list.unreadable = vec![other.clone()];
    });
    assert_eq!(agent.dump(), before.dump());
    let read = EndpointSlice { endpoints: vec![], ..slice.expect("a slice of other") };
    agent.receive([Event::SliceApplied(read)]);
    agent.settle();
    assert!(lines_of(&agent, "default/other").contains(&"default/other 10.96.0.11:80/TCP refuses".to_owned()));
    assert_eq!(lines_of(&agent, WEB), lines_of(&before, WEB));
}

#[test]
fn ids_survive_a_restart_and_are_not_given_out_again_at_once() {
    let (mut agent, mut manifests) = agent_with_services(Faults::NONE);
    let ids = |agent: &Agent| agent.maps().node().v4.backends.clone();
    let before = ids(&agent);
    let highest = *before.keys().last().unwrap();

    agent.restart(|_| {});
    let changed = MANIFESTS.replace("10.244.2.2", "10.244.2.9");
    manifests.put("all.yaml", Some(&changed));
    agent.receive(manifests.full_lists());
    agent.settle();
    let after = ids(&agent);
    let (kept, new): (Vec<_>, Vec<_>) = after.iter().partition(|(id, _)| before.contains_key(id));
    assert!(kept.iter().all(|(id, backend)| before.get(id) == Some(backend)), "{before:?} {after:?}");
    assert_eq!((kept.len(), new.len()), (3, 2));
    assert!(new.iter().all(|(id, backend)| **id > highest && backend.addr == [10, 244, 2, 9]), "{after:?}");
}
