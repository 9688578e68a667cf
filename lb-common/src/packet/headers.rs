//! What the headers of a packet say. Bytes of a stranger: nothing here trusts a length or an offset in them.

use super::{
    Broken, Packet,
    checksum::{Sum, pair, updated},
};
use crate::abi::{Family, FlowKey, Proto, V4, V6};

/// TCP's flags (RFC 9293 section 3.1).
pub mod tcp_flags {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// Begins a connection.
    pub const SYN: u8 = 2;
    /// Ends a connection at once.
    pub const RST: u8 = 4;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 16;
}

/// What a packet holds, as far as the packet layer cares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// A TCP segment or UDP datagram.
    #[default]
    Whole,
    /// The first fragment of one, with its ports.
    FirstFragment,
    /// Another fragment, without ports.
    LaterFragment,
    /// An ICMP error, which quotes the packet that it is about.
    IcmpError,
    /// A request for an ICMP echo, or a packet of a protocol that is never translated; also a fragment of one. No Service answers
    /// it.
    Other,
}

/// What the headers of a packet say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers<F: Family> {
    /// Addresses, ports and protocol. The ports of later fragments, ICMP errors and others are 0, and the protocol of IPv6's later
    /// fragments is what their fragment header says. Once the packet is rewritten:
    /// the new ones.
    pub tuple: FlowKey<F>,
    /// Where the network header is.
    pub network: u32,
    /// Where the transport header is; of a later fragment, where its data is.
    pub transport: u32,
    /// Where the packet ends by its own account: before link-layer padding, and after the end of what was cut off.
    pub end: u32,
    /// The identification that a datagram's fragments share, host byte order.
    pub fragment_id: u32,
    /// Of a fragment: where in its datagram's fragmentable part it begins, in units of 8 bytes.
    pub piece_at: u16,
    /// Of a fragment that others follow: where the next one begins.
    pub piece_next: u16,
    /// What it is.
    pub kind: Kind,
    /// See [`tcp_flags`]; 0 for others.
    pub tcp_flags: u8,
    /// Time to live, or hop limit.
    pub hops: u8,
    /// No router may fragment it. Always so for IPv6.
    pub dont_fragment: bool,
}

impl<F: Family> Headers<F> {
    /// Whether it is a TCP segment.
    #[inline(always)]
    pub fn is_tcp(&self) -> bool {
        self.tuple.proto == Proto::Tcp.number()
    }

    /// Whether it asks for a new TCP connection: SYN without ACK.
    #[inline(always)]
    pub fn is_syn(&self) -> bool {
        self.is_tcp() && self.tcp_flags & (tcp_flags::SYN | tcp_flags::ACK | tcp_flags::RST) == tcp_flags::SYN
    }

    /// Notes which piece of its datagram a fragment is: what stands from `begin` on belongs there at `at`, in units of 8 bytes.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "no more than 65,535 bytes; of what is longer anything")]
    fn set_piece(&mut self, at: u16, begin: u32) {
        self.piece_at = at;
        self.piece_next = at.wrapping_add((self.end.wrapping_sub(begin) / 8) as u16);
    }

    /// Whether it is a fragment.
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        matches!(self.kind, Kind::FirstFragment | Kind::LaterFragment)
    }

    /// Whether it has a transport header.
    #[inline(always)]
    pub fn has_ports(&self) -> bool {
        matches!(self.kind, Kind::Whole | Kind::FirstFragment)
    }
}

/// What is different about the headers of the two families.
pub trait Ip: Family {
    /// The protocol number of its ICMP.
    const ICMP: u8;
    /// The type of a request for an ICMP echo (RFC 792, RFC 4443 section 4.1).
    const ECHO_REQUEST: u8;
    /// Bytes of a header without options.
    const HEADER_LEN: u32;
    /// Where in the header its checksum is; IPv6 has none.
    const CHECKSUM: Option<u32>;
    /// Where in the header time to live or hop limit is.
    const HOPS: u32;
    /// Where in the header the addresses are, the source first.
    const ADDRS: u32;

