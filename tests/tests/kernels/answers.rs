//! The real agent serves by both layers: ClusterIPs at the sockets of a pod, NodePorts to a machine outside.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context as _, Result};
use lb_tests::{
    Agent, AgentSpec, Between, Guest, Layout, Manifests, Outside, Pod, Site, Source, Uplink,
    guest::{Proto, Traffic, errno},
    manifests::Service,
};

use crate::alone;

const CLUSTER: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x10))];
const PORT: u16 = 80;
const NODE_PORT: u16 = 30080;
const POD_PORT: u16 = 8080;
/// Of a Service without endpoints.
const EMPTY: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 96, 0, 11)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x11))];
const EMPTY_NODE_PORT: u16 = 30081;

const EVERY_TRAFFIC: [Traffic; 3] = [Traffic::Tcp, Traffic::UdpConnected, Traffic::UdpUnconnected];

/// A node with an agent and a pod `near`, another without, whose pod `far` is reached by vxlan, and a machine outside.
/// Dropped from top to bottom: who uses something goes before it.
struct World {
    agent: Agent,
    /// In a pod whose sockets have the hooks.
    inside: Guest,
    /// On the machine outside.
    outside: Guest,
    _servers: Vec<Guest>,
    near: Pod,
    _pods: [Pod; 2],
    _manifests: Manifests,
    site: Site,
}

impl World {
    fn new(uplink: Uplink) -> Result<Self> {
        let site = Site::with(Layout::PointToPoint, Between::Vxlan, uplink)?;
        let [one, two] = [&site.nodes[0], &site.nodes[1]];
        let (near, far, client) = (one.pod("near")?, two.pod("far")?, one.pod("client")?);
        let servers = vec![near.serve(POD_PORT)?, far.serve(POD_PORT)?];
        let manifests = Manifests::new()?;
        let service = |name, addresses, node_port| {
            Service::new(name, addresses)
                .port("tcp", Proto::Tcp, PORT, POD_PORT)
                .port("udp", Proto::Udp, PORT, POD_PORT)
                .node_port(node_port)
        };
        let web = service("web", &CLUSTER, NODE_PORT).to(&[&near, &far]);
        manifests.write("web", &[&web, &service("empty", &EMPTY, EMPTY_NODE_PORT).to(&[])])?;
        let spec = AgentSpec::new(Source::Manifests(manifests.path().to_owned())).on_devices("auto");
        let mut agent = one.start_agent_with(spec)?;
        agent.wait_ready()?;
        let (inside, outside) = (client.guest()?, site.outside.guest()?);
        let (_pods, _servers) = ([far, client], servers);
        Ok(Self { agent, inside, outside, _servers, near, _pods, _manifests: manifests, site })
    }

    fn on_the_node(&self, port: u16) -> [SocketAddr; 2] {
        let node = &self.site.nodes[0];
        [IpAddr::V4(node.v4()), IpAddr::V6(node.v6())].map(|ip| SocketAddr::new(ip, port))
    }

    /// Everything that is asked of every kernel.
    fn look(&self) -> Result<()> {
        for to in CLUSTER.map(|ip| SocketAddr::new(ip, PORT)) {
            for traffic in EVERY_TRAFFIC {
                let names: BTreeSet<String> =
                    answers(&self.inside, traffic, to)?.into_iter().map(|(name, _)| name).collect();
                assert_eq!(names, BTreeSet::from(["far".to_owned(), "near".to_owned()]), "{traffic:?} to {to}");
            }
        }
        for to in self.on_the_node(NODE_PORT) {
            for traffic in EVERY_TRAFFIC {
                let met = answers(&self.outside, traffic, to)?;
                let client = if to.is_ipv4() { IpAddr::V4(Outside::V4) } else { Outside::V6.into() };
                let node = &self.site.nodes[0];
                let overlay = if to.is_ipv4() { IpAddr::V4(node.pod_v4(0)) } else { node.pod_v6(0).into() };
                let expected = BTreeSet::from([("near".to_owned(), client), ("far".to_owned(), overlay)]);
                assert_eq!(met, expected, "{traffic:?} to {to}");
            }
        }
        self.refusals()
    }

    fn refusals(&self) -> Result<()> {
        let inside = EMPTY.map(|ip| (&self.inside, SocketAddr::new(ip, PORT)));
        let unknown_port = CLUSTER.map(|ip| (&self.inside, SocketAddr::new(ip, PORT + 1)));
        let outside = self.on_the_node(EMPTY_NODE_PORT).map(|to| (&self.outside, to));
        for (client, to) in inside.into_iter().chain(unknown_port).chain(outside) {
            let refusal = client.ask(Traffic::Tcp, to).err().with_context(|| format!("nobody serves {to}"))?;
            assert_eq!(errno(&refusal), "ECONNREFUSED", "{to}");
        }
        for to in self.on_the_node(EMPTY_NODE_PORT) {
            let refusal = self.outside.ask(Traffic::UdpConnected, to).err();
            let refusal = refusal.with_context(|| format!("nobody serves {to}"))?;
            assert_eq!(errno(&refusal), "ECONNREFUSED", "a datagram to {to}");
        }
        Ok(())
    }
}

/// Who answers, and as whom they see the asker. One of two equal backends is missed with a chance of 2^-31.
fn answers(client: &Guest, traffic: Traffic, to: SocketAddr) -> Result<BTreeSet<(String, IpAddr)>> {
    let one = || -> Result<(String, IpAddr)> {
        let answer = client.ask(traffic, to).with_context(|| format!("{traffic:?} to {to}"))?;
        let (name, source) = answer.split_once(' ').context("no source in the answer")?;
        Ok((name.to_owned(), source.parse()?))
    };
    (0..32).map(|_| one()).collect()
}

#[test]
fn services_answer_and_refuse_by_both_layers_and_go_on_when_the_agent_is_killed_and_started_anew() -> Result<()> {
    let _alone = alone();
    let mut world = World::new(Uplink::Ethernet)?;
    println!("{}", world.agent.process().log()?);
    world.look()?;
    world.agent.kill9()?;
    world.look()?;
    world.agent.restart()?;
    world.agent.wait_ready()?;
    world.look()?;
    let (status, text, errors) = world.agent.cli(&["status"])?;
    println!("{text}{errors}");
    assert!(status.success(), "status: {status}");
    let near = world.outside.tcp(world.on_the_node(NODE_PORT)[0])?;
    near.ask()?;
    let (_, text, _) = world.agent.cli(&["connections"])?;
    assert!(text.contains(&Outside::V4.to_string()), "the connection that was just made, among:\n{text}");
    assert!(world.near.device().starts_with("veth"));
    Ok(())
}

#[test]
#[ignore = "not every machine's kernel has VLAN devices; those of `cargo xtask kernels` have, which runs this"]
fn services_answer_and_refuse_where_the_uplink_is_a_vlan_device() -> Result<()> {
    let _alone = alone();
    let world = World::new(Uplink::Vlan)?;
    println!("{}", world.agent.process().log()?);
    world.look()
}
