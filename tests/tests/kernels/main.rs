//! What holds on every kernel that is supported: the verifier takes the programs, and Services answer. Run on this machine's
//! kernel like any other test, and by `cargo xtask kernels` on others, in virtual machines that have little besides these
//! binaries and ip(8).

mod answers;
mod verifier;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// One test at a time: the limit of open files, which one of them lowers for a moment, is the whole process's.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