    /// Reads the network header and all that stands before the transport header; `false` for what is not to be understood.
    /// Of `headers` everything but the ports and TCP's flags is written, in place: see `lb_common::logic::work`.
    fn read<P: Packet>(packet: &P, at: u32, headers: &mut Headers<Self>) -> bool;
    /// The word of the header that [`Self::HOPS`] is in with one hop less, as a router leaves it: where it holds the header
    /// checksum, too, with that brought up to date.
    fn one_hop_less(word: u32) -> u32;
    /// Writes both addresses into the header at `at`.
    fn store_addrs<P: Packet>(packet: &mut P, at: u32, tuple: &FlowKey<Self>) -> Result<(), Broken>;
    /// Writes a header without options at 0: of a packet of ours, which no router may fragment, with `len` bytes behind
    /// the header.
    fn store_header<P: Packet>(packet: &mut P, ends: &FlowKey<Self>, proto: u8, len: u16) -> Result<(), Broken>;
    /// Makes room for a header without options and for that of an ICMP error, before the network header.
    fn make_room_for_icmp<P: Packet>(packet: &mut P) -> Result<(), Broken>;
    /// Whether an ICMP message of this type is an error message, which quotes a packet.
    fn is_icmp_error(icmp_type: u8) -> bool;
    /// Whether a packet can have this source, wherever it comes from: not a loopback, multicast or unspecified address.
    fn is_source(addr: Self::Addr) -> bool;
    /// Brings the header checksum up to date, where there is one.
    #[inline(always)]
    fn update_header_checksum<P: Packet>(packet: &mut P, at: u32, difference: u32) -> Result<(), Broken> {
        match Self::CHECKSUM {
            Some(offset) => packet.update_ip_checksum(at + offset, difference),
            None => Ok(()),
        }
    }
    /// Tells of a change in the header of the packet itself that its transport checksum does not cover: where the header has
    /// no checksum either, nothing makes up for it.
    #[inline(always)]
    fn header_changed<P: Packet>(packet: &mut P, difference: u32) {
        if Self::CHECKSUM.is_none() {
            packet.sums_differently(difference);
        }
    }
}

impl Kind {
    /// From the offset in units of 8 bytes and the flag "more fragments".
    #[inline(always)]
    fn of_fragment(offset: u16, more: bool) -> Self {
        match (offset, more) {
            (0, false) => Self::Whole,
            (0, true) => Self::FirstFragment,
            _ => Self::LaterFragment,
        }
    }
}

/// Hops that packets of ours may take (`net.ipv4.ip_default_ttl`).
const HOPS: u8 = 64;

#[inline(always)]
fn u16s(word: u32) -> [u16; 2] {
    let [a, b, c, d] = word.to_ne_bytes();
    [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]
}

impl Ip for V4 {
    const ICMP: u8 = 1;
    const ECHO_REQUEST: u8 = 8;
    const HEADER_LEN: u32 = 20;
    const CHECKSUM: Option<u32> = Some(10);
    const HOPS: u32 = 8;
    const ADDRS: u32 = 12;

    /// RFC 791 section 3.1.
    #[inline(always)]
    fn read<P: Packet>(packet: &P, at: u32, headers: &mut Headers<V4>) -> bool {
        let Ok([first, fragment, third, src, dst]) = packet.load::<5>(at) else {
            return false;
        };
        let [version, ..] = first.to_ne_bytes();
        let [_, len] = u16s(first);
        let [id, fragment] = u16s(fragment);
        let [hops, proto, ..] = third.to_ne_bytes();
        let header_len = u32::from(version & 15) * 4;
        if version >> 4 != 4 || header_len < Self::HEADER_LEN {
            return false;
        }
        headers.network = at;
        headers.tuple.src_addr = V4::from_words([src]);
        headers.tuple.dst_addr = V4::from_words([dst]);
        headers.tuple.proto = proto;
        headers.hops = hops;
        headers.dont_fragment = fragment & 0x4000 != 0;
        headers.kind = Kind::of_fragment(fragment & 0x1fff, fragment & 0x2000 != 0);
        headers.fragment_id = u32::from(id);
        headers.transport = at + header_len;
        // 0: a train of segments that is longer than the field can say (BIG TCP).
        headers.end = if len == 0 { packet.size() } else { at + u32::from(len) };
        headers.set_piece(fragment & 0x1fff, headers.transport);
        true
    }

