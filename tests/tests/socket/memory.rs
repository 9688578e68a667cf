//! Whose memory it is that sockets take in the agent's maps.

use anyhow::Result;
use lb_tests::{
    AgentSpec, Cgroup, Manifests, Node, Source,
    guest::{HoldSpec, Traffic},
};

use crate::cluster::{WEB4, at, serve, web};

const SOCKETS: u64 = 900;
/// What a socket's storage takes at the very least: the kernel's own two structures have more than that.
const BYTES: u64 = 200;

#[test]
fn what_sockets_keep_in_maps_is_not_charged_to_the_agents_memory_cgroup() -> Result<()> {
    let node = Node::new("node")?;
    let pod = node.pod("a")?;
    let _server = serve(&pod)?;
    let manifests = Manifests::new()?;
    manifests.write("web", &[&web(&[&pod])])?;
    let client_pod = node.pod("client")?;
    let client = client_pod.guest()?;
    let memory = Cgroup::of_memory("agent")?;
    let spec = AgentSpec::new(Source::Manifests(manifests.path().to_owned()));
    let mut agent = node.start_agent_with(AgentSpec { memory_cgroup: Some(memory.path().to_owned()), ..spec })?;
    agent.wait_ready()?;
    let before = memory.kernel_memory()?;
    let traffic = Traffic::UdpConnected;
    let target = at(WEB4).into();
    let held = client.hold(HoldSpec { traffic, target, sockets: SOCKETS.try_into()?, interval_ms: 2_000 })?;
    let grown = memory.kernel_memory()?.saturating_sub(before);
    assert!(grown < SOCKETS * BYTES / 2, "{grown} bytes for {SOCKETS} sockets");
    assert_eq!(held.stop()?.breaks, Vec::<String>::new());
    Ok(())
}
