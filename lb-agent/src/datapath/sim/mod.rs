//! Maps on the host: a [`MapStore`] over the simulated node of `lb_common::sim`, so that the kernel logic runs on what
//! the plan wrote.
//!
//! Looks at each single operation with the eyes of a program that runs at that moment, and keeps what it saw wrong
//! ([`SimStore::violations`]) and where each frontend led ([`SimStore::take_history`]). Decides nothing.

mod reader;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::SocketAddr};

use lb_common::{
    abi::{
        Affinity, AffinityKey, Backend, ClientAddr, ClusterIps, Family, Frontend, FrontendCopy, FrontendKey, NAME_LEN,
        NameKey, Slot, SourceKey, V4, V6,
    },
    sim::{SimMaps, SimNode},
};

pub use self::reader::Moment;
use self::reader::Readers;
use super::{
    copies::{self, CopiedFrontends},
    store::{Capacity, ClientStore, FamilyStore, MapStore, StoreError, map_names},
};

/// The maps of a simulated node.
#[derive(Debug, Default)]
pub struct SimStore {
    node: SimNode,
    names: BTreeMap<(u32, u32), String>,
    capacity: Capacity,
    readers4: Readers,
    readers6: Readers,
    violations: Vec<String>,
    history: Vec<Moment>,
    operations: u64,
}

impl SimStore {
    /// Empty maps with so much room in each family. `seed` decides which backends the node's sockets are given.
    pub fn new(seed: u64, capacity: Capacity) -> Self {
        let mut node = SimNode::new(seed);
        (node.v4.n_slots, node.v6.n_slots) = (capacity.slots, capacity.slots);
        Self { node, capacity, ..Self::default() }
    }

    /// Another capacity, as an agent that is started with other flags gives its maps. Slots cannot become fewer.
    pub fn set_capacity(&mut self, capacity: Capacity) {
        (self.node.v4.n_slots, self.node.v6.n_slots) = (capacity.slots, capacity.slots);
        self.capacity = capacity;
    }

    /// The node, to open sockets on.
    pub fn node(&self) -> &SimNode {
        &self.node
    }

    /// Edits the maps by hand, past the checks: what another program may have left in them. Names are by kind and id. Copies of
    /// frontends are made anew when these are written.
    pub fn edit(&mut self, edit: impl FnOnce(&mut SimNode, &mut BTreeMap<(u32, u32), String>)) {
        edit(&mut self.node, &mut self.names);
        self.node.v4.copies.clear();
        self.node.v6.copies.clear();
        (self.readers4, self.readers6) = (Readers::of(&self.node.v4), Readers::of(&self.node.v6));
    }

    /// What a program could have seen go wrong so far; empty if nothing.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// Where frontends led since the last call, change by change. Since a slot in use never changes (that would be a
    /// violation), this is everything a new connection could have met.
    pub fn take_history(&mut self) -> Vec<Moment> {
        std::mem::take(&mut self.history)
    }

    /// How many operations there were so far.
    pub fn operations(&self) -> u64 {
        self.operations
    }

    fn see(&mut self, violation: Option<String>) {
        self.operations += 1;
        self.violations.extend(violation);
    }

    fn name_of(&self, service: u32) -> Option<&String> {
        self.names.get(&(lb_common::abi::name_kind::SERVICE, service))
    }
}

fn full<T>(map: &'static str, capacity: u32, flag: &'static str) -> Result<T, StoreError> {
    Err(StoreError::Full { map, capacity, flag })
}

fn out_of_bounds(map: &'static str, operation: &'static str) -> StoreError {
    StoreError::Failed { map, operation, source: std::io::ErrorKind::InvalidInput.into() }
}

/// A range of slots, if it lies within the array.
fn range<F: Family>(maps: &SimMaps<F>, first: u32, n: u32) -> Option<std::ops::Range<u32>> {
    let end = first.checked_add(n)?;
    (end <= maps.n_slots).then_some(first..end)
}

