//! The model's answer: what one Service should be in the maps of this node.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use arcstr::ArcStr;
use ipnet::IpNet;
use lb_common::abi::{Proto, backend_state};

use crate::event::ObjectName;

/// One Service. Without ports and guards it should not be in the maps.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredService {
    /// Its name.
    pub name: ObjectName,
    /// In the order of `spec.ports`.
    pub ports: Vec<DesiredPort>,
    /// ClusterIPs that refuse clients on every port that no Service has there. Already free of those that another
    /// Service guards, and of the node's own addresses.
    pub guards: BTreeSet<IpAddr>,
    /// What a load balancer's health checks are told, if the Service asks for it.
    pub health_check: Option<HealthCheck>,
}

/// `spec.healthCheckNodePort` and what it answers on the node's addresses of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The port, on the node's NodePort addresses of the Service's families.
    pub port: u16,
    /// Ready IPv4 endpoints on this node, each counted once however many ports it serves; `None` if the Service has no
    /// IPv4.
    pub local_v4: Option<usize>,
    /// The same of IPv6.
    pub local_v6: Option<usize>,
}

impl HealthCheck {
    /// The endpoints to tell of at an address of the node; `None`: nothing is served there.
    pub fn local_endpoints(&self, at: IpAddr) -> Option<usize> {
        if at.is_ipv4() { self.local_v4 } else { self.local_v6 }
    }
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredPort {
    /// The port's name, empty for a single unnamed port. With the protocol it identifies the port in its Service.
    pub port_name: ArcStr,
    /// TCP or UDP.
    pub proto: Proto,
    /// Every address and port that clients may use for it, of both families, and who answers there. Already free of
    /// those that another Service holds.
    pub frontends: BTreeMap<FrontendAddr, Answer>,
    /// Session affinity timeout in seconds, 0 for none.
    pub affinity_s: u32,
    /// Who may use the frontends that are [`Answer::restricted`].
    pub sources: Vec<IpNet>,
    /// Everybody who serves it, of both families, sorted by address and port, without duplicates. A frontend is
    /// answered by the backends of its own family.
    pub backends: Vec<DesiredBackend>,
}

impl DesiredPort {
    /// Whether the port has an endpoint of the family (IPv4 or not) that new connections could be given to, wherever it
    /// is. Where one of its sets is empty all the same, a traffic policy `Local` is the reason: kube-proxy drops packets
    /// there and refuses them otherwise (`hasAnyEndpoints` of pkg/proxy/topology.go), for they may be another node's to
    /// answer.
    pub fn is_served(&self, v4: bool) -> bool {
        let usable = |state| matches!(state, backend_state::READY | backend_state::TERMINATING);
        self.backends.iter().any(|backend| backend.ip.is_ipv4() == v4 && usable(backend.state))
    }
}

/// Who answers at a frontend, and whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Answer {
    /// By whom clients on this node and inside the cluster are answered.
    pub set: EndpointSet,
    /// By whom clients outside are.
    pub outside: EndpointSet,
    /// Only clients in [`DesiredPort::sources`].
    pub restricted: bool,
}

impl Answer {
    /// Whether clients outside are answered by others.
    pub fn differs_outside(&self) -> bool {
        self.outside != self.set
    }
}

/// A choice of a Service port's endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointSet {
    /// Those with [`DesiredBackend::in_cluster`].
    #[default]
    Cluster,
    /// Those with [`DesiredBackend::in_local`].
    Local,
}

/// An address and port that clients connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendAddr {
    /// The address.
    pub ip: IpAddr,
    /// The port.
    pub port: u16,
    /// See [`lb_common::abi::scope`].
    pub scope: u8,
}

/// An endpoint of a Service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredBackend {
    /// Its address.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
    /// See [`lb_common::abi::backend_state`].
    pub state: u8,
    /// Whether new connections may be given to it under the traffic policy Cluster.
    pub in_cluster: bool,
    /// Whether new connections may be given to it under the traffic policy Local.
    pub in_local: bool,
    /// Whether it is on this node.
    pub on_node: bool,
    /// The node it runs on, where known.
    pub node: Option<ArcStr>,
}
