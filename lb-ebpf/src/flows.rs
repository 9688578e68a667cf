//! The packet layer's maps as the logic sees them (`lb_common::logic::seam::Flows`). Thin: each function is a helper call
//! and a copy.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use lb_common::{
    abi::{Flow, FlowKey, Fragment, FragmentKey, Piece, Place},
    logic::seam::{Flows, Known, NotAdded, Pieces},
    packet::Broken,
};

use crate::{
    kernel::Kernel,
    maps::{PIECE, PIECES, Pinned},
};

const EEXIST: i32 = 17;

impl<F: Pinned, C> Flows<F> for Kernel<C> {
    /// In place: it is too large for several copies on the stack. Other processors do the same meanwhile.
    #[inline(always)]
    fn with_flow<R>(&self, key: &FlowKey<F>, f: impl FnOnce(&mut Flow<F>) -> R) -> Option<R> {
        // SAFETY: an element of the map, which the verifier knows to be there. Its memory may be another half's by now: what
        // is read is found out by its checksum, and what is noted is one packet too many.
        Some(f(unsafe { &mut *F::conns().get_ptr_mut(key)? }))
    }

    #[inline(always)]
    fn add_flow(&self, key: &FlowKey<F>, half: &Flow<F>) -> Result<(), NotAdded> {
        F::conns().insert(key, half, BPF_NOEXIST.into()).map_err(|error| match -error {
            EEXIST => NotAdded::Exists,
            _ => NotAdded::Full,
        })
    }

    #[inline(always)]
    fn put_flow(&self, key: &FlowKey<F>, half: &Flow<F>) -> bool {
        F::conns().insert(key, half, BPF_ANY.into()).is_ok()
    }

    #[inline(always)]
    fn remove_flow(&self, key: &FlowKey<F>) -> bool {
        // The only error is ENOENT.
        F::conns().remove(key).is_ok()
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey<F>) -> Option<Fragment> {
        // SAFETY: plain data that is copied at once. A mixture of two datagrams leads one fragment astray.
        unsafe { F::frags().get(key) }.copied()
    }

    #[inline(always)]
    fn put_fragment(&self, key: &FragmentKey<F>, fragment: &Fragment) {
        // An LRU map makes room. Where the kernel cannot, the datagram's later fragments are not found.
        match F::frags().insert(key, fragment, BPF_ANY.into()) {
            Ok(()) | Err(_) => {}
        }
    }
}

impl<C> Pieces for Kernel<C> {
    #[inline(always)]
    fn with_piece<R>(&self, place: u32, f: impl FnOnce(&Piece) -> R) -> Option<R> {
        // SAFETY: plain data. Another processor may use its memory again meanwhile; who has looked at it and then succeeds in
        // removing it has seen one piece.
        Some(f(unsafe { PIECES.get(place) }?))
    }

    #[inline(always)]
    fn add_piece(&self, place: u32, fill: impl FnOnce(&mut Piece) -> Result<(), Broken>) -> bool {
        let Some(piece) = PIECE.get_ptr_mut(0) else { return false };
        // SAFETY: an element of the map, and nobody else's on this processor, see `maps::Works`. Any bytes are a value.
        let piece = unsafe { &mut *piece };
        fill(piece).is_ok() && PIECES.insert(place, piece, BPF_NOEXIST.into()).is_ok()
    }

    #[inline(always)]
    fn remove_piece(&self, place: u32) -> bool {
        // The only error is ENOENT.
        PIECES.remove(place).is_ok()
    }
}

impl<F: Pinned, C> Known<F> for Kernel<C> {
    #[inline(always)]
    fn may_be_backend(&self, place: Place) -> bool {
        F::noback().get(place.line).is_none_or(|line| line.may_be(place))
    }

    #[inline(always)]
    fn note_backend(&self, place: Place) {
        if let Some(line) = F::noback().get_ptr_mut(place.line) {
            // SAFETY: an element of the map, which the verifier knows to be there. Other processors write it at the same
            // time, single bytes and nothing but zeros.
            unsafe { &mut *line }.note(place);
        }
    }
}
