//! `lb_conns4/6`, `lb_frags4/6`: the connections that the packet layer translates. The programs write them, the agent ages
//! and lists them.
//!
//! A flow is two entries, its halves: one for the packets of the client (forward), one for those of the backend (reply).
//! Each half's key and value together name the other half ([`Flow::partner`]), so that neither has to be searched for.

use super::Family;

/// Key of `lb_conns4/6`: the addresses and ports of a packet as it arrives, before it is translated.
///
/// There is no direction in it: a tuple belongs to one half of one flow, whoever claimed it first, so that a packet of a
/// known flow costs one lookup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C, align(4))]
pub struct FlowKey<F: Family> {
    /// Wire order.
    pub src_addr: F::Addr,
    /// Wire order.
    pub dst_addr: F::Addr,
    /// Host byte order.
    pub src_port: u16,
    /// Host byte order.
    pub dst_port: u16,
    /// IP protocol number, see [`super::Proto`].
    pub proto: u8,
    /// Always 0; named so that no padding is left.
    pub reserved: [u8; 3],
}

impl<F: Family> FlowKey<F> {
    /// The tuple of a packet in the other direction.
    #[inline(always)]
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self {
            src_addr: self.dst_addr,
            dst_addr: self.src_addr,
            src_port: self.dst_port,
            dst_port: self.src_port,
            ..*self
        }
    }
}

/// Bits of [`Flow::flags`]. Readers must ignore bits they do not know.
pub mod flow_flags {
    /// The half of the backend's packets. Without it: of the client's.
    pub const REPLY: u16 = 1;
    /// The backend does not see the client's address and port, but others. Said in both halves.
    pub const SNAT: u16 = 2;
    /// The client is on a pod-facing device. Said in both halves.
    pub const FROM_POD: u16 = 4;
}

/// Bits of [`Flow::seen`]: what the packets of this half have had in them so far.
pub mod flow_seen {
    /// TCP: a segment with SYN.
    pub const SYN: u16 = 1;
    /// TCP: a segment with ACK and without SYN. Of the client, that ends the handshake.
    pub const ACK: u16 = 2;
    /// TCP: a segment with FIN.
    pub const FIN: u16 = 4;
    /// TCP: a segment with RST, and nothing else since.
    pub const RST: u16 = 8;
    /// Any packet at all. A reply half has it once the backend has answered.
    pub const PACKET: u16 = 16;
}

/// Value of `lb_conns4/6`: what a packet with this key is turned into.
///
/// As [`super::Frontend`] it says for itself whether it was read whole: the memory of a removed half may be another's by
/// the time it is read ([`Flow::is_of`]). `last_seen_s` and `seen` are written in place and are not part of that. A
/// processor may lose what another one notes there at the same moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C, align(4))]
pub struct Flow<F: Family> {
    /// The source that the packet leaves with, wire order.
    pub src_addr: F::Addr,
    /// The destination that the packet leaves with, wire order.
    pub dst_addr: F::Addr,
    /// Host byte order.
    pub src_port: u16,
    /// Host byte order.
    pub dst_port: u16,
    /// Service-port id.
    pub service: u32,
    /// Backend id.
    pub backend: u32,
    /// When the flow began, in seconds of the monotonic clock.
    pub created_s: u32,
    /// When this half last had a packet, in seconds of the monotonic clock. In a reply half that has had none: when the
    /// flow began.
    pub last_seen_s: u32,
    /// See [`flow_seen`].
    pub seen: u16,
    /// See [`flow_flags`].
    pub flags: u16,
    /// Checksum of the key and of what does not change, see [`Flow::sealed`].
    pub check: u32,
}

impl<F: Family> Flow<F> {
    /// The tuple that a packet with this key leaves with.
    #[inline(always)]
    pub fn translated(&self, key: &FlowKey<F>) -> FlowKey<F> {
        FlowKey {
            src_addr: self.src_addr,
            dst_addr: self.dst_addr,
            src_port: self.src_port,
            dst_port: self.dst_port,
            ..*key
        }
    }

    /// The key of the other half.
    #[inline(always)]
    pub fn partner(&self, key: &FlowKey<F>) -> FlowKey<F> {
        self.translated(key).reversed()
    }

