//! What a source says about the world: the small, typed part of Services and EndpointSlices that this agent reads.
//!
//! Produced by `watch`, consumed by `model`. No Kubernetes client type appears here, and no policy: objects are
//! translated, validated field by field, and otherwise passed on as they are.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use arcstr::ArcStr;
use ipnet::IpNet;
use lb_common::abi::Proto;

/// `namespace/name` of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// Namespace; shared, since thousands of objects have the same.
    pub namespace: ArcStr,
    /// Name.
    pub name: ArcStr,
}

impl ObjectName {
    /// From its two parts.
    pub fn new(namespace: impl Into<ArcStr>, name: impl Into<ArcStr>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One change, or one full list, of one kind of object.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A Service was added or changed. Sent also for Services that are not ours to serve (headless, ExternalName,
    /// another proxy's): the model decides, because a Service may change from one to the other.
    ServiceApplied(Service),
    /// A Service is gone.
    ServiceDeleted(ObjectName),
    /// All Services there are. Also the sign that this kind is in sync.
    ServicesReset(FullList<Service>),
    /// An EndpointSlice was added or changed.
    SliceApplied(EndpointSlice),
    /// An EndpointSlice is gone.
    SliceDeleted(ObjectName),
    /// All EndpointSlices there are. Also the sign that this kind is in sync.
    SlicesReset(FullList<EndpointSlice>),
    /// This node's Node object was added or changed. Other nodes' are never sent.
    NodeApplied(Node),
    /// This node's Node object is gone.
    NodeDeleted,
    /// Something about this node's Pods that are excluded from the socket layer. Others are never sent.
    Pods(PodChange),
    /// The addresses on the interfaces of this node's own network namespace, all of them, loopback included.
    AddressesChanged(BTreeSet<IpAddr>),
}

/// What became of the Pods of this node that are excluded from the socket layer.
#[derive(Clone, Debug, PartialEq)]
pub enum PodChange {
    /// A Pod is excluded.
    Applied(Pod),
    /// A Pod is excluded no more, or never was, or is gone.
    Deleted(ObjectName),
    /// All that are.
    Reset(FullList<Pod>),
}

/// A Pod, as far as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: ObjectName,
    /// The uid by which the kubelet names its cgroup: `metadata.uid`, or of a static Pod that of its file.
    pub uid: ArcStr,
}

/// Every object of one kind that exists. What is in neither list is gone.
#[derive(Clone, Debug, PartialEq)]
pub struct FullList<T> {
    /// Those that could be read.
    pub objects: Vec<T>,
    /// Those that exist but could not be read: whatever was known of them before stays in force.
    pub unreadable: Vec<ObjectName>,
    /// There may be others, of which not even the name could be read.
    pub unnamed: bool,
}

impl<T> From<Vec<T>> for FullList<T> {
    fn from(objects: Vec<T>) -> Self {
        Self { objects, unreadable: Vec::new(), unnamed: false }
    }
}

/// A Service, as far as it is read. The source has checked that no two ports share a name and protocol or a port and
/// protocol, and that no address is unspecified, loopback, link-local or multicast.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its name.
    pub name: ObjectName,
    /// `metadata.creationTimestamp` in seconds since the epoch, 0 if absent: the older of two Services that claim one
    /// address and port keeps it.
    pub created_s: i64,
    /// What kind of Service it is.
    pub kind: ServiceKind,
    /// `spec.clusterIPs` (or `spec.clusterIP` where the list is absent), parsed; empty for headless ones.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.externalIPs`, parsed; without what no Service may take (loopback and the like), of which the source warned.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip`, as above, without those of `ipMode: Proxy` (KEP-1860), which the nodes must
    /// leave to the load balancer.
    pub ingress_ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges`; empty means everybody.
    pub source_ranges: Vec<IpNet>,
    /// `spec.internalTrafficPolicy`.
    pub internal_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`.
    pub external_policy: TrafficPolicy,
    /// `spec.sessionAffinityConfig.clientIP.timeoutSeconds` (10800 where absent) if `spec.sessionAffinity` is `ClientIP`;
    /// 0 means no affinity.
    pub affinity_s: u32,
    /// `spec.healthCheckNodePort`, where the Service has one and needs it (type LoadBalancer, external policy Local).
    pub health_check_port: Option<u16>,
}

