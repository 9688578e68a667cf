//! Nodes in, findings out.

use super::*;
use crate::devices::{
    choose::{Wishes, choose},
    network::{Address, DefaultRoute, Link},
};

/// A node on which nothing is wrong.
struct Node {
    settings: Settings,
    network: Network,
    sysctls: Sysctls,
    foreign: Vec<Foreign>,
    addresses: Vec<IpAddr>,
}

fn range(text: &str) -> PortRange {
    text.parse().unwrap()
}

fn healthy() -> Node {
    let link = |index, name: &str, layer| Link { index, name: name.into(), layer, is_up: true, ..Link::default() };
    let ip: IpAddr = "192.0.2.1".parse().unwrap();
    let network = Network {
        links: vec![Link { is_loopback: true, ..link(1, "lo", 772) }, link(2, "eth0", 1), link(3, "ib0", 32)],
        addresses: vec![Address { link: 2, ip, rank: Rank::Primary }],
        default_routes: vec![DefaultRoute { link: 2, is_v4: true }],
        unread: Vec::new(),
    };
    let eth0 = DeviceSysctls { forwarding4: Some(true), forwarding6: Some(true), rp_filter: Some(2) };
    Node {
        settings: Settings {
            devices: DeviceNames::Auto,
            pods: DevicePatterns::default(),
            pod_delivery: PodDelivery::Auto,
            snat_ports: range("61000-65535"),
            nodeport_range: range("30000-32767"),
            nodeport_addresses: NodePortAddresses::Primary,
        },
        network,
        sysctls: Sysctls {
            forwarding4: Some(true),
            forwarding6: Some(true),
            devices: [("eth0".to_owned(), eth0)].into(),
            local_ports: Some(range("32768-60999")),
            ..Sysctls::default()
        },
        foreign: Vec::new(),
        addresses: vec![ip],
    }
}

/// What is found after one change to a healthy node.
fn after(change: impl FnOnce(&mut Node)) -> Vec<Finding> {
    let mut node = healthy();
    change(&mut node);
    let Node { settings, network, sysctls, foreign, addresses } = &node;
    let Settings { devices, pods, nodeport_addresses: nodeports, .. } = settings;
    let wishes = Wishes { devices, pods, node: addresses, nodeports, lately: &Default::default() };
    let choices = choose(network, &wishes);
    findings(&Facts { settings, network, choices: &choices, sysctls, foreign, node: addresses })
}

/// The one finding, and that it says all of `words`.
#[track_caller]
fn one(found: &[Finding], about: &str, words: &[&str]) {
    let [finding] = found else { panic!("not one: {found:?}") };
    assert_eq!(finding.about, about);
    for word in words {
        assert!(finding.to_string().contains(word), "{word:?} is not in {finding}");
    }
}

#[test]
fn a_healthy_node_has_none() {
    assert_eq!(after(|_| ()), []);
}

#[test]
fn a_device_that_does_not_exist_is_named_and_one_that_cannot_be_served_with_the_reason() {
    let with = |names: &str| after(|node| node.settings.devices = names.parse().unwrap());
    one(&with("eth0,eth7"), "--devices eth7", &["no such device", "as soon as there is one"]);
    one(&with("lo"), "--devices lo", &["loopback"]);
    one(&with("ib0"), "--devices ib0", &["link type 32"]);
    let pods = after(|node| node.settings.pods = "ib*".parse().unwrap());
    one(&pods, "device ib0", &["not Ethernet"]);
}

/// With pods on a bridge.
fn bridged(node: &mut Node, pods: &str) {
    node.settings.pods = pods.parse().unwrap();
    let link = |index, name: &str, kind: &str, master| Link {
        index,
        name: name.into(),
        layer: 1,
        is_up: true,
        kind: Some(kind.into()),
        master,
        ..Link::default()
    };
    let ports = [5, 6].map(|index| link(index, &format!("veth{index}"), "veth", Some(4)));
    node.network.links.extend([link(4, "cni0", "bridge", None)].into_iter().chain(ports));
}

#[test]
fn ports_of_a_bridge_that_is_not_wanted_itself_are_named_once() {
    let found = after(|node| bridged(node, "veth*"));
    one(&found, "--pod-devices, bridge cni0", &["2 of its ports", "add cni0 to --pod-devices"]);
    assert_eq!(after(|node| bridged(node, "cni0,veth*")), []);
}

