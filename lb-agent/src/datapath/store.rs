//! The seam between `plan` and the maps: what the agent may do to them.
//!
//! Three implementations: the kernel's maps, a simulation on the host, and a wrapper that fails a share of all writes.

use std::{error::Error, iter};

use lb_common::abi::{
    Affinity, AffinityKey, Backend, ClientAddr, ClusterIps, Family, Frontend, FrontendKey, NameKey, Slot, SourceKey,
    V4, V6, maps,
};

/// A map operation that failed. The caller keeps its own state as it was before and tries again later.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The map has no room: name of the map and its capacity.
    #[error("map {map} is full ({capacity} entries): raise its capacity with {flag} and restart the agent")]
    Full {
        /// Map name.
        map: &'static str,
        /// Its capacity.
        capacity: u32,
        /// The flag that sets it.
        flag: &'static str,
    },
    /// The same, of a map whose capacity is fixed.
    #[error("map {map} is full ({capacity} entries, which no flag changes): have fewer pods on this node")]
    FullForGood {
        /// Map name.
        map: &'static str,
        /// Its capacity.
        capacity: u32,
    },
    /// Anything else the kernel said.
    #[error("{operation} on map {map}")]
    Failed {
        /// Map name.
        map: &'static str,
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

impl StoreError {
    /// The error with its causes, for those who can say one line.
    pub fn one_line(&self) -> String {
        let causes = iter::successors(Some(self as &(dyn Error + 'static)), |error| (**error).source());
        causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
    }
}

/// The names of the maps of one family.
#[derive(Clone, Copy, Debug)]
pub struct MapNames {
    /// `lb_frontends`.
    pub frontends: &'static str,
    /// `lb_copies`.
    pub copies: &'static str,
    /// `lb_backends`.
    pub backends: &'static str,
    /// `lb_slots`.
    pub slots: &'static str,
    /// `lb_clusterips`.
    pub cluster_ips: &'static str,
    /// `lb_sources`.
    pub sources: &'static str,
    /// `lb_nofront`.
    pub nofront: &'static str,
}

/// The names of the maps of family `F`.
pub fn map_names<F: Family>() -> MapNames {
    if F::VERSION == V4::VERSION {
        MapNames {
            frontends: maps::FRONTENDS4,
            copies: maps::COPIES4,
            backends: maps::BACKENDS4,
            slots: maps::SLOTS4,
            cluster_ips: maps::CLUSTERIPS4,
            sources: maps::SOURCES4,
            nofront: maps::NOFRONT4,
        }
    } else {
        MapNames {
            frontends: maps::FRONTENDS6,
            copies: maps::COPIES6,
            backends: maps::BACKENDS6,
            slots: maps::SLOTS6,
            cluster_ips: maps::CLUSTERIPS6,
            sources: maps::SOURCES6,
            nofront: maps::NOFRONT6,
        }
    }
}

/// How many entries the maps of one family can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// `lb_frontends`.
    pub frontends: u32,
    /// `lb_backends`.
    pub backends: u32,
    /// `lb_slots`.
    pub slots: u32,
    /// `lb_affinity`, which both families share.
    pub affinities: u32,
    /// `lb_conns`: two entries for each connection.
    pub conns: u32,
}

/// Names that are not a frontend's.
const OTHER_NAMES: u32 = maps::N_NAMES - maps::N_FRONTENDS;
const FRONTENDS_PER_SOURCE: u32 = maps::N_FRONTENDS / maps::N_SOURCES;

impl Capacity {
    /// Entries of `lb_sources` of a family: one range for each four frontends.
    pub fn sources(self) -> u32 {
        self.frontends.div_ceil(FRONTENDS_PER_SOURCE)
    }

    /// Entries of `lb_names`, which both families share: a name for each frontend, and for nodes.
    pub fn names(self) -> u32 {
        self.frontends.saturating_add(OTHER_NAMES)
    }

    /// The frontends for which so many ranges fit.
    pub fn frontends_for_sources(sources: u32) -> u32 {
        sources.saturating_mul(FRONTENDS_PER_SOURCE)
    }

    /// The frontends for which so many names fit.
    pub fn frontends_for_names(names: u32) -> u32 {
        names.saturating_sub(OTHER_NAMES)
    }
}

impl Default for Capacity {
    /// Those of an agent that is started without flags.
    fn default() -> Self {
        Self {
            frontends: maps::N_FRONTENDS,
            backends: maps::N_BACKENDS,
            slots: maps::N_SLOTS,
            affinities: maps::N_AFFINITIES,
            conns: maps::N_CONNS,
        }
    }
}

/// The maps of one family. Every operation may be repeated. An error means that it did not happen, except that a range
/// of slots may then hold anything.
pub trait FamilyStore<F: Family> {
    /// Inserts or replaces, at once for every reader.
    fn put_frontend(&mut self, key: &FrontendKey<F>, value: &Frontend) -> Result<(), StoreError>;
    /// Removes; an absent key is no error.
    fn delete_frontend(&mut self, key: &FrontendKey<F>) -> Result<(), StoreError>;
    /// Inserts or replaces.
    fn put_backend(&mut self, id: u32, backend: &Backend<F>) -> Result<(), StoreError>;
    /// Removes; an absent id is no error.
    fn delete_backend(&mut self, id: u32) -> Result<(), StoreError>;
    /// Writes a range. No frontend may name it yet.
    fn write_slots(&mut self, first: u32, slots: &[Slot<F>]) -> Result<(), StoreError>;
    /// All frontends, in no order.
    fn frontends(&self) -> Result<Vec<(FrontendKey<F>, Frontend)>, StoreError>;
    /// All backends, in no order.
    fn backends(&self) -> Result<Vec<(u32, Backend<F>)>, StoreError>;
    /// A range of slots.
    fn slots(&self, first: u32, n: u32) -> Result<Vec<Slot<F>>, StoreError>;
    /// Replaces the prefix of the ClusterIPs.
    fn put_cluster_ips(&mut self, value: &ClusterIps<F>) -> Result<(), StoreError>;
    /// The prefix of the ClusterIPs.
    fn cluster_ips(&self) -> Result<ClusterIps<F>, StoreError>;
    /// Adds a range to those that a Service port lets in. `prefix_len` counts bits of the whole key: 32 for the Service
    /// port, then those of the address.
    fn put_source(&mut self, key: &SourceKey<F>, prefix_len: u32) -> Result<(), StoreError>;
    /// Removes exactly this range; an absent one is no error.
    fn delete_source(&mut self, key: &SourceKey<F>, prefix_len: u32) -> Result<(), StoreError>;
    /// All ranges with their prefix lengths, in no order.
    fn sources(&self) -> Result<Vec<(SourceKey<F>, u32)>, StoreError>;
    /// What fits.
    fn capacity(&self) -> Capacity;
}

/// `lb_clients` of a family. Apart from the rest, because it changes with the node's pods and not with Services.
pub trait ClientStore<F: Family> {
    /// Inserts or replaces the address of a network namespace, by its cookie.
    fn put_client(&mut self, cookie: u64, client: &ClientAddr<F>) -> Result<(), StoreError>;
    /// Removes; an absent cookie is no error.
    fn delete_client(&mut self, cookie: u64) -> Result<(), StoreError>;
    /// All clients, in no order.
    fn clients(&self) -> Result<Vec<(u64, ClientAddr<F>)>, StoreError>;
}

/// All maps that the agent writes for the programs.
pub trait MapStore: FamilyStore<V4> + FamilyStore<V6> {
    /// Inserts or replaces a name; longer ones are cut at [`lb_common::abi::NAME_LEN`].
    fn put_name(&mut self, key: NameKey, name: &str) -> Result<(), StoreError>;
    /// Removes; an absent key is no error.
    fn delete_name(&mut self, key: NameKey) -> Result<(), StoreError>;
    /// All names, in no order.
    fn names(&self) -> Result<Vec<(NameKey, String)>, StoreError>;
    /// All remembered choices, in no order. The programs change them meanwhile.
    fn affinities(&self) -> Result<Vec<(AffinityKey, Affinity)>, StoreError>;
    /// Removes; an absent key is no error. What a program remembered between reading and removing is lost, and that
    /// client is given a backend anew: remove only what is over for long.
    fn delete_affinity(&mut self, key: &AffinityKey) -> Result<(), StoreError>;
    /// Returns when every program that was running at the call has ended: slots that no frontend names any more can
    /// then be written again. Costs tens of milliseconds; called only when resting ranges are wanted back.
    fn wait_for_readers(&mut self) -> Result<(), StoreError>;
}

/// A store on loan.
impl<F: Family, S: FamilyStore<F>> FamilyStore<F> for &mut S {
    fn put_frontend(&mut self, key: &FrontendKey<F>, value: &Frontend) -> Result<(), StoreError> {
        (**self).put_frontend(key, value)
    }

    fn delete_frontend(&mut self, key: &FrontendKey<F>) -> Result<(), StoreError> {
        (**self).delete_frontend(key)
    }

    fn put_backend(&mut self, id: u32, backend: &Backend<F>) -> Result<(), StoreError> {
        (**self).put_backend(id, backend)
    }

    fn delete_backend(&mut self, id: u32) -> Result<(), StoreError> {
        FamilyStore::<F>::delete_backend(&mut **self, id)
    }

    fn write_slots(&mut self, first: u32, slots: &[Slot<F>]) -> Result<(), StoreError> {
        (**self).write_slots(first, slots)
    }

    fn frontends(&self) -> Result<Vec<(FrontendKey<F>, Frontend)>, StoreError> {
        (**self).frontends()
    }

    fn backends(&self) -> Result<Vec<(u32, Backend<F>)>, StoreError> {
        (**self).backends()
    }

    fn slots(&self, first: u32, n: u32) -> Result<Vec<Slot<F>>, StoreError> {
        (**self).slots(first, n)
    }

    fn put_cluster_ips(&mut self, value: &ClusterIps<F>) -> Result<(), StoreError> {
        (**self).put_cluster_ips(value)
    }

    fn cluster_ips(&self) -> Result<ClusterIps<F>, StoreError> {
        (**self).cluster_ips()
    }

    fn put_source(&mut self, key: &SourceKey<F>, prefix_len: u32) -> Result<(), StoreError> {
        (**self).put_source(key, prefix_len)
    }

    fn delete_source(&mut self, key: &SourceKey<F>, prefix_len: u32) -> Result<(), StoreError> {
        (**self).delete_source(key, prefix_len)
    }

    fn sources(&self) -> Result<Vec<(SourceKey<F>, u32)>, StoreError> {
        (**self).sources()
    }

    fn capacity(&self) -> Capacity {
        FamilyStore::<F>::capacity(&**self)
    }
}

/// A store on loan.
impl<S: MapStore> MapStore for &mut S {
    fn put_name(&mut self, key: NameKey, name: &str) -> Result<(), StoreError> {
        (**self).put_name(key, name)
    }

    fn delete_name(&mut self, key: NameKey) -> Result<(), StoreError> {
        (**self).delete_name(key)
    }

    fn names(&self) -> Result<Vec<(NameKey, String)>, StoreError> {
        (**self).names()
    }

    fn affinities(&self) -> Result<Vec<(AffinityKey, Affinity)>, StoreError> {
        (**self).affinities()
    }

    fn delete_affinity(&mut self, key: &AffinityKey) -> Result<(), StoreError> {
        (**self).delete_affinity(key)
    }

    fn wait_for_readers(&mut self) -> Result<(), StoreError> {
        (**self).wait_for_readers()
    }
}
