//! A node with few ports of its own for connections to pods elsewhere.

use anyhow::{Context as _, Result};
use lb_tests::{Layout, eventually, guest::Traffic, poll::PATIENCE};

use crate::world::{Offload, World};

const PORTS: &str = "10000-10003";
/// Twice as many as there are ports.
const CONNECTIONS: usize = 8;

#[test]
fn connections_to_a_pod_elsewhere_take_the_ports_of_those_that_have_ended() -> Result<()> {
    let flags = ["--pod-devices", "cni0,veth*", "--snat-ports", PORTS];
    let world = World::with(Layout::PointToPoint, Offload::On, &flags)?;
    world.publish(&[2], |web| web)?;
    for to in world.node_port() {
        // By datagrams, which have ports of their own.
        eventually(&format!("{to} to have only b1"), PATIENCE, || {
            let is_b1 = |answer: Result<String>| answer.is_ok_and(|answer| answer.starts_with("b1 "));
            let socket = world.client.udp(to)?;
            Ok((0..20).all(|_| is_b1(socket.send_to(to).and_then(|()| Ok(socket.receive()?.name)))).then_some(()))
        })?;
        for number in 0..CONNECTIONS {
            let answer = world.client.ask(Traffic::Tcp, to).with_context(|| format!("connection {number} to {to}"))?;
            assert!(answer.starts_with("b1 "), "connection {number} to {to}: {answer}");
        }
    }
    let taken_over = world.agents[0].metric("lb_kernel_events_total{event=\"snat_taken_over\"}")?;
    assert!(taken_over >= CONNECTIONS as f64, "half of those of both families, not {taken_over}");
    Ok(())
}
