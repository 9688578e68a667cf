//! A cgroup below the machine's cgroup2 mount: what a node's programs are attached to, and what a pod's processes are in.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    poll::{PATIENCE, eventually},
    run::{self, ignore_missing},
};

/// The cgroup2 mount of this machine. It may lie beside cgroup1 hierarchies (`/sys/fs/cgroup/unified`), so it is looked
/// up, not assumed.
pub fn root() -> Result<PathBuf> {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    if let Some(root) = ROOT.get() {
        return Ok(root.clone());
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    let root = cgroup2_mount(&mounts).context("no cgroup2 mount in /proc/self/mountinfo: mount -t cgroup2 none DIR")?;
    Ok(ROOT.get_or_init(|| root).clone())
}

/// A cgroup with everything below it. Dropped, it kills what runs in it and goes.
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// A new cgroup directly below the mount; `hint` becomes part of its name.
    pub fn new(hint: &str) -> Result<Self> {
        Self::create(root()?.join(run::current().name(hint)))
    }

    /// A new cgroup of the memory controller, right below the first one of its hierarchy, which on machines with cgroup
    /// version 1 is another than the one of the rest.
    ///
    /// # Errors
    /// The controller is switched off.
    pub fn of_memory(hint: &str) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
        let has_memory = |options: &str| options.split([' ', ',']).any(|option| option == "memory");
        let version_1 = mount_point(&mounts, "cgroup", has_memory);
        let cgroup = Self::create(version_1.map_or_else(root, Ok)?.join(run::current().name(hint)))?;
        cgroup.kernel_memory().context("does the kernel account memory to cgroups?")?;
        Ok(cgroup)
    }

    /// Bytes that the kernel has allocated on behalf of its processes, for one [of memory](Self::of_memory).
    ///
    /// # Errors
    /// It cannot be read.
    pub fn kernel_memory(&self) -> Result<u64> {
        if let Ok(text) = fs::read_to_string(self.path.join("memory.kmem.usage_in_bytes")) {
            return Ok(text.trim().parse()?);
        }
        let path = self.path.join("memory.stat");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("kernel "));
        Ok(line.with_context(|| format!("no \"kernel\" in {}", path.display()))?.parse()?)
    }

    /// A new child.
    pub fn child(&self, name: &str) -> Result<Self> {
        Self::create(self.path.join(name))
    }

    fn create(path: PathBuf) -> Result<Self> {
        fs::create_dir(&path).with_context(|| format!("cannot create the cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes `command` start inside the cgroup.
    ///
    /// # Errors
    /// If the cgroup is gone.
    pub fn enter(&self, command: &mut Command) -> Result<()> {
        enter(&self.path, command)
    }
}

/// Makes `command` start inside the cgroup of this path.
pub(crate) fn enter(cgroup: &Path, command: &mut Command) -> Result<()> {
    let path = cgroup.join("cgroup.procs");
    let procs = File::options().write(true).open(&path);
    let procs = procs.with_context(|| format!("cannot open {}", path.display()))?;
    // "0" stands for the process that writes.
    let enter = move || (&procs).write_all(b"0");
    // SAFETY: one write to a descriptor that the closure keeps open, no allocation: async-signal-safe.
    unsafe { command.pre_exec(enter) };
    Ok(())
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("{error:#}");
        }
    }
}

/// Kills every process in the cgroup and below it, and removes it with its children.
pub(crate) fn remove(path: &Path) -> Result<()> {
    kill_all(path)?;
    let what = format!("the cgroup {} to become empty", path.display());
    eventually(&what, PATIENCE, || match remove_tree(path) {
        Ok(()) => Ok(Some(())),
        // Killed processes leave their cgroup when they are gone, a moment later.
        Err(error) if error.kind() == ErrorKind::ResourceBusy => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot remove the cgroup {}", path.display())),
    })
}

fn kill_all(path: &Path) -> Result<()> {
    let file = path.join("cgroup.kill");
    // Open without O_CREAT: in a cgroup that is gone there is nothing to kill. The file is there since Linux 5.14.
    match File::options().write(true).open(&file).and_then(|mut file| file.write_all(b"1")) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            kill_each(path).with_context(|| format!("cannot kill the processes in {}", path.display()))
        }
        other => other.with_context(|| format!("cannot write to {}", file.display())),
    }
}

/// As kernels without `cgroup.kill` need it: one process after the other.
fn kill_each(path: &Path) -> std::io::Result<()> {
    let processes = match fs::read_to_string(path.join("cgroup.procs")) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    // 0 stands for a process that this process's pid namespace does not show.
    for pid in processes.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0) {
        match kill(Pid::from_raw(pid), Signal::SIGKILL) {
            Ok(()) | Err(nix::Error::ESRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            kill_each(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_tree(path: &Path) -> std::io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    ignore_missing(fs::remove_dir(path))
}

fn cgroup2_mount(mountinfo: &str) -> Option<PathBuf> {
    mount_point(mountinfo, "cgroup2", |_| true)
}

/// Where the first file system of that type is mounted with source and options that will do, by the text of mountinfo
/// (proc_pid_mountinfo(5): the type follows the separator " - ").
fn mount_point(mountinfo: &str, kind: &str, will_do: impl Fn(&str) -> bool) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let (found, rest) = file_system.split_once(' ')?;
        (found == kind && will_do(rest)).then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup2_mount_is_found_beside_cgroup1_hierarchies() {
        let hybrid = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_mount(hybrid), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(cgroup2_mount("22 1 0:21 / /proc rw - proc proc rw\n"), None);
    }
}
