//! `lb-agent check` on real nodes.

use anyhow::Result;
use lb_tests::{AgentSpec, Manifests, Node, Source};
use serde_json::Value;

use crate::{NOTHING, Rig};

#[test]
fn a_node_in_order_has_no_problem_and_its_devices_are_listed() -> Result<()> {
    let rig = Rig::start("check", "none")?;
    let (exit, text, err) = rig.agent.cli(&["check"])?;
    assert_eq!((exit.code(), err.as_str()), (Some(0), ""), "{text}");
    assert!(text.starts_with("OK: no problem found\n"), "{text}");
    let (_, text, _) = rig.agent.cli(&["check", "-o", "json"])?;
    let report: Value = serde_json::from_str(&text)?;
    let eth0 = report["devices"].as_array().and_then(|all| all.iter().find(|device| device["name"] == "eth0"));
    let eth0 = eth0.expect("it is listed");
    assert_eq!((&eth0["role"], &eth0["why"]), (&"uplink".into(), &"has a default route".into()));
    assert_eq!(rig.hooks("eth0")?, NOTHING, "nothing was attached");
    Ok(())
}

#[test]
fn each_thing_that_is_wrong_is_named_with_what_to_do() -> Result<()> {
    let rig = Rig::start("wrong", "none")?;
    let netns = rig.node.netns();
    for (key, value) in [
        ("net/ipv4/ip_forward", "0"),
        ("net/ipv6/conf/all/forwarding", "0"),
        ("net/ipv4/conf/eth0/rp_filter", "1"),
        ("net/ipv4/ip_local_port_range", "29000 65000"),
    ] {
        netns.sysctl(key, value)?;
    }
    let flags = ["check", "--devices", "eth0,eth7", "--nodeport-addresses", "10.9.0.0/16"];
    let (exit, text, err) = rig.agent.cli(&flags)?;
    assert_eq!(exit.code(), Some(78), "{text}{err}");
    for problem in [
        "--devices eth7: there is no such device",
        "--nodeport-addresses 10.9.0.0/16: no interface",
        "net.ipv4.ip_forward: it is 0",
        "net.ipv6.conf.all.forwarding: it is 0",
        "net.ipv4.conf.eth0.rp_filter: it is 1",
        "--snat-ports 10000-29999: the node's own connections use ports 29000-29999",
        "NodePort range 30000-32767: the node's own connections use ports 30000-32767",
    ] {
        assert!(text.contains(&format!("PROBLEM: {problem}")), "{problem:?} is not in:\n{text}");
    }
    assert_eq!(text.matches("PROBLEM").count(), 7, "{text}");
    assert!(err.contains("7 problems found"), "{err}");
    netns.sysctl("net/ipv4/ip_local_reserved_ports", "10000-32767")?;
    let (_, text, _) = rig.agent.cli(&flags)?;
    assert_eq!(text.matches("PROBLEM").count(), 5, "{text}");
    Ok(())
}

#[test]
fn the_agent_warns_of_the_same_and_status_counts_it() -> Result<()> {
    let (node, manifests) = (Node::new("warns")?, Manifests::new()?);
    node.netns().sysctl("net/ipv4/ip_forward", "0")?;
    let source = Source::Manifests(manifests.path().to_owned());
    let mut agent = node.start_agent_with(AgentSpec::new(source).on_devices("auto"))?;
    agent.wait_ready()?;
    let log = agent.process().log()?;
    for warning in ["net.ipv4.ip_forward: it is 0", "--devices auto: no device has a default route"] {
        assert!(log.lines().any(|line| line.contains("WARN") && line.contains(warning)), "{warning:?}:\n{log}");
    }
    crate::status::wait_for_problem(&agent, "problems of the node (`lb-agent check` lists them): 2;", true)
}
