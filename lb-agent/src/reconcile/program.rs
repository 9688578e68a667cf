//! Brings one Service into the maps, and notes how that went.

use std::{mem, time::Instant};

use super::{Clock, Problem, Reconciler, retry::Retry};
use crate::{
    datapath::{
        op::{Op, execute},
        store::{MapStore, StoreError},
    },
    event::ObjectName,
};

impl<S: MapStore, C: Clock> Reconciler<S, C> {
    /// Brings one Service into the maps, and notes how that went. Returns how many operations were done.
    pub(super) fn program(&mut self, service: &ObjectName, since: Instant) -> usize {
        if self.is_left_alone(service) {
            return 0;
        }
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
                let why = error.one_line();
                let before = self.not_fitting.insert(service.clone(), (since, why.clone()));
                if before.is_none_or(|(_, before)| before != why) {
                    tracing::error!(%service, "{why}");
                }
                self.note_error(service, &error);
            }
            Err(error) => {
                let retry = Retry::after(self.failed.remove(service), done > 0, since, now);
                if retry.is_first() {
                    tracing::warn!(%service, "{}; trying again", error.one_line());
                }
                self.failed.insert(service.clone(), retry);
                self.note_error(service, &error);
            }
        }
        done
    }

    /// Whether an earlier agent left this Service and nobody can say yet what it should be.
    fn is_left_alone(&mut self, service: &ObjectName) -> bool {
        let Some(told) = self.adopted.get_mut(service) else { return false };
        if self.model.is_certain(service) {
            self.adopted.remove(service);
            return false;
        }
        if !mem::replace(told, true) {
            tracing::warn!(%service, "stays as an earlier agent left it: the source cannot read it, or its endpoints");
        }
        true
    }

    fn write(&mut self, service: &ObjectName) -> (usize, Result<(), StoreError>) {
        let desired = self.model.desired(service);
        self.health_checks.set(service, desired.health_check);
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
    pub(super) fn execute(&mut self, ops: &[Op]) -> (usize, Result<(), StoreError>) {
        for (done, op) in ops.iter().enumerate() {
            if let Err(error) = execute(&mut self.store, op) {
                self.plan.abandon(&ops[done..]);
                self.write_errors += 1;
                return (done, Err(error));
            }
            self.plan.record(op);
            self.updated = Some(self.clock.wall());
        }
        (ops.len(), Ok(()))
    }

    fn note_error(&mut self, service: &ObjectName, error: &StoreError) {
        self.last_error =
            Some(Problem { at: self.clock.wall(), text: format!("Service {service}: {}", error.one_line()) });
    }
}
