//! `lb_pieces`: copies of later fragments that came before the first one of their datagram.

use super::{Family, V6};

/// Elements of `lb_pieces`. An element takes memory once a piece was kept in its place, some 4 KiB.
pub const N_PIECES: u32 = 1 << PLACE_BITS;
const PLACE_BITS: u32 = 8;
/// The longest packet that is kept, from its network header on: what fits into an Ethernet frame, and half as much again. A
/// power of two, which spares the verifier some thought.
pub const PIECE_BYTES: usize = 2_048;

/// A piece of a datagram (RFC 791 section 3.2, RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct PieceKey {
    /// Wire order, in the first 4 or 16 bytes; the rest is 0.
    pub src_addr: [u8; 16],
    /// As [`Self::src_addr`].
    pub dst_addr: [u8; 16],
    /// The identification field, host byte order.
    pub id: u32,
    /// Where in the datagram it begins, in units of 8 bytes.
    pub at: u16,
    /// As [`super::FragmentKey::proto`].
    pub proto: u8,
    /// 4 or 6.
    pub family: u8,
}

impl PieceKey {
    /// The key of `lb_pieces`: each piece has one place, which it shares with others. A sum of products as [`super::Place`]'s.
    #[inline(always)]
    pub fn place(&self) -> u32 {
        let (src, dst) = (V6::words(self.src_addr), V6::words(self.dst_addr));
        let words = src.iter().chain(&dst).zip(FACTORS);
        let start = self.id.wrapping_mul(ID).wrapping_add(u32::from(self.at).wrapping_mul(AT));
        words.fold(start, |sum, (word, factor)| sum.wrapping_add(word.wrapping_mul(factor))) >> (u32::BITS - PLACE_BITS)
    }
}

/// Value of `lb_pieces`. Written and removed by the programs alone, and nobody ages it: what is too old gives its place to the
/// next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Piece {
    /// Which it is.
    pub key: PieceKey,
    /// When it came, in seconds of the monotonic clock.
    pub kept_s: u32,
    /// How many bytes it has.
    pub len: u32,
    /// The packet from its network header on.
    pub bytes: [u8; PIECE_BYTES],
}

impl Piece {
    /// None.
    pub const EMPTY: Self = Self {
        key: PieceKey { src_addr: [0; 16], dst_addr: [0; 16], id: 0, at: 0, proto: 0, family: 0 },
        kept_s: 0,
        len: 0,
        bytes: [0; PIECE_BYTES],
    };
}

/// The key of a family's piece.
#[inline(always)]
pub fn piece_key<F: Family>(datagram: &super::FragmentKey<F>, at: u16) -> PieceKey {
    PieceKey {
        src_addr: F::padded(datagram.src_addr),
        dst_addr: F::padded(datagram.dst_addr),
        id: datagram.id,
        at,
        proto: datagram.proto,
        family: F::VERSION,
    }
}

/// For identifications, which some count up and others draw, and for places in a datagram, which are multiples of one number.
const ID: u32 = 0x9e37_79b1;
const AT: u32 = 0xc671_78f3;
/// For the words of both addresses: constants of SHA-256 (FIPS 180-4, section 4.2.2), made odd.
const FACTORS: [u32; 8] =
    [0x6509_b2dd, 0x766a_0abb, 0x81c2_c92f, 0x9272_2c85, 0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b71, 0xc76c_51a3];

#[cfg(test)]
mod tests {
    use super::*;

    /// What a store of copies has to take: pieces of a few datagrams between the same two.
    #[test]
    fn the_pieces_of_some_datagrams_rarely_share_a_place() {
        let key = |id, at| PieceKey { src_addr: [1; 16], dst_addr: [2; 16], id, at, proto: 17, family: 4 };
        let keys = (1..=8).flat_map(|id| [185, 370, 555, 740].map(|at| key(id, at)));
        let places: std::collections::BTreeSet<_> = keys.map(|key| key.place()).collect();
        assert!(places.len() >= 28, "{} of 32", places.len());
        assert!(places.iter().all(|place| *place < N_PIECES));
    }
}