impl Service {
    /// A Service of that name as it is before any field is filled in.
    pub fn named(name: ObjectName) -> Self {
        Self {
            name,
            created_s: 0,
            kind: ServiceKind::ClusterIp,
            cluster_ips: Vec::new(),
            ports: Vec::new(),
            external_ips: Vec::new(),
            ingress_ips: Vec::new(),
            source_ranges: Vec::new(),
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            affinity_s: 0,
            health_check_port: None,
        }
    }
}

/// `spec.internalTrafficPolicy` and `spec.externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// All endpoints.
    #[default]
    Cluster,
    /// Endpoints on this node only.
    Local,
}

/// `spec.type`, with what makes a Service none of our business set apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// Has a cluster address.
    ClusterIp,
    /// `clusterIP: None`: DNS answers for it.
    Headless,
    /// A DNS alias.
    ExternalName,
    /// Carries `service.kubernetes.io/service-proxy-name` or `service.kubernetes.io/headless`: another proxy's.
    OtherProxy,
}

/// One entry of `spec.ports`.
#[derive(Clone, Debug, PartialEq)]
pub struct ServicePort {
    /// Its name; empty where the Service has a single unnamed port.
    pub name: ArcStr,
    /// TCP or UDP. Ports of other protocols are left out by the source, with a warning.
    pub proto: Proto,
    /// 1..=65535.
    pub port: u16,
    /// `nodePort`.
    pub node_port: Option<u16>,
}

/// An EndpointSlice (or the equivalent of an Endpoints object), as far as it is read. Its addresses are checked like
/// those of a [`Service`].
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSlice {
    /// Its own name.
    pub name: ObjectName,
    /// The name of its Service, from the label `kubernetes.io/service-name`, in the same namespace.
    pub service: ArcStr,
    /// `ports`.
    pub ports: Vec<SlicePort>,
    /// `endpoints`, one entry for each address used (the first of each endpoint, as kube-proxy does).
    pub endpoints: Vec<Endpoint>,
}

/// One entry of a slice's `ports`.
#[derive(Clone, Debug, PartialEq)]
pub struct SlicePort {
    /// Matches [`ServicePort::name`].
    pub name: ArcStr,
    /// TCP or UDP.
    pub proto: Proto,
    /// `None` where the API has no port (or 0): no backend comes of it, as in kube-proxy.
    pub port: Option<u16>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// `conditions.ready`, where absent means true.
    pub ready: bool,
    /// `conditions.serving`, where absent means true (as kube-proxy reads it).
    pub serving: bool,
    /// `conditions.terminating`, where absent means false.
    pub terminating: bool,
    /// `nodeName`.
    pub node: Option<ArcStr>,
    /// `zone`.
    pub zone: Option<ArcStr>,
    /// `hints`; `None` where there are none, which costs a pointer for each of many endpoints.
    pub hints: Option<Box<Hints>>,
}

/// `hints` of an endpoint: for whom the control plane meant it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// `forZones[].name`.
    pub zones: Vec<ArcStr>,
    /// `forNodes[].name`.
    pub nodes: Vec<ArcStr>,
}

/// This node, as far as its Node object is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The label `topology.kubernetes.io/zone`.
    pub zone: Option<ArcStr>,
    /// The node's primary addresses, at most one of each family: the first `InternalIP` of `status.addresses`, else the
    /// first `ExternalIP`, as kube-proxy's `GetNodeHostIPs` takes them.
    pub addresses: Vec<IpAddr>,
    /// `metadata.deletionTimestamp` is set, or the taint `ToBeDeletedByClusterAutoscaler` is there.
    pub going_away: bool,
}
