//! From what is wanted of a Service port to the operations that are missing.

use std::collections::BTreeSet;

use lb_common::abi::{Backend, Family, Frontend, FrontendKey, Slot, frontend_flags, scope};

use super::{Lead, Leads, Refused, Table, Want, WantBackend, len};
use crate::{
    datapath::{
        op::FamilyOp,
        store::{StoreError, map_names},
    },
    model::{Answer, EndpointSet},
};

/// A slot, and the sets it is in.
type SetSlot<F> = (Slot<F>, u32);

/// Ranges reserved in one staging, two at most: the first slot, and the content.
type Reserved<F> = Vec<(u32, Vec<Slot<F>>)>;

impl<F: Family> Table<F> {
    /// What has to be done so that the port is served as wanted, in the order in which it has to happen: backends,
    /// slots, conditions, frontends. What is no longer wanted is marked for [`Table::sweep`]. When refused, nothing has
    /// changed.
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
        let leads = self.stage_slots(service, want, &slots, &mut ops)?;
        self.stage_conditions(service, want, &mut ops);
        let wanted = want.frontends.iter().map(|(key, answer)| (*key, frontend(service, want, &leads, key, answer)));
        let differing = |(key, value): &(FrontendKey<F>, Frontend)| {
            self.frontends.get(key).is_none_or(|shown| shown.value != *value)
        };
        let frontends: Vec<_> = wanted.filter(differing).collect();
        self.mark(service, want, &leads, &frontends);
        ops.extend(frontends.into_iter().map(|(key, value)| FamilyOp::PutFrontend(key, value)));
        Ok(ops)
    }

    /// The port wants these frontends: those that are another's now, or its own and given up before, stay until it has
    /// them as it wants them.
    pub(in crate::plan) fn claim(&mut self, service: u32, want: &Want<F>) {
        self.claims.retain(|_, claimant| *claimant != service);
        let of_another =
            |key: &&FrontendKey<F>| self.frontends.get(*key).is_some_and(|present| present.value.service != service);
        let wanted = want.frontends.keys().filter(of_another);
        self.claims.extend(wanted.map(|key| (*key, service)));
        if let Some(port) = self.ports.get_mut(&service) {
            let again = port.released.extract_if(.., |key| want.frontends.contains_key(key));
            port.pending.extend(again);
        }
    }

    fn check_room(&self, service: u32, want: &Want<F>) -> Result<(), StoreError> {
        let names = map_names::<F>();
        let check = |map, flag, present: usize, new: usize, capacity: u32| {
            let full = new > 0 && present + new > capacity as usize;
            if full { Err(StoreError::Full { map, capacity, flag }) } else { Ok(()) }
        };
        let port = self.ports.get(&service);
        let new = want.frontends.keys().filter(|key| !self.frontends.contains_key(key)).count();
        check(names.frontends, "--max-frontends", self.frontends.len(), new, self.capacity.frontends)?;
        let known = |at| port.is_some_and(|port| port.backends.contains(at));
        let new = want.backends.keys().filter(|at| !known(at)).count();
        check(names.backends, "--max-backends", self.backend_ids.len(), new, self.capacity.backends)?;
        let known = |source| port.is_some_and(|port| port.sources.contains_key(source));
        let new = want.sources.iter().filter(|source| !known(source)).count();
        check(names.sources, "--max-frontends", self.n_sources, new, self.capacity.sources())
    }

    /// Adds the backends that are new or changed to `ops`, and says which slots there should be.
    fn stage_backends(
        &mut self,
        service: u32,
        proto: u8,
        want: &Want<F>,
        ops: &mut Vec<FamilyOp<F>>,
    ) -> Vec<SetSlot<F>> {
        let port = self.ports.get(&service);
        let mut slots = Vec::with_capacity(want.backends.len());
        for (at, &WantBackend { state, sets, node }) in &want.backends {
            let value = Backend { addr: at.addr, port: at.port, proto, state, service, node, sets };
            let known = port.and_then(|port| port.backends.get(at));
            let id = match known {
                Some(known) => known.id,
                None => self.next_backend.next(|id| self.backend_ids.contains(&id)),
            };
            if known.is_none_or(|known| known.value != value) {
                ops.push(FamilyOp::PutBackend(id, value));
            }
            slots.push((Slot { addr: at.addr, backend: id, port: at.port, reserved: 0 }, sets));
        }
        slots
    }

    /// Where the frontends that ask for each set should lead: to a range that is there already if one holds just those
    /// slots, so that two sets of the same backends share one; else to a new one.
    fn stage_slots(
        &mut self,
        service: u32,
        want: &Want<F>,
        slots: &[SetSlot<F>],
        ops: &mut Vec<FamilyOp<F>>,
    ) -> Result<Leads, Refused> {
        let mut reserved = Vec::new();
        let mut found = Leads::default();
        let leading = want.frontends.iter().filter(|(key, _)| leads_anywhere(key));
        let asked: BTreeSet<EndpointSet> = leading.map(|(_, answer)| answer.set).collect();
        for set in asked {
            let of_set = slots.iter().filter(|(_, sets)| sets & set.bit() != 0).map(|(slot, _)| *slot).collect();
            match self.lead_to(service, of_set, &mut reserved) {
                Ok(lead) => *found.of_mut(set) = lead,
                Err(refused) => {
                    for (first, _) in reserved {
                        self.slots.release(first);
                    }
                    return Err(refused);
                }
            }
        }
        ops.extend(reserved.into_iter().map(|(first, slots)| FamilyOp::WriteSlots { service, first, slots }));
        Ok(found)
    }

    fn lead_to(&mut self, service: u32, slots: Vec<Slot<F>>, reserved: &mut Reserved<F>) -> Result<Lead, Refused> {
        let n_slots = len(slots.len());
        if n_slots == 0 {
            return Ok(Lead::default());
        }
        let ids = || slots.iter().map(|slot| slot.backend);
        let ranges = self.ports.get(&service).map_or(&[][..], |port| &port.ranges);
        let present = ranges.iter().find(|range| range.ids.iter().copied().eq(ids())).map(|range| range.first);
        let present = present.or_else(|| reserved.iter().find(|(_, other)| *other == slots).map(|(first, _)| *first));
        let first_slot = match present {
            Some(first) => first,
            None => {
                let first = self.reserve(n_slots)?;
                reserved.push((first, slots));
                first
            }
        };
        Ok(Lead { first_slot, n_slots })
    }

    fn reserve(&mut self, n_slots: u32) -> Result<u32, Refused> {
        self.slots.reserve(n_slots).map_err(|no_room| {
            if no_room.resting {
                return Refused::ReadersNotGone;
            }
            let map = map_names::<F>().slots;
            Refused::Full(StoreError::Full { map, capacity: self.capacity.slots, flag: "--max-backends" })
        })
    }
}

/// Whether anybody is led anywhere by such a frontend. A port that may not be bound says all it has to say by being there.
fn leads_anywhere<F: Family>(key: &FrontendKey<F>) -> bool {
    key.scope != scope::BIND
}

/// The value of a frontend.
fn frontend<F: Family>(service: u32, want: &Want<F>, leads: &Leads, key: &FrontendKey<F>, answer: &Answer) -> Frontend {
    let value = Frontend { service, ..Frontend::default() };
    if !leads_anywhere(key) {
        return value.sealed(key);
    }
    let Lead { first_slot, n_slots } = leads.of(answer.set);
    let is_local = answer.set == EndpointSet::Local;
    let flags = [
        (is_local, frontend_flags::LOCAL),
        (answer.restricted, frontend_flags::SOURCES),
        (answer.differs_outside(), frontend_flags::EXTERNAL_DIFFERS),
        (is_local && n_slots == 0 && want.served, frontend_flags::DROP),
    ];
    let flags = flags.iter().filter(|(holds, _)| *holds).fold(frontend_flags::NONE, |all, (_, flag)| all | flag);
    let value = Frontend { first_slot, n_slots, flags, affinity_s: want.affinity_s, ..value };
    value.sealed(key)
}
