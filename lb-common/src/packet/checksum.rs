//! The Internet checksum (RFC 1071), and how it changes when words do (RFC 1624).
//!
//! A one's complement sum does not mind the byte order, as long as all its words have the same: it is formed over the words
//! as they stand in memory, and the result stands in memory as it must (RFC 1071 section 2 (B)).

/// A one's complement sum that is not folded yet. Words that go are added complemented, words that come as they are; what
/// [`Self::difference`] gives then is what the helpers of the kernel take as a difference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// With this word, which stands at an even offset.
    #[inline(always)]
    #[must_use]
    pub fn with(self, word: u32) -> Self {
        Self(self.0 + u64::from(word))
    }

    /// With these words.
    #[inline(always)]
    #[must_use]
    pub fn with_all(self, words: &[u32]) -> Self {
        words.iter().fold(self, |sum, word| sum.with(*word))
    }

    /// With `new` instead of `old`.
    #[inline(always)]
    #[must_use]
    pub fn replace(self, old: u32, new: u32) -> Self {
        self.with(!old).with(new)
    }

    /// With the words of `new` instead of those of `old`.
    #[inline(always)]
    #[must_use]
    pub fn replace_all(self, old: &[u32], new: &[u32]) -> Self {
        old.iter().zip(new).fold(self, |sum, (old, new)| sum.replace(*old, *new))
    }

    /// Folded to 32 bits, `__wsum` in the kernel. A few hundred words may have been added before, as 64 bits hold
    /// 2^32 of them.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "folded to 32 bits")]
    pub fn difference(self) -> u32 {
        let once = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        ((once & 0xffff_ffff) + (once >> 32)) as u32
    }

    /// Folded to 16 bits, as it stands in memory; not complemented.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits")]
    pub fn folded(self) -> u16 {
        let sum = self.difference();
        let once = (sum & 0xffff) + (sum >> 16);
        let twice = (once & 0xffff) + (once >> 16);
        twice as u16
    }
}

/// The checksum that takes the place of `checksum` after a change (RFC 1624 equation 3). Both as they stand in memory.
#[inline(always)]
pub fn updated(checksum: u16, difference: u32) -> u16 {
    !Sum::default().with(u32::from(!checksum)).with(difference).folded()
}

/// Two numbers of 16 bits in host byte order as the word that they are in a packet.
#[inline(always)]
pub const fn pair(first: u16, second: u16) -> u32 {
    ((first as u32) << 16 | second as u32).to_be()
}
