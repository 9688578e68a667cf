//! Brings the programs and maps to what was decided, again at each change. Looks at what is there each time instead of
//! remembering it, so that it also mends what others broke. No clock and no kernel of its own.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use lb_common::abi::{Device, device_flags};

use super::{
    choose::{Choice, Role, Why, Wishes, choose},
    delivery::{Obstacle, PodDelivery, Settling, Ways, obstacle},
    entries,
    findings::{Facts, Finding, Foreign, Settings, Sysctls, findings},
    network::{Link, Network},
    said::Said,
    store::{DeviceRef, DeviceStore, Programs},
};

/// For so long a device keeps its programs after the reason to choose it is gone. A default route is away for a moment
/// where it is replaced or its link flaps, and an agent that has just started does not know the Node object yet; without
/// the programs the node itself would answer, and reset connections that are open.
const GRACE: Duration = Duration::from_secs(60);
/// For so long it is remembered which names uplinks had. A device that comes with such a name is taken for the uplink made
/// anew (a driver loaded again, a bond or VLAN that was configured anew) and gets its programs before it has addresses and
/// routes: with them it carries traffic, and what came before the programs would be answered by the node itself.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// Until what failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What came of a pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Devices that have their programs.
    pub served: u32,
    /// Those of them that lead to pods.
    pub pods: u32,
    /// What is wrong with the node's settings.
    pub findings: Vec<Finding>,
    /// What could not be done.
    pub failures: Vec<String>,
    /// When to come again, whether or not anything changes.
    pub again: Option<Instant>,
}

/// The programs and the entries that there are, by the device's number.
struct There {
    attached: BTreeMap<u32, Programs>,
    listed: BTreeMap<u32, Device>,
}

/// The entry of a device that is served: as it is, and as it should be.
struct Listing {
    before: Option<Device>,
    wanted: Device,
}

/// Keeps the programs where they should be.
pub struct Keeper<S> {
    store: S,
    settings: Settings,
    read_sysctls: fn(&[&str]) -> Sysctls,
    /// When a device was last chosen for a reason of its own; `None` before the first pass.
    chosen_at: Option<BTreeMap<u32, Instant>>,
    /// When an uplink of that name was last chosen for a reason of its own.
    uplinks: BTreeMap<String, Instant>,
    settling: Settling,
    /// What `lb_names` says, as far as this agent has written it.
    names: BTreeMap<u32, String>,
    /// What was logged.
    said: Said,
}

impl<S: DeviceStore> Keeper<S> {
    /// `read_sysctls` reads those of the named devices.
    pub fn new(store: S, settings: Settings, read_sysctls: fn(&[&str]) -> Sysctls) -> Self {
        Self {
            store,
            settings,
            read_sysctls,
            chosen_at: None,
            uplinks: BTreeMap::new(),
            settling: Settling::default(),
            names: BTreeMap::new(),
            said: Said::default(),
        }
    }

    /// One pass over everything. `node` are the addresses of the Node object, as far as it is known.
    pub fn pass(&mut self, network: &Network, node: &[IpAddr], now: Instant) -> Outcome {
        let there = match self.look() {
            Ok(there) => there,
            Err(error) => return self.unchanged(text(&error), now),
        };
        let mut outcome = Outcome::default();
        let (choices, end_of_grace) = self.choose(network, node, &there.listed, now);
        let (others, untold) = self.others(&choices);
        let (ways, next_look) = self.ways(network, &choices, &others, &there.listed, now);
        self.apply(network, &choices, &ways, &there, &mut outcome);
        self.put_node(network, node, &mut outcome);
        outcome.findings = self.find(network, node, &choices, &others);
        outcome.failures.extend(untold);
        let retry = (!outcome.failures.is_empty()).then(|| now + RETRY);
        outcome.again = end_of_grace.into_iter().chain(next_look).chain(retry).min();
        self.said.ways(network, ways);
        self.said.failures(&outcome.failures);
        self.said.findings(&outcome.findings);
        self.said.choices(choices);
        outcome
    }

    fn look(&mut self) -> Result<There, S::Error> {
        Ok(There { attached: self.store.attached()?, listed: self.store.devices()? })
    }