fn address<F: Family>(key: &FrontendKey<F>) -> SocketAddr {
    SocketAddr::new(F::to_ip(key.addr), key.port)
}

impl<F: Family> CopiedFrontends<F> for SimMaps<F> {
    fn write(&mut self, key: &FrontendKey<F>, value: &Frontend) -> Result<(), StoreError> {
        self.frontends.insert(*key, *value);
        Ok(())
    }

    fn remove(&mut self, key: &FrontendKey<F>) -> Result<(), StoreError> {
        self.frontends.remove(key);
        Ok(())
    }

    fn copy(&self, place: u32) -> Result<FrontendCopy<F>, StoreError> {
        Ok(self.copies.get(&place).copied().unwrap_or_default())
    }

    fn set_copy(&mut self, place: u32, copy: &FrontendCopy<F>) -> Result<(), StoreError> {
        self.copies.insert(place, *copy);
        Ok(())
    }
}

macro_rules! family_store {
    ($family:ident, $maps:ident, $readers:ident) => {
        impl FamilyStore<$family> for SimStore {
            fn put_frontend(&mut self, key: &FrontendKey<$family>, value: &Frontend) -> Result<(), StoreError> {
                let maps = &mut self.node.$maps;
                if !maps.frontends.contains_key(key) && maps.frontends.len() >= self.capacity.frontends as usize {
                    return full(map_names::<$family>().frontends, self.capacity.frontends, "--max-frontends");
                }
                let old = maps.frontends.get(key).copied();
                copies::put(maps, key, value)?;
                let violation = self.$readers.frontend_changed(maps, key, old);
                self.history.push(reader::moment(maps, key));
                let nameless = self.name_of(value.service).is_none();
                self.violations.extend(nameless.then(|| format!("{} has no name", address(key))));
                self.see(violation);
                Ok(())
            }

            fn delete_frontend(&mut self, key: &FrontendKey<$family>) -> Result<(), StoreError> {
                let maps = &mut self.node.$maps;
                let old = maps.frontends.get(key).copied();
                copies::delete(maps, key)?;
                let violation = self.$readers.frontend_changed(maps, key, old);
                self.history.push(reader::moment(maps, key));
                self.see(violation);
                Ok(())
            }

            fn put_backend(&mut self, id: u32, backend: &Backend<$family>) -> Result<(), StoreError> {
                let maps = &mut self.node.$maps;
                if !maps.backends.contains_key(&id) && maps.backends.len() >= self.capacity.backends as usize {
                    return full(map_names::<$family>().backends, self.capacity.backends, "--max-backends");
                }
                let violation = self.$readers.backend_changes(maps, id, Some(backend));
                maps.backends.insert(id, *backend);
                self.see(violation);
                Ok(())
            }

            fn delete_backend(&mut self, id: u32) -> Result<(), StoreError> {
                let maps = &mut self.node.$maps;
                let violation = self.$readers.backend_changes(maps, id, None);
                maps.backends.remove(&id);
                self.see(violation);
                Ok(())
            }

            fn write_slots(&mut self, first: u32, slots: &[Slot<$family>]) -> Result<(), StoreError> {
                let maps = &mut self.node.$maps;
                let n = u32::try_from(slots.len()).unwrap_or(u32::MAX);
                let Some(range) = range(maps, first, n) else {
                    return Err(out_of_bounds(map_names::<$family>().slots, "write"));
                };
                let violation = self.$readers.slots_change(range.clone());
                maps.slots.extend(range.zip(slots.iter().copied()));
                self.see(violation);
                Ok(())
            }

            fn frontends(&self) -> Result<Vec<(FrontendKey<$family>, Frontend)>, StoreError> {
                Ok(self.node.$maps.frontends.iter().map(|(key, value)| (*key, *value)).collect())
            }

            fn backends(&self) -> Result<Vec<(u32, Backend<$family>)>, StoreError> {
                Ok(self.node.$maps.backends.iter().map(|(id, value)| (*id, *value)).collect())
            }

            fn slots(&self, first: u32, n: u32) -> Result<Vec<Slot<$family>>, StoreError> {
                let maps = &self.node.$maps;
                let Some(mut range) = range(maps, first, n) else {
                    return Err(out_of_bounds(map_names::<$family>().slots, "read"));
                };
                Ok(range.by_ref().map(|index| maps.slots.get(&index).copied().unwrap_or_default()).collect())
            }

            fn put_cluster_ips(&mut self, value: &ClusterIps<$family>) -> Result<(), StoreError> {
                self.node.$maps.cluster_ips = *value;
                self.see(None);
                Ok(())
            }

            fn cluster_ips(&self) -> Result<ClusterIps<$family>, StoreError> {
                Ok(self.node.$maps.cluster_ips)
            }

            fn put_source(&mut self, key: &SourceKey<$family>, prefix_len: u32) -> Result<(), StoreError> {
                let sources = &mut self.node.$maps.sources;
                let capacity = self.capacity.sources();
                if !sources.contains(&(prefix_len, *key)) && sources.len() >= capacity as usize {
                    return full(map_names::<$family>().sources, capacity, "--max-frontends");
                }
                sources.insert((prefix_len, *key));
                self.see(None);
                Ok(())
            }

            fn delete_source(&mut self, key: &SourceKey<$family>, prefix_len: u32) -> Result<(), StoreError> {
                self.node.$maps.sources.remove(&(prefix_len, *key));
                self.see(None);
                Ok(())
            }

            fn sources(&self) -> Result<Vec<(SourceKey<$family>, u32)>, StoreError> {
                Ok(self.node.$maps.sources.iter().map(|(prefix_len, key)| (*key, *prefix_len)).collect())
            }

            fn capacity(&self) -> Capacity {
                self.capacity
            }
        }

        impl ClientStore<$family> for SimStore {
            fn put_client(&mut self, cookie: u64, client: &ClientAddr<$family>) -> Result<(), StoreError> {
                self.node.$maps.clients.insert(cookie, *client);
                Ok(())
            }

            fn delete_client(&mut self, cookie: u64) -> Result<(), StoreError> {
                self.node.$maps.clients.remove(&cookie);
                Ok(())
            }

            fn clients(&self) -> Result<Vec<(u64, ClientAddr<$family>)>, StoreError> {
                Ok(self.node.$maps.clients.iter().map(|(cookie, client)| (*cookie, *client)).collect())
            }
        }
    };
}

