//! A bpf file system of one's own: where a node's agent pins its maps and links. Unmounting it drops every pin in it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::run;

/// A mounted bpf file system; unmounted when dropped.
pub struct Bpffs {
    path: PathBuf,
}

impl Bpffs {
    /// Mounts a new one in a directory of this run.
    pub fn new(hint: &str) -> Result<Self> {
        let path = run::current().directory(&format!("bpffs-{hint}"))?;
        mount(Some("bpf"), &path, Some("bpf"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("cannot mount a bpf file system on {}", path.display()))?;
        Ok(Self { path })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.path) {
            eprintln!("{error:#}");
        }
    }
}

/// Unmounts and removes the directory; that it is not mounted any more is fine.
pub(crate) fn unmount(path: &Path) -> Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(error) => return Err(error).with_context(|| format!("cannot unmount {}", path.display())),
    }
    run::ignore_missing(fs::remove_dir(path)).with_context(|| format!("cannot remove {}", path.display()))
}

/// The mount points below a directory, the innermost first.
pub(crate) fn mounts_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut below: Vec<PathBuf> = points.filter(|point| point.starts_with(directory)).collect();
    below.sort_by(|a, b| b.cmp(a));
    Ok(below)
}
