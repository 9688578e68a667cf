//! What the maps should hold, and what has to be done to get there. Pure and synchronous: no map, no clock, no I/O.
//!
//! A [`Plan`] is a mirror of the maps. [`Plan::stage`] compares a Service with it and returns operations; the caller
//! carries them out in order and calls [`Plan::record`] after each that succeeded, [`Plan::abandon`] with those that
//! will not be done. So the mirror never runs ahead of the maps, and staging again after a failure yields what is
//! missing.
//!
//! Make before break. The phases of a batch of Services:
//! 1. [`Plan::stage`] of each: names; new and changed backends; the slots of new ranges; what frontends presuppose
//!    besides (ranges of clients, the prefix of the guards); then the frontends, replaced one by one. Each replacement
//!    is the atomic moment for its address: what it names is complete, and what it named stays untouched.
//! 2. [`Plan::sweep`] once all are done: frontends that nobody took over, then backends and ranges of clients that no
//!    frontend needs, then names. Until here an address that goes from one Service of the batch to another has always
//!    led somewhere.
//! 3. Ranges that no frontend names rest. They are given out again only after [`Op::WaitForReaders`], which is asked for
//!    when no other range fits.
//!
//! A Service port has one id for both families. In each family it has a range of slots for each [`crate::model::EndpointSet`] that any of
//! its frontends is answered by; where both sets are the same backends, one range serves both. The guards of a Service
//! are frontends of a port of their own, without name and protocol.

mod gone;
mod ids;
mod names;
mod slots;
mod table;
mod want;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use lb_common::abi::{Family, NameKey, V4, V6, name_kind};

pub use self::gone::{GoneBackend, keeps_clients};
use self::{
    gone::Gone,
    names::{Names, PortName},
    table::{Recorded, Refused, Table, Want},
    want::{NO_PROTO, guards, guards_name, port_name, want},
};
use crate::{
    datapath::{
        op::{FamilyOp, Op},
        snapshot::Snapshot,
        store::{Capacity, StoreError},
    },
    event::ObjectName,
    model::DesiredService,
};

/// What the maps of one family hold, against what fits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FamilyUsage {
    /// Entries of `lb_frontends`.
    pub frontends: u32,
    /// Entries of `lb_backends`.
    pub backends: u32,
    /// Slots that frontends name or are about to.
    pub slots: u32,
    /// Slots that rest until no program reads them.
    pub slots_resting: u32,
    /// Entries of `lb_sources`.
    pub sources: u32,
    /// What fits.
    pub capacity: Capacity,
}

/// What the maps hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Services with an entry.
    pub services: usize,
    /// Entries of `lb_names`, with those that are about to be written.
    pub names: usize,
    /// IPv4.
    pub v4: FamilyUsage,
    /// IPv6.
    pub v6: FamilyUsage,
}

/// What [`Plan::stage`] says about one Service.
#[derive(Debug)]
pub struct Staged {
    /// What to do, in this order.
    pub ops: Vec<Op>,
    /// A part of the Service (a port in one family) keeps what it has, because a map is full.
    pub full: Option<StoreError>,
    /// A part of the Service needs slots that still rest: do [`Op::WaitForReaders`] and stage again.
    pub wants_readers_gone: bool,
}

/// The mirror of the maps.
#[derive(Debug)]
pub struct Plan {
    names: Names,
    v4: Table<V4>,
    v6: Table<V6>,
    /// Service-port ids of which something is no longer wanted.
    garbage: BTreeSet<u32>,
    /// Service-port ids in adopted maps to which no name belongs.
    strays: BTreeSet<u32>,
    /// See [`Plan::take_gone`].
    gone: Vec<Gone>,
}

