//! What the maps of one family hold, and what has to change so that a Service port is served as wanted.
//!
//! The table is a mirror: it changes only when an operation is recorded as done. Staging compares the mirror with what
//! is wanted, so repeating it after a failure yields exactly what is missing.

mod adopt;
mod stage;
mod sweep;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use lb_common::abi::{Backend, Endpoint, Family, Frontend, FrontendKey};

use super::{
    ids::Ids,
    slots::{SlotUse, Slots},
};
use crate::datapath::{
    op::FamilyOp,
    store::{Capacity, StoreError},
};

/// What one Service port should be in one family. Without frontends there are no backends either.
#[derive(Debug, Default)]
pub(super) struct Want<F: Family> {
    pub(super) frontends: BTreeSet<FrontendKey<F>>,
    pub(super) backends: BTreeMap<Endpoint<F>, WantBackend>,
}

/// What one backend should be.
#[derive(Clone, Copy, Debug)]
pub(super) struct WantBackend {
    /// See [`lb_common::abi::backend_state`].
    pub(super) state: u8,
    /// Whether it gets a slot.
    pub(super) takes_new: bool,
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

/// One Service port in this family.
#[derive(Debug, Default)]
struct Port<F: Family> {
    frontends: BTreeSet<FrontendKey<F>>,
    /// Those of `frontends` that are no longer wanted.
    released: BTreeSet<FrontendKey<F>>,
    /// First slot and number of slots that the others should name, as last staged.
    target: (u32, u32),
    backends: BTreeMap<Endpoint<F>, Known<F>>,
    /// Backends that no port can want: of damaged maps. They go when the port is next staged or retired.
    damaged: Vec<(u32, Backend<F>)>,
    /// The range that new frontends get; `None` when it would be empty.
    range: Option<Range>,
}

/// A frontend in the map.
#[derive(Clone, Copy, Debug)]
struct Shown {
    value: Frontend,
    /// Whether it holds its range in [`Slots`]. Not so if it has none, or if the range was found damaged.
    holds: bool,
}

/// A backend in the map.
#[derive(Debug)]
struct Known<F: Family> {
    id: u32,
    value: Backend<F>,
    wanted: bool,
}

/// A range of slots and what it holds.
#[derive(Debug)]
struct Range {
    first: u32,
    /// Backend ids; an id belongs to one endpoint as long as it is in use, so they say everything.
    ids: Vec<u32>,
}

/// The maps of one family.
#[derive(Debug)]
pub(super) struct Table<F: Family> {
    frontends: HashMap<FrontendKey<F>, Shown>,
    /// By Service-port id.
    ports: HashMap<u32, Port<F>>,
    backend_ids: HashSet<u32>,
    next_backend: Ids,
    slots: Slots,
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
        of_frontends.or_else(|| port.backends.values().next().map(|known| known.value.proto))
    }

    /// How many backends refer to each node id.
    pub(super) fn node_ids(&self) -> impl Iterator<Item = u32> {
        let good = self.ports.values().flat_map(|port| port.backends.values().map(|known| known.value.node));
        good.chain(self.ports.values().flat_map(|port| port.damaged.iter().map(|(_, value)| value.node)))
    }

    /// Takes note that an operation was done. Returns the node ids that a backend (no longer, now) refers to.
    pub(super) fn record(&mut self, op: &FamilyOp<F>) -> (Option<u32>, Option<u32>) {
        match op {
            FamilyOp::PutBackend(id, value) => {
                self.backend_ids.insert(*id);
                let at = Endpoint { addr: value.addr, port: value.port };
                let known = Known { id: *id, value: *value, wanted: true };
                let old = self.ports.entry(value.service).or_default().backends.insert(at, known);
                (old.map(|old| old.value.node), Some(value.node))
            }
            FamilyOp::WriteSlots { service, first, slots } => {
                let ids = slots.iter().map(|slot| slot.backend).collect();
                let port = self.ports.entry(*service).or_default();
                let old = port.range.replace(Range { first: *first, ids });
                self.release(old.map(|old| old.first));
                (None, None)
            }
            FamilyOp::PutFrontend(key, frontend) => {
                self.claims.remove(key);
                self.record_frontend(*key, *frontend);
                (None, None)
            }
            FamilyOp::DeleteFrontend(key) => {
                self.claims.remove(key);
                if let Some(old) = self.frontends.remove(key) {
                    self.freed += 1;
                    self.disown(key, old);
                }
                (None, None)
            }
            FamilyOp::DeleteBackend(id, value) => {
                self.backend_ids.remove(id);
                self.freed += 1;
                if let Some(port) = self.ports.get_mut(&value.service) {
                    let at = Endpoint { addr: value.addr, port: value.port };
                    match port.damaged.iter().position(|(damaged, _)| damaged == id) {
                        Some(index) => drop(port.damaged.swap_remove(index)),
                        None => drop(port.backends.remove(&at)),
                    }
                    self.drop_if_empty(value.service);
                }
                (Some(value.node), None)
            }
        }
    }

    fn record_frontend(&mut self, key: FrontendKey<F>, value: Frontend) {
        let holds = value.n_slots > 0;
        if holds {
            self.slots.expose(value.first_slot);
        }
        let old = self.frontends.insert(key, Shown { value, holds });
        let port = self.ports.entry(value.service).or_default();
        port.frontends.insert(key);
        let emptied = if holds { None } else { port.range.take() };
        self.release(emptied.map(|range| range.first));
        match old {
            Some(old) if old.value.service == value.service => self.release(old.range()),
            Some(old) => self.disown(&key, old),
            None => {}
        }
    }

    /// A port lost a frontend, by deletion or to another port.
    fn disown(&mut self, key: &FrontendKey<F>, old: Shown) {
        self.release(old.range());
        if let Some(port) = self.ports.get_mut(&old.value.service) {
            port.frontends.remove(key);
            port.released.remove(key);
            self.drop_if_empty(old.value.service);
        }
    }

    fn drop_if_empty(&mut self, service: u32) {
        let Some(port) = self.ports.get_mut(&service) else { return };
        if port.frontends.is_empty() && port.backends.is_empty() && port.damaged.is_empty() {
            let range = port.range.take();
            self.ports.remove(&service);
            self.release(range.map(|range| range.first));
        }
    }

    fn release(&mut self, slot: Option<u32>) {
        if slot.is_some_and(|slot| self.slots.release(slot)) {
            self.freed += 1;
        }
    }

    /// An operation that was staged will not be done.
    pub(super) fn abandon(&mut self, op: &FamilyOp<F>) {
        if let FamilyOp::WriteSlots { first, .. } = op {
            self.slots.release(*first);
        }
    }

    /// No program reads the ranges any more that were given back before.
    pub(super) fn readers_gone(&mut self) {
        self.slots.readers_gone();
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

/// A length as the maps count it. No map holds 2^32 entries, and what does not fit is refused before.
fn len(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
