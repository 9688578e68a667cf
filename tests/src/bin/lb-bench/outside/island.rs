//! One target: two nodes of its own with a pod each, a client on a machine behind a router, and the proxy on the node that is
//! asked. All islands have the same names and addresses, so that they read the same objects.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result};
use lb_common::abi::maps;
use lb_tests::{Agent, AgentSpec, Between, ControlPlane, Kubelet, Layout, Node, Outside, Pod, Process, Site};

use super::objects::{Place, endpoint_port, node_ports};
use crate::{
    figure::Figure,
    protocol::{Request, now_ns},
    proxy::{Kind, Proxy, maps_mib},
    remote::{Client, start_server},
    usage::Usage,
};

/// The node that the control plane is linked to.
const HUB: u8 = 100;

/// The agent's default.
const ROOM_FOR_FLOWS: u32 = maps::N_CONNS / 2;

/// The control plane of all islands.
pub(super) struct Mainland {
    pub(super) control_plane: ControlPlane,
    hub: Node,
}

impl Mainland {
    pub(super) fn new() -> Result<Self> {
        let hub = Node::with("hub", HUB, Layout::PointToPoint)?;
        Ok(Self { control_plane: ControlPlane::start_without_controllers(&hub)?, hub })
    }
}

/// A target. Dropped, its processes are killed before its namespaces go.
pub(super) struct Island {
    pub(super) kind: Kind,
    pub(super) client: Client,
    proxy: Option<Proxy>,
    _servers: Vec<Process>,
    /// By place.
    pods: [Pod; 2],
    site: Site,
}

impl Island {
    /// Without its proxy. `number` tells islands apart on their way to the control plane.
    pub(super) fn new(mainland: &Mainland, kind: Kind, number: u8) -> Result<Self> {
        let site = Site::new(Layout::PointToPoint, Between::Routes)?;
        let one = &site.nodes[0];
        mainland.control_plane.link(&mainland.hub, one, number)?;
        let pods = [one.pod("local")?, site.nodes[1].pod("remote")?];
        for pod in &pods {
            site.outside.announce(pod.v4().into(), one)?;
        }
        let start = |pod: &Pod| start_server(pod.netns(), pod.cgroup(), &[pod.v4().into()]);
        let servers = pods.iter().map(start).collect::<Result<Vec<_>>>()?;
        let client = Client::start(site.outside.machine(), site.outside.cgroup())?;
        Ok(Self { kind, client, proxy: None, _servers: servers, pods, site })
    }

    /// Makes the Node object that kube-proxy waits for; it stands for the same node of every island.
    pub(super) fn register(&self, mainland: &Mainland) -> Result<()> {
        Kubelet::register(self.node(), mainland.control_plane.admin()).map(|_| ())
    }

    /// The endpoints by place, with the names of their nodes.
    pub(super) fn endpoints(&self) -> Result<[(IpAddr, &str); 2]> {
        let [local, remote] = &self.pods;
        let of = |pod: &Pod| -> Result<IpAddr> { Ok(pod.v4().into()) };
        Ok([
            (of(local)?, local.node().context("a pod without a node")?),
            (of(remote)?, remote.node().context("a pod without a node")?),
        ])
    }

    /// The node that is asked.
    pub(super) fn node(&self) -> &Node {
        &self.site.nodes[0]
    }

    pub(super) fn outside(&self) -> &Outside {
        &self.site.outside
    }

    pub(super) fn pod(&self, place: Place) -> &Pod {
        place.of_pair(&self.pods)
    }

    /// Starts the proxy in the place of one that ran before; the agent's table has room for so many flows beside those that
    /// are made here. The time until all Services were reachable, if there is a proxy.
    pub(super) fn start(&mut self, mainland: &Mainland, n_services: usize, n_flows: u32) -> Result<Option<Duration>> {
        self.stop();
        let start = now_ns()?;
        let pods = if self.kind == Kind::AgentOnPods { "veth*" } else { "none" };
        let room = (n_flows + ROOM_FOR_FLOWS).to_string();
        let args = ["--pod-devices", pods, "--max-connections", &room].map(Into::into);
        let flags = |spec: AgentSpec| AgentSpec { args: args.to_vec(), ..spec.on_devices("auto") };
        self.proxy = Proxy::start(self.kind, self.node(), &mainland.control_plane, flags)?;
        let mut last = start;
        for place in Place::ALL {
            for figure in [Figure::TcpRequestResponse, Figure::BulkUp] {
                self.aim(place, figure, n_services)?;
                last = self.client.wait(&Request::WaitForAll)?;
            }
        }
        if let Some(Proxy::Agent(agent)) = &mut self.proxy {
            // The programs of the agent before it answered meanwhile. Who begins while a table gets another size is forgotten.
            agent.wait_ready()?;
            if self.kind == Kind::AgentOnPods {
                agent.wait_gone_past(&[self.pods[0].device()])?;
            }
        }
        Ok(self.kind.has_proxy().then(|| Duration::from_nanos(last.saturating_sub(start))))
    }

    /// Ends the proxy, if one runs.
    pub(super) fn stop(&mut self) {
        self.proxy = None;
    }

    /// Measures a block: the time of one operation, in nanoseconds.
    pub(super) fn block(&mut self, place: Place, figure: Figure, n_services: usize, first: usize) -> Result<u64> {
        self.aim(place, figure, n_services)?;
        self.client.block(&Request::Block { figure, ops: figure.ops(), first, among: usize::MAX })
    }

    /// Tells the client where to.
    fn aim(&mut self, place: Place, figure: Figure, n_services: usize) -> Result<()> {
        let addresses = if self.kind.has_proxy() {
            node_ports(self.node().v4().into(), place, figure, n_services)?
        } else {
            vec![SocketAddr::new(self.pod(place).v4().into(), endpoint_port(figure))]
        };
        self.client.send(&Request::Addresses(addresses))
    }

    /// The agent, if that is the proxy.
    pub(super) fn agent(&self) -> Option<&Agent> {
        self.proxy.as_ref()?.agent()
    }

    /// What the proxy has used so far.
    pub(super) fn usage(&self) -> Result<Option<Usage>> {
        self.proxy.as_ref().map(Proxy::usage).transpose()
    }

    /// What the maps of the agent's installation take, MiB.
    pub(super) fn maps_mib(&self) -> Result<Option<f64>> {
        self.agent().map(|_| maps_mib(self.node())).transpose()
    }
}
