//! A directory seen at a second place, as a container sees a hostPath.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};

use crate::{bpffs::unmount, run};

/// A bind mount; unmounted when dropped.
pub struct BindMount {
    path: PathBuf,
}

impl BindMount {
    /// Mounts `source` on a directory of this run.
    pub fn new(source: &Path) -> Result<Self> {
        let path = run::current().directory("bind")?;
        let mount = Self { path };
        mount.mount(Some(source), MsFlags::MS_BIND)?;
        Ok(mount)
    }

    /// As [`Self::new`], where nothing can be changed.
    pub fn read_only(source: &Path) -> Result<Self> {
        let mount = Self::new(source)?;
        // The kernel takes this flag only in a second step (mount(2)).
        mount.mount(None, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY)?;
        Ok(mount)
    }

    fn mount(&self, source: Option<&Path>, flags: MsFlags) -> Result<()> {
        let mounted = mount(source, &self.path, None::<&str>, flags, None::<&str>);
        mounted.with_context(|| format!("cannot mount {source:?} on {}", self.path.display()))
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for BindMount {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.path) {
            eprintln!("{error:#}");
        }
    }
}
