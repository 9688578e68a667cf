//! Where things are pinned.

use std::path::{Path, PathBuf};

/// The directories of an installation below a bpffs.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    /// `BPFFS/lb`: locked by the agent that lives.
    pub(super) root: PathBuf,
    /// `BPFFS/lb/maps`.
    pub(super) maps: PathBuf,
    /// A first installation while it is made.
    pub(super) unfinished: PathBuf,
    /// `BPFFS/lb/links`.
    pub(super) links: PathBuf,
}

impl Paths {
    pub(super) fn new(bpffs: &Path) -> Self {
        let root = bpffs.join("lb");
        Self { maps: root.join("maps"), unfinished: root.join("maps-new"), links: root.join("links"), root }
    }
}

/// Where something is pinned that is then renamed over `path`. Names of maps and programs have no dot, and bpffs allows
/// none in names that user space makes (`bpf_lookup` in kernel/bpf/inode.c), so it is a hyphen.
pub(super) fn replacement(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(REPLACEMENT);
    name.into()
}

/// See [`replacement`].
pub(super) const REPLACEMENT: &str = "-new";
