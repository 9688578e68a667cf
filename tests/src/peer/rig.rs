//! Both islands on one control plane, and the running of cases on them.
//!
//! Cases are run side by side: the first step of every case, then the probes of all; the second step of every case, and
//! so on. Both proxies then take in many changes at once, as few times as there are steps in the longest case.

use std::{collections::BTreeSet, iter::once, thread, time::Duration};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::{Value, json};

use super::{
    Case, Island, Probe, Proxy, Table,
    kept::KeptSockets,
    marker::{self, ZONE},
    objects,
    task::{Numbered, Task},
    trials,
};
use crate::{
    control_plane::{Change, ControlPlane, Kubelet},
    node::{Layout, Node},
    poll::{PATIENCE, eventually},
};

/// One of each: of kube-proxy's, and of the agent's.
#[derive(Clone, Debug)]
pub struct Pair<T> {
    /// kube-proxy's.
    pub kube_proxy: T,
    /// The agent's.
    pub agent: T,
}

impl<T> Pair<T> {
    /// What `f` makes of each, at the same time.
    ///
    /// # Errors
    /// The first error, with whose it is.
    pub fn try_map<U: Send>(&self, f: impl Fn(&T) -> Result<U> + Sync) -> Result<Pair<U>>
    where
        T: Sync,
    {
        thread::scope(|scope| {
            let [kube_proxy, agent] = [&self.kube_proxy, &self.agent].map(|one| scope.spawn(|| f(one)));
            Ok(Pair {
                kube_proxy: join(kube_proxy).context("on the island of kube-proxy")?,
                agent: join(agent).context("on the island of the agent")?,
            })
        })
    }
}

/// What steps of cases ask.
#[derive(Default)]
struct Asked<'a> {
    probes: Vec<Task<'a>>,
    /// What stands for sockets to keep.
    keep: Vec<Task<'a>>,
}

impl Asked<'_> {
    fn extend(&mut self, more: Self) {
        self.probes.extend(more.probes);
        self.keep.extend(more.keep);
    }
}

/// The control plane and the two islands. The fields are dropped in this order.
pub struct Rig {
    islands: Pair<Island>,
    control_plane: ControlPlane,
    _hub: Node,
    n_changes: u16,
    node_labels: Value,
    node_addresses: Value,
    /// The proxies' flag `--nodeport-addresses`.
    node_ports: String,
}

impl Rig {
    /// Starts everything, and waits until both proxies work. `node_ports` is their flag `--nodeport-addresses`.
    pub fn start(node_ports: &str) -> Result<Self> {
        let hub = Node::with("hub", 100, Layout::PointToPoint)?;
        let control_plane = ControlPlane::start_without_controllers(&hub)?;
        let islands =
            Pair { kube_proxy: Island::new(&hub, &control_plane, 1)?, agent: Island::new(&hub, &control_plane, 2)? };
        let (node_labels, node_addresses) = (json!({}), usual_addresses(islands.agent.node()));
        let node_ports = node_ports.to_owned();
        let mut rig = Self { islands, control_plane, _hub: hub, n_changes: 0, node_labels, node_addresses, node_ports };
        // Both islands are this one node.
        Kubelet::register(rig.islands.agent.node(), rig.control_plane.admin())?;
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": marker::NAMESPACE}});
        rig.change([once(namespace)
            .chain(marker::of_zone()?)
            .chain(marker::of_node_port()?)
            .map(Change::Apply)
            .collect()])?;
        rig.islands.kube_proxy.start(Proxy::KubeProxy, &rig.control_plane, &rig.node_ports)?;
        rig.islands.agent.start(Proxy::Agent, &rig.control_plane, &rig.node_ports)?;
        rig.settle()?;
        Ok(rig)
    }

    /// The islands.
    pub fn islands(&self) -> &Pair<Island> {
        &self.islands
    }

    /// The control plane.
    pub fn control_plane(&self) -> &ControlPlane {
        &self.control_plane
    }

