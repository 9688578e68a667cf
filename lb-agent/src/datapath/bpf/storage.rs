//! Makes the maps of socket storage, outside of the agent's memory cgroup.
//!
//! A connect to a Service allocates in them, in the context of who connects, and the kernel charges what a map's elements
//! take to the memory cgroup of who made the map (since Linux 5.11). In the agent's that would cost each connect a third of
//! its hook's time, and the sockets of all pods would count against the agent's memory limit: at the limit they would get no
//! storage. So they are made by a child process in the root memory cgroup, which nothing is charged to.
//!
//! Maps that an earlier agent made stay as they are. Nothing here decides what is made: `spec` does.

use std::{
    collections::HashMap,
    ffi::CString,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use aya_obj::{Object, maps::Map};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    thread::LinkNameSpaceType,
};

use super::{
    child,
    error::Note,
    preflight::{Mount, mounts},
    spec::{Action, Spec, kind},
    sys,
};

/// The inode of the directory of a hierarchy's first cgroup, in both versions (`kernfs_create_root` in fs/kernfs/dir.c).
const ROOT_INODE: u64 = 1;

/// What [`Child::run`] gives when everything was made: an errno that none of its calls has.
const DONE: Errno = Errno::ISCONN;

/// Makes those of the maps that are socket storage and to be created, and pins them in `directory`. Where that cannot be
/// done there is something to note, and whoever loads the object makes the rest.
pub(super) fn create(object: &[u8], directory: &Path, actions: &[(Spec, Action)]) -> Option<Note> {
    let missing =
        actions.iter().filter(|(spec, action)| spec.shape.kind == kind::SK_STORAGE && *action == Action::Create);
    let missing: Vec<_> = missing.map(|(spec, _)| *spec).collect();
    if missing.is_empty() {
        return None;
    }
    let made = Child::new(object, directory, &missing).and_then(Child::run);
    made.err().map(|error| Note::StorageCharged { reason: error.to_string() })
}

/// Everything that the child process needs, made before it is: it may not allocate.
struct Child {
    /// The machine's first cgroup namespace: from another one, cgroup2 lets nobody move out of it (`nsdelegate`,
    /// `cgroup_procs_write_permission` in kernel/cgroup/cgroup.c). Without it the child tries from where it is, which is
    /// enough outside of containers.
    namespace: Option<OwnedFd>,
    /// `cgroup.procs` of the root memory cgroup. It is opened by the child, since the namespace of who opens it counts.
    processes: CString,
    btf: OwnedFd,
    maps: Vec<(sys::MapCreate, CString)>,
}

impl Child {
    fn new(object: &[u8], directory: &Path, specs: &[Spec]) -> io::Result<Self> {
        let mut object = Object::parse(object).map_err(io::Error::other)?;
        let features = aya::features().btf().ok_or_else(|| io::Error::other("this kernel takes no types (BTF)"))?;
        let btf = object.fixup_and_sanitize_btf(features).map_err(io::Error::other)?;
        let btf = btf.ok_or_else(|| io::Error::other("the kernel programs carry no types"))?.to_bytes();
        let maps = specs.iter().map(|spec| plan(spec, &object.maps, directory)).collect::<io::Result<_>>()?;
        Ok(Self {
            namespace: File::open("/proc/1/ns/cgroup").ok().map(OwnedFd::from),
            processes: c_string(&root_memory_cgroup()?.join("cgroup.procs"))?,
            btf: sys::btf_load(&btf)?,
            maps,
        })
    }

    #[expect(unsafe_code, reason = "runs between fork and exec")]
    fn run(self) -> io::Result<()> {
        let make = move || self.make().err().map_or(DONE, |error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
        // SAFETY: system calls only, no allocation and no lock.
        match unsafe { child::outcome(make) }? {
            DONE => Ok(()),
            errno => Err(errno.into()),
        }
    }

    /// In the child: moves there and makes the maps.
    fn make(&self) -> io::Result<()> {
        if let Some(namespace) = &self.namespace {
            rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::ControlGroup))?;
        }
        let processes = rustix::fs::open(&self.processes, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&processes, b"0")?;
        self.maps.iter().try_for_each(|(map, pin)| sys::map_create_pinned(*map, self.btf.as_fd(), pin))
    }
}

fn plan(spec: &Spec, maps: &HashMap<String, Map>, directory: &Path) -> io::Result<(sys::MapCreate, CString)> {
    let Some(Map::Btf(found)) = maps.get(spec.name) else {
        return Err(io::Error::other(format!("the kernel programs have no map {} with types", spec.name)));
    };
    let mut name = [0; 16];
    name.iter_mut().zip(spec.name.bytes()).for_each(|(to, byte)| *to = byte);
    let map = sys::MapCreate {
        kind: spec.shape.kind,
        key_size: spec.shape.key_size,
        value_size: spec.shape.value_size,
        flags: spec.shape.flags,
        name,
        btf_key: found.def.btf_key_type_id,
        btf_value: found.def.btf_value_type_id,
        ..sys::MapCreate::default()
    };
    Ok((map, c_string(&directory.join(spec.name))?))
}

fn c_string(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Its directory, which a container has only if the machine's hierarchy is mounted into it.
fn root_memory_cgroup() -> io::Result<PathBuf> {
    let (own, mountinfo) = (fs::read_to_string("/proc/self/cgroup")?, fs::read_to_string("/proc/self/mountinfo")?);
    let is_root = |path: &PathBuf| fs::metadata(path).is_ok_and(|metadata| metadata.ino() == ROOT_INODE);
    memory_mounts(&own, &mountinfo)
        .find(is_root)
        .ok_or_else(|| io::Error::other("the machine's root memory cgroup is not mounted here"))
}

/// Where the hierarchy with the memory controller is mounted. By cgroups(7) a process has a line of its own for each
/// hierarchy of version 1; a controller without one is in version 2.
fn memory_mounts(own: &str, mountinfo: &str) -> impl Iterator<Item = PathBuf> {
    let has_memory = |controllers: &str| controllers.split(',').any(|name| name == "memory");
    let version_1 = own.lines().filter_map(|line| line.split(':').nth(1)).any(has_memory);
    let is_it = move |mount: &Mount<'_>| match version_1 {
        true => mount.kind == "cgroup" && has_memory(mount.options),
        false => mount.kind == "cgroup2",
    };
    mounts(mountinfo).filter(is_it).map(|mount| mount.point)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "26 25 0:23 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw\n\
                          27 25 0:24 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
                          28 25 0:25 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n";

    fn found(own: &str, mountinfo: &str) -> Vec<PathBuf> {
        memory_mounts(own, mountinfo).collect()
    }

    #[test]
    fn the_memory_controller_is_looked_for_where_this_process_has_it() {
        assert_eq!(found("4:memory:/a\n3:cpu,cpuacct:/\n0::/b\n", HYBRID), [Path::new("/sys/fs/cgroup/memory")]);
        assert_eq!(found("3:cpu,cpuacct:/\n0::/b\n", HYBRID), [Path::new("/sys/fs/cgroup/unified")]);
    }

    #[test]
    fn every_mount_of_the_hierarchy_is_a_candidate() {
        let container = "30 1 0:23 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n\
                         31 1 0:23 /../../.. /host/sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        assert_eq!(found("0::/\n", container), [Path::new("/sys/fs/cgroup"), Path::new("/host/sys/fs/cgroup")]);
    }
}
