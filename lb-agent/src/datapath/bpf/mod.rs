//! The kernel's maps and programs: loading, pinning, adopting what an earlier agent left, attaching, and taking down.
//!
//! Order of use in an agent: [`Datapath::open`] (checks the machine, takes the lock, opens or creates the maps, loads the
//! programs), [`Datapath::attach`] (before the first map write, so that resized maps come with programs that use them),
//! [`Datapath::self_test`] (before "healthy" is said), then [`Datapath::store_mut`] for the rest of its life. When it is
//! dropped everything stays: maps and links are pinned and traffic goes on. The tools use [`Reader`], which needs neither
//! the lock nor an object, and [`cleanup()`].
//!
//! Nothing here knows what a Service is; what to write is decided by `plan`.

mod absent;
mod addresses;
mod canary;
mod child;
mod classifier;
mod cleanup;
mod copies;
mod devices;
mod error;
mod exclusion;
mod flows;
mod former;
mod links;
mod load;
mod lock;
mod log;
mod owner;
mod paths;
mod pins;
mod preflight;
mod programs;
mod reader;
mod resize;
mod selftest;
mod slots;
mod spec;
mod storage;
mod store;
mod sys;

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use aya::{
    Ebpf,
    maps::{Array, Map, MapData},
};
use lb_common::abi::{AgentStatus, Counter, maps};

pub use self::{
    addresses::KernelClients,
    cleanup::cleanup,
    devices::{DEVICE_PROGRAMS, KernelDevices, ServedDevice, Way},
    error::{EXIT_CONFIG, EXIT_NO_PERMISSION, EXIT_UNAVAILABLE, Note, OpenError},
    exclusion::KernelExclusion,
    flows::KernelFlows,
    load::chain,
    owner::{Owner, OwnerFamily, Owners},
    programs::{BIND_PROGRAMS, PROGRAMS},
    reader::{Counters, Reader},
    selftest::SELF_TEST_PREFIX,
    spec::N_MAPS,
    store::KernelStore,
};
use self::{paths::Paths, preflight::Cgroup};
#[cfg(doc)]
use super::store::MapStore;
use super::store::{Capacity, StoreError};
use crate::devices::{findings::Foreign, store::DeviceRef};

/// What to open.
#[derive(Clone, Debug)]
pub struct Options {
    /// The kernel programs: the ELF object that the build embedded, if it did.
    pub object: Option<&'static [u8]>,
    /// A bpffs mount; everything is pinned below its directory `lb`.
    pub bpffs: PathBuf,
    /// The cgroup to attach to; `None` for the root of the cgroup2 mount that is found.
    pub cgroup_root: Option<PathBuf>,
    /// Entries of each family's maps.
    pub capacity: Capacity,
    /// Whether processes in the node's own network namespace are kept from binding NodePorts.
    pub bind_protection: bool,
    /// Whether workloads may be excluded from the socket layer. Costs those that are not a few instructions.
    pub exclusion: bool,
}

/// What a machine is able to, seen before anything is installed.
#[derive(Debug, Default)]
pub struct Machine {
    /// What an agent would refuse to start with.
    pub refusals: Vec<OpenError>,
    /// What would be told at its start.
    pub notes: Vec<Note>,
}

/// Looks at this machine and changes nothing. `has_object` says whether kernel programs are embedded.
pub fn machine(has_object: bool, bpffs: &Path, cgroup_root: Option<&Path>) -> Machine {
    let no_object = (!has_object).then_some(OpenError::NoObject);
    let mut refusals: Vec<_> = no_object.into_iter().chain(preflight::refusals(bpffs, cgroup_root)).collect();
    // Only who may load programs can ask what kinds there are.
    let may_probe = !refusals.iter().any(|refusal| matches!(refusal, OpenError::Capabilities { .. }));
    let notes = if may_probe { machine_notes() } else { Ok(Vec::new()) };
    let notes = notes.map_err(|refusal| refusals.push(refusal)).unwrap_or_default();
    Machine { refusals, notes }
}

fn machine_notes() -> Result<Vec<Note>, OpenError> {
    let mut notes = load::kernel_notes()?;
    notes.extend((devices::Way::probe()? == devices::Way::Clsact).then_some(Note::NoTcx));
    Ok(notes)
}

