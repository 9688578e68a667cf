//! Services.

use std::{collections::HashSet, net::IpAddr};

use k8s_openapi::api::core::v1 as api;

use super::{At, address, has_label, key, port_number, protocol};
use crate::{
    event::{Service, ServiceKind, ServicePort},
    watch::{
        intern::Interner,
        problem::{Converted, Key, Kind, Problem},
    },
};

/// Labels by which a Service says that this proxy should leave it alone; kube-proxy's watch leaves both out.
const OTHER_PROXY_LABELS: [&str; 2] = ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"];

/// Reads a Service. Of Services that are not ours to serve only name, age and kind are read.
pub(in crate::watch) fn service(object: &api::Service, names: &mut Interner) -> Result<Converted<Service>, Problem> {
    let key = key(Kind::Service, &object.metadata, names);
    let created_s = object.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
    let kind = kind(object, &key)?;
    let mut warnings = Vec::new();
    let (cluster_ips, ports) = match kind {
        ServiceKind::ClusterIp => {
            let spec = object.spec.as_ref();
            (cluster_ips(spec, &key)?, ports(spec, &key, names, &mut warnings)?)
        }
        ServiceKind::Headless | ServiceKind::ExternalName | ServiceKind::OtherProxy => (Vec::new(), Vec::new()),
    };
    let service = Service { created_s, kind, cluster_ips, ports, ..Service::named(key.name) };
    Ok(Converted { object: service, warnings })
}

fn kind(object: &api::Service, key: &Key) -> Result<ServiceKind, Problem> {
    if OTHER_PROXY_LABELS.iter().any(|label| has_label(&object.metadata, label)) {
        return Ok(ServiceKind::OtherProxy);
    }
    let spec = object.spec.as_ref();
    match spec.and_then(|spec| spec.type_.as_deref()) {
        Some("ExternalName") => return Ok(ServiceKind::ExternalName),
        None | Some("ClusterIP" | "NodePort" | "LoadBalancer") => {}
        Some(other) => {
            let what = format!("{other:?} is not a type (ClusterIP, NodePort, LoadBalancer or ExternalName)");
            return Err(key.problem("spec.type", what));
        }
    }
    match spec.and_then(|spec| spec.cluster_ip.as_deref()) {
        Some("None") => Ok(ServiceKind::Headless),
        _ => Ok(ServiceKind::ClusterIp),
    }
}

fn cluster_ips(spec: Option<&api::ServiceSpec>, key: &Key) -> Result<Vec<IpAddr>, Problem> {
    let single = spec.and_then(|spec| spec.cluster_ip.as_deref()).filter(|text| !text.is_empty());
    let list = spec.and_then(|spec| spec.cluster_ips.as_deref()).unwrap_or_default();
    let first = single.map(|text| address(text).at(key, || "spec.clusterIP".to_owned())).transpose()?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for (i, text) in list.iter().enumerate() {
        let field = || format!("spec.clusterIPs[{i}]");
        let ip = address(text).at(key, field)?;
        if let Some(first) = first.filter(|&first| i == 0 && first != ip) {
            return Err(key.problem(field(), format!("{ip} differs from spec.clusterIP, which is {first}")));
        }
        if addresses.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) {
            return Err(key.problem(field(), format!("{ip} is the second address of its family; at most one of each")));
        }
        addresses.push(ip);
    }
    if addresses.is_empty() {
        addresses.extend(first);
    }
    if addresses.is_empty() {
        let what = "missing: nobody allocates an address here; set one, or None for a headless Service";
        return Err(key.problem("spec.clusterIP", what));
    }
    Ok(addresses)
}

fn ports(
    spec: Option<&api::ServiceSpec>,
    key: &Key,
    names: &mut Interner,
    warnings: &mut Vec<Problem>,
) -> Result<Vec<ServicePort>, Problem> {
    let list = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    if list.is_empty() {
        return Err(key.problem("spec.ports", "missing: a Service with an address needs at least one port"));
    }
    let mut ports = Vec::with_capacity(list.len());
    let (mut seen_names, mut seen_ports) = (HashSet::new(), HashSet::new());
    for (i, port) in list.iter().enumerate() {
        let field = |name: &str| format!("spec.ports[{i}].{name}");
        let name = port.name.as_deref().unwrap_or_default();
        if name.is_empty() && list.len() > 1 {
            return Err(key.problem(field("name"), "missing: with several ports each needs a name"));
        }
        if !seen_names.insert(name) {
            return Err(key.problem(field("name"), format!("{name:?} is also the name of another port")));
        }
        if !is_label(name) {
            let what = format!("{name:?} is not a port name (at most 63 of a-z, 0-9 and -)");
            return Err(key.problem(field("name"), what));
        }
        let number = port_number(port.port).at(key, || field("port"))?;
        let Some(proto) = protocol(port.protocol.as_deref()).at(key, || field("protocol"))? else {
            warnings.push(key.problem(field("protocol"), "SCTP is not served by this agent; the port is left out"));
            continue;
        };
        if !seen_ports.insert((number, proto)) {
            return Err(key.problem(field("port"), format!("{number} appears twice with the same protocol")));
        }
        ports.push(ServicePort { name: names.get(name), proto, port: number, node_port: None });
    }
    Ok(ports)
}

/// RFC 1123, as the API server wants a port's name; no name is a name here.
fn is_label(name: &str) -> bool {
    name.len() <= 63 && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}
