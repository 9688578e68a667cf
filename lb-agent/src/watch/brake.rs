//! The brake on full lists: one that would remove most of what is known is believed only if a second one says the same.
//!
//! An API server that just started, lost its storage or stands behind a broken load balancer can answer with a list that
//! is nearly empty and looks like any other; taking it at its word would cut every connection of the node
//! (cilium#45981, cilium#27215). So does a directory of manifests whose volume is not mounted yet. A fresh agent, which knows no list yet, measures the first one by what the maps held when
//! it started: what an upgrade adopts must not be pruned on the word of one bad list. Single deletions on a watch are not braked: each is evidence of its own.

use std::{collections::HashMap, fmt};

use crate::event::{Endpoint, EndpointSlice, ObjectName, Service};

/// What an object is worth: 1, and 1 for each endpoint that is ready in it.
pub(super) type Weights = HashMap<ObjectName, u32>;

/// Below this much, a loss is believed at once: small clusters do empty themselves.
const SMALL: u64 = 10;

/// How many Service ports of the maps a Service takes.
pub(super) fn service_entries(service: &Service) -> u64 {
    service.ports.len() as u64
}

/// About how many backends a slice leads to that take connections or keep what they have.
pub(super) fn slice_entries(slice: &EndpointSlice) -> u64 {
    let serves = |e: &&Endpoint| e.ready || (e.serving && e.terminating);
    let ports = slice.ports.iter().filter(|port| port.port.is_some()).count();
    (slice.endpoints.iter().filter(serves).count() * ports) as u64
}

/// How much an earlier agent left in the maps; nothing by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Service ports, of both families together.
    pub service_ports: u64,
    /// Backends of both families that are ready, or end and still serve.
    pub backends: u64,
}

/// What is known of one kind of object, and the list that was doubted last.
#[derive(Debug, Default)]
pub(super) struct Brake {
    /// Entries that an earlier agent left; 0 as soon as a list was believed.
    adopted: u64,
    known: Weights,
    doubted: Option<Weights>,
}

/// What to do with a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Take it.
    Believe,
    /// Get another one: this lacks too much.
    Confirm(Loss),
}

/// What a list lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// So much, by weight, of what the last list and the watch since have shown.
    OfKnown { lost: u64, of: u64 },
    /// So many of the entries that an earlier agent left.
    OfAdopted { lost: u64, of: u64 },
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OfKnown { lost, of } => write!(f, "{lost} of {of} objects and endpoints"),
            Self::OfAdopted { lost, of } => write!(f, "{lost} of {of} entries that the last agent left in the maps"),
        }
    }
}

impl Brake {
    /// For an agent that finds so many entries in the maps.
    pub(super) fn adopting(entries: u64) -> Self {
        Self { adopted: entries, ..Self::default() }
    }

    /// An object was seen on the watch.
    pub(super) fn applied(&mut self, name: ObjectName, weight: u32) {
        self.known.insert(name, weight);
    }

    /// An object went on the watch.
    pub(super) fn deleted(&mut self, name: &ObjectName) {
        self.known.remove(name);
    }

    /// What the object was worth when it was last seen.
    pub(super) fn weight(&self, name: &ObjectName) -> Option<u32> {
        self.known.get(name).copied()
    }

    /// Whether a full list can be believed, whose objects take so many `entries` of the maps. If so, it is what is known
    /// from now on.
    pub(super) fn judge(&mut self, list: Weights, entries: u64) -> Verdict {
        let confirms = |doubted: &Weights| {
            let (lost, of) = loss(doubted, &list);
            !is_most(lost, of)
        };
        if let Some(loss) = self.loss(&list, entries)
            && !self.doubted.as_ref().is_some_and(confirms)
        {
            self.doubted = Some(list);
            return Verdict::Confirm(loss);
        }
        self.adopted = 0;
        self.known = list;
        self.doubted = None;
        Verdict::Believe
    }

    /// What the list lacks, if that is most of what there was.
    fn loss(&self, list: &Weights, entries: u64) -> Option<Loss> {
        let (lost, of) = loss(&self.known, list);
        if is_most(lost, of) {
            return Some(Loss::OfKnown { lost, of });
        }
        let (lost, of) = (self.adopted.saturating_sub(entries), self.adopted);
        is_most(lost, of).then_some(Loss::OfAdopted { lost, of })
    }
}

fn is_most(lost: u64, of: u64) -> bool {
    of >= SMALL && 2 * lost > of
}

