//! Sockets that are kept from one step of a case to the next: opened on both islands, asked again after the changes of
//! each later step, and what became of them compared. Changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::Duration,
};

use anyhow::Result;

use super::{
    Client, Difference, Island, Pair, Table,
    outcome::fates,
    task::{Effort, Task, ask},
};
use crate::guest::{Enough, Handle, KeepSpec, Said};

/// How many sockets a line stands for: both islands are to meet the same endpoint with some of them.
const SOCKETS: u32 = 4;

/// A socket waits for silence only once.
const PATIENCE_MS: u64 = 1_000;

/// Before the sockets are asked each time, until nothing is wrong: both proxies end what is over some time after they have
/// written what holds for new connections.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(0),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(3),
];

/// Enough to see whether new sockets reach an endpoint.
const ANEW: Effort =
    Effort { enough: Enough::MissedOnceIn(100_000), patience_ms: 1_000, budget_ms: 10_000, side_by_side: 1 };

/// All that are kept.
#[derive(Default)]
pub(super) struct KeptSockets<'a>(Vec<Group<'a>>);

/// Those that one client opened in one step.
struct Group<'a> {
    client: Client,
    handles: Pair<Handle>,
    lines: Vec<Line<'a>>,
}

/// What the sockets of a group were told, line by line.
type AllSaid = Pair<Vec<Vec<Said>>>;

/// Those for one destination.
struct Line<'a> {
    task: Task<'a>,
    first: Pair<Vec<Said>>,
    /// Whose sockets have met their fate, and are not compared any more: what comes after that is for the application.
    settled: BTreeSet<String>,
}

impl<'a> KeptSockets<'a> {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Opens sockets for these.
    pub(super) fn open(&mut self, islands: &Pair<Island>, tasks: Vec<Task<'a>>) -> Result<()> {
        let mut of_client: BTreeMap<Client, Vec<Task<'a>>> = BTreeMap::new();
        for task in tasks {
            of_client.entry(task.probe.client).or_default().push(task);
        }
        for (client, tasks) in of_client {
            let specs: Vec<KeepSpec> = tasks.iter().map(spec).collect();
            let opened = islands.try_map(|island| {
                let handle = island.client(client).keep(specs.clone())?;
                Ok((handle, island.client(client).said(handle)?))
            })?;
            let Pair { kube_proxy: (kube_proxy, said), agent: (agent, agent_said) } = opened;
            let first = said.into_iter().zip(agent_said).map(|(kube_proxy, agent)| Pair { kube_proxy, agent });
            let lines = tasks.into_iter().zip(first);
            let lines = lines.map(|(task, first)| Line { task, first, settled: BTreeSet::new() }).collect();
            self.0.push(Group { client, handles: Pair { kube_proxy, agent }, lines });
        }
        Ok(())
    }

    /// Asks all of them, again while something is wrong that may be on its way, and says what is wrong in the end.
    pub(super) fn look(&mut self, islands: &Pair<Island>, step: usize, table: &mut Table) -> Result<Vec<String>> {
        let mut waiting: Vec<&mut Group<'a>> = self.0.iter_mut().collect();
        let mut problems = Vec::new();
        for (pause, tries) in PAUSES.into_iter().zip(1..) {
            if waiting.is_empty() {
                break;
            }
            thread::sleep(pause);
            problems.clear();
            let mut again = Vec::new();
            for group in waiting {
                let (found, said) = group.look(islands, step, table)?;
                if found.is_empty() || tries == PAUSES.len() {
                    group.settle(&said);
                } else {
                    again.push(group);
                }
                problems.extend(found);
            }
            waiting = again;
        }
        Ok(problems)
    }

    /// Closes them.
    pub(super) fn close(self, islands: &Pair<Island>) -> Result<()> {
        self.0.iter().try_for_each(|group| {
            group.on(islands).try_map(|(island, handle)| island.client(group.client).release(*handle)).map(|_| ())
        })
    }
}

fn spec(task: &Task<'_>) -> KeepSpec {
    let (traffic, target) = (task.probe.traffic, task.probe.to.into());
    KeepSpec { traffic, target, sockets: SOCKETS, patience_ms: PATIENCE_MS }
}

impl Group<'_> {
    fn on<'i>(&self, islands: &'i Pair<Island>) -> Pair<(&'i Island, Handle)> {
        Pair { kube_proxy: (&islands.kube_proxy, self.handles.kube_proxy), agent: (&islands.agent, self.handles.agent) }
    }

    /// Asks them, and says what is wrong with what they were told, and what that is.
    fn look(&self, islands: &Pair<Island>, step: usize, table: &mut Table) -> Result<(Vec<String>, AllSaid)> {
        let said = self.on(islands).try_map(|(island, handle)| island.client(self.client).ask_again(*handle))?;
        let mut problems = Vec::new();
        for (line, now) in self.lines.iter().zip(said.kube_proxy.iter().zip(&said.agent)) {
            problems.extend(line.judge(&islands.kube_proxy, step, now, table)?);
        }
        Ok((problems, said))
    }

    fn settle(&mut self, said: &AllSaid) {
        for (line, now) in self.lines.iter_mut().zip(said.kube_proxy.iter().zip(&said.agent)) {
            line.settle(now);
        }
    }
}

impl Line<'_> {
    fn fates(&self, now: (&Vec<Said>, &Vec<Said>)) -> [BTreeMap<String, BTreeSet<String>>; 2] {
        [fates(&self.first.kube_proxy, now.0), fates(&self.first.agent, now.1)]
    }

    /// What is wrong with what they were told now.
    fn judge(
        &self,
        reference: &Island,
        step: usize,
        now: (&Vec<Said>, &Vec<Said>),
        table: &mut Table,
    ) -> Result<Vec<String>> {
        let probe = &self.task.probe;
        let [kube_proxy, agent] = self.fates(now);
        let mut problems = Vec::new();
        for (first, theirs) in &kube_proxy {
            let Some(ours) = agent.get(first).filter(|ours| *ours != theirs && !self.settled.contains(first)) else {
                continue;
            };
            let anew = ask(reference, probe.client, &[probe], ANEW)?;
            let is_serving = anew.iter().any(|outcome| outcome.ends.contains_key(first));
            let case = &self.task.case.case.name;
            let difference = Difference::of_kept(case, probe, first, is_serving, [theirs, ours]);
            if !table.covers(&difference) {
                let opened = self.task.step + 1;
                problems.push(format!(
                    "{case} step {}: kept since {opened}: {probe}\n    unlisted: `{difference}`",
                    step + 1
                ));
            }
        }
        Ok(problems)
    }

    fn settle(&mut self, now: (&Vec<Said>, &Vec<Said>)) {
        let goes_on = |fates: &BTreeSet<String>| fates.iter().eq(["same"]);
        for of_proxy in self.fates(now) {
            self.settled.extend(of_proxy.into_iter().filter(|(_, fates)| !goes_on(fates)).map(|(first, _)| first));
        }
    }
}
