//! The decision table: networks in, choices out.

use super::*;
use crate::devices::network::{Address, DefaultRoute, Rank};

/// Links `(name, kind, layer, master)` numbered from 1, all up; number 1 is `lo`.
fn network(links: &[(&str, &str, u16, u32)]) -> Network {
    let mut network = Network {
        links: vec![Link {
            index: 1,
            name: "lo".into(),
            layer: 772,
            is_loopback: true,
            is_up: true,
            ..Link::default()
        }],
        ..Network::default()
    };
    for (index, (name, kind, layer, master)) in (2..).zip(links) {
        network.links.push(Link {
            index,
            name: (*name).to_owned(),
            kind: (!kind.is_empty()).then(|| (*kind).to_owned()),
            layer: *layer,
            is_loopback: false,
            is_up: true,
            master: (*master != 0).then_some(*master),
            ..Link::default()
        });
    }
    network
}

fn with_address(mut network: Network, link: &str, ip: &str) -> Network {
    let link = network.named(link).unwrap().index;
    network.addresses.push(Address { link, ip: ip.parse().unwrap(), rank: Rank::Primary });
    network
}

fn with_default_route(mut network: Network, link: &str) -> Network {
    let link = network.named(link).unwrap().index;
    network.default_routes.push(DefaultRoute { link, is_v4: true });
    network
}

struct Case {
    network: Network,
    devices: &'static str,
    pods: &'static str,
    node: &'static [&'static str],
    nodeports: &'static str,
    lately: &'static [u32],
}

impl Case {
    fn auto(network: Network) -> Self {
        Self { network, devices: "auto", pods: "none", node: &[], nodeports: "primary", lately: &[] }
    }

    fn all(&self) -> Vec<Choice> {
        let node: Vec<IpAddr> = self.node.iter().map(|ip| ip.parse().unwrap()).collect();
        let (devices, pods) = (self.devices.parse().unwrap(), self.pods.parse().unwrap());
        let lately = self.lately.iter().copied().collect();
        let nodeports = self.nodeports.parse().unwrap();
        let wishes = Wishes { devices: &devices, pods: &pods, node: &node, nodeports: &nodeports, lately: &lately };
        choose(&self.network, &wishes)
    }

    /// The chosen ones as `name role`.
    fn chosen(&self) -> Vec<String> {
        let chosen = |choice: Choice| choice.decision.ok().map(|(role, _)| format!("{} {role}", choice.name));
        self.all().into_iter().filter_map(chosen).collect()
    }

    fn decision(&self, name: &str) -> Result<(Role, Why), WhyNot> {
        self.all().into_iter().find(|choice| choice.name == name).unwrap().decision
    }
}

/// A node of a cluster with flannel: uplink, overlay, bridge, two pods, and another bridge that is nobody's business.
fn flannel() -> Network {
    let network = network(&[
        ("eth0", "", 1, 0),
        ("flannel.1", "vxlan", 1, 0),
        ("cni0", "bridge", 1, 0),
        ("veth1", "veth", 1, 4),
        ("veth2", "veth", 1, 4),
        ("docker0", "bridge", 1, 0),
    ]);
    let network = with_default_route(with_address(network, "eth0", "192.0.2.1"), "eth0");
    let network = with_address(with_address(network, "flannel.1", "10.244.0.0"), "cni0", "10.244.0.1");
    with_address(network, "docker0", "172.17.0.1")
}

#[test]
fn auto_takes_the_default_route_and_overlays_and_nothing_of_the_pods() {
    let case = Case::auto(flannel());
    assert_eq!(case.chosen(), ["eth0 uplink", "flannel.1 uplink"]);
    assert_eq!(case.decision("eth0").unwrap().1, Why::DefaultRoute);
    assert_eq!(case.decision("flannel.1").unwrap().1, Why::Overlay("vxlan".into()));
    assert_eq!(case.decision("docker0"), Err(WhyNot::NoUplink));
    assert_eq!(case.decision("lo"), Err(WhyNot::Loopback));
}

#[test]
fn auto_takes_who_leads_out_and_has_an_address_at_which_nodeports_answer() {
    let network = network(&[
        ("eth0", "", 1, 0),
        ("eth1", "", 1, 0),
        ("eth0.7", "vlan", 1, 0),
        ("eth2", "", 1, 0),
        ("eth3", "", 1, 0),
        ("cni0", "bridge", 1, 0),
        ("veth1", "veth", 1, 0),
        ("nodelocaldns", "dummy", 1, 0),
    ]);
    let mut network = with_default_route(with_address(network, "eth0", "192.0.2.1"), "eth0");
    let own = [("eth1", "10.1.1.1"), ("eth0.7", "10.7.0.1"), ("eth2", "172.16.0.1"), ("eth3", "10.3.0.1")];
    let pods = [("cni0", "10.244.0.1"), ("veth1", "10.244.0.1"), ("nodelocaldns", "10.96.0.10")];
    for (link, ip) in own.into_iter().chain(pods) {
        network = with_address(network, link, ip);
    }
    let eth3 = network.named("eth3").unwrap().index;
    network.addresses.iter_mut().filter(|of| of.link == eth3).for_each(|of| of.rank = Rank::Unusable);
    let case = Case { nodeports: "10.0.0.0/8", ..Case::auto(network.clone()) };
    assert_eq!(case.chosen(), ["eth0 uplink", "eth1 uplink", "eth0.7 uplink"]);
    assert_eq!(case.decision("eth1").unwrap().1, Why::NodePortAddress("10.1.1.1".parse().unwrap()));
    assert_eq!(Case::auto(network).chosen(), ["eth0 uplink"]);
}

