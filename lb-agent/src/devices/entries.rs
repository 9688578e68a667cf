//! What `lb_devices` and `lb_node` should say. Pure.

use std::net::IpAddr;

use lb_common::abi::{ANSWERS_PER_S, Device, NodeConfig, device_flags};

use super::{
    choose::Role,
    network::{Link, Network, Rank},
    wanted::PortRange,
};

/// The entry of a device that has its programs, and past which packets go to the pod behind it, or do not.
pub(super) fn device(network: &Network, index: u32, role: Role, is_gone_past: bool) -> Device {
    let source = |is_v4| network.source(index, is_v4);
    let flags = role.flags() | if is_gone_past { device_flags::PEER } else { 0 };
    Device { addr4: bytes4(source(true)), addr6: bytes6(source(false)), flags }
}

/// What becomes of the entry of a device on which an earlier agent's programs go on because this agent's are refused: it stays
/// theirs, except that packets go past the device no more where something is in the way by now. `None` where nothing changes.
pub(super) fn closed(before: &Device, wanted: &Device) -> Option<Device> {
    let is_shut = before.flags & !wanted.flags & device_flags::PEER != 0;
    is_shut.then_some(Device { flags: before.flags & !device_flags::PEER, ..*before })
}

/// The node's own entry. `before` is what it said: an agent that does not know the Node object (yet) leaves an address
/// that the node still has.
pub(super) fn node(network: &Network, object: &[IpAddr], before: &NodeConfig, snat: PortRange) -> NodeConfig {
    let address = |is_v4: bool, before: IpAddr| {
        let here = |ip: &IpAddr| network.holder(*ip).is_some();
        let named = object.iter().copied().find(|ip| ip.is_ipv4() == is_v4 && here(ip));
        named.or_else(|| Some(before).filter(here)).or_else(|| likely(network, is_v4))
    };
    NodeConfig {
        addr4: bytes4(address(true, before.addr4.into())),
        addr6: bytes6(address(false, before.addr6.into())),
        snat_first: snat.first,
        snat_last: snat.last,
        answers_per_s: ANSWERS_PER_S,
        flags: 0,
    }
}

/// Without a Node object: the address by which the node talks to the world; else any by which it can be reached.
fn likely(network: &Network, is_v4: bool) -> Option<IpAddr> {
    let routes = network.default_routes.iter().filter(|route| route.is_v4 == is_v4);
    let by_route = routes.filter_map(|route| network.source(route.link, is_v4)).next();
    let others = |loopback: bool| {
        let links = network.links.iter().filter(move |link: &&Link| link.is_loopback == loopback);
        links.filter_map(|link| best(network, link.index, is_v4)).next()
    };
    by_route.or_else(|| others(false)).or_else(|| others(true))
}

fn best(network: &Network, link: u32, is_v4: bool) -> Option<IpAddr> {
    let is_primary = |ip: &IpAddr| network.addresses.iter().any(|at| at.ip == *ip && at.rank == Rank::Primary);
    network.source(link, is_v4).filter(is_primary).filter(|ip| !ip.is_loopback())
}

fn bytes4(ip: Option<IpAddr>) -> [u8; 4] {
    match ip {
        Some(IpAddr::V4(ip)) => ip.octets(),
        _ => [0; 4],
    }
}

fn bytes6(ip: Option<IpAddr>) -> [u8; 16] {
    match ip {
        Some(IpAddr::V6(ip)) => ip.octets(),
        _ => [0; 16],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::network::{Address, DefaultRoute};

    fn network(addresses: &[(u32, &str, Rank)], default: Option<u32>) -> Network {
        let link = |index: u32| Link { index, is_loopback: index == 1, ..Link::default() };
        Network {
            links: vec![link(1), link(2), link(3)],
            addresses: addresses
                .iter()
                .map(|(link, ip, rank)| Address { link: *link, ip: ip.parse().unwrap(), rank: *rank })
                .collect(),
            default_routes: default.into_iter().map(|link| DefaultRoute { link, is_v4: true }).collect(),
            unread: Vec::new(),
        }
    }

    const SNAT: PortRange = PortRange { first: 61000, last: 65535 };

    fn node4(network: &Network, object: &[&str], before: [u8; 4]) -> [u8; 4] {
        let object: Vec<IpAddr> = object.iter().map(|ip| ip.parse().unwrap()).collect();
        node(network, &object, &NodeConfig { addr4: before, ..NodeConfig::default() }, SNAT).addr4
    }

    #[test]
    fn a_device_has_its_best_address_of_each_family() {
        let network = network(
            &[
                (2, "192.0.2.7", Rank::Deprecated),
                (2, "192.0.2.9", Rank::Secondary),
                (2, "192.0.2.1", Rank::Primary),
                (2, "198.51.100.1", Rank::Primary),
                (2, "fe80::1", Rank::Unusable),
                (3, "2001:db8::3", Rank::Primary),
            ],
            None,
        );
        let eth = device(&network, 2, Role::Uplink, false);
        assert_eq!((eth.addr4, eth.addr6, eth.flags), ([192, 0, 2, 1], [0; 16], device_flags::UPLINK));
        let tun = device(&network, 3, Role::UplinkL3, false);
        assert_eq!((tun.addr4, tun.flags), ([0; 4], device_flags::UPLINK | device_flags::L3));
        assert_eq!(tun.addr6, "2001:db8::3".parse::<std::net::Ipv6Addr>().unwrap().octets());
    }

    #[test]
    fn the_nodes_address_is_the_node_objects_as_far_as_the_node_has_it() {
        let two = network(&[(2, "192.0.2.1", Rank::Primary), (3, "10.0.0.1", Rank::Primary)], Some(2));
        assert_eq!(node4(&two, &["10.0.0.1"], [0; 4]), [10, 0, 0, 1]);
        assert_eq!(node4(&two, &["10.9.9.9"], [0; 4]), [192, 0, 2, 1]);
        assert_eq!(node4(&two, &["2001:db8::1"], [0; 4]), [192, 0, 2, 1], "of the other family");
    }

    #[test]
    fn without_a_node_object_it_stays_while_the_node_has_it_and_else_follows_the_default_route() {
        let two = network(&[(3, "10.0.0.1", Rank::Primary), (2, "192.0.2.1", Rank::Primary)], Some(2));
        assert_eq!(node4(&two, &[], [10, 0, 0, 1]), [10, 0, 0, 1], "an earlier agent knew better");
        assert_eq!(node4(&two, &[], [10, 0, 0, 9]), [192, 0, 2, 1]);
        let no_route = network(&[(1, "127.0.0.1", Rank::Unusable), (3, "10.0.0.1", Rank::Primary)], None);
        assert_eq!(node4(&no_route, &[], [0; 4]), [10, 0, 0, 1]);
        let on_lo = network(&[(1, "172.18.0.1", Rank::Primary)], None);
        assert_eq!(node4(&on_lo, &[], [0; 4]), [172, 18, 0, 1]);
        assert_eq!(node4(&network(&[], None), &[], [0; 4]), [0; 4]);
    }
}
