//! The loop from events to maps: events go into the model, the Services that changed through the plan into the store.
//!
//! [`Reconciler`] is synchronous and is told the time; [`run`] is its asynchronous shell. Nothing is written before the
//! sources have delivered their first full lists: until then the maps of an earlier agent go on as they are. A Service
//! whose write fails is tried again, the others go on meanwhile. What no source wants is removed only when all that is
//! wanted has been tried.

mod clock;
mod conflicts;
mod gone;
mod queue;
mod report;
mod retry;
mod run;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

pub use self::{
    clock::{Clock, SystemClock},
    gone::GoneBackend,
    report::{Problem, Report},
    run::{Update, run},
};
use self::{conflicts::Conflicts, queue::Queue, retry::Retry};
use crate::{
    datapath::{
        op::{Op, execute},
        snapshot::Snapshot,
        store::{MapStore, StoreError},
    },
    event::{Event, ObjectName},
    model::{Model, ModelConfig},
    plan::Plan,
};

/// How many map operations one [`Reconciler::step`] does at least before it comes back for new events: a few
/// milliseconds' worth.
const OPS_PER_STEP: usize = 1_000;

/// Whether there is more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Call again at once, after new events were taken in.
    More,
    /// Nothing to do before the next event or [`Reconciler::next_wake`].
    Idle,
}

/// Model, plan and maps, and what is still to be done.
#[derive(Debug)]
pub struct Reconciler<S, C = SystemClock> {
    model: Model,
    plan: Plan,
    store: S,
    clock: C,
    queue: Queue,
    /// Services whose last write failed.
    failed: BTreeMap<ObjectName, Retry>,
    /// Services that do not fit: since when, and why.
    not_fitting: BTreeMap<ObjectName, (Instant, String)>,
    conflicts: Conflicts,
    /// Whether events came since the conflicts were last looked at.
    conflicts_stale: bool,
    /// [`Plan::freed`] when those were last tried.
    freed: u64,
    /// The last removal failed.
    sweep_failed: Option<Retry>,
    /// Whether something may be left to remove.
    sweep: bool,
    adopted_queued: bool,
    pruned: bool,
    synced: Option<SystemTime>,
    updated: Option<SystemTime>,
    write_errors: u64,
    last_error: Option<Problem>,
    latencies: Vec<Duration>,
    node: NodeFate,
    gone: Vec<GoneBackend>,
}

/// What the Node object says of this node's future.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum NodeFate {
    /// No Node object was seen: a directory of manifests may have none.
    #[default]
    Unknown,
    Stays,
    GoesAway,
}

impl NodeFate {
    fn after(self, event: &Event) -> Self {
        match event {
            Event::NodeApplied(node) if node.going_away => Self::GoesAway,
            Event::NodeApplied(_) => Self::Stays,
            Event::NodeDeleted if self != Self::Unknown => Self::GoesAway,
            _ => self,
        }
    }
}

impl<S: MapStore> Reconciler<S> {
    /// See [`Reconciler::with_clock`].
    ///
    /// # Errors
    /// The maps cannot be read.
    pub fn new(store: S, model: ModelConfig) -> Result<Self, StoreError> {
        Self::with_clock(store, SystemClock, model)
    }
}

impl<S: MapStore, C: Clock> Reconciler<S, C> {
    /// Adopts what the maps hold.
    ///
    /// # Errors
    /// The maps cannot be read.
    pub fn with_clock(store: S, clock: C, model: ModelConfig) -> Result<Self, StoreError> {
        let plan = Plan::adopt(Snapshot::read(&store)?);
        Ok(Self {
            model: Model::new(model),
            plan,
            store,
            clock,
            queue: Queue::default(),
            failed: BTreeMap::new(),
            not_fitting: BTreeMap::new(),
            conflicts: Conflicts::default(),
            conflicts_stale: false,
            freed: 0,
            sweep_failed: None,
            sweep: false,
            adopted_queued: false,
            pruned: false,
            synced: None,
            updated: None,
            write_errors: 0,
            last_error: None,
            latencies: Vec::new(),
            gone: Vec::new(),
            node: NodeFate::default(),
        })
    }

