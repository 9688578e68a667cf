//! Which devices of a real node get the packet layer's programs, and that these stay while agents come and go. What the
//! programs do to packets is tested elsewhere. Needs root and the built programs (`cargo xtask test`).

mod attach;
mod chains;
mod check;
mod filters;
mod past;
mod status;

use std::{collections::BTreeMap, io::ErrorKind};

use anyhow::{Context as _, Result};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use lb_tests::{Agent, AgentSpec, Manifests, NetNs, Node, Source, eventually, poll::PATIENCE};
use status::{Device, status};

/// What [`hooks`] gives of a device without programs.
const NOTHING: [Vec<u32>; 2] = [Vec::new(), Vec::new()];

/// A node with an uplink `eth0` that has a default route, and its agent with the packet layer.
struct Rig {
    node: Node,
    /// The other end of the uplink.
    outside: NetNs,
    manifests: Manifests,
    agent: Agent,
}

impl Rig {
    fn start(hint: &str, devices: &str) -> Result<Self> {
        Self::start_with(hint, |spec| spec.on_devices(devices))
    }

    fn start_with(hint: &str, with: impl FnOnce(AgentSpec) -> AgentSpec) -> Result<Self> {
        let (node, outside, manifests) = (Node::new(hint)?, NetNs::new(hint)?, Manifests::new()?);
        uplink(&node, &outside, "eth0")?;
        node.netns().ip(["route add default via 192.0.2.2 dev eth0"])?;
        let source = Source::Manifests(manifests.path().to_owned());
        let mut agent = node.start_agent_with(with(AgentSpec::new(source)))?;
        agent.wait_ready()?;
        Ok(Self { node, outside, manifests, agent })
    }

    /// What `status` says of the devices, by name.
    fn devices(&self) -> Result<BTreeMap<String, Device>> {
        Ok(status(&self.agent)?.devices)
    }

    /// The names of those that are served, when they are these.
    fn wait_for(&self, names: &[&str]) -> Result<()> {
        eventually(&format!("{names:?} to be served"), PATIENCE, || {
            let devices = self.devices()?;
            let complete = devices.values().all(|device| device.role.is_some() && device.has_both());
            Ok((complete && devices.keys().eq(names)).then_some(()))
        })
    }

    fn hooks(&self, device: &str) -> Result<[Vec<u32>; 2]> {
        hooks(self.node.netns(), device)
    }
}

/// A link from the node to a namespace beside it, with an address.
fn uplink(node: &Node, outside: &NetNs, name: &str) -> Result<()> {
    let far = outside.path().display();
    node.netns().ip([
        format!("link add {name} type veth peer name far netns {far}"),
        format!("addr add 192.0.2.1/24 dev {name}"),
        format!("addr add 2001:db8::1/64 dev {name} nodad"),
        format!("link set {name} up"),
    ])?;
    outside.ip(["link set far up"])?;
    node.netns().wait_up(&[name])
}

/// The ids of the tcx programs at ingress and egress of a device.
fn hooks(netns: &NetNs, device: &str) -> Result<[Vec<u32>; 2]> {
    let ids = |hook| -> Result<Vec<u32>> {
        eventually("a list of programs of which none is replaced while it is made", PATIENCE, || {
            let programs = SchedClassifier::query_tcx(device, hook);
            match programs {
                Ok((_, programs)) => Ok(Some(programs.iter().map(|program| program.id()).collect())),
                Err(ProgramError::SyscallError(error)) if error.io_error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error).context("query of tcx"),
            }
        })
    };
    netns.run(|| Ok([ids(TcAttachType::Ingress)?, ids(TcAttachType::Egress)?]))?
}
