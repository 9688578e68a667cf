//! When the allocator is to give memory back. Objects come through the heap as JSON, of which a small part is kept; what is
//! freed lies scattered between it and would stay with the process. Decides nothing about what the agent keeps.
#![expect(unsafe_code, reason = "malloc_trim is in no library's safe interface")]

use std::mem;

use crate::reconcile::Report;

/// After so many changes it is time again: giving back takes some milliseconds, in which others wait for the allocator.
const CHANGES: usize = 1_000;

/// What was heard of the reconcile loop since memory was given back.
#[derive(Debug, Default)]
pub(super) struct Memory {
    synced: bool,
    changes: usize,
}

impl Memory {
    /// Gives memory back where it is time.
    pub(super) fn hear(&mut self, report: &Report) {
        if self.is_due(report) {
            give_back();
        }
    }

    /// After the first full lists, and after each [`CHANGES`].
    fn is_due(&mut self, report: &Report) -> bool {
        let first_lists = report.synced.is_some() && !mem::replace(&mut self.synced, true);
        self.changes += report.latencies.len();
        let due = first_lists || self.changes >= CHANGES;
        if due {
            self.changes = 0;
        }
        due
    }
}

fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes a number, touches free memory only, and may be called from any thread (malloc_trim(3): MT-Safe).
    unsafe {
        libc::malloc_trim(0)
    };
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn report(synced: bool, changes: usize) -> Report {
        Report {
            synced: synced.then_some(SystemTime::UNIX_EPOCH),
            latencies: vec![Duration::ZERO; changes],
            ..Report::default()
        }
    }

    #[test]
    fn memory_is_given_back_after_the_first_full_lists_and_after_many_changes() {
        let mut memory = Memory::default();
        assert!(!memory.is_due(&report(false, 1)), "nothing was freed yet");
        assert!(memory.is_due(&report(true, 10)));
        assert!(!memory.is_due(&report(true, CHANGES - 1)));
        assert!(memory.is_due(&report(true, 1)));
        assert!(!memory.is_due(&report(true, 1)));
    }
}
