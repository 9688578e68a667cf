//! Which addresses and ports a Service asks for. NodePorts, external and ingress addresses have their place here, with
//! the node's addresses as a further argument.

use lb_common::abi::scope;

use super::{FrontendAddr, claims::Claim};
use crate::event::{Service, ServiceKind, ServicePort};

/// What the whole Service claims.
pub(super) fn of_service(service: &Service) -> impl Iterator<Item = Claim> {
    service.ports.iter().flat_map(|port| of_port(service, port))
}

/// What one port of the Service claims.
pub(super) fn of_port(service: &Service, port: &ServicePort) -> impl Iterator<Item = Claim> {
    let (proto, port) = (port.proto, port.port);
    let addresses = match service.kind {
        ServiceKind::ClusterIp => service.cluster_ips.as_slice(),
        ServiceKind::Headless | ServiceKind::ExternalName | ServiceKind::OtherProxy => &[],
    };
    addresses.iter().map(move |&ip| Claim { frontend: FrontendAddr { ip, port, scope: scope::INTERNAL }, proto })
}
