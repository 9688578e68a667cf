//! `lb_exclusion` and `lb_excluded`. Separate from the rest of the store, so that they may be sent to another thread.

use std::collections::BTreeMap;

use aya::maps::{Array, HashMap, Map, MapData};
use lb_common::abi::{Exclusion, maps};

use super::{
    load,
    paths::Paths,
    store::{deleted, failed, update_failed_for_good},
};
use crate::datapath::store::StoreError;

/// The two maps.
pub struct KernelExclusion {
    levels: Array<MapData, Exclusion>,
    excluded: HashMap<MapData, u64, u32>,
}

impl KernelExclusion {
    pub(super) fn open(paths: &Paths) -> Result<Self, StoreError> {
        let open = |name| load::open_pinned(&paths.maps, name);
        let (levels, excluded) = (Map::Array(open(maps::EXCLUSION)?), Map::HashMap(open(maps::EXCLUDED)?));
        Ok(Self {
            levels: levels.try_into().map_err(failed(maps::EXCLUSION, "open"))?,
            excluded: excluded.try_into().map_err(failed(maps::EXCLUDED, "open"))?,
        })
    }

    /// The levels.
    pub fn levels(&self) -> Result<Exclusion, StoreError> {
        self.levels.get(&0, 0).map_err(failed(maps::EXCLUSION, "read"))
    }

    /// Writes the levels.
    pub fn put_levels(&mut self, levels: Exclusion) -> Result<(), StoreError> {
        self.levels.set(0, levels, 0).map_err(failed(maps::EXCLUSION, "update"))
    }

    /// The ids of the cgroups, each with the reason.
    pub fn excluded(&self) -> Result<BTreeMap<u64, u32>, StoreError> {
        self.excluded.iter().collect::<Result<_, _>>().map_err(failed(maps::EXCLUDED, "read"))
    }

    /// Adds a cgroup.
    pub fn put(&mut self, id: u64, why: u32) -> Result<(), StoreError> {
        self.excluded.insert(id, why, 0).map_err(update_failed_for_good(maps::EXCLUDED, maps::N_EXCLUDED))
    }

    /// Removes a cgroup.
    pub fn delete(&mut self, id: u64) -> Result<(), StoreError> {
        deleted(self.excluded.remove(&id)).map_err(failed(maps::EXCLUDED, "delete"))
    }
}
