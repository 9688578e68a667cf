//! This run of a test process: the names of what it makes, and who removes them when it ends, however it ends.
//!
//! Every namespace, cgroup and directory is called `lbt-<pid>-...`. Guards remove what they made; for a process that is
//! killed (Ctrl-C, SIGKILL, abort) its janitor does: a child that waits for the end of a pipe which only the test
//! process holds open. Should both die, the next run removes what belongs to no living process.

use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{ChildStdin, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context, Result};

use crate::{
    bpffs, cgroup,
    kernel_objects::target_directory,
    netns,
    poll::{PATIENCE, eventually},
};

/// What all our names begin with; the pid follows.
pub const PREFIX: &str = "lbt-";

/// The run of this process.
pub struct Run {
    directory: PathBuf,
    logs: PathBuf,
    next: AtomicU32,
    /// Closed by the kernel when this process ends; that wakes the janitor.
    _janitor: ChildStdin,
}

/// The run of this process, begun at the first call: leftovers of dead runs are removed and the janitor is started.
///
/// # Panics
/// Without root, or if the janitor's binary was not built: no test can do anything without them.
pub fn current() -> &'static Run {
    static RUN: OnceLock<Run> = OnceLock::new();
    RUN.get_or_init(|| Run::begin().unwrap_or_else(|error| panic!("cannot begin a test run: {error:#}")))
}

impl Run {
    fn begin() -> Result<Self> {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests make network namespaces, cgroups and mounts: run them as root, by `cargo xtask test`"
        );
        sweep_dead_runs()?;
        let pid = std::process::id();
        let directory = run_directory(pid);
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let logs = logs_directory().join(format!("{PREFIX}{pid}"));
        fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
        Ok(Self { directory, logs, next: AtomicU32::new(0), _janitor: start_janitor(pid)? })
    }

    /// A new name, `lbt-<pid>-<n>-<hint>`: unique on this machine, and a human sees what it is.
    pub fn name(&self, hint: &str) -> String {
        format!("{PREFIX}{}-{}-{hint}", std::process::id(), self.number())
    }

    /// A number that this run gave to nobody yet.
    pub fn number(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A new directory below this run's, which goes with the run.
    pub fn directory(&self, hint: &str) -> Result<PathBuf> {
        let directory = self.directory.join(format!("{}-{hint}", self.number()));
        fs::create_dir(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(directory)
    }

    /// Where the logs of this run's processes are; they stay, for whoever looks into a failed test.
    pub fn logs(&self) -> &Path {
        &self.logs
    }
}

/// What is left of the run of process `pid`, as paths of namespaces, cgroups, mounts and directories.
pub fn leftovers(pid: u32) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    found.extend(named_of(&netns::directory(), pid)?);
    found.extend(named_of(&cgroup::root()?, pid)?);
    found.extend(bpffs::mounts_below(&run_directory(pid))?);
    let directory = run_directory(pid);
    if directory.exists() {
        found.insert(directory);
    }
    Ok(found)
}

/// Waits until nothing is left of the run of process `pid`, which has ended: its janitor needs a moment.
pub fn wait_until_swept(pid: u32) -> Result<()> {
    let nothing = || Ok(leftovers(pid)?.is_empty().then_some(()));
    let swept = eventually(&format!("what process {pid} left behind to go"), PATIENCE, nothing);
    swept.with_context(|| format!("{:?}", leftovers(pid)))
}

/// Removes everything that the run of process `pid` left behind, its processes first. One at a time on this machine: the
/// janitor of a run and the runs that begin right after it remove the same, and what vanishes under one's hands fails in
/// more ways than can be told from real errors.
pub fn sweep(pid: u32) -> Result<()> {
    let everybody = std::env::temp_dir();
    // A lock of the directory (flock(2)) leaves no file behind; it goes with the descriptor.
    let lock = fs::File::open(&everybody).with_context(|| format!("cannot open {}", everybody.display()))?;
    lock.lock().with_context(|| format!("cannot lock {}", everybody.display()))?;
    for path in named_of(&cgroup::root()?, pid)? {
        cgroup::remove(&path)?;
    }
    for path in named_of(&netns::directory(), pid)? {
        netns::remove(&path)?;
    }
    let directory = run_directory(pid);
    for mount in bpffs::mounts_below(&directory)? {
        bpffs::unmount(&mount)?;
    }
    ignore_missing(fs::remove_dir_all(&directory)).with_context(|| format!("cannot remove {}", directory.display()))
}

/// A result in which "it is not there" counts as done: another process may sweep the same run.
pub(crate) fn ignore_missing(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn sweep_dead_runs() -> Result<()> {
    let mut pids = BTreeSet::new();
    for directory in [netns::directory(), cgroup::root()?, std::env::temp_dir()] {
        pids.extend(ours(&directory)?.into_iter().map(|(pid, _)| pid));
    }
    for pid in pids.into_iter().filter(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
        sweep(pid).with_context(|| format!("cannot remove what the test run of process {pid} left behind"))?;
    }
    Ok(())
}

/// The entries of a directory that belong to a run, with its pid.
fn ours(directory: &Path) -> Result<Vec<(u32, PathBuf)>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("cannot list {}", directory.display()))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", directory.display()))?;
        let name = entry.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let pid = rest.and_then(|rest| rest.split('-').next()).and_then(|pid| pid.parse().ok());
        found.extend(pid.map(|pid| (pid, entry.path())));
    }
    Ok(found)
}

fn named_of(directory: &Path, pid: u32) -> Result<Vec<PathBuf>> {
    Ok(ours(directory)?.into_iter().filter(|(owner, _)| *owner == pid).map(|(_, path)| path).collect())
}

fn run_directory(pid: u32) -> PathBuf {
    std::env::temp_dir().join(format!("{PREFIX}{pid}"))
}

/// `target/tests-logs`.
fn logs_directory() -> PathBuf {
    target_directory().unwrap_or_else(std::env::temp_dir).join("tests-logs")
}

/// The path of a binary of this workspace: what the environment variable names, else next to this executable, which
/// may be a test in `deps/`.
///
/// # Errors
/// If it is not there, with what builds it.
pub fn binary(name: &str, variable: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        let path = PathBuf::from(path);
        anyhow::ensure!(path.exists(), "{variable} names {}, which does not exist", path.display());
        return Ok(path);
    }
    let executable = std::env::current_exe().context("cannot tell where this executable is")?;
    let candidates = executable.ancestors().skip(1).take(2).map(|directory| directory.join(name));
    candidates
        .into_iter()
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not built next to {}: `cargo xtask test` builds it", executable.display()))
}

fn start_janitor(pid: u32) -> Result<ChildStdin> {
    let mut command = Command::new(binary("lb-guest", "LB_GUEST_BIN")?);
    command.arg("janitor").arg(pid.to_string()).stdin(Stdio::piped()).stdout(Stdio::null());
    // Its own process group: a Ctrl-C in the terminal is for the tests, not for who cleans up after them.
    command.process_group(0);
    let mut child = command.spawn().context("cannot start the janitor (lb-guest janitor)")?;
    child.stdin.take().context("the janitor has no stdin")
}
