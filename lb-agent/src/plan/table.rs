//! What the maps of one family hold, and what has to change so that a Service port is served as wanted.
//!
//! The table is a mirror: it changes only when an operation is recorded as done. Staging compares the mirror with what
//! is wanted, so repeating it after a failure yields exactly what is missing.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use lb_common::abi::{Backend, Endpoint, Family, Frontend, FrontendKey, Slot, frontend_flags};

use super::{
    ids::Ids,
    slots::{SlotUse, Slots},
};
use crate::datapath::{
    op::FamilyOp,
    snapshot::FamilySnapshot,
    store::{Capacity, StoreError, map_names},
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
    frontends: HashMap<FrontendKey<F>, Frontend>,
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
    /// Takes over what the maps hold. What is damaged is kept apart and replaced when its port is next staged.
    pub(super) fn adopt(mut snapshot: FamilySnapshot<F>) -> Self {
        let named = snapshot.frontends.iter().map(|(_, frontend)| (frontend.first_slot, frontend.n_slots));
        let mut table = Self {
            frontends: HashMap::new(),
            ports: HashMap::new(),
            backend_ids: HashSet::new(),
            next_backend: Ids::default(),
            slots: Slots::adopt(snapshot.capacity.slots, named),
            claims: HashMap::new(),
            capacity: snapshot.capacity,
            freed: 0,
        };
        snapshot.backends.sort_unstable_by_key(|&(id, _)| id);
        for &(id, value) in &snapshot.backends {
            table.adopt_backend(id, value);
        }
        snapshot.frontends.sort_unstable_by_key(|&(key, _)| key);
        for (key, frontend) in &snapshot.frontends {
            table.adopt_frontend(*key, *frontend, snapshot.slots_of(frontend));
        }
        table
    }

    fn adopt_backend(&mut self, id: u32, value: Backend<F>) {
        self.backend_ids.insert(id);
        self.next_backend.adopt(id);
        let port = self.ports.entry(value.service).or_default();
        let at = Endpoint { addr: value.addr, port: value.port };
        if id == 0 || port.backends.contains_key(&at) {
            port.damaged.push((id, value));
        } else {
            port.backends.insert(at, Known { id, value, wanted: true });
        }
    }

    /// The first frontend whose slots are all as they should be gives its port the range.
    fn adopt_frontend(&mut self, key: FrontendKey<F>, frontend: Frontend, slots: Option<&[Slot<F>]>) {
        self.frontends.insert(key, frontend);
        let port = self.ports.entry(frontend.service).or_default();
        port.frontends.insert(key);
        let Some(slots) = slots.filter(|slots| !slots.is_empty() && port.range.is_none()) else { return };
        let good = |slot: &Slot<F>| {
            let known = port.backends.get(&Endpoint { addr: slot.addr, port: slot.port });
            known.is_some_and(|known| known.id == slot.backend)
        };
        if slots.iter().all(good) {
            self.slots.hold(frontend.first_slot);
            port.range =
                Some(Range { first: frontend.first_slot, ids: slots.iter().map(|slot| slot.backend).collect() });
        }
    }

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

    /// What has to be done so that the port is served as wanted, in the order in which it has to happen: backends,
    /// slots, frontends. What is no longer wanted is marked for [`Table::sweep`]. When refused, nothing has changed.
    pub(super) fn stage(&mut self, service: u32, proto: u8, want: &Want<F>) -> Result<Vec<FamilyOp<F>>, Refused> {
        self.claim(service, want);
        let staged = self.stage_wanted(service, proto, want);
        if matches!(staged, Err(Refused::Full(_))) {
            self.claim(service, &Want::default());
        }
        staged
    }

    fn stage_wanted(&mut self, service: u32, proto: u8, want: &Want<F>) -> Result<Vec<FamilyOp<F>>, Refused> {
        self.check_room(service, want).map_err(Refused::Full)?;
        let mut ops = Vec::new();
        let slots = self.stage_backends(service, proto, want, &mut ops);
        let first_slot = self.stage_slots(service, &slots, &mut ops)?;
        let frontend =
            Frontend { service, first_slot, n_slots: len(slots.len()), flags: frontend_flags::NONE, affinity_s: 0 };
        let differing = want.frontends.iter().filter(|key| self.frontends.get(key) != Some(&frontend));
        ops.extend(differing.map(|key| FamilyOp::PutFrontend(*key, frontend)));
        if let Some(port) = self.ports.get_mut(&service) {
            port.mark(want);
            port.target = (frontend.first_slot, frontend.n_slots);
        }
        Ok(ops)
    }

    fn claim(&mut self, service: u32, want: &Want<F>) {
        self.claims.retain(|_, claimant| *claimant != service);
        let of_another = |key| self.frontends.get(key).is_some_and(|present| present.service != service);
        let wanted = want.frontends.iter().filter(|key| of_another(key));
        self.claims.extend(wanted.map(|key| (*key, service)));
    }

    fn check_room(&self, service: u32, want: &Want<F>) -> Result<(), StoreError> {
        let names = map_names::<F>();
        let full = |map, capacity, flag| StoreError::Full { map, capacity, flag };
        let new = want.frontends.iter().filter(|key| !self.frontends.contains_key(key)).count();
        if new > 0 && self.frontends.len() + new > self.capacity.frontends as usize {
            return Err(full(names.frontends, self.capacity.frontends, "--max-frontends"));
        }
        let port = self.ports.get(&service);
        let known = |at| port.is_some_and(|port| port.backends.contains_key(at));
        let new = want.backends.keys().filter(|at| !known(at)).count();
        if new > 0 && self.backend_ids.len() + new > self.capacity.backends as usize {
            return Err(full(names.backends, self.capacity.backends, "--max-backends"));
        }
        Ok(())
    }

    /// Adds the backends that are new or changed to `ops`, and says what the slots should hold.
    fn stage_backends(&mut self, service: u32, proto: u8, want: &Want<F>, ops: &mut Vec<FamilyOp<F>>) -> Vec<Slot<F>> {
        let port = self.ports.get(&service);
        let mut slots = Vec::with_capacity(want.backends.len());
        for (at, WantBackend { state, takes_new, node }) in &want.backends {
            let value = Backend { addr: at.addr, port: at.port, proto, state: *state, service, node: *node };
            let known = port.and_then(|port| port.backends.get(at));
            let id = match known {
                Some(known) => known.id,
                None => self.next_backend.next(|id| self.backend_ids.contains(&id)),
            };
            if known.is_none_or(|known| known.value != value) {
                ops.push(FamilyOp::PutBackend(id, value));
            }
            if *takes_new {
                slots.push(Slot { addr: at.addr, backend: id, port: at.port, reserved: 0 });
            }
        }
        slots
    }

    /// The first slot of a range that holds `slots`: the present one if it does, else a new one.
    fn stage_slots(&mut self, service: u32, slots: &[Slot<F>], ops: &mut Vec<FamilyOp<F>>) -> Result<u32, Refused> {
        if slots.is_empty() {
            return Ok(0);
        }
        let present = self.ports.get(&service).and_then(|port| port.range.as_ref());
        if let Some(range) = present.filter(|range| range.ids.iter().eq(slots.iter().map(|slot| &slot.backend))) {
            return Ok(range.first);
        }
        let first = self.slots.reserve(len(slots.len())).map_err(|no_room| {
            if no_room.resting {
                return Refused::ReadersNotGone;
            }
            let map = map_names::<F>().slots;
            Refused::Full(StoreError::Full { map, capacity: self.capacity.slots, flag: "--max-backends" })
        })?;
        ops.push(FamilyOp::WriteSlots { service, first, slots: slots.to_vec() });
        Ok(first)
    }

    /// Nothing of the port is wanted any more.
    pub(super) fn retire(&mut self, service: u32) {
        self.claim(service, &Want::default());
        if let Some(port) = self.ports.get_mut(&service) {
            port.mark(&Want::default());
        }
    }

    /// What to remove of a port: frontends that neither it nor another wants, then backends that it does not want. The
    /// backends stay while a frontend may still lead to them, because its replacement has not succeeded yet.
    pub(super) fn sweep(&self, service: u32) -> Vec<FamilyOp<F>> {
        let Some(port) = self.ports.get(&service) else { return Vec::new() };
        let going: BTreeSet<_> = port.released.iter().filter(|key| !self.claims.contains_key(key)).collect();
        let replaced = |key: &FrontendKey<F>| {
            let named = self.frontends.get(key).map(|frontend| (frontend.first_slot, frontend.n_slots));
            !port.released.contains(key) && named == Some(port.target)
        };
        let settled = port.frontends.iter().all(|key| going.contains(key) || replaced(key));
        let mut ops: Vec<_> = going.into_iter().map(|key| FamilyOp::DeleteFrontend(*key)).collect();
        if settled {
            let unwanted = port.backends.values().filter(|known| !known.wanted);
            ops.extend(unwanted.map(|known| FamilyOp::DeleteBackend(known.id, known.value)));
            ops.extend(port.damaged.iter().map(|&(id, value)| FamilyOp::DeleteBackend(id, value)));
        }
        ops
    }

    /// How many entries a port has: each is removed by one operation.
    pub(super) fn n_entries(&self, service: u32) -> usize {
        let port = self.ports.get(&service);
        port.map_or(0, |port| port.frontends.len() + port.backends.len() + port.damaged.len())
    }

    /// Whether [`Table::sweep`] has anything to do, now or once the port's frontends are replaced.
    pub(super) fn has_garbage(&self, service: u32) -> bool {
        self.ports.get(&service).is_some_and(|port| {
            !port.released.is_empty() || !port.damaged.is_empty() || port.backends.values().any(|known| !known.wanted)
        })
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

    fn record_frontend(&mut self, key: FrontendKey<F>, frontend: Frontend) {
        if frontend.n_slots > 0 {
            self.slots.expose(frontend.first_slot);
        }
        let old = self.frontends.insert(key, frontend);
        let port = self.ports.entry(frontend.service).or_default();
        port.frontends.insert(key);
        let emptied = if frontend.n_slots == 0 { port.range.take() } else { None };
        self.release(emptied.map(|range| range.first));
        match old {
            Some(old) if old.service == frontend.service => {
                self.release((old.n_slots > 0).then_some(old.first_slot));
            }
            Some(old) => self.disown(&key, old),
            None => {}
        }
    }

    /// A port lost a frontend, by deletion or to another port.
    fn disown(&mut self, key: &FrontendKey<F>, old: Frontend) {
        self.release((old.n_slots > 0).then_some(old.first_slot));
        if let Some(port) = self.ports.get_mut(&old.service) {
            port.frontends.remove(key);
            port.released.remove(key);
            self.drop_if_empty(old.service);
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

impl<F: Family> Port<F> {
    fn mark(&mut self, want: &Want<F>) {
        self.released = self.frontends.difference(&want.frontends).copied().collect();
        for (at, known) in &mut self.backends {
            known.wanted = want.backends.contains_key(at);
        }
    }
}

/// A length as the maps count it. No map holds 2^32 entries, and what does not fit is refused before.
fn len(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
