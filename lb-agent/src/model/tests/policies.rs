//! Which endpoints new connections may be given to: traffic policies, topology hints, endpoints that end. The cases of
//! hints and fallbacks are those that kube-proxy's own table has (pkg/proxy/topology_test.go), as far as it decides by them.

use super::{model, name, service, slice};
use crate::{
    event::{EndpointSlice, Event, Node, Service, TrafficPolicy},
    model::{Answer, FrontendAddr, Model, ModelConfig, NodePortAddresses},
};

/// An endpoint is `address condition key=value..` with the keys `on` (node), `nodes` and `zones` (hints, separated by
/// commas).
fn endpoints(list: &[&str]) -> EndpointSlice {
    let plain = |text: &&str| {
        let words = text.split(' ').filter(|word| !word.contains('='));
        words.collect::<Vec<_>>().join(" ")
    };
    let plain: Vec<String> = list.iter().map(plain).collect();
    let mut slice = slice("s", "web", &["80/tcp"], &plain.iter().map(String::as_str).collect::<Vec<_>>());
    for (endpoint, text) in slice.endpoints.iter_mut().zip(list) {
        for (key, value) in text.split(' ').filter_map(|word| word.split_once('=')) {
            let names = || value.split(',').map(Into::into).collect();
            match key {
                "on" => endpoint.node = Some(value.into()),
                "nodes" => endpoint.hints.get_or_insert_default().nodes = names(),
                "zones" => endpoint.hints.get_or_insert_default().zones = names(),
                other => panic!("no key {other}"),
            }
        }
    }
    slice
}

/// In zone `zone-a` on the node `n1`.
fn model_of(web: Service, list: &[&str]) -> Model {
    let mut model = model(vec![web], vec![endpoints(list)]);
    model.apply(Event::NodeApplied(Node { zone: Some("zone-a".into()), ..Node::default() }));
    model
}

fn web() -> Service {
    service("web", &["10.96.0.10"], &["80/tcp"])
}

fn internal_local() -> Service {
    Service { internal_policy: TrafficPolicy::Local, ..web() }
}

/// Last numbers of the addresses in the set for the policy Cluster, and for Local.
fn sets(model: &Model) -> (Vec<u8>, Vec<u8>) {
    let last = |ip: &std::net::IpAddr| match ip {
        std::net::IpAddr::V4(v4) => v4.octets()[3],
        std::net::IpAddr::V6(v6) => v6.octets()[15],
    };
    let backends = model.desired(&name("web")).ports.remove(0).backends;
    let cluster = backends.iter().filter(|b| b.in_cluster).map(|b| last(&b.ip)).collect();
    (cluster, backends.iter().filter(|b| b.in_local).map(|b| last(&b.ip)).collect())
}

fn cluster(list: &[&str]) -> Vec<u8> {
    sets(&model_of(web(), list)).0
}

#[test]
fn zone_hints_count_only_if_every_ready_endpoint_has_one_and_one_is_for_this_zone() {
    let cases: [(&[&str], &[u8]); 7] = [
        (&["10.0.0.1 zones=zone-a", "10.0.0.2 zones=zone-b", "10.0.0.3 zones=zone-c,zone-a"], &[1, 3]),
        (&["10.0.0.1 zones=zone-a", "10.0.0.2"], &[1, 2]),
        (&["10.0.0.1 zones=zone-b", "10.0.0.2 zones=zone-c"], &[1, 2]),
        // What is not ready has no say.
        (&["10.0.0.1 zones=zone-a", "10.0.0.2 zones=zone-b", "10.0.0.3 not-ready"], &[1]),
        (&["10.0.0.1 not-ready zones=zone-a", "10.0.0.2 zones=zone-b"], &[2]),
        (&["10.0.0.1 terminating zones=zone-a", "10.0.0.2 zones=zone-b", "10.0.0.3 zones=zone-a"], &[3]),
        // Where an endpoint is, as opposed to whom it is for, does not matter.
        (&["10.0.0.1 zones=zone-a on=n2", "10.0.0.2 zones=zone-b on=n1"], &[1]),
    ];
    for (list, expected) in cases {
        assert_eq!(cluster(list), expected, "{list:?}");
    }
}

