//! kube-proxy, to be compared with.

use std::process::Command;

use anyhow::Result;

use crate::{
    components::{self, Component},
    control_plane::ControlPlane,
    node::Node,
    process::Process,
};

/// Starts it on a node whose Node object is there, with further flags; does not wait for anything.
pub fn start(node: &Node, control_plane: &ControlPlane, flags: &[&str]) -> Result<Process> {
    let kubeconfig = control_plane.user_kubeconfig("system:kube-proxy")?;
    let mut command = Command::new(components::ensure(Component::KubeProxy)?);
    command.arg(format!("--kubeconfig={}", kubeconfig.display()));
    command.arg(format!("--hostname-override={}", node.name())).args(flags).args([
        // These would set limits of the whole machine.
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0",
    ]);
    node.netns().enter(&mut command);
    Process::spawn("kube-proxy", command)
}
