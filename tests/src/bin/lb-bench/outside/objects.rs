//! The Services of the clients outside. Every other one has its endpoint on the node that is asked, the rest on the other node;
//! the first ones have NodePorts, and the first two of these are asked by UDP and for streams, too.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, Result};
use lb_tests::control_plane::Admin;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    figure::Figure,
    objects::{ENDPOINT_PORTS, SERVICE_PORT, cluster_ip, create_each},
    server::BULK_PORT,
};

/// Where the endpoint is, as seen from the node that is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Place {
    /// A pod on this node.
    Local,
    /// A pod on the other node.
    Remote,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Local => "local",
            Self::Remote => "remote",
        })
    }
}

impl Place {
    pub(super) const ALL: [Self; 2] = [Self::Local, Self::Remote];

    /// Of Service `index`.
    fn of(index: usize) -> Self {
        Self::ALL[index % Self::ALL.len()]
    }

    /// What comes at the place's number.
    pub(super) fn of_pair<T>(self, pair: &[T; 2]) -> &T {
        let [local, remote] = pair;
        match self {
            Self::Local => local,
            Self::Remote => remote,
        }
    }
}

/// So many Services have a NodePort at most: a NodePort range has room for 2768.
const N_NODE_PORTS: usize = 1000;

/// So many have all ports.
const N_COMPLETE: usize = Place::ALL.len();

/// Of Service 0, TCP and UDP; the next one's is one higher, and so on.
const FIRST_NODE_PORT: usize = 30_000;

/// Of Service 0, for streams.
const FIRST_BULK_NODE_PORT: usize = 32_000;

/// Creates the Services `from..to`. `endpoints` by place, with the names of their nodes.
pub(super) fn create(admin: &Admin, from: usize, to: usize, endpoints: &[(IpAddr, &str); 2]) -> Result<()> {
    create_each(
        admin,
        (from..to).map(|index| Ok((service(index)?, slice(index, *Place::of(index).of_pair(endpoints))))),
    )
}

/// The NodePorts on `node` that a figure is measured at, of Services with endpoints at one place, if there are so many
/// Services.
pub(super) fn node_ports(node: IpAddr, place: Place, figure: Figure, n_services: usize) -> Result<Vec<SocketAddr>> {
    let last = if figure.is_udp() || figure.is_bulk() { N_COMPLETE } else { N_NODE_PORTS };
    let first = if figure.is_bulk() { FIRST_BULK_NODE_PORT } else { FIRST_NODE_PORT };
    let indices = (0..n_services.min(last)).filter(|&index| Place::of(index) == place);
    indices.map(|index| Ok(SocketAddr::new(node, u16::try_from(first + index)?))).collect()
}

/// Where an endpoint takes what a figure sends.
pub(super) fn endpoint_port(figure: Figure) -> u16 {
    if figure.is_bulk() { BULK_PORT } else { ENDPOINT_PORTS[0] }
}

/// The first NodePort for connections at one place.
pub(super) fn first_node_port(node: IpAddr, place: Place) -> Result<SocketAddr> {
    let all = node_ports(node, place, Figure::TcpRequestResponse, N_COMPLETE)?;
    all.first().copied().context("no Service at this place")
}

/// A port of a Service.
struct Port {
    name: &'static str,
    protocol: &'static str,
    port: u16,
    target: u16,
    node_port: usize,
}

fn ports(index: usize) -> Vec<Port> {
    let [target, _] = ENDPOINT_PORTS;
    let node_port = FIRST_NODE_PORT + index;
    let tcp = Port { name: "tcp", protocol: "TCP", port: SERVICE_PORT, target, node_port };
    if index >= N_COMPLETE {
        return vec![tcp];
    }
    let udp = Port { name: "udp", protocol: "UDP", ..tcp };
    let node_port = FIRST_BULK_NODE_PORT + index;
    let bulk = Port { name: "bulk", protocol: "TCP", port: BULK_PORT, target: BULK_PORT, node_port };
    vec![tcp, udp, bulk]
}

fn name(index: usize) -> String {
    format!("outside-{index}")
}

fn service(index: usize) -> Result<Value> {
    let has_node_port = index < N_NODE_PORTS;
    let ports = ports(index).into_iter().map(|Port { name, protocol, port, node_port, .. }| {
        let mut object = json!({"name": name, "protocol": protocol, "port": port});
        if has_node_port {
            object["nodePort"] = node_port.into();
        }
        object
    });
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name(index)},
        "spec": {
            "type": if has_node_port { "NodePort" } else { "ClusterIP" },
            "clusterIP": cluster_ip(index)?,
            "ports": ports.collect::<Vec<_>>(),
        },
    }))
}

fn slice(index: usize, (address, node): (IpAddr, &str)) -> Value {
    let ports = ports(index)
        .into_iter()
        .map(|Port { name, protocol, target, .. }| json!({"name": name, "protocol": protocol, "port": target}));
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name(index), "labels": {"kubernetes.io/service-name": name(index)}},
        "addressType": "IPv4",
        "ports": ports.collect::<Vec<_>>(),
        "endpoints": [{"addresses": [address], "nodeName": node, "conditions": {"ready": true}}],
    })
}
