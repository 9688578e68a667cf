//! Workloads that are excluded from the socket layer: what they send leaves them for the Service's own address. Here a machine
//! outside has that address, so that it is seen to arrive.

use std::net::SocketAddr;

use anyhow::Result;
use lb_tests::{
    Agent, AgentSpec, Guest, Manifests, Node, Pod, Source, eventually,
    guest::{HoldSpec, Proto, Target, Traffic},
    poll::PATIENCE,
};

use crate::cluster::{EVERY_TRAFFIC, PORT, WEB4, WEB6, at, every_target, serve, web};

/// Dropped from top to bottom.
struct Rig {
    agent: Agent,
    _witness: Guest,
    _outside: Pod,
    _server: Guest,
    _backend: Pod,
    manifests: Manifests,
    node: Node,
}

impl Rig {
    /// The Service `web` has one backend, `backend`; who asks at its address without translation meets `outside`.
    fn excluding(patterns: &str) -> Result<Self> {
        let node = Node::new("node")?;
        let outside = node.external("outside", [10, 124, 142, 43].into(), "fd00:124::43".parse()?)?;
        outside.netns().ip([format!("addr add {WEB4}/32 dev lo"), format!("addr add {WEB6}/128 dev lo")])?;
        let (v4, v6, device) = (outside.v4(), outside.v6(), outside.device());
        node.netns().ip([
            format!("route add {WEB4} via {v4} dev {device} onlink"),
            format!("route add {WEB6} via {v6} dev {device} onlink"),
        ])?;
        let witness = outside.guest()?;
        for address in [at(WEB4), at(WEB6)] {
            witness.witness("outside", Proto::Tcp, address)?;
            witness.witness("outside", Proto::Udp, address)?;
        }
        let backend = node.pod("backend")?;
        let server = serve(&backend)?;
        let manifests = Manifests::new()?;
        manifests.write("web", &[&web(&[&backend])])?;
        let mut agent = node.start_agent_with(spec(&manifests, patterns))?;
        agent.wait_ready()?;
        Ok(Self { agent, _witness: witness, _outside: outside, _server: server, _backend: backend, manifests, node })
    }
}

fn spec(manifests: &Manifests, patterns: &str) -> AgentSpec {
    let args = ["--socket-lb-exclude", patterns].map(Into::into).to_vec();
    AgentSpec { args, ..AgentSpec::new(Source::Manifests(manifests.path().to_owned())) }
}

/// What the machine outside answers a process of this pod.
fn seen_from(pod: &Pod, target: Target) -> String {
    format!("outside {}", pod.address_like(target.address.ip()))
}

/// Waits until the process's new sockets meet this.
fn wait_for(client: &Guest, target: SocketAddr, answer: &str) -> Result<()> {
    eventually(&format!("{answer:?} at {target}"), PATIENCE, || {
        Ok((client.ask(Traffic::Tcp, target).ok().as_deref() == Some(answer)).then_some(()))
    })
}

#[test]
fn an_excluded_workload_sends_to_the_service_itself_and_others_to_a_backend() -> Result<()> {
    let rig = Rig::excluding("mesh-*")?;
    let (excluded, other) = (rig.node.pod("mesh-1")?, rig.node.pod("plain")?);
    let deep = excluded.cgroup().child("container")?;
    let clients = [excluded.guest()?, Guest::spawn("deep", excluded.netns(), &deep)?];
    for client in &clients {
        wait_for(client, at(WEB4), &seen_from(&excluded, at(WEB4).into()))?;
        for target in every_target() {
            for traffic in EVERY_TRAFFIC {
                assert_eq!(client.ask(traffic, target)?, seen_from(&excluded, target), "{traffic:?} {target:?}");
            }
            let connection = client.tcp(target)?;
            assert_eq!(connection.names()?.peer, Some(target.on_the_socket()));
        }
    }
    let client = other.guest()?;
    for target in every_target() {
        for traffic in EVERY_TRAFFIC {
            assert_eq!(client.ask(traffic, target)?, "backend", "{traffic:?} {target:?}");
        }
    }
    Ok(())
}

#[test]
fn answers_to_an_excluded_socket_are_shown_as_they_come() -> Result<()> {
    let rig = Rig::excluding("mesh-*")?;
    let pod = rig.node.pod("mesh-1")?;
    let client = pod.guest()?;
    wait_for(&client, at(WEB4), &seen_from(&pod, at(WEB4).into()))?;
    for address in [at(WEB4), at(WEB6)] {
        let socket = client.udp(address)?;
        socket.send_to(address)?;
        assert_eq!(socket.receive()?.from, Some(address));
    }
    Ok(())
}

#[test]
fn what_is_excluded_changes_with_the_agents_flags_and_open_sockets_stay_with_their_backend() -> Result<()> {
    let mut rig = Rig::excluding("none")?;
    let pod = rig.node.pod("mesh-1")?;
    let client = pod.guest()?;
    let holds = EVERY_TRAFFIC
        .map(|traffic| client.hold(HoldSpec { traffic, target: at(WEB4).into(), sockets: 4, interval_ms: 20 }));
    assert_eq!(client.ask(Traffic::Tcp, at(WEB4))?, "backend");

    rig.agent.stop()?;
    rig.agent.restart_with(spec(&rig.manifests, "nobody,mesh-*"))?;
    rig.agent.wait_ready()?;
    for target in [at(WEB4), at(WEB6)] {
        assert_eq!(client.ask(Traffic::Tcp, target)?, seen_from(&pod, target.into()), "from the first moment");
    }
    rig.agent.stop()?;
    rig.agent.restart_with(spec(&rig.manifests, "nobody"))?;
    rig.agent.wait_ready()?;
    assert_eq!(client.ask(Traffic::Tcp, at(WEB4))?, "backend");

    for hold in holds {
        let hold = hold?;
        hold.wait_for(3)?;
        let report = hold.stop()?;
        assert!(report.breaks.is_empty() && report.moves.is_empty(), "{report:?}");
    }
    Ok(())
}

#[test]
fn an_excluded_workload_that_no_device_serves_is_told_in_status_and_check() -> Result<()> {
    let rig = Rig::excluding("mesh-*")?;
    let (_, before, _) = rig.agent.cli(&["status"])?;
    assert!(!before.contains("--pod-devices"), "nobody is excluded yet: {before}");
    let pod = rig.node.pod("mesh-1")?;
    let client = pod.guest()?;
    wait_for(&client, SocketAddr::new(WEB4.into(), PORT), &seen_from(&pod, at(WEB4).into()))?;
    eventually("status to tell of it", PATIENCE, || {
        let (_, text, _) = rig.agent.cli(&["status"])?;
        Ok((text.contains("--socket-lb-exclude") && text.contains("--pod-devices")).then_some(()))
    })?;
    let check = |devices: &str| rig.agent.cli(&["check", "--socket-lb-exclude", "mesh-*", "--pod-devices", devices]);
    assert!(check("none")?.1.contains("no device of pods has"));
    assert!(!check("veth*")?.1.contains("no device of pods has"));
    Ok(())
}
