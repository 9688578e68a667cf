//! What is wrong with a node's settings for the packet layer, and what to do about it. Pure; [`sysctl`](super::sysctl)
//! and [`read`](super::read) tell the facts.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use serde::Serialize;

use super::{
    choose::{Choice, WhyNot},
    delivery::PodDelivery,
    network::{Network, Rank},
    wanted::{DeviceNames, DevicePatterns, PortRange},
};
use crate::model::NodePortAddresses;

/// What the flags say.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `--devices`.
    pub devices: DeviceNames,
    /// `--pod-devices`.
    pub pods: DevicePatterns,
    /// `--pod-delivery`.
    pub pod_delivery: PodDelivery,
    /// `--snat-ports`.
    pub snat_ports: PortRange,
    /// `--nodeport-range`.
    pub nodeport_range: PortRange,
    /// `--nodeport-addresses`.
    pub nodeport_addresses: NodePortAddresses,
}

impl Settings {
    /// Whether any device may get programs.
    pub fn has_packet_layer(&self) -> bool {
        self.devices != DeviceNames::None || !self.pods.is_empty()
    }

    /// Whether packets may go past any device.
    pub fn may_go_past(&self) -> bool {
        self.pod_delivery == PodDelivery::Auto && !self.pods.is_empty()
    }
}

/// The node's settings below /proc/sys/net. What cannot be read (IPv6 turned off, say) is absent and no finding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sysctls {
    /// `ipv4.ip_forward`.
    pub forwarding4: Option<bool>,
    /// `ipv6.conf.all.forwarding`.
    pub forwarding6: Option<bool>,
    /// `bridge.bridge-nf-call-iptables`; absent without the module br_netfilter.
    pub bridge_filter4: Option<bool>,
    /// `bridge.bridge-nf-call-ip6tables`.
    pub bridge_filter6: Option<bool>,
    /// Of each chosen device, by name.
    pub devices: BTreeMap<String, DeviceSysctls>,
    /// `ipv4.ip_local_port_range`.
    pub local_ports: Option<PortRange>,
    /// `ipv4.ip_local_reserved_ports`.
    pub reserved_ports: Vec<PortRange>,
}

/// Those of one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceSysctls {
    /// `ipv4.conf.DEVICE.forwarding`.
    pub forwarding4: Option<bool>,
    /// `ipv6.conf.DEVICE.forwarding`.
    pub forwarding6: Option<bool>,
    /// The larger of `ipv4.conf.all.rp_filter` and the device's own, which is what the kernel goes by.
    pub rp_filter: Option<u8>,
}

/// Another's program or filter at a place where ours is or would be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Foreign {
    /// The device's name.
    pub device: String,
    /// `ingress` or `egress`.
    pub hook: &'static str,
    /// What it is, such as `program cil_from_netdev (id 7)`.
    pub what: String,
}

/// All that findings follow from.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The flags.
    pub settings: &'a Settings,
    /// The network.
    pub network: &'a Network,
    /// What was decided about it.
    pub choices: &'a [Choice],
    /// The node's settings.
    pub sysctls: &'a Sysctls,
    /// Other programs on chosen devices.
    pub foreign: &'a [Foreign],
    /// Addresses of the Node object; empty where it is not known.
    pub node: &'a [IpAddr],
}

/// Something that is wrong, or may be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The flag, setting or device.
    pub about: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to do.
    pub advice: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.about, self.problem, self.advice)
    }
}

fn finding(about: impl Into<String>, problem: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { about: about.into(), problem: problem.into(), advice: advice.into() }
}

/// Everything that is wrong; empty where nothing is, or where there is no packet layer.
pub fn findings(facts: &Facts<'_>) -> Vec<Finding> {
    if !facts.settings.has_packet_layer() {
        return Vec::new();
    }
    let mut found = devices(facts);
    found.extend(bridge_ports(facts));
    found.extend(bridge_filter(facts));
    found.extend(addresses(facts));
    found.extend(forwarding(facts));
    found.extend(rp_filter(facts));
    found.extend(ports(facts));
    found.extend(facts.foreign.iter().map(foreign));
    found.extend(
        facts.network.unread.iter().map(|error| {
            finding("rtnetlink", format!("a message of the kernel cannot be read ({error})"), "report this")
        }),
    );
    found
}

