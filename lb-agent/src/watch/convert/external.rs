//! What of a Service concerns clients outside the cluster: external and ingress addresses, source ranges, health check.
//!
//! A Service may name any address here, and whoever may write Services is not thereby trusted with the node
//! (CVE-2020-8554). Addresses that mean something on the node itself are left out with a warning; the rest of the Service
//! stays. Addresses that are another object's are the model's business.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as api;

use super::{address, parse_address};
use crate::{
    event::TrafficPolicy,
    watch::problem::{Key, Problem},
};

/// `spec.externalIPs`. `families` has an address of each family that the Service has; kube-proxy ignores the others
/// (`newBaseServiceInfo`), and so does this, but says so.
pub(super) fn external_ips(
    spec: &api::ServiceSpec,
    families: &[IpAddr],
    key: &Key,
    warnings: &mut Vec<Problem>,
) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for (i, text) in spec.external_ips.iter().flatten().enumerate() {
        let taken = address(text).and_then(|ip| {
            let has_family = families.iter().any(|own| own.is_ipv4() == ip.is_ipv4());
            has_family.then_some(ip).ok_or_else(|| format!("{ip} is of a family in which the Service has no clusterIP"))
        });
        match taken {
            Ok(ip) => push_new(&mut addresses, ip),
            Err(what) => warnings.push(key.problem(format!("spec.externalIPs[{i}]"), left_out(&what))),
        }
    }
    addresses
}

/// `status.loadBalancer.ingress[].ip` of the entries that nodes serve: those with `ipMode: VIP`, which is the default
/// (KEP-1860). Addresses of the other family are silently left to the load balancer, which may translate.
pub(super) fn ingress_ips(
    status: Option<&api::ServiceStatus>,
    families: &[IpAddr],
    key: &Key,
    warnings: &mut Vec<Problem>,
) -> Vec<IpAddr> {
    let list = status.and_then(|status| status.load_balancer.as_ref()?.ingress.as_deref()).unwrap_or_default();
    let mut addresses = Vec::new();
    for (i, entry) in list.iter().enumerate() {
        let is_vip = entry.ip_mode.as_deref().is_none_or(|mode| mode == "VIP");
        let Some(text) = entry.ip.as_deref().filter(|text| is_vip && !text.is_empty()) else { continue };
        match address(text) {
            Ok(ip) if families.iter().any(|own| own.is_ipv4() == ip.is_ipv4()) => push_new(&mut addresses, ip),
            Ok(_) => {}
            Err(what) => {
                warnings.push(key.problem(format!("status.loadBalancer.ingress[{i}].ip"), left_out(&what)));
            }
        }
    }
    addresses
}

/// `spec.loadBalancerSourceRanges`, read as kube-proxy does: blanks around an entry are taken off (the API's validation
/// lets them pass), bits behind the prefix length too; an entry that cannot be read is left out. So where none can be
/// read there is no restriction, which is worth the warning.
pub(super) fn source_ranges(spec: &api::ServiceSpec, key: &Key, warnings: &mut Vec<Problem>) -> Vec<IpNet> {
    let list = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    let mut ranges: Vec<IpNet> = Vec::new();
    let mut unread = Vec::new();
    for (i, text) in list.iter().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        match prefix(text.trim()) {
            Some(range) if ranges.contains(&range) => {}
            Some(range) => ranges.push(range),
            None => unread.push((i, text)),
        }
    }
    let open = ranges.is_empty();
    warnings.extend(unread.into_iter().map(|(i, text)| {
        let rest = if open { "left out, and without any other range everybody may connect" } else { "left out" };
        let what = format!("{text:?} is not a prefix such as 192.0.2.0/24; {rest}");
        key.problem(format!("spec.loadBalancerSourceRanges[{i}]"), what)
    }));
    ranges
}

fn prefix(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    let length = length.parse().ok().filter(|_| digits)?;
    Some(IpNet::new(parse_address(address)?, length).ok()?.trunc())
}

/// `spec.internalTrafficPolicy` and `spec.externalTrafficPolicy`, `Cluster` where absent.
pub(super) fn policy(text: Option<&str>, field: &str, key: &Key) -> Result<TrafficPolicy, Problem> {
    match text {
        None | Some("" | "Cluster") => Ok(TrafficPolicy::Cluster),
        Some("Local") => Ok(TrafficPolicy::Local),
        Some(other) => Err(key.problem(field, format!("{other:?} is not a policy (Cluster or Local)"))),
    }
}

/// `spec.healthCheckNodePort` of a Service that needs it: type LoadBalancer with `externalTrafficPolicy: Local`.
pub(super) fn health_check_port(
    spec: &api::ServiceSpec,
    external: TrafficPolicy,
    key: &Key,
    warnings: &mut Vec<Problem>,
) -> Option<u16> {
    if spec.type_.as_deref() != Some("LoadBalancer") || external != TrafficPolicy::Local {
        return None;
    }
    let number = spec.health_check_node_port.unwrap_or(0);
    let port = u16::try_from(number).ok().filter(|&port| port != 0);
    if port.is_none() {
        let what = format!("{number} is not a port: the load balancer has nothing to ask; set one (1 to 65535)");
        warnings.push(key.problem("spec.healthCheckNodePort", what));
    }
    port
}

fn push_new(addresses: &mut Vec<IpAddr>, ip: IpAddr) {
    if !addresses.contains(&ip) {
        addresses.push(ip);
    }
}

fn left_out(what: &str) -> String {
    format!("{what}; left out, the rest of the Service is served")
}
