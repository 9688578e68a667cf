//! The agent with a real API server, the controllers that make EndpointSlices, and real CoreDNS.

mod api_server;
mod dns;
mod exclude;
mod load;
mod objects;
mod scaling;
mod walkthroughs;

use std::{collections::BTreeSet, ffi::OsString, path::PathBuf};

use anyhow::Result;
use lb_tests::{
    Agent, AgentSpec, ControlPlane, Guest, Node, Source, eventually,
    guest::{Target, Traffic},
    poll::PATIENCE,
};

/// A control plane and one node. The fields are dropped in this order.
struct Cluster {
    control_plane: ControlPlane,
    node: Node,
}

impl Cluster {
    fn start() -> Result<Self> {
        let node = Node::new("n1")?;
        Ok(Self { control_plane: ControlPlane::start(&node)?, node })
    }

    /// The agent with the rights that deploy/ gives it, ready.
    fn start_agent(&self) -> Result<Agent> {
        let mut agent = self.start_agent_with(self.control_plane.agent_kubeconfig()?, &[])?;
        agent.wait_ready()?;
        Ok(agent)
    }

    fn start_agent_with(&self, kubeconfig: PathBuf, args: &[&str]) -> Result<Agent> {
        let mut spec = AgentSpec::new(Source::Kubeconfig(kubeconfig));
        spec.args.extend(args.iter().map(OsString::from));
        self.node.start_agent_with(spec)
    }
}

/// Waits until a round of questions is answered by all of these pods and by nobody else.
fn wait_for_answers_from(
    expected: &[String],
    client: &Guest,
    traffic: Traffic,
    target: impl Into<Target>,
) -> Result<()> {
    let expected: BTreeSet<&str> = expected.iter().map(String::as_str).collect();
    let target = target.into();
    let mut last = String::new();
    let result = eventually(&format!("answers from {expected:?} at {target:?}"), PATIENCE, || {
        // With 3 pods chosen at random, a round leaves one out once in 600,000 rounds; then the next round is asked.
        let answers: Result<BTreeSet<String>> = (0..36).map(|_| client.ask(traffic, target)).collect();
        last = format!("{answers:?}");
        Ok(answers.is_ok_and(|answers| answers.iter().map(String::as_str).eq(expected.iter().copied())).then_some(()))
    });
    result.map_err(|error| error.context(format!("the last round: {last}")))
}
