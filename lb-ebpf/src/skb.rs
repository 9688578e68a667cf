//! The logic's view of a packet (`lb_common::packet::Packet`) on an skb. Thin: each function is a helper call or two.
//!
//! Headers are mostly read by direct packet access, which costs a tenth of a helper call. Nothing is written that way: a program that does so has every shared packet copied before it runs
//! (`bpf_unclone_prologue` in net/core/filter.c), and what the node's own TCP sends is shared at egress, ours or not.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_INGRESS, BPF_F_INVALIDATE_HASH, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers,
};
use lb_common::{
    abi::{Family, PIECE_BYTES},
    packet::{
        Broken, MAX_SUMMED, Packet, Summed,
        headers::{Headers, TCP_LEN, UDP_LEN},
    },
};

/// A field of the context. Volatile, because the verifier takes only reads of whole, aligned fields, and the compiler
/// would merge or split them.
macro_rules! field {
    ($skb:expr, $field:ident) => {
        // SAFETY: the kernel passes a valid context; the verifier checks every access to it.
        unsafe { core::ptr::read_volatile(&raw const (*$skb).$field) }
    };
}
pub(crate) use field;

/// Bytes of an Ethernet header without VLAN tag.
pub const ETHERNET: u32 = 14;
/// Of devices whose frames begin with the network header (wireguard, tun).
pub const NO_HEADER: u32 = 0;

/// An IP packet of family `F` behind `L2` bytes of link-layer header, 14 (Ethernet) or none.
pub struct Skb<F, const L2: u32> {
    skb: *mut __sk_buff,
    family: core::marker::PhantomData<F>,
}

impl<F: Family, const L2: u32> Skb<F, L2> {
    /// The packet that the program runs for.
    #[inline(always)]
    pub fn new(skb: *mut __sk_buff) -> Self {
        Self { skb, family: core::marker::PhantomData }
    }

    /// The context.
    #[inline(always)]
    pub fn context(&self) -> *mut __sk_buff {
        self.skb
    }

    /// The length of the packet from its network header on, or of the longest segment that a device will make of it. A TCP
    /// segment's header is as long as that of the train (GSO) that it comes from.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "longer packets are trains of segments")]
    pub fn longest(&self, headers: &Headers<F>) -> u16 {
        let len = match field!(self.skb, gso_size) {
            0 => self.size(),
            size => headers.transport + self.transport_len(headers) + size,
        };
        len.min(u16::MAX.into()) as u16
    }

    #[inline(always)]
    fn transport_len(&self, headers: &Headers<F>) -> u32 {
        const DATA_OFFSET: u32 = 12;
        if !headers.is_tcp() {
            return UDP_LEN;
        }
        // Cannot fail, as the header has been read before.
        self.load(headers.transport + DATA_OFFSET).map_or(TCP_LEN, |[word]| (u32::from_be(word) >> 28) * 4)
    }

    /// Gives the frame these addresses, the destination first.
    #[inline(always)]
    fn set_macs(&mut self, macs: [[u8; 6]; 2]) -> Result<(), Broken> {
        // SAFETY: `macs` has twelve bytes.
        done(unsafe { helpers::bpf_skb_store_bytes(self.skb, 0, macs.as_ptr().cast(), 12, 0) })
    }

    /// Gives a packet that has no link-layer header room for one, without which the kernel redirects it to no device that has
    /// them; for those that have none it takes it off again (`__bpf_redirect_no_mac` in net/core/filter.c). The last that is
    /// done to a packet: no offset holds afterwards.
    #[inline(always)]
    pub fn have_ethernet(&mut self) -> Result<(), Broken> {
        if L2 == ETHERNET {
            return Ok(());
        }
        // SAFETY: takes numbers.
        done(unsafe { helpers::bpf_skb_change_head(self.skb, ETHERNET, 0) })
    }

    /// Gives the packet an Ethernet header with these addresses, the destination first. As [`Self::have_ethernet`].
    #[inline(always)]
    pub fn set_ethernet(&mut self, macs: [[u8; 6]; 2]) -> Result<(), Broken> {
        self.have_ethernet()?;
        self.set_macs(macs)?;
        if L2 == ETHERNET {
            return Ok(());
        }
        // As IEEE 802 numbers them.
        let kind = if F::VERSION == 4 { 0x0800_u16 } else { 0x86dd }.to_be_bytes();
        // SAFETY: `kind` has two bytes.
        done(unsafe { helpers::bpf_skb_store_bytes(self.skb, 12, kind.as_ptr().cast(), 2, 0) })
    }

    /// Sends the frame back to where it came from.
    #[inline(always)]
    pub fn exchange_macs(&mut self) -> Result<(), Broken> {
        let mut macs = [[0_u8; 6]; 2];
        let to = macs.as_mut_ptr().cast();
        // SAFETY: `macs` has twelve bytes.
        done(unsafe { helpers::bpf_skb_load_bytes(self.skb.cast_const().cast(), 0, to, 12) })?;
        let [dst, src] = macs;
        self.set_macs([src, dst])
    }

