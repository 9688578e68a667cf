//! A network namespace, named below /run/netns so that `ip -n NAME` and `nsenter --net=/run/netns/NAME` reach it.
//!
//! Links, addresses and routes are made by ip(8) in batches, one process for many commands: its syntax is what a reader
//! knows, and a batch costs a few milliseconds. Not by `ip netns exec`, which remounts /sys and so hides the cgroups.

use std::{
    fs::{self, File},
    io::Write as _,
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    thread,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

use crate::{
    poll::{PATIENCE, eventually},
    run::{self, ignore_missing},
};

/// Where the namespaces have their names, as ip-netns(8) documents.
pub fn directory() -> PathBuf {
    PathBuf::from("/run/netns")
}

/// A network namespace with `lo` up. Dropping the last clone of the guard removes the name; the namespace itself goes
/// when the last process in it has ended.
#[derive(Clone)]
pub struct NetNs {
    inner: Arc<Named>,
}

struct Named {
    path: PathBuf,
    fd: OwnedFd,
}

impl NetNs {
    /// A new namespace; `hint` becomes part of its name.
    pub fn new(hint: &str) -> Result<Self> {
        let path = directory().join(run::current().name(hint));
        fs::create_dir_all(directory()).context("cannot create /run/netns")?;
        File::create_new(&path).with_context(|| format!("cannot create {}", path.display()))?;
        if let Err(error) = in_thread(|| unshare_to(&path)) {
            remove(&path)?;
            return Err(error.context("cannot make a network namespace"));
        }
        let fd = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?.into();
        let netns = Self { inner: Arc::new(Named { path, fd }) };
        netns.ip(["link set lo up"])?;
        // Addresses are usable at once: there is nobody else in these networks to collide with.
        netns.sysctl("net/ipv6/conf/all/accept_dad", "0")?;
        netns.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
        Ok(netns)
    }

    /// Its name in the file system, as `nsenter --net=` takes it.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Runs `f` in a thread of its own inside the namespace. Sockets made there stay in it.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        in_thread(|| {
            setns(&self.inner.fd, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("cannot enter {}", self.path().display()))?;
            Ok(f())
        })
    }

    /// Makes `command` start inside the namespace.
    pub fn enter(&self, command: &mut Command) {
        let inner = self.inner.clone();
        let enter = move || setns(&inner.fd, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from);
        // SAFETY: setns is one system call on a descriptor that the closure keeps open: async-signal-safe.
        unsafe { command.pre_exec(enter) };
    }

    /// A command that will run inside the namespace.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        self.enter(&mut command);
        command
    }

    /// Runs a command inside the namespace to its end and gives its output.
    ///
    /// # Errors
    /// If it does not end with 0, with what it wrote to stderr.
    pub fn output(&self, program: &str, args: &[&str]) -> Result<String> {
        finish(self.command(program).args(args), "")
    }

    /// Runs commands of ip(8), without the word `ip`, in order, up to the first that fails.
    pub fn ip<S: AsRef<str>>(&self, commands: impl IntoIterator<Item = S>) -> Result<()> {
        let lines: Vec<String> = commands.into_iter().map(|line| line.as_ref().to_owned()).collect();
        let batch = lines.join("\n");
        finish(self.command("ip").args(["-batch", "-"]), &batch)
            .with_context(|| format!("of ip commands:\n{batch}"))?;
        Ok(())
    }

    /// Waits until these links carry packets. The kernel notes that a peer came up in a work queue of its own
    /// (net/core/link_watch.c); until then it drops what is sent.
    pub fn wait_up(&self, links: &[&str]) -> Result<()> {
        eventually(&format!("{links:?} in {} to be up", self.path().display()), PATIENCE, || {
            let states = self.output("ip", &["-br", "link"])?;
            let is_up = |link: &&str| {
                states.lines().any(|line| {
                    let mut words = line.split_whitespace();
                    // A veth is listed as `eth0@if7`.
                    words.next().and_then(|name| name.split('@').next()) == Some(*link) && words.next() == Some("UP")
                })
            };
            Ok(links.iter().all(is_up).then_some(()))
        })
    }

    /// Sets a sysctl of the namespace; `key` as a path below /proc/sys.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(key);
        // /proc/sys/net shows the namespace of the thread that opens it.
        self.run(|| fs::write(&path, value))?.with_context(|| format!("cannot write {value} to {}", path.display()))
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("{error:#}");
        }
    }
}

/// Removes the name of a namespace. That it is gone already, or was never mounted, is fine.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(error) => return Err(error).with_context(|| format!("cannot unmount {}", path.display())),
    }
    ignore_missing(fs::remove_file(path)).with_context(|| format!("cannot remove {}", path.display()))
}

/// Namespaces belong to threads, so they are changed only in threads that end right afterwards.
fn in_thread<T: Send>(f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| match scope.spawn(f).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

fn unshare_to(path: &Path) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("unshare")?;
    mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot mount it on {}", path.display()))
}

/// Runs a command to its end with `input`; its standard output.
fn finish(command: &mut Command, input: &str) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that ends without reading says why on stderr.
        match stdin.write_all(input.as_bytes()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(error.into()),
            _ => {}
        }
    }
    let output = child.wait_with_output().with_context(|| format!("cannot wait for {name}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name}: {}: {}", output.status, stderr.trim());
    String::from_utf8(output.stdout).with_context(|| format!("{name} wrote something else than text"))
}
