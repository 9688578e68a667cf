//! Several nodes: the network between them, and a vxlan overlay over it with static entries, as flannel builds one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};

use crate::{netns::NetNs, node::Node, pod::FAR_INDEX, run};

/// The network between nodes: a switch that each is plugged into with its `eth0`.
pub struct Underlay {
    switch: NetNs,
}

impl Underlay {
    /// A switch without nodes.
    pub fn new() -> Result<Self> {
        let switch = NetNs::new("underlay")?;
        switch.ip(["link add br0 type bridge"])?;
        Ok(Self { switch })
    }

    /// The switch itself, where what a machine sends arrives by a device `port...`.
    pub fn switch(&self) -> &NetNs {
        &self.switch
    }

    /// Plugs a node in. Do that before it gets pods: its address moves from `lo` to `eth0`.
    pub fn join(&self, node: &Node) -> Result<()> {
        leave_lo(node)?;
        self.plug_in(node.netns(), node.v4(), node.v6())
    }

    /// Plugs a node in by a VLAN: its `eth0` is one on its `trunk0`, and the switch has one on its port. For kernels with 802.1Q.
    pub fn join_by_vlan(&self, node: &Node) -> Result<()> {
        leave_lo(node)?;
        let port = format!("port{}", run::current().number());
        let switch = self.switch.path().display();
        node.netns().ip([
            format!("link add trunk0 {FAR_INDEX} type veth peer name {port} netns {switch}"),
            "link set trunk0 up".to_owned(),
            "link add link trunk0 name eth0 type vlan id 7".to_owned(),
            "link set eth0 up".to_owned(),
            format!("addr add {}/24 dev eth0", node.v4()),
            format!("addr add {}/64 dev eth0 nodad", node.v6()),
        ])?;
        self.switch.ip([
            format!("link set {port} up"),
            format!("link add link {port} name {port}.7 type vlan id 7"),
            format!("link set {port}.7 up"),
        ])?;
        node.netns().wait_up(&["eth0"])?;
        self.switch.wait_up(&[&format!("{port}.7")])?;
        self.switch.ip([format!("link set {port}.7 master br0"), "link set br0 up".to_owned()])
    }

    /// Makes a node's `eth0` anew, bare: another device with the name and the hardware address of the one before. Nothing of what
    /// was on that one comes back, but the switch is ready for it.
    pub fn remake(&self, node: &Node) -> Result<()> {
        let link = node.netns().output("ip", &["-br", "link", "show", "eth0"])?;
        let address = link.split_whitespace().nth(2).context("no hardware address")?;
        let number = run::current().number();
        let (port, switch) = (format!("port{number}"), self.switch.path().display());
        // Another number than before, and, see FAR_INDEX, than the port's.
        let index = 20_000 + number;
        node.netns().ip([
            "link del eth0".to_owned(),
            format!("link add eth0 index {index} address {address} type veth peer name {port} netns {switch}"),
        ])?;
        self.switch.ip([format!("link set {port} up"), format!("link set {port} master br0")])
    }

    /// Plugs any machine in, with an `eth0` that has these addresses.
    pub(crate) fn plug_in(&self, machine: &NetNs, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<()> {
        self.link(machine, ("eth0", FAR_INDEX), v4, v6)
    }

    /// The same with a second device, `eth1`.
    pub fn plug_in_again(&self, machine: &NetNs, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<()> {
        self.link(machine, ("eth1", "index 10001"), v4, v6)
    }

    fn link(&self, machine: &NetNs, (device, index): (&str, &str), v4: Ipv4Addr, v6: Ipv6Addr) -> Result<()> {
        let port = format!("port{}", run::current().number());
        let switch = self.switch.path().display();
        machine.ip([
            format!("link add {device} {index} type veth peer name {port} netns {switch}"),
            format!("link set {device} up"),
            format!("addr add {v4}/24 dev {device}"),
            format!("addr add {v6}/64 dev {device} nodad"),
        ])?;
        self.switch.ip([format!("link set {port} up")])?;
        machine.wait_up(&[device])?;
        self.switch.wait_up(&[&port])?;
        // The switch comes up after its first port, as a pod's bridge does.
        self.switch.ip([format!("link set {port} master br0"), "link set br0 up".to_owned()])
    }
}

/// Takes the addresses that a node by itself has from its `lo`.
pub(crate) fn leave_lo(node: &Node) -> Result<()> {
    node.netns().ip([format!("addr del {}/32 dev lo", node.v4()), format!("addr del {}/128 dev lo", node.v6())])
}

/// Builds the overlay between all the nodes, for both families: on each node a vxlan device without learning, and for
/// each peer a neighbour entry, a forwarding entry and a route to its pod CIDR (flannel's pkg/backend/vxlan does these
/// three per subnet, with devices `flannel.1` and `flannel-v6.1`).
pub fn flannel(nodes: &[&Node]) -> Result<()> {
    for device in [Device::V4, Device::V6] {
        for node in nodes {
            device.create(node).with_context(|| format!("cannot make {} on {}", device.name(), node.name()))?;
            for peer in nodes.iter().filter(|peer| peer.index() != node.index()) {
                device
                    .add_peer(node, peer)
                    .with_context(|| format!("cannot link {} to {}", node.name(), peer.name()))?;
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Device {
    V4,
    V6,
}

impl Device {
    fn name(self) -> &'static str {
        match self {
            Self::V4 => "flannel.1",
            Self::V6 => "flannel-v6.1",
        }
    }

    /// The node's address on the underlay: where tunnel packets go.
    fn outer(self, node: &Node) -> IpAddr {
        match self {
            Self::V4 => node.v4().into(),
            Self::V6 => node.v6().into(),
        }
    }

    /// The device's own address, the first of the pod CIDR.
    fn inner(self, node: &Node) -> IpAddr {
        match self {
            Self::V4 => node.pod_v4(0).into(),
            Self::V6 => node.pod_v6(0).into(),
        }
    }

    fn mac(self, node: &Node) -> String {
        let family = match self {
            Self::V4 => 4,
            Self::V6 => 6,
        };
        // The bit 2 of the first byte says "locally administered" (IEEE 802).
        format!("02:00:00:00:{family:02x}:{:02x}", node.index())
    }

    fn create(self, node: &Node) -> Result<()> {
        let (name, outer, inner, mac) = (self.name(), self.outer(node), self.inner(node), self.mac(node));
        // 8472 is the port of Linux's vxlan before IANA's 4789, and flannel's default.
        node.netns().ip([
            format!(
                "link add {name} address {mac} mtu 1430 type vxlan id 1 local {outer} dev eth0 dstport 8472 nolearning"
            ),
            format!("link set {name} up"),
            format!("addr add {inner}/{} dev {name}", prefix_length(inner)),
        ])
    }

    fn add_peer(self, node: &Node, peer: &Node) -> Result<()> {
        let (name, mac, gateway) = (self.name(), self.mac(peer), self.inner(peer));
        let cidr = match self {
            Self::V4 => format!("{}/24", peer.pod_v4(0)),
            Self::V6 => format!("{}/64", peer.pod_v6(0)),
        };
        let outer = self.outer(peer).to_string();
        node.netns().ip([
            format!("neigh add {gateway} lladdr {mac} dev {name} nud permanent"),
            format!("route add {cidr} via {gateway} dev {name} onlink"),
        ])?;
        node.netns().output("bridge", &["fdb", "append", &mac, "dev", name, "dst", &outer])?;
        Ok(())
    }
}

fn prefix_length(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}
