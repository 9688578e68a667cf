//! How a test knows that a proxy has taken in all that was changed: it changes one thing more, and waits until a client
//! sees that. The API server tells each watcher of one kind of object in the order of the changes, so what was changed
//! before the marker is in force as well. One marker for Services and EndpointSlices, one for the node's zone,
//! one for its addresses.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    island::{Island, MARKER_PORTS},
    objects,
    probe::Client,
};
use crate::guest::{Enough, ProbeSpec, Traffic};

/// The namespace of the markers.
pub(super) const NAMESPACE: &str = "marker";

/// The label of a node that says its zone.
pub(super) const ZONE: &str = "topology.kubernetes.io/zone";

/// The zones that cases put the node into, each with the port that answers there.
const ZONES: [(&str, u16); 3] =
    [("za", MARKER_PORTS.start), ("zb", MARKER_PORTS.start + 1), ("zc", MARKER_PORTS.start + 2)];

/// Addresses that no case has.
const CHANGES: [IpAddr; 2] = addresses(2);
const NODE_ZONE: [IpAddr; 2] = addresses(3);
const NODE_PORT_SERVICE: [IpAddr; 2] = addresses(4);

/// The last of the range, which no case has (`tokens.rs`), and the port of pod `a` that it leads to.
const NODE_PORT: u16 = 32767;
const NODE_PORT_BACKEND: u16 = MARKER_PORTS.start + 3;

const fn addresses(number: u8) -> [IpAddr; 2] {
    let v6 = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, number as u16);
    [IpAddr::V4(Ipv4Addr::new(10, 96, 0, number)), IpAddr::V6(v6)]
}

/// The objects that mark change `number`: port and endpoint differ from those of the change before.
pub(super) fn of_change(number: u16) -> Result<Vec<Value>> {
    let ports = json!([format!("{}/tcp", frontend_port(number))]);
    let slice = json!({"ports": [format!("{}/tcp", backend_port(number))], "endpoints": ["a"]});
    service_with("changes", CHANGES, &ports, &[("slice/changes", slice.clone()), ("slice6/changes", slice)])
}

/// The objects that show the node's zone: by hints, each zone has an endpoint for itself.
pub(super) fn of_zone() -> Result<Vec<Value>> {
    let mut slices = Vec::new();
    for (zone, port) in ZONES {
        let slice = json!({"ports": [format!("{port}/tcp")], "endpoints": [format!("a hint={zone}")]});
        slices.push((format!("slice/zone.{zone}"), slice.clone()));
        slices.push((format!("slice6/zone.{zone}"), slice));
    }
    let slices: Vec<(&str, Value)> = slices.iter().map(|(key, slice)| (key.as_str(), slice.clone())).collect();
    service_with("zone", NODE_ZONE, &json!(["80/tcp"]), &slices)
}

/// The objects that show at which addresses NodePorts are served.
pub(super) fn of_node_port() -> Result<Vec<Value>> {
    let slice = json!({"ports": [format!("{NODE_PORT_BACKEND}/tcp")], "endpoints": ["a"]});
    let slices = [("slice/node-port", slice.clone()), ("slice6/node-port", slice)];
    let mut objects = service_with("node-port", NODE_PORT_SERVICE, &json!([format!("80:{NODE_PORT}/tcp")]), &slices)?;
    objects[0]["spec"]["type"] = "NodePort".into();
    Ok(objects)
}

/// Whether an island serves NodePorts at this address.
pub(super) fn node_port_is_seen(island: &Island, ip: IpAddr) -> Result<bool> {
    Ok(answers(island, SocketAddr::new(ip, NODE_PORT), 1)? == [answer(NODE_PORT_BACKEND)].into())
}

/// Whether an island has taken in that change.
pub(super) fn is_seen(island: &Island, number: u16) -> Result<bool> {
    let expected: BTreeSet<String> = [answer(backend_port(number))].into();
    all(CHANGES, |ip| Ok(answers(island, SocketAddr::new(ip, frontend_port(number)), 1)? == expected))
}

/// Whether an island takes its node to be in that zone, or in none.
pub(super) fn zone_is_seen(island: &Island, zone: Option<&str>) -> Result<bool> {
    let expected = ZONES.iter().filter(|(name, _)| zone.is_none_or(|zone| zone == *name));
    let expected: BTreeSet<String> = expected.map(|(_, port)| answer(*port)).collect();
    // Of three that are equally likely, one is missed once in 50,000 times: then it is asked again.
    all(NODE_ZONE, |ip| Ok(answers(island, SocketAddr::new(ip, 80), 30)? == expected))
}

fn all(ips: [IpAddr; 2], is_seen: impl Fn(IpAddr) -> Result<bool>) -> Result<bool> {
    ips.into_iter().map(is_seen).try_fold(true, |all, one| Ok(all && one?))
}

fn answers(island: &Island, to: SocketAddr, sockets: u32) -> Result<BTreeSet<String>> {
    let spec = ProbeSpec {
        traffic: Traffic::Tcp,
        target: to.into(),
        enough: Enough::Sockets(sockets),
        patience_ms: 200,
        budget_ms: 5000,
    };
    let attempts = island.client(Client::Host).probe(vec![spec], 1)?;
    Ok(attempts
        .into_iter()
        .flatten()
        .map(|attempt| attempt.end.unwrap_or_else(|failure| failure.to_string()))
        .collect())
}

fn service_with(name: &str, ips: [IpAddr; 2], ports: &Value, slices: &[(&str, Value)]) -> Result<Vec<Value>> {
    let spec = json!({
        "clusterIP": ips[0], "clusterIPs": ips, "ipFamilyPolicy": "RequireDualStack", "ports": ports,
    });
    let service = objects::object(NAMESPACE, &format!("service/{name}"), &spec)?;
    let slices = slices.iter().map(|(key, value)| objects::object(NAMESPACE, key, value));
    std::iter::once(Ok(service)).chain(slices).collect()
}

fn frontend_port(number: u16) -> u16 {
    10000 + number
}

fn backend_port(number: u16) -> u16 {
    let n_ports = MARKER_PORTS.end - MARKER_PORTS.start;
    MARKER_PORTS.start + number % n_ports
}

fn answer(port: u16) -> String {
    format!("marker-{port}")
}
