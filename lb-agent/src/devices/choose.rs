//! Which devices get which programs, and why each does or does not. Pure.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use lb_common::abi::device_flags;

use super::{
    network::{Link, Network, Rank},
    wanted::{DeviceNames, DevicePatterns},
};
use crate::model::NodePortAddresses;

/// Link types (linux/if_arp.h).
mod arphrd {
    pub(super) const ETHER: u16 = 1;
    /// Wireguard and tun: no header, the frame starts with IP. The others likewise: IPIP, IP6IP6, SIT, raw IP.
    pub(super) const WITHOUT_HEADER: [u16; 5] = [0xfffe, 768, 769, 776, 519];
}

/// Devices that carry packets between nodes: replies of backends on other nodes come back by them.
const OVERLAYS: [&str; 10] =
    ["vxlan", "geneve", "wireguard", "ipip", "sit", "ip6tnl", "gretap", "ip6gretap", "xfrm", "bareudp"];
/// Devices that lead to other machines and not to pods, apart from those without a kind, which are hardware.
const OUTWARD: [&str; 4] = ["vlan", "bond", "team", "macvlan"];
/// What makes one device of several, and sees their packets itself.
const BUNDLES: [&str; 3] = ["bridge", "bond", "team"];

/// What a device is to the packet layer; it says which programs it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The rest of the world is behind it; frames with an Ethernet header.
    Uplink,
    /// The same; frames that start with IP.
    UplinkL3,
    /// Pods or virtual machines are behind it; Ethernet.
    Pod,
}

impl Role {
    /// As `lb_devices` says it.
    pub fn flags(self) -> u32 {
        match self {
            Self::Uplink => device_flags::UPLINK,
            Self::UplinkL3 => device_flags::UPLINK | device_flags::L3,
            Self::Pod => device_flags::POD,
        }
    }

    /// What those flags say, if it is one of these.
    pub fn of(flags: u32) -> Option<Self> {
        [Self::Uplink, Self::UplinkL3, Self::Pod].into_iter().find(|role| role.flags() == flags)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uplink => "uplink",
            Self::UplinkL3 => "uplink without Ethernet",
            Self::Pod => "pod",
        })
    }
}

/// Why a device is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// `--devices` names it.
    Named,
    /// A default route leads to it.
    DefaultRoute,
    /// It has this address of the Node object.
    NodeAddress(IpAddr),
    /// It has this address, which `--nodeport-addresses` has in a prefix.
    NodePortAddress(IpAddr),
    /// It is an overlay of this kind and has an address.
    Overlay(String),
    /// `--pod-devices` has this pattern.
    PodPattern(String),
    /// It was chosen until recently, for a reason that may come back: a default route is away for a moment where
    /// it is replaced or where its link flaps.
    Lately,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named => f.write_str("named by --devices"),
            Self::DefaultRoute => f.write_str("has a default route"),
            Self::NodeAddress(ip) => write!(f, "has the node's address {ip}"),
            Self::NodePortAddress(ip) => write!(f, "NodePorts answer at its address {ip}"),
            Self::Overlay(kind) => write!(f, "{kind} overlay with an address"),
            Self::PodPattern(pattern) => write!(f, "matches {pattern} of --pod-devices"),
            Self::Lately => f.write_str("was chosen until a moment ago"),
        }
    }
}

/// Why a device is not chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhyNot {
    /// Packets of the node to itself are served at their sockets.
    Loopback,
    /// The device of this name, which it is a member of, is chosen.
    Member(String),
    /// `--pod-devices` matches it, but not the bridge of this name that it is a port of. What pods send to the node is
    /// addressed to the bridge and is the bridge's packet.
    BridgePort(String),
    /// Its frames begin with something that no program reads: an ARPHRD_... number.
    UnknownFrames(u16),
    /// `--pod-devices` matches it, but its frames have no Ethernet header.
    PodWithoutEthernet,
    /// With `--devices auto`: neither a default route nor an address of the node or of NodePorts, and no overlay.
    NoUplink,
    /// `--devices` names others or none.
    NotNamed,
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback => f.write_str("loopback"),
            Self::Member(master) => write!(f, "member of {master}, which is chosen"),
            Self::BridgePort(bridge) => write!(f, "port of the bridge {bridge}, which --pod-devices does not match"),
            Self::UnknownFrames(layer) => write!(f, "its frames (link type {layer}) are neither Ethernet nor IP"),
            Self::PodWithoutEthernet => f.write_str("matches --pod-devices, but its frames are not Ethernet"),
            Self::NoUplink => f.write_str("no default route, no address of the node, no overlay"),
            Self::NotNamed => f.write_str("not named by --devices"),
        }
    }
}

/// What was decided about a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it is, and why; or why it is left alone.
    pub decision: Result<(Role, Why), WhyNot>,
}

impl Choice {
    /// What it is served as, if it is.
    pub fn role(&self) -> Option<Role> {
        self.decision.as_ref().ok().map(|(role, _)| *role)
    }
}

