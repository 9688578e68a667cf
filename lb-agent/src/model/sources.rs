//! `spec.loadBalancerSourceRanges`: whom it keeps out, family by family, as kube-proxy does (`newBaseServiceInfo`).

use std::net::IpAddr;

use ipnet::IpNet;

use crate::event::Service;

/// Whether an ingress address of this Service is for some clients only. A range that holds every address of its family
/// lifts the restriction, as if the family had no range at all.
pub(super) fn restrict(service: &Service, ip: IpAddr) -> bool {
    let mut of_family = service.source_ranges.iter().filter(|range| range.addr().is_ipv4() == ip.is_ipv4()).peekable();
    of_family.peek().is_some() && of_family.all(|range| range.prefix_len() > 0)
}

/// The ranges that restrict anybody.
pub(super) fn ranges(service: &Service) -> Vec<IpNet> {
    service.source_ranges.iter().filter(|range| restrict(service, range.addr())).copied().collect()
}
