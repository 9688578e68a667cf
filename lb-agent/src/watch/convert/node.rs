//! This node's own Node object.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as api;

use super::{key, label, parse_address, shared};
use crate::{
    event::Node,
    watch::{
        intern::Interner,
        problem::{Converted, Kind},
    },
};

const ZONE: &str = "topology.kubernetes.io/zone";
/// The taint that the cluster autoscaler puts on a node it is about to remove (KEP-3836).
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// Reads a Node. Nothing in it can make it useless: an address that is none is left out with a warning (kube-proxy leaves
/// it out as well).
pub(in crate::watch) fn node(object: &api::Node, names: &mut Interner) -> Converted<Node> {
    let key = key(Kind::Node, &object.metadata, names);
    let mut warnings = Vec::new();
    let mut of_type = |wanted: &str| -> Vec<IpAddr> {
        let list = object.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
        let mut addresses = Vec::new();
        for (i, entry) in list.iter().enumerate().filter(|(_, entry)| entry.type_ == wanted) {
            match parse_address(&entry.address) {
                Some(ip) => addresses.push(ip),
                None => {
                    let what = format!("{:?} is not an IP address; left out", entry.address);
                    warnings.push(key.problem(format!("status.addresses[{i}].address"), what));
                }
            }
        }
        addresses
    };
    let mut all = of_type("InternalIP");
    all.extend(of_type("ExternalIP"));
    let mut addresses: Vec<IpAddr> = Vec::new();
    for ip in all {
        if !addresses.iter().any(|first| first.is_ipv4() == ip.is_ipv4()) {
            addresses.push(ip);
        }
    }
    let taints = object.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let going_away = object.metadata.deletion_timestamp.is_some() || taints.iter().any(|t| t.key == TO_BE_DELETED);
    let zone = shared(label(&object.metadata, ZONE), names);
    Converted { object: Node { zone, addresses, going_away }, warnings }
}