/// What others have at the hooks of a device of this network namespace.
pub fn foreign_programs(bpffs: &Path, index: u32, name: &str) -> Result<Vec<Foreign>, OpenError> {
    devices::foreign(DeviceRef { index, name }, devices::Way::probe()?, &Paths::new(bpffs).links)
}

/// The maps and programs of this node, held by the one agent that may write them.
pub struct Datapath {
    store: KernelStore,
    ebpf: Arc<Mutex<Ebpf>>,
    cgroup: Cgroup,
    paths: Paths,
    bind_protection: bool,
    exclusion: bool,
    /// Open as long as this agent is the one.
    _lock: File,
}

impl Datapath {
    /// Opens what is pinned or creates it, and loads the programs. Traffic is not touched yet.
    pub fn open(options: &Options) -> Result<(Self, Vec<Note>), OpenError> {
        let object = options.object.ok_or(OpenError::NoObject)?;
        preflight::kernel()?;
        preflight::capabilities()?;
        preflight::bpffs(&options.bpffs)?;
        let cgroup = preflight::cgroup(options.cgroup_root.as_deref())?;
        let paths = Paths::new(&options.bpffs);
        let lock = lock::acquire_or_create(&paths.root)?;

        let adopted = paths.maps.exists();
        let load::Loaded { mut ebpf, mut store, mut notes } =
            load::load(object, &paths, options.capacity, options.bind_protection, options.exclusion)?;
        log::forward(&mut ebpf)?;
        // Of an agent that died in its self-test.
        store.delete_canary()?;
        if adopted {
            notes.push(Note::Adopted { frontends: store.adopt_frontends()? });
        }
        let Options { bind_protection, exclusion, .. } = *options;
        let ebpf = Arc::new(Mutex::new(ebpf));
        Ok((Self { store, ebpf, cgroup, paths, bind_protection, exclusion, _lock: lock }, notes))
    }

    /// The cgroup that the programs attach to: `Options::cgroup_root`, or what was found.
    pub fn cgroup_root(&self) -> &Path {
        &self.cgroup.path
    }

    /// Attaches the programs, in the place of an earlier agent's where there are some; there is no moment with none.
    pub fn attach(&mut self) -> Result<Vec<Note>, OpenError> {
        links::attach(&mut load::locked(&self.ebpf), &self.paths, &self.cgroup, self.bind_protection)
    }

    /// Makes connections through the hooks and looks at what comes of them. Takes some milliseconds where they work, and
    /// up to some seconds where not; blocks. It leaves nothing behind, whatever comes of it, and may be repeated.
    pub fn self_test(&mut self) -> Result<(), OpenError> {
        let counters = self.counters()?;
        self_test(&mut self.store, &self.cgroup.path, !self.exclusion, &counters)
    }

    /// What repeats [`Self::self_test`] while the store is on loan; it may be sent to another thread.
    pub fn self_tester(&self) -> Result<SelfTester, OpenError> {
        Ok(SelfTester {
            store: self.another_store()?,
            counters: self.counters()?,
            cgroup: self.cgroup.path.clone(),
            may_be_own_process: !self.exclusion,
        })
    }

    /// The maps once more, but for writing slots: for what works beside [`Self::store_mut`] on entries that `plan` does
    /// not know. It may be sent to another thread.
    pub fn another_store(&self) -> Result<KernelStore, OpenError> {
        let pinned = load::pinned(&self.paths.maps)?;
        let entries = |name: &str| pinned.get(name).map_or(0, |found| found.entries);
        let store = KernelStore::new(slots::Access::Read, entries(maps::CONNS4), |name| {
            Ok((load::open_pinned(&self.paths.maps, name)?, entries(name)))
        })?;
        Ok(store)
    }

    /// What knows which sockets were translated to which backends; it may be sent to another thread. For once: it loads
    /// two programs more.
    pub fn owners(&mut self) -> Result<Owners, OpenError> {
        Owners::load(&mut load::locked(&self.ebpf), &self.paths)
    }

    /// The packet layer's programs and devices; it may be sent to another thread. Programs are loaded when a device needs
    /// them, which takes the verifier up to a second for each. Who has it takes over the connections that an earlier agent's
    /// programs began in a table of another size.
    pub fn devices(&self, way: Way) -> Result<KernelDevices, OpenError> {
        let hooks = devices::DeviceHooks::new(Arc::clone(&self.ebpf), &self.paths, way);
        KernelDevices::open(hooks, &self.paths)
    }

