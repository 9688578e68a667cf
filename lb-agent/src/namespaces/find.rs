//! Which network namespaces our programs serve: those of the processes in the cgroup that the programs are attached to, and
//! below it. Reads /proc and the cgroup tree; enters nothing.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use crate::cgroups::{children, is_gone};

/// Network namespaces, each once.
#[derive(Debug, Default)]
pub struct Namespaces {
    /// Open files of the namespaces, by inode.
    pub found: BTreeMap<u64, File>,
    /// Processes that this process's pid namespace does not show: a container without the host's pid namespace cannot
    /// reach the network namespaces of other pods.
    pub hidden: usize,
    /// Why a process could not be looked at, the first time that this happened: without CAP_SYS_PTRACE another user's
    /// namespaces are not shown.
    pub trouble: Option<io::Error>,
}

/// Looks through the tree below `cgroup_root`. The agent's own namespace is always among them.
///
/// # Errors
/// The agent's own namespace cannot be opened, or `cgroup_root` cannot be read. What vanishes meanwhile is no error.
pub fn find(cgroup_root: &Path) -> io::Result<Namespaces> {
    let mut namespaces = Namespaces::default();
    namespaces.add("self")?;
    let mut directories = vec![cgroup_root.to_owned()];
    while let Some(directory) = directories.pop() {
        let processes = match processes(&directory) {
            // Another cgroup went while we looked.
            Err(error) if directory != cgroup_root && is_gone(&error) => continue,
            other => other?,
        };
        for pid in processes.lines() {
            if pid == "0" {
                namespaces.hidden += 1;
            } else if let Err(error) = namespaces.add(pid)
                && !is_gone(&error)
            {
                // The others are looked at all the same.
                namespaces.trouble.get_or_insert(error);
            }
        }
        directories.extend(children(&directory)?);
    }
    Ok(namespaces)
}

impl Namespaces {
    fn add(&mut self, pid: &str) -> io::Result<()> {
        let path = format!("/proc/{pid}/ns/net");
        let inode = fs::metadata(&path)?.ino();
        if let std::collections::btree_map::Entry::Vacant(entry) = self.found.entry(inode) {
            let file = File::open(&path)?;
            // The process may have moved since.
            if file.metadata()?.ino() == inode {
                entry.insert(file);
            }
        }
        Ok(())
    }
}

/// The text of `cgroup.procs`. A threaded cgroup has none of its own (EOPNOTSUPP): its processes are listed by the domain
/// above it (cgroups(7)).
fn processes(directory: &Path) -> io::Result<String> {
    match fs::read_to_string(directory.join("cgroup.procs")) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(String::new()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_the_whole_tree_are_looked_at_and_their_namespaces_taken_once() {
        let root = tempfile::tempdir().unwrap();
        let own = std::process::id();
        let write = |directory: &Path, pids: &str| fs::write(directory.join("cgroup.procs"), pids).unwrap();
        write(root.path(), "");
        let deep = root.path().join("kubepods/pod");
        fs::create_dir_all(&deep).unwrap();
        write(&root.path().join("kubepods"), &format!("{own}\n"));
        write(&deep, &format!("{own}\n0\n0\n"));
        let found = find(root.path()).unwrap();
        assert_eq!((found.found.len(), found.hidden), (1, 2));
    }

    #[test]
    fn a_process_or_cgroup_that_is_gone_is_passed_over_but_not_the_root() {
        let root = tempfile::tempdir().unwrap();
        assert!(find(&root.path().join("none")).is_err());
        // No process has this id (proc_sys_kernel(5): pid_max is 4194304 at most).
        fs::write(root.path().join("cgroup.procs"), "4194305\n").unwrap();
        // Without the file, as a cgroup that is being removed.
        fs::create_dir(root.path().join("going")).unwrap();
        assert_eq!(find(root.path()).unwrap().found.len(), 1);
    }
}
