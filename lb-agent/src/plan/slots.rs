//! Which ranges of the slot array are in use, free, or resting until no running program can still read them.
//!
//! Best fit over coalesced free ranges, lengths rounded up to size classes (at most 1/8 more than asked for), so that
//! what one Service gives back fits another. Knows nothing of what the slots hold.

use std::collections::{BTreeMap, BTreeSet};

/// No free range is long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoRoom {
    /// Whether ranges rest that [`Slots::readers_gone`] would free.
    pub(super) resting: bool,
}

/// How many slots are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SlotUse {
    pub(super) free: u32,
    pub(super) resting: u32,
}

/// A range that somebody holds.
#[derive(Debug)]
struct Held {
    len: u32,
    /// How many hold it: the frontends that name it, and the Service port that will give it to its next frontend.
    holders: u32,
    /// Whether a frontend ever named it. If not, nobody can be reading it.
    exposed: bool,
}

/// The slot array. Ranges are known by their first slot.
#[derive(Debug)]
pub(super) struct Slots {
    held: BTreeMap<u32, Held>,
    /// First slot to length; no two adjacent.
    free: BTreeMap<u32, u32>,
    /// The same by (length, first slot).
    free_by_len: BTreeSet<(u32, u32)>,
    /// (First slot, length).
    resting: Vec<(u32, u32)>,
    usage: SlotUse,
}

impl Slots {
    /// An array of `capacity` slots of which `named`, pairs of first slot and length, are named by one frontend each.
    /// Overlapping ranges (of damaged maps) become one, which is given back as a whole. All other slots rest: a program
    /// may still read what the agent before this one gave back last.
    pub(super) fn adopt(capacity: u32, named: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let mut named: Vec<(u32, u32)> =
            named.into_iter().filter(|&(first, len)| len > 0 && first < capacity).collect();
        named.sort_unstable();
        let mut slots = Self {
            held: BTreeMap::new(),
            free: BTreeMap::new(),
            free_by_len: BTreeSet::new(),
            resting: Vec::new(),
            usage: SlotUse::default(),
        };
        let mut end = 0;
        for (first, len) in named {
            let upto = first.saturating_add(len).min(capacity);
            if let Some(mut last) = slots.held.last_entry().filter(|_| first < end) {
                let start = *last.key();
                let held = last.get_mut();
                held.holders += 1;
                end = end.max(upto);
                held.len = end - start;
            } else {
                if first > end {
                    slots.rest(end, first - end);
                }
                slots.held.insert(first, Held { len: upto - first, holders: 1, exposed: true });
                end = upto;
            }
        }
        if capacity > end {
            slots.rest(end, capacity - end);
        }
        slots
    }

    /// Takes a free range of at least `len` slots, held once.
    pub(super) fn reserve(&mut self, len: u32) -> Result<u32, NoRoom> {
        let fitting = |len| self.free_by_len.range((len, 0)..).next().copied();
        let no_room = NoRoom { resting: !self.resting.is_empty() };
        let class = size_class(len);
        let (found, first, take) = match fitting(class) {
            Some((found, first)) => (found, first, class),
            None => fitting(len).map(|(found, first)| (found, first, found)).ok_or(no_room)?,
        };
        self.free_by_len.remove(&(found, first));
        self.free.remove(&first);
        if found > take {
            self.free.insert(first + take, found - take);
            self.free_by_len.insert((found - take, first + take));
        }
        self.usage.free -= take;
        self.held.insert(first, Held { len: take, holders: 1, exposed: false });
        Ok(first)
    }

    /// One more holds the range that `slot` lies in.
    pub(super) fn hold(&mut self, slot: u32) {
        if let Some(held) = self.find(slot) {
            held.holders += 1;
        }
    }

    /// One more holds the range that `slot` lies in, and it is a frontend.
    pub(super) fn expose(&mut self, slot: u32) {
        if let Some(held) = self.find(slot) {
            held.holders += 1;
            held.exposed = true;
        }
    }

