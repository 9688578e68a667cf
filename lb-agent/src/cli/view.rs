//! What the maps say, as rows for people: ids replaced by names, frontends joined with their slots and backends, sorted.
//!
//! Pure, over [`MapStore`]: the same on the kernel's maps and on simulated ones. Reads may happen while an agent
//! writes, so a row may be a moment older than its neighbour, and a slot may name a backend that has just gone.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::{IpAddr, SocketAddr},
};

use lb_common::abi::{
    Backend, Family, Frontend, FrontendKey, NameKey, Proto, V4, V6, backend_state, endpoint_sets, frontend_flags,
    name_kind, scope,
};
use serde::Serialize;

use crate::datapath::store::{FamilyStore, MapStore, StoreError};

/// A frontend: one address and port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct FrontendRow {
    /// `namespace/name` or `namespace/name:port-name`.
    pub service: String,
    /// `TCP` or `UDP`; `any` where every other port of the address is refused.
    pub protocol: &'static str,
    /// Where clients connect.
    pub frontend: Address,
    /// Which clients it is for: `internal` (all but those for whom there is another entry), `host` (the node's own network
    /// namespace), `external` (those outside).
    pub scope: &'static str,
    /// The traffic policy it follows, `Cluster` or `Local`; none where it refuses whatever that is.
    pub policy: Option<&'static str>,
    /// Session affinity in seconds, 0 for none.
    pub affinity_s: u32,
    /// Only clients in the Service's `loadBalancerSourceRanges` may use it.
    pub restricted: bool,
    /// What is special about it, in words.
    pub notes: Vec<String>,
    /// Who serves it, sorted.
    pub backends: Vec<BackendRow>,
}

/// An address and port; without a port all those that no Service has there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address {
    pub ip: IpAddr,
    pub port: Option<u16>,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.ip, self.port) {
            (ip, Some(port)) => SocketAddr::new(ip, port).fmt(f),
            (IpAddr::V4(ip), None) => write!(f, "{ip}:*"),
            (IpAddr::V6(ip), None) => write!(f, "[{ip}]:*"),
        }
    }
}

impl Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A backend as one frontend sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct BackendRow {
    /// Where connections go.
    pub backend: SocketAddr,
    /// `ready`, `terminating`, `not-ready`.
    pub state: String,
    /// Whether new connections are given to it: it is in the frontend's slots.
    pub takes_new: bool,
    /// The traffic policies under which it is given new connections.
    pub sets: Vec<&'static str>,
    /// Where it runs, if known.
    pub node: Option<String>,
}

/// Which rows are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    /// Only this namespace.
    pub namespace: Option<String>,
    /// Only the Service of this name.
    pub name: Option<String>,
}

impl Filter {
    /// From `-n NAMESPACE` and `SERVICE`, which is `NAME` or `NAMESPACE/NAME`; an error if they contradict each other.
    pub(super) fn new(namespace: Option<&str>, service: Option<&str>) -> Result<Self, String> {
        let (in_service, name) = match service.and_then(|service| service.split_once('/')) {
            Some((namespace, name)) => (Some(namespace), Some(name)),
            None => (None, service),
        };
        match (namespace, in_service) {
            (Some(flag), Some(argument)) if flag != argument => {
                Err(format!("--namespace {flag} and {argument}/... name two namespaces; give one"))
            }
            _ => Ok(Self { namespace: in_service.or(namespace).map(str::to_owned), name: name.map(str::to_owned) }),
        }
    }

    /// Whether `service` (`namespace/name[:port]`) is wanted. `NAME` may carry the port's name too.
    pub(super) fn wants(&self, service: &str) -> bool {
        let (namespace, name) = service.split_once('/').unwrap_or(("", service));
        let bare = name.split_once(':').map_or(name, |(bare, _)| bare);
        self.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
            && self.name.as_deref().is_none_or(|wanted| wanted == name || wanted == bare)
    }
}

/// All frontends that the filter wants, of both families, sorted by Service, protocol and address.
pub(super) fn frontends(store: &impl MapStore, filter: &Filter) -> Result<Vec<FrontendRow>, StoreError> {
    let names: HashMap<NameKey, String> = store.names()?.into_iter().collect();
    let mut rows = Vec::new();
    family_rows::<V4>(store, &names, filter, &mut rows)?;
    family_rows::<V6>(store, &names, filter, &mut rows)?;
    rows.sort();
    Ok(rows)
}

