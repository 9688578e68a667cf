//! Takes an installation down: programs first, then maps, then the directories.

use std::{fs, io, path::Path};

use super::{
    error::{OpenError, system},
    load::entries,
    lock,
    paths::Paths,
};

/// Detaches the programs and removes everything below `bpffs/lb`; returns what was removed, for people. Nothing there is
/// no error. Refused with [`OpenError::Locked`] while an agent runs, unless `force`.
pub fn cleanup(bpffs: &Path, force: bool) -> Result<Vec<String>, OpenError> {
    let paths = Paths::new(bpffs);
    if !paths.root.try_exists().map_err(system("look at", &paths.root))? {
        return Ok(Vec::new());
    }
    let lock = match lock::acquire(&paths.root) {
        Ok(lock) => Some(lock),
        Err(OpenError::Locked { .. }) if force => None,
        Err(error) => return Err(error),
    };
    let mut removed = Vec::new();
    for (directory, what) in [(&paths.links, "program"), (&paths.maps, "map"), (&paths.unfinished, "map")] {
        for path in entries(directory)? {
            remove(fs::remove_file(&path), &path)?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            removed.push(format!("{what} {name}"));
        }
        remove(fs::remove_dir(directory), directory)?;
    }
    remove(fs::remove_dir(&paths.root), &paths.root)?;
    drop(lock);
    Ok(removed)
}

/// Another `cleanup` may have been faster.
fn remove(result: io::Result<()>, path: &Path) -> Result<(), OpenError> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(system("remove", path)(error)),
        _ => Ok(()),
    }
}
