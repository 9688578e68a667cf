//! Endpoints objects, the older form of EndpointSlices. In a cluster the control plane copies hand-made ones into
//! slices; where there is none (manifests), this does the same.

use arcstr::ArcStr;
use k8s_openapi::api::{core::v1 as api, discovery::v1::EndpointSlice as ApiSlice};

use super::{At, MIRRORED_BY, address, key, label, port_number, protocol, shared};
use crate::{
    event::{Endpoint, EndpointSlice, ObjectName, SlicePort},
    watch::{
        intern::Interner,
        problem::{Converted, Key, Kind, Problem},
    },
};

/// Whether a slice is a copy of an Endpoints object.
pub(in crate::watch) fn is_mirrored(slice: &ApiSlice) -> bool {
    label(&slice.metadata, "endpointslice.kubernetes.io/managed-by") == Some(MIRRORED_BY)
}

/// Turns each subset into a slice. The slices' names have a `/`, so no real slice can have them.
pub(in crate::watch) fn endpoints(
    object: &api::Endpoints,
    names: &mut Interner,
) -> Result<Converted<Vec<EndpointSlice>>, Problem> {
    let key = key(Kind::Endpoints, &object.metadata, names);
    let service: ArcStr = names.get(&key.name.name);
    let mut slices = Vec::new();
    for (i, subset) in object.subsets.iter().flatten().enumerate() {
        let ready = subset.addresses.as_deref().unwrap_or_default();
        let not_ready = subset.not_ready_addresses.as_deref().unwrap_or_default();
        let mut endpoints = addresses(ready, &format!("subsets[{i}].addresses"), true, &key, names)?;
        endpoints.extend(addresses(not_ready, &format!("subsets[{i}].notReadyAddresses"), false, &key, names)?);
        let ports = ports(subset.ports.as_deref().unwrap_or_default(), i, &key, names)?;
        let name = ObjectName { namespace: key.name.namespace.clone(), name: format!("{service}/{i}").into() };
        slices.push(EndpointSlice { name, service: service.clone(), ports, endpoints });
    }
    Ok(Converted { object: slices, warnings: Vec::new() })
}

fn addresses(
    list: &[api::EndpointAddress],
    field: &str,
    ready: bool,
    key: &Key,
    names: &mut Interner,
) -> Result<Vec<Endpoint>, Problem> {
    let convert = |(i, entry): (usize, &api::EndpointAddress)| {
        Ok(Endpoint {
            address: address(&entry.ip).at(key, || format!("{field}[{i}].ip"))?,
            ready,
            serving: ready,
            terminating: false,
            node: shared(entry.node_name.as_deref(), names),
            zone: None,
            hints: None,
        })
    };
    list.iter().enumerate().map(convert).collect()
}

fn ports(
    list: &[api::EndpointPort],
    subset: usize,
    key: &Key,
    names: &mut Interner,
) -> Result<Vec<SlicePort>, Problem> {
    let mut ports = Vec::with_capacity(list.len());
    for (i, port) in list.iter().enumerate() {
        let field = |name: &str| format!("subsets[{subset}].ports[{i}].{name}");
        let number = port_number(port.port).at(key, || field("port"))?;
        if let Some(proto) = protocol(port.protocol.as_deref()).at(key, || field("protocol"))? {
            ports.push(SlicePort {
                name: names.get(port.name.as_deref().unwrap_or_default()),
                proto,
                port: Some(number),
            });
        }
    }
    Ok(ports)
}
