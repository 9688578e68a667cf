//! A packet as a vector of bytes, with or without checksum offload.

use crate::{
    abi::PIECE_BYTES,
    packet::{
        Broken, Packet, Summed,
        checksum::{Sum, updated},
    },
};

/// A packet from its network header on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SimPacket {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The transport checksum is left to the hardware (`CHECKSUM_PARTIAL`): its field holds the sum of the pseudo-header.
    pub offloaded: bool,
    /// What the kernel would add to a sum of the whole packet (`CHECKSUM_COMPLETE`), folded.
    pub sums_differently: u16,
    /// How many more changes the kernel has memory for.
    pub n_changes: u32,
    /// Copies of it that come in again, as it was.
    pub again: Vec<Self>,
}

impl SimPacket {
    /// With these bytes and a checksum of its own.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, offloaded: false, sums_differently: 0, n_changes: u32::MAX, again: Vec::new() }
    }

    /// What a device has that sums the whole packet, `more` added: a sum of all its bytes, folded. Of the two that stand for
    /// zero it is always 0.
    pub fn whole_sum(&self, more: u16) -> u16 {
        let sum = Sum::default().with(sum_bytes(&self.bytes)).with(more.into()).folded();
        if sum == u16::MAX { 0 } else { sum }
    }

    fn range(offset: u32, len: usize) -> std::ops::Range<usize> {
        let offset = offset as usize;
        offset..offset + len
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Broken> {
        self.change()?;
        self.bytes.get_mut(Self::range(offset, bytes.len())).ok_or(Broken)?.copy_from_slice(bytes);
        Ok(())
    }

    fn change(&mut self) -> Result<(), Broken> {
        self.n_changes = self.n_changes.checked_sub(1).ok_or(Broken)?;
        Ok(())
    }

    /// As it stands in memory.
    fn field(&self, offset: u32) -> Result<u16, Broken> {
        Ok(self.load_u16(offset)?.to_be())
    }
}

impl Packet for SimPacket {
    fn size(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }

    fn load<const N: usize>(&self, offset: u32) -> Result<[u32; N], Broken> {
        let bytes = self.bytes.get(Self::range(offset, 4 * N)).ok_or(Broken)?;
        let mut words = [0; N];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_ne_bytes(bytes.try_into().map_err(|_| Broken)?);
        }
        Ok(words)
    }

    fn peek<const N: usize>(&self) -> Option<[u32; N]> {
        self.load(0).ok()
    }

    fn load_u16(&self, offset: u32) -> Result<u16, Broken> {
        let bytes = self.bytes.get(Self::range(offset, 2)).ok_or(Broken)?;
        Ok(u16::from_be_bytes(bytes.try_into().map_err(|_| Broken)?))
    }

    fn store<const N: usize>(&mut self, offset: u32, words: [u32; N]) -> Result<(), Broken> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.write(offset, &bytes)
    }

    fn store_u16(&mut self, offset: u32, value: u16) -> Result<(), Broken> {
        self.write(offset, &value.to_be_bytes())
    }

    fn update_ip_checksum(&mut self, offset: u32, difference: u32) -> Result<(), Broken> {
        let new = updated(self.field(offset)?, difference);
        self.write(offset, &new.to_ne_bytes())
    }

    /// `bpf_l4_csum_replace` and `inet_proto_csum_replace_by_diff` (net/core/filter.c, net/core/utils.c).
    fn update_checksum(
        &mut self,
        offset: u32,
        difference: u32,
        summed: Summed,
        zero_is_none: bool,
    ) -> Result<(), Broken> {
        let old = self.field(offset)?;
        if zero_is_none && old == 0 {
            return Ok(());
        }
        let new = match (self.offloaded, summed) {
            (false, _) => updated(old, difference),
            (true, Summed::PseudoHeader) => Sum::default().with(u32::from(old)).with(difference).folded(),
            (true, Summed::Segment) => old,
        };
        let new = if zero_is_none && new == 0 { u16::MAX } else { new };
        // The addresses' own change is made up for by the header's checksum, and by nothing else.
        if summed == Summed::PseudoHeader && self.bytes.first().is_some_and(|first| first >> 4 == 4) {
            self.sums_differently(!difference);
        }
        self.write(offset, &new.to_ne_bytes())
    }

    fn sums_differently(&mut self, difference: u32) {
        self.sums_differently = Sum::default().with(self.sums_differently.into()).with(difference).folded();
    }

    fn set_checksum(&mut self, offset: u32, whole: u16, pseudo: u16) -> Result<(), Broken> {
        self.store_u16(offset, if self.offloaded { pseudo } else { whole })
    }

    fn is_summed_later(&mut self, _: u32) -> Result<bool, Broken> {
        Ok(self.offloaded)
    }

    fn truncate(&mut self, len: u32) -> Result<(), Broken> {
        self.change()?;
        if len > self.size() {
            return Err(Broken);
        }
        self.bytes.truncate(len as usize);
        Ok(())
    }

    fn grow_front<const N: u32>(&mut self) -> Result<(), Broken> {
        self.change()?;
        self.bytes.splice(0..0, std::iter::repeat_n(0xaa, N as usize));
        Ok(())
    }

    fn copy(&self, to: &mut [u8; PIECE_BYTES], len: u32) -> Result<(), Broken> {
        let from = self.bytes.get(..len as usize).ok_or(Broken)?;
        to.get_mut(..from.len()).ok_or(Broken)?.copy_from_slice(from);
        Ok(())
    }

    fn replace(&mut self, from: &[u8; PIECE_BYTES], len: u32) -> Result<(), Broken> {
        self.change()?;
        self.bytes = from.get(..len as usize).ok_or(Broken)?.to_vec();
        Ok(())
    }

    fn send_again(&mut self) -> Result<(), Broken> {
        self.change()?;
        let copy = Self { again: Vec::new(), ..self.clone() };
        self.again.push(copy);
        Ok(())
    }

    fn sum(&self, offset: u32, len: u32) -> Result<u32, Broken> {
        self.bytes.get(Self::range(offset, len as usize)).map(sum_bytes).ok_or(Broken)
    }
}

fn sum_bytes(bytes: &[u8]) -> u32 {
    let mut sum = Sum::default();
    for chunk in bytes.chunks(4) {
        let mut word = [0; 4];
        word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
        sum = sum.with(u32::from_ne_bytes(word));
    }
    sum.difference()
}
