//! Everything the maps hold, read once: what an agent adopts at its start, and what the tools and tests show.

use std::collections::BTreeMap;

use lb_common::abi::{Backend, ClusterIps, Family, Frontend, FrontendKey, NameKey, Slot, SourceKey, V4, V6};

use super::store::{Capacity, FamilyStore, MapStore, StoreError};

/// The maps of one family.
#[derive(Clone, Debug)]
pub struct FamilySnapshot<F: Family> {
    /// All frontends, in no order.
    pub frontends: Vec<(FrontendKey<F>, Frontend)>,
    /// All backends, in no order.
    pub backends: Vec<(u32, Backend<F>)>,
    /// The slots of every range that a frontend names, by first slot and number of slots. A range that does not lie
    /// within the array is left out.
    pub ranges: BTreeMap<(u32, u32), Vec<Slot<F>>>,
    /// Ranges of clients with their prefix lengths, in no order.
    pub sources: Vec<(SourceKey<F>, u32)>,
    /// The prefix outside of which no guard is looked for.
    pub cluster_ips: ClusterIps<F>,
    /// What fits.
    pub capacity: Capacity,
}

impl<F: Family> FamilySnapshot<F> {
    /// Reads the maps of one family.
    ///
    /// # Errors
    /// What the store says.
    pub fn read(store: &impl FamilyStore<F>) -> Result<Self, StoreError> {
        let capacity = store.capacity();
        let frontends = store.frontends()?;
        let mut ranges = BTreeMap::new();
        for (_, frontend) in &frontends {
            let (first, n) = (frontend.first_slot, frontend.n_slots);
            let fits = first.checked_add(n).is_some_and(|end| end <= capacity.slots);
            if n > 0 && fits && !ranges.contains_key(&(first, n)) {
                ranges.insert((first, n), store.slots(first, n)?);
            }
        }
        let (sources, cluster_ips) = (store.sources()?, store.cluster_ips()?);
        Ok(Self { frontends, backends: store.backends()?, ranges, sources, cluster_ips, capacity })
    }

    /// The slots that a frontend names; `None` where the frontend is damaged.
    pub fn slots_of(&self, frontend: &Frontend) -> Option<&[Slot<F>]> {
        if frontend.n_slots == 0 {
            return Some(&[]);
        }
        self.ranges.get(&(frontend.first_slot, frontend.n_slots)).map(Vec::as_slice)
    }
}

/// All maps.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// IPv4.
    pub v4: FamilySnapshot<V4>,
    /// IPv6.
    pub v6: FamilySnapshot<V6>,
    /// Names of Service ports and nodes, in no order.
    pub names: Vec<(NameKey, String)>,
}

impl Snapshot {
    /// Reads all maps.
    ///
    /// # Errors
    /// What the store says.
    pub fn read(store: &impl MapStore) -> Result<Self, StoreError> {
        Ok(Self { v4: FamilySnapshot::read(store)?, v6: FamilySnapshot::read(store)?, names: store.names()? })
    }
}
