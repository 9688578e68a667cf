//! The maps of addresses that are no frontends or backends: prefix of the ClusterIPs, source ranges, clients.

use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, lpm_trie::Key};
use lb_common::abi::{ClientAddr, ClusterIps, Family, SourceKey, V4, V6, maps};

use super::{
    load,
    paths::Paths,
    store::{deleted, failed, update_failed, update_failed_for_good},
};
use crate::datapath::store::{ClientStore, StoreError, map_names};

/// `lb_clusterips` and `lb_sources` of a family.
pub(super) struct Addresses<F: Family> {
    cluster_ips: Array<MapData, ClusterIps<F>>,
    sources: LpmTrie<MapData, SourceKey<F>, u32>,
    n_sources: u32,
}

impl<F: Family> Addresses<F> {
    /// Takes the maps from `take`, which gives a map by its name, and its capacity.
    pub(super) fn new(
        take: &mut impl FnMut(&'static str) -> Result<(MapData, u32), StoreError>,
    ) -> Result<Self, StoreError> {
        let names = map_names::<F>();
        let (cluster_ips, _) = take(names.cluster_ips)?;
        let (sources, n_sources) = take(names.sources)?;
        Ok(Self {
            cluster_ips: Map::Array(cluster_ips).try_into().map_err(failed(names.cluster_ips, "open"))?,
            sources: Map::LpmTrie(sources).try_into().map_err(failed(names.sources, "open"))?,
            n_sources,
        })
    }

    pub(super) fn put_cluster_ips(&mut self, value: &ClusterIps<F>) -> Result<(), StoreError> {
        self.cluster_ips.set(0, value, 0).map_err(failed(map_names::<F>().cluster_ips, "update"))
    }

    pub(super) fn cluster_ips(&self) -> Result<ClusterIps<F>, StoreError> {
        self.cluster_ips.get(&0, 0).map_err(failed(map_names::<F>().cluster_ips, "read"))
    }

    pub(super) fn put_source(&mut self, key: &SourceKey<F>, prefix_len: u32) -> Result<(), StoreError> {
        let full = (self.n_sources, "--max-frontends");
        let put = self.sources.insert(&Key::new(prefix_len, *key), 1, 0);
        put.map_err(update_failed(map_names::<F>().sources, full))
    }

    pub(super) fn delete_source(&mut self, key: &SourceKey<F>, prefix_len: u32) -> Result<(), StoreError> {
        let delete = self.sources.remove(&Key::new(prefix_len, *key));
        deleted(delete).map_err(failed(map_names::<F>().sources, "delete"))
    }

    pub(super) fn sources(&self) -> Result<Vec<(SourceKey<F>, u32)>, StoreError> {
        let source = |key: Key<SourceKey<F>>| (key.data(), key.prefix_len());
        let all = self.sources.keys().map(|key| key.map(source));
        all.collect::<Result<_, _>>().map_err(failed(map_names::<F>().sources, "read"))
    }
}

/// `lb_clients4/6`. Separate from the rest of the store, so that it may be sent to another thread.
#[derive(Debug)]
pub struct KernelClients {
    v4: HashMap<MapData, u64, ClientAddr<V4>>,
    v6: HashMap<MapData, u64, ClientAddr<V6>>,
    sources4: LpmTrie<MapData, SourceKey<V4>, u32>,
    sources6: LpmTrie<MapData, SourceKey<V6>, u32>,
}

impl KernelClients {
    pub(super) fn open(paths: &Paths) -> Result<Self, StoreError> {
        let open = |name| load::open_pinned(&paths.maps, name);
        let (clients4, clients6) = (Map::HashMap(open(maps::CLIENTS4)?), Map::HashMap(open(maps::CLIENTS6)?));
        let (sources4, sources6) = (Map::LpmTrie(open(maps::SOURCES4)?), Map::LpmTrie(open(maps::SOURCES6)?));
        Ok(Self {
            v4: clients4.try_into().map_err(failed(maps::CLIENTS4, "open"))?,
            v6: clients6.try_into().map_err(failed(maps::CLIENTS6, "open"))?,
            sources4: sources4.try_into().map_err(failed(maps::SOURCES4, "open"))?,
            sources6: sources6.try_into().map_err(failed(maps::SOURCES6, "open"))?,
        })
    }

    /// Whether `lb_sources4/6` hold any range, of whichever Service: only then does anybody ask for clients.
    pub fn has_ranges(&self) -> Result<bool, StoreError> {
        let first4 = self.sources4.keys().next().transpose().map_err(failed(maps::SOURCES4, "read"))?;
        let first6 = self.sources6.keys().next().transpose().map_err(failed(maps::SOURCES6, "read"))?;
        Ok(first4.is_some() || first6.is_some())
    }
}

macro_rules! client_store {
    ($family:ident, $maps:ident, $name:expr) => {
        impl ClientStore<$family> for KernelClients {
            fn put_client(&mut self, cookie: u64, client: &ClientAddr<$family>) -> Result<(), StoreError> {
                self.$maps.insert(cookie, client, 0).map_err(update_failed_for_good($name, maps::N_CLIENTS))
            }

            fn delete_client(&mut self, cookie: u64) -> Result<(), StoreError> {
                deleted(self.$maps.remove(&cookie)).map_err(failed($name, "delete"))
            }

            fn clients(&self) -> Result<Vec<(u64, ClientAddr<$family>)>, StoreError> {
                self.$maps.iter().collect::<Result<_, _>>().map_err(failed($name, "read"))
            }
        }
    };
}

client_store!(V4, v4, maps::CLIENTS4);
client_store!(V6, v6, maps::CLIENTS6);