    #[inline(always)]
    fn one_hop_less(word: u32) -> u32 {
        let [hops, proto, a, b] = word.to_ne_bytes();
        let less = hops.wrapping_sub(1);
        let halves = [hops, less].map(|hops| u32::from_ne_bytes([hops, proto, 0, 0]));
        let [old, new] = halves;
        let difference = Sum::default().replace(old, new).difference();
        let [a, b] = updated(u16::from_ne_bytes([a, b]), difference).to_ne_bytes();
        u32::from_ne_bytes([less, proto, a, b])
    }

    #[inline(always)]
    fn store_addrs<P: Packet>(packet: &mut P, at: u32, tuple: &FlowKey<V4>) -> Result<(), Broken> {
        let ([src], [dst]) = (V4::words(tuple.src_addr), V4::words(tuple.dst_addr));
        packet.store(at + Self::ADDRS, [src, dst])
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "a header is 20 bytes")]
    fn store_header<P: Packet>(packet: &mut P, ends: &FlowKey<V4>, proto: u8, len: u16) -> Result<(), Broken> {
        const DONT_FRAGMENT: u16 = 0x4000;
        let ([src], [dst]) = (V4::words(ends.src_addr), V4::words(ends.dst_addr));
        let len = len.wrapping_add(Self::HEADER_LEN as u16);
        let first = pair(0x4500, len);
        let second = pair(0, DONT_FRAGMENT);
        let third = u32::from_ne_bytes([HOPS, proto, 0, 0]);
        let [sum_a, sum_b] = (!Sum::default().with_all(&[first, second, third, src, dst]).folded()).to_ne_bytes();
        let third = u32::from_ne_bytes([HOPS, proto, sum_a, sum_b]);
        packet.store(0, [first, second, third, src, dst])
    }

    #[inline(always)]
    fn make_room_for_icmp<P: Packet>(packet: &mut P) -> Result<(), Broken> {
        packet.grow_front::<{ Self::HEADER_LEN + ICMP_LEN }>()
    }

    /// Destination unreachable, time exceeded, parameter problem (RFC 792). Not redirect: that is between neighbours. Source
    /// quench is long gone (RFC 6633).
    #[inline(always)]
    fn is_icmp_error(icmp_type: u8) -> bool {
        matches!(icmp_type, 3 | 11 | 12)
    }

    /// RFC 1122 section 3.2.1.3. Linux takes those of class E (240.0.0.0/4) for addresses like others, and there are clusters whose
    /// pods have them; not the broadcast address.
    #[inline(always)]
    fn is_source(addr: [u8; 4]) -> bool {
        let [first, ..] = addr;
        !matches!(first, 0 | 127 | 224..=239) && addr != [255; 4]
    }
}

/// How many extension headers are looked over. RFC 8200 section 4.1 names six that may stand before the transport header.
const N_EXTENSIONS: usize = 6;

impl Ip for V6 {
    const ICMP: u8 = 58;
    const ECHO_REQUEST: u8 = 128;
    const HEADER_LEN: u32 = 40;
    const CHECKSUM: Option<u32> = None;
    const HOPS: u32 = 7;
    const ADDRS: u32 = 8;

    /// RFC 8200 sections 3 and 4.
    #[inline(always)]
    fn read<P: Packet>(packet: &P, at: u32, headers: &mut Headers<V6>) -> bool {
        let Ok([first, second, a, b, c, d, e, f, g, h]) = packet.load::<10>(at) else {
            return false;
        };
        let [version, ..] = first.to_ne_bytes();
        let [len, _] = u16s(second);
        let [_, _, next, hops] = second.to_ne_bytes();
        if version >> 4 != 6 {
            return false;
        }
        headers.network = at;
        headers.tuple.src_addr = V6::from_words([a, b, c, d]);
        headers.tuple.dst_addr = V6::from_words([e, f, g, h]);
        headers.tuple.proto = next;
        headers.hops = hops;
        headers.dont_fragment = true;
        headers.kind = Kind::Whole;
        headers.fragment_id = 0;
        headers.transport = at + Self::HEADER_LEN;
        // 0: a jumbogram, or a train of segments (BIG TCP).
        headers.end = if len == 0 { packet.size() } else { headers.transport + u32::from(len) };
        !is_extension(next) || skip_extensions(packet, headers)
    }

