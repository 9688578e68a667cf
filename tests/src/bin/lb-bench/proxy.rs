//! What stands between client and endpoints, and its process.

use std::{fmt, fs};

use anyhow::{Context as _, Result};
use lb_tests::{Agent, AgentSpec, ControlPlane, Node, Process, Source, bpftool, kube_proxy};
use serde::Serialize;

use crate::usage::{Usage, as_f64};

/// What stands between client and endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Nothing: the client asks the endpoints by their own addresses.
    Direct,
    /// The same once more: how far two equal targets differ is the noise of the run.
    DirectAgain,
    /// This project's agent.
    Agent,
    /// This project's agent with programs on the devices of pods as well. Differs only for clients outside.
    AgentOnPods,
    /// kube-proxy in nftables mode.
    Nftables,
    /// kube-proxy in iptables mode.
    Iptables,
}

impl Kind {
    pub(crate) fn has_proxy(self) -> bool {
        !matches!(self, Self::Direct | Self::DirectAgain)
    }

    pub(crate) fn is_agent(self) -> bool {
        matches!(self, Self::Agent | Self::AgentOnPods)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::DirectAgain => "direct again",
            Self::Agent => "lb-agent",
            Self::AgentOnPods => "lb-agent, pod devices too",
            Self::Nftables => "kube-proxy nftables",
            Self::Iptables => "kube-proxy iptables",
        })
    }
}

/// A proxy that runs.
pub(crate) enum Proxy {
    /// This project's.
    Agent(Box<Agent>),
    /// kube-proxy.
    KubeProxy(Process),
}

impl Proxy {
    /// Starts what this kind needs on a node, with further flags of the agent; does not wait for anything. kube-proxy waits
    /// for the Node object.
    pub(crate) fn start(
        kind: Kind,
        node: &Node,
        control_plane: &ControlPlane,
        agent: impl FnOnce(AgentSpec) -> AgentSpec,
    ) -> Result<Option<Self>> {
        let mode = match kind {
            Kind::Direct | Kind::DirectAgain => return Ok(None),
            Kind::Agent | Kind::AgentOnPods => {
                let spec = AgentSpec::new(Source::Kubeconfig(control_plane.agent_kubeconfig()?));
                return Ok(Some(Self::Agent(Box::new(node.start_agent_with(agent(spec))?))));
            }
            Kind::Nftables => "--proxy-mode=nftables",
            Kind::Iptables => "--proxy-mode=iptables",
        };
        let flags = [mode, "--cluster-cidr=10.244.0.0/16"];
        Ok(Some(Self::KubeProxy(kube_proxy::start(node, control_plane, &flags)?)))
    }

    pub(crate) fn agent(&self) -> Option<&Agent> {
        match self {
            Self::Agent(agent) => Some(agent),
            Self::KubeProxy(_) => None,
        }
    }

    pub(crate) fn process(&self) -> &Process {
        match self {
            Self::Agent(agent) => agent.process(),
            Self::KubeProxy(process) => process,
        }
    }

    /// What it has used so far.
    pub(crate) fn usage(&self) -> Result<Usage> {
        Usage::of(self.process().pid())
    }
}

/// What the maps of the agent's installation on this node take of the kernel's memory, MiB.
pub(crate) fn maps_mib(node: &Node) -> Result<f64> {
    let mut bytes = 0;
    for map in fs::read_dir(node.bpffs().path().join("lb/maps"))? {
        let shown = bpftool::shown(&[&"map", &"show", &"pinned", &map?.path()])?;
        bytes += shown["bytes_memlock"].as_u64().context("a map without bytes_memlock")?;
    }
    Ok(as_f64(bytes) / f64::from(1 << 20))
}