#[test]
fn netfilter_in_a_served_bridge_is_named() {
    let filtered = |pods: &'static str| {
        after(|node| {
            bridged(node, pods);
            node.sysctls.bridge_filter4 = Some(true);
            node.sysctls.bridge_filter6 = Some(false);
        })
    };
    one(&filtered("cni0"), "net.bridge.bridge-nf-call-iptables", &["behind cni0", "set it to 0"]);
    assert_eq!(filtered("none"), [], "the bridge is not served");
}

#[test]
fn no_uplink_at_all_is_named() {
    let found = after(|node| {
        node.network.default_routes.clear();
        node.addresses.clear();
    });
    one(&found, "--devices auto", &["no device has a default route", "--devices"]);
}

#[test]
fn an_address_that_the_node_does_not_have_is_named() {
    let found = after(|node| node.addresses.push("192.0.2.9".parse().unwrap()));
    one(&found, "Node object's address 192.0.2.9", &["--node-ip"]);
    let prefixes = NodePortAddresses::Prefixes(vec!["192.0.2.0/24".parse().unwrap(), "10.0.0.0/8".parse().unwrap()]);
    let found = after(|node| node.settings.nodeport_addresses = prefixes);
    one(&found, "--nodeport-addresses 10.0.0.0/8", &["no interface"]);
}

#[test]
fn forwarding_that_is_off_is_named_for_the_families_that_the_node_has() {
    one(&after(|node| node.sysctls.forwarding4 = Some(false)), "net.ipv4.ip_forward", &["dropped", "set it to 1"]);
    let eth0 = |node: &mut Node| node.sysctls.devices.get_mut("eth0").unwrap().forwarding4 = Some(false);
    one(&after(eth0), "net.ipv4.conf.eth0.forwarding", &["set it to 1"]);
    assert_eq!(after(|node| node.sysctls.forwarding6 = Some(false)), [], "the node has no IPv6 address");
    let found = after(|node| {
        node.sysctls.forwarding6 = Some(false);
        let ip = "2001:db8::1".parse().unwrap();
        node.network.addresses.push(Address { link: 2, ip, rank: Rank::Primary });
    });
    one(&found, "net.ipv6.conf.all.forwarding", &[]);
}

#[test]
fn a_strict_rp_filter_is_named_on_chosen_devices_only() {
    let strict = |node: &mut Node, device: &str| {
        let of = DeviceSysctls { rp_filter: Some(1), ..node.sysctls.devices["eth0"] };
        node.sysctls.devices.insert(device.to_owned(), of);
    };
    one(&after(|node| strict(node, "eth0")), "net.ipv4.conf.eth0.rp_filter", &["strict", "set it to 2"]);
    assert_eq!(after(|node| strict(node, "docker0")), []);
}

#[test]
fn ranges_of_ports_that_overlap_are_named_with_the_ports() {
    let local = |text: &str| after(|node| node.sysctls.local_ports = Some(range(text)));
    one(&local("32768-61999"), "--snat-ports 61000-65535", &["61000-61999", "ip_local_reserved_ports"]);
    one(&local("32000-60999"), "NodePort range 30000-32767", &["32000-32767", "ip_local_reserved_ports"]);
    let nodeports = after(|node| node.settings.snat_ports = range("32767-32767"));
    one(&nodeports, "--snat-ports 32767-32767", &["NodePorts", "--nodeport-range"]);
    assert_eq!(after(|node| node.sysctls.local_ports = None), []);
}

#[test]
fn reserved_ports_are_no_overlap() {
    let reserved = |reserved: &[&str]| {
        after(|node| {
            node.sysctls.local_ports = Some(range("32000-60999"));
            node.sysctls.reserved_ports = reserved.iter().map(|text| range(text)).collect();
        })
    };
    assert_eq!(reserved(&["30000-32767"]), []);
    assert_eq!(reserved(&["32000-32500", "32501-32767"]), []);
    one(&reserved(&["32001-32766"]), "NodePort range 30000-32767", &["32000-32767"]);
}

#[test]
fn a_foreign_program_is_named_with_its_hook() {
    let foreign = |node: &mut Node| {
        node.foreign.push(Foreign { device: "eth0".into(), hook: "ingress", what: "program other (id 7)".into() });
    };
    one(&after(foreign), "device eth0, ingress", &["program other (id 7)", "it stays"]);
}

#[test]
fn without_a_packet_layer_nothing_is_wrong_with_it() {
    let found = after(|node| {
        node.settings.devices = DeviceNames::None;
        node.sysctls.forwarding4 = Some(false);
        node.sysctls.local_ports = Some(range("1024-65535"));
    });
    assert_eq!(found, []);
}
