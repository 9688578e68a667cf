//! Programs come with devices and stay with them.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::Result;
use aya::programs::TcAttachType;
use lb_tests::{AgentSpec, Manifests, NetNs, Node, Source, eventually, poll::PATIENCE};
use serde_json::Value;

use crate::{NOTHING, Rig, hooks, status::wait_for_problem, uplink};

#[test]
fn the_device_with_the_default_route_is_served_from_the_start_and_says_why() -> Result<()> {
    let rig = Rig::start("uplink", "auto")?;
    let devices = rig.devices()?;
    let eth0 = devices.get("eth0").expect("it is served when the agent says it is ready");
    assert_eq!((eth0.role.as_deref(), eth0.why.as_str()), (Some("uplink"), "has a default route"));
    assert_eq!(eth0.addresses, ["192.0.2.1", "2001:db8::1"]);
    let [ingress, egress] = rig.hooks("eth0")?;
    assert_eq!((ingress.as_slice(), egress.as_slice()), (&[eth0.ingress.unwrap()][..], &[eth0.egress.unwrap()][..]));
    assert_eq!(rig.hooks("lo")?, NOTHING);
    assert_eq!(devices.len(), 1, "{devices:?}");
    Ok(())
}

#[test]
fn devices_that_come_and_go_are_followed() -> Result<()> {
    let rig = Rig::start_with("follow", |spec| {
        let pods = ["--pod-devices".into(), "veth*".into()];
        AgentSpec { args: pods.into(), ..spec.on_devices("auto") }
    })?;
    rig.wait_for(&["eth0"])?;
    let overlay = "link add vxlan0 type vxlan id 7 local 192.0.2.1 dev eth0 dstport 8472";
    rig.node.netns().ip([overlay, "addr add 10.244.0.0/32 dev vxlan0", "link set vxlan0 up"])?;
    rig.wait_for(&["eth0", "vxlan0"])?;
    assert_eq!(rig.devices()?["vxlan0"].addresses, ["10.244.0.0"]);
    rig.node.netns().ip(["link add veth7 type veth peer name other"])?;
    rig.wait_for(&["eth0", "veth7", "vxlan0"])?;
    assert_eq!(rig.devices()?["veth7"].role.as_deref(), Some("pod"));
    rig.node.netns().ip(["link del vxlan0", "link del veth7"])?;
    rig.wait_for(&["eth0"])?;
    assert_eq!(pins(&rig)?.len(), 2, "nothing is left of those that are gone");
    Ok(())
}