    /// Reads by direct packet access, if the words are in the first piece of the packet.
    #[inline(always)]
    fn glance<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        if offset >= FAR {
            return None;
        }
        // The verifier wants to see on the very number that is added that it is small, and the compiler knows already.
        let near = core::hint::black_box(L2 + offset) & (2 * FAR - 1);
        let at = field!(self.skb, data) as usize + near as usize;
        if at + size_of::<[u32; N]>() > field!(self.skb, data_end) as usize {
            return None;
        }
        // SAFETY: inside the packet, as the verifier has seen. Any bytes are words. The kernel aligns network headers to words
        // wherever the processor needs that (NET_IP_ALIGN), and the verifier holds programs to it there.
        Some(unsafe { ptr::with_exposed_provenance::<[u32; N]>(at).read() })
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "a few bytes")]
    fn write<T>(&mut self, offset: u32, from: &T) -> Result<(), Broken> {
        let (from, size) = (ptr::from_ref(from).cast(), size_of::<T>() as u32);
        // SAFETY: `from` has that many bytes. The helper checks where they go.
        done(unsafe { helpers::bpf_skb_store_bytes(self.skb, L2 + offset, from, size, 0) })
    }
}

/// Headers that are farther away are read by helper call. A power of two.
const FAR: u32 = 1_024;

/// A number of bytes of a piece: between 1 and all of them, in words that the verifier understands.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "2,048")]
fn within_piece(len: u32) -> Result<u32, Broken> {
    const MOST: u32 = PIECE_BYTES as u32;
    let len = core::hint::black_box(len);
    if len == 0 || len > MOST { Err(Broken) } else { Ok(((len - 1) & (MOST - 1)) + 1) }
}

/// What a helper says.
#[inline(always)]
fn done(result: i64) -> Result<(), Broken> {
    if result == 0 { Ok(()) } else { Err(Broken) }
}

