//! The model's answer: what one Service should be in the maps of this node.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use lb_common::abi::Proto;

use crate::event::ObjectName;

/// One Service. No ports: it should not be in the maps.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredService {
    /// Its name.
    pub name: ObjectName,
    /// In the order of `spec.ports`.
    pub ports: Vec<DesiredPort>,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredPort {
    /// The port's name, empty for a single unnamed port. With the protocol it identifies the port in its Service.
    pub port_name: Arc<str>,
    /// TCP or UDP.
    pub proto: Proto,
    /// Every address and port that clients may use for it, of both families. Already free of those that another
    /// Service holds.
    pub frontends: BTreeSet<FrontendAddr>,
    /// Everybody who serves it, of both families, sorted by address and port, without duplicates. A frontend is
    /// answered by the backends of its own family.
    pub backends: Vec<DesiredBackend>,
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
    /// Whether new connections may be given to it.
    pub takes_new: bool,
    /// The node it runs on, where known.
    pub node: Option<Arc<str>>,
}
