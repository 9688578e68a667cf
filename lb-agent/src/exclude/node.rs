//! [`Node`] on the machine: the cgroup tree and the pinned maps.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use lb_common::abi::Exclusion;

use super::keeper::{Cgroup, Node};
use crate::{
    cgroups,
    datapath::{
        bpf::{KernelExclusion, SELF_TEST_PREFIX},
        store::StoreError,
    },
};

/// The inode number of the root of cgroup2, and so its id (kernfs numbers from 1).
const ROOT_ID: u64 = 1;

/// The cgroups below one, and the maps.
pub struct LiveNode {
    cgroup_root: PathBuf,
    maps: KernelExclusion,
}

impl LiveNode {
    /// `cgroup_root` is where the programs are attached.
    pub fn new(cgroup_root: PathBuf, maps: KernelExclusion) -> Self {
        Self { cgroup_root, maps }
    }
}

impl Node for LiveNode {
    fn cgroups(&mut self, visit: &mut dyn FnMut(&Cgroup<'_>) -> bool) -> io::Result<()> {
        let root_level = level(&fs::canonicalize(&self.cgroup_root)?)?;
        let mut directories = vec![self.cgroup_root.clone()];
        while let Some(directory) = directories.pop() {
            for child in cgroups::children(&directory)? {
                let below = child.strip_prefix(&self.cgroup_root).map_err(io::Error::other)?;
                // The agent's own test must meet the programs whatever the patterns are.
                if below.to_string_lossy().starts_with(SELF_TEST_PREFIX) {
                    continue;
                }
                let id = match fs::metadata(&child) {
                    Err(error) if cgroups::is_gone(&error) => continue,
                    other => other?.ino(),
                };
                let depth = u32::try_from(below.components().count()).unwrap_or(u32::MAX);
                let level = root_level.map(|level| level.saturating_add(depth));
                if visit(&Cgroup { path: &below.to_string_lossy(), id, level }) {
                    directories.push(child);
                }
            }
        }
        Ok(())
    }

    fn known(&mut self) -> io::Result<(BTreeMap<u64, u32>, Exclusion)> {
        let known = self.maps.excluded().and_then(|known| Ok((known, self.maps.levels()?)));
        known.map_err(one_line)
    }

    fn put(&mut self, id: u64, why: u32) -> io::Result<()> {
        self.maps.put(id, why).map_err(one_line)
    }

    fn delete(&mut self, id: u64) -> io::Result<()> {
        self.maps.delete(id).map_err(one_line)
    }

    fn put_levels(&mut self, levels: Exclusion) -> io::Result<()> {
        self.maps.put_levels(levels).map_err(one_line)
    }
}

/// With its causes: this is all that is told.
fn one_line(error: StoreError) -> io::Error {
    io::Error::other(error.one_line())
}

/// How deep a cgroup is below the root of cgroup2; `None` where the mount shows only a part of the hierarchy (a cgroup
/// namespace), whose root has another number.
fn level(directory: &Path) -> io::Result<Option<u32>> {
    let device = fs::metadata(directory)?.dev();
    for (level, above) in (0..).zip(directory.ancestors()) {
        let metadata = fs::metadata(above)?;
        if metadata.dev() != device {
            break;
        }
        if metadata.ino() == ROOT_ID {
            return Ok(Some(level));
        }
    }
    Ok(None)
}
