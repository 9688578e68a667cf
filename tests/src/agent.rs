//! The agent under test, as a process on a [`Node`].

use std::{
    ffi::OsString,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    process::{Command, ExitStatus},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    cgroup::Cgroup,
    netns::NetNs,
    node::Node,
    poll::{PATIENCE, eventually},
    process::Process,
    run,
};

const HEALTHZ: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10256);
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);

/// Where the agent reads Services from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A directory of manifests.
    Manifests(PathBuf),
    /// An API server.
    Kubeconfig(PathBuf),
}

/// How to start an agent.
#[derive(Clone, Debug)]
pub struct AgentSpec {
    /// Where it reads Services from.
    pub source: Source,
    /// Further arguments of `lb-agent run`.
    pub args: Vec<OsString>,
    /// Further environment variables.
    pub env: Vec<(OsString, OsString)>,
}

impl AgentSpec {
    /// The usual way.
    pub fn new(source: Source) -> Self {
        Self { source, args: Vec::new(), env: Vec::new() }
    }
}

/// An agent. Dropped, it is killed; what it pinned goes with the node's bpf file system.
pub struct Agent {
    name: String,
    spec: AgentSpec,
    binary: PathBuf,
    netns: NetNs,
    cgroup: Cgroup,
    common: Vec<OsString>,
    node_name: String,
    process: Process,
}

impl Agent {
    pub(crate) fn start(node: &Node, spec: AgentSpec) -> Result<Self> {
        let binary = run::binary("lb-agent", "LB_AGENT_BIN")?;
        // Below the node's cgroup, as a pod's is, since the agent tries its own hooks before it says that it is healthy.
        let cgroup = node.cgroup().child(&format!("lb-agent-{}", run::current().number()))?;
        let common =
            vec!["--cgroup-root".into(), node.cgroup().path().into(), "--bpffs".into(), node.bpffs().path().into()];
        let name = format!("lb-agent-{}", node.name());
        let netns = node.netns().clone();
        let command = run_command(&binary, &spec, &common, node.name(), &netns, &cgroup)?;
        let process = Process::spawn(&name, command)?;
        Ok(Self { name, spec, binary, netns, cgroup, common, node_name: node.name().to_owned(), process })
    }

    /// Waits until it says that the first full lists are in the maps and the programs attached.
    ///
    /// # Errors
    /// With the end of its log, if it ends instead or takes too long.
    pub fn wait_ready(&mut self) -> Result<()> {
        let what = format!("GET /healthz of {} to answer 200", self.name);
        let Self { process, netns, .. } = self;
        let ready = eventually(&what, PATIENCE, || {
            if let Some(status) = process.exit_status()? {
                bail!("the agent ended with {status}");
            }
            let answer = netns.run(|| http_get(HEALTHZ, "/healthz"))?;
            Ok(answer.is_ok_and(|(status, _)| status == 200).then_some(()))
        });
        ready.with_context(|| self.describe())
    }

    /// What /healthz says now: the status code, none if nobody answers.
    pub fn healthz(&self) -> Result<Option<u16>> {
        Ok(self.netns.run(|| http_get(HEALTHZ, "/healthz"))?.ok().map(|(status, _)| status))
    }

    /// The text of /metrics.
    pub fn metrics(&self) -> Result<String> {
        let (status, body) = self.netns.run(|| http_get(METRICS, "/metrics"))??;
        anyhow::ensure!(status == 200, "GET /metrics answered {status}: {body}");
        Ok(body)
    }

    /// Kills it as `kill -9` does.
    pub fn kill9(&mut self) -> Result<()> {
        self.process.kill().with_context(|| self.describe())
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.process.terminate(PATIENCE).with_context(|| self.describe())
    }

    /// Waits for an end that comes by itself.
    pub fn wait_exit(&mut self) -> Result<ExitStatus> {
        self.process.wait(PATIENCE)
    }

    /// Starts it anew, as it was started, after [`Self::kill9`] or [`Self::stop`].
    pub fn restart(&mut self) -> Result<()> {
        self.restart_with(self.spec.clone())
    }

    /// Starts it anew, otherwise than before.
    pub fn restart_with(&mut self, spec: AgentSpec) -> Result<()> {
        anyhow::ensure!(self.process.exit_status()?.is_some(), "{} still runs: stop it first", self.name);
        let command = run_command(&self.binary, &spec, &self.common, &self.node_name, &self.netns, &self.cgroup)?;
        self.process = Process::spawn(&self.name, command)?;
        self.spec = spec;
        Ok(())
    }

    /// Runs another command of the agent's binary on the same node (`services`, `status`, ...) and gives its status,
    /// stdout and stderr.
    pub fn cli(&self, args: &[&str]) -> Result<(ExitStatus, String, String)> {
        let mut command = Command::new(&self.binary);
        command.args(args).args(&self.common);
        self.netns.enter(&mut command);
        self.cgroup.enter(&mut command)?;
        let output = command.output().with_context(|| format!("cannot run {}", self.binary.display()))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((output.status, text(&output.stdout), text(&output.stderr)))
    }

    /// The process, for its pid and log.
    pub fn process(&self) -> &Process {
        &self.process
    }

    fn describe(&self) -> String {
        let log = self.process.log().unwrap_or_else(|error| format!("{error:#}"));
        let lines: Vec<&str> = log.lines().collect();
        let end = lines.len().saturating_sub(30);
        format!("{}; its log ends so:\n{}\n", self.name, lines.get(end..).unwrap_or_default().join("\n"))
    }
}

fn run_command(
    binary: &PathBuf,
    spec: &AgentSpec,
    common: &[OsString],
    node_name: &str,
    netns: &NetNs,
    cgroup: &Cgroup,
) -> Result<Command> {
    let mut command = Command::new(binary);
    command.arg("run").args(["--node-name", node_name]).args(common);
    match &spec.source {
        Source::Manifests(directory) => command.arg("--manifests").arg(directory),
        Source::Kubeconfig(file) => command.arg("--kubeconfig").arg(file),
    };
    command.args(["--devices", "none"]);
    command.args(["--healthz-address", &HEALTHZ.to_string(), "--metrics-address", &METRICS.to_string()]);
    command.args(&spec.args).envs(spec.env.iter().cloned());
    netns.enter(&mut command);
    cgroup.enter(&mut command)?;
    Ok(command)
}

/// A GET over HTTP/1.0, where the answer ends with the connection: no client library needed. Status and body.
fn http_get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("not an HTTP answer")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no HTTP status")?;
    Ok((status, body.to_owned()))
}
