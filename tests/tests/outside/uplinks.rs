//! Uplinks of other kinds than Ethernet with tcx, and neighbours that are not known yet.

use anyhow::{Context as _, Result};
use lb_agent::datapath::bpf::Way;
use lb_tests::{Layout, NetNs, Uplink, eventually, guest::Traffic, kernel_objects::agent_object, poll::PATIENCE};

use crate::{
    hand,
    large::{download, echo},
    reach::all_are_reached,
    refuse::{attempt, is_refused},
    world::{EVERY_TRAFFIC, Offload, Setup, World},
};

/// What an uplink has to do: small and large requests to pods, and refusals.
fn works(world: &World, backends: &[usize], what: &str) -> Result<()> {
    for &backend in backends {
        world.list(&[backend]).with_context(|| what.to_owned())?;
        for to in world.frontends() {
            let what = || format!("{what}: pod {backend} by {to}");
            for traffic in EVERY_TRAFFIC {
                world.client.ask(traffic, to).with_context(what)?;
            }
            download(world, to).with_context(what)?;
            echo(world, to, 1300).with_context(what)?;
        }
    }
    world.publish(&[], |web| web)?;
    for to in world.frontends() {
        for traffic in [Traffic::Tcp, Traffic::UdpConnected] {
            eventually(&format!("{what}: {to} to refuse {traffic:?}"), PATIENCE, || {
                Ok(is_refused(&attempt(world, traffic, to)?).then_some(()))
            })?;
        }
    }
    Ok(())
}

/// That `lb-agent status` says this of a device.
fn is_served_as(world: &World, device: &str, role: &str) -> Result<()> {
    let (_, status, _) = world.agents[0].cli(&["status"])?;
    let says = |line: &str| line.split_whitespace().next() == Some(device) && line.contains(role);
    assert!(status.lines().any(says), "{device} as {role}: {status}");
    Ok(())
}

#[test]
fn a_device_without_ethernet_serves_as_an_uplink() -> Result<()> {
    for layout in [Layout::PointToPoint, Layout::Bridge] {
        let world = World::build(&Setup { uplink: Uplink::Tun, layout, ..Setup::default() })?;
        is_served_as(&world, "eth0", "uplink without Ethernet")?;
        works(&world, &[0, 2], &format!("tun, {layout:?}"))?;
    }
    Ok(())
}

#[test]
fn filters_of_a_clsact_qdisc_do_what_tcx_links_do() -> Result<()> {
    // The agent fills the maps and leaves the devices alone.
    let mut world = World::build(&Setup { devices: "none", flags: &[], ..Setup::default() })?;
    let mut agents = std::mem::take(&mut world.agents);
    agents[0].stop()?;
    hand::install(&world.nodes[0], &agent_object(), Way::Clsact)?;
    let filters = world.nodes[0].netns().output("tc", &["filter", "show", "dev", "eth0", "ingress"])?;
    assert!(filters.contains("lb_uplink"), "{filters}");
    all_are_reached(&world, "clsact")?;
    for to in world.frontends() {
        download(&world, to)?;
        echo(&world, to, 1300)?;
    }
    Ok(())
}

/// Makes a node forget every neighbour that it found out itself.
fn forget_neighbours(netns: &NetNs) -> Result<()> {
    // One may be learnt again before the list is read: somebody else asks for this node.
    eventually("the neighbours to be unknown", PATIENCE, || {
        netns.output("ip", &["neigh", "flush", "all"])?;
        let left = netns.output("ip", &["neigh", "show", "nud", "reachable", "nud", "stale", "nud", "delay"])?;
        Ok(left.trim().is_empty().then_some(()))
    })
}

#[test]
fn the_first_packet_to_a_neighbour_that_is_not_known_yet_is_not_lost() -> Result<()> {
    for layout in [Layout::PointToPoint, Layout::Bridge] {
        let world = World::new(layout, Offload::On)?;
        let vm = world.vm.guest()?;
        for backend in [0, 2] {
            world.list(&[backend])?;
            for to in world.frontends() {
                for traffic in [Traffic::Tcp, Traffic::UdpConnected] {
                    forget_neighbours(world.nodes[0].netns())?;
                    let what = format!("{layout:?}, pod {backend}, {traffic:?} to {to}");
                    let attempt = attempt(&world, traffic, to)?;
                    assert!(attempt.end.is_ok() && attempt.repeats == 0, "{what}: {attempt:?}");
                    forget_neighbours(world.nodes[0].netns())?;
                    assert!(vm.ask(traffic, to).is_ok(), "{what}, from a pod without a hook");
                }
            }
        }
    }
    Ok(())
}