    /// One fewer holds the range that `slot` lies in. When none is left it rests, or is free at once if it was never
    /// exposed. Says whether none is left.
    pub(super) fn release(&mut self, slot: u32) -> bool {
        let Some((&first, held)) = self.held.range_mut(..=slot).next_back() else { return false };
        if slot >= first + held.len {
            return false;
        }
        held.holders -= 1;
        if held.holders > 0 {
            return false;
        }
        let (len, exposed) = (held.len, held.exposed);
        self.held.remove(&first);
        if exposed {
            self.rest(first, len);
        } else {
            self.set_free(first, len);
        }
        true
    }

    /// No program reads the resting ranges any more: they are free.
    pub(super) fn readers_gone(&mut self) {
        self.usage.resting = 0;
        for (first, len) in std::mem::take(&mut self.resting) {
            self.set_free(first, len);
        }
    }

    /// How many slots are free and resting; the others are held.
    pub(super) fn usage(&self) -> SlotUse {
        self.usage
    }

    fn rest(&mut self, first: u32, len: u32) {
        self.usage.resting += len;
        self.resting.push((first, len));
    }

    fn find(&mut self, slot: u32) -> Option<&mut Held> {
        let (&first, held) = self.held.range_mut(..=slot).next_back()?;
        (slot < first + held.len).then_some(held)
    }

    fn set_free(&mut self, mut first: u32, mut len: u32) {
        self.usage.free += len;
        if let Some((&before, &before_len)) = self.free.range(..first).next_back()
            && before + before_len == first
        {
            self.free.remove(&before);
            self.free_by_len.remove(&(before_len, before));
            (first, len) = (before, before_len + len);
        }
        if let Some(after_len) = self.free.remove(&(first + len)) {
            self.free_by_len.remove(&(after_len, first + len));
            len += after_len;
        }
        self.free.insert(first, len);
        self.free_by_len.insert((len, first));
    }
}

