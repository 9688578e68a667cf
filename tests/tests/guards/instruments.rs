//! The instruments of the other tests see what they are there to see: failures, breaks and moves.

use anyhow::Result;
use lb_tests::{
    Node, eventually,
    guest::{HoldSpec, LoadSpec, Proto, Traffic},
    poll::PATIENCE,
};

#[test]
fn load_counts_who_answered_and_what_failed() -> Result<()> {
    let node = Node::new("node")?;
    let (server, client) = (node.pod("server")?, node.pod("client")?);
    let serving = server.guest()?;
    serving.serve("server", Proto::Tcp, 80)?;
    let client = client.guest()?;
    let load =
        client.load(LoadSpec { traffic: Traffic::Tcp, target: server.at4(80).into(), per_second: 200, threads: 2 })?;
    let report = load.wait_for(20)?;
    assert_eq!((report.answers["server"], report.errors.len()), (report.attempts, 0), "{report:?}");
    drop(serving);
    eventually("the load to meet the closed port", PATIENCE, || {
        Ok(load.report()?.errors.contains_key("connect: ECONNREFUSED").then_some(()))
    })?;
    Ok(())
}

#[test]
fn a_held_connection_that_is_closed_is_a_break() -> Result<()> {
    let node = Node::new("node")?;
    let (server, client) = (node.pod("server")?, node.pod("client")?);
    let serving = server.guest()?;
    serving.serve("server", Proto::Tcp, 80)?;
    let client = client.guest()?;
    let hold =
        client.hold(HoldSpec { traffic: Traffic::Tcp, target: server.at6(80).into(), sockets: 3, interval_ms: 5 })?;
    let report = hold.wait_for(3)?;
    assert_eq!((report.holders["server"], report.breaks.len()), (3, 0), "{report:?}");
    drop(serving);
    eventually("three breaks", PATIENCE, || Ok((hold.report()?.breaks.len() == 3).then_some(())))
}

#[test]
fn a_held_socket_that_is_answered_by_somebody_else_has_moved() -> Result<()> {
    let node = Node::new("node")?;
    let (server, client) = (node.pod("server")?, node.pod("client")?);
    let (first, second) = (server.guest()?, server.guest()?);
    first.serve("first", Proto::Udp, 53)?;
    let client = client.guest()?;
    let target = server.at4(53).into();
    let hold = client.hold(HoldSpec { traffic: Traffic::UdpUnconnected, target, sockets: 1, interval_ms: 5 })?;
    assert!(hold.wait_for(3)?.moves.is_empty());
    // Of two sockets with SO_REUSEADDR, the one bound last gets the datagrams.
    second.serve("second", Proto::Udp, 53)?;
    eventually("a move", PATIENCE, || Ok(hold.report()?.moves.first().cloned()))
        .map(|moved| assert_eq!(moved, "first -> second"))
}
