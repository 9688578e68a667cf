//! From what is wanted of a Service port to the operations that are missing.

use lb_common::abi::{Backend, Family, Frontend, FrontendKey, Slot, endpoint_sets, frontend_flags};

use super::{Port, Refused, Table, Want, WantBackend, len};
use crate::datapath::{
    op::FamilyOp,
    store::{StoreError, map_names},
};

impl<F: Family> Table<F> {
    /// What has to be done so that the port is served as wanted, in the order in which it has to happen: backends,
    /// slots, frontends. What is no longer wanted is marked for [`Table::sweep`]. When refused, nothing has changed.
    pub(in crate::plan) fn stage(
        &mut self,
        service: u32,
        proto: u8,
        want: &Want<F>,
    ) -> Result<Vec<FamilyOp<F>>, Refused> {
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
        let n_slots = len(slots.len());
        let frontend = Frontend { service, first_slot, n_slots, flags: frontend_flags::NONE, affinity_s: 0, check: 0 };
        let sealed = want.frontends.iter().map(|key| (*key, frontend.sealed(key)));
        let differing = sealed.filter(|(key, value)| self.frontends.get(key).is_none_or(|shown| shown.value != *value));
        ops.extend(differing.map(|(key, value)| FamilyOp::PutFrontend(key, value)));
        if let Some(port) = self.ports.get_mut(&service) {
            port.mark(want);
            port.target = (frontend.first_slot, frontend.n_slots);
        }
        Ok(ops)
    }

    pub(super) fn claim(&mut self, service: u32, want: &Want<F>) {
        self.claims.retain(|_, claimant| *claimant != service);
        let of_another =
            |key: &&FrontendKey<F>| self.frontends.get(*key).is_some_and(|present| present.value.service != service);
        let wanted = want.frontends.iter().filter(of_another);
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
            let sets = if *takes_new { endpoint_sets::CLUSTER } else { 0 };
            let value = Backend { addr: at.addr, port: at.port, proto, state: *state, service, node: *node, sets };
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
}

impl<F: Family> Port<F> {
    pub(super) fn mark(&mut self, want: &Want<F>) {
        self.released = self.frontends.difference(&want.frontends).copied().collect();
        for (at, known) in &mut self.backends {
            known.wanted = want.backends.contains_key(at);
        }
    }
}