/// Eight classes for each power of two, as size-class allocators (jemalloc) have them; up to 16 every length is one.
fn size_class(len: u32) -> u32 {
    let step = 1 << len.checked_ilog2().unwrap_or(0).saturating_sub(3);
    len.checked_next_multiple_of(step).unwrap_or(len)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const CAPACITY: u32 = 96;

    /// What somebody may do with the array. Numbers pick one of the ranges that are held.
    #[derive(Clone, Debug)]
    enum Action {
        Reserve(u32),
        Expose(usize),
        Release(usize),
        ReadersGone,
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            4 => (1..40_u32).prop_map(Action::Reserve),
            3 => any::<usize>().prop_map(Action::Expose),
            5 => any::<usize>().prop_map(Action::Release),
            1 => Just(Action::ReadersGone),
        ]
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum State {
        Free,
        Resting,
        Held,
    }

    /// One state for each slot, and nothing clever.
    struct Naive {
        states: Vec<State>,
        /// First slot, length, holders, exposed.
        ranges: Vec<(u32, u32, u32, bool)>,
    }

    impl Naive {
        fn count(&self, state: State) -> u32 {
            self.states.iter().map(|&s| u32::from(s == state)).sum()
        }

        fn set(&mut self, first: u32, len: u32, state: State) {
            self.states[first as usize..(first + len) as usize].fill(state);
        }

        fn has_room(&self, len: u32) -> bool {
            self.states.windows(len as usize).any(|window| window.iter().all(|&s| s == State::Free))
        }

        fn reserved(&mut self, first: u32, asked: u32, len: u32) {
            assert!(len >= asked && len <= size_class(asked), "asked for {asked}, got {len}");
            let range = first as usize..(first + len) as usize;
            assert!(self.states[range].iter().all(|&s| s == State::Free), "{len} from {first} were not free");
            self.set(first, len, State::Held);
            self.ranges.push((first, len, 1, false));
        }

        fn release(&mut self, index: usize) {
            self.ranges[index].2 -= 1;
            if self.ranges[index].2 == 0 {
                let (first, len, _, exposed) = self.ranges.swap_remove(index);
                self.set(first, len, if exposed { State::Resting } else { State::Free });
            }
        }
    }

    fn act(slots: &mut Slots, naive: &mut Naive, action: Action) {
        let pick = |n: usize| (!naive.ranges.is_empty()).then(|| n % naive.ranges.len());
        match action {
            Action::Reserve(len) => match slots.reserve(len) {
                Ok(first) => naive.reserved(first, len, slots.held[&first].len),
                Err(NoRoom { resting }) => {
                    assert!(!naive.has_room(len), "there is room for {len}");
                    assert_eq!(resting, naive.count(State::Resting) > 0);
                }
            },
            Action::Expose(n) => {
                if let Some(index) = pick(n) {
                    let range = &mut naive.ranges[index];
                    slots.expose(range.0);
                    (range.2, range.3) = (range.2 + 1, true);
                }
            }
            Action::Release(n) => {
                if let Some(index) = pick(n) {
                    // Any slot of a range stands for it.
                    slots.release(naive.ranges[index].0 + naive.ranges[index].1 - 1);
                    naive.release(index);
                }
            }
            Action::ReadersGone => {
                slots.readers_gone();
                naive.states.iter_mut().filter(|s| **s == State::Resting).for_each(|s| *s = State::Free);
            }
        }
        assert_eq!(slots.usage(), SlotUse { free: naive.count(State::Free), resting: naive.count(State::Resting) });
    }

    proptest! {
        #[test]
        fn ranges_never_overlap_nothing_is_lost_and_nothing_reused_before_readers_are_gone(
            actions in vec(action(), 0..200),
        ) {
            let mut slots = Slots::adopt(CAPACITY, []);
            let mut naive = Naive { states: vec![State::Resting; CAPACITY as usize], ranges: Vec::new() };
            for action in actions {
                act(&mut slots, &mut naive, action);
            }
        }

        /// The default capacities have two slots for each backend, so that half of the array is in use at most.
        #[test]
        fn fragments_do_not_keep_a_range_out_while_half_of_the_array_is_unused(
            lengths in vec((1..=64_u32, any::<usize>()), 1..600),
        ) {
            const SLOTS: u32 = 4096;
            let mut slots = Slots::adopt(SLOTS, []);
            let mut held: Vec<(u32, u32)> = Vec::new();
            for (len, pick) in lengths {
                while held.iter().map(|(_, len)| len).sum::<u32>() + len > SLOTS / 2 {
                    let (first, _) = held.swap_remove(pick % held.len());
                    slots.release(first);
                }
                slots.readers_gone();
                let first = slots.reserve(len);
                prop_assert!(first.is_ok(), "no room for {len}: {:?}", slots.usage());
                held.extend(first.ok().map(|first| (first, len)));
            }
        }
    }

    #[test]
    fn adopted_ranges_are_held_overlapping_ones_as_one_and_the_rest_waits_for_readers() {
        let mut slots = Slots::adopt(100, [(10, 5), (10, 5), (40, 10), (45, 10), (98, 10), (300, 1), (20, 0)]);
        assert_eq!(slots.usage(), SlotUse { free: 0, resting: 100 - 5 - 15 - 2 });
        slots.readers_gone();
        assert!(!slots.release(12), "two frontends name it");
        assert!(slots.release(14));
        assert!(!slots.release(40), "the other range overlaps it");
        assert!(slots.release(54));
        assert!(!slots.release(300), "outside the array");
        assert_eq!(slots.usage(), SlotUse { free: 78, resting: 20 });
    }

    #[test]
    fn size_classes_waste_an_eighth_at_most() {
        for len in 1..100_000 {
            let class = size_class(len);
            assert!(class >= len && class - len <= len / 8, "{len} becomes {class}");
        }
        assert_eq!(size_class(u32::MAX), u32::MAX);
    }
}
