//! `lb_slots4/6` in memory: a window of the array is mapped, so that writing a range takes a copy and not a system call for
//! each slot. A window and not the whole array, because what a process has mapped counts as its memory.
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

/// Bytes that are mapped at least: the next range written mostly lies near the last one. A multiple of every page size
/// that Linux has.
const WINDOW: usize = 256 * 1024;

/// What the mapping is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// The agent.
    Write,
    /// The tools.
    Read,
}

/// An array of slots. The kernel programs may read any slot at any time; the caller sees to it that nobody reads one that
/// is being written (see `FamilyStore::write_slots`).
#[derive(Debug)]
pub(super) struct SlotArray<F: Family> {
    map: MapData,
    slots: u32,
    access: Access,
    /// Where was last written.
    window: Option<Window>,
    family: PhantomData<F>,
}

impl<F: Family> SlotArray<F> {
    /// The kernel keeps array elements 8 bytes apart (`array_map_alloc`: `round_up(value_size, 8)`).
    const STRIDE: usize = size_of::<Slot<F>>().next_multiple_of(8);

    /// The array `map` of `slots` elements.
    pub(super) fn new(map: MapData, slots: u32, access: Access) -> Self {
        Self { map, slots, access, window: None, family: PhantomData }
    }

    /// The map behind it.
    pub(super) fn map(&self) -> BorrowedFd<'_> {
        self.map.fd().as_fd()
    }

    /// Reads `n` slots.
    pub(super) fn read(&self, first: u32, n: u32) -> io::Result<Vec<Slot<F>>> {
        let range = self.bytes(first, n as usize)?;
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let window = self.open(&range, ProtFlags::READ)?;
        let places = range.step_by(Self::STRIDE).map(|offset| window.place(offset));
        // SAFETY: inside the mapping, aligned to 8, and any bytes are a slot.
        Ok(places.map(|place| unsafe { place.cast::<Slot<F>>().read_volatile() }).collect())
    }

    /// Writes a range. What is written is seen by every program that later sees a frontend written by this thread: that
    /// is a system call, which publishes with a store-release.
    pub(super) fn write(&mut self, first: u32, slots: &[Slot<F>]) -> io::Result<()> {
        if self.access == Access::Read {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "opened for reading"));
        }
        let range = self.bytes(first, slots.len())?;
        if range.is_empty() {
            return Ok(());
        }
        let window = match self.window.take().filter(|window| window.covers(&range)) {
            Some(window) => window,
            None => self.open(&range, ProtFlags::READ | ProtFlags::WRITE)?,
        };
        for (offset, slot) in range.step_by(Self::STRIDE).zip(slots) {
            // SAFETY: inside the mapping, aligned to 8, mapped for writing.
            unsafe { window.place(offset).cast::<Slot<F>>().write_volatile(*slot) };
        }
        self.window = Some(window);
        Ok(())
    }

    /// Where slots are; an error past the end.
    fn bytes(&self, first: u32, n: usize) -> io::Result<std::ops::Range<usize>> {
        let (first, slots) = (first as usize, self.slots as usize);
        match first.checked_add(n) {
            Some(end) if end <= slots => Ok(first * Self::STRIDE..end * Self::STRIDE),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{n} slots from {first} of {slots}"))),
        }
    }

    /// Maps a part of the array that holds `range`, which is not empty.
    fn open(&self, range: &std::ops::Range<usize>, protection: ProtFlags) -> io::Result<Window> {
        // The kernel gives whole pages, the last one too.
        let all = (self.slots as usize * Self::STRIDE).next_multiple_of(rustix::param::page_size());
        let start = range.start / WINDOW * WINDOW;
        let end = range.end.next_multiple_of(WINDOW).min(all);
        Window::open(self.map(), start..end, protection)
    }
}

/// A mapped part of an array.
#[derive(Debug)]
struct Window {
    memory: NonNull<u8>,
    /// Which bytes of the array.
    bytes: std::ops::Range<usize>,
}

// SAFETY: the mapping belongs to the process and not to a thread, and is written through `&mut SlotArray` only.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    fn open(map: BorrowedFd<'_>, bytes: std::ops::Range<usize>, protection: ProtFlags) -> io::Result<Self> {
        let (length, offset) = (bytes.len(), bytes.start as u64);
        // SAFETY: no address is asked for, so that nothing that exists is replaced.
        let memory = unsafe { mmap(std::ptr::null_mut(), length, protection, MapFlags::SHARED, map, offset) }?;
        let memory = NonNull::new(memory.cast()).ok_or_else(|| io::Error::other("mmap returned address 0"))?;
        Ok(Self { memory, bytes })
    }

    fn covers(&self, range: &std::ops::Range<usize>) -> bool {
        self.bytes.start <= range.start && range.end <= self.bytes.end
    }

    /// Where a byte of the array is that the window covers.
    fn place(&self, offset: usize) -> NonNull<u8> {
        debug_assert!(self.bytes.contains(&offset), "{offset} is outside {:?}", self.bytes);
        // SAFETY: the callers ask only for what they had covered.
        unsafe { self.memory.add(offset - self.bytes.start) }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: mapped by `open` with this length, and no reference into it is left.
        let unmapped = unsafe { munmap(self.memory.as_ptr().cast(), self.bytes.len()) };
        debug_assert!(unmapped.is_ok(), "munmap fails only for a range that was never mapped");
    }
}
