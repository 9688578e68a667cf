//! Takes an installation down: programs first, then maps, then the directories.

use std::{os::fd::AsFd as _, path::Path};

use super::{
    devices,
    error::{OpenError, system},
    load::entries,
    lock,
    paths::Paths,
    pins, sys,
};

/// Detaches the programs and removes everything below `bpffs/lb`; returns what was removed, for people. Nothing there is
/// no error, nor what another `cleanup` removes meanwhile. Refused with [`OpenError::Locked`] while an agent runs, unless `force`.
pub fn cleanup(bpffs: &Path, force: bool) -> Result<Vec<String>, OpenError> {
    let paths = Paths::new(bpffs);
    let lock = match lock::acquire(&paths.root) {
        Ok(Some(lock)) => Some(lock),
        // Another `cleanup` was faster.
        Ok(None) => return Ok(Vec::new()),
        Err(OpenError::Locked { .. }) if force => None,
        Err(error) => return Err(error),
    };
    for pin in entries(&paths.links)? {
        detach(&pin)?;
    }
    let mut removed = devices::remove_filters()?;
    for (directory, what) in [(&paths.links, "program"), (&paths.maps, "map"), (&paths.unfinished, "map")] {
        for path in entries(directory)? {
            pins::remove(&path)?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            removed.push(format!("{what} {name}"));
        }
        pins::remove_directory(directory)?;
    }
    pins::remove_directory(&paths.root)?;
    drop(lock);
    Ok(removed)
}

/// The kernel detaches a program some time after its last pin is gone; here it is done when this returns.
fn detach(pin: &Path) -> Result<(), OpenError> {
    pins::gone(sys::obj_get(pin).and_then(|link| sys::link_detach(link.as_fd()))).map_err(system("detach", pin))
}