#[test]
fn hints_for_nodes_go_before_hints_for_zones() {
    let cases: [(&[&str], &[u8]); 4] = [
        (&["10.0.0.1 zones=zone-a nodes=n2", "10.0.0.2 zones=zone-b nodes=n1"], &[2]),
        // None for this node, or one without: then zones.
        (&["10.0.0.1 zones=zone-a nodes=n2", "10.0.0.2 zones=zone-b nodes=n3"], &[1]),
        (&["10.0.0.1 zones=zone-a", "10.0.0.2 zones=zone-b nodes=n1"], &[1]),
        (&["10.0.0.1 nodes=n1", "10.0.0.2 zones=zone-a"], &[1, 2]),
    ];
    for (list, expected) in cases {
        assert_eq!(cluster(list), expected, "{list:?}");
    }
}

#[test]
fn a_node_without_a_zone_ignores_hints_for_zones_and_follows_it_when_it_gets_one() {
    let mut model = model(vec![web()], vec![endpoints(&["10.0.0.1 zones=zone-a", "10.0.0.2 zones=zone-b"])]);
    assert_eq!(sets(&model).0, [1, 2]);
    let moved = |zone: &str| Event::NodeApplied(Node { zone: Some(zone.into()), ..Node::default() });
    assert_eq!(model.apply(moved("zone-b")), [name("web")].into());
    assert_eq!(sets(&model).0, [2]);
    model.apply(Event::SliceApplied(endpoints(&["10.0.0.1", "10.0.0.2"])));
    assert!(model.apply(moved("zone-a")).is_empty(), "nothing is hinted any more");
}

#[test]
fn hints_are_weighed_in_each_family_by_itself() {
    let web = service("web", &["10.96.0.10", "fd96::1"], &["80/tcp"]);
    let list = ["10.0.0.1 zones=zone-a", "10.0.0.2 zones=zone-b", "fd00::5 zones=zone-a", "fd00::6"];
    assert_eq!(sets(&model_of(web, &list)).0, [1, 5, 6]);
}

#[test]
fn endpoints_that_end_and_still_serve_are_used_where_none_is_ready_whatever_their_hints() {
    let cases: [(&[&str], &[u8]); 4] = [
        (&["10.0.0.1 terminating", "10.0.0.2 terminating zones=zone-b", "10.0.0.3 stopped"], &[1, 2]),
        (&["10.0.0.1 terminating", "10.0.0.2"], &[2]),
        (&["10.0.0.1 stopped", "10.0.0.2 not-ready", "10.0.0.3 serving-only"], &[]),
        // publishNotReadyAddresses: ready although it ends.
        (&["10.0.0.1 ready-terminating", "10.0.0.2 terminating"], &[1]),
    ];
    for (list, expected) in cases {
        assert_eq!(cluster(list), expected, "{list:?}");
    }
}

#[test]
fn the_policy_local_takes_this_nodes_endpoints_and_falls_back_by_itself() {
    let cases: [(&[&str], &[u8]); 5] = [
        (&["10.0.0.1 on=n1", "10.0.0.2 on=n2", "10.0.0.3"], &[1]),
        // Ready ones elsewhere do not keep it from its own that end.
        (&["10.0.0.1 terminating on=n1", "10.0.0.2 on=n2"], &[1]),
        (&["10.0.0.1 terminating on=n1", "10.0.0.2 on=n1"], &[2]),
        (&["10.0.0.1 on=n2", "10.0.0.2 terminating on=n2"], &[]),
        // Hints do not matter.
        (&["10.0.0.1 on=n1 zones=zone-b", "10.0.0.2 on=n2 zones=zone-a"], &[1]),
    ];
    for (list, expected) in cases {
        assert_eq!(sets(&model_of(internal_local(), list)), (vec![], expected.to_vec()), "{list:?}");
    }
}

#[test]
fn with_internal_policy_local_external_addresses_still_reach_every_endpoint() {
    let web = Service { external_ips: vec![super::ip("192.0.2.1")], ..internal_local() };
    let model = model_of(web, &["10.0.0.1 on=n1", "10.0.0.2 on=n2"]);
    assert_eq!(sets(&model), (vec![1, 2], vec![1]));
    let port = model.desired(&name("web")).ports.remove(0);
    let set = |ip: &str| port.frontends.iter().find(|(f, _)| f.ip == super::ip(ip)).map(|(_, answer)| answer.set);
    assert_eq!(set("10.96.0.10"), Some(crate::model::EndpointSet::Local));
    assert_eq!(set("192.0.2.1"), Some(crate::model::EndpointSet::Cluster));
}

