//! "Healthy" is said only after the hooks were seen to work: connections of our own go through them.
//!
//! For the time of the test the maps hold a frontend that nobody serves, at an address that is never routed
//! ([`canary`](super::canary)). A connect and a datagram to it must be refused at once; without the hook they would go
//! out, and fail otherwise or not at all. The hooks see sockets of processes below the cgroup, by the cgroup of the process at the time of
//! socket(2). An agent that is not below it (on a host, with `--cgroup-root` of its own), or cannot tell (in a pod with a
//! cgroup namespace), does it in a child process that is put into a cgroup made for it.

use std::{
    fs::{self, File},
    io,
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, SendFlags, SocketType, connect, sendto, socket,
        sockopt::{Timeout, set_socket_timeout},
    },
};

use super::{
    canary, child,
    error::{OpenError, system},
    preflight,
};

/// Without the hook a connect waits for an answer that never comes.
const PATIENCE: Duration = Duration::from_secs(1);

/// How the names of the self-test's cgroups begin.
pub const SELF_TEST_PREFIX: &str = "lb-self-test-";

/// Makes the connections, with the canary in the maps. `damaged` is how often the programs have met damaged maps: they
/// refuse then too, but for another reason than the canary's. Where this process may itself be excluded from the socket layer,
/// which `may_be_own_process` denies, a child in a cgroup that is not makes them.
pub(super) fn run(
    cgroup: &Path,
    may_be_own_process: bool,
    damaged: impl Fn() -> Result<u64, OpenError>,
) -> Result<(), OpenError> {
    let before = damaged()?;
    connect_all(cgroup, may_be_own_process)?;
    if damaged()? == before {
        return Ok(());
    }
    let reason = "its programs read frontends otherwise than this agent writes them: the binary was built with programs of \
                  another version; build it with `cargo xtask build`";
    Err(OpenError::SelfTest { cgroup: cgroup.to_owned(), reason: reason.to_owned() })
}

fn connect_all(cgroup: &Path, may_be_own_process: bool) -> Result<(), OpenError> {
    if may_be_own_process && is_inside(cgroup)? {
        return dial(cgroup, |address, kind| Ok(attempt(address, kind)));
    }
    let place = TemporaryCgroup::new(cgroup)?;
    dial(cgroup, |address, kind| place.attempt(address, kind))
}

/// A connect and a datagram in each family that this machine has.
fn dial(
    cgroup: &Path,
    mut attempt: impl FnMut(SocketAddr, SocketType) -> Result<Errno, OpenError>,
) -> Result<(), OpenError> {
    for address in [canary::ADDRESS4, canary::ADDRESS6] {
        for (what, kind) in [("a connection", SocketType::STREAM), ("a datagram", SocketType::DGRAM)] {
            judge(attempt(address, kind)?, address, kind).map_err(|seen| OpenError::SelfTest {
                cgroup: cgroup.to_owned(),
                reason: format!("{what} to the test address {address} {seen}"),
            })?;
        }
    }
    Ok(())
}

/// What [`attempt`] gives for an attempt that was let through.
const LET_THROUGH: Errno = Errno::ISCONN;

fn judge(outcome: Errno, address: SocketAddr, kind: SocketType) -> Result<(), String> {
    match outcome {
        Errno::CONNREFUSED => Ok(()),
        // What a kernel without bpf_set_retval gives a datagram.
        Errno::PERM if kind == SocketType::DGRAM => Ok(()),
        // IPv6 is switched off: no socket, or not even the loopback address, where a kernel without bpf_set_retval
        // sends what is refused.
        Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL if address.is_ipv6() => Ok(()),
        LET_THROUGH => Err("was let through".to_owned()),
        other => Err(format!("ended with \"{}\" and not with a refusal", io::Error::from(other))),
    }
}

/// How a connect or a datagram ended. No allocation and no lock: it also runs between fork and exec.
fn attempt(address: SocketAddr, kind: SocketType) -> Errno {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let dial = || {
        let socket = socket(family, kind, None)?;
        set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
        if kind == SocketType::STREAM {
            connect(&socket, &address)
        } else {
            sendto(&socket, &[], SendFlags::empty(), &address).map(drop)
        }
    };
    dial().err().unwrap_or(LET_THROUGH)
}

/// Whether this process is below `cgroup`. Where it cannot be told (another cgroup namespace), it is taken not to be,
/// and a child does it.
fn is_inside(cgroup: &Path) -> Result<bool, OpenError> {
    let own = Path::new("/proc/self/cgroup");
    let text = fs::read_to_string(own).map_err(system("read", own))?;
    let Some(mount) = preflight::cgroup2_mount()? else {
        return Ok(false);
    };
    let Some(own) = own_cgroup(&text, &mount).filter(|own| holds_this_process(own)) else {
        return Ok(false);
    };
    let root = identity(cgroup).map_err(system("look at", cgroup))?;
    Ok(below_mount(&own, &mount).any(|ancestor| identity(ancestor).is_ok_and(|found| found == root)))
}

