//! This node as Services see it: which addresses are its own, and which of them answer to NodePorts.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use lb_common::abi::scope;

use super::config::NodePortAddresses;
use crate::event::Node;

/// What is known of the node, and what follows from it.
#[derive(Debug)]
pub(super) struct NodeView {
    wanted: NodePortAddresses,
    object: Node,
    /// On its interfaces.
    local: BTreeSet<IpAddr>,
    nodeport: Vec<(IpAddr, u8)>,
}

impl NodeView {
    pub(super) fn new(wanted: NodePortAddresses) -> Self {
        Self { wanted, object: Node::default(), local: BTreeSet::new(), nodeport: Vec::new() }
    }

    pub(super) fn object(&self) -> &Node {
        &self.object
    }

    /// The node's own addresses; some twice.
    pub(super) fn own(&self) -> impl Iterator<Item = IpAddr> {
        self.local.iter().chain(&self.object.addresses).copied()
    }

    /// The same node with another Node object, or other addresses.
    pub(super) fn with(&self, object: Option<Node>, local: Option<BTreeSet<IpAddr>>) -> Self {
        let mut new = Self {
            wanted: self.wanted.clone(),
            object: object.unwrap_or_else(|| self.object.clone()),
            local: local.unwrap_or_else(|| self.local.clone()),
            nodeport: Vec::new(),
        };
        new.nodeport = [true, false].into_iter().flat_map(|v4| new.of_family(v4)).collect();
        new
    }

    /// Whether processes and other nodes reach this node by it.
    pub(super) fn is_own(&self, ip: IpAddr) -> bool {
        self.local.contains(&ip) || self.object.addresses.contains(&ip)
    }

    /// The addresses that answer to NodePorts, each with the scope of its frontends, sorted within a family.
    pub(super) fn nodeport_addresses(&self) -> &[(IpAddr, u8)] {
        &self.nodeport
    }

    /// As kube-proxy decides it (pkg/proxy/util/nodeport_addresses.go): addresses of interfaces that are in one of the
    /// prefixes of the family, or any where there is no such prefix (`primary` stands for a prefix of full length for each
    /// address of the Node object). Addresses of the loopback interface answer only where a prefix names them, which
    /// kube-proxy's nftables mode does not serve at all.
    fn of_family(&self, v4: bool) -> Vec<(IpAddr, u8)> {
        let mut prefixes: Vec<IpNet> = match &self.wanted {
            NodePortAddresses::Primary => self.object.addresses.iter().copied().map(IpNet::from).collect(),
            NodePortAddresses::Prefixes(prefixes) => prefixes.clone(),
        };
        prefixes.retain(|prefix| prefix.addr().is_ipv4() == v4);
        let by_loopback = matches!(self.wanted, NodePortAddresses::Prefixes(_));
        let answers = |ip: IpAddr| {
            if ip.is_loopback() {
                let names = |prefix: &IpNet| prefix.network().is_loopback() && prefix.contains(&ip);
                by_loopback && prefixes.iter().any(names)
            } else {
                prefixes.is_empty() || prefixes.iter().any(|prefix| prefix.contains(&ip))
            }
        };
        let own = self.local.iter().copied().filter(|ip| ip.is_ipv4() == v4 && answers(*ip));
        own.map(|ip| (ip, if ip.is_loopback() { scope::HOST } else { scope::INTERNAL })).collect()
    }
}
