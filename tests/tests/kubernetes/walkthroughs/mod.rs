//! The pages of `docs/walkthroughs/`, each walked through as it is written.

mod page;

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use lb_tests::{Agent, Cgroup, Kubelet, NetNs, Pod, eventually, guest::Proto, poll::PATIENCE, run};
use serde_json::json;

use self::page::{Command, Page, Prompt};
use crate::{
    Cluster,
    dns::{resolv_conf_text, start_dns},
};

#[test]
fn deployment() -> Result<()> {
    walk("deployment")
}

#[test]
fn nodeport() -> Result<()> {
    walk("nodeport")
}

#[test]
fn outside_host() -> Result<()> {
    walk("outside-host")
}

#[test]
fn headless() -> Result<()> {
    walk("headless")
}

#[test]
fn external_name() -> Result<()> {
    walk("external-name")
}

#[test]
fn session_affinity() -> Result<()> {
    walk("session-affinity")
}

#[test]
fn scale_to_zero() -> Result<()> {
    walk("scale-to-zero")
}

#[test]
fn stateful_set() -> Result<()> {
    walk("stateful-set")
}

/// The machine outside the cluster that pages tell of.
const OUTSIDE: ([u8; 4], &str, u16) = ([192, 0, 2, 10], "2001:db8::10", 5432);

fn walk(name: &str) -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../docs/walkthroughs/{name}.md"));
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let page = Page::parse(&text).with_context(|| format!("in {}", file.display()))?;
    ensure!(!page.commands.is_empty(), "{} has no commands", file.display());

    let cluster = Cluster::start()?;
    let mut kubelet = Kubelet::register(&cluster.node, cluster.control_plane.admin())?;
    let agent = cluster.start_agent()?;
    let files = tempfile::tempdir()?;
    let _dns = start_dns(&cluster, &kubelet, files.path())?;
    let outside = cluster.node.external("outside", OUTSIDE.0.into(), OUTSIDE.1.parse()?)?;
    let database = outside.guest()?;
    database.serve("database", Proto::Tcp, OUTSIDE.2)?;
    let resolv_conf = files.path().join("resolv.conf");
    fs::write(&resolv_conf, resolv_conf_text("ndots:5"))?;
    let walk = Walk { cluster: &cluster, agent: &agent, client: cluster.node.pod("client")?, resolv_conf, page: &page };
    page.commands.iter().try_for_each(|command| walk.step(command, &mut kubelet))
}

struct Walk<'a> {
    cluster: &'a Cluster,
    agent: &'a Agent,
    client: Pod,
    resolv_conf: PathBuf,
    page: &'a Page,
}

impl Walk<'_> {
    fn step(&self, command: &Command, kubelet: &mut Kubelet<'_>) -> Result<()> {
        let done = match command.prompt {
            Prompt::Kubectl => self.kubectl(&command.line),
            Prompt::Client | Prompt::Node => self.wait_for_output(command, kubelet),
        };
        done.with_context(|| format!("{:?}: {}; the agent's log: {}", command.prompt, command.line, self.log()))
    }

    fn log(&self) -> String {
        self.agent.process().log_path().display().to_string()
    }

    /// What kubectl does in the few ways that pages use it.
    fn kubectl(&self, line: &str) -> Result<()> {
        let admin = self.cluster.control_plane.admin();
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["kubectl", "apply", "-f", file] => {
                admin.apply_yaml(self.page.files.get(file).with_context(|| format!("the page has no {file}"))?)
            }
            ["kubectl", "scale", kind, name, replicas] => {
                let replicas = replicas.strip_prefix("--replicas=").context("no --replicas=")?.parse::<u32>()?;
                let (api_version, kind) = kind_of(kind)?;
                let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("apps", api_version, kind));
                let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
                admin.call(|client| async move {
                    let api: Api<DynamicObject> = Api::default_namespaced_with(client, &resource);
                    api.patch(name, &PatchParams::default(), &patch).await
                })?;
                Ok(())
            }
            _ => bail!("the test knows no such kubectl"),
        }
    }

    /// Types it again until it gives what the page shows: a user waits a moment, too.
    fn wait_for_output(&self, command: &Command, kubelet: &mut Kubelet<'_>) -> Result<()> {
        let mut last = String::new();
        let shown = eventually("the output that the page shows", PATIENCE, || {
            kubelet.sync()?;
            last = match command.prompt {
                Prompt::Client => self.shell(self.client.netns(), self.client.cgroup(), &command.line)?,
                _ => self.shell(self.cluster.node.netns(), self.cluster.node.cgroup(), &command.line)?,
            };
            Ok(command.shows(&last).then_some(()))
        });
        shown.with_context(|| format!("it was, in the end:\n{last}"))
    }

    /// What a command line writes, in a pod or on the node.
    fn shell(&self, netns: &NetNs, cgroup: &Cgroup, line: &str) -> Result<String> {
        // Its own resolv.conf by a mount namespace, as in a container. The node's is the same, for simplicity.
        let script = "mount --bind \"$1\" /etc/resolv.conf && exec sh -c \"$2\" 2>&1";
        let mut command = std::process::Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
        command.arg(&self.resolv_conf).arg(line);
        command.env("PATH", self.path()?);
        command.env("LB_CGROUP_ROOT", self.cluster.node.cgroup().path());
        command.env("LB_BPFFS", self.cluster.node.bpffs().path());
        netns.enter(&mut command);
        cgroup.enter(&mut command)?;
        let output = command.output().context("cannot run unshare (of util-linux)")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// With the agent's directory first.
    fn path(&self) -> Result<OsString> {
        let binary = run::binary("lb-agent", "LB_AGENT_BIN")?;
        let directory = binary.parent().map(Path::to_path_buf);
        let others = std::env::var_os("PATH").unwrap_or_default();
        std::env::join_paths(directory.into_iter().chain(std::env::split_paths(&others))).context("PATH")
    }
}

fn kind_of(name: &str) -> Result<(&'static str, &'static str)> {
    Ok(match name {
        "deployment" => ("v1", "Deployment"),
        "statefulset" => ("v1", "StatefulSet"),
        _ => bail!("the test cannot scale a {name}"),
    })
}
