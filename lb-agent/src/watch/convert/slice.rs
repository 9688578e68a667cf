//! EndpointSlices.

use std::{collections::HashSet, net::IpAddr};

use arcstr::ArcStr;
use k8s_openapi::api::discovery::v1 as api;

use super::{At, address, key, label, port_number, protocol, shared};
use crate::{
    event::{Endpoint, EndpointSlice, Hints, SlicePort},
    watch::{
        intern::Interner,
        problem::{Converted, Key, Kind, Problem},
    },
};

/// The label that names a slice's Service.
pub(in crate::watch) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Value of `endpointslice.kubernetes.io/managed-by` on slices that the control plane copies from Endpoints objects.
pub(in crate::watch) const MIRRORED_BY: &str = "endpointslicemirroring-controller.k8s.io";

/// Reads an EndpointSlice; `None` if it belongs to no Service (kube-proxy ignores such slices too).
pub(in crate::watch) fn slice(
    object: &api::EndpointSlice,
    names: &mut Interner,
) -> Result<Option<Converted<EndpointSlice>>, Problem> {
    let key = key(Kind::EndpointSlice, &object.metadata, names);
    let Some(service) = label(&object.metadata, SERVICE_NAME).filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let service: ArcStr = names.get(service);
    let mut warnings = Vec::new();
    let family = match object.address_type.as_str() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        "FQDN" => {
            warnings.push(key.problem("addressType", "FQDN: names cannot be served; the slice is left out"));
            let slice = EndpointSlice { name: key.name, service, ports: Vec::new(), endpoints: Vec::new() };
            return Ok(Some(Converted { object: slice, warnings }));
        }
        "" => return Err(key.problem("addressType", "missing (IPv4 or IPv6)")),
        other => return Err(key.problem("addressType", format!("{other:?} is not a type (IPv4 or IPv6)"))),
    };
    let ports = ports(object.ports.as_deref().unwrap_or_default(), &key, names)?;
    let list = object.endpoints.as_deref().unwrap_or_default();
    let endpoints = list
        .iter()
        .enumerate()
        .map(|(i, endpoint)| self::endpoint(endpoint, i, family, &key, names))
        .collect::<Result<_, _>>()?;
    Ok(Some(Converted { object: EndpointSlice { name: key.name, service, ports, endpoints }, warnings }))
}

#[derive(Clone, Copy, Debug)]
enum Family {
    V4,
    V6,
}

fn endpoint(
    endpoint: &api::Endpoint,
    i: usize,
    family: Family,
    key: &Key,
    names: &mut Interner,
) -> Result<Endpoint, Problem> {
    // Only the first address is used, by kube-proxy too: the API says that all of them mean the same endpoint.
    let field = || format!("endpoints[{i}].addresses[0]");
    let Some(text) = endpoint.addresses.first() else {
        return Err(key.problem(format!("endpoints[{i}].addresses"), "missing"));
    };
    let ip = address(text).at(key, field)?;
    match (family, ip) {
        (Family::V4, IpAddr::V4(_)) | (Family::V6, IpAddr::V6(_)) => {}
        (Family::V4, IpAddr::V6(_)) => return Err(key.problem(field(), format!("{ip}, but addressType is IPv4"))),
        (Family::V6, IpAddr::V4(_)) => return Err(key.problem(field(), format!("{ip}, but addressType is IPv6"))),
    }
    let conditions = endpoint.conditions.as_ref();
    Ok(Endpoint {
        address: ip,
        ready: conditions.and_then(|c| c.ready).unwrap_or(true),
        serving: conditions.and_then(|c| c.serving).unwrap_or(true),
        terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        node: shared(endpoint.node_name.as_deref(), names),
        zone: shared(endpoint.zone.as_deref(), names),
        hints: hints(endpoint.hints.as_ref(), names),
    })
}

/// Names in hints are shared texts: many endpoints name the same zones.
fn hints(hints: Option<&api::EndpointHints>, names: &mut Interner) -> Option<Box<Hints>> {
    let hints = hints?;
    let zones = hints.for_zones.iter().flatten().map(|zone| names.get(&zone.name)).collect();
    let nodes = hints.for_nodes.iter().flatten().map(|node| names.get(&node.name)).collect();
    let hints = Hints { zones, nodes };
    (hints != Hints::default()).then(|| Box::new(hints))
}

fn ports(list: &[api::EndpointPort], key: &Key, names: &mut Interner) -> Result<Vec<SlicePort>, Problem> {
    let mut ports = Vec::with_capacity(list.len());
    let mut seen = HashSet::new();
    for (i, port) in list.iter().enumerate() {
        let field = |name: &str| format!("ports[{i}].{name}");
        let name = port.name.as_deref().unwrap_or_default();
        let Some(proto) = protocol(port.protocol.as_deref()).at(key, || field("protocol"))? else {
            continue;
        };
        if !seen.insert((name, proto)) {
            return Err(key.problem(field("name"), format!("{name:?} is also the name of another port")));
        }
        // No number means "all ports" in the API; kube-proxy serves neither that nor 0.
        let number = port.port.filter(|&number| number != 0);
        let number = number.map(port_number).transpose().at(key, || field("port"))?;
        ports.push(SlicePort { name: names.get(name), proto, port: number });
    }
    Ok(ports)
}