family_store!(V4, v4, readers4);
family_store!(V6, v6, readers6);

impl MapStore for SimStore {
    fn put_name(&mut self, key: NameKey, name: &str) -> Result<(), StoreError> {
        let cut = name.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|&end| end <= NAME_LEN).last();
        self.names.insert((key.kind, key.id), name[..cut.unwrap_or(0)].to_owned());
        self.see(None);
        Ok(())
    }

    fn delete_name(&mut self, key: NameKey) -> Result<(), StoreError> {
        self.names.remove(&(key.kind, key.id));
        let used = self.readers4.refer_to(key) || self.readers6.refer_to(key);
        self.see(used.then(|| format!("name {} of kind {} was removed while it is in use", key.id, key.kind)));
        Ok(())
    }

    fn names(&self) -> Result<Vec<(NameKey, String)>, StoreError> {
        Ok(self.names.iter().map(|(&(kind, id), name)| (NameKey { kind, id }, name.clone())).collect())
    }

    fn affinities(&self) -> Result<Vec<(AffinityKey, Affinity)>, StoreError> {
        Ok(self.node.affinities.borrow().iter().map(|(key, value)| (*key, *value)).collect())
    }

    fn delete_affinity(&mut self, key: &AffinityKey) -> Result<(), StoreError> {
        self.node.affinities.get_mut().remove(key);
        self.see(None);
        Ok(())
    }

    fn wait_for_readers(&mut self) -> Result<(), StoreError> {
        self.readers4.end();
        self.readers6.end();
        self.see(None);
        Ok(())
    }
}
