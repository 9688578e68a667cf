//! A child process that does not outlive its guard, nor the test process, and whose words are kept in a file.

use std::{
    fs::{self, File},
    io,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::{LazyLock, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::Pid,
};

use crate::{poll::eventually, run};

/// A running child; killed and reaped when dropped.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with stdout and stderr going to a log file named after `name`. Enter namespaces and cgroups
    /// before, with [`crate::NetNs::enter`] and [`crate::Cgroup::enter`].
    pub fn spawn(name: &str, mut command: Command) -> Result<Self> {
        let (log, file) = create_log(name)?;
        let stdout = file.try_clone().with_context(|| format!("cannot share {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(stdout).stderr(file);
        Self::start(name, command, log)
    }

    /// As [`Self::spawn`], but with stdin and stdout as pipes; only stderr goes to the log.
    pub fn spawn_piped(name: &str, mut command: Command) -> Result<(Self, ChildStdin, ChildStdout)> {
        let (log, file) = create_log(name)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file);
        let mut process = Self::start(name, command, log)?;
        let stdin = process.child.stdin.take().context("no pipe to stdin")?;
        let stdout = process.child.stdout.take().context("no pipe from stdout")?;
        Ok((process, stdin, stdout))
    }

    fn start(name: &str, mut command: Command, log: PathBuf) -> Result<Self> {
        let die_with_parent = || prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from);
        // SAFETY: one system call without memory: async-signal-safe.
        unsafe { command.pre_exec(die_with_parent) };
        // Its own group: a Ctrl-C in the terminal is for this process, which then decides who ends when.
        command.process_group(0);
        let program = command.get_program().to_string_lossy().into_owned();
        let child = spawn_from_lasting_thread(command).with_context(|| format!("cannot start {name} ({program})"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it wrote to the log so far.
    pub fn log(&self) -> Result<String> {
        let bytes = fs::read(&self.log).with_context(|| format!("cannot read {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Where the log is.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// How it ended, if it has.
    pub fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("cannot wait for {}", self.name))
    }

    /// Waits for its end.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let what = format!("{} (pid {}) to end; log: {}", self.name, self.pid(), self.log.display());
        eventually(&what, patience, || self.exit_status())
    }

    /// Sends a signal; to a process that has ended already this is an error.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.nix_pid(), signal).with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// Kills it as `kill -9` does, and reaps it.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("cannot kill {}", self.name))?;
        let status = self.child.wait().with_context(|| format!("cannot wait for {}", self.name))?;
        anyhow::ensure!(
            status.signal() == Some(Signal::SIGKILL as i32),
            "{} had ended by itself ({status}) before it was killed; log: {}",
            self.name,
            self.log.display()
        );
        Ok(())
    }

    /// Asks it to end (SIGTERM) and waits for that.
    pub fn terminate(&mut self, patience: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(patience)
    }

    fn nix_pid(&self) -> Pid {
        Pid::from_raw(self.pid().cast_signed())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it is gone already.
        let killed = self.child.kill().and_then(|()| self.child.wait());
        if let Err(error) = killed {
            eprintln!("cannot end {} (pid {}): {error}", self.name, self.pid());
        }
    }
}

fn create_log(name: &str) -> Result<(PathBuf, File)> {
    let run = run::current();
    let path = run.logs().join(format!("{}-{name}.log", run.number()));
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok((path, file))
}

/// `PR_SET_PDEATHSIG` strikes when the *thread* that made the child ends (prctl(2)), and the threads of tests end early.
/// So all children come from one thread that lasts as long as the process.
fn spawn_from_lasting_thread(command: Command) -> io::Result<Child> {
    type Order = (Command, mpsc::Sender<io::Result<Child>>);
    static SPAWNER: LazyLock<Mutex<mpsc::Sender<Order>>> = LazyLock::new(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, answer) in orders {
                // Nobody waits any more: the child is dropped and dies with us.
                answer.send(command.spawn()).unwrap_or_default();
            }
        });
        Mutex::new(sender)
    });
    let (answer, answered) = mpsc::channel();
    let gone = || io::Error::other("the thread that starts processes is gone");
    SPAWNER.lock().unwrap_or_else(PoisonError::into_inner).send((command, answer)).map_err(|_| gone())?;
    answered.recv().map_err(|_| gone())?
}
