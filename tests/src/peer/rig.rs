//! Both islands on one control plane, and the running of cases on them.
//!
//! Cases are run side by side: the first step of every case, then the probes of all; the second step of every case, and
//! so on. Both proxies then take in many changes at once, as few times as there are steps in the longest case.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter::once,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use serde_json::{Value, json};

use super::{
    Case, Client, Island, Outcome, Probe, Proxy, Step, Table,
    marker::{self, ZONE},
    objects,
    task::{Effort, Numbered, Task, ask},
};
use crate::{
    control_plane::{Change, ControlPlane, Kubelet},
    guest::Enough,
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

/// The control plane and the two islands. The fields are dropped in this order.
pub struct Rig {
    islands: Pair<Island>,
    control_plane: ControlPlane,
    _hub: Node,
    n_changes: u16,
    node_labels: Value,
}

/// How probes are tried: first for what is expected, then, where something else was met, with the patience and the
/// number that make an accident of a busy machine or of chance unlikely, and fewer at a time, so that the machine is
/// less busy.
const TRIES: [Effort; 4] = [
    Effort { enough: Enough::MissedOnceIn(20), patience_ms: 500, budget_ms: 5_000, side_by_side: 64 },
    Effort { enough: Enough::MissedOnceIn(1_000), patience_ms: 1_000, budget_ms: 10_000, side_by_side: 16 },
    Effort { enough: Enough::MissedOnceIn(1_000_000_000), patience_ms: 3_000, budget_ms: 20_000, side_by_side: 8 },
    Effort { enough: Enough::MissedOnceIn(1_000_000_000), patience_ms: 3_000, budget_ms: 20_000, side_by_side: 4 },
];

impl Rig {
    /// Starts everything, and waits until both proxies work. `node_ports` is their flag `--nodeport-addresses`.
    pub fn start(node_ports: &str) -> Result<Self> {
        let hub = Node::with("hub", 100, Layout::PointToPoint)?;
        let control_plane = ControlPlane::start_without_controllers(&hub)?;
        let islands =
            Pair { kube_proxy: Island::new(&hub, &control_plane, 1)?, agent: Island::new(&hub, &control_plane, 2)? };
        let mut rig = Self { islands, control_plane, _hub: hub, n_changes: 0, node_labels: json!({}) };
        // Both islands are this one node.
        Kubelet::register(rig.islands.agent.node(), rig.control_plane.admin())?;
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": marker::NAMESPACE}});
        rig.change([once(namespace).chain(marker::of_zone()?).map(Change::Apply).collect()])?;
        rig.islands.kube_proxy.start(Proxy::KubeProxy, &rig.control_plane, node_ports)?;
        rig.islands.agent.start(Proxy::Agent, &rig.control_plane, node_ports)?;
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

    /// Runs cases side by side, also such as change what they share if they all change it to the same, and removes
    /// their objects.
    pub fn run_once(&mut self, cases: &[&Case], table: &mut Table) -> Result<Vec<String>> {
        let numbered: Vec<_> = cases.iter().zip(0..).map(|(case, number)| Numbered { case, number }).collect();
        let problems = self.run_together(&numbered, table);
        let lists = cases.iter().map(|case| {
            let keys: BTreeSet<&String> = case.steps.iter().flat_map(|step| step.apply.keys()).collect();
            let namespaced = keys.into_iter().filter(|key| !objects::is_of_the_node(key));
            namespaced.map(|key| Ok(Change::Delete(objects::reference(&case.name, key)?))).collect()
        });
        self.change(lists.collect::<Result<Vec<_>>>()?)?;
        self.label_node(&json!({}))?;
        problems
    }

    /// Runs the cases and says what is wrong: what kube-proxy did otherwise than expected, differences that the table
    /// does not list, and steps that could not be made.
    pub fn run(&mut self, cases: &[Case], table: &mut Table) -> Result<Vec<String>> {
        let numbered = cases.iter().zip(0..).map(|(case, number)| Numbered { case, number });
        let (alone, together): (Vec<_>, Vec<_>) = numbered.partition(|numbered| numbered.case.alone);
        let mut problems = self.run_together(&together, table)?;
        for one in alone {
            problems.extend(self.run_together(&[one], table)?);
            self.label_node(&json!({}))?;
        }
        Ok(problems)
    }

    fn run_together(&mut self, cases: &[Numbered<'_>], table: &mut Table) -> Result<Vec<String>> {
        let mut problems = Vec::new();
        let namespace = |name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        self.change(cases.iter().map(|case| vec![Change::Apply(namespace(&case.case.name))]))?;
        let n_steps = cases.iter().map(|case| case.case.steps.len()).max().unwrap_or_default();
        for step in 0..n_steps {
            let tasks = self.take_steps(cases, step, &mut problems)?;
            self.settle().with_context(|| format!("after step {} of {} cases", step + 1, cases.len()))?;
            let pauses = cases.iter().filter_map(|case| case.case.steps.get(step)?.pause);
            let pause = Duration::from_secs(pauses.max().unwrap_or_default());
            problems.extend(self.probe_all(tasks, pause, table)?);
        }
        Ok(problems)
    }

    /// Makes the changes of this step of every case, and gives its probes where that went well.
    fn take_steps<'a>(
        &mut self,
        cases: &[Numbered<'a>],
        step: usize,
        problems: &mut Vec<String>,
    ) -> Result<Vec<Task<'a>>> {
        let mut taken = Vec::new();
        for case in cases {
            let Some(content) = case.case.steps.get(step) else { continue };
            match self.begin_step(*case, content) {
                Ok((changes, probes)) => taken.push((*case, changes, probes)),
                Err(error) => problems.push(case.problem(step, &error)),
            }
        }
        let lists: Vec<_> = taken.iter_mut().map(|(_, changes, _)| std::mem::take(changes)).collect();
        let mut tasks = Vec::new();
        for ((case, _, probes), made) in taken.into_iter().zip(self.control_plane.admin().change_all(&lists)?) {
            match made {
                Ok(()) => tasks.extend(probes.into_iter().map(|probe| Task { case, step, probe })),
                Err(error) => problems.push(case.problem(step, &error)),
            }
        }
        Ok(tasks)
    }

    /// Changes the node as a step says, and gives the step's other changes and its probes.
    fn begin_step(
        &mut self,
        Numbered { case, number }: Numbered<'_>,
        step: &Step,
    ) -> Result<(Vec<Change>, Vec<Probe>)> {
        let (deleted, applied) = step.objects(&case.name, number)?;
        let (nodes, applied): (Vec<_>, Vec<_>) = applied.into_iter().partition(|object| object["kind"] == "Node");
        for node in nodes {
            self.label_node(&node["metadata"]["labels"])?;
        }
        let changes = deleted.into_iter().map(Change::Delete).chain(applied.into_iter().map(Change::Apply));
        Ok((changes.collect(), step.probes(number)?))
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

    /// Tries all tasks after a pause, those again that went otherwise than they should, and says what is wrong in the
    /// end.
    fn probe_all(&self, mut tasks: Vec<Task<'_>>, pause: Duration, table: &mut Table) -> Result<Vec<String>> {
        let mut problems = Vec::new();
        for effort in TRIES {
            thread::sleep(pause);
            let outcomes = self.try_once(&tasks, effort)?;
            let mut again = Vec::new();
            problems.clear();
            for (task, outcome) in tasks.into_iter().zip(outcomes) {
                let found = task.judge(outcome, table);
                if !found.is_empty() {
                    problems.extend(found);
                    again.push(task);
                }
            }
            tasks = again;
            if tasks.is_empty() {
                break;
            }
        }
        Ok(problems)
    }

    /// One outcome a task and island. Clients work side by side, each on its own tasks.
    fn try_once(&self, tasks: &[Task<'_>], effort: Effort) -> Result<Vec<Pair<Outcome>>> {
        let outcomes = self.islands.try_map(|island| {
            island.forget_connections()?;
            let by_client = thread::scope(|scope| {
                let threads = Client::ALL.map(|client| {
                    let own = tasks.iter().enumerate().filter(move |(_, task)| task.probe.client == client);
                    scope.spawn(move || {
                        let (numbers, probes): (Vec<_>, Vec<_>) = own.map(|(n, task)| (n, &task.probe)).unzip();
                        let outcomes = ask(island, client, &probes, effort)?;
                        Ok(numbers.into_iter().zip(outcomes).collect::<Vec<_>>())
                    })
                });
                threads.into_iter().map(join).collect::<Result<Vec<_>>>()
            })?;
            Ok(by_client.into_iter().flatten().collect::<BTreeMap<usize, Outcome>>())
        })?;
        let pairs = outcomes.kube_proxy.into_values().zip(outcomes.agent.into_values());
        Ok(pairs.map(|(kube_proxy, agent)| Pair { kube_proxy, agent }).collect())
    }
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| Err(anyhow!("a thread of the test panicked")))
}
