//! What a report of the reconcile loop says that none said before it. Tells nobody.

use std::{mem, time::SystemTime};

use crate::reconcile::Report;

/// What the reports so far said. Most say nothing new, and each look at the maps costs system calls.
#[derive(Debug, Default)]
pub(super) struct Heard {
    synced: Option<SystemTime>,
    updated: Option<SystemTime>,
}

/// What a report says that none said before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct News {
    /// The first full lists are in the maps.
    pub(super) in_sync: bool,
    /// The maps were written, or are known to be as they should without that.
    pub(super) written: bool,
}

impl Heard {
    pub(super) fn news(&mut self, report: &Report) -> News {
        let before = mem::replace(self, Self { synced: report.synced, updated: report.updated });
        let in_sync = before.synced.is_none() && report.synced.is_some();
        News { in_sync, written: in_sync || before.updated != report.updated }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn those_who_follow_hear_of_the_first_sync_once_and_of_each_write() {
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let mut heard = Heard::default();
        let mut news = |synced, updated| {
            let News { in_sync, written } = heard.news(&Report { synced, updated, ..Report::default() });
            (in_sync, written)
        };
        assert_eq!(news(None, None), (false, false), "the lists are still to come");
        assert_eq!(news(None, at(1)), (false, true));
        assert_eq!(news(at(2), at(1)), (true, true), "nothing was written, and now that is known to be right");
        assert_eq!(news(at(2), at(1)), (false, false));
        assert_eq!(news(at(2), at(3)), (false, true));
    }
}
