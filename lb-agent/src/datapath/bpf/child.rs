//! Something done by a child process, where the process itself counts: its cgroup, its namespaces. Decides nothing about what.
#![expect(unsafe_code, reason = "runs between fork and exec")]

use std::{io, os::unix::process::CommandExt as _, process::Command};

use rustix::io::Errno;

/// Has a child process run `act`, and gives what that ends with. The child is gone then.
///
/// # Errors
/// There is no child.
///
/// # Safety
/// `act` makes system calls only, and no allocation and takes no lock, as must be between fork and exec in a program of many
/// threads (fork(2)).
pub(super) unsafe fn outcome(mut act: impl FnMut() -> Errno + Send + Sync + 'static) -> io::Result<Errno> {
    let mut command = Command::new("/proc/self/exe");
    // SAFETY: the caller's promise about `act`; the rest is a number.
    unsafe { command.pre_exec(move || Err(act().into())) };
    // It never gets to the exec: the outcome comes back as the error for which it does not.
    match command.spawn() {
        Err(error) => Errno::from_io_error(&error).ok_or(error),
        Ok(_) => Err(io::Error::other("a child process ran on that should have ended")),
    }
}
