//! What of a Service port is no longer wanted, and when it may go.

use lb_common::abi::{Family, Frontend, FrontendKey};

use super::{Leads, Table, Want};
use crate::datapath::op::FamilyOp;

impl<F: Family> Table<F> {
    /// Nothing of the port is wanted any more.
    pub(in crate::plan) fn retire(&mut self, service: u32) {
        let nothing = Want::default();
        self.claim(service, &nothing);
        self.mark(service, &nothing, &Leads::default(), &[]);
    }

    /// From now on the port should be so; `staged` are the frontends that are to be put for it.
    pub(super) fn mark(&mut self, service: u32, want: &Want<F>, leads: &Leads, staged: &[(FrontendKey<F>, Frontend)]) {
        let Some(port) = self.ports.get_mut(&service) else { return };
        port.released = port.frontends.iter().filter(|key| !want.frontends.contains_key(key)).copied().collect();
        port.pending = staged.iter().map(|(key, _)| *key).filter(|key| port.frontends.contains(key)).collect();
        for known in port.backends.iter_mut() {
            known.wanted = want.backends.contains_key(&known.at());
        }
        for (source, wanted) in &mut port.sources {
            *wanted = want.sources.contains(source);
        }
        // The frontends hold their ranges for themselves; the port only those that the next ones may lead to.
        let (kept, given_back) = std::mem::take(&mut port.ranges).into_iter().partition(|range| leads.lead_to(range));
        port.ranges = kept;
        self.release(given_back.iter().map(|range| range.first));
    }

    /// What to remove of a port: frontends that neither it nor another wants nor leads to, then backends and ranges of clients that
    /// it does not want. These stay while a frontend may still lead to them, because its replacement has not succeeded
    /// yet.
    pub(in crate::plan) fn sweep(&self, service: u32) -> Vec<FamilyOp<F>> {
        let Some(port) = self.ports.get(&service) else { return Vec::new() };
        let may_go = |key: &FrontendKey<F>| port.released.contains(key) && !self.claims.contains_key(key);
        // In the order of the keys an entry for the inside goes before the one for the outside that it leads to.
        let free = |key: &&FrontendKey<F>| may_go(key) && self.led_from(key).is_none_or(|inside| may_go(&inside));
        let going: Vec<_> = port.released.iter().filter(free).collect();
        let settled = port.pending.is_empty() && going.len() == port.released.len();
        let mut ops: Vec<_> = going.into_iter().map(|key| FamilyOp::DeleteFrontend(*key)).collect();
        if settled {
            let unwanted = port.backends.iter().rev().filter(|known| !known.wanted);
            ops.extend(unwanted.map(|known| FamilyOp::DeleteBackend(known.id, known.value)));
            ops.extend(port.damaged.iter().map(|&(id, value)| FamilyOp::DeleteBackend(id, value)));
            let unwanted = port.sources.iter().filter(|(_, wanted)| !**wanted);
            ops.extend(unwanted.map(|(source, _)| source.delete(service)));
        }
        ops
    }

    /// The prefix of the guards, where a smaller one is enough now.
    pub(in crate::plan) fn sweep_prefix(&self) -> Option<FamilyOp<F>> {
        self.guards.narrowed().map(FamilyOp::PutClusterIps)
    }

    /// How many entries a port has: each is removed by one operation.
    pub(in crate::plan) fn n_entries(&self, service: u32) -> usize {
        self.ports.get(&service).map_or(0, |port| port.n_entries())
    }

    /// Whether [`Table::sweep`] has anything to do, now or once the port's frontends are replaced.
    pub(in crate::plan) fn has_garbage(&self, service: u32) -> bool {
        self.ports.get(&service).is_some_and(|port| {
            !port.released.is_empty()
                || !port.damaged.is_empty()
                || port.backends.iter().any(|known| !known.wanted)
                || port.sources.values().any(|wanted| !wanted)
        })
    }
}
