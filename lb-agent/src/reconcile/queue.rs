//! Which Services wait to be brought into the maps, and since when.

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use crate::event::ObjectName;

/// A queue without duplicates that is served from both ends in turn: a change that arrives behind ten thousand others
/// waits for one other Service, and those others still go on.
#[derive(Debug, Default)]
pub(super) struct Queue {
    order: VecDeque<ObjectName>,
    since: HashMap<ObjectName, Instant>,
    newest_next: bool,
}

impl Queue {
    /// Adds a Service that changed at `since`. One that waits already keeps its place.
    pub(super) fn push(&mut self, service: ObjectName, since: Instant) {
        if let Some(known) = self.since.get_mut(&service) {
            *known = since.min(*known);
        } else {
            self.since.insert(service.clone(), since);
            self.order.push_back(service);
        }
    }

    /// The next Service, and since when it waits.
    pub(super) fn pop(&mut self) -> Option<(ObjectName, Instant)> {
        self.newest_next = !self.newest_next;
        let service = if self.newest_next { self.order.pop_back() } else { self.order.pop_front() }?;
        let since = self.since.remove(&service)?;
        Some((service, since))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Since when the one that waits longest does.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.since.values().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ObjectName {
        ObjectName::new("default", name)
    }

    #[test]
    fn a_late_change_overtakes_a_long_batch_and_the_batch_goes_on() {
        let mut queue = Queue::default();
        let now = Instant::now();
        for service in ["a", "b", "c", "late"] {
            queue.push(name(service), now);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(service, _)| service.name.to_string()).collect();
        assert_eq!(order, ["late", "a", "c", "b"]);
    }

    #[test]
    fn a_service_that_changes_again_waits_once_and_since_its_first_change() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.push(name("a"), now);
        queue.push(name("a"), now + std::time::Duration::from_secs(1));
        assert_eq!(queue.oldest(), Some(now));
        assert_eq!(queue.pop(), Some((name("a"), now)));
        assert!(queue.is_empty() && queue.pop().is_none());
    }
}
