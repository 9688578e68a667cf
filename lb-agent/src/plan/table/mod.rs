//! What the maps of one family hold, and what has to change so that a Service port is served as wanted.
//!
//! The table is a mirror: it changes only when an operation is recorded as done. Staging compares the mirror with what
//! is wanted, so repeating it after a failure yields exactly what is missing.

mod adopt;
mod backends;
mod conditions;
mod outside;
mod record;
mod stage;
mod sweep;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::SocketAddr,
};

use lb_common::abi::{Backend, Endpoint, Family, Frontend, FrontendKey, Proto, endpoint_sets};

use self::{
    backends::{Backends, Known},
    conditions::Guards,
};
pub(super) use self::{
    conditions::{Source, guard},
    outside::external,
};
use super::{
    gone::{GoneBackend, keeps},
    ids::Ids,
    slots::{SlotUse, Slots},
};
use crate::{
    datapath::store::{Capacity, StoreError},
    model::{Answer, EndpointSet},
};

/// What one Service port should be in one family. Without frontends there are no backends either.
#[derive(Debug, Default)]
pub(super) struct Want<F: Family> {
    pub(super) frontends: BTreeMap<FrontendKey<F>, Answer>,
    pub(super) backends: BTreeMap<Endpoint<F>, WantBackend>,
    /// Seconds, 0 for none.
    pub(super) affinity_s: u32,
    /// Who may use the restricted ones among the frontends.
    pub(super) sources: BTreeSet<Source<F>>,
    /// See [`crate::model::DesiredPort::is_served`].
    pub(super) served: bool,
}

/// What one backend should be.
#[derive(Clone, Copy, Debug)]
pub(super) struct WantBackend {
    /// See [`lb_common::abi::backend_state`].
    pub(super) state: u8,
    /// In which sets it gets a slot, see [`lb_common::abi::endpoint_sets`].
    pub(super) sets: u32,
    /// Node id, 0 for unknown.
    pub(super) node: u32,
}

/// Why something cannot be staged.
#[derive(Debug)]
pub(super) enum Refused {
    /// A map has no room.
    Full(StoreError),
    /// Slots are free once running programs have ended: wait for those and stage again.
    ReadersNotGone,
}

/// What an operation that was done means to others.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Recorded {
    /// The node id that a backend no longer refers to.
    pub(super) left_node: Option<u32>,
    /// The node id that a backend refers to now.
    pub(super) joined_node: Option<u32>,
    /// A backend that keeps its clients no more.
    pub(super) gone: Option<GoneBackend>,
}

/// One Service port in this family.
#[derive(Debug, Default)]
struct Port<F: Family> {
    frontends: BTreeSet<FrontendKey<F>>,
    /// Those of `frontends` that are no longer wanted.
    released: BTreeSet<FrontendKey<F>>,
    /// Those of `frontends` that were last staged to be replaced and are not yet.
    pending: BTreeSet<FrontendKey<F>>,
    backends: Backends<F>,
    /// Backends that no port can want: of damaged maps. They go when the port is next staged or retired.
    damaged: Vec<(u32, Backend<F>)>,
    /// The ranges that its frontends should lead to, as last staged: of each set that they ask for, if it is not empty.
    ranges: Vec<Range>,
    /// Ranges of clients in the map, and whether they are wanted.
    sources: BTreeMap<Source<F>, bool>,
}

/// A frontend in the map.
#[derive(Clone, Copy, Debug)]
struct Shown {
    value: Frontend,
    /// Whether it holds its range in [`Slots`]. Not so if it has none, or if the range was found damaged.
    holds: bool,
}

/// A range of slots and what it holds.
#[derive(Debug, PartialEq, Eq)]
struct Range {
    first: u32,
    /// Backend ids; an id belongs to one endpoint as long as it is in use, so they say everything.
    ids: Vec<u32>,
}

/// Where a frontend leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lead {
    first_slot: u32,
    n_slots: u32,
}

/// Where the frontends of a port lead.
#[derive(Debug, Default)]
struct Leads {
    cluster: Lead,
    local: Lead,
}

