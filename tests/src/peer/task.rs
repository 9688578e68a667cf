//! A probe of a step as something to be done: asking, and judging what was met on both islands.

use anyhow::{Error, Result};

use super::{Case, Client, Difference, Island, Outcome, Pair, Probe, Table, outcome::Names};
use crate::guest::{Enough, ProbeSpec};

/// More than the second after which TCP sends a SYN again.
const LATE_MS: u64 = 1500;

/// A case with its number, which its addresses depend on.
#[derive(Clone, Copy)]
pub(super) struct Numbered<'a> {
    pub(super) case: &'a Case,
    pub(super) number: u16,
}

impl Numbered<'_> {
    /// That one of its steps could not be made.
    pub(super) fn problem(self, step: usize, error: &Error) -> String {
        format!("{} step {}: {error:#}", self.case.name, step + 1)
    }
}

/// A probe of a step.
pub(super) struct Task<'a> {
    pub(super) case: Numbered<'a>,
    pub(super) step: usize,
    pub(super) probe: Probe,
}

impl Task<'_> {
    /// What is wrong with these outcomes.
    pub(super) fn judge(&self, outcome: Pair<Outcome>, table: &mut Table) -> Vec<String> {
        let case = &self.case.case.name;
        let place = format!("{case} step {}: {}", self.step + 1, self.probe);
        let mut problems = Vec::new();
        if !outcome.kube_proxy.meets(&self.probe.expected) {
            problems.push(format!("{place}: kube-proxy gave {}, not {:?}", outcome.kube_proxy, self.probe.expected));
        }
        if outcome.agent.ends.contains_key("refused-late") {
            problems.push(format!("{place}: the agent refuses, but late"));
        }
        let text = format!("kube-proxy {}; agent {}", outcome.kube_proxy, outcome.agent);
        let [kube_proxy, agent] = Outcome::comparable([outcome.kube_proxy, outcome.agent], &self.probe.expected);
        for difference in Difference::between(case, &self.probe, &kube_proxy, &agent) {
            if !table.covers(&difference) {
                problems.push(format!("{place}: {text}\n    unlisted: `{difference}`"));
            }
        }
        problems
    }
}

/// How much is done to learn what a probe meets.
#[derive(Clone, Copy)]
pub(super) struct Effort {
    /// How many sockets, for a probe whose choices are random.
    pub(super) enough: Enough,
    /// How long a call may take before that counts as silence.
    pub(super) patience_ms: u64,
    /// After this time a probe takes no new socket.
    pub(super) budget_ms: u64,
    /// How many probes of a client are under way at a time.
    pub(super) side_by_side: usize,
}

/// What a client meets with these probes.
pub(super) fn ask(island: &Island, client: Client, probes: &[&Probe], effort: Effort) -> Result<Vec<Outcome>> {
    let spec = |probe: &&Probe| ProbeSpec {
        traffic: probe.traffic,
        target: probe.to.into(),
        enough: effort.enough,
        patience_ms: if probe.takes_time() { effort.patience_ms.max(LATE_MS) } else { effort.patience_ms },
        budget_ms: effort.budget_ms,
    };
    let met = island.client(client).probe(probes.iter().map(spec).collect(), effort.side_by_side)?;
    let outcomes = probes.iter().zip(met).map(|(probe, attempts)| {
        let ip = probe.to.ip();
        let (own, node) = (island.address(client, ip), island.address(Client::Host, ip));
        Outcome::new(&attempts, Names { dialled: probe.to, client: own, node })
    });
    Ok(outcomes.collect())
}
