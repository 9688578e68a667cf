//! The agent dies and comes back, or is replaced by another; the node's devices go and come: connections from outside do not
//! notice, or wait.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use lb_tests::{
    AgentSpec, Guest, Layout, Outside, Source, eventually,
    guest::{Hold, HoldSpec, Traffic, UdpSocket, errno},
    poll::PATIENCE,
};

use crate::world::{Offload, Setup, World};

/// Flows of each traffic and family; 200 together.
const EACH: u32 = 50;

pub(crate) struct Flows<'w>(Vec<Hold<'w>>);

impl<'w> Flows<'w> {
    /// From outside, to the NodePort.
    pub(crate) fn open(world: &'w World) -> Result<Self> {
        Self::between(&world.client, world.node_port(), &[Traffic::Tcp, Traffic::UdpConnected])
    }

    pub(crate) fn between(client: &'w Guest, to: [SocketAddr; 2], every: &[Traffic]) -> Result<Self> {
        let mut holds = Vec::new();
        for target in to {
            for &traffic in every {
                let spec = HoldSpec { traffic, target: target.into(), sockets: EACH, interval_ms: 50 };
                holds.push(client.hold(spec)?);
            }
        }
        Ok(Self(holds))
    }

    /// Waits until each has been asked some times more.
    pub(crate) fn look(&self) -> Result<()> {
        self.0.iter().try_for_each(|hold| hold.wait_for(3).map(|_| ()))
    }

    /// Ends them; none broke, and none was answered by another pod than before.
    pub(crate) fn are_unharmed(self) -> Result<()> {
        for hold in self.0 {
            let report = hold.stop()?;
            assert!(report.breaks.is_empty() && report.moves.is_empty(), "{report:?}");
            assert_eq!(report.holders.values().sum::<u64>(), u64::from(EACH));
        }
        Ok(())
    }
}

#[test]
fn none_of_200_flows_breaks_or_moves_when_the_agent_is_killed_and_restarted() -> Result<()> {
    let mut world = World::new(Layout::PointToPoint, Offload::On)?;
    let mut agents = std::mem::take(&mut world.agents);
    let flows = Flows::open(&world)?;
    for _ in 0..2 {
        agents[0].kill9()?;
        flows.look()?;
        agents[0].restart()?;
        agents[0].wait_ready()?;
        flows.look()?;
    }
    flows.are_unharmed()
}

#[test]
fn flows_to_a_pod_that_is_no_endpoint_any_more_but_still_terminates_go_on() -> Result<()> {
    let world = World::new(Layout::Bridge, Offload::On)?;
    world.list(&[0, 2])?;
    let flows = Flows::open(&world)?;
    world.publish(&[1], |web| web.and_terminating(&[&world.pods[0], &world.pods[2]]))?;
    eventually("new connections to go to a2", PATIENCE, || {
        let mut answers = (0..20).map(|_| world.client.ask(Traffic::Tcp, world.node_port()[0]).unwrap_or_default());
        Ok(answers.all(|answer| answer.starts_with("a2 ")).then_some(()))
    })?;
    flows.look()?;
    flows.are_unharmed()
}

#[test]
fn none_of_200_flows_breaks_or_moves_when_an_agent_with_a_larger_table_takes_over() -> Result<()> {
    let mut world = World::new(Layout::PointToPoint, Offload::On)?;
    let mut agents = std::mem::take(&mut world.agents);
    let flows = Flows::open(&world)?;
    agents[0].stop()?;
    flows.look()?;
    // Maps of another size are made anew and filled, and the programs that use them put in the place of the old ones.
    let spec = AgentSpec::new(Source::Manifests(world.manifests.path().to_owned())).on_devices("auto");
    let args = ["--pod-devices", "cni0,veth*", "--nodeport-addresses", "172.18.0.0/24,fd00:172:18::/64"];
    let more = ["--max-connections", "200000", "--max-backends", "1000", "--max-frontends", "1000"];
    let args = args.into_iter().chain(more).map(Into::into).collect();
    agents[0].restart_with(AgentSpec { args, ..spec })?;
    agents[0].wait_ready()?;
    flows.look()?;
    flows.are_unharmed()
}

/// As [`Flows`], where packets may be lost for some seconds: TCP repeats them, and of the rest the test does.
struct Patient<'w> {
    tcp: Vec<Hold<'w>>,
    udp: Vec<(UdpSocket<'w>, String)>,
}

