//! One walk through a family's table, a slice at a time: which flows are over, and their removal.

use std::collections::{HashMap, HashSet, hash_map::Entry};

use lb_common::{
    abi::{Backend, Family, Flow, FlowKey, Proto},
    logic::flow::{age_s, expired, lone_half_expired, timeout},
};

use crate::{
    datapath::{
        flows::{Cursor, FlowStore, Half, partner},
        store::StoreError,
    },
    reconcile::{GoneBackend, keeps_clients},
    terminate::TcpPolicy,
};

/// Whose flows are ended whether they are idle or not.
#[derive(Clone, Debug, Default)]
pub enum Ending {
    /// Nobody's.
    #[default]
    Nobodys,
    /// Of these backends, by Service-port id and backend id.
    Of(HashSet<(u32, u32)>),
    /// Of backends that are not in the maps, or not as the flow knows them: what went while no agent ran.
    OfStrangers,
}

impl Ending {
    /// Of those backends whose clients are told, if there are any.
    pub fn of(backends: &[GoneBackend], tcp: TcpPolicy) -> Option<Self> {
        let told = backends.iter().filter(|backend| tcp.covers(backend.proto));
        let ids: HashSet<_> = told.map(|backend| (backend.service, backend.backend)).collect();
        (!ids.is_empty()).then_some(Self::Of(ids))
    }
}

/// What came of a walk so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Flows that stay, which have two entries each.
    pub kept: u64,
    /// Flows that were idle for too long.
    pub expired: u64,
    /// Flows whose backend is gone.
    pub gone: u64,
    /// Halves without another one, and damaged entries.
    pub stray: u64,
}

/// Why a flow ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Idle,
    BackendGone,
    Stray,
}

/// The table of one family, from the beginning to the end.
#[derive(Debug)]
pub struct Walk<F: Family> {
    ending: Ending,
    tcp: TcpPolicy,
    cursor: Cursor,
    ended: Ended,
    slice: Vec<Half<F>>,
    /// Backends that this walk has met, by id.
    backends: HashMap<u32, Option<Backend<F>>>,
}

impl<F: Family> Walk<F> {
    /// A walk that has not begun.
    pub fn new(ending: Ending, tcp: TcpPolicy) -> Self {
        Self { ending, tcp, cursor: None, ended: Ended::default(), slice: Vec::new(), backends: HashMap::new() }
    }

    /// Looks at some of the table; `now_s` in seconds of the monotonic clock. Returns what came of the whole walk at its
    /// end. Costs one system call for each slice, one for each half that is not busy, and three for each flow that ends.
    ///
    /// # Errors
    /// What the store says. What was not removed is met again by the next walk.
    pub fn step(&mut self, store: &mut impl FlowStore<F>, now_s: u32) -> Result<Option<Ended>, StoreError> {
        let mut slice = std::mem::take(&mut self.slice);
        self.cursor = store.read_flows(self.cursor, &mut slice)?;
        for (key, half) in &slice {
            match self.reason(store, key, half, now_s)? {
                Some(reason) => self.end(store, key, half, reason)?,
                None => self.ended.kept += u64::from(!half.is_reply()),
            }
        }
        self.slice = slice;
        Ok(self.cursor.is_none().then_some(self.ended))
    }

    /// Why this half is to go, if it is. A half of the backend's packets goes with the client's, unless it was left alone.
    fn reason(
        &mut self,
        store: &impl FlowStore<F>,
        key: &FlowKey<F>,
        half: &Flow<F>,
        now_s: u32,
    ) -> Result<Option<Reason>, StoreError> {
        if !half.is_of(key) {
            return Ok(Some(Reason::Stray));
        }
        if !half.is_reply() && self.is_gone(store, key, half)? {
            return Ok(Some(Reason::BackendGone));
        }
        if age_s(now_s, half.last_seen_s) <= timeout::SHORTEST_S {
            return Ok(None);
        }
        let Some(other) = partner(store, key, half)? else {
            // It may have been in this very slice, and gone with the other one. Or it is half of a flow that is being
            // made: of that its age tells.
            let still = store.flow(key)?.filter(|now| lone_half_expired(now, now_s));
            return Ok(still.map(|_| Reason::Stray));
        };
        if half.is_reply() || !expired(key.proto, half, &other, now_s) {
            return Ok(None);
        }
        // Packets may have come since the slice was read.
        let again = store.flow(key)?.filter(|now| now.is_of(key) && expired(key.proto, now, &other, now_s));
        Ok(again.map(|_| Reason::Idle))
    }

    fn is_gone(&mut self, store: &impl FlowStore<F>, key: &FlowKey<F>, half: &Flow<F>) -> Result<bool, StoreError> {
        let Some(proto) = Proto::from_number(key.proto) else { return Ok(false) };
        match &self.ending {
            Ending::Nobodys => Ok(false),
            Ending::Of(backends) => Ok(backends.contains(&(half.service, half.backend))),
            Ending::OfStrangers if !self.tcp.covers(proto) => Ok(false),
            Ending::OfStrangers => {
                let known = match self.backends.entry(half.backend) {
                    Entry::Occupied(met) => *met.get(),
                    Entry::Vacant(new) => *new.insert(store.backend(half.backend)?),
                };
                Ok(!known.is_some_and(|backend| serves(&backend, proto, half)))
            }
        }
    }

    fn end(
        &mut self,
        store: &mut impl FlowStore<F>,
        key: &FlowKey<F>,
        half: &Flow<F>,
        reason: Reason,
    ) -> Result<(), StoreError> {
        // Who removes the client's half removes the other one: where a program was faster, that is another flow's by now.
        if !store.delete_flow(key)? {
            return Ok(());
        }
        *match reason {
            Reason::Idle => &mut self.ended.expired,
            Reason::BackendGone => &mut self.ended.gone,
            Reason::Stray => &mut self.ended.stray,
        } += 1;
        // A client's half that was left alone leaves nothing else. Where a backend's was, its client may have begun a flow
        // on it since it was looked at (`claim_reply`), which then goes, too: the client's next packet begins it anew.
        if reason == Reason::Stray && !half.is_reply() {
            return Ok(());
        }
        if partner(store, key, half)?.is_some() {
            store.delete_flow(&half.partner(key))?;
        }
        Ok(())
    }
}

/// Whether the backend is still the one that this client's half leads to.
fn serves<F: Family>(backend: &Backend<F>, proto: Proto, half: &Flow<F>) -> bool {
    let same = (backend.service, backend.addr, backend.port, backend.proto)
        == (half.service, half.dst_addr, half.dst_port, proto.number());
    same && keeps_clients(proto, backend.state)
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
