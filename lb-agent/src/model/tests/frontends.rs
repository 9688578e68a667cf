//! Which addresses and ports a Service gets on this node, who else wants them, and what is refused.

use lb_common::abi::scope;

use super::{ip, name, service};
use crate::{
    event::{Event, Node, Service, ServiceKind, ServicePort},
    model::{ExternalIps, Model, ModelConfig, NodePortAddresses},
};

const V4: &str = "192.168.0.1";
const V6: &str = "fd01::1";

fn config(nodeport_addresses: &str) -> ModelConfig {
    ModelConfig {
        node_name: "n1".into(),
        nodeport_addresses: nodeport_addresses.parse().unwrap(),
        ..ModelConfig::default()
    }
}

/// On a node with these addresses on its interfaces and in its Node object.
fn model(config: ModelConfig, local: &[&str], primary: &[&str], services: Vec<Service>) -> Model {
    let mut model = Model::new(config);
    model.apply(Event::NodeApplied(node(primary)));
    model.apply(Event::AddressesChanged(local.iter().map(|text| ip(text)).collect()));
    model.apply(Event::ServicesReset(services.into()));
    model.apply(Event::SlicesReset(vec![].into()));
    model
}

fn node(primary: &[&str]) -> Node {
    Node { addresses: primary.iter().map(|text| ip(text)).collect(), ..Node::default() }
}

/// A Service of one TCP port 80 with this node port.
fn node_port(service_name: &str, ips: &[&str], number: u16) -> Service {
    let mut service = service(service_name, ips, &["80/tcp"]);
    service.ports[0].node_port = Some(number);
    service
}

/// Address and port of each frontend, with its scope where that is not INTERNAL.
fn frontends(model: &Model, service: &str) -> Vec<String> {
    let desired = model.desired(&name(service));
    let text = |frontend: &crate::model::FrontendAddr| {
        let scope = match frontend.scope {
            scope::HOST => " host",
            scope::BIND => " bind",
            _ => "",
        };
        format!("{}:{}{scope}", frontend.ip, frontend.port)
    };
    desired.ports.iter().flat_map(|port| port.frontends.keys().map(text)).collect()
}

/// Those of the node port 30080 that a client can connect to.
fn node_ports(model: &Model, service: &str) -> Vec<String> {
    frontends(model, service).into_iter().filter(|f| f.contains(":30080") && !f.ends_with("bind")).collect()
}

fn complaints(model: &Model) -> Vec<String> {
    model.conflicts().map(|c| c.to_string()).chain(model.refusals().map(ToString::to_string)).collect()
}

#[test]
fn node_ports_answer_on_the_addresses_that_the_flag_names_as_kube_proxy_reads_it() {
    let local = ["127.0.0.1", "127.0.0.2", "::1", V4, "10.0.0.1", V6, "2001:db8::1"];
    let primary = [V4, V6];
    let v4 = |texts: &[&str]| texts.iter().map(|t| format!("{t}:30080")).collect::<Vec<_>>();
    let both = ["10.96.0.1", "fd96::1"];
    for (flag, own, expected) in [
        ("primary", &primary[..], v4(&[V4, V6])),
        // An address in the Node object that is on no interface is not this node's to answer for.
        ("primary", &["192.168.0.9", V6], v4(&[V6])),
        // A family without an address is answered everywhere.
        ("primary", &[V4], v4(&[V4, "2001:db8::1", V6])),
        ("primary", &[], v4(&["10.0.0.1", V4, "2001:db8::1", V6])),
        ("10.0.0.0/8", &primary, v4(&["10.0.0.1", "2001:db8::1", V6])),
        ("0.0.0.0/0,fd01::/16", &primary, v4(&["10.0.0.1", V4, V6])),
        ("127.0.0.1/32,fd01::/16", &primary, vec!["127.0.0.1:30080 host".to_owned(), format!("{V6}:30080")]),
        (
            "127.0.0.0/8,::1/128",
            &primary,
            [v4(&["127.0.0.1"]), v4(&["127.0.0.2"]), v4(&["::1"])].concat().into_iter().map(|t| t + " host").collect(),
        ),
        ("172.16.0.0/12,::1/128", &primary, vec!["::1:30080 host".to_owned()]),
    ] {
        let model = model(config(flag), &local, own, vec![node_port("web", &both, 30080)]);
        assert_eq!(node_ports(&model, "web"), expected, "{flag} with {own:?}");
    }
}

