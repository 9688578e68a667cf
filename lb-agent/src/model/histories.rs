//! The incremental model against the naive one on random histories of Services, slices, Nodes and addresses. Everything is
//! drawn from few values, so that Services often want the same thing and a change often matters.
//!
//! `LB_HISTORIES=1000000 cargo test -p lb-agent --release --lib histories` runs that many.

use std::{
    collections::BTreeSet,
    env,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use lb_common::abi::Proto;
use proptest::{
    collection::{btree_set, vec},
    option,
    prelude::*,
    sample::{select, subsequence},
};

use super::{DesiredService, ExternalIps, Model, ModelConfig, NodePortAddresses, oracle::Oracle};
use crate::event::{
    Endpoint, EndpointSlice, Event, FullList, Hints, Node, ObjectName, Service, ServiceKind, ServicePort, SlicePort,
    TrafficPolicy,
};

/// Runs of the property.
const HISTORIES: u32 = 512;
const NAMESPACES: u8 = 2;
const NAMES: u8 = 3;
const THIS_NODE: &str = "n1";
/// Of ClusterIPs.
const CLUSTER: [&str; 5] = ["10.96.0.1", "10.96.0.2", "10.96.0.3", "fd96::1", "fd96::2"];
/// Of external and ingress addresses: some that are nobody else's, some that others have.
const EXTERNAL: [&str; 8] =
    ["192.0.2.1", "192.0.2.2", "198.51.100.1", "2001:db8::1", "10.96.0.1", "fd96::1", "10.1.0.1", "fd01::1"];
/// Of interfaces.
const LOCAL: [&str; 8] = ["127.0.0.1", "::1", "10.1.0.1", "10.2.0.1", "fd01::1", "fd02::1", "10.96.0.2", "192.0.2.1"];
/// Of the Node object.
const PRIMARY: [&str; 4] = ["10.1.0.1", "10.3.0.1", "fd01::1", "192.0.2.2"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn name(namespace: u8, name: u8) -> ObjectName {
    ObjectName::new(format!("ns{namespace}"), format!("o{name}"))
}

fn any_name() -> impl Strategy<Value = ObjectName> {
    let namespace = prop_oneof![4 => Just(0), 1 => 1..NAMESPACES];
    (namespace, 0..NAMES).prop_map(|(namespace, object)| name(namespace, object))
}

fn any_proto() -> impl Strategy<Value = Proto> {
    prop_oneof![Just(Proto::Tcp), Just(Proto::Udp)]
}

fn any_policy() -> impl Strategy<Value = TrafficPolicy> {
    prop_oneof![Just(TrafficPolicy::Cluster), Just(TrafficPolicy::Local)]
}

fn some_of(from: &'static [&'static str], up_to: usize) -> impl Strategy<Value = Vec<IpAddr>> {
    subsequence(from, 0..=up_to).prop_map(|chosen| chosen.into_iter().map(ip).collect())
}

/// At most one address of each family.
fn any_cluster_ips() -> impl Strategy<Value = Vec<IpAddr>> {
    some_of(&CLUSTER, 3).prop_map(|mut ips| {
        let mut seen = BTreeSet::new();
        ips.retain(|ip| seen.insert(ip.is_ipv4()));
        ips
    })
}

/// Numbers, and so names, are unique within a Service, as the source ensures. Node ports may be another port's number.
fn any_ports() -> impl Strategy<Value = Vec<ServicePort>> {
    let port = (any_proto(), 1..3_u16);
    (btree_set(port, 0..4), vec(option::weighted(0.4, 1..6_u16), 4)).prop_map(|(ports, node_ports)| {
        let mut seen = BTreeSet::new();
        let port = |((proto, port), node_port): ((Proto, u16), Option<u16>)| ServicePort {
            name: format!("p{port}").into(),
            proto,
            port,
            node_port: node_port.filter(|number| seen.insert((*number, proto))),
        };
        ports.into_iter().zip(node_ports).map(port).collect()
    })
}

fn any_service() -> impl Strategy<Value = Service> {
    let kind = prop_oneof![6 => Just(ServiceKind::ClusterIp), 1 => Just(ServiceKind::Headless),
        1 => Just(ServiceKind::ExternalName)];
    let ranges = subsequence(&["10.0.0.0/8", "0.0.0.0/0", "2001:db8::/32", "192.0.2.1/32"][..], 0..=2);
    let external = (some_of(&EXTERNAL, 3), some_of(&EXTERNAL, 3), prop_oneof![Just(Vec::new()), ranges]);
    let rest = (any_policy(), any_policy(), select(vec![0_u32, 10_800]), option::weighted(0.3, Just(32_000_u16)));
    (any_name(), 0..3_i64, kind, any_cluster_ips(), any_ports(), external, rest).prop_map(
        |(name, created_s, kind, cluster_ips, ports, (external_ips, ingress_ips, ranges), rest)| Service {
            created_s,
            kind,
            cluster_ips,
            ports,
            external_ips,
            ingress_ips,
            source_ranges: ranges.into_iter().map(net).collect(),
            internal_policy: rest.0,
            external_policy: rest.1,
            affinity_s: rest.2,
            health_check_port: rest.3,
            ..Service::named(name)
        },
    )
}

fn any_hints() -> impl Strategy<Value = Option<Box<Hints>>> {
    let names = |from: &'static [&'static str], share| {
        option::weighted(share, subsequence(from, 1..=2))
            .prop_map(|names| names.into_iter().flatten().map(Into::into).collect())
    };
    let hints = (names(&["a", "b"], 0.8), names(&["n1", "n2"], 0.5));
    option::weighted(0.9, hints.prop_map(|(zones, nodes)| Box::new(Hints { zones, nodes })))
}

fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    let addresses = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fd00::2"];
    let node = option::weighted(0.9, select(vec!["n1", "n2"]));
    let conditions = (prop::bool::weighted(0.6), prop::bool::weighted(0.7), prop::bool::weighted(0.5));
    (select(addresses.to_vec()), conditions, node, any_hints()).prop_map(
        |(address, (ready, serving, terminating), node, hints)| Endpoint {
            address: ip(address),
            ready,
            serving,
            terminating,
            node: node.map(Into::into),
            zone: None,
            hints,
        },
    )
}

fn any_slice() -> impl Strategy<Value = EndpointSlice> {
    let port = (1..3_u8, any_proto(), option::weighted(0.9, 8080..8082_u16));
    let port = port.prop_map(|(name, proto, port)| SlicePort { name: format!("p{name}").into(), proto, port });
    (any_name(), 0..NAMES, vec(port, 0..4), vec(any_endpoint(), 0..6)).prop_map(|(name, service, ports, endpoints)| {
        EndpointSlice { name, service: format!("o{service}").into(), ports, endpoints }
    })
}

fn any_list<T: Clone + std::fmt::Debug>(object: impl Strategy<Value = T>) -> impl Strategy<Value = FullList<T>> {
    (vec(object, 0..6), vec(any_name(), 0..3)).prop_map(|(objects, unreadable)| FullList {
        objects,
        unreadable,
        unnamed: false,
    })
}

fn any_node() -> impl Strategy<Value = Node> {
    let zone = option::of(select(vec!["a", "b", "c"]));
    (zone, some_of(&PRIMARY, 2), any::<bool>()).prop_map(|(zone, addresses, going_away)| Node {
        zone: zone.map(Into::into),
        addresses,
        going_away,
    })
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => any_service().prop_map(Event::ServiceApplied),
        3 => any_name().prop_map(Event::ServiceDeleted),
        1 => any_list(any_service()).prop_map(Event::ServicesReset),
        8 => any_slice().prop_map(Event::SliceApplied),
        3 => any_name().prop_map(Event::SliceDeleted),
        1 => any_list(any_slice()).prop_map(Event::SlicesReset),
        2 => any_node().prop_map(Event::NodeApplied),
        1 => Just(Event::NodeDeleted),
        3 => some_of(&LOCAL, 5).prop_map(|addresses| Event::AddressesChanged(addresses.into_iter().collect())),
    ]
}

fn any_config() -> impl Strategy<Value = ModelConfig> {
    let prefixes = vec!["127.0.0.0/8", "::1/128", "0.0.0.0/0", "10.0.0.0/8", "10.2.0.0/16", "fd01::/16"];
    let prefixes = subsequence(prefixes, 1..=3)
        .prop_map(|prefixes| NodePortAddresses::Prefixes(prefixes.into_iter().map(net).collect()));
    let external = prop_oneof![
        4 => Just(ExternalIps::All),
        1 => Just(ExternalIps::None),
        2 => Just(ExternalIps::Within(vec![net("192.0.2.0/31"), net("10.96.0.0/16")])),
    ];
    let server = option::of(Just(SocketAddr::new(ip("192.0.2.1"), 1)));
    (prop_oneof![Just(NodePortAddresses::Primary), prefixes], external, server).prop_map(
        |(nodeport_addresses, external_ips, server)| ModelConfig {
            node_name: THIS_NODE.into(),
            nodeport_addresses,
            external_ips,
            api_servers: server.into_iter().collect(),
        },
    )
}

/// Whether applying it once more must change nothing. A list may name an object twice.
fn is_idempotent(event: &Event) -> bool {
    !matches!(event, Event::ServicesReset(_) | Event::SlicesReset(_))
}

fn histories() -> u32 {
    env::var("LB_HISTORIES").map_or(HISTORIES, |text| text.parse().expect("LB_HISTORIES is a number"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: histories(), ..ProptestConfig::default() })]

    #[test]
    fn the_incremental_model_says_what_the_naive_one_says(config in any_config(), events in vec(any_event(), 1..40)) {
        let (mut model, mut oracle) = (Model::new(config.clone()), Oracle::new(config));
        let mut before = oracle.desired();
        for event in events {
            oracle.apply(event.clone());
            let dirty = model.apply(event.clone());
            let after = oracle.desired();
            for (namespace, object) in (0..NAMESPACES).flat_map(|n| (0..NAMES).map(move |o| (n, o))) {
                let name = name(namespace, object);
                match after.get(&name) {
                    Some(expected) => prop_assert_eq!(&model.desired(&name), expected, "after {:?}", event),
                    None => {
                        let nothing = DesiredService { name: name.clone(), ports: vec![], guards: [].into(), health_check: None };
                        prop_assert_eq!(model.desired(&name), nothing, "after {:?}", event);
                    }
                }
                let changed = before.get(&name) != after.get(&name);
                prop_assert!(!changed || dirty.contains(&name), "{} changed by {:?}", name, event);
            }
            before = after;
            if is_idempotent(&event) {
                prop_assert!(model.apply(event).is_empty());
            }
        }
    }
}
