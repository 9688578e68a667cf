//! From what the maps hold to the mirror: what an earlier agent, or nobody knows who, left.

use std::collections::{HashMap, HashSet};

use lb_common::abi::{Backend, Endpoint, Family, Frontend, FrontendKey, Slot, SourceKey};

use super::{Guards, Ids, Known, Port, Range, Shown, Slots, Table};
use crate::datapath::snapshot::FamilySnapshot;

impl<F: Family> Table<F> {
    /// Takes over what the maps hold. What is damaged is replaced when its port is next staged, or goes with its port.
    pub(in crate::plan) fn adopt(mut snapshot: FamilySnapshot<F>) -> Self {
        let mut table = Self {
            frontends: HashMap::new(),
            ports: HashMap::new(),
            backend_ids: HashSet::new(),
            next_backend: Ids::default(),
            slots: Slots::adopt(0, []),
            guards: Guards::adopt(snapshot.cluster_ips),
            n_sources: 0,
            claims: HashMap::new(),
            capacity: snapshot.capacity,
            freed: 0,
        };
        snapshot.backends.sort_unstable_by_key(|&(id, _)| id);
        for &(id, value) in &snapshot.backends {
            table.adopt_backend(id, value);
        }
        for (key, prefix_len) in &snapshot.sources {
            table.adopt_source(key, *prefix_len);
        }
        snapshot.frontends.sort_unstable_by_key(|&(key, _)| key);
        for &(key, value) in &snapshot.frontends {
            let slots = snapshot.slots_of(&value).filter(|slots| !slots.is_empty());
            table.adopt_frontend(key, value, slots);
        }
        // A damaged range holds nothing: one that spans the whole array would leave no room to replace it.
        let held = table.frontends.values().filter(|shown| shown.holds);
        let held = held.map(|shown| (shown.value.first_slot, shown.value.n_slots));
        table.slots = Slots::adopt(snapshot.capacity.slots, held);
        for range in table.ports.values().flat_map(|port| &port.ranges) {
            table.slots.hold(range.first);
        }
        table
    }

    fn adopt_backend(&mut self, id: u32, value: Backend<F>) {
        self.backend_ids.insert(id);
        self.next_backend.adopt(id);
        let port = self.ports.entry(value.service).or_default();
        let at = Endpoint { addr: value.addr, port: value.port };
        if id == 0 || port.backends.contains(&at) {
            port.damaged.push((id, value));
        } else {
            port.backends.insert(Known { id, value, wanted: true });
        }
    }

    fn adopt_source(&mut self, key: &SourceKey<F>, prefix_len: u32) {
        self.source_put(key, prefix_len);
    }

    /// The port takes over each range whose slots are all as they should be.
    fn adopt_frontend(&mut self, key: FrontendKey<F>, value: Frontend, slots: Option<&[Slot<F>]>) {
        self.guards.frontend_put(&key);
        let port = self.ports.entry(value.service).or_default();
        port.frontends.insert(key);
        let good = slots.filter(|slots| slots.iter().all(|slot| port.leads_to(slot)));
        if let Some(slots) = good {
            let range = Range { first: value.first_slot, ids: slots.iter().map(|slot| slot.backend).collect() };
            if !port.ranges.contains(&range) {
                port.ranges.push(range);
            }
        }
        self.frontends.insert(key, Shown { value, holds: good.is_some() });
    }
}

impl<F: Family> Port<F> {
    fn leads_to(&self, slot: &Slot<F>) -> bool {
        let known = self.backends.get(&Endpoint { addr: slot.addr, port: slot.port });
        known.is_some_and(|known| known.id == slot.backend)
    }
}
