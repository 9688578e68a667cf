//! Two nodes, the network between them, and a machine outside behind a router: where the packet layer is looked at.

use anyhow::Result;

use crate::{
    node::{Layout, Node},
    outside::Outside,
    overlay::{Underlay, flannel},
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

/// The machines, without pods and proxies. Dropped from top to bottom.
pub struct Site {
    /// The router and the machine behind it.
    pub outside: Outside,
    /// `one` and `two`, with the router as their default route.
    pub nodes: Vec<Node>,
    /// What they are plugged into.
    pub underlay: Underlay,
}

impl Site {
    /// All of them, linked.
    pub fn new(layout: Layout, between: Between) -> Result<Self> {
        let underlay = Underlay::new()?;
        let nodes = vec![Node::with("one", 1, layout)?, Node::with("two", 2, layout)?];
        for node in &nodes {
            underlay.join(node)?;
        }
        let [one, two] = [&nodes[0], &nodes[1]];
        match between {
            Between::Vxlan => flannel(&[one, two])?,
            Between::Routes => route(one, two)?,
        }
        let outside = Outside::new(&underlay)?;
        for node in &nodes {
            outside.serve(node)?;
        }
        Ok(Self { outside, nodes, underlay })
    }
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
