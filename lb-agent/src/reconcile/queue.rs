//! Which Services wait to be brought into the maps, and since when.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Instant,
};

use crate::event::ObjectName;

/// How many it has room for while it is empty.
const ROOM: usize = 64;

/// A queue without duplicates that is served from both ends in turn: a change that arrives behind ten thousand others
/// waits for one other Service, and those others still go on.
#[derive(Debug, Default)]
pub(super) struct Queue {
    order: VecDeque<ObjectName>,
    since: HashMap<ObjectName, Instant>,
    /// How many wait since when: all that came at once count as one.
    waiting: BTreeMap<Instant, usize>,
    newest_next: bool,
}

impl Queue {
    /// Adds a Service that changed at `since`. One that waits already keeps its place.
    pub(super) fn push(&mut self, service: ObjectName, since: Instant) {
        match self.since.get_mut(&service) {
            Some(known) if *known <= since => return,
            Some(known) => {
                let before = std::mem::replace(known, since);
                self.leave(before);
            }
            None => {
                self.since.insert(service.clone(), since);
                self.order.push_back(service);
            }
        }
        *self.waiting.entry(since).or_default() += 1;
    }

    /// The next Service, and since when it waits.
    pub(super) fn pop(&mut self) -> Option<(ObjectName, Instant)> {
        self.newest_next = !self.newest_next;
        let service = if self.newest_next { self.order.pop_back() } else { self.order.pop_front() }?;
        let since = self.since.remove(&service)?;
        self.leave(since);
        if self.order.is_empty() {
            // The first lists were as long as nothing after them.
            self.order.shrink_to(ROOM);
            self.since.shrink_to(ROOM);
        }
        Some((service, since))
    }

    fn leave(&mut self, since: Instant) {
        if let Some(n) = self.waiting.get_mut(&since) {
            *n -= 1;
            if *n == 0 {
                self.waiting.remove(&since);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Since when the one that waits longest does.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|(since, _)| *since)
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
        let later = now + std::time::Duration::from_secs(1);
        queue.push(name("a"), later);
        queue.push(name("b"), later);
        assert_eq!(queue.oldest(), Some(later));
        queue.push(name("a"), now);
        queue.push(name("a"), later);
        assert_eq!(queue.oldest(), Some(now));
        assert_eq!(queue.pop(), Some((name("b"), later)));
        assert_eq!(queue.oldest(), Some(now));
        assert_eq!(queue.pop(), Some((name("a"), now)));
        assert_eq!(queue.oldest(), None);
        assert!(queue.is_empty() && queue.pop().is_none());
    }
}
