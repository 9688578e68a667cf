//! What many flows in the connection table cost the agent, which walks through them to find those that are over.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_common::abi::{Proto, flow_seen};
use lb_tests::flows::{Filling, fill, table};
use nix::time::{ClockId, clock_gettime};
use procfs::process::Process;
use serde::Serialize;

use super::island::Island;

/// The agent's thread that walks.
const THREAD: &str = "connections";

/// Between two looks at the thread.
const LOOK: Duration = Duration::from_millis(50);

/// A thread that uses nothing for so long is between two walks, which are ten seconds apart: within a walk it rests for nine
/// times as long as a slice takes, which on a busy machine is seconds.
const BETWEEN: Duration = Duration::from_secs(8);

/// A walk begins every ten seconds and takes a tenth of a processor at most.
const PATIENCE: Duration = Duration::from_secs(120);

/// What one walk through both tables took.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Pass {
    /// Processor time.
    pub(super) cpu_s: f64,
    /// From beginning to end: it rests in between.
    pub(super) wall_s: f64,
}

/// Puts so many flows into the table of an island's agent, TCP connections that were used just now.
pub(super) fn fill_table(island: &Island, n: u32) -> Result<()> {
    let now_s = u32::try_from(clock_gettime(ClockId::CLOCK_MONOTONIC)?.tv_sec())?;
    let seen = flow_seen::SYN | flow_seen::ACK | flow_seen::PACKET;
    let filling = Filling { proto: Proto::Tcp, seen, created_s: now_s };
    // Idle for longer than the shortest timeout from the first walk on: each is looked at together with its other half.
    fill(&mut table(island.node().bpffs().path())?, n, filling, |_| now_s.saturating_sub(60))
}

/// Waits for a whole walk of the agent with this process id.
pub(super) fn watch_pass(pid: u32) -> Result<Pass> {
    let (start, mut used) = (Instant::now(), used_s(pid)?);
    let mut quiet_since = start;
    // When the walk that is watched began, and what the thread had used before; none before the first quiet time.
    let (mut before, mut began) = (None, None);
    while start.elapsed() < PATIENCE {
        sleep(LOOK);
        let now = used_s(pid)?;
        if now > used {
            began = began.or(before.map(|_| Instant::now()));
            (used, quiet_since) = (now, Instant::now());
        } else if quiet_since.elapsed() >= BETWEEN {
            if let (Some(before), Some(began)) = (before, began) {
                return Ok(Pass { cpu_s: used - before, wall_s: (quiet_since - began).as_secs_f64() });
            }
            before = Some(used);
        }
    }
    bail!("in {PATIENCE:?} no walk through the connection table had a beginning and an end")
}

/// Processor time of the thread so far.
fn used_s(pid: u32) -> Result<f64> {
    let mut used_ns = 0;
    let mut found = false;
    for task in Process::new(pid.cast_signed()).context("the agent is gone")?.tasks()? {
        let task = task?;
        if task.stat()?.comm == THREAD {
            (used_ns, found) = (task.schedstat()?.sum_exec_runtime, true);
        }
    }
    ensure!(found, "the agent has no thread {THREAD:?}");
    Ok(Duration::from_nanos(used_ns).as_secs_f64())
}
