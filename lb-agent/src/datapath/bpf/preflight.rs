//! Is this machine able to run the programs? Each check is a pure function of what the system says, with a thin probe
//! around it, so that every refusal is tested without the machine that it is about.

use std::{
    fs::{self, File},
    os::unix::{ffi::OsStringExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{StatFs, statfs};

use super::error::{OpenError, system};

/// The oldest kernel with all that is used: socket storage in sock_addr programs, getpeername hooks, cgroup links.
const OLDEST_KERNEL: (u32, u32) = (5, 10);
/// From here on maps are charged to the memory cgroup and not to RLIMIT_MEMLOCK.
const NO_MEMLOCK_KERNEL: (u32, u32) = (5, 11);
/// `CGROUP2_SUPER_MAGIC` and `BPF_FS_MAGIC` (include/uapi/linux/magic.h).
const CGROUP2_MAGIC: u32 = 0x6367_7270;
const BPFFS_MAGIC: u32 = 0xcafe_4a11;

/// Everything below at once, and nothing changed: what an agent would refuse to start with, the first refusal first.
pub(super) fn refusals(bpffs_path: &Path, cgroup_root: Option<&Path>) -> Vec<OpenError> {
    let checks = [kernel(), capabilities(), bpffs(bpffs_path), cgroup(cgroup_root).map(drop)];
    checks.into_iter().filter_map(Result::err).collect()
}

/// The kernel's version is enough.
pub(super) fn kernel() -> Result<(), OpenError> {
    let found = rustix::system::uname().release().to_string_lossy().into_owned();
    match version(&found) {
        Some(version) if version >= OLDEST_KERNEL => {
            if version < NO_MEMLOCK_KERNEL {
                raise_memlock();
            }
            Ok(())
        }
        _ => Err(OpenError::KernelTooOld { found }),
    }
}

/// Before 5.11 maps count against RLIMIT_MEMLOCK, 64 KiB by default. Where it cannot be raised the kernel refuses the
/// maps with EPERM, which then is the error to report.
fn raise_memlock() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    if let Err(error) = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None }) {
        tracing::warn!(%error, "RLIMIT_MEMLOCK cannot be raised (CAP_SYS_RESOURCE); this kernel counts maps against it");
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The process may load programs and create maps.
pub(super) fn capabilities() -> Result<(), OpenError> {
    let status = Path::new("/proc/self/status");
    let text = fs::read_to_string(status).map_err(system("read", status))?;
    let missing = missing_capabilities(&text);
    if missing.is_empty() { Ok(()) } else { Err(OpenError::Capabilities { missing: missing.join(", ") }) }
}

/// By the `CapEff` line of proc_pid_status(5). CAP_SYS_ADMIN contains the others here (`bpf_capable`,
/// `bpf_net_capable`). CAP_PERFMON lets the verifier follow pointers as the programs use them.
fn missing_capabilities(status: &str) -> Vec<&'static str> {
    const SYS_ADMIN: u32 = 21;
    const NEEDED: [(u32, &str); 3] = [(39, "CAP_BPF"), (38, "CAP_PERFMON"), (12, "CAP_NET_ADMIN")];
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    let has = |bit: u32| effective & (1 << bit) != 0;
    NEEDED.iter().filter(|(bit, _)| !has(*bit) && !has(SYS_ADMIN)).map(|(_, name)| *name).collect()
}

/// `--bpffs` is a bpffs.
pub(super) fn bpffs(path: &Path) -> Result<(), OpenError> {
    let problem = |reason: String| OpenError::Bpffs { path: path.to_owned(), reason };
    match statfs(path) {
        Ok(found) if magic(&found) == BPFFS_MAGIC => Ok(()),
        Ok(_) => Err(problem(format!(
            "is not a BPF file system: mount one there (`mount -t bpf bpf {}`) or mount the host's into this container",
            path.display()
        ))),
        Err(error) => Err(problem(format!("{error}: mount a BPF file system there (`mount -t bpf bpf DIR`)"))),
    }
}

/// `f_type` is of another width and sign on each architecture, and the constants have 32 bits.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "32 bits are what is wanted")]
fn magic(found: &StatFs) -> u32 {
    found.f_type as u32
}

/// The cgroup to attach to.
#[derive(Debug)]
pub(super) struct Cgroup {
    /// Its directory.
    pub(super) path: PathBuf,
    /// The kernel's number for it: the inode of its directory.
    pub(super) id: u64,
    /// The directory, open.
    pub(super) directory: File,
}