/// At which addresses clients outside get another set than those on this node, and at which they get the same.
fn outside(model: &Model) -> (Vec<String>, Vec<String>) {
    let port = model.desired(&name("web")).ports.remove(0);
    let (differing, same): (Vec<_>, Vec<_>) =
        port.frontends.iter().partition(|(_, answer)| answer.set != answer.outside);
    let text = |all: Vec<(&FrontendAddr, &Answer)>| all.iter().map(|(f, _)| format!("{}:{}", f.ip, f.port)).collect();
    (text(differing), text(same))
}

#[test]
fn external_policy_local_is_for_clients_outside_at_external_addresses_and_node_ports() {
    let mut web = Service {
        external_policy: TrafficPolicy::Local,
        external_ips: vec![super::ip("192.0.2.1")],
        ingress_ips: vec![super::ip("192.0.2.2")],
        ..web()
    };
    web.ports[0].node_port = Some(30080);
    let config = ModelConfig {
        node_name: "n1".into(),
        nodeport_addresses: NodePortAddresses::Prefixes(vec![
            "127.0.0.0/8".parse().unwrap(),
            "10.1.0.0/16".parse().unwrap(),
        ]),
        ..ModelConfig::default()
    };
    let mut model = super::of_node(config, vec![web], vec![endpoints(&["10.0.0.1 on=n1", "10.0.0.2 on=n2"])]);
    model.apply(Event::AddressesChanged([super::ip("10.1.0.1"), super::ip("127.0.0.1")].into()));
    assert_eq!(sets(&model), (vec![1, 2], vec![1]), "clients on this node reach all all the same");
    let (differing, same) = outside(&model);
    assert_eq!(differing, ["10.1.0.1:30080", "192.0.2.1:80", "192.0.2.2:80"]);
    assert_eq!(same, ["0.0.0.0:30080", "10.96.0.10:80", "127.0.0.1:30080"]);
}

#[test]
fn internal_policy_local_holds_for_everybody_at_the_cluster_ip() {
    let (differing, same) = outside(&model_of(internal_local(), &["10.0.0.1 on=n2"]));
    assert_eq!((differing, same), (vec![], vec!["10.96.0.10:80".to_owned()]));
}

/// kube-proxy's tests know this as `hasAnyEndpoints`.
#[test]
fn a_port_is_served_while_any_endpoint_of_the_family_takes_connections_wherever_it_is() {
    let cases: [(&[&str], bool); 5] = [
        (&[], false),
        (&["10.0.0.1 on=n2"], true),
        (&["10.0.0.1 terminating on=n2"], true),
        (&["10.0.0.1 not-ready on=n1", "10.0.0.2 stopped on=n1", "10.0.0.3 serving-only on=n1"], false),
        (&["fd00::1 on=n2"], false),
    ];
    for (list, expected) in cases {
        let port = model_of(internal_local(), list).desired(&name("web")).ports.remove(0);
        assert_eq!((port.is_served(true), port.is_served(false)), (expected, false), "{list:?}");
    }
}

#[test]
fn health_checks_are_told_the_ready_endpoints_of_this_node_once_each() {
    let mut web =
        Service { health_check_port: Some(32000), ..service("web", &["10.96.0.10"], &["a=80/tcp", "b=81/tcp"]) };
    web.external_policy = TrafficPolicy::Local;
    let mut list = endpoints(&["10.0.0.1 on=n1", "10.0.0.2 terminating on=n1", "10.0.0.3 on=n2", "10.0.0.4 on=n1"]);
    let local = |model: &Model| model.desired(&name("web")).health_check.map(|h| (h.port, h.local_v4, h.local_v6));
    let ports = |names: &[&str]| slice("s", "web", names, &[]).ports;
    list.ports = ports(&["a=8080/tcp", "b=8081/tcp"]);
    let mut model = model_of(web, &[]);
    assert_eq!(local(&model), Some((32000, Some(0), None)));
    model.apply(Event::SliceApplied(list.clone()));
    assert_eq!(local(&model), Some((32000, Some(2), None)));
    // Ports that are none count for nobody.
    list.ports = ports(&["a=nil/tcp"]);
    model.apply(Event::SliceApplied(list));
    assert_eq!(local(&model), Some((32000, Some(0), None)));
}
