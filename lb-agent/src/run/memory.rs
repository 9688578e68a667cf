//! When the allocator is to give memory back. Objects come through the heap as JSON, of which a small part is kept; what is
//! freed lies scattered between it and would stay with the process. Decides nothing about what the agent keeps.
#![expect(unsafe_code, reason = "malloc_trim is in no library's safe interface")]

use super::news::News;

/// After so many changes it is time again: giving back takes some milliseconds, in which others wait for the allocator.
const CHANGES: usize = 1_000;

/// What was heard of the reconcile loop since memory was given back.
#[derive(Debug, Default)]
pub(super) struct Memory {
    changes: usize,
}

impl Memory {
    /// Gives memory back where it is time: after the first full lists, and after each [`CHANGES`].
    pub(super) fn hear(&mut self, news: News, changes: usize) {
        if self.is_due(news, changes) {
            give_back();
        }
    }

    fn is_due(&mut self, news: News, changes: usize) -> bool {
        self.changes += changes;
        let due = news.in_sync || self.changes >= CHANGES;
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
    use super::*;

    const FIRST_LISTS: News = News { in_sync: true, written: true };
    const A_CHANGE: News = News { in_sync: false, written: true };

    #[test]
    fn memory_is_given_back_after_the_first_full_lists_and_after_many_changes() {
        let mut memory = Memory::default();
        assert!(!memory.is_due(A_CHANGE, 1), "nothing was freed yet");
        assert!(memory.is_due(FIRST_LISTS, 10));
        assert!(!memory.is_due(A_CHANGE, CHANGES - 1));
        assert!(memory.is_due(A_CHANGE, 1));
        assert!(!memory.is_due(A_CHANGE, 1));
    }
}
