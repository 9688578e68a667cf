//! Two nodes, the network between them, and a machine outside behind a router: where the packet layer is looked at.

use anyhow::Result;

use crate::{
    node::{Layout, Node},
    outside::Outside,
    overlay::{Underlay, flannel, leave_lo},
    tun::TunLink,
};

/// How pods reach those of the other node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    /// By a vxlan overlay, as flannel builds it.
    Vxlan,
    /// By routes to the other node's address, as flannel's `host-gw` and Calico without encapsulation do it; IPv4 only. What
    /// node `two` sends to the machine outside goes through node `one` as well, so that a connection through `one` that
    /// nobody translates goes the same way there and back.
    Routes,
}

/// What node `one` has for an `eth0`. Node `two` always has Ethernet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Uplink {
    /// Ethernet, to the switch.
    #[default]
    Ethernet,
    /// A VLAN device on Ethernet, to the switch. For kernels with 802.1Q.
    Vlan,
    /// A tun device, whose frames begin with IP. At its other end is the router, which leads on to node `two`, too.
    Tun,
}

/// The machines, without pods and proxies. Dropped from top to bottom.
pub struct Site {
    /// The router and the machine behind it.
    pub outside: Outside,
    /// `one` and `two`, with the router as their default route.
    pub nodes: Vec<Node>,
    /// What they are plugged into.
    pub underlay: Underlay,
    /// With [`Uplink::Tun`]: between node `one` and the router.
    pub tun: Option<TunLink>,
}

impl Site {
    /// All of them, linked by Ethernet.
    pub fn new(layout: Layout, between: Between) -> Result<Self> {
        Self::with(layout, between, Uplink::Ethernet)
    }

    /// All of them, linked.
    pub fn with(layout: Layout, between: Between, uplink: Uplink) -> Result<Self> {
        let underlay = Underlay::new()?;
        let outside = Outside::new(&underlay)?;
        let nodes = vec![Node::with("one", 1, layout)?, Node::with("two", 2, layout)?];
        let [one, two] = [&nodes[0], &nodes[1]];
        underlay.join(two)?;
        let tun = match uplink {
            Uplink::Ethernet => underlay.join(one).map(|()| None)?,
            Uplink::Vlan => underlay.join_by_vlan(one).map(|()| None)?,
            Uplink::Tun => Some(join_by_tun(&outside, one, two)?),
        };
        match between {
            Between::Vxlan => flannel(&[one, two])?,
            Between::Routes => route(one, two)?,
        }
        for node in &nodes {
            outside.serve(node)?;
        }
        Ok(Self { outside, nodes, underlay, tun })
    }
}

fn join_by_tun(outside: &Outside, one: &Node, two: &Node) -> Result<TunLink> {
    leave_lo(one)?;
    let link = TunLink::new((one.netns(), "eth0"), (outside.router(), "tun0"))?;
    let (v4, v6) = (one.v4(), one.v6());
    one.netns().ip([
        "link set eth0 up".to_owned(),
        format!("addr add {v4}/24 dev eth0"),
        format!("addr add {v6}/64 dev eth0 nodad"),
    ])?;
    outside.router().ip([
        "link set tun0 up".to_owned(),
        format!("route add {v4}/32 dev tun0"),
        format!("route add {v6}/128 dev tun0"),
    ])?;
    two.netns().ip([
        format!("route add {v4}/32 via {}", Outside::ROUTER4),
        format!("route add {v6}/128 via {}", Outside::ROUTER6),
    ])?;
    Ok(link)
}

fn route(one: &Node, two: &Node) -> Result<()> {
    for (node, peer) in [(one, two), (two, one)] {
        node.netns().ip([format!("route add {}/24 via {}", peer.pod_v4(0), peer.v4())])?;
        // A packet that leaves by the device it came by is no reason to tell its sender a shorter way.
        node.netns().sysctl("net/ipv4/conf/all/send_redirects", "0")?;
        node.netns().sysctl("net/ipv4/conf/eth0/send_redirects", "0")?;
    }
    two.netns().ip([format!("route add {}/32 via {}", Outside::V4, one.v4())])
}
