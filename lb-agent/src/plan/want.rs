//! From the model's answer to what one family's maps should hold of a Service port.

use std::collections::BTreeMap;

use lb_common::abi::{Endpoint, Family, FrontendKey, V4, endpoint_sets};

use super::{
    names::{Names, PortName},
    table::{Source, Want, WantBackend, external, guard},
};
use crate::{
    datapath::op::Op,
    model::{Answer, DesiredBackend, DesiredPort, DesiredService},
};

/// The protocol of guards: they stand for all.
pub(super) const NO_PROTO: u8 = 0;

/// What tells a port from the others of its Service.
pub(super) fn port_name(port: &DesiredPort) -> PortName {
    PortName { name: port.port_name.clone(), proto: port.proto.number() }
}

/// The port that the guards of a Service belong to. No other port has this protocol.
pub(super) fn guards_name() -> PortName {
    PortName { name: "".into(), proto: NO_PROTO }
}

/// The guards of one family: they refuse everybody.
pub(super) fn guards<F: Family>(desired: &DesiredService) -> Want<F> {
    let addresses = desired.guards.iter().filter_map(|ip| F::from_ip(*ip));
    Want { frontends: addresses.map(|addr| (guard(addr), Answer::default())).collect(), ..Want::default() }
}

/// The part of a port that concerns one family.
pub(super) fn want<F: Family>(port: &DesiredPort, names: &mut Names, ops: &mut Vec<Op>) -> Want<F> {
    let proto = port.proto.number();
    let mut frontends = BTreeMap::new();
    for (at, answer) in &port.frontends {
        let Some(addr) = F::from_ip(at.ip) else { continue };
        let key = FrontendKey { addr, port: at.port, proto, scope: at.scope };
        frontends.insert(key, *answer);
        if answer.differs_outside() {
            frontends.insert(external(&key), Answer { set: answer.outside, ..*answer });
        }
    }
    let mut want = Want {
        frontends,
        affinity_s: port.affinity_s,
        served: port.is_served(F::VERSION == V4::VERSION),
        ..Want::default()
    };
    if !want.frontends.is_empty() {
        for backend in &port.backends {
            let Some(addr) = F::from_ip(backend.ip) else { continue };
            let node = backend.node.as_ref().map_or(0, |node| names.node_id(node, ops));
            let value = WantBackend { state: backend.state, sets: sets(backend), node };
            want.backends.insert(Endpoint { addr, port: backend.port }, value);
        }
    }
    if want.frontends.values().any(|answer| answer.restricted) {
        want.sources = port.sources.iter().filter_map(Source::from_net).collect();
    }
    want
}

fn sets(backend: &DesiredBackend) -> u32 {
    let bit = |is_in, bit| if is_in { bit } else { 0 };
    bit(backend.in_cluster, endpoint_sets::CLUSTER)
        | bit(backend.in_local, endpoint_sets::LOCAL)
        | bit(backend.on_node, endpoint_sets::ON_NODE)
}
