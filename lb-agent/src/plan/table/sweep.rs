//! What of a Service port is no longer wanted, and when it may go.

use std::collections::BTreeSet;

use lb_common::abi::{Family, FrontendKey};

use super::{Table, Want};
use crate::datapath::op::FamilyOp;

impl<F: Family> Table<F> {
    /// Nothing of the port is wanted any more.
    pub(in crate::plan) fn retire(&mut self, service: u32) {
        self.claim(service, &Want::default());
        if let Some(port) = self.ports.get_mut(&service) {
            port.mark(&Want::default());
        }
    }

    /// What to remove of a port: frontends that neither it nor another wants, then backends that it does not want. The
    /// backends stay while a frontend may still lead to them, because its replacement has not succeeded yet.
    pub(in crate::plan) fn sweep(&self, service: u32) -> Vec<FamilyOp<F>> {
        let Some(port) = self.ports.get(&service) else { return Vec::new() };
        let going: BTreeSet<_> = port.released.iter().filter(|key| !self.claims.contains_key(key)).collect();
        let replaced = |key: &FrontendKey<F>| {
            let named = self.frontends.get(key).map(|shown| (shown.value.first_slot, shown.value.n_slots));
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
    pub(in crate::plan) fn n_entries(&self, service: u32) -> usize {
        let port = self.ports.get(&service);
        port.map_or(0, |port| port.frontends.len() + port.backends.len() + port.damaged.len())
    }

    /// Whether [`Table::sweep`] has anything to do, now or once the port's frontends are replaced.
    pub(in crate::plan) fn has_garbage(&self, service: u32) -> bool {
        self.ports.get(&service).is_some_and(|port| {
            !port.released.is_empty() || !port.damaged.is_empty() || port.backends.values().any(|known| !known.wanted)
        })
    }
}