#[test]
fn auto_takes_who_has_an_address_of_the_node_wherever_the_default_route_leads() {
    let network = network(&[("eth0", "", 1, 0), ("eth1", "", 1, 0), ("eth2", "", 1, 0)]);
    let network = with_default_route(with_address(network, "eth0", "192.0.2.1"), "eth0");
    let network = with_address(with_address(network, "eth1", "10.0.0.1"), "eth2", "10.1.0.1");
    let case = Case { node: &["10.0.0.1", "2001:db8::1"], ..Case::auto(network) };
    assert_eq!(case.chosen(), ["eth0 uplink", "eth1 uplink"]);
    assert_eq!(case.decision("eth1").unwrap().1, Why::NodeAddress("10.0.0.1".parse().unwrap()));
}

#[test]
fn an_overlay_is_chosen_only_while_it_is_up_and_has_an_address() {
    let bare = network(&[("vxlan0", "vxlan", 1, 0), ("tunl0", "ipip", 768, 0)]);
    assert_eq!(Case::auto(bare.clone()).chosen(), [""; 0], "without an address");
    let mut network = with_address(with_address(bare, "vxlan0", "10.244.0.0"), "tunl0", "10.245.0.0");
    assert_eq!(Case::auto(network.clone()).chosen(), ["vxlan0 uplink", "tunl0 uplink without Ethernet"]);
    network.addresses[0].rank = Rank::Unusable;
    network.links[2].is_up = false;
    assert_eq!(Case::auto(network).chosen(), [""; 0], "link-local only; down");
}

#[test]
fn the_variant_follows_the_link_type() {
    for (layer, expected) in [
        (1, Ok(Role::Uplink)),
        (0xfffe, Ok(Role::UplinkL3)),
        (519, Ok(Role::UplinkL3)),
        (32, Err(WhyNot::UnknownFrames(32))),
    ] {
        let network = with_default_route(network(&[("dev0", "", layer, 0)]), "dev0");
        assert_eq!(Case::auto(network).decision("dev0").map(|(role, _)| role), expected, "{layer}");
    }
}

#[test]
fn named_devices_are_taken_and_no_others() {
    let case = Case { devices: "docker0,nowhere0", ..Case::auto(flannel()) };
    assert_eq!(case.chosen(), ["docker0 uplink"]);
    assert_eq!(case.decision("eth0"), Err(WhyNot::NotNamed));
    assert_eq!(Case { devices: "none", ..Case::auto(flannel()) }.chosen(), [""; 0]);
    let lo = Case { devices: "lo", ..Case::auto(flannel()) };
    assert_eq!(lo.decision("lo"), Err(WhyNot::Loopback), "never, even if named");
}

#[test]
fn pod_devices_are_found_by_pattern_and_the_members_of_a_bridge_pass_through_it() {
    let case = Case { pods: "cni0,veth*", ..Case::auto(flannel()) };
    assert_eq!(case.chosen(), ["eth0 uplink", "flannel.1 uplink", "cni0 pod"]);
    assert_eq!(case.decision("veth1"), Err(WhyNot::Member("cni0".into())));
    let case = Case { pods: "veth*", devices: "none", ..Case::auto(flannel()) };
    assert_eq!(case.chosen(), [""; 0]);
    assert_eq!(case.decision("veth1"), Err(WhyNot::BridgePort("cni0".into())), "its packets are the bridge's");
}

#[test]
fn a_name_is_more_than_a_pattern_and_a_pattern_more_than_what_is_found() {
    let pods = Case { pods: "e*", ..Case::auto(flannel()) };
    assert_eq!(pods.decision("eth0").unwrap(), (Role::Pod, Why::PodPattern("e*".into())));
    let named = Case { pods: "e*", devices: "eth0", ..Case::auto(flannel()) };
    assert_eq!(named.decision("eth0").unwrap(), (Role::Uplink, Why::Named));
}

#[test]
fn a_pod_device_must_be_ethernet() {
    let case = Case { pods: "tun*", ..Case::auto(network(&[("tun0", "tun", 0xfffe, 0)])) };
    assert_eq!(case.decision("tun0"), Err(WhyNot::PodWithoutEthernet));
}

#[test]
fn the_ports_of_a_chosen_bond_are_left_alone_and_those_of_another_master_are_not() {
    let bond = network(&[("eth0", "", 1, 4), ("eth1", "", 1, 4), ("bond0", "bond", 1, 0)]);
    let case = Case { devices: "bond0,eth0", ..Case::auto(bond) };
    assert_eq!(case.chosen(), ["bond0 uplink"]);
    let vrf = network(&[("eth0", "", 1, 3), ("vrf0", "vrf", 1, 0)]);
    let case = Case { devices: "vrf0,eth0", ..Case::auto(vrf) };
    assert_eq!(case.chosen(), ["eth0 uplink", "vrf0 uplink"], "packets are not handed on by a VRF's device");
    let lone = with_default_route(network(&[("eth0", "", 1, 3), ("br0", "bridge", 1, 0)]), "eth0");
    assert_eq!(Case::auto(lone).chosen(), ["eth0 uplink"], "its bridge is not chosen");
}

#[test]
fn who_was_chosen_lately_stays_unless_the_flags_say_otherwise() {
    let network = || network(&[("eth0", "", 1, 0)]);
    let case = Case { lately: &[2], ..Case::auto(network()) };
    assert_eq!(case.decision("eth0").unwrap(), (Role::Uplink, Why::Lately));
    assert_eq!(Case { lately: &[2], devices: "none", ..Case::auto(network()) }.chosen(), [""; 0]);
    assert_eq!(Case { lately: &[9], ..Case::auto(network()) }.chosen(), [""; 0], "another one, or gone");
}
