//! `lb_conns` of a family as a table in memory, for the tests of what ages, ends, lists and takes over flows. Only these use it.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use lb_common::abi::{Backend, Family, Flow, FlowKey, V4, V6};

use super::{
    flows::{Cursor, FlowStore, Half, map_name},
    store::StoreError,
    succession::Successor,
};

/// Slices in which it is read.
const N_SLICES: u32 = 7;

/// The halves of flows, and backends by id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FlowTable<F: Family> {
    pub(crate) halves: BTreeMap<FlowKey<F>, Flow<F>>,
    pub(crate) backends: BTreeMap<u32, Backend<F>>,
    /// How many halves fit.
    pub(crate) capacity: u32,
    /// So many times more it cannot be read.
    pub(crate) unreadable: u32,
}

impl<F: Family> Default for FlowTable<F> {
    fn default() -> Self {
        Self { halves: BTreeMap::new(), backends: BTreeMap::new(), capacity: 1_000, unreadable: 0 }
    }
}

impl<F: Family> FlowStore<F> for FlowTable<F> {
    /// By the client's port, forward halves in their order. Of some flows both halves are in one slice, of others one comes
    /// first. Removals behind the cursor do not matter, as to the kernel, which counts buckets.
    fn read_flows(&mut self, cursor: Cursor, into: &mut Vec<Half<F>>) -> Result<Cursor, StoreError> {
        if let Some(fewer) = self.unreadable.checked_sub(1) {
            self.unreadable = fewer;
            return Err(StoreError::Failed {
                map: map_name::<F>(),
                operation: "read",
                source: io::ErrorKind::Other.into(),
            });
        }
        let from = cursor.unwrap_or(0);
        let slice = |(key, half): &(&FlowKey<F>, &Flow<F>)| match half.is_reply() {
            false => u32::from(key.src_port) % N_SLICES,
            true => u32::from(key.dst_port % 2 + key.dst_port) % N_SLICES,
        };
        into.clear();
        into.extend(self.halves.iter().filter(|half| slice(half) == from).map(|(key, half)| (*key, *half)));
        Ok((from + 1 < N_SLICES).then_some(from + 1))
    }

    fn flow(&self, key: &FlowKey<F>) -> Result<Option<Flow<F>>, StoreError> {
        Ok(self.halves.get(key).copied())
    }

    fn delete_flow(&mut self, key: &FlowKey<F>) -> Result<bool, StoreError> {
        Ok(self.halves.remove(key).is_some())
    }

    fn backend(&self, id: u32) -> Result<Option<Backend<F>>, StoreError> {
        Ok(self.backends.get(&id).copied())
    }

    fn flow_capacity(&self) -> u32 {
        self.capacity
    }
}

impl<F: Family> Successor<F> for FlowTable<F> {
    fn add_flow(&mut self, key: &FlowKey<F>, half: &Flow<F>) -> Result<bool, StoreError> {
        if self.halves.contains_key(key) {
            return Ok(false);
        }
        if self.halves.len() >= self.capacity as usize {
            return Err(StoreError::Full { map: map_name::<F>(), capacity: self.capacity, flag: "--max-connections" });
        }
        self.halves.insert(*key, *half);
        Ok(true)
    }
}

/// Those of both families, for several who have them at a time.
#[derive(Clone, Debug, Default)]
pub(crate) struct FlowTables {
    v4: Arc<Mutex<FlowTable<V4>>>,
    v6: Arc<Mutex<FlowTable<V6>>>,
}

/// A family with its table.
pub(crate) trait Tabled: Family {
    fn table(tables: &FlowTables) -> MutexGuard<'_, FlowTable<Self>>;
}

impl Tabled for V4 {
    fn table(tables: &FlowTables) -> MutexGuard<'_, FlowTable<Self>> {
        tables.v4.lock().unwrap()
    }
}

impl Tabled for V6 {
    fn table(tables: &FlowTables) -> MutexGuard<'_, FlowTable<Self>> {
        tables.v6.lock().unwrap()
    }
}

impl<F: Tabled> FlowStore<F> for FlowTables {
    fn read_flows(&mut self, cursor: Cursor, into: &mut Vec<Half<F>>) -> Result<Cursor, StoreError> {
        F::table(self).read_flows(cursor, into)
    }

    fn flow(&self, key: &FlowKey<F>) -> Result<Option<Flow<F>>, StoreError> {
        F::table(self).flow(key)
    }

    fn delete_flow(&mut self, key: &FlowKey<F>) -> Result<bool, StoreError> {
        F::table(self).delete_flow(key)
    }

    fn backend(&self, id: u32) -> Result<Option<Backend<F>>, StoreError> {
        F::table(self).backend(id)
    }

    fn flow_capacity(&self) -> u32 {
        F::table(self).flow_capacity()
    }
}
