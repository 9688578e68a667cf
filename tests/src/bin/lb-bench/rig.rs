//! What is measured: for each target a node of its own with a client pod and the endpoints, and one control plane for
//! all. Nodes have the same objects and the same addresses of endpoints; only the proxy differs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use lb_tests::{Agent, Cgroup, ControlPlane, Kubelet, Layout, Node, Pod, Process, overlay::Underlay};

use crate::{
    objects::{ENDPOINT_PORTS, SERVICE_PORT, cluster_ip},
    protocol::Request,
    proxy::{Kind, Proxy, maps_mib},
    remote::{Client, start_server},
    usage::Usage,
};

/// The node that the control plane is linked to; the others reach it over the underlay.
const HUB: u8 = 100;

/// The first endpoint's address; the next ones follow it.
const FIRST_ENDPOINT: Ipv4Addr = Ipv4Addr::new(10, 250, 0, 2);

/// The control plane and the network between the nodes.
pub(crate) struct Rig {
    pub(crate) control_plane: ControlPlane,
    underlay: Underlay,
    hub: Node,
    endpoints: Vec<IpAddr>,
}

impl Rig {
    pub(crate) fn start(n_endpoints: u8) -> Result<Self> {
        let first = u32::from(FIRST_ENDPOINT);
        let endpoints = (0..u32::from(n_endpoints)).map(|n| Ipv4Addr::from(first + n).into()).collect();
        let underlay = Underlay::new()?;
        let hub = Node::with("hub", HUB, Layout::PointToPoint)?;
        underlay.join(&hub)?;
        Ok(Self { control_plane: ControlPlane::start_without_controllers(&hub)?, underlay, hub, endpoints })
    }

    pub(crate) fn endpoints(&self) -> &[IpAddr] {
        &self.endpoints
    }

    /// A node with its client and endpoints, without the proxy.
    pub(crate) fn target(&self, kind: Kind, index: u8, n_services: usize) -> Result<Target> {
        let node = Node::with(&format!("bench{index}"), index, Layout::PointToPoint)?;
        self.underlay.join(&node)?;
        let control_plane = self.control_plane.machine().v4();
        node.netns().ip([format!("route add {control_plane} via {}", self.hub.v4())])?;
        let (machine, server) = self.start_server(&node)?;
        let pod = node.pod("client")?;
        let mut client = Client::start(pod.netns(), pod.cgroup())?;
        client.send(&Request::Addresses(self.addresses(kind, n_services)?))?;
        Ok(Target { kind, client, proxy: None, _server: server, _machine: machine, _pod: pod, node })
    }

    /// The endpoints are on one machine, linked to the node as a pod is, with all their addresses. Its process is in
    /// the node's cgroup, where a pod's would be, so that the programs attached there see both sides.
    fn start_server(&self, node: &Node) -> Result<(Pod, (Cgroup, Process))> {
        let machine = node.external("endpoints", FIRST_ENDPOINT, Ipv6Addr::new(0xfd00, 0x250, 0, 0, 0, 0, 0, 2))?;
        let others = &self.endpoints[1..];
        machine.netns().ip(others.iter().map(|address| format!("addr add {address}/32 dev eth0")))?;
        node.netns().ip(others.iter().map(|address| format!("route add {address} via {FIRST_ENDPOINT}")))?;
        let cgroup = node.cgroup().child("endpoints")?;
        let process = start_server(machine.netns(), &cgroup, &self.endpoints)?;
        Ok((machine, (cgroup, process)))
    }

    fn addresses(&self, kind: Kind, n_services: usize) -> Result<Vec<SocketAddr>> {
        if kind.has_proxy() {
            return (0..n_services).map(|n| Ok(SocketAddr::new(cluster_ip(n)?.into(), SERVICE_PORT))).collect();
        }
        Ok(self.endpoints.iter().map(|&address| SocketAddr::new(address, ENDPOINT_PORTS[0])).collect())
    }
}

/// A node with one way from client to endpoints. Dropped, its processes are killed before its namespaces go.
pub(crate) struct Target {
    pub(crate) kind: Kind,
    pub(crate) client: Client,
    proxy: Option<Proxy>,
    _server: (Cgroup, Process),
    _machine: Pod,
    _pod: Pod,
    node: Node,
}

impl Target {
    /// Starts the proxy; does not wait for anything.
    pub(crate) fn start_proxy(&mut self, control_plane: &ControlPlane) -> Result<()> {
        if matches!(self.kind, Kind::Nftables | Kind::Iptables) {
            // It waits for the Node object and its address.
            Kubelet::register(&self.node, control_plane.admin())?;
        }
        self.proxy = Proxy::start(self.kind, &self.node, control_plane, |spec| spec)?;
        Ok(())
    }

    /// The agent, if that is the proxy.
    pub(crate) fn agent(&self) -> Option<&Agent> {
        self.proxy.as_ref()?.agent()
    }

    /// What the maps of the agent's installation take of the kernel's memory, MiB; none without such maps.
    pub(crate) fn maps_mib(&self) -> Result<Option<f64>> {
        self.agent().map(|_| maps_mib(&self.node)).transpose()
    }

    /// The proxy's process.
    pub(crate) fn proxy(&self) -> Option<&Process> {
        self.proxy.as_ref().map(Proxy::process)
    }

    /// What the proxy has used so far.
    pub(crate) fn usage(&self) -> Result<Option<Usage>> {
        self.proxy.as_ref().map(Proxy::usage).transpose()
    }
}
