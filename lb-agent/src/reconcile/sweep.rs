//! The end of a batch: what is not wanted any more goes.

use super::{Clock, Problem, Reconciler, retry::Retry};
use crate::datapath::store::{MapStore, StoreError};

impl<S: MapStore, C: Clock> Reconciler<S, C> {
    /// All Services of the batch were tried: what is not wanted any more goes.
    pub(super) fn finish_batch(&mut self, budget: &mut usize) {
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
                    tracing::warn!("removing what is no longer wanted: {}; trying again", error.one_line());
                }
                self.sweep_failed = Some(retry);
                self.last_error = Some(Problem { at: self.clock.wall(), text: error.one_line() });
            }
        }
    }

    /// Removes what is not wanted any more, until the budget is used up. One port's failure does not keep the others.
    fn sweep_within(&mut self, budget: &mut usize) -> Result<(), StoreError> {
        let mut failure = Ok(());
        let mut last = None;
        while let Some(id) = self.plan.next_garbage(last) {
            if *budget == 0 {
                return failure;
            }
            last = Some(id);
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
}