    /// Whether a link of this number and name is one that will be served and is not known yet.
    pub fn awaits(&self, index: u32, name: &str) -> bool {
        let Settings { devices, pods, .. } = &self.settings;
        !self.said.knows(index, name)
            && (devices.has(name) || self.uplinks.contains_key(name) || pods.matching(name).is_some())
    }

    /// What comes of it where the network cannot even be read: everything stays as it is.
    pub fn blind(&mut self, error: &io::Error, now: Instant) -> Outcome {
        self.unchanged(format!("this node's network devices cannot be listed: {error}"), now)
    }

    /// What comes of a pass that cannot be made: what was there before, and this failure.
    fn unchanged(&mut self, failure: String, now: Instant) -> Outcome {
        let failures = vec![failure];
        self.said.failures(&failures);
        Outcome {
            failures,
            again: Some(now + RETRY),
            served: u32::try_from(self.said.served()).unwrap_or(u32::MAX),
            pods: u32::try_from(self.said.pods()).unwrap_or(u32::MAX),
            findings: self.said.findings.iter().cloned().collect(),
        }
    }

    /// Also the end of the next grace.
    fn choose(
        &mut self,
        network: &Network,
        node: &[IpAddr],
        listed: &BTreeMap<u32, Device>,
        now: Instant,
    ) -> (Vec<Choice>, Option<Instant>) {
        // An earlier agent chose what is listed now. Pods' devices are found by their names, which do not go for a moment.
        let uplinks = listed.iter().filter(|(_, device)| device.flags & device_flags::UPLINK != 0);
        let chosen_at = self.chosen_at.get_or_insert_with(|| uplinks.map(|(index, _)| (*index, now)).collect());
        chosen_at.retain(|index, at| now.duration_since(*at) < GRACE && network.link(*index).is_some());
        self.uplinks.retain(|_, at| now.duration_since(*at) < REMEMBERED);
        let come = network
            .links
            .iter()
            .filter(|link| self.uplinks.contains_key(&link.name) && !self.said.knows(link.index, &link.name));
        for link in come {
            chosen_at.insert(link.index, now);
        }
        let lately = chosen_at.keys().copied().collect();
        let Settings { devices, pods, nodeport_addresses: nodeports, .. } = &self.settings;
        let choices = choose(network, &Wishes { devices, pods, node, nodeports, lately: &lately });
        let mut ends = Vec::new();
        for choice in &choices {
            match &choice.decision {
                Ok((_, Why::Lately)) => ends.extend(chosen_at.get(&choice.index).map(|at| *at + GRACE)),
                Ok((Role::Uplink | Role::UplinkL3, _)) => {
                    chosen_at.insert(choice.index, now);
                    self.uplinks.insert(choice.name.clone(), now);
                }
                Ok((Role::Pod, _)) | Err(_) => drop(chosen_at.remove(&choice.index)),
            }
        }
        (choices, ends.into_iter().min())
    }

    /// What others have at the hooks of the chosen devices, by number; and why the kernel does not tell of some. That keeps
    /// nothing else from being done.
    fn others(&self, choices: &[Choice]) -> (BTreeMap<u32, Vec<Foreign>>, Vec<String>) {
        let (mut all, mut untold) = (BTreeMap::new(), Vec::new());
        for choice in choices.iter().filter(|choice| choice.decision.is_ok()) {
            match self.store.foreign(DeviceRef { index: choice.index, name: &choice.name }) {
                Ok(others) => drop(all.insert(choice.index, others)),
                Err(error) => untold.push(text(&error)),
            }
        }
        (all, untold)
    }

    /// What is in the way past each pod-facing device; and when to look again.
    fn ways(
        &mut self,
        network: &Network,
        choices: &[Choice],
        others: &BTreeMap<u32, Vec<Foreign>>,
        listed: &BTreeMap<u32, Device>,
        now: Instant,
    ) -> (Ways, Option<Instant>) {
        let pods = choices.iter().filter(|choice| choice.role() == Some(Role::Pod));
        let links: Vec<_> = pods.filter_map(|choice| network.link(choice.index)).collect();
        if links.is_empty() || self.settings.pod_delivery == PodDelivery::Device {
            return (links.iter().map(|link| (link.index, Some(Obstacle::NotWanted))).collect(), None);
        }
        let chains = self.store.egress_chains();
        let seen = |link: &&Link| (link.index, obstacle(link, others.get(&link.index).map(Vec::as_slice), &chains));
        let is_open = |device: &Device| device.flags & device_flags::PEER != 0;
        let open = listed.iter().filter(|(_, device)| is_open(device)).map(|(index, _)| *index).collect();
        self.settling.look(links.iter().map(seen).collect(), &open, now)
    }

