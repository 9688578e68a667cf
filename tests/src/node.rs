//! A Kubernetes node: a network namespace, a cgroup above all its pods, and a bpf file system for its agent's pins.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
    sync::atomic::{AtomicU8, Ordering},
};

use anyhow::{Context as _, Result};

use crate::{
    agent::{Agent, AgentSpec, Source},
    bpffs::Bpffs,
    cgroup::Cgroup,
    guest::Guest,
    netns::NetNs,
    pod::Pod,
};

/// How pods are linked to their node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A veth pair and a host route for each pod, as the CNI plugin `ptp` and Calico do it.
    PointToPoint,
    /// A bridge `cni0` that holds the node's pod CIDR, as the CNI plugin `bridge` and flannel do it.
    Bridge,
}

/// A node. Its pods have 10.244.INDEX.0/24 and fd00:10:244:INDEX::/64.
pub struct Node {
    name: String,
    index: u8,
    layout: Layout,
    netns: NetNs,
    cgroup: Cgroup,
    bpffs: Bpffs,
    n_pods: AtomicU8,
}

impl Node {
    /// A node by itself, with point-to-point links to its pods.
    pub fn new(name: &str) -> Result<Self> {
        Self::with(name, 1, Layout::PointToPoint)
    }

    /// A node among others; `index` makes its addresses unique among them and is at least 1.
    pub fn with(name: &str, index: u8, layout: Layout) -> Result<Self> {
        let netns = NetNs::new(name)?;
        let node = Self {
            name: name.to_owned(),
            index,
            layout,
            cgroup: Cgroup::new(name)?,
            bpffs: Bpffs::new(name)?,
            netns,
            n_pods: AtomicU8::new(0),
        };
        node.netns.sysctl("net/ipv4/ip_forward", "1")?;
        node.netns.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        // Until the node joins an underlay, its address is on lo.
        node.netns
            .ip([format!("addr add {}/32 dev lo", node.v4()), format!("addr add {}/128 dev lo nodad", node.v6())])?;
        if layout == Layout::Bridge {
            node.make_bridge()?;
        }
        Ok(node)
    }

    fn make_bridge(&self) -> Result<()> {
        self.netns.ip([
            "link add cni0 type bridge".to_owned(),
            format!("addr add {}/24 dev cni0", self.pod_v4(1)),
            format!("addr add {}/64 dev cni0 nodad", self.pod_v6(1)),
        ])
    }

    /// Its name, also the `nodeName` of its pods' endpoints.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number among the nodes of a test.
    pub fn index(&self) -> u8 {
        self.index
    }

    /// How its pods are linked.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Its network namespace.
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Its cgroup: an agent's `--cgroup-root`.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Its bpf file system: an agent's `--bpffs`.
    pub fn bpffs(&self) -> &Bpffs {
        &self.bpffs
    }

    /// Its own IPv4 address.
    pub fn v4(&self) -> Ipv4Addr {
        Ipv4Addr::new(172, 18, 0, self.index)
    }

    /// Its own IPv6 address.
    pub fn v6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, self.index.into())
    }

    /// Address `number` of its pod CIDR.
    pub fn pod_v4(&self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.index, number)
    }

    /// Address `number` of its IPv6 pod CIDR.
    pub fn pod_v6(&self, number: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x10, 0x244, self.index.into(), 0, 0, 0, number.into())
    }

    /// A new pod on this node, with the next free addresses.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        // .0 is the network (and flannel's device), .1 the bridge.
        let number = 2 + self.n_pods.fetch_add(1, Ordering::Relaxed);
        Pod::new(self, name, self.pod_v4(number), self.pod_v6(number))
    }

    /// A pod whose processes no socket hook sees: their cgroup is none of the node's, as that of a virtual machine's guest.
    pub fn pod_without_hook(&self, name: &str) -> Result<Pod> {
        let number = 2 + self.n_pods.fetch_add(1, Ordering::Relaxed);
        Pod::without_hook(self, name, self.pod_v4(number), self.pod_v6(number))
    }

    /// A machine outside the cluster that this node has a direct link to.
    pub fn external(&self, name: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<Pod> {
        Pod::outside_the_cluster(self, name, v4, v6)
    }

    /// A process of the node itself, as of a pod with `hostNetwork`.
    pub fn host_process(&self, name: &str) -> Result<Guest> {
        Guest::spawn(name, &self.netns, &self.cgroup)
    }

    /// Starts the agent with a manifest directory as its source.
    pub fn start_agent(&self, manifests: &Path) -> Result<Agent> {
        self.start_agent_with(AgentSpec::new(Source::Manifests(manifests.to_owned())))
    }

    /// Starts the agent.
    pub fn start_agent_with(&self, spec: AgentSpec) -> Result<Agent> {
        Agent::start(self, spec).with_context(|| format!("cannot start the agent of node {}", self.name))
    }
}
