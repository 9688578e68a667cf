//! Where nobody serves, a client outside is told at once.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use lb_tests::{
    Layout, eventually,
    guest::{Failure, ProbeSpec, Traffic},
    poll::PATIENCE,
};
use serde_json::json;

use crate::world::{Offload, World};

/// Less than the second after which TCP sends a SYN again: who hears of a refusal in this time heard of it at the first.
const BEFORE_A_SECOND_SYN_MS: u64 = 900;

/// How a new socket's conversation ends.
fn end(world: &World, traffic: Traffic, to: SocketAddr) -> Result<Result<String, Failure>> {
    let spec = ProbeSpec { traffic, target: to.into(), attempts: 1, patience_ms: BEFORE_A_SECOND_SYN_MS };
    let attempt = world.client.probe(vec![spec])?.into_iter().flatten().next();
    Ok(attempt.context("no attempt")?.end)
}

fn is_refused(end: &Result<String, Failure>) -> bool {
    end.as_ref().is_err_and(|failure| failure.errno == "ECONNREFUSED")
}

#[test]
fn a_service_without_endpoints_refuses_at_the_first_packet() -> Result<()> {
    for offload in [Offload::On, Offload::Off] {
        let world = World::new(Layout::PointToPoint, offload)?;
        world.publish(&[], |web| web)?;
        for to in world.frontends() {
            eventually(&format!("{to} to refuse"), PATIENCE, || {
                Ok(is_refused(&end(&world, Traffic::Tcp, to)?).then_some(()))
            })?;
            for traffic in [Traffic::Tcp, Traffic::UdpConnected] {
                let end = end(&world, traffic, to)?;
                assert!(is_refused(&end), "{traffic:?} to {to}, offload {offload:?}: {end:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_local_policy_keeps_outside_clients_here_and_is_silent_where_nobody_is_here() -> Result<()> {
    let world = World::new(Layout::Bridge, Offload::On)?;
    let local = || json!({"externalTrafficPolicy": "Local"});
    world.publish(&[0, 2], |web| web.with(&local()))?;
    for to in world.node_port() {
        eventually(&format!("{to} to have only a1"), PATIENCE, || {
            let answers = (0..20).map(|_| end(&world, Traffic::Tcp, to)).collect::<Result<Vec<_>>>()?;
            let here = |end: &Result<String, Failure>| end.as_ref().is_ok_and(|name| name.starts_with("a1 "));
            Ok(answers.iter().all(here).then_some(()))
        })?;
    }
    world.publish(&[2, 3], |web| web.with(&local()))?;
    for to in world.node_port() {
        let silent = |end: &Result<String, Failure>| {
            end.as_ref().is_err_and(|failure| failure.errno == "EINPROGRESS" || failure.errno == "EAGAIN")
        };
        eventually(&format!("{to} to be silent"), PATIENCE, || {
            Ok(silent(&end(&world, Traffic::Tcp, to)?).then_some(()))
        })?;
        assert!(silent(&end(&world, Traffic::UdpConnected, to)?));
    }
    Ok(())
}
