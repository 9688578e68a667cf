//! The kernel's maps and programs: loading, pinning, adopting what an earlier agent left, attaching, and taking down.
//!
//! Order of use in an agent: [`Datapath::open`] (checks the machine, takes the lock, opens or creates the maps, loads the
//! programs), [`Datapath::attach`] (before the first map write, so that resized maps come with programs that use them),
//! [`Datapath::self_test`] (before "healthy" is said), then [`Datapath::store_mut`] for the rest of its life. When it is
//! dropped everything stays: maps and links are pinned and traffic goes on. The tools use [`Reader`], which needs neither
//! the lock nor an object, and [`cleanup()`].
//!
//! Nothing here knows what a Service is; what to write is decided by `plan`.

mod error;

use std::path::{Path, PathBuf};

pub use error::{EXIT_CONFIG, EXIT_NO_PERMISSION, EXIT_UNAVAILABLE, Note, OpenError};
use lb_common::abi::{AgentStatus, Counter};

#[cfg(doc)]
use super::store::MapStore;
use super::store::{Capacity, StoreError};

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
}

/// The maps and programs of this node, held by the one agent that may write them.
#[derive(Debug)]
pub struct Datapath {
    store: KernelStore,
    cgroup_root: PathBuf,
}

impl Datapath {
    /// Opens what is pinned or creates it, and loads the programs. Traffic is not touched yet.
    pub fn open(_options: &Options) -> Result<(Self, Vec<Note>), OpenError> {
        Err(OpenError::NoObject)
    }

    /// The cgroup that the programs attach to: `Options::cgroup_root`, or what was found.
    pub fn cgroup_root(&self) -> &Path {
        &self.cgroup_root
    }

    /// Attaches the programs, in the place of an earlier agent's where there are some; there is no moment with none.
    pub fn attach(&mut self) -> Result<Vec<Note>, OpenError> {
        Err(OpenError::NoObject)
    }

    /// Makes connections through the hooks and looks at what comes of them. Takes some milliseconds; blocks.
    pub fn self_test(&mut self) -> Result<(), OpenError> {
        Err(OpenError::NoObject)
    }

    /// What `plan` writes to. `&mut KernelStore` is a [`MapStore`].
    pub fn store_mut(&mut self) -> &mut KernelStore {
        &mut self.store
    }

    /// What writes `lb_agent`. Separate, because the store is on loan to the reconciler for the rest of the agent's life;
    /// it may be sent to another thread.
    pub fn status_writer(&self) -> Result<StatusWriter, OpenError> {
        Err(OpenError::NoObject)
    }

    /// Where the programs are attached; for metrics and `status`.
    pub fn attached(&self) -> Result<Vec<Attached>, OpenError> {
        Ok(Vec::new())
    }

    /// A reader of the same maps, for metrics; it may be sent to another thread.
    pub fn reader(&self) -> Result<Reader, OpenError> {
        Err(OpenError::NoObject)
    }
}

/// Writes what the agent says about itself.
#[derive(Debug)]
pub struct StatusWriter {}

impl StatusWriter {
    /// Says in `lb_agent` what this agent is doing, for `lb-agent status`.
    pub fn write(&mut self, _status: &AgentStatus) -> Result<(), StoreError> {
        Ok(())
    }
}

/// The kernel's maps as a [`MapStore`].
#[derive(Debug)]
pub struct KernelStore {}

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

/// Reads an installation, also one whose agent is dead. Never writes.
#[derive(Debug)]
pub struct Reader {}

impl Reader {
    /// Opens what is pinned below `bpffs/lb`. Fails with [`OpenError::NotInstalled`] where there is nothing, and with
    /// [`OpenError::Incompatible`] where it belongs to a build with another layout.
    pub fn open(_bpffs: &Path) -> Result<Self, OpenError> {
        Err(OpenError::NoObject)
    }

    /// The maps that `plan` writes, for reading: the same methods as [`MapStore`] has for that.
    pub fn store(&self) -> Result<&KernelStore, OpenError> {
        Err(OpenError::NoObject)
    }

    /// What the agent last said about itself; `None` if it never did.
    pub fn status(&self) -> Result<Option<AgentStatus>, OpenError> {
        Ok(None)
    }

    /// The counters, summed over all processors.
    pub fn counters(&self) -> Result<Vec<(Counter, u64)>, OpenError> {
        Ok(Vec::new())
    }

    /// How full each map is.
    pub fn map_use(&self) -> Result<Vec<MapUse>, OpenError> {
        Ok(Vec::new())
    }

    /// Where the programs are attached. A program that is missing here is not attached.
    pub fn attached(&self) -> Result<Vec<Attached>, OpenError> {
        Ok(Vec::new())
    }

    /// Whether an agent holds the lock now.
    pub fn agent_alive(&self) -> Result<bool, OpenError> {
        Ok(false)
    }
}

/// Detaches the programs and removes everything below `bpffs/lb`; returns what was removed, for people. Nothing there is
/// no error. Refused with [`OpenError::Locked`] while an agent runs, unless `force`.
pub fn cleanup(_bpffs: &Path, _force: bool) -> Result<Vec<String>, OpenError> {
    Ok(Vec::new())
}
