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

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::error::{OpenError, system};

/// A tool that asks whether an agent lives holds the lock itself for some microseconds; that must not turn a starting
/// agent away.
const PATIENCE: Duration = Duration::from_millis(300);

/// Takes the lock; it lasts as long as the file is open. `None` where there is no such directory.
pub(super) fn acquire(directory: &Path) -> Result<Option<File>, OpenError> {
    let deadline = Instant::now() + PATIENCE;
    while let Some(file) = open(directory)? {
        match try_lock(&file, directory)? {
            Attempt::Locked => return Ok(Some(file)),
            Attempt::Removed => {}
            Attempt::Held if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
            Attempt::Held => {
                let pid = holder_of(&file).unwrap_or_default();
                return Err(OpenError::Locked { path: directory.to_owned(), pid });
            }
        }
    }
    Ok(None)
}

/// As [`acquire`]; creates the directory where it is missing.
pub(super) fn acquire_or_create(directory: &Path) -> Result<File, OpenError> {
    loop {
        fs::create_dir_all(directory).map_err(system("create", directory))?;
        // None: a `cleanup` removed it meanwhile.
        if let Some(lock) = acquire(directory)? {
            return Ok(lock);
        }
    }
}

/// Whether an agent holds the lock now.
pub(super) fn is_held(directory: &Path) -> Result<bool, OpenError> {
    let Some(file) = open(directory)? else {
        return Ok(false);
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(system("ask for the lock on", directory)(error.into())),
    }
}

enum Attempt {
    /// It is ours.
    Locked,
    /// Somebody else has it.
    Held,
    /// It would be ours, but the directory that was opened is not the one that is there now. `cleanup` holds the lock
    /// until it has removed the directory; who was waiting then gets a lock that keeps nobody out.
    Removed,
}

fn try_lock(file: &File, directory: &Path) -> Result<Attempt, OpenError> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) if is_at(file, directory)? => Ok(Attempt::Locked),
        Ok(()) => Ok(Attempt::Removed),
        Err(Errno::WOULDBLOCK) => Ok(Attempt::Held),
        Err(error) => Err(system("lock", directory)(error.into())),
    }
}

fn is_at(file: &File, path: &Path) -> Result<bool, OpenError> {
    let ours = file.metadata().map_err(system("look at", path))?;
    let there = some_if_found(fs::metadata(path)).map_err(system("look at", path))?;
    Ok(there.is_some_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())))
}

fn open(directory: &Path) -> Result<Option<File>, OpenError> {
    some_if_found(File::open(directory)).map_err(system("open", directory))
}

fn some_if_found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
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
        let first = acquire(directory.path()).unwrap().unwrap();
        assert!(is_held(directory.path()).unwrap());
        let refused = acquire(directory.path()).unwrap_err();
        let OpenError::Locked { pid, .. } = &refused else { panic!("{refused}") };
        assert_eq!(*pid, Some(std::process::id()));
        drop(first);
        assert!(!is_held(directory.path()).unwrap());
        acquire(directory.path()).unwrap().unwrap();
    }

    #[test]
    fn a_lock_on_a_directory_that_was_removed_meanwhile_is_none() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("lb");
        let lock = acquire_or_create(&directory).unwrap();
        let waiting = open(&directory).unwrap().unwrap();
        assert!(matches!(try_lock(&waiting, &directory).unwrap(), Attempt::Held));
        fs::remove_dir(&directory).unwrap();
        drop(lock);
        assert!(matches!(try_lock(&waiting, &directory).unwrap(), Attempt::Removed));
        assert!(acquire(&directory).unwrap().is_none());

        let _next = acquire_or_create(&directory).unwrap();
        assert!(matches!(try_lock(&waiting, &directory).unwrap(), Attempt::Removed), "two agents would hold a lock");
    }
}
