//! Backends that stopped serving: deleted, or no longer good for anything. Clients that are connected to them have to be
//! told, which is others' work.

use std::net::SocketAddr;

use lb_common::abi::{Backend, Family, Proto, backend_state};

use crate::event::ObjectName;

/// A backend that keeps its clients no more, see [`keeps_clients`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoneBackend {
    /// Its address and port.
    pub addr: SocketAddr,
    /// TCP or UDP.
    pub proto: Proto,
    /// The Service-port id that it served.
    pub service: u32,
    /// The id that it had.
    pub backend: u32,
}

/// The same, and whose it was, as far as that is known.
#[derive(Clone, Debug)]
pub(super) struct Gone {
    pub(super) backend: GoneBackend,
    pub(super) owner: Option<ObjectName>,
}

impl GoneBackend {
    /// From its last entry in the map; `None` of a protocol that nothing is translated for.
    pub(super) fn new<F: Family>(id: u32, last: &Backend<F>) -> Option<Self> {
        let proto = Proto::from_number(last.proto)?;
        let addr = SocketAddr::new(F::to_ip(last.addr), last.port);
        Some(Self { addr, proto, service: last.service, backend: id })
    }
}

/// Whether clients that are connected to a listed backend stay with it. A TCP connection is not ended because its endpoint
/// is not ready for a while: it notices by itself if nobody is there.
pub fn keeps_clients(proto: Proto, state: u8) -> bool {
    proto == Proto::Tcp || matches!(state, backend_state::READY | backend_state::TERMINATING)
}

/// [`keeps_clients`] of an entry of the map.
pub(super) fn keeps<F: Family>(backend: &Backend<F>) -> bool {
    Proto::from_number(backend.proto).is_some_and(|proto| keeps_clients(proto, backend.state))
}