#[test]
fn a_device_with_an_address_of_the_node_object_is_served_as_soon_as_that_is_known() -> Result<()> {
    let rig = Rig::start("nodeip", "auto")?;
    rig.node.netns().ip(["link add eth1 type veth peer name far1", "addr add 198.51.100.7/24 dev eth1"])?;
    rig.wait_for(&["eth0"])?;
    let object = format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {}}}\nstatus: {{addresses: [{{type: InternalIP, address: \
         198.51.100.7}}, {{type: InternalIP, address: \"2001:db8::77\"}}]}}\n",
        rig.node.name()
    );
    rig.manifests.write_text("node", &object)?;
    rig.wait_for(&["eth0", "eth1"])?;
    assert_eq!(rig.devices()?["eth1"].why, "has the node's address 198.51.100.7");
    wait_for_problem(&rig.agent, "Node object's address 2001:db8::77", true)
}

#[test]
fn a_device_in_the_place_of_another_gets_its_programs_and_a_new_address_is_seen() -> Result<()> {
    let rig = Rig::start("replaced", "eth0")?;
    let before = rig.devices()?["eth0"].index;
    rig.node.netns().ip(["link del eth0"])?;
    rig.wait_for(&[])?;
    uplink(&rig.node, &rig.outside, "eth0")?;
    rig.wait_for(&["eth0"])?;
    assert_ne!(rig.devices()?["eth0"].index, before);
    rig.node.netns().ip(["addr del 192.0.2.1/24 dev eth0", "addr add 192.0.2.9/24 dev eth0"])?;
    eventually("the new address", PATIENCE, || {
        Ok((rig.devices()?["eth0"].addresses.first().is_some_and(|ip| ip == "192.0.2.9")).then_some(()))
    })
}

#[test]
fn a_device_keeps_its_programs_while_its_default_route_is_replaced() -> Result<()> {
    let rig = Rig::start("flap", "auto")?;
    let before = rig.hooks("eth0")?;
    rig.node.netns().ip(["route del default"])?;
    eventually("the agent to know", PATIENCE, || {
        Ok(rig.devices()?["eth0"].why.contains("a moment ago").then_some(()))
    })?;
    assert_eq!(rig.hooks("eth0")?, before);
    rig.node.netns().ip(["route add default via 192.0.2.2 dev eth0"])?;
    eventually("the reason to be back", PATIENCE, || {
        Ok(rig.devices()?["eth0"].why.contains("default route").then_some(()))
    })?;
    assert_eq!(rig.hooks("eth0")?, before);
    Ok(())
}

#[test]
fn there_is_no_moment_without_programs_while_agents_are_killed_and_restarted() -> Result<()> {
    let mut rig = Rig::start("kill", "auto")?;
    let links = link_ids(&rig)?;
    let first = rig.hooks("eth0")?;
    let (done, netns) = (AtomicBool::new(false), rig.node.netns().clone());
    thread::scope(|scope| -> Result<()> {
        let watcher = scope.spawn(|| {
            let mut looked = 0;
            while !done.load(Ordering::Relaxed) {
                let [ingress, egress] = hooks(&netns, "eth0")?;
                assert_eq!((ingress.len(), egress.len()), (1, 1), "after {looked} looks");
                looked += 1;
            }
            anyhow::Ok(looked)
        });
        let restarts = (0..3).try_for_each(|_| -> Result<()> {
            rig.agent.kill9()?;
            assert_eq!(link_ids(&rig)?, links, "programs stay when their agent is killed");
            rig.agent.restart()?;
            rig.agent.wait_ready()
        });
        done.store(true, Ordering::Relaxed);
        let looked = watcher.join().expect("programs all the time")?;
        assert!(looked > 100, "{looked}");
        restarts
    })?;
    assert_eq!(link_ids(&rig)?, links, "the links are the first agent's");
    assert_ne!(rig.hooks("eth0")?, first, "with the last agent's programs in them");
    rig.wait_for(&["eth0"])
}

#[test]
fn an_agent_without_the_packet_layer_takes_it_away() -> Result<()> {
    let mut rig = Rig::start("off", "auto")?;
    rig.agent.stop()?;
    let source = Source::Manifests(rig.manifests.path().to_owned());
    rig.agent.restart_with(AgentSpec::new(source))?;
    rig.agent.wait_ready()?;
    assert_eq!(rig.hooks("eth0")?, NOTHING);
    assert!(rig.devices()?.is_empty());
    Ok(())
}

#[test]
fn cleanup_leaves_nothing_on_any_device() -> Result<()> {
    let mut rig = Rig::start("cleanup", "auto")?;
    rig.agent.stop()?;
    assert_ne!(rig.hooks("eth0")?, NOTHING);
    let (exit, _, err) = rig.agent.cli(&["cleanup"])?;
    assert!(exit.success(), "{err}");
    assert_eq!(rig.hooks("eth0")?, NOTHING);
    assert!(!rig.node.bpffs().path().join("lb").exists());
    Ok(())
}

#[test]
fn programs_that_somebody_takes_away_come_back_with_the_next_change() -> Result<()> {
    let rig = Rig::start("taken", "auto")?;
    for pin in pins(&rig)? {
        rig.node.netns().output("bpftool", &["link", "detach", "pinned", &pin])?;
    }
    assert_eq!(rig.hooks("eth0")?, NOTHING);
    rig.node.netns().ip(["link set eth0 txqueuelen 500"])?;
    rig.wait_for(&["eth0"])
}

#[test]
fn another_program_on_the_device_is_named_and_left_alone() -> Result<()> {
    let mut rig = Rig::start("foreign", "auto")?;
    let netns = rig.node.netns();
    let _foreign = netns.run(|| crate::filters::attach_a_program("eth0", TcAttachType::Ingress))??;
    netns.ip(["link set eth0 txqueuelen 500"])?;
    wait_for_problem(&rig.agent, "device eth0, ingress: program", true)?;
    let (_, text, _) = rig.agent.cli(&["check"])?;
    assert!(text.contains("PROBLEM: device eth0, ingress: program"), "{text}");
    rig.agent.stop()?;
    assert_eq!(rig.hooks("eth0")?[0].len(), 2);
    let (exit, _, err) = rig.agent.cli(&["cleanup"])?;
    assert!(exit.success(), "{err}");
    assert_eq!(rig.hooks("eth0")?.map(|hook| hook.len()), [1, 0], "the other one stays");
    Ok(())
}

#[test]
fn a_named_device_that_comes_later_is_missed_and_then_served() -> Result<()> {
    let (node, outside, manifests) = (Node::new("later")?, NetNs::new("later")?, Manifests::new()?);
    let source = Source::Manifests(manifests.path().to_owned());
    let mut agent = node.start_agent_with(AgentSpec::new(source).on_devices("eth0"))?;
    agent.wait_ready()?;
    let log = agent.process().log()?;
    assert!(log.contains("--devices eth0: there is no such device"), "{log}");
    let rig = Rig { node, outside, manifests, agent };
    wait_for_problem(&rig.agent, "--devices eth0", true)?;
    uplink(&rig.node, &rig.outside, "eth0")?;
    rig.wait_for(&["eth0"])?;
    wait_for_problem(&rig.agent, "--devices eth0", false)
}

/// The pins of links to devices.
fn pins(rig: &Rig) -> Result<Vec<String>> {
    let mut pins = Vec::new();
    for entry in fs::read_dir(rig.node.bpffs().path().join("lb/links"))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"dev-")) {
            pins.push(path.to_str().expect("UTF-8").to_owned());
        }
    }
    pins.sort();
    Ok(pins)
}

/// The kernel's ids of those links.
fn link_ids(rig: &Rig) -> Result<Vec<u64>> {
    let id = |pin: &String| -> Result<u64> {
        let text = rig.node.netns().output("bpftool", &["-j", "link", "show", "pinned", pin])?;
        let link: Value = serde_json::from_str(&text)?;
        Ok(link["id"].as_u64().expect("a link has an id"))
    };
    pins(rig)?.iter().map(id).collect()
}
