//! What a kernel program could see: it reads a frontend, then one of the slots that it names, at any later moment until
//! [`Readers::end`].

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    ops::Range,
};

use lb_common::{
    abi::{Backend, Family, Frontend, FrontendKey, NameKey, Slot, name_kind},
    sim::SimMaps,
};

/// Where a frontend led after a change of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Its address and port.
    pub frontend: SocketAddr,
    /// IP protocol number.
    pub proto: u8,
    /// Where a new connection may go; empty if it is refused; `None` if the frontend is gone.
    pub backends: Option<BTreeSet<SocketAddr>>,
}

/// The programs that may be running.
#[derive(Debug)]
pub(super) struct Readers<F: Family> {
    /// Ranges of frontends that were replaced or removed: a program may have read the frontend before.
    old: Vec<Range<u32>>,
    /// Ranges of frontends that are in the map, and how many name each.
    named: HashMap<(u32, u32), u32>,
    /// How many named slots hold a backend.
    slots_of: HashMap<u32, u32>,
    family: std::marker::PhantomData<F>,
}

impl<F: Family> Default for Readers<F> {
    fn default() -> Self {
        Self { old: Vec::new(), named: HashMap::new(), slots_of: HashMap::new(), family: std::marker::PhantomData }
    }
}

impl<F: Family> Readers<F> {
    /// Of maps that were edited by hand.
    pub(super) fn of(maps: &SimMaps<F>) -> Self {
        let mut readers = Self::default();
        for frontend in maps.frontends.values().filter(|frontend| frontend.n_slots > 0) {
            readers.count(maps, frontend, true);
        }
        readers
    }

    /// A frontend was put, replaced or removed; `old` is what it was.
    pub(super) fn frontend_changed(
        &mut self,
        maps: &SimMaps<F>,
        key: &FrontendKey<F>,
        old: Option<Frontend>,
    ) -> Option<String> {
        if let Some(old) = old.filter(|old| old.n_slots > 0) {
            self.old.push(old.first_slot..old.first_slot.saturating_add(old.n_slots));
            self.count(maps, &old, false);
        }
        let new = maps.frontends.get(key)?;
        if new.n_slots > 0 {
            self.count(maps, new, true);
        }
        let damage = damage(maps, key, new)?;
        Some(format!("{}: {damage}", super::address(key)))
    }

    /// Frontends that share a range count its slots once.
    fn count(&mut self, maps: &SimMaps<F>, frontend: &Frontend, more: bool) {
        let users = self.named.entry((frontend.first_slot, frontend.n_slots)).or_default();
        let changes = if more { *users == 0 } else { *users == 1 };
        *users = if more { *users + 1 } else { users.saturating_sub(1) };
        if !changes {
            return;
        }
        for slot in slots(maps, frontend) {
            let count = self.slots_of.entry(slot.backend).or_default();
            *count = if more { *count + 1 } else { count.saturating_sub(1) };
        }
        if !more {
            self.named.remove(&(frontend.first_slot, frontend.n_slots));
        }
    }

    /// A backend is about to be put or removed.
    pub(super) fn backend_changes(&self, maps: &SimMaps<F>, id: u32, new: Option<&Backend<F>>) -> Option<String> {
        let old = maps.backends.get(&id)?;
        let same = new.is_some_and(|new| (new.addr, new.port, new.service) == (old.addr, old.port, old.service));
        let used = self.slots_of.get(&id).is_some_and(|count| *count > 0);
        (used && !same).then(|| format!("backend {id} was removed or became another while a frontend leads to it"))
    }

    /// Slots are about to be written.
    pub(super) fn slots_change(&self, range: Range<u32>) -> Option<String> {
        let overlaps = |other: Range<u32>| other.start < range.end && range.start < other.end;
        let named = self.named.keys().find(|&&(first, n)| overlaps(first..first.saturating_add(n)));
        if let Some((first, n)) = named {
            return Some(format!("slots {range:?} were written while a frontend names {n} slots from {first}"));
        }
        let old = self.old.iter().find(|&old| overlaps(old.clone()))?;
        Some(format!("slots {range:?} were written while a program may still read {old:?}"))
    }

    /// All programs that were running have ended.
    pub(super) fn end(&mut self) {
        self.old.clear();
    }
}

fn slots<F: Family>(maps: &SimMaps<F>, frontend: &Frontend) -> impl Iterator<Item = Slot<F>> {
    let range = super::range(maps, frontend.first_slot, frontend.n_slots).unwrap_or(0..0);
    range.map(|index| maps.slots.get(&index).copied().unwrap_or_default())
}

/// What is wrong with a frontend that was just put.
fn damage<F: Family>(maps: &SimMaps<F>, key: &FrontendKey<F>, frontend: &Frontend) -> Option<String> {
    if frontend.service == 0 {
        return Some("Service-port id 0".to_owned());
    }
    if super::range(maps, frontend.first_slot, frontend.n_slots).is_none() {
        return Some("names slots outside the array".to_owned());
    }
    slots(maps, frontend).find_map(|slot| {
        let Some(backend) = maps.backends.get(&slot.backend).filter(|_| slot.backend != 0) else {
            return Some(format!("leads to backend {}, which does not exist", slot.backend));
        };
        let good = (backend.addr, backend.port) == (slot.addr, slot.port)
            && backend.service == frontend.service
            && backend.proto == key.proto;
        (!good).then(|| format!("leads to backend {}, which is another's", slot.backend))
    })
}

/// Where a frontend leads now.
pub(super) fn moment<F: Family>(maps: &SimMaps<F>, key: &FrontendKey<F>) -> Moment {
    let frontend = maps.frontends.get(key);
    let address = |slot: Slot<F>| SocketAddr::new(F::to_ip(slot.addr), slot.port);
    Moment {
        frontend: super::address(key),
        proto: key.proto,
        backends: frontend.map(|frontend| slots(maps, frontend).map(address).collect()),
    }
}

/// Whether an entry refers to a name.
pub(super) fn uses<F: Family>(maps: &SimMaps<F>, key: NameKey) -> bool {
    if key.kind == name_kind::NODE {
        return maps.backends.values().any(|backend| backend.node == key.id);
    }
    key.kind == name_kind::SERVICE && maps.frontends.values().any(|frontend| frontend.service == key.id)
}
