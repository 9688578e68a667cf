//! What the kernel programs log. They do so only about damaged maps (`lb-ebpf/src/kernel.rs`), so a thread of its own that
//! sleeps costs nothing and needs nobody to poll it.

use std::{io, os::fd::AsFd as _, thread};

use aya::Ebpf;
use aya_log::EbpfLogger;
use rustix::event::{PollFd, PollFlags, poll};

use super::error::OpenError;

/// Forwards the programs' log to this process's, for as long as it lives.
pub(super) fn forward(ebpf: &mut Ebpf) -> Result<(), OpenError> {
    let refused = |reason: String| OpenError::Program { program: "log".to_owned(), reason };
    let mut logger = EbpfLogger::init(ebpf).map_err(|error| refused(error.to_string()))?;
    let forward = move || {
        loop {
            let waited = poll(&mut [PollFd::new(&logger.as_fd(), PollFlags::IN)], None).map_err(io::Error::from);
            match waited {
                Ok(_) => logger.flush(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::warn!(%error, "the kernel programs' log can no longer be read");
                    return;
                }
            }
        }
    };
    let thread = thread::Builder::new().name("kernel-log".to_owned()).spawn(forward);
    thread.map(drop).map_err(|error| refused(error.to_string()))
}
