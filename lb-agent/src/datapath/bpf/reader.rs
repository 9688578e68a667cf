//! Reads an installation for the tools and for metrics, also one whose agent is dead.

use std::path::Path;

use aya::maps::{Array, Map, MapData, PerCpuArray};
use lb_common::abi::{AgentStatus, Counter, Family, V4, V6, maps};

use super::{
    Attached, KernelClients, KernelFlows, MapUse,
    devices::{self, ServedDevice},
    error::OpenError,
    exclusion::KernelExclusion,
    links, load, lock,
    paths::Paths,
    preflight,
    slots::Access,
    spec,
    store::{KernelStore, failed},
};
use crate::datapath::{
    flows::FlowStore,
    store::{ClientStore, FamilyStore, MapStore, StoreError, map_names},
};

/// Reads an installation. Never writes.
pub struct Reader {
    paths: Paths,
    store: KernelStore,
    agent: Array<MapData, AgentStatus>,
    counters: Counters,
}

impl Reader {
    /// Opens what is pinned below `bpffs/lb`. Fails with [`OpenError::NotInstalled`] where there is nothing, and with
    /// [`OpenError::Incompatible`] where it belongs to a build with another layout.
    pub fn open(bpffs: &Path) -> Result<Self, OpenError> {
        let paths = Paths::new(bpffs);
        if !paths.maps.exists() {
            preflight::bpffs(bpffs)?;
            return Err(OpenError::NotInstalled { path: paths.root });
        }
        let pinned = load::pinned(&paths.maps)?;
        let incompatible = |what| OpenError::Incompatible { path: paths.root.clone(), what };
        spec::check(load::version(&paths.maps, &pinned)?, &pinned).map_err(incompatible)?;
        let open = |name| load::open_pinned(&paths.maps, name);
        let entries = |name: &str| pinned.get(name).map_or(0, |found| found.entries);
        let store = KernelStore::new(Access::Read, entries(maps::CONNS4), |name| Ok((open(name)?, entries(name))))?;
        let agent = Map::Array(open(maps::AGENT)?).try_into().map_err(failed(maps::AGENT, "open"))?;
        let counters = Counters::open(&paths)?;
        Ok(Self { store, agent, counters, paths })
    }

    /// The maps that `plan` writes, for reading.
    pub fn store(&self) -> &KernelStore {
        &self.store
    }

    /// The connections of the packet layer.
    pub fn flows(&self) -> Result<KernelFlows, OpenError> {
        Ok(KernelFlows::open(&self.paths)?)
    }

    /// What the agent last said about itself; `None` if it never did.
    pub fn status(&self) -> Result<Option<AgentStatus>, OpenError> {
        let status = self.agent.get(&0, 0).map_err(failed(maps::AGENT, "read"))?;
        Ok((status.started_ms != 0).then_some(status))
    }

    /// The counters, summed over all processors.
    pub fn counters(&self) -> Result<Vec<(Counter, u64)>, OpenError> {
        self.counters.read()
    }

    /// How full each map is. Reads the maps whole: for the tools.
    pub fn map_use(&self) -> Result<Vec<MapUse>, OpenError> {
        let names = self.store.names()?.len();
        let mut all = vec![map_use(maps::NAMES, names, self.store.name_capacity())];
        let affinities = self.store.affinities()?.len();
        all.push(map_use(maps::AFFINITY, affinities, self.store.affinity_capacity()));
        all.extend(family_use::<V4>(&self.store)?);
        all.extend(family_use::<V6>(&self.store)?);
        // An agent of an earlier build did not have it.
        if self.paths.maps.join(maps::EXCLUDED).exists() {
            let excluded = KernelExclusion::open(&self.paths)?.excluded()?.len();
            all.push(map_use(maps::EXCLUDED, excluded, maps::N_EXCLUDED));
        }
        let clients = KernelClients::open(&self.paths)?;
        all.push(map_use(maps::CLIENTS4, ClientStore::<V4>::clients(&clients)?.len(), maps::N_CLIENTS));
        all.push(map_use(maps::CLIENTS6, ClientStore::<V6>::clients(&clients)?.len(), maps::N_CLIENTS));
        let mut flows = self.flows()?;
        all.push(map_use(maps::CONNS4, count::<V4>(&mut flows)?, FlowStore::<V4>::flow_capacity(&flows)));
        all.push(map_use(maps::CONNS6, count::<V6>(&mut flows)?, FlowStore::<V6>::flow_capacity(&flows)));
        Ok(all)
    }

    /// Where the programs are attached. A program that is missing here is not attached.
    pub fn attached(&self) -> Result<Vec<Attached>, OpenError> {
        links::attached(&self.paths)
    }

    /// The devices of the packet layer, by number; also those on which there are programs and which are not listed, or the
    /// other way round. Filters of clsact are those of the calling thread's network namespace.
    pub fn devices(&self) -> Result<Vec<ServedDevice>, OpenError> {
        devices::served(&self.paths)
    }

    /// Whether an agent holds the lock now.
    pub fn agent_alive(&self) -> Result<bool, OpenError> {
        lock::is_held(&self.paths.root)
    }
}

/// Reads the programs' counters only.
pub struct Counters {
    stats: PerCpuArray<MapData, u64>,
}

impl Counters {
    pub(super) fn open(paths: &Paths) -> Result<Self, OpenError> {
        let map = Map::PerCpuArray(load::open_pinned(&paths.maps, maps::STATS)?);
        Ok(Self { stats: map.try_into().map_err(failed(maps::STATS, "open"))? })
    }

    /// The counters, summed over all processors.
    pub fn read(&self) -> Result<Vec<(Counter, u64)>, OpenError> {
        Counter::ALL.iter().map(|&counter| Ok((counter, self.read_one(counter)?))).collect()
    }

    /// One of them.
    pub(super) fn read_one(&self, counter: Counter) -> Result<u64, OpenError> {
        // Maps of an earlier build have fewer.
        if counter as u32 >= self.stats.len() {
            return Ok(0);
        }
        let per_cpu = self.stats.get(&(counter as u32), 0).map_err(failed(maps::STATS, "read"))?;
        Ok(per_cpu.iter().sum())
    }
}

fn family_use<F: Family>(store: &impl FamilyStore<F>) -> Result<[MapUse; 4], StoreError> {
    let names = map_names::<F>();
    let (frontends, backends, capacity) = (store.frontends()?, store.backends()?, store.capacity());
    let slots = frontends.iter().map(|(_, frontend)| frontend.n_slots as usize).sum();
    Ok([
        map_use(names.frontends, frontends.len(), capacity.frontends),
        map_use(names.backends, backends.len(), capacity.backends),
        map_use(names.slots, slots, capacity.slots),
        map_use(names.sources, store.sources()?.len(), capacity.sources()),
    ])
}

fn count<F: Family>(flows: &mut impl FlowStore<F>) -> Result<usize, StoreError> {
    let (mut cursor, mut slice, mut n) = (None, Vec::new(), 0);
    loop {
        cursor = flows.read_flows(cursor, &mut slice)?;
        n += slice.len();
        if cursor.is_none() {
            return Ok(n);
        }
    }
}

fn map_use(map: &'static str, used: usize, capacity: u32) -> MapUse {
    MapUse { map, used: u32::try_from(used).unwrap_or(u32::MAX), capacity }
}
