//! Services.

use std::{collections::HashSet, net::IpAddr};

use k8s_openapi::api::core::v1 as api;

use super::{At, address, external, has_label, key, port_number, protocol};
use crate::{
    event::{ObjectName, Service, ServiceKind, ServicePort},
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
    let read = match kind {
        ServiceKind::ClusterIp => served(object, &key, names, &mut warnings)?,
        ServiceKind::Headless | ServiceKind::ExternalName | ServiceKind::OtherProxy => Service::named(key.name),
    };
    Ok(Converted { object: Service { created_s, kind, ..read }, warnings })
}

/// The fields of a Service that has a cluster address. Its type decides only what kube-proxy lets it decide: a node port
/// or an ingress address that is there counts whatever the type.
fn served(
    object: &api::Service,
    key: &Key,
    names: &mut Interner,
    warnings: &mut Vec<Problem>,
) -> Result<Service, Problem> {
    let empty = api::ServiceSpec::default();
    let spec = object.spec.as_ref().unwrap_or(&empty);
    let cluster_ips = cluster_ips(spec, key)?;
    let external_policy = external::policy(spec.external_traffic_policy.as_deref(), "spec.externalTrafficPolicy", key)?;
    let internal_policy = external::policy(spec.internal_traffic_policy.as_deref(), "spec.internalTrafficPolicy", key)?;
    Ok(Service {
        ports: ports(spec, key, names, warnings)?,
        external_ips: external::external_ips(spec, &cluster_ips, key, warnings),
        ingress_ips: external::ingress_ips(object.status.as_ref(), &cluster_ips, key, warnings),
        source_ranges: external::source_ranges(spec, key, warnings),
        internal_policy,
        external_policy,
        affinity_s: affinity(spec, key)?,
        health_check_port: external::health_check_port(spec, external_policy, key, warnings),
        cluster_ips,
        ..Service::named(ObjectName::clone(&key.name))
    })
}

/// How long a client stays with its backend, in seconds; 0 for not at all. The default and the limits are the API's
/// (`DefaultClientIPServiceAffinitySeconds`, `MaxClientIPServiceAffinitySeconds`).
fn affinity(spec: &api::ServiceSpec, key: &Key) -> Result<u32, Problem> {
    const DEFAULT_S: i32 = 10_800;
    const MAX_S: u32 = 86_400;
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return Ok(0),
        Some("ClientIP") => {}
        Some(other) => {
            return Err(key.problem("spec.sessionAffinity", format!("{other:?} is not an affinity (None or ClientIP)")));
        }
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = config.and_then(|config| config.timeout_seconds).unwrap_or(DEFAULT_S);
    u32::try_from(seconds).ok().filter(|s| (1..=MAX_S).contains(s)).ok_or_else(|| {
        let what = format!("{seconds} is not a number of seconds from 1 to {MAX_S} (a day)");
        key.problem("spec.sessionAffinityConfig.clientIP.timeoutSeconds", what)
    })
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

fn cluster_ips(spec: &api::ServiceSpec, key: &Key) -> Result<Vec<IpAddr>, Problem> {
    let single = spec.cluster_ip.as_deref().filter(|text| !text.is_empty());
    let list = spec.cluster_ips.as_deref().unwrap_or_default();
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
    spec: &api::ServiceSpec,
    key: &Key,
    names: &mut Interner,
    warnings: &mut Vec<Problem>,
) -> Result<Vec<ServicePort>, Problem> {
    let list = spec.ports.as_deref().unwrap_or_default();
    if list.is_empty() {
        return Err(key.problem("spec.ports", "missing: a Service with an address needs at least one port"));
    }
    let mut ports = Vec::with_capacity(list.len());
    let (mut seen_names, mut seen_ports, mut seen_node_ports) = (HashSet::new(), HashSet::new(), HashSet::new());
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
        let node_port = port.node_port.filter(|&number| number != 0);
        let node_port = node_port.map(port_number).transpose().at(key, || field("nodePort"))?;
        if node_port.is_none() && spec.type_.as_deref() == Some("NodePort") {
            // The API server allocates one, in a cluster.
            let what = "missing: nobody allocates one here; set one, or the port is served at the clusterIP only";
            warnings.push(key.problem(field("nodePort"), what));
        }
        if node_port.is_some_and(|node_port| !seen_node_ports.insert((node_port, proto))) {
            return Err(key.problem(field("nodePort"), "is also another port's, with the same protocol"));
        }
        ports.push(ServicePort { name: names.get(name), proto, port: number, node_port });
    }
    Ok(ports)
}

/// RFC 1123, as the API server wants a port's name; no name is a name here.
fn is_label(name: &str) -> bool {
    name.len() <= 63 && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}
