//! What an inotify event says about which files to read.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{
    Event, EventKind,
    event::{AccessKind, AccessMode, ModifyKind},
};

use super::directory::{Look, is_manifest};

/// What to read.
#[derive(Debug, PartialEq)]
pub(super) enum Hint {
    /// This file was written and closed, renamed or removed.
    Written(PathBuf),
    /// This file was created, or its owner or mode changed.
    Touched(PathBuf),
    /// Events were lost, or a ConfigMap volume was switched to another version.
    All,
    /// The directory itself was removed or renamed.
    Lost,
}

/// The directory is gone.
#[derive(Debug)]
pub(super) struct Lost;

impl Hint {
    /// Adds this to what will be looked at.
    pub(super) fn add_to(self, look: &mut Look) -> Result<(), Lost> {
        match self {
            Self::Written(path) => drop(look.written.insert(path)),
            Self::Touched(path) => drop(look.touched.insert(path)),
            Self::All => look.all_settled_for = Some(Duration::ZERO),
            Self::Lost => return Err(Lost),
        }
        Ok(())
    }
}

/// The hints in an event of the watch on `directory`. Reading and the writes before a close say nothing.
pub(super) fn hints(event: notify::Result<Event>, directory: &Path) -> Vec<Hint> {
    let Ok(event) = event else { return vec![Hint::All] };
    if event.need_rescan() {
        return vec![Hint::All];
    }
    let hint = |path: PathBuf| match event.kind {
        EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_) if path == directory => Some(Hint::Lost),
        EventKind::Modify(ModifyKind::Name(_)) if path.ends_with("..data") => Some(Hint::All),
        _ if !is_manifest(&path) => None,
        EventKind::Modify(ModifyKind::Name(_))
        | EventKind::Remove(_)
        | EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Hint::Written(path)),
        EventKind::Create(_) | EventKind::Modify(ModifyKind::Metadata(_)) => Some(Hint::Touched(path)),
        _ => None,
    };
    event.paths.into_iter().filter_map(hint).collect()
}