/// What a cgroup is recognised by: the same hierarchy may be mounted in many places, as in a container.
fn identity(directory: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(directory).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// A cgroup and those above it, as far as `mount` shows them.
fn below_mount<'a>(own: &'a Path, mount: &'a Path) -> impl Iterator<Item = &'a Path> {
    own.ancestors().take_while(move |ancestor| ancestor.starts_with(mount))
}

/// Whether `directory` really is this process's cgroup: a mount of a part of the hierarchy has other paths than
/// `/proc/self/cgroup`. A list that cannot be read tells nothing, and a child does the test.
fn holds_this_process(directory: &Path) -> bool {
    let pid = std::process::id().to_string();
    fs::read_to_string(directory.join("cgroup.procs")).is_ok_and(|pids| pids.lines().any(|line| line == pid))
}

/// By cgroups(7): the line of hierarchy 0 names the place in version 2.
fn own_cgroup(text: &str, mount: &Path) -> Option<PathBuf> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    // A path with `..` is outside of this cgroup namespace.
    (!path.starts_with("..")).then(|| mount.join(path))
}

/// A cgroup for a child process: one with controllers for its children takes no processes itself.
struct TemporaryCgroup {
    path: PathBuf,
}

impl TemporaryCgroup {
    fn new(parent: &Path) -> Result<Self, OpenError> {
        Self::at(parent.join(format!("{SELF_TEST_PREFIX}{}", std::process::id())))
    }

    /// One that is there was left by an agent that died in its self-test; in a pod they all have the same process id.
    fn at(path: PathBuf) -> Result<Self, OpenError> {
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(system("create", &path)(error)),
            _ => Ok(Self { path }),
        }
    }

    /// [`attempt`] by a process in this cgroup.
    #[expect(unsafe_code, reason = "runs between fork and exec")]
    fn attempt(&self, address: SocketAddr, kind: SocketType) -> Result<Errno, OpenError> {
        let processes = self.path.join("cgroup.procs");
        let join = File::options().write(true).open(&processes).map_err(system("open", &processes))?;
        let dial = move || rustix::io::write(&join, b"0").map_or_else(|error| error, |_| attempt(address, kind));
        // SAFETY: system calls only, no allocation and no lock.
        let outcome = unsafe { child::outcome(dial) };
        outcome.map_err(system("start a process in", &self.path))
    }
}

impl Drop for TemporaryCgroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "the self-test's cgroup could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_passes() {
        let (v4, v6) = (canary::ADDRESS4, canary::ADDRESS6);
        assert!(judge(Errno::CONNREFUSED, v4, SocketType::STREAM).is_ok());
        assert!(judge(Errno::PERM, v4, SocketType::DGRAM).is_ok());
        assert!(judge(Errno::PERM, v4, SocketType::STREAM).is_err());
        assert!(judge(LET_THROUGH, v4, SocketType::DGRAM).is_err());
        assert!(judge(Errno::INPROGRESS, v4, SocketType::STREAM).is_err(), "no answer");
        assert!(judge(Errno::NETUNREACH, v6, SocketType::STREAM).is_err(), "the hook comes before the routes");
        assert!(judge(Errno::AFNOSUPPORT, v6, SocketType::STREAM).is_ok());
        assert!(judge(Errno::AFNOSUPPORT, v4, SocketType::STREAM).is_err());
    }

    #[test]
    fn a_cgroup_left_by_an_agent_that_died_is_used_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("left");
        fs::create_dir(&path).unwrap();
        drop(TemporaryCgroup::at(path.clone()).unwrap());
        assert!(!path.exists());
        assert!(TemporaryCgroup::at(path.join("no/parent")).is_err());
    }

    #[test]
    fn a_directory_is_the_same_by_another_path_and_ancestors_end_at_the_mount() {
        let directory = tempfile::tempdir().unwrap();
        let (real, alias) = (directory.path().join("real"), directory.path().join("alias"));
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &alias).unwrap();
        assert_eq!(identity(&real).unwrap(), identity(&alias).unwrap());
        assert_ne!(identity(&real).unwrap(), identity(directory.path()).unwrap());
        let seen: Vec<_> = below_mount(Path::new("/cg/a/b"), Path::new("/cg")).collect();
        assert_eq!(seen, [Path::new("/cg/a/b"), Path::new("/cg/a"), Path::new("/cg")]);
    }

    #[test]
    fn the_own_cgroup_is_the_one_of_hierarchy_0() {
        let mount = Path::new("/cg");
        let hybrid = "12:memory:/user\n1:name=systemd:/x\n0::/system.slice/agent.service\n";
        assert_eq!(own_cgroup(hybrid, mount), Some("/cg/system.slice/agent.service".into()));
        assert_eq!(own_cgroup("0::/\n", mount), Some("/cg/".into()));
        assert_eq!(own_cgroup("0::/../../pod\n", mount), None);
        assert_eq!(own_cgroup("1:memory:/\n", mount), None);
    }
}
