//! `lb_nofront4/6`, `lb_noback4/6`: which addresses and ports are certainly none of ours, so that the packets of everybody else
//! cost no lookup in a hash map.
//!
//! Both are sets of hashes of an address and a port, of bits that say "certainly not": a set bit of `lb_nofront4/6` says that no
//! frontend has an address and port with this hash, one of `lb_noback4/6` that no flow has such a backend. With port 0, which nobody
//! has who answers, they say that nobody has the address at all. Bits are cleared
//! before an entry is written that they would deny, and never set again while the maps live. So they may say too little at any
//! time, as where another entry had the same hash: that is slower and as correct. All zero, as in a new map, they say nothing.

use super::{Endpoint, Family, FrontendKey, hash::hash};

/// Elements of each map, which is an array.
pub const N_ABSENT: u32 = 2_048;
/// Bytes of an element: a line of the processor's cache.
const LINE: usize = 64;

/// One element of `lb_nofront4/6` or `lb_noback4/6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C, align(8))]
pub struct Absent {
    /// See [`Place`].
    pub bytes: [u8; LINE],
}

impl Absent {
    /// Nobody is here: what an installation begins with.
    pub const NOBODY: Self = Self { bytes: [u8::MAX; LINE] };

    /// Whether somebody may be in this place.
    #[inline(always)]
    pub fn may_be(&self, place: Place) -> bool {
        self.bytes.get(place.byte).is_none_or(|byte| byte & place.bit == 0)
    }

    /// The same with somebody in this place.
    #[must_use]
    pub fn with(mut self, place: Place) -> Self {
        if let Some(byte) = self.bytes.get_mut(place.byte) {
            *byte &= !place.bit;
        }
        self
    }

    /// Somebody is in this place, and perhaps in the seven beside it: several processors do this at once, of which one could take
    /// back what another one cleared in the same byte. Written only where something changes.
    #[inline(always)]
    pub fn note(&mut self, place: Place) {
        if let Some(byte) = self.bytes.get_mut(place.byte)
            && *byte & place.bit != 0
        {
            *byte = 0;
        }
    }
}

/// Where the bit for an address and a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Which element, below [`N_ABSENT`].
    pub line: u32,
    /// Which byte of it.
    byte: usize,
    /// Which bit of that.
    bit: u8,
}

impl Place {
    /// That of an address and a port.
    #[inline(always)]
    pub fn of<F: Family>(end: Endpoint<F>) -> Self {
        let hash = hash::<F>(end.addr, end.port.into());
        Self { line: hash >> 21, byte: (hash >> 15) as usize & (LINE - 1), bit: 1 << (hash >> 12 & 7) }
    }

    /// That of an address, whatever the port.
    #[inline(always)]
    pub fn of_address<F: Family>(addr: F::Addr) -> Self {
        Self::of(Endpoint::<F> { addr, port: 0 })
    }

    /// Those that a frontend is in: that of its address and port, and that of its address.
    pub fn of_frontend<F: Family>(key: &FrontendKey<F>) -> [Self; 2] {
        [Self::of(Endpoint::<F> { addr: key.addr, port: key.port }), Self::of_address::<F>(key.addr)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::{V4, V6};

    fn place4(addr: [u8; 4], port: u16) -> Place {
        Place::of::<V4>(Endpoint { addr, port })
    }

    #[test]
    fn every_place_is_in_the_map() {
        for n in 0..=u16::MAX {
            let [a, b] = n.to_be_bytes();
            let place = place4([a, 77, 3, b], n.wrapping_mul(31));
            assert!(place.line < N_ABSENT && place.byte < LINE && place.bit.is_power_of_two(), "{place:?}");
        }
    }

    #[test]
    fn who_was_put_in_or_noted_is_found_and_of_others_few() {
        let (mut line, mut noted) = (Absent::NOBODY, Absent::NOBODY);
        let place = place4([192, 168, 2, 1], 30_080);
        assert!(!line.may_be(place));
        line = line.with(place);
        noted.note(place);
        assert!(line.may_be(place) && noted.may_be(place));
        let count = |line: &Absent| line.bytes.iter().map(|byte| byte.count_zeros()).sum::<u32>();
        assert_eq!((count(&line), count(&noted)), (1, 8));
    }

    #[test]
    fn a_new_map_says_nothing() {
        assert!(Absent { bytes: [0; LINE] }.may_be(place4([10, 0, 0, 1], 80)));
    }

    /// What a node has: many ports of few addresses, many addresses with few ports.
    #[test]
    fn neighbouring_addresses_and_ports_rarely_share_a_place() {
        let mut places = std::collections::BTreeSet::new();
        for n in 0..2_768_u16 {
            let [high, low] = n.to_be_bytes();
            places.insert(place4([192, 168, 2, 1], 30_000 + n));
            places.insert(place4([10, 96, high, low], 443));
            places.insert(place4([10, 244, high, low], 8_080));
            let addr = [0xfd, 0, 0, 0x10, 0, 0x96, 0, 0, 0, 0, 0, 0, 0, 0, high, low];
            places.insert(Place::of::<V6>(Endpoint { addr, port: 443 }));
        }
        assert!(places.len() > 4 * 2_768 * 97 / 100, "{} of {}", places.len(), 4 * 2_768);
    }
}