    fn apply(&mut self, network: &Network, choices: &[Choice], ways: &Ways, there: &There, outcome: &mut Outcome) {
        let There { attached, listed } = there;
        let chosen: BTreeMap<u32, &Choice> =
            choices.iter().filter(|choice| choice.decision.is_ok()).map(|choice| (choice.index, choice)).collect();
        // The maps first: while a device is listed, flows rely on its programs.
        for index in listed.keys().filter(|index| !chosen.contains_key(index)) {
            note(self.unlist(*index), &mut outcome.failures);
        }
        for index in attached.keys().filter(|index| !chosen.contains_key(index)) {
            let name = network.link(*index).map_or("", |link| link.name.as_str());
            note(self.store.detach(DeviceRef { index: *index, name }), &mut outcome.failures);
        }
        for choice in chosen.into_values() {
            let Ok((role, why)) = &choice.decision else { continue };
            let programs = attached.get(&choice.index).copied().unwrap_or_default();
            let is_gone_past = matches!(ways.get(&choice.index), Some(None));
            let device = entries::device(network, choice.index, *role, is_gone_past);
            let listing = Listing { before: listed.get(&choice.index).copied(), wanted: device };
            match self.serve(choice, *role, why, programs, listing) {
                Ok(()) => {
                    outcome.served += 1;
                    outcome.pods += u32::from(*role == Role::Pod);
                }
                Err(error) => outcome.failures.push(text(&error)),
            }
        }
        if outcome.failures.is_empty() {
            note(self.store.take_over(), &mut outcome.failures);
        }
    }

    /// Attaches what is not there, then lists the device, if it is not listed so.
    fn serve(
        &mut self,
        choice: &Choice,
        role: Role,
        why: &Why,
        programs: Programs,
        Listing { before, wanted }: Listing,
    ) -> Result<(), S::Error> {
        let Choice { index, name, .. } = choice;
        if !self.store.are_current(programs, role) {
            let attached = self.store.attach(DeviceRef { index: *index, name }, role);
            if let Err(error) = attached {
                // One of the two may be there, or an earlier agent's both: these go on.
                if programs.ingress.is_none() || programs.egress.is_none() {
                    self.unlist(*index)?;
                } else if let Some(device) = before.and_then(|before| entries::closed(&before, &wanted)) {
                    self.store.put_device(*index, &device)?;
                }
                return Err(error);
            }
        }
        if before != Some(wanted) {
            self.store.put_device(*index, &wanted)?;
        }
        let name = format!("{name} {why}");
        if self.names.get(index) != Some(&name) {
            self.store.put_name(*index, &name)?;
            self.names.insert(*index, name);
        }
        Ok(())
    }

    /// Takes a device out of the maps, with its name.
    fn unlist(&mut self, index: u32) -> Result<(), S::Error> {
        self.names.remove(&index);
        self.store.delete_device(index)
    }

    fn put_node(&mut self, network: &Network, object: &[IpAddr], outcome: &mut Outcome) {
        let put = self.store.node().and_then(|before| {
            let node = entries::node(network, object, &before, self.settings.snat_ports);
            if node == before { Ok(()) } else { self.store.put_node(&node) }
        });
        note(put, &mut outcome.failures);
    }

    fn find(
        &self,
        network: &Network,
        node: &[IpAddr],
        choices: &[Choice],
        others: &BTreeMap<u32, Vec<Foreign>>,
    ) -> Vec<Finding> {
        let chosen = choices.iter().filter(|choice| choice.decision.is_ok());
        let names: Vec<&str> = chosen.map(|choice| choice.name.as_str()).collect();
        let sysctls = (self.read_sysctls)(&names);
        let foreign: Vec<Foreign> = others.values().flatten().cloned().collect();
        let (settings, foreign) = (&self.settings, &foreign[..]);
        findings(&Facts { settings, network, choices, sysctls: &sysctls, foreign, node })
    }
}

fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn note<E: std::error::Error>(result: Result<(), E>, failures: &mut Vec<String>) {
    failures.extend(result.err().map(|error| text(&error)));
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
