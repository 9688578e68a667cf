//! What is wrong is said in one line, with an exit status to act upon, and costs nothing that works.

use std::process::Command;

use anyhow::{Context as _, Result};
use lb_tests::{
    AgentSpec, Manifests, Node, Source, eventually, guest::Traffic, manifests::Service, poll::PATIENCE, run,
};

use crate::cluster::{Cluster, POD_PORT, WEB4, at, web};

/// Runs the agent on the node to its end, which is expected to come at once: exit status and stderr.
fn run_agent(node: &Node, wrapper: &[&str], args: &[&str]) -> Result<(Option<i32>, String)> {
    let agent = run::binary("lb-agent", "LB_AGENT_BIN")?;
    let agent = agent.to_str().context("the path is not a text")?;
    let words = [wrapper, &[agent, "run", "--node-name", "n"], args].concat();
    let (program, rest) = words.split_first().context("no program")?;
    let mut command = Command::new(program);
    command.args(rest);
    node.netns().enter(&mut command);
    node.cgroup().enter(&mut command)?;
    let mut agent = lb_tests::Process::spawn("lb-agent-bad", command)?;
    let status = agent.wait(PATIENCE)?;
    Ok((status.code(), agent.log()?))
}

/// The last line must name what is wrong.
fn assert_says(outcome: (Option<i32>, String), status: i32, words: &[&str]) {
    let (code, log) = outcome;
    let last = log.lines().last().unwrap_or_default();
    assert!(words.iter().all(|word| last.contains(word)), "the last line does not say {words:?}:\n{log}");
    assert_eq!(code, Some(status), "{log}");
}

/// The arguments that name a node's places, with one replaced.
struct Places {
    cgroup: String,
    bpffs: String,
    manifests: String,
}

impl Places {
    fn of(node: &Node, manifests: &Manifests) -> Result<Self> {
        let text = |path: &std::path::Path| path.to_str().map(str::to_owned).context("the path is not a text");
        Ok(Self {
            cgroup: text(node.cgroup().path())?,
            bpffs: text(node.bpffs().path())?,
            manifests: text(manifests.path())?,
        })
    }

    fn args(&self) -> [&str; 6] {
        ["--cgroup-root", &self.cgroup, "--bpffs", &self.bpffs, "--manifests", &self.manifests]
    }
}

#[test]
fn a_bpffs_that_is_none_is_named() -> Result<()> {
    let (node, manifests) = (Node::new("node")?, Manifests::new()?);
    let places = Places { bpffs: "/tmp".to_owned(), ..Places::of(&node, &manifests)? };
    assert_says(run_agent(&node, &[], &places.args())?, 69, &["/tmp", "bpf"]);
    Ok(())
}

#[test]
fn a_cgroup_root_that_is_none_is_named() -> Result<()> {
    let (node, manifests) = (Node::new("node")?, Manifests::new()?);
    let places = Places { cgroup: "/tmp".to_owned(), ..Places::of(&node, &manifests)? };
    assert_says(run_agent(&node, &[], &places.args())?, 78, &["/tmp", "cgroup2"]);
    Ok(())
}

#[test]
fn a_missing_capability_is_named() -> Result<()> {
    let (node, manifests) = (Node::new("node")?, Manifests::new()?);
    let places = Places::of(&node, &manifests)?;
    let without = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    assert_says(run_agent(&node, &without, &places.args())?, 77, &["CAP_"]);
    Ok(())
}

#[test]
fn a_manifest_directory_that_is_not_there_is_named() -> Result<()> {
    let (node, manifests) = (Node::new("node")?, Manifests::new()?);
    let places = Places { manifests: "/nonexistent".to_owned(), ..Places::of(&node, &manifests)? };
    let (code, log) = run_agent(&node, &[], &places.args())?;
    assert!(matches!(code, Some(69 | 78)), "{code:?}: {log}");
    assert!(log.contains("/nonexistent"), "{log}");
    Ok(())
}

#[test]
fn a_port_that_is_none_is_named_and_the_rest_works() -> Result<()> {
    let cluster = Cluster::serving(&["a"])?;
    let broken = serde_json::json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "broken", "namespace": "default"},
        "spec": {"clusterIP": "10.96.0.40", "ports": [{"port": 70000}]},
    });
    cluster.manifests.write_text("broken", &broken.to_string())?;
    let log = eventually("the log to name the file and the field", PATIENCE, || {
        let log = cluster.agent.process().log()?;
        Ok((log.contains("broken.yaml") && log.contains("70000")).then_some(log))
    })?;
    assert!(log.contains("port"), "{log}");
    assert_eq!(cluster.client.ask(Traffic::Tcp, at(WEB4))?, "a");
    cluster.list(&[0])
}

#[test]
fn a_full_map_is_reported_and_costs_nothing_that_worked() -> Result<()> {
    let mut cluster = Cluster::serving(&["a"])?;
    cluster.agent.stop()?;
    let (status, _, stderr) = cluster.agent.cli(&["cleanup"])?;
    assert!(status.success(), "{stderr}");
    let mut small = AgentSpec::new(Source::Manifests(cluster.manifests.path().to_owned()));
    // The two ports of `web`, and two more.
    small.args = vec!["--max-frontends".into(), "4".into()];
    cluster.agent.restart_with(small)?;
    cluster.agent.wait_ready()?;
    let many: Vec<Service> = (50..60)
        .map(|last| {
            Service::new(&format!("more-{last}"), &[[10, 96, 0, last].into()])
                .port("", lb_tests::guest::Proto::Tcp, 80, POD_PORT)
                .to(&[&cluster.pods[0]])
        })
        .collect();
    cluster.manifests.write("more", &many.iter().collect::<Vec<_>>())?;
    eventually("the log to say that the map is full", PATIENCE, || {
        let log = cluster.agent.process().log()?;
        Ok((log.contains("lb_frontends4") && log.contains("full")).then_some(()))
    })?;
    assert_eq!(cluster.client.ask(Traffic::Tcp, at(WEB4))?, "a");
    cluster.manifests.remove("more")?;
    cluster.manifests.write("web", &[&web(&[&cluster.pods[0]]), &many[0]])?;
    eventually("a Service to get the place that became free", PATIENCE, || {
        Ok(cluster.client.ask(Traffic::Tcp, std::net::SocketAddr::from(([10, 96, 0, 50], 80))).ok())
    })?;
    Ok(())
}