#[test]
fn a_node_port_is_served_in_the_families_of_the_service_and_its_port_is_kept_free_there() {
    let local = [V4, V6];
    let serve = |ips: &[&str]| {
        let model = model(config("primary"), &local, &local, vec![node_port("web", ips, 30080)]);
        frontends(&model, "web")
    };
    assert_eq!(serve(&["10.96.0.1"]), ["0.0.0.0:30080 bind", "10.96.0.1:80", "192.168.0.1:30080"]);
    assert_eq!(serve(&["fd96::1"]), [":::30080 bind", "fd01::1:30080", "fd96::1:80"]);
}

#[test]
fn node_ports_follow_the_nodes_addresses_and_touch_no_other_service() {
    let plain = service("plain", &["10.96.0.2"], &["80/tcp"]);
    let mut model = model(config("primary"), &[V4], &[V4], vec![node_port("web", &["10.96.0.1"], 30080), plain]);
    assert_eq!(node_ports(&model, "web"), ["192.168.0.1:30080"]);
    let moved = Event::AddressesChanged([ip("192.168.0.7")].into());
    assert_eq!(model.apply(moved), [name("web")].into());
    assert!(node_ports(&model, "web").is_empty());
    assert_eq!(model.apply(Event::NodeApplied(node(&["192.168.0.7"]))), [name("web")].into());
    assert_eq!(node_ports(&model, "web"), ["192.168.0.7:30080"]);
    // A pod's interface changes nothing.
    assert!(model.apply(Event::AddressesChanged([ip("192.168.0.7"), ip("10.244.0.1")].into())).is_empty());
    assert!(model.apply(Event::NodeApplied(Node { going_away: true, ..node(&["192.168.0.7"]) })).is_empty());
    // Who loses its Node object keeps to the addresses that this named.
    assert!(model.apply(Event::NodeDeleted).is_empty());
    assert_eq!(node_ports(&model, "web"), ["192.168.0.7:30080"]);
}

#[test]
fn without_a_node_object_every_address_of_the_node_answers_to_node_ports() {
    let mut model = Model::new(config("primary"));
    model.apply(Event::ServicesReset(vec![node_port("web", &["10.96.0.1"], 30080)].into()));
    model.apply(Event::NodeDeleted);
    model.apply(Event::AddressesChanged([ip("192.168.0.7"), ip("10.244.0.1"), ip("127.0.0.1")].into()));
    assert_eq!(node_ports(&model, "web"), ["10.244.0.1:30080", "192.168.0.7:30080"]);
}

#[test]
fn a_service_changes_its_type_and_its_ports_in_place() {
    let mut model = model(config("primary"), &[V4], &[V4], vec![service("web", &["10.96.0.1"], &["80/tcp"])]);
    let with_port = ["0.0.0.0:30080 bind", "10.96.0.1:80", "192.168.0.1:30080"];
    model.apply(Event::ServiceApplied(node_port("web", &["10.96.0.1"], 30080)));
    assert_eq!(frontends(&model, "web"), with_port);
    model.apply(Event::ServiceApplied(node_port("web", &["10.96.0.1"], 30081)));
    assert_eq!(frontends(&model, "web"), ["0.0.0.0:30081 bind", "10.96.0.1:80", "192.168.0.1:30081"]);
    model.apply(Event::ServiceApplied(Service { kind: ServiceKind::ExternalName, ..Service::named(name("web")) }));
    assert!(frontends(&model, "web").is_empty());
    model.apply(Event::ServiceApplied(node_port("web", &["10.96.0.1"], 30080)));
    assert_eq!(frontends(&model, "web"), with_port);
    model.apply(Event::ServiceApplied(service("web", &["10.96.0.1"], &["80/tcp"])));
    assert_eq!(frontends(&model, "web"), ["10.96.0.1:80"]);
}