impl Plan {
    /// Starts from what the maps hold: of an earlier agent, or nothing. Everything in them stays as it is until its
    /// Service is staged; what belongs to no Service, or is damaged, until [`Plan::prune`].
    pub fn adopt(snapshot: Snapshot) -> Self {
        let (v4, v6) = (Table::adopt(snapshot.v4), Table::adopt(snapshot.v6));
        let ids = v4.service_ids().chain(v6.service_ids());
        let ids: BTreeMap<u32, Option<u8>> = ids.map(|id| (id, v4.proto(id).or_else(|| v6.proto(id)))).collect();
        let mut names = Names::adopt(snapshot.names, &ids);
        for node in v4.node_ids().chain(v6.node_ids()) {
            names.adopt_reference(node);
        }
        let strays = ids.into_keys().filter(|&id| !names.is_known(id)).collect();
        Self { names, v4, v6, garbage: BTreeSet::new(), strays, gone: Vec::new() }
    }

    /// What has to be done for a Service to be as desired.
    pub fn stage(&mut self, desired: &DesiredService) -> Staged {
        self.names.begin_staging();
        let mut ops = Vec::new();
        let mut staged = Staged { ops: Vec::new(), full: None, wants_readers_gone: false };
        let mut ports: Vec<PortName> = desired.ports.iter().map(port_name).collect();
        for (port, name) in desired.ports.iter().zip(&ports) {
            let id = self.names.service_id(&desired.name, name, &mut ops);
            let v4 = want(port, &mut self.names, &mut ops);
            let v6 = want(port, &mut self.names, &mut ops);
            self.stage_port(id, name.proto, (&v4, &v6), &mut staged);
        }
        if !desired.guards.is_empty() {
            self.stage_guards(desired, &mut ops, &mut staged);
            ports.push(guards_name());
        }
        for id in self.names.retire_others(&desired.name, &ports) {
            self.retire(id);
        }
        // Ports and families are staged in turn; the phases are those of the whole Service.
        ops.append(&mut staged.ops);
        ops.sort_by_key(Op::phase);
        staged.ops = ops;
        staged
    }

    /// Last, and only once the ports are served: a full map has no room for refusals.
    fn stage_guards(&mut self, desired: &DesiredService, ops: &mut Vec<Op>, staged: &mut Staged) {
        if staged.full.is_some() {
            return;
        }
        let id = self.names.service_id(&desired.name, &guards_name(), ops);
        let (v4, v6) = (guards(desired), guards(desired));
        if staged.wants_readers_gone {
            self.v4.claim(id, &v4);
            self.v6.claim(id, &v6);
        } else {
            self.stage_port(id, NO_PROTO, (&v4, &v6), staged);
        }
    }

    fn stage_port(&mut self, id: u32, proto: u8, (v4, v6): (&Want<V4>, &Want<V6>), staged: &mut Staged) {
        staged.add(self.v4.stage(id, proto, v4));
        staged.add(self.v6.stage(id, proto, v6));
        self.note_garbage(id);
    }

    fn note_garbage(&mut self, id: u32) {
        if self.v4.has_garbage(id) || self.v6.has_garbage(id) {
            self.garbage.insert(id);
        } else {
            self.garbage.remove(&id);
        }
    }

    fn retire(&mut self, id: u32) {
        self.v4.retire(id);
        self.v6.retire(id);
        self.garbage.insert(id);
    }

    /// Takes note that an operation was done.
    pub fn record(&mut self, op: &Op) {
        match op {
            Op::PutName(key, _) => self.names.written(*key),
            Op::DeleteName(key) => self.names.deleted(*key),
            Op::V4(op) => {
                let recorded = self.v4.record(op);
                self.note(recorded);
            }
            Op::V6(op) => {
                let recorded = self.v6.record(op);
                self.note(recorded);
            }
            Op::WaitForReaders => {
                self.v4.readers_gone();
                self.v6.readers_gone();
            }
        }
    }

    fn note(&mut self, Recorded { left_node, joined_node, gone }: Recorded) {
        self.names.moved(left_node, joined_node);
        if let Some(backend) = gone {
            // Now, while the name is still there.
            let owner = self.names.owner(backend.service).cloned();
            self.gone.push(Gone { backend, owner });
        }
    }

