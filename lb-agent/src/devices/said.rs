//! What a [`Keeper`](super::Keeper) has logged: each thing when it is new, and once. Decides nothing.

use std::{collections::BTreeSet, mem};

use tracing::{debug, info, warn};

use super::{
    choose::{Choice, Role},
    delivery::Ways,
    findings::Finding,
    network::Network,
};

/// Of the last pass.
#[derive(Default)]
pub(super) struct Said {
    choices: Vec<Choice>,
    ways: Ways,
    pub(super) findings: BTreeSet<Finding>,
    failures: BTreeSet<String>,
}

impl Said {
    /// Whether the link was there at the last pass, by the same name.
    pub(super) fn knows(&self, index: u32, name: &str) -> bool {
        self.choices.iter().any(|choice| choice.index == index && choice.name == name)
    }

    pub(super) fn pods(&self) -> usize {
        self.choices.iter().filter(|choice| choice.role() == Some(Role::Pod)).count()
    }

    pub(super) fn served(&self) -> usize {
        self.choices.iter().filter(|choice| choice.decision.is_ok()).count()
    }

    pub(super) fn failures(&mut self, now: &[String]) {
        for failure in now.iter().filter(|failure| !self.failures.contains(*failure)) {
            warn!("{failure}; tried again");
        }
        self.failures = now.iter().cloned().collect();
    }

    pub(super) fn findings(&mut self, now: &[Finding]) {
        for finding in now.iter().filter(|finding| !self.findings.contains(finding)) {
            warn!("{finding}");
        }
        self.findings = now.iter().cloned().collect();
    }

    pub(super) fn ways(&mut self, network: &Network, now: Ways) {
        for (index, obstacle) in now.iter().filter(|(index, obstacle)| self.ways.get(*index) != Some(*obstacle)) {
            let device = network.link(*index).map_or("", |link| link.name.as_str());
            match obstacle {
                None => info!(device, index, "packets for its pod go past it, straight into the pod's namespace"),
                Some(why) if self.ways.get(index) == Some(&None) => {
                    info!(device, index, "packets for its pod go out of it again: {why}");
                }
                Some(why) => debug!(device, index, "packets for its pod go out of it: {why}"),
            }
        }
        self.ways = now;
    }

    pub(super) fn choices(&mut self, now: Vec<Choice>) {
        let before = mem::take(&mut self.choices);
        let was_served = |index: u32| before.iter().any(|old| old.index == index && old.decision.is_ok());
        for choice in now.iter().filter(|choice| !before.contains(choice)) {
            let Choice { index, name, decision } = choice;
            match decision {
                Ok((role, why)) => info!(device = name, index, "served as {role}: {why}"),
                Err(why) if was_served(*index) => info!(device = name, index, "not served any more: {why}"),
                Err(why) => debug!(device = name, index, "left alone: {why}"),
            }
        }
        let is_gone = |old: &&Choice| was_served(old.index) && !now.iter().any(|choice| choice.index == old.index);
        for Choice { index, name, .. } in before.iter().filter(is_gone) {
            info!(device = name, index, "is gone");
        }
        self.choices = now;
    }
}
