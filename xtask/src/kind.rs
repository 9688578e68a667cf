//! `cargo xtask run --kind`: builds the image, loads it into a kind cluster, rolls the DaemonSet out and follows its log.

use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::flags::ImageFlags;
use crate::image;
use crate::process::{find, output, run, say, status};
use crate::workspace::Workspace;

const NAMESPACE: &str = "kube-system";
const DAEMONSET: &str = "daemonset/lb-agent";

/// Programs that have to be there; a development machine with a kind cluster has them.
const TOOLS: [(&str, &str); 2] = [
    ("kind", "https://kind.sigs.k8s.io loads the image into the cluster's nodes"),
    ("kubectl", "https://kubernetes.io/docs/tasks/tools applies the manifests"),
];

pub(crate) fn run_on(ws: &Workspace, cluster: &str) -> Result<ExitCode> {
    let missing: Vec<String> =
        TOOLS.iter().filter(|(tool, _)| find(tool).is_none()).map(|(tool, why)| format!("{tool} ({why})")).collect();
    if !missing.is_empty() {
        bail!("not in PATH: {}", missing.join(", "));
    }
    let kubectl = Kubectl { context: format!("kind-{cluster}") };
    let servers = kubectl.api_servers().with_context(|| format!("look at the kind cluster {cluster}"))?;
    let archive = image::write(ws, &ImageFlags { output: None })?;
    say(&format!("loading {} into the nodes of {cluster}", image::NAME));
    run(Command::new("kind").args(["load", "image-archive", "--name", cluster]).arg(&archive))?;
    kubectl.configure(&servers)?;
    let had_one = kubectl.has_daemonset()?;
    run(kubectl.command(["apply", "--kustomize"]).arg(ws.root().join("deploy")))?;
    if had_one {
        // The image has the same name as before: nothing else tells the pods that there is a new one.
        run(&mut kubectl.in_namespace(["rollout", "restart", DAEMONSET]))?;
    }
    run(&mut kubectl.in_namespace(["rollout", "status", DAEMONSET, "--timeout=180s"]))
        .context("the agent does not become ready: its log says why")?;
    say(&format!("rolled out; `kubectl -n {NAMESPACE} delete daemonset kube-proxy` takes kube-proxy away"));
    let selector = "--selector=app.kubernetes.io/name=lb-agent";
    let follow = ["logs", "--follow", "--prefix", "--tail=20", "--max-log-requests=50", selector];
    let ended = status(&mut kubectl.in_namespace(follow))?;
    Ok(if ended.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Kubectl {
    context: String,
}

impl Kubectl {
    fn command<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new("kubectl");
        command.args(["--context", &self.context]).args(args);
        command
    }

    fn in_namespace<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = self.command(["--namespace", NAMESPACE]);
        command.args(args);
        command
    }

    /// The agent must reach the API servers without the Service that it provides: by their nodes' addresses.
    fn api_servers(&self) -> Result<String> {
        let path = "jsonpath={.items[*].status.addresses[?(@.type==\"InternalIP\")].address}";
        let addresses = output(&mut self.command([
            "get",
            "nodes",
            "--selector=node-role.kubernetes.io/control-plane",
            "--output",
            path,
        ]))?;
        api_server_urls(&addresses)
    }

    /// The ConfigMap that deploy/daemonset.yaml asks for.
    fn configure(&self, servers: &str) -> Result<()> {
        let literal = format!("--from-literal=LB_API_SERVERS={servers}");
        let create = ["create", "configmap", "lb-agent", &literal, "--dry-run=client", "--output=yaml"];
        let manifest = output(&mut self.in_namespace(create))?;
        let mut apply = self.in_namespace(["apply", "--filename", "-"]);
        let mut child = apply.stdin(Stdio::piped()).spawn().context("cannot start kubectl")?;
        // Dropped at the end of the statement, so that kubectl sees the end of its input.
        child.stdin.take().context("no pipe to kubectl")?.write_all(manifest.as_bytes()).context("write to kubectl")?;
        let ended = child.wait().context("wait for kubectl")?;
        if !ended.success() {
            bail!("kubectl apply of the ConfigMap lb-agent ended with {ended}");
        }
        Ok(())
    }

    fn has_daemonset(&self) -> Result<bool> {
        let found = output(&mut self.in_namespace(["get", DAEMONSET, "--ignore-not-found", "--output=name"]))?;
        Ok(!found.trim().is_empty())
    }
}

/// Makes `LB_API_SERVERS` of the control plane's addresses. kind's API servers listen on 6443 inside their nodes.
fn api_server_urls(addresses: &str) -> Result<String> {
    let mut urls = Vec::new();
    for address in addresses.split_whitespace() {
        let ip: IpAddr = address.parse().with_context(|| format!("{address} as the address of a node"))?;
        urls.push(format!("https://{}", std::net::SocketAddr::new(ip, 6443)));
    }
    if urls.is_empty() {
        bail!("no node of the control plane has an InternalIP");
    }
    Ok(urls.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_api_server_of_the_control_plane_is_named_by_its_nodes_address() {
        let urls = api_server_urls("172.18.0.2 172.18.0.3 fc00:f853::2").unwrap();
        assert_eq!(urls, "https://172.18.0.2:6443,https://172.18.0.3:6443,https://[fc00:f853::2]:6443");
    }

    #[test]
    fn a_cluster_without_control_plane_nodes_is_an_error_and_not_an_empty_list() {
        assert!(api_server_urls(" \n").is_err());
        assert!(api_server_urls("kind-control-plane").is_err());
    }
}