    /// The backends that stopped to keep their clients since the last call, as far as the maps say so, without those that
    /// serve the same Service again, whatever its port is called and whichever id they have now.
    pub fn take_gone(&mut self) -> Vec<GoneBackend> {
        let gone = std::mem::take(&mut self.gone);
        gone.into_iter().filter(|gone| !self.serves_again(gone)).map(|gone| gone.backend).collect()
    }

    fn serves_again(&self, Gone { backend, owner }: &Gone) -> bool {
        let ports = owner.iter().flat_map(|owner| self.names.ids_of(owner));
        let mut ids = ports.chain([backend.service]);
        ids.any(|id| self.v4.serves(id, backend.proto, backend.addr) || self.v6.serves(id, backend.proto, backend.addr))
    }

    /// Takes note that staged operations will not be done.
    pub fn abandon(&mut self, ops: &[Op]) {
        for op in ops {
            match op {
                Op::V4(op) => self.v4.abandon(op),
                Op::V6(op) => self.v6.abandon(op),
                Op::PutName(..) | Op::DeleteName(_) | Op::WaitForReaders => {}
            }
        }
    }

    /// From now on everything goes that belongs to no Service. Only right when every source has delivered its first full
    /// list and all of it was staged. Services that are gone have to be staged too, see [`Plan::services`].
    pub fn prune(&mut self) {
        for id in std::mem::take(&mut self.strays) {
            self.retire(id);
        }
        self.names.prune();
    }

    /// The next Service-port id above `after`, or the first, of which something is to be removed by [`Plan::sweep`]; of
    /// some of them only later.
    pub fn next_garbage(&mut self, after: Option<u32>) -> Option<u32> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        loop {
            let id = *self.garbage.range((from, Bound::Unbounded)).next()?;
            if self.v4.has_garbage(id) || self.v6.has_garbage(id) || self.names.is_retired(id) {
                return Some(id);
            }
            self.garbage.remove(&id);
        }
    }

    /// What to remove of a Service port, in this order up to the first failure; the rest comes with the next call.
    pub fn sweep(&self, id: u32) -> Vec<Op> {
        let mut ops: Vec<Op> = self.v4.sweep(id).into_iter().map(Op::from).collect();
        ops.extend(self.v6.sweep(id).into_iter().map(Op::from));
        let nothing_stays = ops.len() == self.v4.n_entries(id) + self.v6.n_entries(id);
        if nothing_stays && self.names.is_retired(id) {
            ops.push(Op::DeleteName(NameKey { kind: name_kind::SERVICE, id }));
        }
        ops.sort_by_key(Op::phase);
        ops
    }

    /// What to do when all Service ports are swept: names that nothing refers to go, and the prefix of the guards becomes
    /// as small as it can be.
    pub fn sweep_rest(&self) -> Vec<Op> {
        let mut ops = self.names.sweep();
        ops.extend(self.v4.sweep_prefix().map(Op::from));
        ops.extend(self.v6.sweep_prefix().map(Op::from));
        ops
    }

    /// The Services that have an entry.
    pub fn services(&self) -> impl Iterator<Item = &ObjectName> {
        self.names.services()
    }

    /// Grows whenever something was given back: then it is worth staging again what did not fit.
    pub fn freed(&self) -> u64 {
        self.v4.freed() + self.v6.freed()
    }

    /// Counts against capacities.
    pub fn usage(&self) -> Usage {
        Usage { services: self.names.n_services(), names: self.names.len(), v4: self.v4.usage(), v6: self.v6.usage() }
    }
}

impl Staged {
    fn add<F: Family>(&mut self, result: Result<Vec<FamilyOp<F>>, Refused>)
    where
        Op: From<FamilyOp<F>>,
    {
        match result {
            Ok(ops) => self.ops.extend(ops.into_iter().map(Op::from)),
            Err(Refused::Full(error)) => self.full = Some(error),
            Err(Refused::ReadersNotGone) => self.wants_readers_gone = true,
        }
    }
}
