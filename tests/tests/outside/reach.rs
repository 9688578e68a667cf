//! Who is reached, by whom the backend takes the client to be, and from which address the answer comes.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, Result};
use lb_tests::{
    Guest, Layout, Node, Outside, eventually,
    guest::{Traffic, errno},
    manifests::Service,
    poll::PATIENCE,
};

use crate::world::{EVERY_TRAFFIC, Offload, POD_PORT, VARIANTS, World};

/// The backend's name and the address that it saw the client with, on each of some new sockets.
fn answers(client: &Guest, traffic: Traffic, to: SocketAddr) -> Result<BTreeSet<(String, IpAddr)>> {
    let one = || -> Result<(String, IpAddr)> {
        let answer = client.ask(traffic, to).with_context(|| format!("{traffic:?} to {to}"))?;
        let (name, source) = answer.split_once(' ').context("no source in the answer")?;
        Ok((name.to_owned(), source.parse()?))
    };
    // One of four equal backends is missed with a chance of 4 (3/4)^80: once in two thousand million.
    (0..80).map(|_| one()).collect()
}

fn outside_like(to: SocketAddr) -> IpAddr {
    if to.is_ipv4() { Outside::V4.into() } else { Outside::V6.into() }
}

/// The addresses of a node by which its packets to another node's pods leave it: those of its overlay and its own.
fn of_the_node(node: &Node) -> [IpAddr; 4] {
    [node.v4().into(), node.v6().into(), node.pod_v4(0).into(), node.pod_v6(0).into()]
}

/// That the client reaches every backend by every address, and is seen as it should be.
pub(crate) fn all_are_reached(world: &World, what: &str) -> Result<()> {
    for to in world.frontends() {
        for traffic in EVERY_TRAFFIC {
            let met = answers(&world.client, traffic, to).with_context(|| what.to_owned())?;
            let what = format!("{what}, {traffic:?} to {to}: {met:?}");
            let names: BTreeSet<&str> = met.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, BTreeSet::from(["a1", "a2", "b1", "b2"]), "{what}");
            for (name, source) in &met {
                if name.starts_with('a') {
                    assert_eq!(*source, outside_like(to), "{what}");
                } else {
                    assert!(of_the_node(&world.nodes[0]).contains(source), "{what}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn local_backends_see_the_clients_address_and_remote_ones_the_nodes() -> Result<()> {
    for (layout, offload) in VARIANTS {
        all_are_reached(&World::new(layout, offload)?, &format!("{layout:?}, offload {offload:?}"))?;
    }
    Ok(())
}

#[test]
fn backends_are_reached_where_only_the_uplinks_have_programs() -> Result<()> {
    for (layout, offload) in VARIANTS {
        let world = World::with(layout, offload, &[])?;
        for to in world.frontends() {
            for traffic in EVERY_TRAFFIC {
                let met = answers(&world.client, traffic, to)?;
                let what = format!("{layout:?}, offload {offload:?}, {traffic:?} to {to}: {met:?}");
                let local = met.iter().filter(|(name, _)| name.starts_with('a'));
                assert!(local.clone().all(|(_, source)| *source == outside_like(to)), "{what}");
                assert_eq!(local.map(|(name, _)| name).collect::<BTreeSet<_>>().len(), 2, "{what}");
                assert!(met.iter().any(|(name, _)| name == "b1") && met.iter().any(|(name, _)| name == "b2"), "{what}");
            }
        }
    }
    Ok(())
}

#[test]
fn backends_whose_slice_does_not_say_where_they_are_are_reached_as_well() -> Result<()> {
    for (layout, offload) in VARIANTS {
        let world = World::with(layout, offload, &[])?;
        world.publish(&[0, 2], Service::nowhere)?;
        for to in world.frontends() {
            for traffic in EVERY_TRAFFIC {
                eventually(&format!("{to} to have a1 and b1 alone"), PATIENCE, || {
                    let met = answers(&world.client, traffic, to).unwrap_or_default();
                    let names: BTreeSet<&str> = met.iter().map(|(name, _)| name.as_str()).collect();
                    Ok((names == BTreeSet::from(["a1", "b1"])).then_some(()))
                })?;
                let met = answers(&world.client, traffic, to)?;
                let local = met.iter().filter(|(name, _)| name == "a1");
                assert!(local.map(|(_, source)| *source).eq([outside_like(to)]), "{layout:?}, {offload:?}: {met:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn an_answer_comes_from_the_address_that_was_asked() -> Result<()> {
    let world = World::new(Layout::PointToPoint, Offload::On)?;
    for to in world.frontends() {
        // Some to each backend.
        for _ in 0..20 {
            let socket = world.client.udp(to)?;
            socket.send_to(to)?;
            assert_eq!(socket.receive()?.from, Some(to));
        }
    }
    Ok(())
}

#[test]
fn a_browser_outside_gets_its_page_by_every_address() -> Result<()> {
    let world = World::new(Layout::Bridge, Offload::On)?;
    for to in world.frontends() {
        let page = world.outside.machine().output("curl", &["-sS", "-m", "10", &format!("http://{to}/")])?;
        assert!(["a1", "a2", "b1", "b2"].iter().any(|name| page.starts_with(name)), "{to}: {page}");
    }
    Ok(())
}

#[test]
fn a_pod_without_socket_hook_reaches_every_backend_and_is_seen_with_its_own_address_unless_they_share_a_bridge()
-> Result<()> {
    for (layout, offload) in VARIANTS {
        let world = World::new(layout, offload)?;
        let vm = world.vm.guest()?;
        for to in world.frontends() {
            for traffic in EVERY_TRAFFIC {
                let met = answers(&vm, traffic, to)?;
                let what = format!("{layout:?}, offload {offload:?}, {traffic:?} to {to}: {met:?}");
                assert_eq!(met.len(), 4, "{what}");
                let (node, vm) = (&world.nodes[0], world.vm.address_like(to.ip()));
                let bridge = if to.is_ipv4() { node.pod_v4(1).into() } else { IpAddr::from(node.pod_v6(1)) };
                for (name, source) in &met {
                    // Who shares a bridge with it would answer it past the node.
                    let shares = layout == Layout::Bridge && name.starts_with('a');
                    assert_eq!(*source, if shares { bridge } else { vm }, "{what}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_direct_connection_to_a_pod_is_left_alone() -> Result<()> {
    let world = World::new(Layout::PointToPoint, Offload::On)?;
    let (near, far) = (&world.pods[0], &world.pods[2]);
    for to in [far.at4(POD_PORT), far.at6(POD_PORT)] {
        let answer = near.guest()?.ask(Traffic::Tcp, to)?;
        assert_eq!(answer, format!("b1 {}", near.address_like(to.ip())));
    }
    let closed = SocketAddr::new(world.nodes[0].v4().into(), 30081);
    assert_eq!(errno(&world.client.tcp(closed).err().context("nobody listens there")?), "ECONNREFUSED");
    Ok(())
}
