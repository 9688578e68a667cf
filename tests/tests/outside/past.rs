//! Packets that go past the devices of pods, straight into the pods' namespaces.

use anyhow::{Context as _, Result};
use lb_tests::{Layout, Pod, eventually, guest::Traffic, poll::PATIENCE};

use crate::{
    reach::all_are_reached,
    world::{EVERY_TRAFFIC, Offload, World},
};

/// How many packets have left the node by the device of a pod.
fn out_of(world: &World, pod: &Pod) -> Result<u64> {
    let shown = world.nodes[0].netns().output("ip", &["-j", "-s", "link", "show", "dev", pod.device()])?;
    let shown: serde_json::Value = serde_json::from_str(&shown).context("ip wrote no JSON")?;
    shown[0]["stats64"]["tx"]["packets"].as_u64().context("no count of packets")
}

/// How many packets leave by the device of `a1` while `web`, which has no other pod, is asked by every address.
fn out_while_asked(world: &World, times: usize) -> Result<u64> {
    let before = out_of(world, &world.pods[0])?;
    for to in world.frontends() {
        for traffic in EVERY_TRAFFIC {
            for _ in 0..times {
                world.client.ask(traffic, to).with_context(|| format!("{traffic:?} to {to}"))?;
            }
        }
    }
    Ok(out_of(world, &world.pods[0])? - before)
}

#[test]
fn requests_reach_pods_past_their_devices_and_by_them_when_a_queue_comes_in_between() -> Result<()> {
    for offload in [Offload::On, Offload::Off] {
        let world = World::new(Layout::PointToPoint, offload)?;
        let devices: Vec<&str> = world.pods[..2].iter().map(Pod::device).collect();
        world.agents[0].wait_gone_past(&devices)?;
        all_are_reached(&world, &format!("{offload:?}"))?;
        world.list(&[0])?;
        // The neighbours ask for one another's link-layer addresses now and then.
        let asked = world.frontends().len() * EVERY_TRAFFIC.len() * 10;
        let out = out_while_asked(&world, 10)?;
        assert!(out < asked as u64 / 4, "{out} packets left by the device while {asked} requests were sent");
        world.nodes[0].netns().output("tc", &["qdisc", "add", "dev", devices[0], "root", "pfifo"])?;
        eventually("packets to leave by the device", PATIENCE, || {
            Ok((out_while_asked(&world, 1)? >= asked as u64 / 10).then_some(()))
        })?;
        world.client.ask(Traffic::Tcp, world.node_port()[0])?;
    }
    Ok(())
}