fn devices(facts: &Facts<'_>) -> Vec<Finding> {
    let uplinks = match &facts.settings.devices {
        DeviceNames::None => Vec::new(),
        DeviceNames::Auto => no_uplink(facts).into_iter().collect(),
        DeviceNames::Names(names) => names.iter().filter_map(|name| named(name, facts)).collect(),
    };
    let unsuitable = |choice: &Choice| match &choice.decision {
        Err(why @ (WhyNot::PodWithoutEthernet | WhyNot::UnknownFrames(_)))
            if !facts.settings.devices.has(&choice.name) =>
        {
            Some(finding(
                format!("device {}", choice.name),
                format!("it cannot be served: {why}"),
                "nothing that comes by it reaches a Service; use another device",
            ))
        }
        _ => None,
    };
    uplinks.into_iter().chain(facts.choices.iter().filter_map(unsuitable)).collect()
}

/// One for each bridge, however many pods it has.
fn bridge_ports(facts: &Facts<'_>) -> Vec<Finding> {
    let mut ports: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for choice in facts.choices {
        if let Err(WhyNot::BridgePort(bridge)) = &choice.decision {
            ports.entry(bridge).or_default().push(&choice.name);
        }
    }
    let one = |(bridge, ports): (&str, Vec<&str>)| {
        let first = ports.first().copied().unwrap_or_default();
        finding(
            format!("--pod-devices, bridge {bridge}"),
            format!(
                "{} of its ports match ({first}), and the bridge does not: packets of pods are the bridge's",
                ports.len()
            ),
            format!("add {bridge} to --pod-devices; until then the pods behind it are not served by the packet layer"),
        )
    };
    ports.into_iter().map(one).collect()
}

/// The module br_netfilter has netfilter see what comes in by a bridge's port, before the bridge's own programs.
fn bridge_filter(facts: &Facts<'_>) -> Vec<Finding> {
    let is_bridge = |name: &&str| facts.network.named(name).is_some_and(super::choose::is_bridge);
    let Some(bridge) = chosen(facts).find(is_bridge) else {
        return Vec::new();
    };
    let families = [("iptables", facts.sysctls.bridge_filter4), ("ip6tables", facts.sysctls.bridge_filter6)];
    let on = families.into_iter().filter(|(_, on)| *on == Some(true));
    on.map(|(family, _)| {
        finding(
            format!("net.bridge.bridge-nf-call-{family}"),
            format!(
                "it is 1: rules and connection tracking see what pods behind {bridge} send to Services before it is \
                 translated, and may drop it"
            ),
            "set it to 0 unless a network policy needs it",
        )
    })
    .collect()
}

fn no_uplink(facts: &Facts<'_>) -> Option<Finding> {
    let is_uplink = |choice: &Choice| choice.role().is_some_and(|role| role != super::Role::Pod);
    (!facts.choices.iter().any(is_uplink)).then(|| {
        finding(
            "--devices auto",
            "no device has a default route or an address of the node, and there is no overlay",
            "clients outside reach no Service here until there is one (devices are followed); or name it with --devices",
        )
    })
}

fn named(name: &str, facts: &Facts<'_>) -> Option<Finding> {
    let about = format!("--devices {name}");
    let Some(choice) = facts.choices.iter().find(|choice| choice.name == *name) else {
        return Some(finding(
            about,
            "there is no such device",
            "it is served as soon as there is one; `ip link` lists those that there are",
        ));
    };
    choice.decision.as_ref().err().map(|why| {
        finding(about, format!("this device is left alone: {why}"), "name the device by which packets come to the node")
    })
}

fn addresses(facts: &Facts<'_>) -> Vec<Finding> {
    let has = |test: &dyn Fn(IpAddr) -> bool| facts.network.addresses.iter().any(|address| test(address.ip));
    match &facts.settings.nodeport_addresses {
        NodePortAddresses::Prefixes(prefixes) => prefixes
            .iter()
            .filter(|prefix| !has(&|ip| prefix.contains(&ip)))
            .map(|prefix| {
                finding(
                    format!("--nodeport-addresses {prefix}"),
                    "no interface of this node has an address in it",
                    "give the node one (addresses are followed), or another prefix",
                )
            })
            .collect(),
        NodePortAddresses::Primary => facts
            .node
            .iter()
            .filter(|wanted| !has(&|ip| ip == **wanted))
            .map(|wanted| {
                finding(
                    format!("Node object's address {wanted}"),
                    "no interface of this node has it, so NodePorts do not answer on it",
                    "correct the kubelet's --node-ip, or choose with --nodeport-addresses",
                )
            })
            .collect(),
    }
}

/// Workloads are excluded from the socket layer, by a flag or by Pods' annotations. Only the programs on devices of pods
/// translate what such a workload sends: those of an uplink translate answers there, on its way out.
pub fn unserved(has_pod_device: bool) -> Option<Finding> {
    let problem = "workloads are excluded from the socket layer, and no device of pods has the packet layer's programs, so \
                   that no Service answers them";
    (!has_pod_device).then(|| {
        finding("--socket-lb-exclude", problem, "name their devices with --pod-devices, such as cni0 or veth*")
    })
}

