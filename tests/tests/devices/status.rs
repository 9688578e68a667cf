//! `lb-agent status -o json` as far as it speaks of devices.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use lb_tests::{Agent, eventually, poll::PATIENCE};
use serde::Deserialize;

/// The document.
#[derive(Debug)]
pub(crate) struct Status {
    pub(crate) problems: Vec<String>,
    /// By name.
    pub(crate) devices: BTreeMap<String, Device>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Device {
    pub(crate) index: u32,
    name: String,
    pub(crate) role: Option<String>,
    pub(crate) why: String,
    pub(crate) ingress: Option<u32>,
    pub(crate) egress: Option<u32>,
    pub(crate) addresses: Vec<String>,
}

impl Device {
    pub(crate) fn has_both(&self) -> bool {
        self.ingress.is_some() && self.egress.is_some()
    }
}

pub(crate) fn status(agent: &Agent) -> Result<Status> {
    #[derive(Deserialize)]
    struct Document {
        problems: Vec<String>,
        devices: Vec<Device>,
    }
    let (exit, out, err) = agent.cli(&["status", "-o", "json"])?;
    ensure!(exit.success(), "{exit}: {err}");
    let Document { problems, devices } = serde_json::from_str(&out).context("`status` wrote no JSON")?;
    let devices = devices.into_iter().map(|device| (device.name.clone(), device)).collect();
    Ok(Status { problems, devices })
}

/// Waits until one of the problems has these words in it, or none has: the agent writes down what is wrong a moment after it
/// has acted.
pub(crate) fn wait_for_problem(agent: &Agent, words: &str, there: bool) -> Result<()> {
    eventually(&format!("{words:?} among the problems: {there}"), PATIENCE, || {
        let found = status(agent)?.problems.iter().any(|problem| problem.contains(words));
        Ok((found == there).then_some(()))
    })
}
