//! What the tests start from: a machine outside, a router, two nodes with their agents and two pods each, and a Service
//! `web` that is reached at a NodePort of node `one`, and at an external IP, a load balancer's IP and its ClusterIP, which the
//! router sends there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use lb_tests::{
    Agent, AgentSpec, Between, Guest, Layout, Manifests, NetNs, Node, Outside, Pod, Site, Source, TunLink, Uplink,
    eventually,
    guest::{Proto, Traffic},
    manifests::Service,
    overlay::Underlay,
    poll::PATIENCE,
};
use serde_json::json;

/// Every way to talk to a Service.
pub(crate) const EVERY_TRAFFIC: [Traffic; 3] = [Traffic::Tcp, Traffic::UdpConnected, Traffic::UdpUnconnected];

/// Both layouts of pods, with checksums left to devices that never compute them, and with checksums in each packet.
pub(crate) const VARIANTS: [(Layout, Offload); 4] = [
    (Layout::PointToPoint, Offload::On),
    (Layout::PointToPoint, Offload::Off),
    (Layout::Bridge, Offload::On),
    (Layout::Bridge, Offload::Off),
];

/// The port of `web` at its addresses, at the node, and at its pods.
pub(crate) const PORT: u16 = 80;
pub(crate) const NODE_PORT: u16 = 30080;
pub(crate) const POD_PORT: u16 = 8080;

/// Addresses of `web`.
pub(crate) const CLUSTER: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x10))];
pub(crate) const EXTERNAL: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xe, 0, 0, 0, 0, 0x10))];
const INGRESS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 80)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xe, 0, 0, 0, 0, 0x80))];

/// Who computes the checksums of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offload {
    /// Nobody: devices are taken to do it, and packets grow to 64 KiB on the way.
    On,
    /// The sender, for every packet.
    Off,
}

/// Which world.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup<'a> {
    pub(crate) layout: Layout,
    pub(crate) offload: Offload,
    pub(crate) uplink: Uplink,
    /// `--devices` of the agents.
    pub(crate) devices: &'a str,
    /// Further flags of the agents.
    pub(crate) flags: &'a [&'a str],
}

/// Programs are on the uplinks, and on the devices of pods as well.
impl Default for Setup<'_> {
    fn default() -> Self {
        Self {
            layout: Layout::PointToPoint,
            offload: Offload::On,
            uplink: Uplink::Ethernet,
            devices: "auto",
            flags: &["--pod-devices", "cni0,veth*"],
        }
    }
}

/// Dropped from top to bottom: who uses something goes before it.
pub(crate) struct World {
    /// Of `one` and of `two`.
    pub(crate) agents: Vec<Agent>,
    /// A process on the machine outside.
    pub(crate) client: Guest,
    _servers: Vec<Guest>,
    /// `a1` and `a2` on node `one`, `b1` and `b2` on node `two`.
    pub(crate) pods: Vec<Pod>,
    /// A pod on node `one` whose processes no socket hook sees.
    pub(crate) vm: Pod,
    pub(crate) manifests: Manifests,
    pub(crate) outside: Outside,
    /// `one` and `two`.
    pub(crate) nodes: Vec<Node>,
    pub(crate) underlay: Underlay,
    _tun: Option<TunLink>,
}

impl World {
    /// With programs on the uplinks, and on the devices of pods as well.
    pub(crate) fn new(layout: Layout, offload: Offload) -> Result<Self> {
        Self::build(&Setup { layout, offload, ..Setup::default() })
    }

    /// With other flags of the agents.
    pub(crate) fn with(layout: Layout, offload: Offload, flags: &[&str]) -> Result<Self> {
        Self::build(&Setup { layout, offload, flags, ..Setup::default() })
    }