    #[inline(always)]
    fn one_hop_less(word: u32) -> u32 {
        let [a, b, next, hops] = word.to_ne_bytes();
        u32::from_ne_bytes([a, b, next, hops.wrapping_sub(1)])
    }

    #[inline(always)]
    fn store_addrs<P: Packet>(packet: &mut P, at: u32, tuple: &FlowKey<V6>) -> Result<(), Broken> {
        let ([a, b, c, d], [e, f, g, h]) = (V6::words(tuple.src_addr), V6::words(tuple.dst_addr));
        packet.store(at + Self::ADDRS, [a, b, c, d, e, f, g, h])
    }

    #[inline(always)]
    fn store_header<P: Packet>(packet: &mut P, ends: &FlowKey<V6>, proto: u8, len: u16) -> Result<(), Broken> {
        let [len_a, len_b] = len.to_be_bytes();
        packet.store(0, [u32::from_ne_bytes([0x60, 0, 0, 0]), u32::from_ne_bytes([len_a, len_b, proto, HOPS])])?;
        Self::store_addrs(packet, 0, ends)
    }

    #[inline(always)]
    fn make_room_for_icmp<P: Packet>(packet: &mut P) -> Result<(), Broken> {
        packet.grow_front::<{ Self::HEADER_LEN + ICMP_LEN }>()
    }

    /// Destination unreachable, packet too big, time exceeded, parameter problem (RFC 4443).
    #[inline(always)]
    fn is_icmp_error(icmp_type: u8) -> bool {
        matches!(icmp_type, 1..=4)
    }

    /// RFC 4291 section 2.4. Neither a link-local address, which means something on its own link only and cannot be
    /// forwarded, nor a mapped IPv4 one, which is never on the wire.
    #[inline(always)]
    fn is_source(addr: [u8; 16]) -> bool {
        let [first, second, ..] = addr;
        let [a, b, c, _] = V6::words(addr);
        // The unspecified and the loopback address begin as the IPv4-compatible ones do, which nobody has any more.
        let holds_v4 = a == 0 && b == 0 && (c == 0 || c == u32::from_ne_bytes([0, 0, 0xff, 0xff]));
        let is_link_local = first == 0xfe && second & 0xc0 == 0x80;
        !holds_v4 && !is_link_local && first != 0xff
    }
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

#[inline(always)]
pub(super) fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS)
}

/// Walks on to the transport header, or to the data of a later fragment. `false` where there are too many headers, or they
/// end too early. Not inlined: rare, and a loop.
#[inline(never)]
fn skip_extensions<P: Packet>(packet: &P, headers: &mut Headers<V6>) -> bool {
    for _ in 0..N_EXTENSIONS {
        let Ok([first, second]) = packet.load::<2>(headers.transport) else {
            return false;
        };
        let [next, len, ..] = first.to_ne_bytes();
        if headers.tuple.proto == FRAGMENT {
            let [_, fragment] = u16s(first);
            headers.kind = Kind::of_fragment(fragment >> 3, fragment & 1 != 0);
            headers.fragment_id = u32::from_be(second);
            headers.transport += 8;
            headers.set_piece(fragment >> 3, headers.transport);
        } else {
            headers.transport += (u32::from(len) + 1) * 8;
        }
        headers.tuple.proto = next;
        if headers.kind == Kind::LaterFragment || !is_extension(next) {
            return true;
        }
    }
    false
}

/// Bytes of a TCP header without options.
pub const TCP_LEN: u32 = 20;
/// Bytes of a UDP header.
pub const UDP_LEN: u32 = 8;
/// Bytes of the header of an ICMP error.
pub const ICMP_LEN: u32 = 8;
/// Where in a TCP header the checksum is.
pub const TCP_CHECKSUM: u32 = 16;
/// Where in a UDP header the checksum is.
pub const UDP_CHECKSUM: u32 = 6;
/// Where in an ICMP header the checksum is.
pub const ICMP_CHECKSUM: u32 = 2;

