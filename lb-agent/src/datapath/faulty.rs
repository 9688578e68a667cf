//! A [`MapStore`] whose writes fail now and then, from a seed; and which can die, as an agent that is killed between
//! two writes.

use lb_common::{
    abi::{
        Affinity, AffinityKey, Backend, ClusterIps, Family, Frontend, FrontendKey, NameKey, Slot, SourceKey, V4, V6,
    },
    logic::seam::Environment,
    sim::SimEnvironment,
};

use super::store::{Capacity, FamilyStore, MapStore, StoreError};

/// Passes operations on, and fails some of the writes instead. Reads never fail.
#[derive(Debug)]
pub struct FaultyStore<S> {
    inner: S,
    random: SimEnvironment,
    /// How many of 100 writes fail.
    percent: u32,
    /// How many writes are still passed on before all fail.
    left: Option<u64>,
}

impl<S> FaultyStore<S> {
    /// Fails `percent` of all writes; `seed` decides which.
    pub fn new(inner: S, percent: u32, seed: u64) -> Self {
        Self { inner, random: SimEnvironment::new(seed), percent, left: None }
    }

    /// Another share from now on.
    pub fn set_percent(&mut self, percent: u32) {
        self.percent = percent;
    }

    /// Fails every write after `writes` more: nothing of the agent gets through after that.
    pub fn die_after(&mut self, writes: u64) {
        self.left = Some(writes);
    }

    /// Passes writes on again.
    pub fn revive(&mut self) {
        self.left = None;
    }

    /// What is below.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// What is below.
    pub fn inner_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// What is below, without faults.
    pub fn into_inner(self) -> S {
        self.inner
    }

    fn fails(&mut self) -> bool {
        if let Some(left) = &mut self.left {
            if *left == 0 {
                return true;
            }
            *left -= 1;
        }
        self.random.random() % 100 < self.percent
    }

    fn attempt(
        &mut self,
        operation: &'static str,
        write: impl FnOnce(&mut S) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        if self.fails() {
            return Err(injected(operation));
        }
        write(&mut self.inner)
    }
}

fn injected(operation: &'static str) -> StoreError {
    StoreError::Failed { map: "lb_faulty", operation, source: std::io::Error::other("injected fault") }
}

impl<F: Family, S: FamilyStore<F>> FamilyStore<F> for FaultyStore<S> {
    fn put_frontend(&mut self, key: &FrontendKey<F>, value: &Frontend) -> Result<(), StoreError> {
        self.attempt("update of a frontend", |store| store.put_frontend(key, value))
    }

    fn delete_frontend(&mut self, key: &FrontendKey<F>) -> Result<(), StoreError> {
        self.attempt("delete of a frontend", |store| store.delete_frontend(key))
    }

    fn put_backend(&mut self, id: u32, backend: &Backend<F>) -> Result<(), StoreError> {
        self.attempt("update of a backend", |store| store.put_backend(id, backend))
    }

    fn delete_backend(&mut self, id: u32) -> Result<(), StoreError> {
        self.attempt("delete of a backend", |store| FamilyStore::<F>::delete_backend(store, id))
    }

    /// A failure leaves half of the range written.
    fn write_slots(&mut self, first: u32, slots: &[Slot<F>]) -> Result<(), StoreError> {
        if self.fails() {
            self.inner.write_slots(first, &slots[..slots.len() / 2])?;
            return Err(injected("write of slots"));
        }
        self.inner.write_slots(first, slots)
    }

    fn frontends(&self) -> Result<Vec<(FrontendKey<F>, Frontend)>, StoreError> {
        self.inner.frontends()
    }

    fn backends(&self) -> Result<Vec<(u32, Backend<F>)>, StoreError> {
        self.inner.backends()
    }

    fn slots(&self, first: u32, n: u32) -> Result<Vec<Slot<F>>, StoreError> {
        self.inner.slots(first, n)
    }

    fn put_cluster_ips(&mut self, value: &ClusterIps<F>) -> Result<(), StoreError> {
        self.attempt("update of the ClusterIPs' prefix", |store| store.put_cluster_ips(value))
    }

    fn cluster_ips(&self) -> Result<ClusterIps<F>, StoreError> {
        self.inner.cluster_ips()
    }

    fn put_source(&mut self, key: &SourceKey<F>, prefix_len: u32) -> Result<(), StoreError> {
        self.attempt("update of a source range", |store| store.put_source(key, prefix_len))
    }

    fn delete_source(&mut self, key: &SourceKey<F>, prefix_len: u32) -> Result<(), StoreError> {
        self.attempt("delete of a source range", |store| store.delete_source(key, prefix_len))
    }

    fn sources(&self) -> Result<Vec<(SourceKey<F>, u32)>, StoreError> {
        self.inner.sources()
    }

    fn capacity(&self) -> Capacity {
        FamilyStore::<F>::capacity(&self.inner)
    }
}

impl<S: MapStore> MapStore for FaultyStore<S>
where
    S: FamilyStore<V4> + FamilyStore<V6>,
{
    fn put_name(&mut self, key: NameKey, name: &str) -> Result<(), StoreError> {
        self.attempt("update of a name", |store| store.put_name(key, name))
    }

    fn delete_name(&mut self, key: NameKey) -> Result<(), StoreError> {
        self.attempt("delete of a name", |store| store.delete_name(key))
    }

    fn names(&self) -> Result<Vec<(NameKey, String)>, StoreError> {
        self.inner.names()
    }

    fn affinities(&self) -> Result<Vec<(AffinityKey, Affinity)>, StoreError> {
        self.inner.affinities()
    }

    fn delete_affinity(&mut self, key: &AffinityKey) -> Result<(), StoreError> {
        self.attempt("delete of an affinity", |store| store.delete_affinity(key))
    }

    fn wait_for_readers(&mut self) -> Result<(), StoreError> {
        self.attempt("waiting for readers", MapStore::wait_for_readers)
    }
}