    /// Takes in events. Writes nothing.
    pub fn handle(&mut self, events: impl IntoIterator<Item = Event>) {
        let now = self.clock.now();
        for event in events {
            self.conflicts_stale = true;
            self.node = self.node.after(&event);
            for service in self.model.apply(event) {
                self.queue.push(service, now);
            }
        }
    }

    /// Does some of what is to be done, if all sources are in sync.
    pub fn step(&mut self) -> Step {
        if !self.model.in_sync() {
            return Step::Idle;
        }
        self.note_conflicts();
        self.queue_adopted();
        self.queue_retries();
        let mut budget = OPS_PER_STEP;
        while budget > 0 {
            let Some((service, since)) = self.queue.pop() else { break };
            let done = self.program(&service, since);
            budget = budget.saturating_sub(1 + done);
        }
        if budget > 0 && self.queue.is_empty() {
            self.finish_batch(&mut budget);
        }
        let room = self.plan.freed() != self.freed && !self.not_fitting.is_empty();
        if budget == 0 || !self.queue.is_empty() || room { Step::More } else { Step::Idle }
    }

    /// Only when in sync: while the first lists arrive, who holds an address may change with each event.
    fn note_conflicts(&mut self) {
        if std::mem::take(&mut self.conflicts_stale) {
            let conflicts = self.model.conflicts().map(|conflict| conflict.to_string());
            let refusals = self.model.refusals().map(ToString::to_string);
            for conflict in self.conflicts.update(conflicts.chain(refusals)) {
                tracing::warn!("{conflict}");
            }
        }
    }

    /// What an earlier agent left and no source names now is staged as not wanted.
    fn queue_adopted(&mut self) {
        if !self.adopted_queued {
            self.adopted_queued = true;
            let now = self.clock.now();
            for service in self.plan.services() {
                self.queue.push(service.clone(), now);
            }
        }
    }

    fn queue_retries(&mut self) {
        let now = self.clock.now();
        for (service, retry) in self.failed.iter().filter(|(_, retry)| retry.at <= now) {
            self.queue.push(service.clone(), retry.since);
        }
        if self.plan.freed() != self.freed {
            self.freed = self.plan.freed();
            for (service, (since, _)) in &self.not_fitting {
                self.queue.push(service.clone(), *since);
            }
        }
    }

    /// Brings one Service into the maps, and notes how that went. Returns how many operations were done.
    fn program(&mut self, service: &ObjectName, since: Instant) -> usize {
        let (done, result) = self.write(service);
        let now = self.clock.now();
        match result {
            Ok(()) => {
                self.failed.remove(service);
                self.not_fitting.remove(service);
                if done > 0 {
                    self.latencies.push(now.saturating_duration_since(since));
                }
            }
            Err(error @ StoreError::Full { .. }) => {
                self.failed.remove(service);
                let why = one_line(&error);
                let before = self.not_fitting.insert(service.clone(), (since, why.clone()));
                if before.is_none_or(|(_, before)| before != why) {
                    tracing::error!(%service, "{why}");
                }
                self.note_error(service, &error);
            }
            Err(error) => {
                let retry = Retry::after(self.failed.remove(service), done > 0, since, now);
                if retry.is_first() {
                    tracing::warn!(%service, "{}; trying again", one_line(&error));
                }
                self.failed.insert(service.clone(), retry);
                self.note_error(service, &error);
            }
        }
        done
    }

    fn write(&mut self, service: &ObjectName) -> (usize, Result<(), StoreError>) {
        let desired = self.model.desired(service);
        let mut done = 0;
        loop {
            let staged = self.plan.stage(&desired);
            self.sweep = true;
            let (n, result) = self.execute(&staged.ops);
            done += n;
            if result.is_err() {
                return (done, result);
            }
            if !staged.wants_readers_gone {
                return (done, staged.full.map_or(Ok(()), Err));
            }
            let (_, result) = self.execute(&[Op::WaitForReaders]);
            if result.is_err() {
                return (done, result);
            }
        }
    }

    /// Carries out operations up to the first that fails. Returns how many were done.
    fn execute(&mut self, ops: &[Op]) -> (usize, Result<(), StoreError>) {
        for (done, op) in ops.iter().enumerate() {
            if let Err(error) = execute(&mut self.store, op) {
                self.plan.abandon(&ops[done..]);
                self.write_errors += 1;
                return (done, Err(error));
            }
            self.plan.record(op);
            self.gone.extend(gone::taken_away(op));
            self.updated = Some(self.clock.wall());
        }
        (ops.len(), Ok(()))
    }