#[test]
fn external_and_ingress_addresses_are_served_in_the_families_of_the_service() {
    let web = Service {
        external_ips: vec![ip("192.0.2.1"), ip("2001:db8::1")],
        ingress_ips: vec![ip("198.51.100.1"), ip("2001:db8::2")],
        ..service("web", &["10.96.0.1"], &["80/tcp", "dns=53/udp"])
    };
    let model = model(config("primary"), &[], &[], vec![web]);
    assert_eq!(
        frontends(&model, "web"),
        ["10.96.0.1:80", "192.0.2.1:80", "198.51.100.1:80", "10.96.0.1:53", "192.0.2.1:53", "198.51.100.1:53"]
    );
}

#[test]
fn source_ranges_restrict_ingress_addresses_of_their_family_alone() {
    let restricted = |ranges: &[&str]| -> (Vec<String>, usize) {
        let mut web = Service {
            external_ips: vec![ip("192.0.2.1")],
            ingress_ips: vec![ip("198.51.100.1"), ip("2001:db8::2")],
            source_ranges: ranges.iter().map(|text| text.parse().unwrap()).collect(),
            ..service("web", &["10.96.0.1", "fd96::1"], &["80/tcp"])
        };
        web.ports[0].node_port = Some(30080);
        let model = model(config("primary"), &[V4], &[V4], vec![web]);
        let port = model.desired(&name("web")).ports.remove(0);
        let addresses = port.frontends.iter().filter(|(_, answer)| answer.restricted).map(|(f, _)| f.ip.to_string());
        (addresses.collect(), port.sources.len())
    };
    let list = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(restricted(&[]), (vec![], 0));
    assert_eq!(restricted(&["10.0.0.0/8"]), (list(&["198.51.100.1"]), 1));
    assert_eq!(restricted(&["10.0.0.0/8", "fd00::/8"]), (list(&["198.51.100.1", "2001:db8::2"]), 2));
    // As good as none, which is what kube-proxy makes of it.
    assert_eq!(restricted(&["10.0.0.0/8", "0.0.0.0/0"]), (vec![], 0));
    assert_eq!(restricted(&["10.0.0.0/8", "0.0.0.0/0", "fd00::/8"]), (list(&["2001:db8::2"]), 1));
    // An address that is external as well is restricted all the same.
    let web = Service {
        external_ips: vec![ip("192.0.2.1")],
        ingress_ips: vec![ip("192.0.2.1")],
        source_ranges: vec!["10.0.0.0/8".parse().unwrap()],
        ..service("web", &["10.96.0.1"], &["80/tcp"])
    };
    let model = model(config("primary"), &[], &[], vec![web]);
    let port = model.desired(&name("web")).ports.remove(0);
    assert!(port.frontends.iter().any(|(f, answer)| f.ip == ip("192.0.2.1") && answer.restricted));
}

#[test]
fn external_ips_that_the_operator_does_not_allow_are_left_out_and_named() {
    let web = Service {
        external_ips: vec![ip("192.0.2.1"), ip("203.0.113.1")],
        ingress_ips: vec![ip("203.0.113.2")],
        ..service("web", &["10.96.0.1"], &["80/tcp", "tls=443/tcp"])
    };
    let served = |external_ips: ExternalIps| {
        let model = model(ModelConfig { external_ips, ..config("primary") }, &[], &[], vec![web.clone()]);
        let mut served = frontends(&model, "web");
        served.retain(|frontend| frontend.ends_with(":80"));
        (served, complaints(&model))
    };
    let refused = |i: usize, ip: &str| {
        format!(
            "Service default/web: spec.externalIPs[{i}]: {ip} is left out, as --external-ips asks; the rest of the \
             Service is served"
        )
    };
    let all = ["10.96.0.1:80", "192.0.2.1:80", "203.0.113.1:80", "203.0.113.2:80"].map(str::to_owned).to_vec();
    assert_eq!(served(ExternalIps::All), (all.clone(), vec![]));
    assert_eq!(
        served("192.0.2.0/24".parse().unwrap()),
        (vec![all[0].clone(), all[1].clone(), all[3].clone()], vec![refused(1, "203.0.113.1")])
    );
    assert_eq!(
        served(ExternalIps::None),
        (vec![all[0].clone(), all[3].clone()], vec![refused(0, "192.0.2.1"), refused(1, "203.0.113.1")])
    );
}