/// Reads the headers of a packet, whose network header is at 0. `false` for all that the packet layer leaves alone: ICMP between
/// neighbours, answers to an echo and the like, and what it does not understand. Then `headers` hold anything.
#[inline(always)]
pub fn read<F: Ip, P: Packet>(packet: &P, headers: &mut Headers<F>) -> bool {
    clear(headers);
    if !F::read(packet, 0, headers) {
        return false;
    }
    // Whether the datagram of a later fragment is one of ours its first one has said. Of IPv6 only that one says where the
    // headers end, too.
    if headers.kind == Kind::LaterFragment {
        if F::VERSION == 4 && !is_translated(headers.tuple.proto) {
            headers.kind = Kind::Other;
        }
        return true;
    }
    let read = match headers.tuple.proto {
        TCP => read_tcp(packet, headers),
        UDP => read_udp(packet, headers),
        icmp if icmp == F::ICMP => read_icmp(packet, headers),
        _ => {
            headers.kind = Kind::Other;
            Some(0)
        }
    };
    read.is_some_and(|len| headers.transport + len <= headers.end)
}

/// Those fields that not every packet has.
#[inline(always)]
fn clear<F: Family>(headers: &mut Headers<F>) {
    headers.tuple.src_port = 0;
    headers.tuple.dst_port = 0;
    headers.tuple.reserved = [0; 3];
    headers.tcp_flags = 0;
    headers.piece_at = 0;
}

/// Bytes of the header, as of the following two.
#[inline(always)]
fn read_tcp<F: Ip, P: Packet>(packet: &P, headers: &mut Headers<F>) -> Option<u32> {
    let [ports, _, _, flags] = packet.load::<4>(headers.transport).ok()?;
    set_ports(&mut headers.tuple, ports);
    [_, headers.tcp_flags, ..] = flags.to_ne_bytes();
    Some(TCP_LEN)
}

#[inline(always)]
fn read_udp<F: Ip, P: Packet>(packet: &P, headers: &mut Headers<F>) -> Option<u32> {
    let [ports] = packet.load::<1>(headers.transport).ok()?;
    set_ports(&mut headers.tuple, ports);
    Some(UDP_LEN)
}

#[inline(always)]
fn read_icmp<F: Ip, P: Packet>(packet: &P, headers: &mut Headers<F>) -> Option<u32> {
    let [first] = packet.load::<1>(headers.transport).ok()?;
    let [icmp_type, ..] = first.to_ne_bytes();
    if icmp_type == F::ECHO_REQUEST {
        headers.kind = Kind::Other;
        return Some(ICMP_LEN);
    }
    // A fragment of an error cannot be rewritten: its checksum covers the other fragments.
    let is_whole = headers.kind == Kind::Whole;
    headers.kind = Kind::IcmpError;
    (is_whole && F::is_icmp_error(icmp_type)).then_some(ICMP_LEN)
}

/// Reads the headers of a packet that an ICMP error quotes, as far as it must quote them: 8 bytes of the transport header
/// (RFC 792). `false` where it has no ports.
#[inline(always)]
pub fn read_quoted<F: Ip, P: Packet>(packet: &P, at: u32, headers: &mut Headers<F>) -> bool {
    clear(headers);
    if !F::read(packet, at, headers) || headers.kind == Kind::LaterFragment || !is_translated(headers.tuple.proto) {
        return false;
    }
    let Ok([ports, _]) = packet.load::<2>(headers.transport) else {
        return false;
    };
    set_ports(&mut headers.tuple, ports);
    true
}

const TCP: u8 = Proto::Tcp.number();
const UDP: u8 = Proto::Udp.number();

#[inline(always)]
fn is_translated(proto: u8) -> bool {
    matches!(proto, TCP | UDP)
}

/// Whether a later fragment that says so may be of a segment or datagram: what comes next in IPv6 only the first one tells for
/// certain.
#[inline(always)]
pub fn may_be_translated(proto: u8) -> bool {
    is_translated(proto) || is_extension(proto)
}

#[inline(always)]
fn set_ports<F: Family>(tuple: &mut FlowKey<F>, word: u32) {
    [tuple.src_port, tuple.dst_port] = u16s(word);
}

/// Where the checksum of a TCP segment or UDP datagram is in its header, and whether zero means that there is none.
#[inline(always)]
pub const fn transport_checksum(proto: u8) -> (u32, bool) {
    if proto == TCP { (TCP_CHECKSUM, false) } else { (UDP_CHECKSUM, true) }
}