    /// `web` has all four pods at first.
    pub(crate) fn build(setup: &Setup<'_>) -> Result<Self> {
        let Setup { layout, offload, uplink, devices, flags } = *setup;
        let Site { outside, nodes, underlay, tun } = Site::with(layout, Between::Vxlan, uplink)?;
        for ip in CLUSTER.into_iter().chain(EXTERNAL).chain(INGRESS) {
            outside.announce(ip, &nodes[0])?;
        }
        let pods = [("a1", 0), ("a2", 0), ("b1", 1), ("b2", 1)];
        let pods = pods.into_iter().map(|(name, node)| nodes[node].pod(name)).collect::<Result<Vec<Pod>>>()?;
        let vm = nodes[0].pod_without_hook("vm")?;
        if offload == Offload::Off {
            let machines = [outside.machine(), outside.router(), nodes[0].netns(), nodes[1].netns()];
            for netns in machines.into_iter().chain(pods.iter().chain([&vm]).map(Pod::netns)) {
                without_offload(netns)?;
            }
        }
        let servers = pods.iter().map(|pod| pod.serve(POD_PORT)).collect::<Result<Vec<_>>>()?;
        let manifests = Manifests::new()?;
        manifests.write("web", &[&web(&pods.iter().collect::<Vec<_>>())])?;
        let start = |node: &Node| -> Result<Agent> {
            let spec = AgentSpec::new(Source::Manifests(manifests.path().to_owned())).on_devices(devices);
            let flags = ["--nodeport-addresses", "172.18.0.0/24,fd00:172:18::/64"].iter().chain(flags);
            let mut agent = node.start_agent_with(AgentSpec { args: flags.map(Into::into).collect(), ..spec })?;
            agent.wait_ready()?;
            Ok(agent)
        };
        let agents = nodes.iter().map(start).collect::<Result<Vec<_>>>()?;
        let client = outside.guest()?;
        Ok(Self { agents, client, _servers: servers, pods, vm, manifests, outside, nodes, underlay, _tun: tun })
    }

    /// Node `one`'s addresses with the NodePort.
    pub(crate) fn node_port(&self) -> [SocketAddr; 2] {
        let node = &self.nodes[0];
        [IpAddr::V4(node.v4()), IpAddr::V6(node.v6())].map(|ip| SocketAddr::new(ip, NODE_PORT))
    }

    /// All addresses that the router sends to node `one`, with the ports of `web`.
    pub(crate) fn frontends(&self) -> Vec<SocketAddr> {
        let others = CLUSTER.into_iter().chain(EXTERNAL).chain(INGRESS).map(|ip| SocketAddr::new(ip, PORT));
        self.node_port().into_iter().chain(others).collect()
    }

    /// Gives `web` these pods (by index) and no others, and waits until it is answered by all of them and nobody else.
    pub(crate) fn list(&self, indices: &[usize]) -> Result<()> {
        self.publish(indices, |web| web)?;
        let names: Vec<&str> = indices.iter().map(|index| self.pods[*index].name()).collect();
        eventually(&format!("web to be answered by {names:?}"), PATIENCE, || {
            for to in self.frontends() {
                // Of four that are equally likely one is missed once in 3000 times: then they are asked again.
                let met = (0..32).map(|_| self.client.ask(Traffic::Tcp, to).unwrap_or_default());
                let met: Vec<String> = met.collect();
                let of = |name: &&str| met.iter().any(|answer| answer.starts_with(*name));
                let all_known = met.iter().all(|answer| names.iter().any(|name| answer.starts_with(name)));
                if !(all_known && names.iter().all(of)) {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
    }

    /// Gives `web` these pods (by index) and other fields.
    pub(crate) fn publish(&self, indices: &[usize], change: impl FnOnce(Service) -> Service) -> Result<()> {
        let pods: Vec<&Pod> = indices.iter().map(|index| &self.pods[*index]).collect();
        self.manifests.write("web", &[&change(web(&pods))])
    }
}

/// `web` with these endpoints.
fn web(pods: &[&Pod]) -> Service {
    Service::new("web", &CLUSTER)
        .port("http", Proto::Tcp, PORT, POD_PORT)
        .port("datagrams", Proto::Udp, PORT, POD_PORT)
        .node_port(NODE_PORT)
        .ingress(&INGRESS)
        .with(&json!({"externalIPs": EXTERNAL}))
        .to(pods)
}

/// Has every device of the namespace leave checksums to the sender; that turns off segmentation by the device as well.
fn without_offload(netns: &NetNs) -> Result<()> {
    let devices = netns.output("ip", &["-br", "link", "show", "type", "veth"])?;
    for device in devices.lines().filter_map(|line| line.split(['@', ' ']).next()) {
        netns.output("ethtool", &["-K", device, "tx", "off"])?;
    }
    Ok(())
}
