//! Which addresses and ports a Service asks for, by which field, and who answers there.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
};

use lb_common::abi::{Proto, scope};

use super::{
    Answer, EndpointSet, FrontendAddr,
    claims::{Claim, Claimant, Field},
    config::ModelConfig,
    node::NodeView,
    sources,
};
use crate::event::{ObjectName, Service, ServiceKind, ServicePort, TrafficPolicy};

/// A frontend that a Service asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Want {
    /// Index in `spec.ports`.
    pub(super) port: usize,
    pub(super) field: Field,
    pub(super) answer: Answer,
}

/// Everything that a Service asks for.
pub(super) type Wants = BTreeMap<Claim, Want>;

/// The wishes of a Service. Frontends of one claim differ in nothing but the field that names the address: it is named
/// once, by the field that counts most among Services, and answered as the field decides that kube-proxy enters last into
/// the map of Service addresses, which it asks before that of NodePorts.
pub(super) fn of_service(service: &Service, config: &ModelConfig, node: &NodeView) -> Wants {
    let mut wants = Wants::new();
    if service.kind != ServiceKind::ClusterIp {
        return wants;
    }
    for (index, port) in service.ports.iter().enumerate() {
        node_port(service, index, port, node, &mut wants);
    }
    for (index, port) in service.ports.iter().enumerate() {
        for (i, &ip) in service.cluster_ips.iter().enumerate() {
            let set = set(service.internal_policy);
            let answer = Answer { set, outside: set, restricted: false };
            add(&mut wants, port, ip, Want { port: index, field: Field::cluster_ip(i), answer });
        }
        external(service, index, port, config, &mut wants);
    }
    wants
}

/// NodePorts on the node's addresses; and the port itself, which no process may bind.
fn node_port(service: &Service, index: usize, port: &ServicePort, node: &NodeView, wants: &mut Wants) {
    let Some(number) = port.node_port else { return };
    let want = |scope| {
        // Whoever is outside reaches neither a loopback address nor what may not be bound.
        let outside = if scope == scope::INTERNAL { set(service.external_policy) } else { EndpointSet::Cluster };
        let answer = Answer { set: EndpointSet::Cluster, outside, restricted: false };
        Want { port: index, field: Field::node_port(index), answer }
    };
    let addresses = node.nodeport_addresses().iter().copied();
    let binds = [IpAddr::from([0_u8; 4]), IpAddr::from([0_u8; 16])].map(|ip| (ip, scope::BIND));
    for (ip, scope) in addresses.chain(binds).filter(|(ip, _)| has_family(service, *ip)) {
        let frontend = FrontendAddr { ip, port: number, scope };
        wants.insert(Claim { frontend, proto: port.proto }, want(scope));
    }
}

/// External and ingress addresses. As with NodePorts, `externalTrafficPolicy` is for clients outside: those on this node
/// always get the endpoints of the policy Cluster, since kube-proxy short-circuits their traffic as if it had gone out and
/// come in again.
fn external(service: &Service, index: usize, port: &ServicePort, config: &ModelConfig, wants: &mut Wants) {
    for (field, ip) in named(service) {
        if has_family(service, ip) && refusal(field, ip, port, config).is_none() {
            let restricted = field.is_ingress() && sources::restrict(service, ip);
            let outside = set(service.external_policy);
            let answer = Answer { set: EndpointSet::Cluster, outside, restricted };
            add(wants, port, ip, Want { port: index, field, answer });
        }
    }
}

fn set(policy: TrafficPolicy) -> EndpointSet {
    match policy {
        TrafficPolicy::Cluster => EndpointSet::Cluster,
        TrafficPolicy::Local => EndpointSet::Local,
    }
}

/// The external and ingress addresses of a Service.
fn named(service: &Service) -> impl Iterator<Item = (Field, IpAddr)> {
    let external = service.external_ips.iter().enumerate().map(|(i, &ip)| (Field::external_ip(i), ip));
    let ingress = service.ingress_ips.iter().enumerate().map(|(i, &ip)| (Field::ingress(i), ip));
    external.chain(ingress)
}

fn add(wants: &mut Wants, port: &ServicePort, ip: IpAddr, want: Want) {
    let frontend = FrontendAddr { ip, port: port.port, scope: scope::INTERNAL };
    let known = wants.entry(Claim { frontend, proto: port.proto }).or_insert(want);
    let field = if known.field.precedes(want.field) { known.field } else { want.field };
    *known = Want { field, ..want };
}

/// kube-proxy serves a Service in the families of its cluster addresses only.
fn has_family(service: &Service, ip: IpAddr) -> bool {
    service.cluster_ips.iter().any(|own| own.is_ipv4() == ip.is_ipv4())
}

/// Why this address and port are not served.
fn refusal(field: Field, ip: IpAddr, port: &ServicePort, config: &ModelConfig) -> Option<String> {
    if !field.is_ingress() && !config.external_ips.allow(ip) {
        return Some(format!("{ip} is left out, as --external-ips asks"));
    }
    let is_server = |server: &SocketAddr| server.ip() == ip && server.port() == port.port;
    if port.proto == Proto::Tcp && config.api_servers.iter().any(is_server) {
        let number = port.port;
        return Some(format!("{ip} port {number} is left out: it is the API server that this agent uses"));
    }
    None
}

/// What of a Service is refused, one line for each field and reason.
pub(super) fn refusals(service: &Service, config: &ModelConfig) -> Vec<Refusal> {
    let mut refusals: Vec<Refusal> = Vec::new();
    if service.kind != ServiceKind::ClusterIp {
        return refusals;
    }
    for (field, ip) in named(service).filter(|(_, ip)| has_family(service, *ip)) {
        for port in &service.ports {
            if let Some(what) = refusal(field, ip, port, config) {
                let refusal = Refusal { service: service.name.clone(), field, what };
                if !refusals.contains(&refusal) {
                    refusals.push(refusal);
                }
            }
        }
    }
    refusals
}

/// An address that a Service names and does not get. The rest of the Service is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Whose.
    pub service: ObjectName,
    field: Field,
    what: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Service {}: {}: {}; the rest of the Service is served", self.service, self.field, self.what)
    }
}

/// As whom a Service makes a claim.
pub(super) fn claimant(service: &Service, field: Field) -> Claimant {
    Claimant { field, created_s: service.created_s, name: service.name.clone() }
}
