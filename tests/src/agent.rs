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
    cgroup::{self, Cgroup},
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
    /// Another path of the node's cgroup.
    pub cgroup_root: Option<PathBuf>,
    /// A cgroup [of memory](Cgroup::of_memory) to run in.
    pub memory_cgroup: Option<PathBuf>,
    /// `--devices`: most tests look at one layer by itself.
    pub devices: String,
}

impl AgentSpec {
    /// The usual way, without the packet layer.
    pub fn new(source: Source) -> Self {
        let devices = "none".to_owned();
        Self { source, args: Vec::new(), env: Vec::new(), cgroup_root: None, memory_cgroup: None, devices }
    }

    /// With the packet layer on these devices.
    pub fn on_devices(self, devices: &str) -> Self {
        Self { devices: devices.to_owned(), ..self }
    }
}

/// An agent. Dropped, it is killed; what it pinned goes with the node's bpf file system.
pub struct Agent {
    place: Place,
    spec: AgentSpec,
    process: Process,
}

/// Where an agent runs, however it is started.
struct Place {
    node_name: String,
    binary: PathBuf,
    netns: NetNs,
    /// Below the node's cgroup, as a pod's is, since the agent tries its own hooks before it says that it is healthy.
    cgroup: Cgroup,
    /// The arguments that every command of the binary takes.
    args: [OsString; 4],
}

impl Place {
    fn on(node: &Node) -> Result<Self> {
        Ok(Self {
            node_name: node.name().to_owned(),
            binary: run::binary("lb-agent", "LB_AGENT_BIN")?,
            netns: node.netns().clone(),
            cgroup: node.cgroup().child(&format!("lb-agent-{}", run::current().number()))?,
            args: ["--cgroup-root".into(), node.cgroup().path().into(), "--bpffs".into(), node.bpffs().path().into()],
        })
    }

    fn name(&self) -> String {
        format!("lb-agent-{}", self.node_name)
    }

    /// The binary in its place, without arguments.
    fn command(&self) -> Result<Command> {
        let mut command = Command::new(&self.binary);
        self.netns.enter(&mut command);
        self.cgroup.enter(&mut command)?;
        Ok(command)
    }

    fn start(&self, spec: &AgentSpec) -> Result<Process> {
        let mut command = self.command()?;
        if let Some(memory) = &spec.memory_cgroup {
            cgroup::enter(memory, &mut command)?;
        }
        let mut args = self.args.clone();
        if let (Some(root), [_, value, ..]) = (&spec.cgroup_root, &mut args) {
            *value = root.into();
        }
        command.arg("run").args(["--node-name", &self.node_name]).args(args);
        match &spec.source {
            Source::Manifests(directory) => command.arg("--manifests").arg(directory),
            Source::Kubeconfig(file) => command.arg("--kubeconfig").arg(file),
        };
        command.args(["--devices", &spec.devices]);
        command.args(["--healthz-address", &HEALTHZ.to_string(), "--metrics-address", &METRICS.to_string()]);
        command.args(&spec.args).envs(spec.env.iter().cloned());
        Process::spawn(&self.name(), command)
    }
}

impl Agent {
    pub(crate) fn start(node: &Node, spec: AgentSpec) -> Result<Self> {
        let place = Place::on(node)?;
        let process = place.start(&spec)?;
        Ok(Self { place, spec, process })
    }

    /// Waits until packets go past these devices of pods, straight into the pods' namespaces.
    ///
    /// # Errors
    /// They do not, in time.
    pub fn wait_gone_past(&self, devices: &[&str]) -> Result<()> {
        eventually(&format!("packets to go past {devices:?}"), PATIENCE, || {
            let (_, out, _) = self.cli(&["status", "-o", "json"])?;
            let status: serde_json::Value = serde_json::from_str(&out).context("`status` wrote no JSON")?;
            let served = status["devices"].as_array().context("no devices")?;
            let is_past = |name: &&str| {
                let device = served.iter().find(|device| device["name"] == **name);
                device.is_some_and(|device| device["role"] == "pod, gone past")
            };
            Ok(devices.iter().all(is_past).then_some(()))
        })
    }

    /// Waits until it says that the first full lists are in the maps and the programs attached.
    ///
    /// # Errors
    /// With the end of its log, if it ends instead or takes too long.
    pub fn wait_ready(&mut self) -> Result<()> {
        let what = format!("GET /healthz of {} to answer 200", self.place.name());
        let Self { process, place, .. } = self;
        let ready = eventually(&what, PATIENCE, || {
            if let Some(status) = process.exit_status()? {
                bail!("the agent ended with {status}");
            }
            let answer = place.netns.run(|| http_get(HEALTHZ, "/healthz"))?;
            Ok(answer.is_ok_and(|(status, _)| status == 200).then_some(()))
        });
        ready.with_context(|| self.describe())
    }

    /// What /healthz says now: the status code, none if nobody answers.
    pub fn healthz(&self) -> Result<Option<u16>> {
        Ok(self.place.netns.run(|| http_get(HEALTHZ, "/healthz"))?.ok().map(|(status, _)| status))
    }

    /// The text of /metrics.
    pub fn metrics(&self) -> Result<String> {
        let (status, body) = self.place.netns.run(|| http_get(METRICS, "/metrics"))??;
        anyhow::ensure!(status == 200, "GET /metrics answered {status}: {body}");
        Ok(body)
    }

    /// The value of a metric; `name` with its labels, as /metrics writes them.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let page = self.metrics()?;
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("no {name} in\n{page}"))?.parse()?)
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
        anyhow::ensure!(self.process.exit_status()?.is_some(), "{} still runs: stop it first", self.place.name());
        self.process = self.place.start(&spec)?;
        self.spec = spec;
        Ok(())
    }

    /// Runs another command of the agent's binary on the same node (`services`, `status`, ...) and gives its status,
    /// stdout and stderr.
    pub fn cli(&self, args: &[&str]) -> Result<(ExitStatus, String, String)> {
        let mut command = self.place.command()?;
        let output = command.args(args).args(&self.place.args).output();
        let output = output.with_context(|| format!("cannot run {}", self.place.binary.display()))?;
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
        format!("{}; its log ends so:\n{}\n", self.place.name(), lines.get(end..).unwrap_or_default().join("\n"))
    }
}

/// A GET over HTTP/1.0, where the answer ends with the connection: no client library needed. Status and body.
/// Asks an HTTP server in the namespace of the calling thread: its status and body.
pub fn http_get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("not an HTTP answer")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no HTTP status")?;
    Ok((status, body.to_owned()))
}
