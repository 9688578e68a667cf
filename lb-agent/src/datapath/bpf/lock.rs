//! One agent per installation: an exclusive flock(2) on the pin directory, held while the agent lives. The kernel gives
//! it back however the agent ends, so that it also tells a live agent from a dead one.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, flock};

use super::error::{OpenError, system};

/// A tool that asks whether an agent lives holds the lock itself for some microseconds; that must not turn a starting
/// agent away.
const PATIENCE: Duration = Duration::from_millis(300);

/// Takes the lock; it lasts as long as the file is open.
pub(super) fn acquire(directory: &Path) -> Result<File, OpenError> {
    let file = open(directory)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let pid = holder_of(&file).unwrap_or_default();
                return Err(OpenError::Locked { path: directory.to_owned(), pid });
            }
            Err(error) => return Err(system("lock", directory)(error.into())),
        }
    }
}

/// Whether an agent holds the lock now.
pub(super) fn is_held(directory: &Path) -> Result<bool, OpenError> {
    let file = open(directory)?;
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(system("ask for the lock on", directory)(error.into())),
    }
}

fn open(directory: &Path) -> Result<File, OpenError> {
    File::open(directory).map_err(system("open", directory))
}

fn holder_of(file: &File) -> io::Result<Option<u32>> {
    let metadata = file.metadata()?;
    let device = metadata.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    Ok(holder(&fs::read_to_string("/proc/locks")?, major, minor, metadata.ino()))
}

/// The process that holds an exclusive flock on an inode, by `/proc/locks` (proc_locks(5)). A process of another pid
/// namespace is not listed.
fn holder(locks: &str, major: u32, minor: u32, inode: u64) -> Option<u32> {
    let wanted = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let kind = (fields.next()?, fields.next()?, fields.next()?);
        let pid = fields.next()?.parse().ok()?;
        (kind == ("FLOCK", "ADVISORY", "WRITE") && fields.next()? == wanted).then_some(pid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCKS: &str = "1: POSIX  ADVISORY  WRITE 77 00:2b:9 0 EOF\n\
                         2: FLOCK  ADVISORY  READ 78 00:2b:9 0 EOF\n\
                         2: -> FLOCK  ADVISORY  WRITE 80 00:2b:9 0 EOF\n\
                         3: FLOCK  ADVISORY  WRITE 79 00:2b:9 0 EOF\n";

    #[test]
    fn the_holder_is_the_process_with_the_exclusive_flock() {
        assert_eq!(holder(LOCKS, 0, 0x2b, 9), Some(79));
        assert_eq!(holder(LOCKS, 0, 0x2b, 8), None);
        assert_eq!(holder(LOCKS, 0, 0x2c, 9), None);
    }

    #[test]
    fn a_second_agent_is_refused_until_the_first_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let first = acquire(directory.path()).unwrap();
        assert!(is_held(directory.path()).unwrap());
        let refused = acquire(directory.path()).unwrap_err();
        let OpenError::Locked { pid, .. } = &refused else { panic!("{refused}") };
        assert_eq!(*pid, Some(std::process::id()));
        drop(first);
        assert!(!is_held(directory.path()).unwrap());
        acquire(directory.path()).unwrap();
    }
}
