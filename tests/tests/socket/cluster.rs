//! What most tests start from: a node, pods that serve their name, a client, an agent, and a Service `web` in a manifest.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::Result;
use lb_tests::{
    Agent, Guest, Manifests, Node, Pod, eventually,
    guest::{HoldSpec, LoadSpec, Proto, Target, Traffic},
    manifests::Service,
    poll::PATIENCE,
};

/// The addresses of `web`.
pub(crate) const WEB4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
pub(crate) const WEB6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x10);

/// The ports of `web`, for TCP and for UDP alike, and of the pods behind it.
pub(crate) const PORT: u16 = 80;
pub(crate) const POD_PORT: u16 = 8080;

/// Every way to talk to a Service.
pub(crate) const EVERY_TRAFFIC: [Traffic; 3] = [Traffic::Tcp, Traffic::UdpConnected, Traffic::UdpUnconnected];

/// `web` by every family and kind of socket.
pub(crate) fn every_target() -> [Target; 3] {
    [at(WEB4).into(), at(WEB6).into(), Target::v4_in_v6(at(WEB4))]
}

/// An address of `web` with its port.
pub(crate) fn at(ip: impl Into<IpAddr>) -> SocketAddr {
    SocketAddr::new(ip.into(), PORT)
}

/// `web` with these endpoints.
pub(crate) fn web(pods: &[&Pod]) -> Service {
    Service::new("web", &[WEB4.into(), WEB6.into()])
        .port("http", Proto::Tcp, PORT, POD_PORT)
        .port("datagrams", Proto::Udp, PORT, POD_PORT)
        .to(pods)
}

/// Starts a process in the pod that answers with the pod's name at [`POD_PORT`].
pub(crate) fn serve(pod: &Pod) -> Result<Guest> {
    let guest = pod.guest()?;
    guest.serve(pod.name(), Proto::Tcp, POD_PORT)?;
    guest.serve(pod.name(), Proto::Udp, POD_PORT)?;
    Ok(guest)
}

/// Dropped from top to bottom: who uses something goes before it.
pub(crate) struct Cluster {
    pub(crate) agent: Agent,
    pub(crate) client: Guest,
    pub(crate) client_pod: Pod,
    pub(crate) servers: Vec<Guest>,
    pub(crate) pods: Vec<Pod>,
    pub(crate) manifests: Manifests,
    pub(crate) node: Node,
}

impl Cluster {
    /// With `web` served by the pods of these names.
    pub(crate) fn serving(names: &[&str]) -> Result<Self> {
        Self::with(names, names.len())
    }

    /// With pods of these names, of which the first `n_listed` are endpoints of `web`.
    pub(crate) fn with(names: &[&str], n_listed: usize) -> Result<Self> {
        let node = Node::new("node")?;
        let pods = names.iter().map(|name| node.pod(name)).collect::<Result<Vec<_>>>()?;
        let servers = pods.iter().map(serve).collect::<Result<Vec<_>>>()?;
        let manifests = Manifests::new()?;
        let listed: Vec<&Pod> = pods.iter().take(n_listed).collect();
        manifests.write("web", &[&web(&listed)])?;
        let client_pod = node.pod("client")?;
        let client = client_pod.guest()?;
        let mut agent = node.start_agent(manifests.path())?;
        agent.wait_ready()?;
        Ok(Self { agent, client, client_pod, servers, pods, manifests, node })
    }

    /// Lists exactly these pods (by index) as endpoints of `web`, and waits until new connections show it.
    pub(crate) fn list(&self, indices: &[usize]) -> Result<()> {
        let pods: Vec<&Pod> = indices.iter().map(|index| &self.pods[*index]).collect();
        self.manifests.write("web", &[&web(&pods)])?;
        self.wait_until_answered_by(&pods.iter().map(|pod| pod.name()).collect::<Vec<_>>())
    }

    /// Waits until each of these answers, and nobody else.
    pub(crate) fn wait_until_answered_by(&self, names: &[&str]) -> Result<()> {
        let expected: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
        eventually(&format!("web to be answered by {names:?}"), PATIENCE, || {
            Ok((self.answers(Traffic::Tcp, at(WEB4).into())? == expected).then_some(()))
        })
    }

    /// Who answers 40 questions on new sockets. One of three equal backends is missed with a chance of 3 (2/3)^40,
    /// once in 4 million; so this also tells who does not serve.
    pub(crate) fn answers(&self, traffic: Traffic, target: Target) -> Result<BTreeSet<String>> {
        (0..40).map(|_| self.client.ask(traffic, target)).collect()
    }
}

/// Load of a hundred new sockets per second, by two threads: several loads together leave the machine some air.
pub(crate) fn load(traffic: Traffic, target: impl Into<Target>) -> LoadSpec {
    LoadSpec { traffic, target: target.into(), per_second: 100, threads: 2 }
}

/// Some sockets that are kept and asked all the time.
pub(crate) fn hold(traffic: Traffic, target: impl Into<Target>) -> HoldSpec {
    HoldSpec { traffic, target: target.into(), sockets: 8, interval_ms: 20 }
}