#[test]
fn the_address_and_port_of_an_api_server_in_use_are_nobodys_and_its_other_ports_are_free() {
    let server = "192.0.2.1:6443".parse().unwrap();
    let config = ModelConfig { api_servers: [server].into(), ..config("primary") };
    let thief = Service {
        external_ips: vec![ip("192.0.2.1")],
        ingress_ips: vec![ip("192.0.2.1")],
        ..service("thief", &["10.96.0.1"], &["a=6443/tcp", "b=6443/udp", "c=443/tcp"])
    };
    let mut model = model(config, &[], &[], vec![thief]);
    assert_eq!(
        frontends(&model, "thief"),
        ["10.96.0.1:6443", "10.96.0.1:6443", "192.0.2.1:6443", "10.96.0.1:443", "192.0.2.1:443"]
    );
    let told = complaints(&model);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("Service default/thief: spec.externalIPs[0]: 192.0.2.1 port 6443 is left out"));
    assert!(told[1].starts_with("Service default/thief: status.loadBalancer.ingress[0].ip: 192.0.2.1 port 6443"));
    model.apply(Event::ServiceDeleted(name("thief")));
    assert!(complaints(&model).is_empty());
}

#[test]
fn a_cluster_ip_is_its_own_services_however_old_the_one_that_names_it_as_external() {
    let old =
        Service { created_s: 1, external_ips: vec![ip("10.96.0.1")], ..service("a", &["10.96.0.9"], &["80/tcp"]) };
    let young = Service { created_s: 2, ..service("b", &["10.96.0.1"], &["80/tcp"]) };
    let mut model = model(config("primary"), &[], &[], vec![old]);
    assert_eq!(frontends(&model, "a"), ["10.96.0.1:80", "10.96.0.9:80"]);
    assert_eq!(model.apply(Event::ServiceApplied(young)), [name("a"), name("b")].into());
    assert_eq!(frontends(&model, "a"), ["10.96.0.9:80"]);
    assert_eq!(frontends(&model, "b"), ["10.96.0.1:80"]);
    let told = complaints(&model);
    assert!(
        told[0].starts_with("Service default/a: spec.externalIPs[0]: 10.96.0.1:80 TCP is held by Service default/b")
    );
}

#[test]
fn of_two_services_with_one_node_port_the_older_has_it_and_that_is_told_once() {
    let old = Service { created_s: 1, ..node_port("old", &["10.96.0.1", "fd96::1"], 30080) };
    let young = Service { created_s: 2, ..node_port("young", &["10.96.0.2", "fd96::2"], 30080) };
    let local = [V4, V6];
    let mut model = model(config("primary"), &local, &local, vec![young, old]);
    assert_eq!(frontends(&model, "young"), ["10.96.0.2:80", "fd96::2:80"]);
    assert_eq!(node_ports(&model, "old").len(), 2);
    let told: std::collections::BTreeSet<_> = complaints(&model).into_iter().collect();
    assert_eq!(told.len(), 1, "{told:?}");
    let text = "Service default/young: spec.ports[0].nodePort: 30080 TCP is held by Service default/old";
    assert!(told.first().unwrap().starts_with(text), "{told:?}");
    model.apply(Event::ServiceDeleted(name("old")));
    assert_eq!(node_ports(&model, "young").len(), 2);
}

