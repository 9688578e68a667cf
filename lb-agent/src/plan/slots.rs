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
