//! Packets as the packet layer's logic sees them: from the network header on, in words of four bytes.
//!
//! What lies below (Ethernet, devices, offloads) is the adapter's: `lb-ebpf` implements [`Packet`] on an skb, `sim` on a
//! vector.

pub mod checksum;
pub mod glance;
pub mod headers;

use crate::abi::PIECE_BYTES;

/// The packet could not be changed or read as asked: it ends too early, or the kernel had no memory. It may be half
/// changed and must be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// What part of a transport checksum a change belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Summed {
    /// Addresses, which it covers as part of the pseudo-header (RFC 9293 section 3.1, RFC 768, RFC 8200 section 8.1).
    /// `BPF_F_PSEUDO_HDR`: where the rest of the sum is left to the hardware (`CHECKSUM_PARTIAL`), this part is not.
    PseudoHeader,
    /// Bytes of the segment itself. Where the rest of the sum is left to the hardware, nothing is to be done.
    Segment,
}

/// A packet that a program runs for. Offsets are in bytes from the first byte of the network header.
///
/// Words hold the bytes as they stand in the packet, in native order: `u32::from_be(word)` is the number on the wire.
/// Ranges that are not wholly in the packet are [`Broken`].
pub trait Packet {
    /// Bytes of it, from the network header on, link-layer padding included.
    fn size(&self) -> u32;

    /// Reads `N` words.
    fn load<const N: usize>(&self, offset: u32) -> Result<[u32; N], Broken>;

    /// The first `N` words, if they are at hand. `None` does not say that they are not there.
    fn peek<const N: usize>(&self) -> Option<[u32; N]>;

    /// Reads two bytes, into host byte order.
    fn load_u16(&self, offset: u32) -> Result<u16, Broken>;

    /// Writes `N` words. No checksum is touched.
    fn store<const N: usize>(&mut self, offset: u32, words: [u32; N]) -> Result<(), Broken>;

    /// Writes two bytes, given in host byte order. No checksum is touched.
    fn store_u16(&mut self, offset: u32, value: u16) -> Result<(), Broken>;

    /// Brings the IPv4 header checksum at `offset` up to date with a change of the header: `difference` as
    /// [`checksum::Sum`] has it. As `bpf_l3_csum_replace` with size 0.
    fn update_ip_checksum(&mut self, offset: u32, difference: u32) -> Result<(), Broken>;

    /// Brings the transport checksum at `offset` up to date. As `bpf_l4_csum_replace` with size 0. With `zero_is_none`
    /// (UDP) a sum of zero means that there is none and stays, and one that becomes zero is written as 0xffff
    /// (`BPF_F_MARK_MANGLED_0`, RFC 768).
    fn update_checksum(
        &mut self,
        offset: u32,
        difference: u32,
        summed: Summed,
        zero_is_none: bool,
    ) -> Result<(), Broken>;

    /// Tells of a change that no checksum in the packet makes up for, in case the device has summed the packet as a whole
    /// (`CHECKSUM_COMPLETE`). As `bpf_csum_update`.
    fn sums_differently(&mut self, difference: u32);

    /// Writes the transport checksum at `offset` of a segment that was written anew: `whole`, or, where the segment's sum
    /// is left to the hardware, `pseudo`, the sum of the pseudo-header that it begins with. Both in host byte order.
    fn set_checksum(&mut self, offset: u32, whole: u16, pseudo: u16) -> Result<(), Broken>;

    /// Whether the transport checksum at `offset` is left to the hardware (`CHECKSUM_PARTIAL`): its field then holds the sum
    /// of the pseudo-header. Not changed by asking.
    fn is_summed_later(&mut self, offset: u32) -> Result<bool, Broken>;

    /// Cuts the packet off after `len` bytes. It is no train of segments (GSO) afterwards.
    fn truncate(&mut self, len: u32) -> Result<(), Broken>;

    /// Makes room for `N` more bytes before the network header, which are the new network header's. The link-layer header
    /// stays before them. Their contents are anything.
    fn grow_front<const N: u32>(&mut self) -> Result<(), Broken>;

    /// Copies the first `len` bytes. More than there are, or than there is room for, are [`Broken`].
    fn copy(&self, to: &mut [u8; PIECE_BYTES], len: u32) -> Result<(), Broken>;

    /// Puts these `len` bytes in the place of the packet, behind the same link-layer header.
    fn replace(&mut self, from: &[u8; PIECE_BYTES], len: u32) -> Result<(), Broken>;

    /// Has a copy of the packet as it is now come in once more by the device that it came in by, after this run and after
    /// all that has come in until now.
    fn send_again(&mut self) -> Result<(), Broken>;

    /// The one's complement sum of `len` bytes from `offset` on, which is a multiple of 4, as [`checksum::Sum`] has it: as
    /// if zeros followed. At most [`MAX_SUMMED`] bytes.
    fn sum(&self, offset: u32, len: u32) -> Result<u32, Broken>;
}

/// The most that [`Packet::sum`] is asked for: what an ICMPv6 error may quote, so that it is not longer than the smallest
/// IPv6 MTU (RFC 4443 section 2.4 (c): 1280 bytes with its own two headers, 40 and 8).
pub const MAX_SUMMED: u32 = 1_232;
