//! Which endpoints serve a Service port, and which of them take new connections.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use lb_common::abi::backend_state;

use super::{Answer, DesiredBackend, FrontendAddr};
use crate::event::{Endpoint, EndpointSlice, ServicePort};

/// The address families in which a Service port has frontends: endpoints of the other family could never be reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Families {
    v4: bool,
    v6: bool,
}

impl Families {
    pub(super) fn of(frontends: &BTreeMap<FrontendAddr, Answer>) -> Self {
        Self { v4: frontends.keys().any(|f| f.ip.is_ipv4()), v6: frontends.keys().any(|f| f.ip.is_ipv6()) }
    }

    fn contain(self, ip: IpAddr) -> bool {
        if ip.is_ipv4() { self.v4 } else { self.v6 }
    }
}

/// An endpoint as one Service port sees it, once however many slices list it.
#[derive(Debug)]
pub(super) struct Merged<'a> {
    ip: IpAddr,
    port: u16,
    state: u8,
    node: &'a Option<Arc<str>>,
}

/// Collects the endpoints of a Service port from all slices of the Service, sorted by address and port. A slice port
/// serves the Service port of the same name and protocol.
///
/// An endpoint is listed twice while it moves from one slice to another, or when the network gives the address of a pod
/// that still terminates to a new one. The readier entry wins; among equals the first by slice name, so that the answer
/// does not depend on the order of arrival (kube-proxy prefers any that does not terminate, and is otherwise undefined).
pub(super) fn merge<'a>(
    port: &ServicePort,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    families: Families,
) -> Vec<Merged<'a>> {
    let mut merged: BTreeMap<(IpAddr, u16), Merged<'a>> = BTreeMap::new();
    for slice in slices {
        let ports = slice.ports.iter().filter(|p| p.name == port.name && p.proto == port.proto);
        for number in ports.filter_map(|p| p.port) {
            for endpoint in slice.endpoints.iter().filter(|e| families.contain(e.address)) {
                let new = Merged { ip: endpoint.address, port: number, state: state(endpoint), node: &endpoint.node };
                let key = (new.ip, new.port);
                match merged.get_mut(&key) {
                    Some(old) if readiness(old.state) >= readiness(new.state) => {}
                    Some(old) => *old = new,
                    None => {
                        merged.insert(key, new);
                    }
                }
            }
        }
    }
    merged.into_values().collect()
}

/// Decides which endpoints take new connections: the ready ones. The one place for everything else that will have a
/// say in it (terminating endpoints where none is ready, traffic policies, topology hints), as `CategorizeEndpoints` is
/// in kube-proxy (pkg/proxy/topology.go).
pub(super) fn categorise(endpoints: Vec<Merged<'_>>) -> Vec<DesiredBackend> {
    let backend = |endpoint: Merged<'_>| DesiredBackend {
        ip: endpoint.ip,
        port: endpoint.port,
        state: endpoint.state,
        in_cluster: endpoint.state == backend_state::READY,
        in_local: false,
        node: endpoint.node.clone(),
    };
    endpoints.into_iter().map(backend).collect()
}

/// Ready wins over terminating: with `publishNotReadyAddresses` an endpoint may be both.
fn state(endpoint: &Endpoint) -> u8 {
    if endpoint.ready {
        backend_state::READY
    } else if endpoint.serving && endpoint.terminating {
        backend_state::TERMINATING
    } else {
        backend_state::NOT_READY
    }
}

fn readiness(state: u8) -> u8 {
    match state {
        backend_state::READY => 2,
        backend_state::TERMINATING => 1,
        _ => 0,
    }
}