    /// Whether this is the half of the backend's packets.
    #[inline(always)]
    pub fn is_reply(&self) -> bool {
        self.flags & flow_flags::REPLY != 0
    }

    /// The same with the checksum for its place in the map. Only sealed values belong there.
    #[inline(always)]
    #[must_use]
    pub fn sealed(self, key: &FlowKey<F>) -> Self {
        Self { check: self.checksum(key), ..self }
    }

    /// As [`Self::sealed`], in place.
    #[inline(always)]
    pub fn seal(&mut self, key: &FlowKey<F>) {
        self.check = self.checksum(key);
    }

    /// Whether this value, as it was read, is what was once written for `key`.
    #[inline(always)]
    pub fn is_of(&self, key: &FlowKey<F>) -> bool {
        self.check == self.checksum(key)
    }

    /// As [`super::Frontend`]'s. Source and destination have factors of their own, so that a tuple and its reverse differ.
    #[inline(always)]
    fn checksum(&self, key: &FlowKey<F>) -> u32 {
        let ports = |src: u16, dst: u16| u32::from(src) << 16 | u32::from(dst);
        let others = [
            ports(key.src_port, key.dst_port),
            ports(self.src_port, self.dst_port),
            self.service,
            self.backend,
            u32::from(key.proto) << 16 | u32::from(self.flags),
        ];
        products(&others, OTHERS)
            .wrapping_add(products(F::words(key.src_addr).as_ref(), KEY_SRC))
            .wrapping_add(products(F::words(key.dst_addr).as_ref(), KEY_DST))
            .wrapping_add(products(F::words(self.src_addr).as_ref(), SRC))
            .wrapping_add(products(F::words(self.dst_addr).as_ref(), DST))
            .wrapping_add(START)
    }
}

#[inline(always)]
fn products<const N: usize>(words: &[u32], factors: [u32; N]) -> u32 {
    words.iter().zip(factors).fold(0_u32, |sum, (word, factor)| sum.wrapping_add(word.wrapping_mul(factor)))
}

/// Where a checksum begins, so that memory full of zeros is no flow.
const START: u32 = 0xbb67_ae85;

// One for each word of a value and its key: constants of SHA-256 (FIPS 180-4, section 4.2.2), which nobody chose for their
// relations to one another, made odd. Others than a frontend's.
const OTHERS: [u32; 5] = [0x2431_85bf, 0x550c_7dc3, 0x72be_5d75, 0x80de_b1ff, 0x9bdc_06a7];
const KEY_SRC: [u32; 4] = [0xc19b_f175, 0xe49b_69c1, 0xefbe_4787, 0x0fc1_9dc7];
const KEY_DST: [u32; 4] = [0x240c_a1cd, 0x2de9_2c6f, 0x4a74_84ab, 0x5cb0_a9dd];
const SRC: [u32; 4] = [0x76f9_88db, 0x983e_5153, 0xa831_c66d, 0xb003_27c9];
const DST: [u32; 4] = [0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351];

/// Key of `lb_frags4/6`: what all fragments of a datagram have in common (RFC 791 section 3.2, RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C, align(4))]
pub struct FragmentKey<F: Family> {
    /// Wire order.
    pub src_addr: F::Addr,
    /// Wire order.
    pub dst_addr: F::Addr,
    /// The identification field, host byte order.
    pub id: u32,
    /// IP protocol number. 0 for IPv6, whose fragment headers say what comes next, extension headers too, and only that of
    /// the first fragment counts.
    pub proto: u8,
    /// Always 0; named so that no padding is left.
    pub reserved: [u8; 3],
}

/// Value of `lb_frags4/6`: what only a datagram's first fragment has. Kept for translated datagrams, and, without ports and
/// protocol, for those that were looked at and left alone or refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Fragment {
    /// Host byte order.
    pub src_port: u16,
    /// Host byte order.
    pub dst_port: u16,
    /// When the first fragment came, in seconds of the monotonic clock.
    pub seen_s: u32,
    /// IP protocol number, see [`super::Proto`]. 0 for a datagram that is not translated.
    pub proto: u8,
    /// Always 0; named so that no padding is left.
    pub reserved: [u8; 3],
}