/// What choices follow from, beside the network itself.
#[derive(Clone, Copy, Debug)]
pub struct Wishes<'a> {
    /// `--devices`.
    pub devices: &'a DeviceNames,
    /// `--pod-devices`.
    pub pods: &'a DevicePatterns,
    /// Addresses of the Node object.
    pub node: &'a [IpAddr],
    /// `--nodeport-addresses`.
    pub nodeports: &'a NodePortAddresses,
    /// Numbers of the devices that were chosen until recently.
    pub lately: &'a BTreeSet<u32>,
}

/// Decides about every link, in the order of their numbers.
pub fn choose(network: &Network, wishes: &Wishes<'_>) -> Vec<Choice> {
    let mut choices: Vec<Choice> = network
        .links
        .iter()
        .map(|link| Choice { index: link.index, name: link.name.clone(), decision: alone(link, network, wishes) })
        .collect();
    choices.sort_by_key(|choice| choice.index);
    leave_members(network, &mut choices);
    choices
}

/// A link by itself, without regard to the others.
fn alone(link: &Link, network: &Network, wishes: &Wishes<'_>) -> Result<(Role, Why), WhyNot> {
    if link.is_loopback {
        return Err(WhyNot::Loopback);
    }
    let uplink = uplink(link, network, wishes);
    match (uplink, wishes.pods.matching(&link.name)) {
        // A name is more than a pattern, and a pattern more than what is found.
        (Ok(Why::Named), _) => role(link).map(|role| (role, Why::Named)),
        (_, Some(_)) if link.layer != arphrd::ETHER => Err(WhyNot::PodWithoutEthernet),
        (_, Some(pattern)) => Ok((Role::Pod, Why::PodPattern(pattern.to_owned()))),
        (Ok(why), None) => role(link).map(|role| (role, why)),
        (Err(why_not), None) => Err(why_not),
    }
}

fn role(link: &Link) -> Result<Role, WhyNot> {
    match link.layer {
        arphrd::ETHER => Ok(Role::Uplink),
        layer if arphrd::WITHOUT_HEADER.contains(&layer) => Ok(Role::UplinkL3),
        layer => Err(WhyNot::UnknownFrames(layer)),
    }
}

fn uplink(link: &Link, network: &Network, wishes: &Wishes<'_>) -> Result<Why, WhyNot> {
    match wishes.devices {
        DeviceNames::Names(names) if names.contains(&link.name) => Ok(Why::Named),
        DeviceNames::Names(_) | DeviceNames::None => Err(WhyNot::NotNamed),
        DeviceNames::Auto => found(link, network, wishes).ok_or(WhyNot::NoUplink),
    }
}

fn found(link: &Link, network: &Network, wishes: &Wishes<'_>) -> Option<Why> {
    let node_address = || {
        let mut own = network.addresses.iter().filter(|address| address.link == link.index);
        own.find(|address| wishes.node.contains(&address.ip)).map(|address| Why::NodeAddress(address.ip))
    };
    // Prefixes may be wide: pods' bridges have addresses, too.
    let leads_out = link.kind.as_deref().is_none_or(|kind| OUTWARD.contains(&kind));
    let nodeport_address = || {
        let NodePortAddresses::Prefixes(prefixes) = wishes.nodeports else { return None };
        let mut own =
            network.addresses.iter().filter(|of| leads_out && of.link == link.index && of.rank != Rank::Unusable);
        let served = own.find(|address| prefixes.iter().any(|prefix| prefix.contains(&address.ip)));
        served.map(|address| Why::NodePortAddress(address.ip))
    };
    let overlay = || {
        let kind = link.kind.as_deref().filter(|kind| OVERLAYS.contains(kind))?;
        let has_address = [true, false].into_iter().any(|is_v4| network.source(link.index, is_v4).is_some());
        (link.is_up && has_address).then(|| Why::Overlay(kind.to_owned()))
    };
    let lately = || wishes.lately.contains(&link.index).then_some(Why::Lately);
    let default_route = network.has_default_route(link.index).then_some(Why::DefaultRoute);
    default_route.or_else(node_address).or_else(nodeport_address).or_else(overlay).or_else(lately)
}

/// The packets of a member pass its master's programs; they must not pass two. A bridge's port by itself is of no use to
/// pods.
fn leave_members(network: &Network, choices: &mut [Choice]) {
    let is_bundle = |link: &Link| link.kind.as_deref().is_some_and(|kind| BUNDLES.contains(&kind));
    let chosen: BTreeSet<u32> =
        choices.iter().filter(|choice| choice.decision.is_ok()).map(|choice| choice.index).collect();
    for choice in choices.iter_mut().filter(|choice| choice.decision.is_ok()) {
        let master = network.link(choice.index).and_then(|link| network.link(link.master?));
        let Some(master) = master.filter(|master| is_bundle(master)) else { continue };
        if chosen.contains(&master.index) {
            choice.decision = Err(WhyNot::Member(master.name.clone()));
        } else if is_bridge(master) && choice.role() == Some(Role::Pod) {
            choice.decision = Err(WhyNot::BridgePort(master.name.clone()));
        }
    }
}

/// Whether a link is a bridge.
pub(super) fn is_bridge(link: &Link) -> bool {
    link.kind.as_deref() == Some("bridge")
}

#[cfg(test)]
#[path = "choose_tests.rs"]
mod tests;
