//! Several nodes on one kernel, each with an agent of its own.

use std::collections::BTreeSet;

use anyhow::Result;
use lb_tests::{
    Agent, Guest, Layout, Manifests, Node, Pod,
    guest::Traffic,
    overlay::{Underlay, flannel},
};

use crate::cluster::{EVERY_TRAFFIC, WEB4, at, every_target, serve, web};

#[test]
fn two_agents_on_two_nodes_do_not_disturb_each_other() -> Result<()> {
    let mut clusters = ["one", "two"].map(|name| crate::cluster::Cluster::serving(&[name]));
    let [Ok(one), Ok(two)] = &mut clusters else {
        anyhow::bail!("cannot start two clusters: {:?}", clusters.map(|cluster| cluster.err()))
    };
    assert_eq!(one.client.ask(Traffic::Tcp, at(WEB4))?, "one");
    assert_eq!(two.client.ask(Traffic::Tcp, at(WEB4))?, "two");
    two.agent.stop()?;
    two.manifests.write("web", &[&web(&[])])?;
    one.list(&[0])?;
    assert_eq!(one.agent.healthz()?, Some(200));
    assert_eq!(two.client.ask(Traffic::Tcp, at(WEB4))?, "two");
    Ok(())
}

/// Two nodes with the same Service, linked by an overlay. Dropped from top to bottom.
struct TwoNodes {
    _agents: Vec<Agent>,
    clients: Vec<Guest>,
    _client_pods: Vec<Pod>,
    _servers: Vec<Guest>,
    _pods: Vec<Pod>,
    _manifests: Manifests,
    _nodes: Vec<Node>,
    _underlay: Underlay,
}

impl TwoNodes {
    fn new() -> Result<Self> {
        let underlay = Underlay::new()?;
        let nodes = vec![Node::with("one", 1, Layout::Bridge)?, Node::with("two", 2, Layout::Bridge)?];
        for node in &nodes {
            underlay.join(node)?;
        }
        flannel(&[&nodes[0], &nodes[1]])?;
        let pods = vec![nodes[0].pod("on-one")?, nodes[1].pod("on-two")?];
        let servers = pods.iter().map(serve).collect::<Result<Vec<_>>>()?;
        let manifests = Manifests::new()?;
        manifests.write("web", &[&web(&[&pods[0], &pods[1]])])?;
        let client_pods = nodes.iter().map(|node| node.pod("client")).collect::<Result<Vec<_>>>()?;
        let clients = client_pods.iter().map(Pod::guest).collect::<Result<Vec<_>>>()?;
        let mut agents = nodes.iter().map(|node| node.start_agent(manifests.path())).collect::<Result<Vec<_>>>()?;
        for agent in &mut agents {
            agent.wait_ready()?;
        }
        Ok(Self {
            _agents: agents,
            clients,
            _client_pods: client_pods,
            _servers: servers,
            _pods: pods,
            _manifests: manifests,
            _nodes: nodes,
            _underlay: underlay,
        })
    }
}

#[test]
fn pods_on_both_nodes_reach_a_service_on_both_nodes_over_the_overlay() -> Result<()> {
    let nodes = TwoNodes::new()?;
    let both = BTreeSet::from(["on-one", "on-two"].map(String::from));
    for client in &nodes.clients {
        for traffic in EVERY_TRAFFIC {
            for target in every_target() {
                let answers = (0..40).map(|_| client.ask(traffic, target)).collect::<Result<BTreeSet<_>>>()?;
                assert_eq!(answers, both, "{traffic:?} to {target:?}");
            }
        }
    }
    Ok(())
}