impl<F: Family, const L2: u32> Packet for Skb<F, L2> {
    #[inline(always)]
    fn size(&self) -> u32 {
        field!(self.skb, len).wrapping_sub(L2)
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "a few words")]
    fn load<const N: usize>(&self, offset: u32) -> Result<[u32; N], Broken> {
        if let Some(words) = self.glance(offset) {
            return Ok(words);
        }
        let mut words = [0; N];
        let (skb, to): (*const c_void, _) = (self.skb.cast_const().cast(), (&raw mut words).cast());
        // SAFETY: `words` has that many bytes. The helper checks where they come from.
        let result = unsafe { helpers::bpf_skb_load_bytes(skb, L2 + offset, to, 4 * N as u32) };
        done(result).map(|()| words)
    }

    #[inline(always)]
    fn peek<const N: usize>(&self) -> Option<[u32; N]> {
        let at = field!(self.skb, data) as usize + L2 as usize;
        if at + size_of::<[u32; N]>() > field!(self.skb, data_end) as usize {
            return None;
        }
        // SAFETY: as for `glance`.
        Some(unsafe { ptr::with_exposed_provenance::<[u32; N]>(at).read() })
    }

    #[inline(always)]
    fn load_u16(&self, offset: u32) -> Result<u16, Broken> {
        let mut value = 0_u16;
        let to = (&raw mut value).cast();
        // SAFETY: `value` has two bytes. The helper checks where they come from.
        let result = unsafe { helpers::bpf_skb_load_bytes(self.skb.cast_const().cast(), L2 + offset, to, 2) };
        done(result).map(|()| u16::from_be(value))
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: u32, words: [u32; N]) -> Result<(), Broken> {
        self.write(offset, &words)
    }

    #[inline(always)]
    fn store_u16(&mut self, offset: u32, value: u16) -> Result<(), Broken> {
        self.write(offset, &value.to_be())
    }

    #[inline(always)]
    fn update_ip_checksum(&mut self, offset: u32, difference: u32) -> Result<(), Broken> {
        // SAFETY: takes numbers. Size 0 says that the last but one is a difference.
        done(unsafe { helpers::bpf_l3_csum_replace(self.skb, L2 + offset, 0, difference.into(), 0) })
    }

    #[inline(always)]
    fn update_checksum(
        &mut self,
        offset: u32,
        difference: u32,
        summed: Summed,
        zero_is_none: bool,
    ) -> Result<(), Broken> {
        let is_pseudo = summed == Summed::PseudoHeader;
        let mangled = if zero_is_none { BPF_F_MARK_MANGLED_0 } else { 0 };
        let flags = u64::from(mangled | if is_pseudo { BPF_F_PSEUDO_HDR } else { 0 });
        // SAFETY: as above.
        done(unsafe { helpers::bpf_l4_csum_replace(self.skb, L2 + offset, 0, difference.into(), flags) })?;
        // Where the device has summed the whole packet (`CHECKSUM_COMPLETE`), the helper takes a change of the pseudo-header for
        // one that the IPv4 header checksum makes up for, and changes the whole sum. IPv6 has none such: address and transport
        // checksum make up for one another, and the whole sum must stay. Linux 6.16 has a flag for that (`BPF_F_IPV6`, kernel
        // commit ead7f9b8de65), which older kernels refuse; putting the difference back does for all.
        if is_pseudo && F::VERSION == 6 {
            self.sums_differently(difference);
        }
        Ok(())
    }

    #[inline(always)]
    fn sums_differently(&mut self, difference: u32) {
        // SAFETY: takes a number. It fails where the device has not summed the packet: then there is nothing to bring up to date.
        unsafe { helpers::bpf_csum_update(self.skb, difference) };
    }

    /// Whether the sum is left to the hardware a program is not told. So the checksum is written as it must be in that case,
    /// and then changed as for bytes of the segment, which the helper does in the other case only.
    #[inline(always)]
    fn set_checksum(&mut self, offset: u32, whole: u16, pseudo: u16) -> Result<(), Broken> {
        self.store_u16(offset, pseudo)?;
        let difference = u32::from(!whole.to_be()) + u32::from(pseudo.to_be());
        self.update_checksum(offset, difference, Summed::Segment, false)
    }

    /// By trying: a change of the segment changes the field only where it is not left to the hardware.
    #[inline(always)]
    fn is_summed_later(&mut self, offset: u32) -> Result<bool, Broken> {
        let before = self.load_u16(offset)?;
        let probe = |packet: &mut Self| packet.update_checksum(offset, 1_u16.to_be().into(), Summed::Segment, false);
        probe(self)?;
        let changed = self.load_u16(offset)? != before;
        if changed {
            self.store_u16(offset, before)?;
        }
        Ok(!changed)
    }

    #[inline(always)]
    fn truncate(&mut self, len: u32) -> Result<(), Broken> {
        // SAFETY: takes numbers.
        done(unsafe { helpers::bpf_skb_change_tail(self.skb, L2 + len, 0) })
    }

    #[inline(always)]
    fn grow_front<const N: u32>(&mut self) -> Result<(), Broken> {
        // SAFETY: takes numbers.
        done(unsafe { helpers::bpf_skb_adjust_room(self.skb, N.cast_signed(), BPF_ADJ_ROOM_MAC, 0) })
    }

    #[inline(always)]
    fn copy(&self, to: &mut [u8; PIECE_BYTES], len: u32) -> Result<(), Broken> {
        let (from, len) = (self.skb.cast_const().cast(), within_piece(len)?);
        // SAFETY: `to` has at least that many bytes. The helper checks where they come from.
        done(unsafe { helpers::bpf_skb_load_bytes(from, L2, to.as_mut_ptr().cast(), len) })
    }

    #[inline(always)]
    fn replace(&mut self, from: &[u8; PIECE_BYTES], len: u32) -> Result<(), Broken> {
        self.truncate(len)?;
        let (len, flags) = (within_piece(len)?, BPF_F_RECOMPUTE_CSUM | BPF_F_INVALIDATE_HASH);
        // SAFETY: `from` has at least that many bytes. The helper checks where they go.
        done(unsafe { helpers::bpf_skb_store_bytes(self.skb, L2, from.as_ptr().cast(), len, flags.into()) })
    }

    #[inline(always)]
    fn send_again(&mut self) -> Result<(), Broken> {
        let device = field!(self.skb, ifindex);
        // SAFETY: takes numbers.
        done(unsafe { helpers::bpf_clone_redirect(self.skb, device, BPF_F_INGRESS.into()) })
    }

    #[inline(always)]
    fn sum(&self, offset: u32, len: u32) -> Result<u32, Broken> {
        u32::try_from(sum_bytes(self.skb, L2 + offset, len)).map_err(|_| Broken)
    }
}

/// Bytes that are summed at a time: the stack is small.
const CHUNK_BYTES: u32 = 64;
/// The same in words.
const CHUNK: usize = CHUNK_BYTES as usize / 4;

/// Sums bytes; more than 32 bits if they are not all there. Not inlined: for the few packets that are answered, at the end of
/// a long row of calls, whose stack is limited (docs/verifier.md).
#[inline(never)]
fn sum_bytes(skb: *mut __sk_buff, offset: u32, len: u32) -> u64 {
    let mut sum: u64 = 0;
    for chunk in 0..MAX_SUMMED.div_ceil(CHUNK_BYTES) {
        let done_bytes = chunk * CHUNK_BYTES;
        if done_bytes >= len {
            break;
        }
        // Between 1 and CHUNK_BYTES, in words that the verifier understands.
        let rest = len - done_bytes;
        let size = if rest >= CHUNK_BYTES { CHUNK_BYTES } else { ((rest - 1) & (CHUNK_BYTES - 1)) + 1 };
        let mut words = [0_u32; CHUNK];
        let (source, to): (*const c_void, _) = (skb.cast_const().cast(), (&raw mut words).cast());
        // SAFETY: `words` has at least that many bytes.
        if unsafe { helpers::bpf_skb_load_bytes(source, offset + done_bytes, to, size) } != 0 {
            return u64::MAX;
        }
        sum = words.iter().fold(sum, |sum, word| sum + u64::from(*word));
    }
    let once = (sum & 0xffff_ffff) + (sum >> 32);
    (once & 0xffff_ffff) + (once >> 32)
}
