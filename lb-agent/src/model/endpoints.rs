//! Which endpoints serve a Service port, and which of them take new connections.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use arcstr::ArcStr;
use lb_common::abi::{Proto, backend_state};

use super::DesiredBackend;
use crate::event::{Endpoint, EndpointSlice, Hints};

/// Where this is, which decides about hints and the policy Local.
#[derive(Clone, Copy, Debug)]
pub(super) struct Here<'a> {
    pub(super) node: &'a str,
    pub(super) zone: Option<&'a str>,
}

impl Here<'_> {
    fn is_local(self, node: Option<&ArcStr>) -> bool {
        !self.node.is_empty() && node.is_some_and(|name| **name == *self.node)
    }
}

/// The sets of endpoints that some frontend asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) cluster: bool,
    pub(super) local: bool,
}

/// An endpoint as one Service port sees it, once however many slices list it.
#[derive(Debug)]
pub(super) struct Merged<'a> {
    ip: IpAddr,
    port: u16,
    state: u8,
    endpoint: &'a Endpoint,
}

impl Merged<'_> {
    fn is_ready(&self) -> bool {
        self.state == backend_state::READY
    }

    /// Ends and still serves: used where nothing is ready.
    fn is_fallback(&self) -> bool {
        self.state == backend_state::TERMINATING
    }

    /// An endpoint is listed twice while it moves from one slice to another, or when the network gives the address of a
    /// pod that still terminates to a new one. kube-proxy prefers any that does not terminate and is otherwise undefined;
    /// here the readier entry wins then.
    fn rank(&self) -> (bool, u8) {
        (!self.endpoint.terminating, readiness(self.state))
    }
}

/// Collects the endpoints of one family for a port's name and protocol from all slices of the Service, sorted by address
/// and port. A slice port serves the Service port of the same name and protocol. Among equal entries for one address and
/// port the first by slice name counts, so that the answer does not depend on the order of arrival.
pub(super) fn merge<'a>(
    name: &str,
    proto: Proto,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    v4: bool,
) -> Vec<Merged<'a>> {
    let mut merged: BTreeMap<(IpAddr, u16), Merged<'a>> = BTreeMap::new();
    for slice in slices {
        let ports = slice.ports.iter().filter(|p| *p.name == *name && p.proto == proto);
        for number in ports.filter_map(|p| p.port) {
            for endpoint in slice.endpoints.iter().filter(|e| e.address.is_ipv4() == v4) {
                let new = Merged { ip: endpoint.address, port: number, state: state(endpoint), endpoint };
                match merged.get_mut(&(new.ip, new.port)) {
                    Some(old) if old.rank() >= new.rank() => {}
                    Some(old) => *old = new,
                    None => {
                        merged.insert((new.ip, new.port), new);
                    }
                }
            }
        }
    }
    merged.into_values().collect()
}

/// Decides which endpoints of one family take new connections, for each of the sets that are asked for; the counterpart
/// of kube-proxy's `CategorizeEndpoints` (pkg/proxy/topology.go).
///
/// Cluster: the ready ones that topology hints leave, if every ready one has a hint. Local: the ready ones on this node,
/// whatever the hints. Either set, when it has no ready endpoint to take, takes those that end and still serve.
pub(super) fn categorise(endpoints: Vec<Merged<'_>>, asked: Asked, here: Here<'_>) -> Vec<DesiredBackend> {
    let topology = Topology::of(&endpoints, here);
    let is_local = |e: &Merged<'_>| here.is_local(e.endpoint.node.as_ref());
    let cluster_ready = endpoints.iter().any(Merged::is_ready);
    let local_ready = endpoints.iter().any(|e| is_local(e) && e.is_ready());
    let in_cluster = |e: &Merged<'_>| {
        let usable = if cluster_ready { e.is_ready() && topology.admits(e, here) } else { e.is_fallback() };
        asked.cluster && usable
    };
    let in_local = |e: &Merged<'_>| {
        let usable = if local_ready { e.is_ready() } else { e.is_fallback() };
        asked.local && is_local(e) && usable
    };
    let backend = |e: &Merged<'_>| DesiredBackend {
        ip: e.ip,
        port: e.port,
        state: e.state,
        in_cluster: in_cluster(e),
        in_local: in_local(e),
        on_node: is_local(e),
        node: e.endpoint.node.clone(),
    };
    endpoints.iter().map(backend).collect()
}

/// What the hints of the endpoints ask of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topology {
    /// Nothing: all endpoints may be used.
    None,
    /// Only endpoints that are meant for this node.
    Node,
    /// Only endpoints that are meant for this zone.
    Zone,
}

impl Topology {
    /// Hints count only if every ready endpoint has one and at least one of them names this node or its zone: otherwise
    /// following them could overload a few endpoints or leave nobody. Hints for nodes come first (`PreferSameNode`).
    fn of(endpoints: &[Merged<'_>], here: Here<'_>) -> Self {
        let names = |hints: fn(&Hints) -> &[ArcStr], wanted: Option<&str>| {
            let mut ready = endpoints.iter().filter(|e| e.is_ready()).map(|e| e.hints(hints)).peekable();
            let all_hinted = ready.peek().is_some() && ready.clone().all(|names| !names.is_empty());
            all_hinted && ready.any(|names| names.iter().any(|name| Some(&**name) == wanted))
        };
        if names(|hints| &hints.nodes, Some(here.node)) {
            Self::Node
        } else if names(|hints| &hints.zones, here.zone) {
            Self::Zone
        } else {
            Self::None
        }
    }

    fn admits(self, endpoint: &Merged<'_>, here: Here<'_>) -> bool {
        let named = |names: &[ArcStr], wanted: Option<&str>| names.iter().any(|name| Some(&**name) == wanted);
        match self {
            Self::None => true,
            Self::Node => named(endpoint.hints(|hints| &hints.nodes), Some(here.node)),
            Self::Zone => named(endpoint.hints(|hints| &hints.zones), here.zone),
        }
    }
}

impl<'a> Merged<'a> {
    fn hints(&self, names: fn(&Hints) -> &[ArcStr]) -> &'a [ArcStr] {
        self.endpoint.hints.as_deref().map_or(&[], names)
    }
}

/// How many endpoints of one family are ready on this node, each address counted once however many ports it has; what
/// kube-proxy tells a load balancer (`LocalReadyEndpoints`).
pub(super) fn local_ready(slices: &[EndpointSlice], v4: bool, here: Here<'_>) -> usize {
    let ports: BTreeSet<(&str, Proto)> =
        slices.iter().flat_map(|slice| &slice.ports).map(|port| (&*port.name, port.proto)).collect();
    let merged = ports.into_iter().flat_map(|(name, proto)| merge(name, proto, slices.iter(), v4));
    let local = merged.filter(|e| e.is_ready() && here.is_local(e.endpoint.node.as_ref()));
    local.map(|e| e.ip).collect::<BTreeSet<_>>().len()
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
