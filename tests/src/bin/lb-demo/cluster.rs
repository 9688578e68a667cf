//! What the demo is made of: one node, its pods and their servers, and the agent. All of it goes when dropped.

use std::{
    net::{IpAddr, SocketAddr},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{Agent, Node, Pod, Process, eventually, poll::PATIENCE};

use crate::{
    answers::Answers,
    manifests::{self, Directory, POD_PORT},
};

/// The Service's address: in kubeadm's and kind's default range for Services.
const SERVICE: ([u8; 4], u16) = ([10, 96, 0, 80], 80);
/// The pods behind it.
const SERVERS: [&str; 3] = ["web-1", "web-2", "web-3"];

/// The demo's cluster. Fields are dropped in this order: who uses a thing before the thing.
pub(crate) struct Cluster {
    agent: Agent,
    _servers: Vec<Process>,
    client: Pod,
    pods: Vec<Pod>,
    manifest: PathBuf,
    _node: Node,
}

impl Cluster {
    /// Starts everything and waits until the agent says that it is ready.
    pub(crate) fn start(manifests: Option<&Path>) -> Result<Self> {
        println!("one node, three pods that serve their own host name, one client pod");
        let node = Node::new("demo")?;
        let pods = SERVERS.iter().map(|name| node.pod(name)).collect::<Result<Vec<_>>>()?;
        let servers = pods.iter().map(serve).collect::<Result<Vec<_>>>()?;
        let client = node.pod("client")?;
        for pod in &pods {
            wait_until_served(&client, pod)?;
        }
        let directory =
            manifests.map_or_else(|| own_directory().map(Directory::Own), |dir| Ok(Directory::Users(dir)))?;
        let addresses: Vec<(&str, IpAddr)> = pods.iter().map(|pod| (pod.name(), pod.v4().into())).collect();
        let (directory, manifest) = manifests::prepare(&directory, SERVICE.into(), &addresses)?;
        println!("the agent, with the manifests in {}", directory.display());
        let mut agent = node.start_agent(&directory)?;
        agent.wait_ready()?;
        Ok(Self { agent, _servers: servers, client, pods, manifest, _node: node })
    }

    /// The Service's address and port.
    pub(crate) fn service(&self) -> SocketAddr {
        SERVICE.into()
    }

    pub(crate) fn pod_names(&self) -> Vec<&str> {
        self.pods.iter().map(Pod::name).collect()
    }

    /// What a user edits.
    pub(crate) fn manifest(&self) -> &Path {
        &self.manifest
    }

    pub(crate) fn agent_log(&self) -> &Path {
        self.agent.process().log_path()
    }

    /// The client pod asks the Service.
    pub(crate) fn ask(&self, times: usize) -> Result<Answers> {
        ask(&self.client, self.service(), times)
    }

    /// The output of one of the agent's tools.
    pub(crate) fn agent_command(&self, args: &[&str]) -> Result<String> {
        let (status, stdout, stderr) = self.agent.cli(args)?;
        ensure!(status.success(), "lb-agent {}: {status}: {}", args.join(" "), stderr.trim());
        Ok(stdout)
    }

    /// Ends the agent as the kubelet would, and everything else.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.agent.stop().map(|_| ())
    }
}

/// `target/demo/manifests`, beside the directory that this program was built into.
fn own_directory() -> Result<PathBuf> {
    let executable = std::env::current_exe().context("find this program")?;
    let target = executable.ancestors().nth(2).context("find the target directory")?;
    Ok(target.join("demo/manifests"))
}

/// This program again, inside a pod.
fn in_pod(pod: &Pod, args: &[&str]) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("find this program")?);
    // Not in the terminal's process group: a Ctrl-C ends the demo, and that ends them.
    command.args(args).process_group(0);
    pod.netns().enter(&mut command);
    pod.cgroup().enter(&mut command)?;
    Ok(command)
}

fn serve(pod: &Pod) -> Result<Process> {
    Process::spawn(pod.name(), in_pod(pod, &["serve", pod.name(), &POD_PORT.to_string()])?)
}

fn wait_until_served(client: &Pod, pod: &Pod) -> Result<()> {
    let direct = SocketAddr::new(pod.v4().into(), POD_PORT);
    eventually(&format!("{} to answer at {direct}", pod.name()), PATIENCE, || {
        let answers = ask(client, direct, 1)?;
        Ok(answers.complete(&[pod.name()]).is_ok().then_some(()))
    })
}

fn ask(client: &Pod, address: SocketAddr, times: usize) -> Result<Answers> {
    let mut command = in_pod(client, &["ask", &address.to_string(), &times.to_string()])?;
    let output = command.stdin(Stdio::null()).output().context("start the client")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the client ended with {}: {}", output.status, stderr.trim());
    Ok(Answers::parse(&String::from_utf8_lossy(&output.stdout)))
}
