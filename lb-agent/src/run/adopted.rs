//! What an earlier agent left in the maps, counted for the source, which measures its first lists by it. Only reads.

use std::collections::BTreeSet;

use lb_common::abi::{Family, V4, V6, backend_state};

use crate::{
    datapath::store::{FamilyStore, MapStore, StoreError},
    watch::Adopted,
};

/// Counts what the maps hold.
///
/// # Errors
/// The maps cannot be read.
pub(super) fn count(store: &impl MapStore) -> Result<Adopted, StoreError> {
    let mut ids = service_ports::<V4>(store)?;
    ids.extend(service_ports::<V6>(store)?);
    let backends = backends::<V4>(store)? + backends::<V6>(store)?;
    Ok(Adopted { service_ports: ids.len() as u64, backends: backends as u64 })
}

/// Ids of Service ports. What refuses unknown ports of a ClusterIP (port 0) has an id, too, but is no port of a Service.
fn service_ports<F: Family>(store: &impl FamilyStore<F>) -> Result<BTreeSet<u32>, StoreError> {
    Ok(store.frontends()?.iter().filter(|(key, _)| key.port != 0).map(|(_, frontend)| frontend.service).collect())
}

fn backends<F: Family>(store: &impl FamilyStore<F>) -> Result<usize, StoreError> {
    Ok(store.backends()?.iter().filter(|(_, backend)| backend.state != backend_state::NOT_READY).count())
}

#[cfg(test)]
mod tests {
    use lb_common::abi::{Backend, Frontend, FrontendKey};

    use super::*;
    use crate::datapath::{sim::SimStore, store::Capacity};

    fn backend<F: Family>(state: u8) -> Backend<F> {
        Backend { state, service: 1, ..Backend::default() }
    }

    #[test]
    fn service_ports_and_the_serving_backends_of_both_families_are_counted() {
        let mut store = SimStore::new(1, Capacity { frontends: 4, backends: 4, slots: 8, ..Capacity::default() });
        assert_eq!(count(&store).unwrap(), Adopted::default());
        // Two ports of Services, one of them with two addresses, and a guard.
        for (last, port, service) in [(1, 80, 1), (2, 80, 1), (1, 81, 2), (1, 0, 3)] {
            let key = FrontendKey { addr: [10, 96, 0, last], port, ..FrontendKey::<V4>::default() };
            store.put_frontend(&key, &Frontend { service, ..Frontend::default() }.sealed(&key)).unwrap();
        }
        FamilyStore::<V4>::put_backend(&mut store, 1, &backend(backend_state::READY)).unwrap();
        FamilyStore::<V4>::put_backend(&mut store, 2, &backend(backend_state::TERMINATING)).unwrap();
        FamilyStore::<V4>::put_backend(&mut store, 3, &backend(backend_state::NOT_READY)).unwrap();
        FamilyStore::<V6>::put_backend(&mut store, 1, &backend(backend_state::READY)).unwrap();
        assert_eq!(count(&store).unwrap(), Adopted { service_ports: 2, backends: 3 });
    }
}
