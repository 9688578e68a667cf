//! What an earlier agent left in the maps, counted for the source, which measures its first lists by it. Only reads.

use lb_common::abi::{Family, V4, V6, backend_state, name_kind};

use crate::{
    datapath::store::{FamilyStore, MapStore, StoreError},
    watch::Adopted,
};

/// Counts what the maps hold.
///
/// # Errors
/// The maps cannot be read.
pub(super) fn count(store: &impl MapStore) -> Result<Adopted, StoreError> {
    let service_ports = store.names()?.iter().filter(|(key, _)| key.kind == name_kind::SERVICE).count();
    let backends = backends::<V4>(store)? + backends::<V6>(store)?;
    Ok(Adopted { service_ports: service_ports as u64, backends: backends as u64 })
}

fn backends<F: Family>(store: &impl FamilyStore<F>) -> Result<usize, StoreError> {
    Ok(store.backends()?.iter().filter(|(_, backend)| backend.state != backend_state::NOT_READY).count())
}

#[cfg(test)]
mod tests {
    use lb_common::abi::{Backend, NameKey};

    use super::*;
    use crate::datapath::{sim::SimStore, store::Capacity};

    fn backend<F: Family>(state: u8) -> Backend<F> {
        Backend { state, service: 1, ..Backend::default() }
    }

    #[test]
    fn service_ports_and_the_serving_backends_of_both_families_are_counted() {
        let mut store = SimStore::new(1, Capacity { frontends: 4, backends: 4, slots: 8, ..Capacity::default() });
        assert_eq!(count(&store).unwrap(), Adopted::default());
        for (kind, id) in [(name_kind::SERVICE, 1), (name_kind::SERVICE, 2), (name_kind::NODE, 1)] {
            store.put_name(NameKey { kind, id }, &format!("default/x{id}")).unwrap();
        }
        FamilyStore::<V4>::put_backend(&mut store, 1, &backend(backend_state::READY)).unwrap();
        FamilyStore::<V4>::put_backend(&mut store, 2, &backend(backend_state::TERMINATING)).unwrap();
        FamilyStore::<V4>::put_backend(&mut store, 3, &backend(backend_state::NOT_READY)).unwrap();
        FamilyStore::<V6>::put_backend(&mut store, 1, &backend(backend_state::READY)).unwrap();
        assert_eq!(count(&store).unwrap(), Adopted { service_ports: 2, backends: 3 });
    }
}
