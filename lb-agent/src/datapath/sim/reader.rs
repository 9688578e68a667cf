//! What a kernel program could see: it reads a frontend, then one of the slots that it names, at any later moment until
//! [`Readers::end`].

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    hash::Hash,
    net::SocketAddr,
    ops::Range,
};

use lb_common::{
    abi::{Backend, Family, Frontend, FrontendKey, NameKey, Slot, frontend_flags, name_kind, scope},
    sim::SimMaps,
};

/// Where a frontend led after a change of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Its address and port.
    pub frontend: SocketAddr,
    /// IP protocol number.
    pub proto: u8,
    /// See [`lb_common::abi::scope`].
    pub scope: u8,
    /// Where a new connection may go; empty if it is refused; `None` if the frontend is gone.
    pub backends: Option<BTreeSet<SocketAddr>>,
}

/// How often something is in use.
#[derive(Debug)]
struct Counts<K>(HashMap<K, u32>);

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq + Copy> Counts<K> {
    fn change(&mut self, key: K, more: bool) {
        let count = self.0.entry(key).or_default();
        *count = if more { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            self.0.remove(&key);
        }
    }

    fn has(&self, key: K) -> bool {
        self.0.contains_key(&key)
    }
}

/// The programs that may be running in one family, and what they may be looking at.
#[derive(Debug, Default)]
pub(super) struct Readers {
    /// Slots of frontends that were replaced or removed: a program may have read the frontend before.
    old_slots: HashSet<u32>,
    /// Slots that frontends name now.
    slots: Counts<u32>,
    /// Backend ids in those slots.
    backends: Counts<u32>,
    /// Service-port ids of frontends.
    services: Counts<u32>,
    /// Node ids of backends.
    nodes: Counts<u32>,
}

impl Readers {
    /// Of maps that were edited by hand.
    pub(super) fn of<F: Family>(maps: &SimMaps<F>) -> Self {
        let mut readers = Self::default();
        for frontend in maps.frontends.values() {
            readers.count(maps, frontend, true);
        }
        for backend in maps.backends.values() {
            readers.nodes.change(backend.node, true);
        }
        readers
    }

    /// A frontend was put, replaced or removed; `old` is what it was.
    pub(super) fn frontend_changed<F: Family>(
        &mut self,
        maps: &SimMaps<F>,
        key: &FrontendKey<F>,
        old: Option<Frontend>,
    ) -> Option<String> {
        if let Some(old) = old {
            self.old_slots.extend(indices(maps, &old));
            self.count(maps, &old, false);
        }
        if leads_nowhere_outside(maps, key) {
            return Some(format!("{}: has no entry for clients outside, and says it has", super::address(key)));
        }
        let new = maps.frontends.get(key)?;
        self.count(maps, new, true);
        let damage = damage(maps, key, new)?;
        Some(format!("{}: {damage}", super::address(key)))
    }

    fn count<F: Family>(&mut self, maps: &SimMaps<F>, frontend: &Frontend, more: bool) {
        self.services.change(frontend.service, more);
        for index in indices(maps, frontend) {
            self.slots.change(index, more);
            self.backends.change(slot(maps, index).backend, more);
        }
    }

    /// A backend is about to be put or removed.
    pub(super) fn backend_changes<F: Family>(
        &mut self,
        maps: &SimMaps<F>,
        id: u32,
        new: Option<&Backend<F>>,
    ) -> Option<String> {
        let old = maps.backends.get(&id);
        for (backend, more) in [(old, false), (new, true)] {
            if let Some(backend) = backend {
                self.nodes.change(backend.node, more);
            }
        }
        let old = old?;
        let same = new.is_some_and(|new| (new.addr, new.port, new.service) == (old.addr, old.port, old.service));
        (self.backends.has(id) && !same)
            .then(|| format!("backend {id} was removed or became another while a frontend leads to it"))
    }

    /// Slots are about to be written.
    pub(super) fn slots_change(&self, range: Range<u32>) -> Option<String> {
        let named = range.clone().find(|&index| self.slots.has(index));
        let old = range.clone().find(|index| self.old_slots.contains(index));
        match (named, old) {
            (Some(index), _) => Some(format!("slots {range:?} were written while a frontend names slot {index}")),
            (None, Some(index)) => {
                Some(format!("slots {range:?} were written while a program may still read slot {index}"))
            }
            (None, None) => None,
        }
    }

    /// Whether an entry refers to a name.
    pub(super) fn refer_to(&self, key: NameKey) -> bool {
        match key.kind {
            name_kind::SERVICE => self.services.has(key.id),
            name_kind::NODE => self.nodes.has(key.id),
            _ => false,
        }
    }

    /// All programs that were running have ended.
    pub(super) fn end(&mut self) {
        self.old_slots.clear();
    }
}

/// The slots that a frontend names; none if they are not all in the array.
fn indices<F: Family>(maps: &SimMaps<F>, frontend: &Frontend) -> Range<u32> {
    super::range(maps, frontend.first_slot, frontend.n_slots).unwrap_or(0..0)
}

fn slot<F: Family>(maps: &SimMaps<F>, index: u32) -> Slot<F> {
    maps.slots.get(&index).copied().unwrap_or_default()
}

/// What is wrong with a frontend that was just put.
fn damage<F: Family>(maps: &SimMaps<F>, key: &FrontendKey<F>, frontend: &Frontend) -> Option<String> {
    if frontend.service == 0 {
        return Some("Service-port id 0".to_owned());
    }
    if !frontend.is_of(key) {
        return Some("has no valid checksum".to_owned());
    }
    if super::range(maps, frontend.first_slot, frontend.n_slots).is_none() {
        return Some("names slots outside the array".to_owned());
    }
    indices(maps, frontend).map(|index| slot(maps, index)).find_map(|slot| {
        let Some(backend) = maps.backends.get(&slot.backend).filter(|_| slot.backend != 0) else {
            return Some(format!("leads to backend {}, which does not exist", slot.backend));
        };
        let good = (backend.addr, backend.port) == (slot.addr, slot.port)
            && backend.service == frontend.service
            && backend.proto == key.proto;
        (!good).then(|| format!("leads to backend {}, which is another's", slot.backend))
    })
}

/// Whether a program that looks for the answer to a client outside finds none.
fn leads_nowhere_outside<F: Family>(maps: &SimMaps<F>, key: &FrontendKey<F>) -> bool {
    let of = |scope| maps.frontends.get(&FrontendKey { scope, ..*key });
    let differs = |frontend: &Frontend| frontend.flags & frontend_flags::EXTERNAL_DIFFERS != 0;
    of(scope::INTERNAL).is_some_and(differs) && of(scope::EXTERNAL).is_none()
}

/// Where a frontend leads now.
pub(super) fn moment<F: Family>(maps: &SimMaps<F>, key: &FrontendKey<F>) -> Moment {
    let address = |index| {
        let slot = slot(maps, index);
        SocketAddr::new(F::to_ip(slot.addr), slot.port)
    };
    let leads = |frontend: &Frontend| indices(maps, frontend).map(address).collect();
    let backends = maps.frontends.get(key).map(leads);
    Moment { frontend: super::address(key), proto: key.proto, scope: key.scope, backends }
}
