//! A cheap hash of an address and of what else tells frontends and flows apart. For places in arrays; nothing secret, and nothing
//! that a mistake would follow from where two are the same.

use super::Family;

/// A sum of products, of which the upper bits count: each word has an odd factor of its own, as in [`super::Frontend`]'s checksum.
/// The products do not wait for one another.
#[inline(always)]
pub(super) fn hash<F: Family>(addr: F::Addr, rest: u32) -> u32 {
    let addr = F::words(addr);
    let words = addr.as_ref().iter().zip(FACTORS);
    words.fold(rest.wrapping_mul(REST), |sum, (word, factor)| sum.wrapping_add(word.wrapping_mul(factor)))
}

/// For what is not the address, ports mostly: 2^32 divided by the golden ratio (Knuth, The Art of Computer Programming,
/// section 6.4), which spreads neighbours.
const REST: u32 = 0x9e37_79b1;
/// For the words of an address: constants of SHA-256 (FIPS 180-4, section 4.2.2), made odd.
const FACTORS: [u32; 4] = [0x27b7_0a85, 0x2e1b_2139, 0x4d2c_6dfd, 0x5338_0d13];