    /// All Services of the batch were tried: what is not wanted any more goes.
    fn finish_batch(&mut self, budget: &mut usize) {
        if self.synced.is_none() {
            self.synced = Some(self.clock.wall());
        }
        if !self.pruned {
            self.pruned = true;
            self.sweep = true;
            self.plan.prune();
        }
        let now = self.clock.now();
        if self.sweep && self.sweep_failed.as_ref().is_none_or(|retry| retry.at <= now) {
            self.sweep_all(budget);
        }
    }

    fn sweep_all(&mut self, budget: &mut usize) {
        let before = *budget;
        let result = self.sweep_within(budget);
        let now = self.clock.now();
        match result {
            Ok(()) => {
                self.sweep_failed = None;
                self.sweep = *budget == 0;
            }
            Err(error) => {
                let retry = Retry::after(self.sweep_failed.take(), *budget < before, now, now);
                if retry.is_first() {
                    tracing::warn!("removing what is no longer wanted: {}; trying again", one_line(&error));
                }
                self.sweep_failed = Some(retry);
                self.last_error = Some(Problem { at: self.clock.wall(), text: one_line(&error) });
            }
        }
    }

    /// Removes what is not wanted any more, until the budget is used up. One port's failure does not keep the others.
    fn sweep_within(&mut self, budget: &mut usize) -> Result<(), StoreError> {
        let mut failure = Ok(());
        for id in self.plan.garbage() {
            if *budget == 0 {
                return failure;
            }
            let ops = self.plan.sweep(id);
            let (done, result) = self.execute(&ops);
            *budget = budget.saturating_sub(done);
            failure = result.and(failure);
        }
        for op in self.plan.sweep_rest() {
            let (done, result) = self.execute(&[op]);
            *budget = budget.saturating_sub(done);
            failure = result.and(failure);
        }
        failure
    }

    fn note_error(&mut self, service: &ObjectName, error: &StoreError) {
        self.last_error =
            Some(Problem { at: self.clock.wall(), text: format!("Service {service}: {}", one_line(error)) });
    }

    /// When [`Self::step`] has something to do again without an event.
    pub fn next_wake(&self) -> Option<Instant> {
        if !self.model.in_sync() {
            return None;
        }
        let retries = self.failed.values().chain(&self.sweep_failed);
        retries.map(|retry| retry.at).min()
    }

    /// The state now. Takes the latencies and what is gone with it.
    pub fn report(&mut self) -> Report {
        let waiting = self.model.in_sync().then(|| self.queue.oldest()).flatten();
        let failing = self.failed.values().map(|retry| retry.since);
        let first_not_fitting = self.not_fitting.first_key_value();
        Report {
            synced: self.synced,
            updated: self.updated,
            pending_since: failing.chain(waiting).min(),
            node_going_away: self.node == NodeFate::GoesAway,
            usage: self.plan.usage(),
            failing: self.failed.len(),
            not_fitting: self.not_fitting.len(),
            first_not_fitting: first_not_fitting.map(|(service, (_, why))| format!("Service {service}: {why}")),
            conflicts: self.conflicts.count(),
            first_conflict: self.conflicts.first().cloned(),
            write_errors: self.write_errors,
            last_error: self.last_error.clone(),
            latencies: std::mem::take(&mut self.latencies),
            gone: std::mem::take(&mut self.gone),
        }
    }

    /// The Services that keep what they had, in whole or in part, because a map is full, and why.
    pub fn not_fitting(&self) -> impl Iterator<Item = (&ObjectName, &str)> {
        self.not_fitting.iter().map(|(service, (_, why))| (service, why.as_str()))
    }

    /// The maps, to look at.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// The maps, to change what the tests change about them.
    #[cfg(feature = "sim")]
    pub fn store_mut(&mut self) -> &mut S {
        &mut self.store
    }

    /// Ends here. The maps stay as they are.
    pub fn into_store(self) -> S {
        self.store
    }
}

/// An error with its causes.
fn one_line(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