fn family_rows<F: Family>(
    store: &impl FamilyStore<F>,
    names: &HashMap<NameKey, String>,
    filter: &Filter,
    rows: &mut Vec<FrontendRow>,
) -> Result<(), StoreError> {
    let mut by_service: BTreeMap<u32, Vec<(u32, Backend<F>)>> = BTreeMap::new();
    for (id, backend) in store.backends()? {
        by_service.entry(backend.service).or_default().push((id, backend));
    }
    // What may not be bound leads nowhere: it is of no interest here.
    for (key, frontend) in store.frontends()?.into_iter().filter(|(key, _)| key.scope != scope::BIND) {
        let service = service_name(names, frontend.service);
        if !filter.wants(&service) {
            continue;
        }
        let in_slots = slot_backends(store, &frontend)?;
        let known = by_service.get(&frontend.service).map_or(&[][..], Vec::as_slice);
        let mut backends: Vec<_> =
            known.iter().map(|(id, backend)| backend_row(names, backend, in_slots.contains(id))).collect();
        backends.sort();
        rows.push(FrontendRow { backends, ..frontend_row(service, &key, &frontend) });
    }
    Ok(())
}

/// A row without its backends.
fn frontend_row<F: Family>(service: String, key: &FrontendKey<F>, frontend: &Frontend) -> FrontendRow {
    let is_guard = (key.port, key.proto) == (0, 0);
    let policy = if frontend.flags & frontend_flags::LOCAL != 0 { "Local" } else { "Cluster" };
    FrontendRow {
        service,
        protocol: if is_guard { "any" } else { protocol(key.proto) },
        frontend: Address { ip: F::to_ip(key.addr), port: (!is_guard).then_some(key.port) },
        scope: match key.scope {
            scope::INTERNAL => "internal",
            scope::HOST => "host",
            scope::EXTERNAL => "external",
            _ => "unknown",
        },
        policy: (!is_guard).then_some(policy),
        affinity_s: frontend.affinity_s,
        restricted: frontend.flags & frontend_flags::SOURCES != 0,
        notes: notes(key, frontend),
        backends: Vec::new(),
    }
}

/// The ids in a frontend's slots.
fn slot_backends<F: Family>(store: &impl FamilyStore<F>, frontend: &Frontend) -> Result<BTreeSet<u32>, StoreError> {
    if frontend.n_slots == 0 {
        return Ok(BTreeSet::new());
    }
    Ok(store.slots(frontend.first_slot, frontend.n_slots)?.iter().map(|slot| slot.backend).collect())
}

fn backend_row<F: Family>(names: &HashMap<NameKey, String>, backend: &Backend<F>, takes_new: bool) -> BackendRow {
    let node = NameKey { kind: name_kind::NODE, id: backend.node };
    BackendRow {
        backend: SocketAddr::new(F::to_ip(backend.addr), backend.port),
        state: state(backend.state),
        takes_new,
        sets: sets(backend.sets),
        node: names.get(&node).cloned(),
    }
}

/// The name of a Service port, or its number where the name is missing (`lb_names` was full, say).
pub(super) fn service_name(names: &HashMap<NameKey, String>, id: u32) -> String {
    let key = NameKey { kind: name_kind::SERVICE, id };
    names.get(&key).cloned().unwrap_or_else(|| format!("?/service-port-{id}"))
}

pub(super) fn protocol(number: u8) -> &'static str {
    match Proto::from_number(number) {
        Some(Proto::Tcp) => "TCP",
        Some(Proto::Udp) => "UDP",
        None => "?",
    }
}

fn state(state: u8) -> String {
    match state {
        backend_state::READY => "ready".to_owned(),
        backend_state::TERMINATING => "terminating".to_owned(),
        backend_state::NOT_READY => "not-ready".to_owned(),
        other => format!("unknown-{other}"),
    }
}

fn notes<F: Family>(key: &FrontendKey<F>, frontend: &Frontend) -> Vec<String> {
    let mut notes = Vec::new();
    if (key.port, key.proto) == (0, 0) {
        notes.push("refused: no Service has these ports".to_owned());
    } else if frontend.n_slots == 0 {
        notes.push(nobody_serves(key.scope, frontend.flags).to_owned());
    }
    if frontend.flags & frontend_flags::EXTERNAL_DIFFERS != 0 {
        notes.push("clients inside".to_owned());
    }
    match key.scope {
        scope::EXTERNAL => notes.push("clients outside".to_owned()),
        scope::HOST => notes.push("the node's own processes only".to_owned()),
        _ => {}
    }
    if frontend.affinity_s != 0 {
        notes.push(format!("affinity {} s", frontend.affinity_s));
    }
    if frontend.flags & frontend_flags::SOURCES != 0 {
        notes.push("source ranges".to_owned());
    }
    notes
}

/// A traffic policy that leaves nobody here is not the end of a packet's way: another node may have an endpoint.
fn nobody_serves(scope: u8, flags: u32) -> &'static str {
    match (flags & frontend_flags::DROP != 0, scope) {
        (false, _) => "refused: no usable endpoint",
        (true, scope::EXTERNAL) => "dropped: no endpoint on this node",
        (true, _) => "refused, packets dropped: no endpoint on this node",
    }
}

fn sets(sets: u32) -> Vec<&'static str> {
    let known = [(endpoint_sets::CLUSTER, "Cluster"), (endpoint_sets::LOCAL, "Local")];
    known.into_iter().filter(|(bit, _)| sets & bit != 0).map(|(_, name)| name).collect()
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
