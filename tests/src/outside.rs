//! The world outside a cluster: a router on the underlay, and a machine behind it that no agent serves.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};

use crate::{cgroup::Cgroup, guest::Guest, netns::NetNs, node::Node, overlay::Underlay, pod::FAR_INDEX};

/// The router as the machine sees it.
const GATEWAY4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// A router and a machine behind it.
pub struct Outside {
    machine: NetNs,
    router: NetNs,
    cgroup: Cgroup,
}

impl Outside {
    /// The address of the machine.
    pub const V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
    /// As [`Self::V4`].
    pub const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

    /// The router's addresses on the underlay.
    pub const ROUTER4: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 254);
    /// As [`Self::ROUTER4`].
    pub const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, 0xfe);

    /// Plugs the router into the underlay.
    pub fn new(underlay: &Underlay) -> Result<Self> {
        let outside =
            Self { machine: NetNs::new("outside")?, router: NetNs::new("router")?, cgroup: Cgroup::new("outside")? };
        underlay.plug_in(&outside.router, Self::ROUTER4, Self::ROUTER6).context("cannot plug the router in")?;
        outside.link().context("cannot link the machine outside to the router")?;
        Ok(outside)
    }

    fn link(&self) -> Result<()> {
        self.router.sysctl("net/ipv4/ip_forward", "1")?;
        self.router.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        let router = self.router.path().display();
        self.machine.ip([
            format!("link add eth0 {FAR_INDEX} type veth peer name eth1 netns {router}"),
            "link set eth0 up".to_owned(),
            format!("addr add {}/24 dev eth0", Self::V4),
            format!("addr add {}/64 dev eth0 nodad", Self::V6),
            format!("route add default via {GATEWAY4}"),
            format!("route add default via {GATEWAY6}"),
        ])?;
        self.router.ip([
            "link set eth1 up".to_owned(),
            format!("addr add {GATEWAY4}/24 dev eth1"),
            format!("addr add {GATEWAY6}/64 dev eth1 nodad"),
        ])?;
        self.machine.wait_up(&["eth0"])?;
        self.router.wait_up(&["eth1"])
    }

    /// Makes the router this node's default route, for both families.
    pub fn serve(&self, node: &Node) -> Result<()> {
        node.netns()
            .ip([Self::ROUTER4.to_string(), Self::ROUTER6.to_string()]
                .map(|via| format!("route add default via {via}")))
    }

    /// Has the router send an address to this node, as a load balancer or BGP would.
    pub fn announce(&self, ip: IpAddr, node: &Node) -> Result<()> {
        let via = if ip.is_ipv4() { IpAddr::from(node.v4()) } else { node.v6().into() };
        self.router.ip([format!("route replace {ip} via {via}")])
    }

    /// The machine's network namespace.
    pub fn machine(&self) -> &NetNs {
        &self.machine
    }

    /// The cgroup of its processes.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// The router's.
    pub fn router(&self) -> &NetNs {
        &self.router
    }

    /// A new process on the machine.
    pub fn guest(&self) -> Result<Guest> {
        Guest::spawn("outside", &self.machine, &self.cgroup)
    }
}