/// Opens the given cgroup, or the root of the cgroup2 mount that is found.
pub(super) fn cgroup(given: Option<&Path>) -> Result<Cgroup, OpenError> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => cgroup2_mount()?.ok_or(OpenError::NoCgroup2)?,
    };
    let problem = |reason: String| OpenError::CgroupRoot { path: path.clone(), reason };
    let directory = File::open(&path).map_err(|error| problem(error.to_string()))?;
    let found = statfs(&path).map_err(|error| problem(error.to_string()))?;
    if magic(&found) != CGROUP2_MAGIC {
        let hint = match cgroup2_mount()? {
            Some(mount) => format!("; there is one at {}", mount.display()),
            None => String::new(),
        };
        return Err(problem(format!("is not in a cgroup2 file system{hint}")));
    }
    let id = directory.metadata().map_err(|error| problem(error.to_string()))?.ino();
    Ok(Cgroup { path, id, directory })
}

/// Where cgroup2 is mounted. On hybrid hierarchies that is not /sys/fs/cgroup.
pub(super) fn cgroup2_mount() -> Result<Option<PathBuf>, OpenError> {
    let mounts = Path::new("/proc/self/mountinfo");
    Ok(find_cgroup2(&fs::read_to_string(mounts).map_err(system("read", mounts))?))
}

/// A mount of this mount namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount<'a> {
    /// Which part of the file system is mounted, as this cgroup namespace sees it.
    pub(super) root: &'a str,
    /// Where.
    pub(super) point: PathBuf,
    /// The kind of file system.
    pub(super) kind: &'a str,
    /// The file system's own options; for cgroup version 1 the controllers are among them.
    pub(super) options: &'a str,
}

/// The mounts that a mountinfo lists (proc_pid_mountinfo(5)).
pub(super) fn mounts(mountinfo: &str) -> impl Iterator<Item = Mount<'_>> {
    mountinfo.lines().filter_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let mut fields = file_system.split(' ');
        let (kind, options) = (fields.next()?, fields.nth(1).unwrap_or_default());
        Some(Mount { root, point: unescape(point), kind, options })
    })
}

/// A mount of the whole hierarchy is preferred to one of a part of it.
fn find_cgroup2(mountinfo: &str) -> Option<PathBuf> {
    let found = mounts(mountinfo).filter(|mount| mount.kind == "cgroup2");
    found.min_by_key(|mount| mount.root != "/").map(|mount| mount.point)
}

/// mountinfo writes blanks and backslashes in octal: `\040`.
fn unescape(text: &str) -> PathBuf {
    let mut parts = text.split('\\');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let code = part.get(..3).and_then(|octal| u8::from_str_radix(octal, 8).ok());
        match (code, part.get(3..)) {
            (Some(code), Some(rest)) => {
                bytes.push(code);
                bytes.extend_from_slice(rest.as_bytes());
            }
            _ => bytes.extend_from_slice(part.as_bytes()),
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_older_than_5_10_are_refused() {
        assert_eq!(version("5.10.0-28-cloud-amd64"), Some((5, 10)));
        assert_eq!(version("6.12.48-amd64"), Some((6, 12)));
        assert_eq!(version("garbage"), None);
        assert!(version("5.4.0-150-generic").unwrap() < OLDEST_KERNEL);
        assert!(version("4.19.0").unwrap() < OLDEST_KERNEL);
        assert!(version("6.1").unwrap() > OLDEST_KERNEL);
    }

    #[test]
    fn each_missing_capability_is_named() {
        let status = |bits: u64| format!("Name:\tx\nCapPrm:\tffff\nCapEff:\t{bits:016x}\n");
        assert_eq!(missing_capabilities(&status(0)), ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"]);
        assert_eq!(missing_capabilities(&status(1 << 39 | 1 << 38)), ["CAP_NET_ADMIN"]);
        assert!(missing_capabilities(&status(1 << 39 | 1 << 38 | 1 << 12)).is_empty());
        assert!(missing_capabilities(&status(1 << 21)).is_empty(), "CAP_SYS_ADMIN contains them");
    }

    #[test]
    fn the_cgroup2_mount_is_found_beside_version_1() {
        let hybrid = "25 20 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      26 25 0:23 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw\n\
                      27 25 0:24 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n";
        assert_eq!(find_cgroup2(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(find_cgroup2("25 20 0:22 / / rw - ext4 /dev/sda rw\n"), None);
    }

    #[test]
    fn a_mount_of_the_whole_hierarchy_is_preferred() {
        let mounts = "30 1 0:23 /kubepods/pod7 /sys/fs/cgroup rw - cgroup2 cgroup rw\n\
                      31 1 0:23 / /host/with\\040blank rw - cgroup2 cgroup rw\n";
        assert_eq!(find_cgroup2(mounts), Some("/host/with blank".into()));
    }

    #[test]
    fn an_ordinary_directory_is_neither_a_bpffs_nor_a_cgroup() {
        let directory = tempfile::tempdir().unwrap();
        let error = bpffs(directory.path()).unwrap_err();
        assert!(error.to_string().contains("is not a BPF file system"), "{error}");
        let error = cgroup(Some(directory.path())).unwrap_err();
        assert!(error.to_string().contains("is not in a cgroup2 file system"), "{error}");
    }
}