    /// What `plan` writes to. `&mut KernelStore` is a [`MapStore`].
    pub fn store_mut(&mut self) -> &mut KernelStore {
        &mut self.store
    }

    /// What writes `lb_agent`. Separate, because the store is on loan to the reconciler for the rest of the agent's life;
    /// it may be sent to another thread.
    pub fn status_writer(&self) -> Result<StatusWriter, OpenError> {
        StatusWriter::open(&self.paths)
    }

    /// What writes `lb_clients4/6`; as separate as [`Self::status_writer`].
    pub fn clients(&self) -> Result<KernelClients, OpenError> {
        Ok(KernelClients::open(&self.paths)?)
    }

    /// What writes `lb_excluded`; as separate as [`Self::status_writer`].
    pub fn exclusion(&self) -> Result<KernelExclusion, OpenError> {
        Ok(KernelExclusion::open(&self.paths)?)
    }

    /// What ages `lb_conns4/6`; as separate as [`Self::status_writer`].
    pub fn flows(&self) -> Result<KernelFlows, OpenError> {
        Ok(KernelFlows::open(&self.paths)?)
    }

    /// Where the programs are attached; for metrics and `status`.
    pub fn attached(&self) -> Result<Vec<Attached>, OpenError> {
        links::attached(&self.paths)
    }

    /// A reader of the programs' counters, for metrics; it may be sent to another thread.
    pub fn counters(&self) -> Result<Counters, OpenError> {
        Counters::open(&self.paths)
    }
}

fn self_test(
    store: &mut KernelStore,
    cgroup: &Path,
    may_be_own_process: bool,
    counters: &Counters,
) -> Result<(), OpenError> {
    let put = store.put_canary().map_err(OpenError::from);
    let damaged = || counters.read_one(Counter::DamagedMaps);
    let result = put.and_then(|()| selftest::run(cgroup, may_be_own_process, damaged));
    let deleted = store.delete_canary();
    if let (Err(_), Err(error)) = (&result, &deleted) {
        tracing::warn!(%error, "the self-test's frontends could not be removed");
    }
    result.and(deleted.map_err(OpenError::from))
}

/// Tests the programs as [`Datapath::self_test`], by maps opened anew: nobody waits for it.
pub struct SelfTester {
    /// Only its frontends are written to, at keys that no Service can have.
    store: KernelStore,
    counters: Counters,
    cgroup: PathBuf,
    may_be_own_process: bool,
}

impl SelfTester {
    /// See [`Datapath::self_test`].
    pub fn run(&mut self) -> Result<(), OpenError> {
        self_test(&mut self.store, &self.cgroup, self.may_be_own_process, &self.counters)
    }
}

/// Writes what the agent says about itself.
pub struct StatusWriter {
    agent: Array<MapData, AgentStatus>,
}

impl StatusWriter {
    fn open(paths: &Paths) -> Result<Self, OpenError> {
        let map = Map::Array(load::open_pinned(&paths.maps, maps::AGENT)?);
        Ok(Self { agent: map.try_into().map_err(store::failed(maps::AGENT, "open"))? })
    }

    /// Says in `lb_agent` what this agent is doing, for `lb-agent status`.
    pub fn write(&mut self, status: &AgentStatus) -> Result<(), StoreError> {
        self.agent.set(0, status, 0).map_err(store::failed(maps::AGENT, "update"))
    }
}

/// A program in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Program name.
    pub program: &'static str,
    /// The kernel's id of the program that the link runs now.
    pub program_id: u32,
    /// The kernel's id of the link.
    pub link_id: u32,
    /// The cgroup that it hangs on, as the kernel numbers them (its inode on cgroup2); 0 when that cgroup is gone.
    pub cgroup_id: u64,
    /// Its path, where it is found below the cgroup2 mount.
    pub cgroup: Option<PathBuf>,
}

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapUse {
    /// Map name.
    pub map: &'static str,
    /// Entries in use. For slots: those that a frontend names.
    pub used: u32,
    /// Entries that fit.
    pub capacity: u32,
}
