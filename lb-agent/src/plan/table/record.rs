//! What an operation that was done, or will not be, means for the mirror.

use lb_common::abi::{Backend, Endpoint, Family, Frontend, FrontendKey, SourceKey};

use super::{GoneBackend, Known, Range, Recorded, Shown, Source, Table, keeps};
use crate::datapath::op::FamilyOp;

impl<F: Family> Table<F> {
    /// Takes note that an operation was done.
    pub(in crate::plan) fn record(&mut self, op: &FamilyOp<F>) -> Recorded {
        match op {
            FamilyOp::PutBackend(id, value) => return self.record_backend(*id, *value),
            FamilyOp::DeleteBackend(id, value) => return self.forget_backend(*id, value),
            FamilyOp::WriteSlots { service, first, slots } => {
                let ids = slots.iter().map(|slot| slot.backend).collect();
                let ranges = &mut self.ports.entry(*service).or_default().ranges;
                // Most Services have one, and there are many.
                ranges.reserve_exact(1);
                ranges.push(Range { first: *first, ids });
            }
            FamilyOp::PutClusterIps(prefix) => self.guards.prefix_put(*prefix),
            FamilyOp::PutSource(key, prefix_len) => self.source_put(key, *prefix_len),
            FamilyOp::DeleteSource(key, prefix_len) => self.source_deleted(key, *prefix_len),
            FamilyOp::PutFrontend(key, frontend) => {
                self.claims.remove(key);
                self.record_frontend(*key, *frontend);
            }
            FamilyOp::DeleteFrontend(key) => {
                self.claims.remove(key);
                self.guards.frontend_deleted(key);
                if let Some(old) = self.frontends.remove(key) {
                    self.freed += 1;
                    self.disown(key, old);
                }
            }
        }
        Recorded::default()
    }

    pub(super) fn source_put(&mut self, key: &SourceKey<F>, prefix_len: u32) {
        let port = self.ports.entry(key.service).or_default();
        if port.sources.insert(Source::adopt(key, prefix_len), true).is_none() {
            self.n_sources += 1;
        }
    }

    fn source_deleted(&mut self, key: &SourceKey<F>, prefix_len: u32) {
        self.freed += 1;
        if let Some(port) = self.ports.get_mut(&key.service) {
            if port.sources.remove(&Source::adopt(key, prefix_len)).is_some() {
                self.n_sources -= 1;
            }
            self.drop_if_empty(key.service);
        }
    }

    fn record_backend(&mut self, id: u32, value: Backend<F>) -> Recorded {
        self.backend_ids.insert(id);
        let known = Known { id, value, wanted: true };
        let old = self.ports.entry(value.service).or_default().backends.insert(known);
        let stopped = old.as_ref().filter(|old| keeps(&old.value) && !keeps(&value));
        let gone = stopped.and_then(|old| GoneBackend::new(old.id, &old.value));
        Recorded { left_node: old.map(|old| old.value.node), joined_node: Some(value.node), gone }
    }

    fn forget_backend(&mut self, id: u32, value: &Backend<F>) -> Recorded {
        self.backend_ids.remove(&id);
        self.freed += 1;
        if let Some(port) = self.ports.get_mut(&value.service) {
            let at = Endpoint { addr: value.addr, port: value.port };
            match port.damaged.iter().position(|(damaged, _)| *damaged == id) {
                Some(index) => drop(port.damaged.swap_remove(index)),
                None => port.backends.remove(&at),
            }
            self.drop_if_empty(value.service);
        }
        let gone = Some(value).filter(|value| keeps(value)).and_then(|value| GoneBackend::new(id, value));
        Recorded { left_node: Some(value.node), joined_node: None, gone }
    }

    fn record_frontend(&mut self, key: FrontendKey<F>, value: Frontend) {
        let holds = value.n_slots > 0;
        if holds {
            self.slots.expose(value.first_slot);
        }
        self.guards.frontend_put(&key);
        let old = self.frontends.insert(key, Shown { value, holds });
        let port = self.ports.entry(value.service).or_default();
        port.frontends.insert(key);
        port.pending.remove(&key);
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
            port.pending.remove(key);
            self.drop_if_empty(old.value.service);
        }
    }

    fn drop_if_empty(&mut self, service: u32) {
        if self.ports.get(&service).is_some_and(|port| port.n_entries() == 0)
            && let Some(port) = self.ports.remove(&service)
        {
            self.release(port.ranges.iter().map(|range| range.first));
        }
    }

    pub(super) fn release(&mut self, slots: impl IntoIterator<Item = u32>) {
        for slot in slots {
            if self.slots.release(slot) {
                self.freed += 1;
            }
        }
    }

    /// An operation that was staged will not be done.
    pub(in crate::plan) fn abandon(&mut self, op: &FamilyOp<F>) {
        if let FamilyOp::WriteSlots { first, .. } = op {
            self.slots.release(*first);
        }
    }

    /// No program reads the ranges any more that were given back before.
    pub(in crate::plan) fn readers_gone(&mut self) {
        self.slots.readers_gone();
    }
}
