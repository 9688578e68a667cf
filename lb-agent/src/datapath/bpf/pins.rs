//! Pinned links: opening one with what the kernel says of it, and removing what may be gone already.

use std::{
    fs, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use super::{
    error::{OpenError, system},
    sys,
};

/// A pinned link, and what `look` finds out about it; none if there is no such pin.
pub(super) fn open<T>(
    pin: &Path,
    look: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>,
) -> Result<Option<(OwnedFd, T)>, OpenError> {
    match sys::obj_get(pin) {
        Ok(link) => {
            let info = look(link.as_fd()).map_err(system("read the link", pin))?;
            Ok(Some((link, info)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(system("open the link", pin)(error)),
    }
}

/// Removes a pin, or another file. One that is gone is no error.
pub(super) fn remove(path: &Path) -> Result<(), OpenError> {
    gone(fs::remove_file(path)).map_err(system("remove", path))
}

/// As [`remove`], a directory, which must be empty.
pub(super) fn remove_directory(path: &Path) -> Result<(), OpenError> {
    gone(fs::remove_dir(path)).map_err(system("remove", path))
}

/// What is not there need not be done.
pub(super) fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