#[test]
fn an_external_address_of_the_node_goes_before_a_node_port_on_it() {
    let port = |name: &str, port, node_port| ServicePort { name: name.into(), port, node_port, ..service_port() };
    let other = Service { external_ips: vec![ip(V4)], ..service("other", &["10.96.0.2"], &["30080/tcp"]) };
    let old = Service { created_s: -1, ..node_port("web", &["10.96.0.1"], 30080) };
    let model_of = |services| model(config("primary"), &[V4], &[V4], services);
    let model = model_of(vec![other, old]);
    assert_eq!(frontends(&model, "other"), ["10.96.0.2:30080", "192.168.0.1:30080"]);
    assert!(node_ports(&model, "web").is_empty());
    // The same within one Service.
    let mut web = Service { external_ips: vec![ip(V4)], ..service("web", &["10.96.0.1"], &[]) };
    web.ports = vec![port("a", 80, Some(30080)), port("b", 30080, None)];
    let model = model_of(vec![web]);
    let by_port: Vec<Vec<String>> = model
        .desired(&name("web"))
        .ports
        .iter()
        .map(|port| port.frontends.keys().map(|f| format!("{}:{} {}", f.ip, f.port, f.scope)).collect())
        .collect();
    assert_eq!(by_port[0], ["0.0.0.0:30080 3", "10.96.0.1:80 0", "192.168.0.1:80 0"]);
    assert_eq!(by_port[1], ["10.96.0.1:30080 0", "192.168.0.1:30080 0"]);
}

fn service_port() -> ServicePort {
    service("any", &[], &["80/tcp"]).ports.remove(0)
}

fn guards(model: &Model, service: &str) -> Vec<String> {
    model.desired(&name(service)).guards.iter().map(ToString::to_string).collect()
}

#[test]
fn a_cluster_ip_is_guarded_once_unless_it_is_the_node_s_own() {
    let a = service("a", &["10.96.0.1", "fd96::1"], &["80/tcp"]);
    let b = Service { created_s: 1, ..service("b", &["10.96.0.1"], &["81/tcp"]) };
    let mut model = model(config("primary"), &[], &[], vec![a.clone(), b]);
    assert_eq!(guards(&model, "a"), ["10.96.0.1", "fd96::1"]);
    assert!(guards(&model, "b").is_empty());
    // The older goes, the other takes over.
    assert_eq!(model.apply(Event::ServiceDeleted(name("a"))), [name("a"), name("b")].into());
    assert_eq!(guards(&model, "b"), ["10.96.0.1"]);
    model.apply(Event::ServiceApplied(a));
    assert_eq!(guards(&model, "a"), ["10.96.0.1", "fd96::1"]);
    // The node has the address itself: on an interface, or in its Node object.
    assert_eq!(model.apply(Event::AddressesChanged([ip("10.96.0.1")].into())), [name("a")].into());
    assert_eq!(guards(&model, "a"), ["fd96::1"]);
    assert_eq!(model.apply(Event::AddressesChanged([].into())), [name("a")].into());
    assert_eq!(model.apply(Event::NodeApplied(node(&["fd96::1"]))), [name("a")].into());
    assert_eq!(guards(&model, "a"), ["10.96.0.1"]);
    model.apply(Event::NodeApplied(node(&[])));
    // kube-proxy's set of ClusterIPs asks nobody whether a Service names one of them as external.
    let c = Service { external_ips: vec![ip("10.96.0.1")], ..service("c", &["10.96.0.3"], &["81/tcp"]) };
    model.apply(Event::ServiceApplied(c));
    assert_eq!(guards(&model, "a"), ["10.96.0.1", "fd96::1"]);
}

#[test]
fn prefixes_are_written_as_kube_proxy_takes_them() {
    assert_eq!("10.1.2.3/8".parse(), Ok(NodePortAddresses::Prefixes(vec!["10.0.0.0/8".parse().unwrap()])));
}