fn loss(before: &Weights, after: &Weights) -> (u64, u64) {
    let (mut lost, mut of) = (0, 0);
    #[expect(clippy::iter_over_hash_type, reason = "a sum does not depend on the order")]
    for (name, &weight) in before {
        of += u64::from(weight);
        lost += u64::from(weight.saturating_sub(after.get(name).copied().unwrap_or(0)));
    }
    (lost, of)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lacks(lost: u64, of: u64) -> Verdict {
        Verdict::Confirm(Loss::OfKnown { lost, of })
    }

    /// Of a brake that adopted nothing, which does not look at the entries.
    fn judge(brake: &mut Brake, list: Weights) -> Verdict {
        brake.judge(list, 0)
    }

    fn list(names: std::ops::Range<u32>, weight: u32) -> Weights {
        names.map(|i| (ObjectName::new("default", format!("s{i}")), weight)).collect()
    }

    fn brake(known: Weights) -> Brake {
        let mut brake = Brake::default();
        assert_eq!(judge(&mut brake, known), Verdict::Believe);
        brake
    }

    #[test]
    fn the_first_list_and_losses_of_half_are_believed_at_once() {
        let mut brake = brake(list(0..100, 1));
        assert_eq!(judge(&mut brake, list(0..50, 1)), Verdict::Believe);
    }

    #[test]
    fn a_list_that_lacks_most_is_believed_when_the_next_says_the_same() {
        let mut brake = brake(list(0..100, 1));
        assert_eq!(judge(&mut brake, list(0..40, 1)), lacks(60, 100));
        assert_eq!(judge(&mut brake, list(0..40, 1)), Verdict::Believe);
        assert_eq!(brake.weight(&ObjectName::new("default", "s40")), None);
    }

    #[test]
    fn a_doubted_list_that_is_not_confirmed_is_forgotten() {
        let mut brake = brake(list(0..100, 1));
        assert_eq!(judge(&mut brake, list(0..1, 1)), lacks(99, 100));
        assert_eq!(judge(&mut brake, list(0..100, 1)), Verdict::Believe);
        assert_eq!(judge(&mut brake, list(0..1, 1)), lacks(99, 100));
    }

    #[test]
    fn a_second_list_that_lacks_most_of_the_first_is_doubted_too() {
        let mut brake = brake(list(0..100, 1));
        assert_eq!(judge(&mut brake, list(0..40, 1)), lacks(60, 100));
        assert_eq!(judge(&mut brake, list(0..2, 1)), lacks(98, 100));
    }

    #[test]
    fn slices_that_are_all_there_but_empty_are_doubted() {
        let mut brake = brake(list(0..10, 11));
        assert_eq!(judge(&mut brake, list(0..10, 1)), lacks(100, 110));
    }

    #[test]
    fn what_was_deleted_on_the_watch_is_not_missed() {
        let mut brake = brake(list(0..20, 1));
        (0..15).for_each(|i| brake.deleted(&ObjectName::new("default", format!("s{i}"))));
        assert_eq!(judge(&mut brake, list(15..20, 1)), Verdict::Believe);
    }

    #[test]
    fn a_small_cluster_may_empty_itself() {
        let mut brake = brake(list(0..9, 1));
        assert_eq!(judge(&mut brake, list(0..0, 1)), Verdict::Believe);
    }

    #[test]
    fn a_first_list_that_lacks_most_of_what_was_adopted_is_believed_when_the_next_says_the_same() {
        let mut brake = Brake::adopting(100);
        let loss = Loss::OfAdopted { lost: 99, of: 100 };
        assert_eq!(brake.judge(list(0..1, 1), 1), Verdict::Confirm(loss));
        assert_eq!(loss.to_string(), "99 of 100 entries that the last agent left in the maps");
        assert_eq!(brake.judge(list(0..1, 1), 1), Verdict::Believe);
        // From now on only lists count.
        assert_eq!(brake.judge(list(0..1, 1), 1), Verdict::Believe);
    }

    #[test]
    fn a_first_list_that_lacks_most_of_a_doubted_first_list_is_doubted_too() {
        let mut brake = Brake::adopting(100);
        assert_eq!(brake.judge(list(0..40, 1), 40), Verdict::Confirm(Loss::OfAdopted { lost: 60, of: 100 }));
        assert_eq!(brake.judge(list(0..2, 1), 2), Verdict::Confirm(Loss::OfAdopted { lost: 98, of: 100 }));
    }

    #[test]
    fn a_first_list_with_half_of_what_was_adopted_or_after_little_was_adopted_is_believed_at_once() {
        assert_eq!(Brake::adopting(100).judge(list(0..10, 1), 50), Verdict::Believe);
        assert_eq!(Brake::adopting(9).judge(list(0..0, 1), 0), Verdict::Believe);
        assert_eq!(Brake::adopting(0).judge(list(0..0, 1), 0), Verdict::Believe);
    }
}
