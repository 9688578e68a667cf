//! `lb_slots4/6` in memory: the array is mapped, so that writing 100,000 slots takes one copy and not 100,000 system calls.
#![expect(unsafe_code, reason = "a memory map shared with the kernel")]

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd as _, BorrowedFd},
    ptr::NonNull,
};

use aya::maps::MapData;
use lb_common::abi::{Family, Slot};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// What the mapping is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// The agent.
    Write,
    /// The tools.
    Read,
}

/// A mapped array of slots. The kernel programs may read any slot at any time; the caller sees to it that nobody reads
/// one that is being written (see `FamilyStore::write_slots`).
#[derive(Debug)]
pub(super) struct SlotArray<F: Family> {
    map: MapData,
    memory: NonNull<u8>,
    length: usize,
    slots: u32,
    access: Access,
    family: PhantomData<F>,
}

// SAFETY: the mapping belongs to the process and not to a thread, and is written through `&mut` only.
unsafe impl<F: Family> Send for SlotArray<F> {}
// SAFETY: as above.
unsafe impl<F: Family> Sync for SlotArray<F> {}

impl<F: Family> SlotArray<F> {
    /// The kernel keeps array elements 8 bytes apart (`array_map_alloc`: `round_up(value_size, 8)`).
    const STRIDE: usize = size_of::<Slot<F>>().next_multiple_of(8);

    /// Maps the whole array `map` of `slots` elements.
    pub(super) fn open(map: MapData, slots: u32, access: Access) -> io::Result<Self> {
        let length = (slots as usize * Self::STRIDE).next_multiple_of(rustix::param::page_size());
        let protection = match access {
            Access::Write => ProtFlags::READ | ProtFlags::WRITE,
            Access::Read => ProtFlags::READ,
        };
        // SAFETY: no address is asked for, so that nothing that exists is replaced.
        let memory = unsafe { mmap(std::ptr::null_mut(), length, protection, MapFlags::SHARED, map.fd(), 0) }?;
        let memory = NonNull::new(memory.cast()).ok_or_else(|| io::Error::other("mmap returned address 0"))?;
        Ok(Self { map, memory, length, slots, access, family: PhantomData })
    }

    /// The map behind it.
    pub(super) fn map(&self) -> BorrowedFd<'_> {
        self.map.fd().as_fd()
    }

    /// Where slot `index` is; an error past the end.
    fn place(&self, index: u32) -> io::Result<NonNull<Slot<F>>> {
        if index >= self.slots {
            let message = format!("slot {index} of {}", self.slots);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        // SAFETY: the mapping has room for `slots` elements at this distance.
        Ok(unsafe { self.memory.add(index as usize * Self::STRIDE) }.cast())
    }

    /// Reads one slot.
    pub(super) fn get(&self, index: u32) -> io::Result<Slot<F>> {
        let place = self.place(index)?;
        // SAFETY: inside the mapping, aligned to 8, and any bytes are a slot.
        Ok(unsafe { place.read_volatile() })
    }

    /// Writes one slot. What is written is seen by every program that later sees a frontend written by this thread: that
    /// is a system call, which publishes with a store-release.
    pub(super) fn set(&mut self, index: u32, slot: Slot<F>) -> io::Result<()> {
        if self.access == Access::Read {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "opened for reading"));
        }
        let place = self.place(index)?;
        // SAFETY: inside the mapping, aligned to 8, mapped for writing.
        unsafe { place.write_volatile(slot) };
        Ok(())
    }
}

impl<F: Family> Drop for SlotArray<F> {
    fn drop(&mut self) {
        // SAFETY: mapped by `open` with this length, and no reference into it is left.
        let unmapped = unsafe { munmap(self.memory.as_ptr().cast(), self.length) };
        debug_assert!(unmapped.is_ok(), "munmap fails only for a range that was never mapped");
    }
}