impl<'w> Patient<'w> {
    fn open(world: &'w World) -> Result<Self> {
        let (mut tcp, mut udp) = (Vec::new(), Vec::new());
        for target in world.node_port() {
            let spec = HoldSpec { traffic: Traffic::Tcp, target: target.into(), sockets: EACH, interval_ms: 50 };
            tcp.push(world.client.hold(spec)?);
            for _ in 0..EACH {
                let socket = world.client.udp(target)?;
                socket.connect(target)?;
                socket.send()?;
                let name = socket.receive()?.name;
                udp.push((socket, name));
            }
        }
        Ok(Self { tcp, udp })
    }

    /// Asks each once more; that none broke or moved.
    fn are_unharmed(&self) -> Result<()> {
        for (socket, name) in &self.udp {
            let answer = eventually("an answer to a datagram", PATIENCE, || {
                socket.send()?;
                match socket.receive() {
                    Ok(answer) => Ok(Some(answer.name)),
                    Err(error) if errno(&error) == "EAGAIN" => Ok(None),
                    Err(error) => Err(error),
                }
            })?;
            assert_eq!(answer, *name);
        }
        for hold in &self.tcp {
            let report = hold.wait_for(2)?;
            assert!(report.breaks.is_empty() && report.moves.is_empty(), "{report:?}");
        }
        Ok(())
    }
}

/// Has node `one`'s uplink be made anew, as loading a driver or configuring a bond or VLAN does, and configures it once the
/// programs are on it.
fn remake_the_uplink(world: &World) -> Result<()> {
    let node = &world.nodes[0];
    world.underlay.remake(node)?;
    eventually("the new device to be served, without address and route", PATIENCE, || {
        let (_, status, _) = world.agents[0].cli(&["status"])?;
        let is_served = |line: &str| line.starts_with("eth0 ") && line.contains("was chosen until a moment ago");
        Ok(status.lines().any(is_served).then_some(()))
    })?;
    node.netns().ip([
        "link set eth0 up".to_owned(),
        format!("addr add {}/24 dev eth0", node.v4()),
        format!("addr add {}/64 dev eth0 nodad", node.v6()),
    ])?;
    world.outside.serve(node)
}

#[test]
fn none_of_200_flows_breaks_or_moves_when_the_uplink_is_made_anew() -> Result<()> {
    // Routes to point-to-point pods name the node's address as their source, and go with it.
    let world = World::new(Layout::Bridge, Offload::On)?;
    // Those on the other node hang on the overlay, which goes with the device below it.
    world.list(&[0, 1])?;
    let flows = Patient::open(&world)?;
    for _ in 0..3 {
        remake_the_uplink(&world)?;
        flows.are_unharmed()?;
        for to in world.frontends() {
            world.client.ask(Traffic::Tcp, to)?;
        }
    }
    Ok(())
}

/// Another uplink of node `one`, to the same network.
const SECOND: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(172, 18, 0, 101), Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, 0x101));

/// Gives node `one` a second uplink and leads what goes out by it, then back again.
fn move_the_default_route(world: &World, flows: &Patient<'_>) -> Result<()> {
    let node = world.nodes[0].netns();
    // As must be where two devices are in one network: each answers for its own address.
    node.sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
    world.underlay.plug_in_again(node, SECOND.0, SECOND.1)?;
    flows.are_unharmed()?;
    for device in ["eth1", "eth0"] {
        let (v4, v6) = (Outside::ROUTER4, Outside::ROUTER6);
        node.ip([
            format!("route replace default via {v4} dev {device}"),
            format!("route replace default via {v6} dev {device}"),
        ])?;
        flows.are_unharmed()?;
        let (_, status, _) = world.agents[0].cli(&["status"])?;
        assert!(status.contains(device), "{status}");
    }
    Ok(())
}

#[test]
fn none_of_200_flows_breaks_or_moves_when_the_default_route_moves_to_another_device_that_is_named_too() -> Result<()> {
    let devices = "eth0,eth1,flannel.1,flannel-v6.1";
    let world = World::build(&Setup { devices, flags: &[], ..Setup::default() })?;
    let flows = Patient::open(&world)?;
    move_the_default_route(&world, &flows)
}
