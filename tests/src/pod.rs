//! A pod: a network namespace linked to its node, and a cgroup below its node's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result};

use crate::{
    cgroup::Cgroup,
    guest::{Guest, Proto},
    netns::NetNs,
    node::{Layout, Node},
    run,
};

/// What a pod sees as its gateway on a point-to-point link. Every pod has the same one.
const GATEWAY4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The interface number of every `eth0`, so that it never equals that of its peer. The kernel takes a veth pair with
/// equal numbers for no pair and notes up to a second later that it is up (linkwatch_urgent_event in
/// net/core/link_watch.c).
pub(crate) const FAR_INDEX: &str = "index 10000";

/// A pod, or another machine that a node is linked to.
pub struct Pod {
    name: String,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    node: Option<String>,
    device: String,
    netns: NetNs,
    cgroup: Cgroup,
}

impl Pod {
    pub(crate) fn new(node: &Node, name: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<Self> {
        Self::unlinked(name, v4, v6, node.cgroup().child(name)?)?.on(node)
    }

    pub(crate) fn without_hook(node: &Node, name: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<Self> {
        Self::unlinked(name, v4, v6, Cgroup::new(name)?)?.on(node)
    }

    fn on(mut self, node: &Node) -> Result<Self> {
        self.node = Some(node.name().to_owned());
        match node.layout() {
            Layout::PointToPoint => self.link(node),
            Layout::Bridge => self.plug_into_bridge(node),
        }
        .with_context(|| format!("cannot link pod {} to node {}", self.name, node.name()))?;
        Ok(self)
    }

    pub(crate) fn outside_the_cluster(node: &Node, name: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<Self> {
        let host = Self::unlinked(name, v4, v6, Cgroup::new(name)?)?;
        host.link(node).with_context(|| format!("cannot link {name} to node {}", node.name()))?;
        Ok(host)
    }

    fn unlinked(name: &str, v4: Ipv4Addr, v6: Ipv6Addr, cgroup: Cgroup) -> Result<Self> {
        let device = format!("veth{}", run::current().number());
        Ok(Self { name: name.to_owned(), v4, v6, node: None, device, netns: NetNs::new(name)?, cgroup })
    }

    fn link(&self, node: &Node) -> Result<()> {
        self.make_veth(node)?;
        let veth = &self.device;
        node.netns().ip([
            format!("addr add {GATEWAY4}/32 dev {veth} scope link"),
            format!("addr add {GATEWAY6}/64 dev {veth} nodad"),
            format!("route add {}/32 dev {veth} src {}", self.v4, node.v4()),
            format!("route add {}/128 dev {veth} src {}", self.v6, node.v6()),
        ])?;
        self.netns.ip([
            format!("addr add {}/32 dev eth0", self.v4),
            format!("addr add {}/128 dev eth0 nodad", self.v6),
            format!("route add {GATEWAY4} dev eth0 scope link"),
            format!("route add default via {GATEWAY4} dev eth0"),
            format!("route add default via {GATEWAY6} dev eth0"),
        ])
    }

    fn plug_into_bridge(&self, node: &Node) -> Result<()> {
        self.make_veth(node)?;
        let veth = &self.device;
        // The bridge comes up after its first port: the other way round it takes the kernel up to a second to notice.
        node.netns().ip([format!("link set {veth} master cni0"), "link set cni0 up".to_owned()])?;
        self.netns.ip([
            format!("addr add {}/24 dev eth0", self.v4),
            format!("addr add {}/64 dev eth0 nodad", self.v6),
            format!("route add default via {} dev eth0", node.pod_v4(1)),
            format!("route add default via {} dev eth0", node.pod_v6(1)),
        ])
    }

    /// A veth pair, `eth0` here and `device` on the node. MTU 1430 is what fits into a vxlan over IPv6 (70 bytes).
    fn make_veth(&self, node: &Node) -> Result<()> {
        let veth = &self.device;
        let peer = node.netns().path().display();
        self.netns.ip([
            format!("link add eth0 {FAR_INDEX} mtu 1430 type veth peer name {veth} mtu 1430 netns {peer}"),
            "link set eth0 up".to_owned(),
        ])?;
        node.netns().ip([format!("link set {veth} up")])?;
        self.netns.wait_up(&["eth0"])?;
        node.netns().wait_up(&[veth])
    }

    /// Its name, which its servers answer with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its IPv4 address.
    pub fn v4(&self) -> Ipv4Addr {
        self.v4
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> Ipv6Addr {
        self.v6
    }

    /// Its address of the same family as `like`.
    pub fn address_like(&self, like: IpAddr) -> IpAddr {
        if like.is_ipv4() { self.v4.into() } else { self.v6.into() }
    }

    /// Its IPv4 address with a port.
    pub fn at4(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.v4.into(), port)
    }

    /// Its IPv6 address with a port.
    pub fn at6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.v6.into(), port)
    }

    /// The name of its node, none of a machine outside the cluster.
    pub fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// The node's end of its link.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Its network namespace.
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// A new process in this pod.
    pub fn guest(&self) -> Result<Guest> {
        Guest::spawn(&self.name, &self.netns, &self.cgroup)
    }

    /// A process in this pod that answers at both of its addresses, by TCP and UDP, with the pod's name and the address that
    /// it sees the asker with.
    pub fn serve(&self, port: u16) -> Result<Guest> {
        let guest = self.guest()?;
        for at in [self.at4(port), self.at6(port)] {
            guest.witness(&self.name, Proto::Tcp, at)?;
            guest.witness(&self.name, Proto::Udp, at)?;
        }
        Ok(guest)
    }
}
