//! Fragments that come before the first one of their datagram. What becomes of them only that one's ports tell, and a program
//! cannot keep a packet, but its bytes.
//!
//! Of a later fragment whose first one is not known, and which may be of a flow, a copy is kept. Whichever fragment of a flow
//! comes by looks whether the next piece of its datagram is there. If so, it goes back to the end of the queue of its device,
//! and the copy after it: there each is met as if it had come just now, and looks for the next piece in turn. So all of them
//! leave in order, each run sends on one packet, and a lookup is all that a fragment in order pays.
//!
//! The fragment itself is not kept: where somebody else than a Service may want it, it passes at once and untouched as
//! before, and should it turn out to be a flow's, nobody has any use for it there. So no foreign packet is held up here,
//! comes out of order or is lost because there is no room.

use super::{
    flow::age_s,
    fragment::{self, REASSEMBLY_S},
    seam::{Environment, Flows, Known, Maps, Pieces},
};
use crate::{
    abi::{Counter, Family, PIECE_BYTES, Piece, PieceKey, piece_key},
    packet::{Broken, Packet, headers::Headers},
};

/// What became of a fragment whose first one is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// There is no copy of it: it is none of ours, or there is no room (counted).
    No,
    /// There is one.
    Copy,
    /// Its first one has come meanwhile: it can be looked at again.
    Again,
    /// The same, and who found the copy sends that on.
    Released,
}

/// Keeps a copy of a later fragment.
///
/// Its first one may come on another processor at the same time. That makes itself known before it looks for copies, and here
/// the copy is made before the first one is looked for again, so that one of the two finds the other; and of all who would
/// take the copy, one succeeds in removing it.
#[inline(never)]
pub(super) fn keep<F, K, P>(kernel: &K, packet: &P, headers: &Headers<F>) -> Kept
where
    F: Family,
    K: Flows<F> + Known<F> + Maps<F> + Pieces + Environment,
    P: Packet,
{
    if !fragment::may_be_ours(kernel, headers) {
        return Kept::No;
    }
    let key = piece_key(&fragment::key(headers), headers.piece_at);
    match put(kernel, packet, &key, headers.end) {
        Put::New => kernel.count(Counter::FragmentKept),
        Put::There => return Kept::Copy,
        Put::NoRoom => {
            kernel.count(Counter::FragmentNotKept);
            return Kept::No;
        }
    }
    if fragment::first(kernel, headers).is_none() {
        Kept::Copy
    } else if kernel.remove_piece(key.place()) {
        Kept::Again
    } else {
        Kept::Released
    }
}

/// What came of putting a copy into its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Put {
    New,
    /// There is one of this piece: the network has doubled it.
    There,
    NoRoom,
}

#[inline(always)]
fn put<K: Pieces + Environment, P: Packet>(kernel: &K, packet: &P, key: &PieceKey, len: u32) -> Put {
    if len == 0 || len > MAX_LEN {
        return Put::NoRoom;
    }
    let now_s = kernel.now_s();
    let place = key.place();
    let there = kernel.with_piece(place, |piece| (age_s(now_s, piece.kept_s) <= REASSEMBLY_S, piece.key == *key));
    match there {
        Some((true, true)) => return Put::There,
        Some((true, false)) => return Put::NoRoom,
        // Another processor may be faster, and then has the place.
        Some((false, _)) => {
            kernel.remove_piece(place);
        }
        None => {}
    }
    let fill = |piece: &mut Piece| {
        piece.key = *key;
        piece.kept_s = now_s;
        piece.len = len;
        packet.copy(&mut piece.bytes, len)
    };
    if kernel.add_piece(place, fill) { Put::New } else { Put::NoRoom }
}

#[expect(clippy::cast_possible_truncation, reason = "2,048")]
const MAX_LEN: u32 = PIECE_BYTES as u32;

/// What a fragment of a flow has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The next piece is not here: nothing has happened.
    Absent,
    /// The fragment comes in again, and the next piece, which stands in its place now, is to come in after it.
    Here,
    /// The fragment comes in again; what stands in its place now is not to be used.
    Lost,
}

/// Looks for the piece that follows a fragment of a flow, whose ports are known to all by now, and which is as it came.
#[inline(never)]
pub(super) fn release<F, K, P>(kernel: &K, packet: &mut P, headers: &Headers<F>) -> Next
where
    F: Family,
    K: Pieces + Environment,
    P: Packet,
{
    let key = piece_key(&fragment::key(headers), headers.piece_next);
    let place = key.place();
    let now_s = kernel.now_s();
    let is_it = |piece: &Piece| piece.key == key && age_s(now_s, piece.kept_s) <= REASSEMBLY_S;
    if kernel.with_piece(place, is_it) != Some(true) || packet.send_again().is_err() {
        return Next::Absent;
    }
    let replaced =
        kernel.with_piece(
            place,
            |piece| {
                if piece.key == key { packet.replace(&piece.bytes, piece.len) } else { Err(Broken) }
            },
        );
    // Who removes it has read it whole: nobody writes to a place that is taken.
    if kernel.remove_piece(place) && replaced == Some(Ok(())) {
        kernel.count(Counter::FragmentReleased);
        Next::Here
    } else {
        Next::Lost
    }
}
