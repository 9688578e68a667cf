//! Pods, nodes and overlays carry traffic of every kind that the other tests rely on.

use anyhow::Result;
use lb_tests::{
    Layout, Node, Pod,
    guest::{Proto, Target, Traffic, errno},
    overlay::{Underlay, flannel},
};

const EVERY_TRAFFIC: [Traffic; 3] = [Traffic::Tcp, Traffic::UdpConnected, Traffic::UdpUnconnected];

/// Serves at 8080 in `server` and asks it from `client`, by every traffic and kind of address.
fn assert_reaches(client: &Pod, server: &Pod) -> Result<()> {
    let serving = server.guest()?;
    serving.serve(server.name(), Proto::Tcp, 8080)?;
    serving.serve(server.name(), Proto::Udp, 8080)?;
    let asking = client.guest()?;
    for traffic in EVERY_TRAFFIC {
        let targets = [server.at4(8080).into(), server.at6(8080).into(), Target::v4_in_v6(server.at4(8080))];
        for target in targets {
            assert_eq!(asking.ask(traffic, target)?, server.name(), "{traffic:?} to {target:?}");
        }
    }
    Ok(())
}

#[test]
fn pods_with_point_to_point_links_reach_each_other_and_themselves() -> Result<()> {
    let node = Node::new("node")?;
    let (a, b) = (node.pod("a")?, node.pod("b")?);
    assert_reaches(&a, &b)?;
    assert_reaches(&a, &a)
}

#[test]
fn pods_on_a_bridge_reach_each_other() -> Result<()> {
    let node = Node::with("node", 1, Layout::Bridge)?;
    let (a, b) = (node.pod("a")?, node.pod("b")?);
    assert_reaches(&a, &b)
}

#[test]
fn pods_on_two_nodes_reach_each_other_over_the_overlay() -> Result<()> {
    let underlay = Underlay::new()?;
    let nodes = [Node::with("one", 1, Layout::Bridge)?, Node::with("two", 2, Layout::Bridge)?];
    for node in &nodes {
        underlay.join(node)?;
    }
    flannel(&[&nodes[0], &nodes[1]])?;
    assert_reaches(&nodes[0].pod("a")?, &nodes[1].pod("b")?)
}

#[test]
fn a_node_reaches_its_pods_and_an_external_machine() -> Result<()> {
    let node = Node::new("node")?;
    let external = node.external("database", [10, 124, 142, 43].into(), "fd00:124::43".parse()?)?;
    for server in [node.pod("a")?, external] {
        let serving = server.guest()?;
        serving.serve(server.name(), Proto::Tcp, 80)?;
        let asking = node.host_process("client")?;
        assert_eq!(asking.ask(Traffic::Tcp, server.at4(80))?, server.name());
        assert_eq!(asking.ask(Traffic::Tcp, server.at6(80))?, server.name());
    }
    Ok(())
}

#[test]
fn a_guest_reports_the_errno_of_a_refused_connection() -> Result<()> {
    let node = Node::new("node")?;
    let (a, b) = (node.pod("a")?, node.pod("b")?);
    let error = a.guest()?.tcp(b.at4(8080)).map(|_| ()).unwrap_err();
    assert_eq!(errno(&error), "ECONNREFUSED", "{error:#}");
    Ok(())
}
