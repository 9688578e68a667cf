//! The loop from events to maps: events go into the model, the Services that changed through the plan into the store.
//!
//! [`Reconciler`] is synchronous and is told the time; [`run`] is its asynchronous shell. Nothing is written before the
//! sources have delivered their first full lists: until then the maps of an earlier agent go on as they are. A Service
//! whose write fails is tried again, the others go on meanwhile. What no source wants is removed only when all that is
//! wanted has been tried.

mod clock;
mod conflicts;
mod health_checks;
mod node;
mod program;
mod queue;
mod report;
mod retry;
mod run;
mod sweep;

use std::{
    collections::BTreeMap,
    mem,
    time::{Duration, Instant, SystemTime},
};

pub use self::{
    clock::{Clock, SystemClock},
    health_checks::Checks,
    report::{Problem, Report},
    run::{Update, run},
};
use self::{conflicts::Conflicts, health_checks::HealthChecks, node::NodeFate, queue::Queue, retry::Retry};
pub use crate::plan::{GoneBackend, keeps_clients};
use crate::{
    datapath::{
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
    /// Services that an earlier agent left and of which it is not known yet what they should be; and whether that was told.
    adopted: BTreeMap<ObjectName, bool>,
    /// Events came since those were last looked at.
    heard: bool,
    pruned: bool,
    synced: Option<SystemTime>,
    updated: Option<SystemTime>,
    write_errors: u64,
    last_error: Option<Problem>,
    latencies: Vec<Duration>,
    node: NodeFate,
    health_checks: HealthChecks,
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
        let adopted = plan.services().map(|service| (service.clone(), false)).collect();
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
            adopted,
            heard: false,
            pruned: false,
            synced: None,
            updated: None,
            write_errors: 0,
            last_error: None,
            latencies: Vec::new(),
            node: NodeFate::default(),
            health_checks: HealthChecks::default(),
        })
    }

    /// Takes in events. Writes nothing.
    pub fn handle(&mut self, events: impl IntoIterator<Item = Event>) {
        let now = self.clock.now();
        for event in events {
            self.heard = true;
            // Endpoints, of which most events are, have no part in it.
            self.conflicts_stale |=
                !matches!(event, Event::SliceApplied(_) | Event::SliceDeleted(_) | Event::SlicesReset(_));
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
        if mem::take(&mut self.conflicts_stale) {
            let conflicts = self.model.conflicts().map(|conflict| conflict.to_string());
            let refusals = self.model.refusals().map(ToString::to_string);
            for conflict in self.conflicts.update(conflicts.chain(refusals)) {
                tracing::warn!("{conflict}");
            }
        }
    }

    /// What an earlier agent left and no source names now is staged as not wanted. What the source cannot read stays as it is
    /// and is looked at again with each event.
    fn queue_adopted(&mut self) {
        if mem::take(&mut self.heard) {
            let now = self.clock.now();
            for service in self.adopted.keys() {
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

    /// When [`Self::step`] has something to do again without an event.
    pub fn next_wake(&self) -> Option<Instant> {
        if !self.model.in_sync() {
            return None;
        }
        let retries = self.failed.values().chain(&self.sweep_failed);
        retries.map(|retry| retry.at).min()
    }

    /// The state now. Takes the latencies with it.
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
            latencies: mem::take(&mut self.latencies),
        }
    }

    /// The backends that stopped serving since the last call: see [`Plan::take_gone`].
    pub fn take_gone(&mut self) -> Vec<GoneBackend> {
        self.plan.take_gone()
    }

    /// What load balancers' health checks are to be told of each Service that asks for it, if that changed since the
    /// last call.
    pub fn take_health_checks(&mut self) -> Option<Checks> {
        self.health_checks.take_changed(self.model.nodeport_addresses())
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
