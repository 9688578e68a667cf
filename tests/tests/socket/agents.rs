//! One node's agents among themselves: a new one takes over what the old one pinned, and never two at a time.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use crate::cluster::{Cluster, WEB4, at};
use lb_tests::{AgentSpec, BindMount, Manifests, Node, Source, bpftool, guest::Traffic};

const PROGRAMS: [&str; 10] = [
    "lb_connect4",
    "lb_connect6",
    "lb_sendmsg4",
    "lb_sendmsg6",
    "lb_recvmsg4",
    "lb_recvmsg6",
    "lb_getpeer4",
    "lb_getpeer6",
    "lb_bind4",
    "lb_bind6",
];

#[test]
fn a_new_agent_replaces_the_programs_in_their_links() -> Result<()> {
    let mut cluster = Cluster::serving(&["a"])?;
    let before = links(&cluster.node)?;
    cluster.agent.stop()?;
    assert_eq!(links(&cluster.node)?, before, "programs stay when the agent goes");
    cluster.agent.restart()?;
    cluster.agent.wait_ready()?;
    let after = links(&cluster.node)?;
    for (program, link) in &before {
        assert_eq!(after[program].id, link.id, "{program} was detached and attached anew");
        assert_ne!(after[program].program_id, link.program_id, "{program} is still the old one");
    }
    assert_eq!(cluster.client.ask(Traffic::Tcp, at(WEB4))?, "a");
    Ok(())
}

#[test]
fn a_second_agent_on_a_node_is_refused_and_names_the_first() -> Result<()> {
    let cluster = Cluster::serving(&["a"])?;
    let mut second = cluster.node.start_agent(cluster.manifests.path())?;
    let status = second.wait_exit()?;
    assert!(!status.success(), "{status}");
    let (log, first) = (second.process().log()?, cluster.agent.process().pid().to_string());
    assert!(log.contains(&first), "the log does not name the pid {first}:\n{log}");
    assert_eq!(cluster.agent.healthz()?, Some(200));
    assert_eq!(cluster.client.ask(Traffic::Tcp, at(WEB4))?, "a");
    Ok(())
}

#[test]
fn an_agent_knows_that_it_is_below_its_root_by_whatever_path_it_is_given() -> Result<()> {
    let node = Node::new("bind")?;
    let manifests = Manifests::new()?;
    // Read-only, so that it cannot make a cgroup to test its programs in, and has to do it itself.
    let root = BindMount::read_only(node.cgroup().path())?;
    let source = Source::Manifests(manifests.path().to_owned());
    let spec = AgentSpec { cgroup_root: Some(root.path().to_owned()), ..AgentSpec::new(source) };
    node.start_agent_with(spec)?.wait_ready()
}

#[derive(Debug, PartialEq, Eq)]
struct Link {
    id: u64,
    program_id: u64,
}

/// The pinned links of a node's agent, by program name.
fn links(node: &Node) -> Result<BTreeMap<&'static str, Link>> {
    let link = |name| {
        let pin = node.bpffs().path().join("lb/links").join(name);
        let link = bpftool::shown(&[&"link", &"show", &"pinned", &pin])?;
        let number = |field: &str| link[field].as_u64().with_context(|| format!("no {field} in {link}"));
        Ok((name, Link { id: number("id")?, program_id: number("prog_id")? }))
    };
    PROGRAMS.into_iter().map(link).collect()
}
