//! From API objects to events: the fields that this agent reads, each checked once, here. An object that does not pass
//! is refused whole with a [`Problem`] that names the field; nothing after this point checks again.

mod endpoints;
mod external;
mod node;
mod pod;
mod service;
mod slice;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use arcstr::ArcStr;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use lb_common::abi::Proto;

pub(super) use self::{
    endpoints::{endpoints, is_mirrored},
    node::node,
    pod::pod,
    service::service,
    slice::{MIRRORED_BY, SERVICE_NAME, slice},
};
use super::{
    intern::Interner,
    problem::{Key, Kind, Problem},
};
use crate::event::ObjectName;

/// The name in an object's metadata; the namespace of a Node is empty. `None` if it has none, which the API server never
/// lets happen.
pub(super) fn name(metadata: &ObjectMeta, names: &mut Interner) -> Option<ObjectName> {
    let name = metadata.name.as_deref().filter(|name| !name.is_empty())?;
    Some(ObjectName { namespace: names.get(metadata.namespace.as_deref().unwrap_or_default()), name: name.into() })
}

fn key(kind: Kind, metadata: &ObjectMeta, names: &mut Interner) -> Key {
    let name = name(metadata, names).unwrap_or_else(|| ObjectName::new("", ""));
    Key { kind, name }
}

fn has_label(metadata: &ObjectMeta, label: &str) -> bool {
    metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(label))
}

fn label<'a>(metadata: &'a ObjectMeta, label: &str) -> Option<&'a str> {
    metadata.labels.as_ref()?.get(label).map(String::as_str)
}

/// A protocol, TCP where absent (the API's default); `None` for SCTP, which is Kubernetes' but not ours.
fn protocol(text: Option<&str>) -> Result<Option<Proto>, String> {
    match text {
        None | Some("TCP") => Ok(Some(Proto::Tcp)),
        Some("UDP") => Ok(Some(Proto::Udp)),
        Some("SCTP") => Ok(None),
        Some(other) => Err(format!("{other:?} is not a protocol (TCP or UDP)")),
    }
}

/// A port number that a client or pod can have.
fn port_number(number: i32) -> Result<u16, String> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(format!("{number} is not a port number (1 to 65535)")),
    }
}

/// An address that a Service or endpoint may have. The API server refuses the special ones for endpoints
/// (`ValidateNonSpecialIP`), because they would lead to the node itself.
fn address(text: &str) -> Result<IpAddr, String> {
    let ip = parse_address(text).ok_or_else(|| format!("{text:?} is not an IP address"))?;
    let special = match ip {
        _ if ip.is_unspecified() => Some("the unspecified address"),
        _ if ip.is_loopback() => Some("a loopback address"),
        _ if ip.is_multicast() => Some("a multicast address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        IpAddr::V4(v4) if v4.is_link_local() => Some("a link-local address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("a link-local address"),
        _ => None,
    };
    match special {
        Some(what) => Err(format!("{ip} is {what}, which no Service or endpoint can have")),
        None => Ok(ip),
    }
}

/// As kube-proxy's `ParseIPSloppy`: leading zeros of old objects are allowed (`010.96.0.1` is 10.96.0.1), and an
/// IPv4-mapped address is the IPv4 address in it.
fn parse_address(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(ip.to_canonical());
    }
    let part = |part: &str| {
        let stripped = part.trim_start_matches('0');
        if stripped.is_empty() && !part.is_empty() { "0".to_owned() } else { stripped.to_owned() }
    };
    let parts: Vec<String> = text.split('.').map(part).collect();
    parts.join(".").parse().ok().map(IpAddr::V4)
}

fn shared(text: Option<&str>, names: &mut Interner) -> Option<ArcStr> {
    text.filter(|text| !text.is_empty()).map(|text| names.get(text))
}

/// Attaches object and field to what one of the functions above complains of.
trait At<T> {
    fn at(self, key: &Key, field: impl FnOnce() -> String) -> Result<T, Problem>;
}

impl<T> At<T> for Result<T, String> {
    fn at(self, key: &Key, field: impl FnOnce() -> String) -> Result<T, Problem> {
        self.map_err(|what| key.problem(field(), what))
    }
}
