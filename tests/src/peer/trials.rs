//! Trying the probes of a step, and once more what went otherwise than it should.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::Result;

use super::{
    Client, Island, Outcome, Pair, Table,
    rig::join,
    task::{Effort, Task, ask},
};
use crate::guest::Enough;

/// How probes are tried: first for what is expected, then, where something else was met, with the patience and the
/// number that make an accident of a busy machine or of chance unlikely, and fewer at a time, so that the machine is
/// less busy.
const TRIES: [Effort; 4] = [
    Effort { enough: Enough::MissedOnceIn(20), patience_ms: 500, budget_ms: 5_000, side_by_side: 64 },
    Effort { enough: Enough::MissedOnceIn(1_000), patience_ms: 1_000, budget_ms: 10_000, side_by_side: 16 },
    Effort { enough: Enough::MissedOnceIn(1_000_000_000), patience_ms: 3_000, budget_ms: 20_000, side_by_side: 8 },
    Effort { enough: Enough::MissedOnceIn(1_000_000_000), patience_ms: 3_000, budget_ms: 20_000, side_by_side: 4 },
];

/// Tries all tasks after a pause, those again that went otherwise than they should, and says what is wrong in the
/// end.
pub(super) fn probe_all(
    islands: &Pair<Island>,
    mut tasks: Vec<Task<'_>>,
    pause: Duration,
    table: &mut Table,
) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for effort in TRIES {
        thread::sleep(pause);
        let outcomes = try_once(islands, &tasks, effort)?;
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
fn try_once(islands: &Pair<Island>, tasks: &[Task<'_>], effort: Effort) -> Result<Vec<Pair<Outcome>>> {
    let outcomes = islands.try_map(|island| {
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
