//! Objects in, frontends and backends out.

mod frontends;
mod policies;

use std::{collections::BTreeSet, net::IpAddr};

use super::{Model, ModelConfig};
use crate::event::{
    Endpoint, EndpointSlice, Event, FullList, ObjectName, Service, ServiceKind, ServicePort, SlicePort,
};
use lb_common::abi::{Proto, backend_state};

fn name(name: &str) -> ObjectName {
    ObjectName::new("default", name)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A ClusterIP Service; a port is written `name=80/tcp`, or `80/tcp` without a name.
fn service(service: &str, ips: &[&str], ports: &[&str]) -> Service {
    Service {
        cluster_ips: ips.iter().map(|text| ip(text)).collect(),
        ports: ports
            .iter()
            .map(|text| {
                let (name, proto, port) = port(text);
                ServicePort { name: name.into(), proto, port: port.unwrap(), node_port: None }
            })
            .collect(),
        ..Service::named(name(service))
    }
}

/// A slice; a port is written as above, or `name=nil/tcp`. An endpoint is an address and what it is, as in
/// `10.0.0.1 terminating`; an address alone is ready.
fn slice(slice: &str, of: &str, ports: &[&str], endpoints: &[&str]) -> EndpointSlice {
    EndpointSlice {
        name: name(slice),
        service: of.into(),
        ports: ports
            .iter()
            .map(|text| {
                let (name, proto, port) = port(text);
                SlicePort { name: name.into(), proto, port }
            })
            .collect(),
        endpoints: endpoints.iter().map(|text| endpoint(text)).collect(),
    }
}

fn port(text: &str) -> (&str, Proto, Option<u16>) {
    let (name, rest) = text.split_once('=').unwrap_or(("", text));
    let (port, proto) = rest.split_once('/').unwrap();
    let proto = if proto == "udp" { Proto::Udp } else { Proto::Tcp };
    (name, proto, port.parse().ok())
}

fn endpoint(text: &str) -> Endpoint {
    let (address, condition) = text.split_once(' ').unwrap_or((text, "ready"));
    let (ready, serving, terminating) = match condition {
        "ready" => (true, true, false),
        "ready-terminating" => (true, true, true),
        "terminating" => (false, true, true),
        "stopped" => (false, false, true),
        "not-ready" => (false, false, false),
        "serving-only" => (false, true, false),
        other => panic!("unknown condition {other}"),
    };
    Endpoint { address: ip(address), ready, serving, terminating, node: None, zone: None, hints: None }
}

fn model(services: Vec<Service>, slices: Vec<EndpointSlice>) -> Model {
    of_node(ModelConfig { node_name: "n1".into(), ..ModelConfig::default() }, services, slices)
}

/// One that knows its node as well: which has no address.
fn of_node(config: ModelConfig, services: Vec<Service>, slices: Vec<EndpointSlice>) -> Model {
    let mut model = Model::new(config);
    model.apply(Event::NodeDeleted);
    model.apply(Event::AddressesChanged(BTreeSet::new()));
    model.apply(Event::ServicesReset(services.into()));
    model.apply(Event::SlicesReset(slices.into()));
    model
}

/// One line for each port: `name=frontends -> backends`; a backend that takes no new connection is in brackets.
fn table(model: &Model, service: &str) -> Vec<String> {
    let line = |port: &super::DesiredPort| {
        let proto = if port.proto == Proto::Udp { "udp" } else { "tcp" };
        let frontends: Vec<_> = port.frontends.keys().map(|f| format!("{}:{}", f.ip, f.port)).collect();
        let backends: Vec<_> = port
            .backends
            .iter()
            .map(|b| {
                let state = match b.state {
                    backend_state::READY => "",
                    backend_state::TERMINATING => " terminating",
                    _ => " not-ready",
                };
                let text = format!("{}:{}{state}", b.ip, b.port);
                if b.in_cluster { text } else { format!("[{text}]") }
            })
            .collect();
        format!("{}/{proto} {} -> {}", port.port_name, frontends.join(","), backends.join(","))
    };
    model.desired(&name(service)).ports.iter().map(line).collect()
}

#[test]
fn a_service_is_answered_by_the_ready_endpoints_of_its_slices() {
    let model = model(
        vec![service("web", &["10.96.0.10"], &["80/tcp"])],
        vec![
            slice("web-b", "web", &["8080/tcp"], &["10.0.0.3", "10.0.0.4 not-ready"]),
            slice("web-a", "web", &["8080/tcp"], &["10.0.0.2", "10.0.0.1"]),
            slice("other", "db", &["8080/tcp"], &["10.0.0.9"]),
        ],
    );
    assert_eq!(
        table(&model, "web"),
        ["/tcp 10.96.0.10:80 -> 10.0.0.1:8080,10.0.0.2:8080,10.0.0.3:8080,[10.0.0.4:8080 not-ready]"]
    );
}

#[test]
fn a_slice_port_serves_the_service_port_of_its_name_and_protocol() {
    let model = model(
        vec![service("dns", &["10.96.0.10"], &["dns=53/udp", "dns-tcp=53/tcp", "metrics=9153/tcp"])],
        vec![
            slice("a", "dns", &["dns=5353/udp", "dns-tcp=5454/tcp", "dns=1/tcp", "extra=2/tcp"], &["10.0.0.1"]),
            // The same name with another target port in another slice: pods may differ in their named port.
            slice("b", "dns", &["dns=5355/udp"], &["10.0.0.2"]),
        ],
    );
    assert_eq!(
        table(&model, "dns"),
        [
            "dns/udp 10.96.0.10:53 -> 10.0.0.1:5353,10.0.0.2:5355",
            "dns-tcp/tcp 10.96.0.10:53 -> 10.0.0.1:5454",
            "metrics/tcp 10.96.0.10:9153 -> ",
        ]
    );
}

#[test]
fn a_dual_stack_service_has_frontends_and_backends_of_both_families() {
    let model = model(
        vec![service("web", &["10.96.0.10", "fd00::10"], &["80/tcp"])],
        vec![slice("v4", "web", &["80/tcp"], &["10.0.0.1"]), slice("v6", "web", &["80/tcp"], &["fd01::1"])],
    );
    assert_eq!(table(&model, "web"), ["/tcp 10.96.0.10:80,fd00::10:80 -> 10.0.0.1:80,fd01::1:80"]);
}

#[test]
fn endpoints_of_a_family_without_a_cluster_address_are_left_out() {
    let model = model(
        vec![service("web", &["10.96.0.10"], &["80/tcp"])],
        vec![slice("v4", "web", &["80/tcp"], &["10.0.0.1"]), slice("v6", "web", &["80/tcp"], &["fd01::1"])],
    );
    assert_eq!(table(&model, "web"), ["/tcp 10.96.0.10:80 -> 10.0.0.1:80"]);
}

#[test]
fn every_combination_of_conditions_has_its_state() {
    let model = model(
        vec![service("web", &["10.96.0.10"], &["80/tcp"])],
        vec![slice(
            "a",
            "web",
            &["80/tcp"],
            &[
                "10.0.0.1 ready",
                "10.0.0.2 ready-terminating",
                "10.0.0.3 terminating",
                "10.0.0.4 stopped",
                "10.0.0.5 not-ready",
                "10.0.0.6 serving-only",
            ],
        )],
    );
    assert_eq!(
        table(&model, "web"),
        ["/tcp 10.96.0.10:80 -> 10.0.0.1:80,10.0.0.2:80,[10.0.0.3:80 terminating],[10.0.0.4:80 not-ready],\
          [10.0.0.5:80 not-ready],[10.0.0.6:80 not-ready]"]
    );
}

#[test]
fn an_endpoint_in_two_slices_counts_once_and_the_entry_that_does_not_terminate_wins() {
    for order in [["a", "b"], ["b", "a"]] {
        let [first, second] = order;
        let model = model(
            vec![service("web", &["10.96.0.10"], &["80/tcp"])],
            vec![
                slice(first, "web", &["80/tcp"], &["10.0.0.1 terminating", "10.0.0.2 not-ready"]),
                slice(second, "web", &["80/tcp"], &["10.0.0.1", "10.0.0.2 terminating"]),
            ],
        );
        assert_eq!(table(&model, "web"), ["/tcp 10.96.0.10:80 -> 10.0.0.1:80,[10.0.0.2:80 not-ready]"]);
    }
}

#[test]
fn a_slice_port_without_a_number_has_no_backends() {
    let model =
        model(vec![service("web", &["10.96.0.10"], &["80/tcp"])], vec![slice("a", "web", &["nil/tcp"], &["10.0.0.1"])]);
    assert_eq!(table(&model, "web"), ["/tcp 10.96.0.10:80 -> "]);
}

#[test]
fn a_service_without_selector_leads_outside_the_cluster() {
    let model = model(
        vec![service("outside", &["10.96.0.10"], &["80/tcp"])],
        vec![slice("outside-1", "outside", &["80/tcp"], &["10.124.142.43"])],
    );
    assert_eq!(table(&model, "outside"), ["/tcp 10.96.0.10:80 -> 10.124.142.43:80"]);
}

#[test]
fn headless_external_name_and_other_proxies_services_have_no_ports() {
    for kind in [ServiceKind::Headless, ServiceKind::ExternalName, ServiceKind::OtherProxy] {
        let web = Service { kind, ..service("web", &["10.96.0.10"], &["80/tcp"]) };
        let model = model(vec![web], vec![slice("a", "web", &["80/tcp"], &["10.0.0.1"])]);
        assert!(table(&model, "web").is_empty(), "{kind:?}");
        assert_eq!(model.services().collect::<Vec<_>>(), [&name("web")]);
    }
}

#[test]
fn a_service_that_becomes_headless_gives_its_address_up_and_can_take_it_again() {
    let cluster_ip = service("web", &["10.96.0.10"], &["80/tcp"]);
    let mut model = model(vec![cluster_ip.clone()], vec![]);
    let headless = Service { kind: ServiceKind::Headless, cluster_ips: vec![], ..cluster_ip.clone() };
    assert_eq!(model.apply(Event::ServiceApplied(headless)), [name("web")].into());
    assert!(table(&model, "web").is_empty());
    model.apply(Event::ServiceApplied(cluster_ip));
    assert_eq!(table(&model, "web"), ["/tcp 10.96.0.10:80 -> "]);
}

#[test]
fn the_older_of_two_services_holds_an_address_and_the_other_gets_it_afterwards() {
    let young = Service { created_s: 20, ..service("a", &["10.96.0.10"], &["80/tcp", "x=81/tcp"]) };
    let old = Service { created_s: 10, ..service("b", &["10.96.0.10"], &["80/tcp"]) };
    let mut model = model(vec![young, old.clone()], vec![]);
    assert_eq!(table(&model, "a"), ["x/tcp 10.96.0.10:81 -> "]);
    assert_eq!(table(&model, "b"), ["/tcp 10.96.0.10:80 -> "]);
    let conflicts: Vec<_> = model.conflicts().map(|conflict| conflict.to_string()).collect();
    assert_eq!(
        conflicts,
        ["Service default/a: spec.clusterIPs[0]: 10.96.0.10:80 TCP is held by Service default/b (its clusterIP, or \
             older, or first by name); change one of them"]
    );

    assert_eq!(model.apply(Event::ServiceDeleted(name("b"))), [name("a"), name("b")].into());
    assert_eq!(table(&model, "a"), ["/tcp 10.96.0.10:80 -> ", "x/tcp 10.96.0.10:81 -> "]);
    assert_eq!(model.conflicts().count(), 0);

    assert_eq!(model.apply(Event::ServiceApplied(old)), [name("a"), name("b")].into());
    assert_eq!(table(&model, "a"), ["x/tcp 10.96.0.10:81 -> "]);
}

#[test]
fn the_same_port_as_tcp_and_udp_is_no_conflict() {
    let model =
        model(vec![service("a", &["10.96.0.10"], &["53/tcp"]), service("b", &["10.96.0.10"], &["53/udp"])], vec![]);
    assert_eq!(table(&model, "a"), ["/tcp 10.96.0.10:53 -> "]);
    assert_eq!(table(&model, "b"), ["/udp 10.96.0.10:53 -> "]);
    assert_eq!(model.conflicts().count(), 0);
}

#[test]
fn a_slice_whose_label_changes_moves_to_the_other_service() {
    let mut model = model(
        vec![service("a", &["10.96.0.1"], &["80/tcp"]), service("b", &["10.96.0.2"], &["80/tcp"])],
        vec![slice("s", "a", &["80/tcp"], &["10.0.0.1"])],
    );
    let dirty = model.apply(Event::SliceApplied(slice("s", "b", &["80/tcp"], &["10.0.0.1"])));
    assert_eq!(dirty, [name("a"), name("b")].into());
    assert_eq!(table(&model, "a"), ["/tcp 10.96.0.1:80 -> "]);
    assert_eq!(table(&model, "b"), ["/tcp 10.96.0.2:80 -> 10.0.0.1:80"]);
}

#[test]
fn a_reset_removes_what_it_does_not_list_and_keeps_what_could_not_be_read() {
    let (a, b, c) = (
        service("a", &["10.96.0.1"], &["80/tcp"]),
        service("b", &["10.96.0.2"], &["80/tcp"]),
        service("c", &["10.96.0.3"], &["80/tcp"]),
    );
    let mut model = model(vec![a.clone(), b, c], vec![]);
    let list = FullList { objects: vec![a], unreadable: vec![name("b")], unnamed: false };
    assert_eq!(model.apply(Event::ServicesReset(list)), [name("c")].into());
    assert_eq!(table(&model, "b"), ["/tcp 10.96.0.2:80 -> "]);
    assert!(table(&model, "c").is_empty());
}

#[test]
fn events_that_change_nothing_for_a_service_do_not_touch_it() {
    let web = service("web", &["10.96.0.10"], &["80/tcp"]);
    let endpoints = slice("s", "web", &["80/tcp"], &["10.0.0.1"]);
    let mut model = model(vec![web.clone()], vec![endpoints.clone()]);
    let unchanged = [
        Event::ServiceApplied(web.clone()),
        Event::SliceApplied(endpoints.clone()),
        Event::ServicesReset(vec![web].into()),
        Event::SlicesReset(vec![endpoints].into()),
        Event::SliceApplied(slice("t", "nobody", &["80/tcp"], &["10.0.0.2"])),
        Event::SliceDeleted(name("never-there")),
        Event::ServiceDeleted(name("never-there")),
    ];
    for event in unchanged {
        assert_eq!(model.apply(event.clone()), [].into(), "{event:?}");
    }
}

#[test]
fn the_model_is_in_sync_once_both_full_lists_the_node_and_its_addresses_were_seen() {
    let mut model = Model::default();
    model.apply(Event::ServiceApplied(service("web", &["10.96.0.10"], &["80/tcp"])));
    model.apply(Event::SlicesReset(vec![].into()));
    assert!(!model.in_sync());
    model.apply(Event::ServicesReset(vec![].into()));
    model.apply(Event::NodeDeleted);
    assert!(!model.in_sync());
    model.apply(Event::AddressesChanged(BTreeSet::new()));
    assert!(model.in_sync());
}