    /// Waits until both proxies have taken in every change of a Service or EndpointSlice so far.
    pub fn settle(&mut self) -> Result<()> {
        self.n_changes += 1;
        self.change([marker::of_change(self.n_changes)?.into_iter().map(Change::Apply).collect()])?;
        self.wait_for("the changes to be in force", |island| marker::is_seen(island, self.n_changes))
    }

    /// Puts labels on the node in the place of those before, and waits until both proxies have taken in its zone.
    pub fn label_node(&mut self, labels: &Value) -> Result<()> {
        if self.node_labels == *labels {
            return Ok(());
        }
        let object = objects::object("", "node", labels)?;
        self.control_plane.admin().apply(&object)?;
        let zone = labels.get(ZONE).and_then(Value::as_str);
        self.wait_for(&format!("zone {zone:?} to be in force"), |island| marker::zone_is_seen(island, zone))?;
        self.node_labels = labels.clone();
        Ok(())
    }

    /// Gives the node's object other addresses, and waits until the agent answers to NodePorts at the first of them. When
    /// kube-proxy does is for the case to say. Whether they are others.
    fn address_node(&mut self, addresses: &Value) -> Result<bool> {
        if self.node_addresses == *addresses {
            return Ok(false);
        }
        self.control_plane.admin().set_status(&objects::object("", "node-addresses", addresses)?)?;
        let first = addresses[0].as_str().context("a node without addresses")?.parse()?;
        let is_served = || Ok(marker::node_port_is_seen(&self.islands.agent, first)?.then_some(()));
        eventually(&format!("the agent to answer to NodePorts at {first}"), PATIENCE, is_served)?;
        self.node_addresses = addresses.clone();
        Ok(true)
    }

    fn restart_kube_proxy(&mut self) -> Result<()> {
        self.islands.kube_proxy.start(Proxy::KubeProxy, &self.control_plane, &self.node_ports)
    }

    /// Makes the node what it is where no case says otherwise.
    fn reset_node(&mut self) -> Result<()> {
        self.label_node(&json!({}))?;
        if self.address_node(&usual_addresses(self.islands.agent.node()))? {
            self.restart_kube_proxy()?;
        }
        Ok(())
    }

    /// Runs cases side by side, also such as change what they share if they all change it to the same, and removes
    /// their objects.
    pub fn run_once(&mut self, cases: &[&Case], table: &mut Table) -> Result<Vec<String>> {
        let numbered: Vec<_> = cases.iter().zip(0..).map(|(case, number)| Numbered { case, number }).collect();
        let problems = self.run_together(&numbered, table);
        self.remove(&numbered)?;
        problems
    }

    /// Runs the cases and says what is wrong: what kube-proxy did otherwise than expected, differences that the table
    /// does not list, and steps that could not be made.
    pub fn run(&mut self, cases: &[Case], table: &mut Table) -> Result<Vec<String>> {
        let (alone, together): (Vec<_>, Vec<_>) = cases.iter().partition(|case| case.alone);
        let mut problems = self.run_once(&together, table)?;
        for one in alone {
            problems.extend(self.run_once(&[one], table)?);
        }
        Ok(problems)
    }

