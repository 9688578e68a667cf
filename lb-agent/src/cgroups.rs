//! The cgroup2 tree as directories: what is below one, and a sign when something in it comes or goes. Changes nothing in it.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

/// The cgroups right below one; none where it is gone.
///
/// # Errors
/// The directory cannot be read.
pub fn children(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        other => other?,
    };
    let mut children = Vec::new();
    for entry in entries {
        match entry.and_then(|entry| Ok((entry.file_type()?.is_dir(), entry.path()))) {
            Ok((true, path)) => children.push(path),
            Ok((false, _)) => {}
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(children)
}

/// Whether an error means that a process or cgroup has just ended: no file, or a file whose subject is gone.
pub fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ESRCH))
}

/// Calls `changed`, on a thread of its own, when a cgroup below `root` comes, goes, gets its first process or loses its last
/// one (`cgroup.events`), as long as the watch lives.
///
/// # Errors
/// No inotify instance, or not enough watches, can be had.
pub fn watch(root: &Path, changed: impl Fn() + Send + 'static) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if !event.is_ok_and(|event| event.kind.is_access()) {
            changed();
        }
    })?;
    watcher.watch(root, RecursiveMode::Recursive)?;
    Ok(watcher)
}
