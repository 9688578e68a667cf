//! Why the datapath cannot be used, with the exit status that the process should end with, and what is only worth
//! telling.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use crate::datapath::store::StoreError;

/// EX_UNAVAILABLE of sysexits(3): a needed thing is missing.
pub const EXIT_UNAVAILABLE: u8 = 69;
/// EX_NOPERM: a capability is missing.
pub const EXIT_NO_PERMISSION: u8 = 77;
/// EX_CONFIG: what was asked for contradicts what is there.
pub const EXIT_CONFIG: u8 = 78;

/// Why the kernel programs or maps cannot be used. Each text is one line that names the thing and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No kernel programs are embedded.
    #[error("this build has no kernel programs in it: build the agent with `cargo xtask build`")]
    NoObject,
    /// The kernel is too old.
    #[error("the running kernel is {found}, and this agent needs Linux 5.10 or newer")]
    KernelTooOld {
        /// What uname(2) says.
        found: String,
    },
    /// There is no cgroup2 mount in this mount namespace.
    #[error(
        "no cgroup2 file system is mounted here: mount one (`mount -t cgroup2 none /sys/fs/cgroup/unified`), or mount the \
         host's into this container, or name its directory with --cgroup-root"
    )]
    NoCgroup2,
    /// `--cgroup-root` is not what it must be.
    #[error("--cgroup-root {}: {reason}", path.display())]
    CgroupRoot {
        /// The directory.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// `--bpffs` is not what it must be.
    #[error("--bpffs {}: {reason}", path.display())]
    Bpffs {
        /// The directory.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The process may not do what it must.
    #[error(
        "missing capabilities: {missing}; run the agent as root or, in a container, with these added (or privileged)"
    )]
    Capabilities {
        /// Their names.
        missing: String,
    },
    /// Another agent uses these maps.
    #[error(
        "another agent{} is running on {}: stop it first, or give this one another --bpffs and --cgroup-root",
        Pid(*pid), path.display()
    )]
    Locked {
        /// The pin directory.
        path: PathBuf,
        /// The other agent's process id, where it can be seen from here.
        pid: Option<u32>,
    },
    /// There is no installation to look at.
    #[error("nothing is installed below {}: is the agent running on this node, with this --bpffs?", path.display())]
    NotInstalled {
        /// The pin directory.
        path: PathBuf,
    },
    /// The pinned maps are another build's.
    #[error(
        "the maps pinned below {} {what}: run the agent they belong to, or remove them and their programs with \
         `lb-agent cleanup`, which ends load balancing on this node until the next agent has started",
        path.display()
    )]
    Incompatible {
        /// The pin directory.
        path: PathBuf,
        /// In which way.
        what: String,
    },
    /// A map is to become smaller than what is in it.
    #[error("map {map} has {used} entries in use: {flag} is {given} and must be at least {needed}")]
    TooSmall {
        /// Map name.
        map: &'static str,
        /// Entries in use.
        used: u32,
        /// The flag that sets the map's size; it may count in another unit than the map.
        flag: &'static str,
        /// What the flag says, in its unit.
        given: u32,
        /// The smallest value of the flag with which the entries fit.
        needed: u32,
    },
    /// The kernel did not take a program.
    #[error("the kernel refused program {program}: {reason}")]
    Program {
        /// Its name.
        program: String,
        /// The kernel's reason; the verifier's last lines.
        reason: String,
    },
    /// The programs are attached and do not do what they should.
    #[error("the kernel programs are attached below {} but were not seen to work: {reason}", cgroup.display())]
    SelfTest {
        /// The cgroup.
        cgroup: PathBuf,
        /// What was seen.
        reason: String,
    },
    /// A map could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Anything else the system said.
    #[error("{action} {}", path.display())]
    System {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    /// The status to end the process with.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::NoObject | Self::KernelTooOld { .. } | Self::NoCgroup2 | Self::NotInstalled { .. } => {
                EXIT_UNAVAILABLE
            }
            Self::Bpffs { .. } | Self::Program { .. } | Self::SelfTest { .. } => EXIT_UNAVAILABLE,
            Self::Capabilities { .. } => EXIT_NO_PERMISSION,
            Self::CgroupRoot { .. } | Self::Locked { .. } | Self::Incompatible { .. } | Self::TooSmall { .. } => {
                EXIT_CONFIG
            }
            Self::System { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => EXIT_NO_PERMISSION,
            Self::Store(_) | Self::System { .. } => 1,
        }
    }
}

/// Turns what a system call on `path` returned into an error that says so.
pub(super) fn system(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError + use<> {
    let path = path.to_owned();
    move |source| OpenError::System { action, path, source }
}

struct Pid(Option<u32>);

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |pid| write!(f, " (pid {pid})"))
    }
}

/// Something worth a log line at start that stops nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The kernel cannot set the errno of a refused connection.
    NoSetRetval,
    /// The kernel does not tell which network namespace this is.
    NoNetnsCookie,
    /// The kernel has no tcx links.
    NoTcx,
    /// What the sockets of all workloads keep in maps counts as this agent's memory.
    StorageCharged {
        /// Why, for people.
        reason: String,
    },
    /// A program that is not wanted any more was detached.
    Detached {
        /// The name of its link.
        program: String,
    },
    /// A map was copied into one of another size.
    Resized {
        /// Map name.
        map: &'static str,
        /// Entries before.
        from: u32,
        /// Entries now.
        to: u32,
    },
    /// The maps of an earlier agent are used further.
    Adopted {
        /// Frontends found in them, of both families.
        frontends: usize,
    },
    /// A program was put in the place of an earlier build's, without a moment with none.
    Replaced {
        /// Program name.
        program: &'static str,
    },
    /// A link hung on another cgroup, or on one that is gone, and was replaced by a new one.
    Moved {
        /// Program name.
        program: &'static str,
        /// Why, for people.
        reason: String,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSetRetval => f.write_str(
                "this kernel cannot give ECONNREFUSED from a hook (bpf_set_retval, Linux 6.1): a TCP connect to a Service \
                 without endpoints is refused by way of the loopback address, a datagram fails with EPERM, and so does binding a port that a NodePort has",
            ),
            Self::NoNetnsCookie => f.write_str(
                "this kernel does not tell the number of a network namespace (SO_NETNS_COOKIE, Linux 5.14): the first one of \
                 the machine is taken for the node's own; where the agent runs in another, NodePorts of loopback addresses \
                 do not work and nobody is kept from binding NodePorts",
            ),
            Self::NoTcx => f.write_str(
                "this kernel has no tcx links (Linux 6.6): the packet layer's programs are filters of a clsact qdisc on \
                 their devices, which whoever replaces the qdisc takes away for a moment",
            ),
            Self::StorageCharged { reason } => write!(
                f,
                "the storage of all sockets that use Services is charged to this agent's memory cgroup, and connects are some \
                 300 ns slower: {reason}; let the agent write to the machine's root memory cgroup (deploy/daemonset.yaml does), \
                 then `lb-agent cleanup` and start anew, or give it 300 bytes more memory for each such socket"
            ),
            Self::Detached { program } => write!(f, "program {program} detached: it is turned off, or was left by another build or an agent that died"),
            Self::Resized { map, from, to } => write!(f, "map {map} resized from {from} to {to} entries"),
            Self::Adopted { frontends } => {
                write!(f, "going on with the maps of an earlier agent, {frontends} frontends in them")
            }
            Self::Replaced { program } => write!(f, "program {program} replaced in its link"),
            Self::Moved { program, reason } => write!(f, "program {program} linked anew: {reason}"),
        }
    }
}
