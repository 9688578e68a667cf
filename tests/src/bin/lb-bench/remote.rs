//! The processes that are measured as the benchmark sees them: the measuring client behind two pipes, and the endpoints.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::IpAddr,
    process::{ChildStdin, ChildStdout, Command},
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::{Cgroup, NetNs, Process};

use crate::protocol::{Reply, Request};

/// Starts the endpoints that have these addresses.
pub(crate) fn start_server(netns: &NetNs, cgroup: &Cgroup, addresses: &[IpAddr]) -> Result<Process> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("server").args(addresses.iter().map(IpAddr::to_string));
    netns.enter(&mut command);
    cgroup.enter(&mut command)?;
    Process::spawn("server", command)
}

/// The measuring client of a target.
pub(crate) struct Client {
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    process: Process,
}

impl Client {
    pub(crate) fn start(netns: &NetNs, cgroup: &Cgroup) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("client");
        netns.enter(&mut command);
        cgroup.enter(&mut command)?;
        let (process, stdin, stdout) = Process::spawn_piped("client", command)?;
        Ok(Self { stdin, stdout: BufReader::new(stdout), process })
    }

    /// Sends a request and waits for its reply.
    pub(crate) fn call(&mut self, request: &Request) -> Result<Reply> {
        self.begin(request)?;
        self.finish()
    }

    /// Sends a request; [`Self::finish`] waits for its reply.
    pub(crate) fn begin(&mut self, request: &Request) -> Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.stdin.write_all(&line).context("the measuring client is gone")
    }

    /// Waits for the reply to what was begun.
    pub(crate) fn finish(&mut self) -> Result<Reply> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        ensure!(!line.is_empty(), "the measuring client ended: {}", self.process.log()?);
        serde_json::from_str(&line).with_context(|| format!("not a reply: {line}"))
    }

    /// Sends a request that has no result.
    pub(crate) fn send(&mut self, request: &Request) -> Result<()> {
        match self.call(request)? {
            Reply::Done => Ok(()),
            other => bail!("the measuring client answered {other:?}"),
        }
    }

    /// Sends a request for a block: the time of one operation, nanoseconds.
    pub(crate) fn block(&mut self, request: &Request) -> Result<u64> {
        match self.call(request)? {
            Reply::Block { ns } => Ok(ns),
            other => bail!("the measuring client answered {other:?}"),
        }
    }

    /// Sends a request that waits: when it came true, by [`crate::protocol::now_ns`].
    pub(crate) fn wait(&mut self, request: &Request) -> Result<u64> {
        self.begin(request)?;
        self.came_true()
    }

    /// Finishes a request that waits and was begun.
    pub(crate) fn came_true(&mut self) -> Result<u64> {
        match self.finish()? {
            Reply::At(ns) => Ok(ns),
            other => bail!("the measuring client answered {other:?}"),
        }
    }
}
