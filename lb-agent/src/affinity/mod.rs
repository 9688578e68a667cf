//! Ages `lb_affinity`: the programs remember which backend a client of a Service with session affinity was given, and
//! never forget. What is over is removed here, so that the map has room for others.
//!
//! Works on the maps alone: the timeouts are those of the frontends. So it needs no model, and an agent that has just
//! taken over keeps what its predecessor's clients were given.

mod worker;

use std::collections::HashMap;

use lb_common::abi::{Affinity, AffinityKey, Family, Frontend, V4, V6};

pub use self::worker::{AffinityAging, Pass};
use crate::datapath::store::{FamilyStore, MapStore, StoreError};

/// What became of the entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aged {
    /// Those that stay.
    pub kept: usize,
    /// Those that were removed.
    pub removed: usize,
}

/// Removes what is over at `now_s`, in seconds of the monotonic clock. Costs two system calls for each entry there is, and
/// for each frontend if there is an entry.
///
/// A client that comes back between the reading and the removal of its entry, after its time was over, loses what it was
/// given just then; its next connection is given a backend anew.
///
/// # Errors
/// What the store says. What was not removed then is met again by the next pass.
pub fn age<S: MapStore>(store: &mut S, now_s: u32) -> Result<Aged, StoreError> {
    let entries = store.affinities()?;
    if entries.is_empty() {
        return Ok(Aged::default());
    }
    // Read after the entries: a Service that is not there now has none that matter.
    let mut timeouts = Timeouts::default();
    timeouts.add(&FamilyStore::<V4>::frontends(store)?);
    timeouts.add(&FamilyStore::<V6>::frontends(store)?);
    let over: Vec<_> = entries.iter().filter(|(key, entry)| timeouts.is_over(key, entry, now_s)).collect();
    for (key, _) in &over {
        store.delete_affinity(key)?;
    }
    Ok(Aged { kept: entries.len() - over.len(), removed: over.len() })
}

/// Session affinity in seconds, by Service-port id; without those that have none.
#[derive(Debug, Default)]
struct Timeouts(HashMap<u32, u32>);

impl Timeouts {
    fn add<F: Family>(&mut self, frontends: &[(lb_common::abi::FrontendKey<F>, Frontend)]) {
        let lasting = frontends.iter().map(|(_, frontend)| frontend).filter(|frontend| frontend.affinity_s > 0);
        self.0.extend(lasting.map(|frontend| (frontend.service, frontend.affinity_s)));
    }

    /// The same rule as the programs' (`lb_common::logic::affinity`).
    fn is_over(&self, key: &AffinityKey, entry: &Affinity, now_s: u32) -> bool {
        // Used again since the clock was read: no age at all.
        let age_s = now_s.wrapping_sub(entry.last_used_s).cast_signed().max(0).cast_unsigned();
        self.0.get(&key.service).is_none_or(|timeout_s| age_s > *timeout_s)
    }
}

#[cfg(test)]
mod tests {
    use lb_common::abi::{FrontendKey, client_kind};

    use super::*;
    use crate::datapath::{sim::SimStore, store::Capacity};

    fn key(service: u32, client: u8) -> AffinityKey {
        AffinityKey { service, family: 4, client_kind: client_kind::NETNS, client: [client; 16] }
    }

    /// Service port 1 with a timeout of 100 s (in IPv6 only), 2 without; nothing is known of 3.
    fn store(entries: &[(AffinityKey, u32)]) -> SimStore {
        let mut store = SimStore::new(1, Capacity::default());
        let at = FrontendKey { addr: [0xfd; 16], port: 80, proto: 6, scope: 0 };
        let lasting = Frontend { service: 1, affinity_s: 100, ..Frontend::default() };
        FamilyStore::<V6>::put_frontend(&mut store, &at, &lasting.sealed(&at)).unwrap();
        let at = FrontendKey { addr: [10, 96, 0, 2], port: 80, proto: 6, scope: 0 };
        FamilyStore::<V4>::put_frontend(&mut store, &at, &Frontend { service: 2, ..lasting }.sealed(&at)).unwrap();
        let plain = Frontend { service: 2, ..Frontend::default() };
        FamilyStore::<V4>::put_frontend(&mut store, &at, &plain.sealed(&at)).unwrap();
        let value = |last_used_s| Affinity { backend: 7, last_used_s };
        store.edit(|node, _| {
            node.affinities.get_mut().extend(entries.iter().map(|(key, last)| (*key, value(*last))));
        });
        store
    }

    #[test]
    fn an_entry_goes_when_its_time_is_over_or_its_service_has_no_affinity() {
        let entries = [(key(1, 1), 900), (key(1, 2), 899), (key(1, 3), 1_001), (key(2, 4), 1_000), (key(3, 5), 1_000)];
        let mut store = store(&entries);
        assert_eq!(age(&mut store, 1_000).unwrap(), Aged { kept: 2, removed: 3 });
        let mut kept: Vec<_> = store.affinities().unwrap().into_iter().map(|(key, _)| key.client[0]).collect();
        kept.sort_unstable();
        assert_eq!(kept, [1, 3]);
        assert_eq!(age(&mut store, 1_000).unwrap(), Aged { kept: 2, removed: 0 });
    }

    #[test]
    fn the_clock_may_wrap_around() {
        let mut store = store(&[(key(1, 1), u32::MAX - 10), (key(1, 2), u32::MAX - 200)]);
        assert_eq!(age(&mut store, 20).unwrap(), Aged { kept: 1, removed: 1 });
    }
}