    /// Removes the objects of cases, so that others may have their addresses.
    fn remove(&mut self, cases: &[Numbered<'_>]) -> Result<()> {
        let lists = cases.iter().map(|Numbered { case, .. }| {
            let keys: BTreeSet<&String> = case.steps.iter().flat_map(|step| step.apply.keys()).collect();
            let namespaced = keys.into_iter().filter(|key| !objects::is_of_the_node(key));
            namespaced.map(|key| Ok(Change::Delete(objects::reference(&case.name, key)?))).collect()
        });
        self.change(lists.collect::<Result<Vec<_>>>()?)?;
        self.reset_node()
    }

    fn run_together(&mut self, cases: &[Numbered<'_>], table: &mut Table) -> Result<Vec<String>> {
        let mut problems = Vec::new();
        let namespace = |name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        self.change(cases.iter().map(|case| vec![Change::Apply(namespace(&case.case.name))]))?;
        let n_steps = cases.iter().map(|case| case.case.steps.len()).max().unwrap_or_default();
        let mut kept = KeptSockets::default();
        for step in 0..n_steps {
            let Asked { probes, keep } = self.take_steps(cases, step, &mut problems)?;
            self.settle().with_context(|| format!("after step {} of {} cases", step + 1, cases.len()))?;
            let pauses = cases.iter().filter_map(|case| case.case.steps.get(step)?.pause);
            let pause = Duration::from_secs(pauses.max().unwrap_or_default());
            if !probes.is_empty() {
                ensure!(kept.is_empty(), "probes have connections forgotten, also those of sockets that are kept");
                problems.extend(trials::probe_all(&self.islands, probes, pause, table)?);
            }
            problems.extend(kept.look(&self.islands, step, table)?);
            kept.open(&self.islands, keep)?;
        }
        kept.close(&self.islands)?;
        Ok(problems)
    }

    /// Makes the changes of this step of every case, and gives what it asks where that went well.
    fn take_steps<'a>(&mut self, cases: &[Numbered<'a>], step: usize, problems: &mut Vec<String>) -> Result<Asked<'a>> {
        let mut taken = Vec::new();
        for case in cases {
            match self.begin_step(*case, step) {
                Ok((changes, asked)) => taken.push((*case, changes, asked)),
                Err(error) => problems.push(case.problem(step, &error)),
            }
        }
        let lists: Vec<_> = taken.iter_mut().map(|(_, changes, _)| std::mem::take(changes)).collect();
        let mut all = Asked::default();
        for ((case, _, asked), made) in taken.into_iter().zip(self.control_plane.admin().change_all(&lists)?) {
            match made {
                Ok(()) => all.extend(asked),
                Err(error) => problems.push(case.problem(step, &error)),
            }
        }
        if cases.iter().any(|case| case.case.steps.get(step).is_some_and(|step| step.restart_kube_proxy)) {
            self.restart_kube_proxy()?;
        }
        Ok(all)
    }

    /// Changes the node as a step says, and gives the step's other changes and what it asks.
    fn begin_step<'a>(&mut self, case: Numbered<'a>, step: usize) -> Result<(Vec<Change>, Asked<'a>)> {
        let Some(content) = case.case.steps.get(step) else { return Ok(Default::default()) };
        let (deleted, applied) = content.objects(&case.case.name, case.number)?;
        let (nodes, applied): (Vec<_>, Vec<_>) = applied.into_iter().partition(|object| object["kind"] == "Node");
        for node in nodes {
            match node.pointer("/metadata/labels") {
                Some(labels) => self.label_node(labels)?,
                None => self.address_node(&objects::addresses(&node)).map(|_| ())?,
            }
        }
        let changes = deleted.into_iter().map(Change::Delete).chain(applied.into_iter().map(Change::Apply));
        let tasks = |probes: Vec<Probe>| probes.into_iter().map(|probe| Task { case, step, probe }).collect();
        let (probes, keep) = (tasks(content.probes(case.number)?), tasks(content.kept(case.number)?));
        Ok((changes.collect(), Asked { probes, keep }))
    }

    /// Makes lists of changes that must succeed.
    fn change(&self, lists: impl IntoIterator<Item = Vec<Change>>) -> Result<()> {
        let lists: Vec<_> = lists.into_iter().collect();
        self.control_plane.admin().change_all(&lists)?.into_iter().collect()
    }

    fn wait_for(&self, what: &str, is_true: impl Fn(&Island) -> Result<bool> + Sync) -> Result<()> {
        self.islands.try_map(|island| {
            eventually(what, PATIENCE, || Ok(is_true(island)?.then_some(())))
                .with_context(|| format!("log: {}", island.log()))
        })?;
        Ok(())
    }
}

fn usual_addresses(node: &Node) -> Value {
    json!([node.v4().to_string(), node.v6().to_string()])
}

pub(super) fn join<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| Err(anyhow!("a thread of the test panicked")))
}