/// The names of the devices with programs.
fn chosen<'a>(facts: &Facts<'a>) -> impl Iterator<Item = &'a str> {
    facts.choices.iter().filter(|choice| choice.decision.is_ok()).map(|choice| choice.name.as_str())
}

/// A device's name as a part of a sysctl's: sysctl(8) takes a dot for a separator, and a slash for a dot.
fn in_sysctl(device: &str) -> String {
    device.replace('.', "/")
}

fn forwarding(facts: &Facts<'_>) -> Vec<Finding> {
    let family = |is_v4: bool, name: &str, everywhere: Option<bool>, of: fn(&DeviceSysctls) -> Option<bool>| {
        let mut in_use = facts.network.addresses.iter().filter(|address| address.ip.is_ipv4() == is_v4);
        if !in_use.any(|address| address.rank != Rank::Unusable) {
            return Vec::new();
        }
        let off = |about: String| {
            finding(
                about,
                "it is 0, so that packets for pods are dropped",
                "set it to 1 (sysctl -w), and below /etc/sysctl.d",
            )
        };
        if everywhere == Some(false) {
            return vec![off(name.to_owned())];
        }
        let devices = chosen(facts).filter(|device| facts.sysctls.devices.get(*device).and_then(of) == Some(false));
        let version = if is_v4 { 4 } else { 6 };
        devices.map(|device| off(format!("net.ipv{version}.conf.{}.forwarding", in_sysctl(device)))).collect()
    };
    let mut found = family(true, "net.ipv4.ip_forward", facts.sysctls.forwarding4, |device| device.forwarding4);
    found.extend(family(false, "net.ipv6.conf.all.forwarding", facts.sysctls.forwarding6, |device| device.forwarding6));
    found
}

/// 1 is strict: packets are dropped whose source is not behind the device by which they come (RFC 3704, 2.2).
fn rp_filter(facts: &Facts<'_>) -> Vec<Finding> {
    let strict =
        chosen(facts).filter(|device| facts.sysctls.devices.get(*device).is_some_and(|of| of.rp_filter == Some(1)));
    strict
        .map(|device| {
            let device = in_sysctl(device);
            finding(
                format!("net.ipv4.conf.{device}.rp_filter"),
                "it is 1 (strict, here or in conf.all): the node drops packets that come by another device than their \
                 replies leave by",
                format!(
                    "set it to 2 (loose), in conf.all and conf.{device}, unless every client has one way to this node"
                ),
            )
        })
        .collect()
}

fn ports(facts: &Facts<'_>) -> Vec<Finding> {
    let (snat, nodeports) = (facts.settings.snat_ports, facts.settings.nodeport_range);
    let mut found = Vec::new();
    if let Some(both) = snat.overlap(nodeports) {
        found.push(finding(
            format!("--snat-ports {snat}"),
            format!("ports {both} are NodePorts, too"),
            "choose a range outside --nodeport-range",
        ));
    }
    let Some(local) = facts.sysctls.local_ports else {
        return found;
    };
    let reserved = &facts.sysctls.reserved_ports;
    if let Some(both) = unreserved(snat, local, reserved) {
        found.push(finding(
            format!("--snat-ports {snat}"),
            format!("the node's own connections use ports {both}, too (net.ipv4.ip_local_port_range is {local})"),
            format!("choose another range, or add {snat} to net.ipv4.ip_local_reserved_ports"),
        ));
    }
    if let Some(both) = unreserved(nodeports, local, reserved) {
        found.push(finding(
            format!("NodePort range {nodeports}"),
            format!("the node's own connections use ports {both}, too (net.ipv4.ip_local_port_range is {local})"),
            format!(
                "add {nodeports} to net.ipv4.ip_local_reserved_ports; if the API server has another range \
                     (--service-node-port-range), say so with --nodeport-range"
            ),
        ));
    }
    found
}

/// The ports of `range` that the kernel may give to the node's own connections.
fn unreserved(range: PortRange, local: PortRange, reserved: &[PortRange]) -> Option<PortRange> {
    let both = range.overlap(local)?;
    let is_free = |port: &u16| !reserved.iter().any(|range| (range.first..=range.last).contains(port));
    let first = (both.first..=both.last).find(is_free)?;
    let last = (both.first..=both.last).rfind(is_free)?;
    Some(PortRange { first, last })
}

fn foreign(other: &Foreign) -> Finding {
    finding(
        format!("device {}, {}", other.device, other.hook),
        format!("{} is there, too", other.what),
        "it stays; packets that it drops or sends on reach no Service, and it does not see those that are sent on to \
         backends: turn it off if Services do not answer",
    )
}

#[cfg(test)]
#[path = "findings_tests.rs"]
mod tests;
