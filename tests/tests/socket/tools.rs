//! What an operator sees: the tools read the maps alone, also when no agent runs, and health and metrics tell the same.

use anyhow::{Context as _, Result, ensure};
use lb_tests::{Agent, AgentSpec, Manifests, Node, Source, eventually, guest::Traffic, poll::PATIENCE};
use serde_json::Value;

use crate::cluster::{Cluster, WEB4, at};

/// A tool's stdout; it must succeed.
fn output(agent: &Agent, args: &[&str]) -> Result<String> {
    let (status, stdout, stderr) = agent.cli(args)?;
    ensure!(status.success(), "{args:?} ended with {status}: {stderr}");
    Ok(stdout)
}

fn json(agent: &Agent, args: &[&str]) -> Result<Value> {
    let text = output(agent, &[args, &["-o", "json"]].concat())?;
    serde_json::from_str(&text).with_context(|| format!("{args:?} wrote no JSON: {text}"))
}

/// The problems that `status` names.
fn problems(agent: &Agent) -> Result<Vec<String>> {
    let status = json(agent, &["status"])?;
    let problems = status["problems"].as_array().context("no problems in the status")?;
    Ok(problems.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

#[test]
fn services_and_backends_show_the_maps_with_and_without_an_agent() -> Result<()> {
    let mut cluster = Cluster::with(&["a", "b"], 2)?;
    let services = output(&cluster.agent, &["services"])?;
    let row = services.lines().find(|line| line.contains("10.96.0.10:80") && line.contains("TCP"));
    let cells: Vec<&str> = row.context("no row of web")?.split_whitespace().collect();
    assert_eq!(cells, ["default/web:http", "TCP", "10.96.0.10:80", "Cluster", "2", "2", "2"], "{services}");

    let backends = json(&cluster.agent, &["backends", "default/web:http"])?;
    let found: Vec<[&str; 3]> = backends
        .as_array()
        .context("no array")?
        .iter()
        .filter(|row| row["frontend"] == "10.96.0.10:80")
        .map(|row| ["backend", "state", "service"].map(|key| row[key].as_str().unwrap_or_default()))
        .collect();
    let of = |pod: &lb_tests::Pod| format!("{}:8080", pod.v4());
    let [a, b] = [of(&cluster.pods[0]), of(&cluster.pods[1])];
    let row = |backend| [backend, "ready", "default/web:http"];
    assert_eq!(found, [row(a.as_str()), row(b.as_str())], "{backends}");

    cluster.agent.kill9()?;
    let (status, stdout, stderr) = cluster.agent.cli(&["services"])?;
    assert!(status.success() && stdout == services, "not the same without an agent:\n{stdout}");
    assert!(stderr.contains("no agent is running"), "{stderr}");
    Ok(())
}

#[test]
fn status_names_a_dead_agent_a_broken_object_and_a_missing_program() -> Result<()> {
    let mut cluster = Cluster::serving(&["a"])?;
    eventually("status to find nothing wrong", PATIENCE, || Ok(problems(&cluster.agent)?.is_empty().then_some(())))?;
    cluster.manifests.write_text("broken", "apiVersion: v1\nkind: Service\nmetadata: {name: 7}\n")?;
    eventually("status to name the broken file", PATIENCE, || {
        Ok(problems(&cluster.agent)?.iter().any(|line| line.contains("broken.yaml")).then_some(()))
    })?;
    cluster.agent.kill9()?;
    std::fs::remove_file(cluster.node.bpffs().path().join("lb/links/lb_sendmsg6"))?;
    let found = problems(&cluster.agent)?;
    assert!(found[0].contains("not attached: lb_sendmsg6"), "{found:?}");
    assert!(found[1].contains("no agent is running"), "{found:?}");
    cluster.agent.restart()?;
    cluster.agent.wait_ready()?;
    eventually("status to forget the old agent's trouble", PATIENCE, || {
        let found = problems(&cluster.agent)?;
        Ok((found.iter().all(|line| line.contains("broken.yaml"))).then_some(()))
    })
}

#[test]
fn metrics_follow_the_maps_and_the_kernel() -> Result<()> {
    let cluster = Cluster::serving(&["a"])?;
    let value = |name| cluster.agent.metric(name);
    let connects = "lb_kernel_events_total{event=\"tcp_connect\"}";
    let before = value(connects)?;
    for _ in 0..5 {
        cluster.client.ask(Traffic::Tcp, at(WEB4))?;
    }
    assert_eq!(value(connects)? - before, 5.0);
    assert_eq!(value("lb_map_entries{map=\"lb_frontends4\"}")?, 3.0, "http, datagrams and all other ports");
    assert_eq!(value("lb_source_in_sync")?, 1.0);
    assert!(value("lb_programming_duration_seconds_count")? >= 1.0);
    Ok(())
}

#[test]
fn a_taken_health_port_is_named_and_costs_nothing_else() -> Result<()> {
    let (node, manifests) = (Node::new("node")?, Manifests::new()?);
    let other = node.netns().run(|| std::net::TcpListener::bind("127.0.0.1:10256"))??;
    let mut agent = node.start_agent_with(AgentSpec::new(Source::Manifests(manifests.path().to_owned())))?;
    eventually("the log to name the flag, and the agent to be ready", PATIENCE, || {
        let log = agent.process().log()?;
        Ok((log.contains("--healthz-address") && log.contains("ready")).then_some(()))
    })?;
    drop(other);
    agent.wait_ready()
}

#[test]
fn the_log_is_an_object_a_line_where_json_is_asked_for() -> Result<()> {
    let (node, manifests) = (Node::new("node")?, Manifests::new()?);
    let mut spec = AgentSpec::new(Source::Manifests(manifests.path().to_owned()));
    spec.args = vec!["--log-format".into(), "json".into()];
    let mut agent = node.start_agent_with(spec)?;
    agent.wait_ready()?;
    agent.stop()?;
    let log = agent.process().log()?;
    let lines = log.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>();
    let lines = lines.with_context(|| format!("not JSON:\n{log}"))?;
    for field in ["timestamp", "level", "target", "message"] {
        assert!(lines.iter().all(|line| line[field].is_string()), "{field} is missing:\n{log}");
    }
    let ready = lines.iter().find(|line| line["message"] == "ready").context("no line says that it is ready")?;
    assert_eq!(ready["services"], 0, "values are fields of their own: {ready}");
    Ok(())
}
