//! Where nobody serves, a client outside is told at once.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use lb_tests::{
    Layout, eventually,
    guest::{Attempt, Enough, Failure, ProbeSpec, Traffic},
    poll::PATIENCE,
};
use serde_json::json;

use crate::world::{Offload, World};

/// How long a call may take before that counts as silence: more than a busy machine needs for an answer.
const PATIENCE_MS: u64 = 2000;

/// What a new socket meets.
pub(crate) fn attempt(world: &World, traffic: Traffic, to: SocketAddr) -> Result<Attempt> {
    let spec =
        ProbeSpec { traffic, target: to.into(), enough: Enough::Sockets(1), patience_ms: PATIENCE_MS, budget_ms: 0 };
    world.client.probe(vec![spec], 1)?.into_iter().flatten().next().context("no attempt")
}

/// How a new socket's conversation ends.
fn end(world: &World, traffic: Traffic, to: SocketAddr) -> Result<Result<String, Failure>> {
    Ok(attempt(world, traffic, to)?.end)
}

/// Whether the first packet was refused; TCP sends its SYN again where it is not told at once.
pub(crate) fn is_refused(attempt: &Attempt) -> bool {
    attempt.end.as_ref().is_err_and(|failure| failure.errno == "ECONNREFUSED") && attempt.repeats == 0
}

#[test]
fn a_service_without_endpoints_refuses_at_the_first_packet() -> Result<()> {
    for offload in [Offload::On, Offload::Off] {
        let world = World::new(Layout::PointToPoint, offload)?;
        world.publish(&[], |web| web)?;
        for to in world.frontends() {
            eventually(&format!("{to} to refuse"), PATIENCE, || {
                Ok(is_refused(&attempt(&world, Traffic::Tcp, to)?).then_some(()))
            })?;
            for traffic in [Traffic::Tcp, Traffic::UdpConnected] {
                let attempt = attempt(&world, traffic, to)?;
                assert!(is_refused(&attempt), "{traffic:?} to {to}, offload {offload:?}: {attempt:?}");
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
        let silent = |end: &Result<String, Failure>| end.as_ref().is_err_and(Failure::is_silence);
        eventually(&format!("{to} to be silent"), PATIENCE, || {
            Ok(silent(&end(&world, Traffic::Tcp, to)?).then_some(()))
        })?;
        assert!(silent(&end(&world, Traffic::UdpConnected, to)?));
    }
    Ok(())
}