/// The maps of one family.
#[derive(Debug)]
pub(super) struct Table<F: Family> {
    frontends: HashMap<FrontendKey<F>, Shown>,
    /// By Service-port id.
    ports: HashMap<u32, Box<Port<F>>>,
    backend_ids: HashSet<u32>,
    next_backend: Ids,
    slots: Slots,
    guards: Guards<F>,
    /// Ranges of clients, of all ports.
    n_sources: usize,
    /// Frontends of one port that another wants, by the other's id: they are not removed while it tries. Few.
    claims: HashMap<FrontendKey<F>, u32>,
    capacity: Capacity,
    /// How often something became free, see [`Table::freed`].
    freed: u64,
}

impl<F: Family> Table<F> {
    /// The Service-port ids in these maps.
    pub(super) fn service_ids(&self) -> impl Iterator<Item = u32> {
        self.ports.keys().copied()
    }

    /// The protocol of a port, as its entries have it.
    pub(super) fn proto(&self, service: u32) -> Option<u8> {
        let port = self.ports.get(&service)?;
        let of_frontends = port.frontends.first().map(|key| key.proto);
        of_frontends.or_else(|| port.backends.iter().next().map(|known| known.value.proto))
    }

    /// How many backends refer to each node id.
    pub(super) fn node_ids(&self) -> impl Iterator<Item = u32> {
        let good = self.ports.values().flat_map(|port| port.backends.iter().map(|known| known.value.node));
        good.chain(self.ports.values().flat_map(|port| port.damaged.iter().map(|(_, value)| value.node)))
    }

    /// Whether a client of this Service port may be connected to this address.
    pub(super) fn serves(&self, service: u32, proto: Proto, addr: SocketAddr) -> bool {
        let known = || {
            let at = Endpoint { addr: F::from_ip(addr.ip())?, port: addr.port() };
            self.ports.get(&service)?.backends.get(&at)
        };
        known().is_some_and(|known| known.value.proto == proto.number() && keeps(&known.value))
    }

    /// Grows whenever an entry or a range was given back: then it is worth trying again what did not fit.
    pub(super) fn freed(&self) -> u64 {
        self.freed
    }

    pub(super) fn usage(&self) -> super::FamilyUsage {
        let SlotUse { free, resting } = self.slots.usage();
        super::FamilyUsage {
            frontends: len(self.frontends.len()),
            backends: len(self.backend_ids.len()),
            slots: self.capacity.slots - free - resting,
            slots_resting: resting,
            sources: len(self.n_sources),
            capacity: self.capacity,
        }
    }
}

impl Shown {
    /// The first slot of the range that it holds.
    fn range(&self) -> Option<u32> {
        self.holds.then_some(self.value.first_slot)
    }
}

impl EndpointSet {
    /// See [`lb_common::abi::endpoint_sets`].
    fn bit(self) -> u32 {
        match self {
            Self::Cluster => endpoint_sets::CLUSTER,
            Self::Local => endpoint_sets::LOCAL,
        }
    }
}

impl<F: Family> Port<F> {
    /// How many entries of maps, slots aside, it has.
    fn n_entries(&self) -> usize {
        self.frontends.len() + self.backends.len() + self.damaged.len() + self.sources.len()
    }
}

impl Leads {
    fn of(&self, set: EndpointSet) -> Lead {
        match set {
            EndpointSet::Cluster => self.cluster,
            EndpointSet::Local => self.local,
        }
    }

    fn of_mut(&mut self, set: EndpointSet) -> &mut Lead {
        match set {
            EndpointSet::Cluster => &mut self.cluster,
            EndpointSet::Local => &mut self.local,
        }
    }

    /// Whether any frontend leads to this range.
    fn lead_to(&self, range: &Range) -> bool {
        let lead = Lead { first_slot: range.first, n_slots: len(range.ids.len()) };
        self.cluster == lead || self.local == lead
    }
}

/// A length as the maps count it. No map holds 2^32 entries, and what does not fit is refused before.
fn len(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
