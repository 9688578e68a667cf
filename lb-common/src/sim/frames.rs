//! Packets for tests: built from what they say, taken apart again, and their checksums verified. Knows nothing of
//! [`crate::packet`], so that the two check one another: bytes, one after the other, in wire order.

use std::net::{IpAddr, SocketAddr};

use super::SimPacket;

/// What a packet is besides its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A TCP segment.
    Tcp {
        /// See RFC 9293; FIN is 1, SYN 2, RST 4, ACK 16.
        flags: u8,
        /// Sequence number.
        seq: u32,
        /// Acknowledgement number.
        ack: u32,
        /// Options, in multiples of four bytes.
        options: Vec<u8>,
    },
    /// A UDP datagram.
    Udp {
        /// Sent without a checksum.
        unsummed: bool,
    },
    /// An ICMP or ICMPv6 message: type, code, the rest of the header. The data is what it quotes.
    Icmp(u8, u8, u32),
    /// A later fragment, in units of 8 bytes from the beginning of the datagram, of this protocol.
    Later(u16, u8),
}

/// A packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Source; the port is 0 where there is none.
    pub src: SocketAddr,
    /// Destination.
    pub dst: SocketAddr,
    /// What it is.
    pub body: Body,
    /// Behind the transport header.
    pub data: Vec<u8>,
    /// Time to live or hop limit.
    pub hops: u8,
    /// More fragments follow (first fragments), or this is one of them ([`Body::Later`]): their identification.
    pub fragment: Option<u32>,
    /// Bytes of IPv4 options (a multiple of 4), or a number of IPv6 destination options headers of 8 bytes.
    pub options: usize,
    /// IPv4: may be fragmented.
    pub may_fragment: bool,
}

impl Frame {
    /// A TCP segment without data.
    pub fn tcp(src: SocketAddr, dst: SocketAddr, flags: u8) -> Self {
        Self::new(src, dst, Body::Tcp { flags, seq: 1_000, ack: 2_000, options: vec![2, 4, 5, 180] })
    }

    /// A UDP datagram with some data.
    pub fn udp(src: SocketAddr, dst: SocketAddr) -> Self {
        Self { data: b"hello".to_vec(), ..Self::new(src, dst, Body::Udp { unsummed: false }) }
    }

    /// An ICMP error about a packet.
    pub fn icmp(src: IpAddr, dst: IpAddr, kind: (u8, u8, u32), quoted: Vec<u8>) -> Self {
        let (kind, code, rest) = kind;
        let body = Body::Icmp(kind, code, rest);
        Self { data: quoted, ..Self::new(SocketAddr::new(src, 0), SocketAddr::new(dst, 0), body) }
    }

    fn new(src: SocketAddr, dst: SocketAddr, body: Body) -> Self {
        Self { src, dst, body, data: Vec::new(), hops: 64, fragment: None, options: 0, may_fragment: false }
    }

    fn proto(&self) -> u8 {
        match self.body {
            Body::Tcp { .. } => 6,
            Body::Udp { .. } => 17,
            Body::Icmp(..) if self.src.is_ipv4() => 1,
            Body::Icmp(..) => 58,
            Body::Later(_, proto) => proto,
        }
    }

    /// The transport header and data, with the checksum in its place.
    fn segment(&self) -> Vec<u8> {
        let ports = [self.src.port().to_be_bytes(), self.dst.port().to_be_bytes()].concat();
        let (mut segment, checksum) = match &self.body {
            Body::Tcp { flags, seq, ack, options } => {
                let offset = u8::try_from(5 + options.len() / 4).unwrap_or(15) << 4;
                let fixed =
                    [&ports[..], &seq.to_be_bytes(), &ack.to_be_bytes(), &[offset, *flags, 255, 255, 0, 0, 0, 0]];
                ([&fixed.concat()[..], options].concat(), Some(16))
            }
            Body::Udp { unsummed } => {
                let len = u16::try_from(8 + self.data.len()).unwrap_or(0).to_be_bytes();
                ([&ports[..], &len, &[0, 0]].concat(), (!unsummed).then_some(6))
            }
            Body::Icmp(kind, code, rest) => ([&[*kind, *code, 0, 0], &rest.to_be_bytes()[..]].concat(), Some(2)),
            Body::Later(..) => (Vec::new(), None),
        };
        segment.extend(&self.data);
        if let Some(at) = checksum {
            // ICMP has none, ICMPv6 has.
            let none = matches!(self.body, Body::Icmp(..)) && self.src.is_ipv4();
            let pseudo = if none { Vec::new() } else { self.pseudo_header(segment.len()) };
            let sum = match !sum_of(&[&pseudo, &segment]) {
                0 if at == 6 => 0xffff,
                sum => sum,
            };
            segment.splice(at..at + 2, sum.to_be_bytes());
        }
        segment
    }

    fn pseudo_header(&self, len: usize) -> Vec<u8> {
        pseudo_header(self.src.ip(), self.dst.ip(), self.proto(), len)
    }

    /// The packet's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let segment = self.segment();
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.v4(src.octets(), dst.octets(), &segment),
            (IpAddr::V6(src), IpAddr::V6(dst)) => self.v6(src.octets(), dst.octets(), &segment),
            _ => Vec::new(),
        }
    }

    /// As a packet, of whose checksum the hardware takes care if `offloaded`.
    pub fn packet(&self, offloaded: bool) -> SimPacket {
        let mut packet = SimPacket::new(self.bytes());
        if let Some((proto, at)) = transport(&packet.bytes).filter(|(proto, _)| offloaded && matches!(proto, 6 | 17)) {
            let field = if proto == 6 { at + 16 } else { at + 6 };
            let pseudo = sum_of(&[&self.pseudo_header(packet.bytes.len() - at)]);
            packet.bytes.splice(field..field + 2, pseudo.to_be_bytes());
            packet.offloaded = true;
        }
        packet
    }

    fn fragment_field(&self) -> (u16, bool) {
        match self.body {
            Body::Later(offset, _) => (offset, false),
            _ => (0, self.fragment.is_some()),
        }
    }

    fn v4(&self, src: [u8; 4], dst: [u8; 4], segment: &[u8]) -> Vec<u8> {
        let header_len = 20 + self.options;
        let (offset, more) = self.fragment_field();
        let alone = self.fragment.is_none() && !self.may_fragment;
        let flags = offset | u16::from(more) << 13 | u16::from(alone) << 14;
        let id = u16::try_from(self.fragment.unwrap_or(7) & 0xffff).unwrap_or(0);
        let len = u16::try_from(header_len + segment.len()).unwrap_or(0);
        let version = 0x40 | u8::try_from(header_len / 4).unwrap_or(15);
        let mut header = [&[version, 0], &len.to_be_bytes()[..], &id.to_be_bytes(), &flags.to_be_bytes()].concat();
        header.extend([self.hops, self.proto(), 0, 0]);
        header.extend(src.iter().chain(&dst));
        header.extend(vec![1; self.options]);
        let sum = !sum_of(&[&header]);
        header.splice(10..12, sum.to_be_bytes());
        [&header, segment].concat()
    }

    fn v6(&self, src: [u8; 16], dst: [u8; 16], segment: &[u8]) -> Vec<u8> {
        const OPTIONS: u8 = 60;
        const FRAGMENT: u8 = 44;
        let mut chain = vec![OPTIONS; self.options];
        chain.extend(self.fragment.map(|_| FRAGMENT));
        chain.push(self.proto());
        let (offset, more) = self.fragment_field();
        let field = offset << 3 | u16::from(more);
        let mut behind = Vec::new();
        for pair in chain.windows(2) {
            let [this, next] = [pair[0], pair[1]];
            if this == FRAGMENT {
                behind.extend([next, 0]);
                behind.extend(field.to_be_bytes());
                behind.extend(self.fragment.unwrap_or(0).to_be_bytes());
            } else {
                behind.extend([next, 0, 1, 4, 0, 0, 0, 0]);
            }
        }
        behind.extend(segment);
        let len = u16::try_from(behind.len()).unwrap_or(0).to_be_bytes();
        let mut packet = [&[0x60, 0, 0, 0], &len[..], &[chain[0], self.hops]].concat();
        packet.extend(src.iter().chain(&dst));
        packet.extend(behind);
        packet
    }
}

fn pseudo_header(src: IpAddr, dst: IpAddr, proto: u8, len: usize) -> Vec<u8> {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let len = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
    [octets(src), octets(dst), vec![0, 0, 0, proto], len.to_vec()].concat()
}

/// The one's complement sum of these bytes, in wire order.
fn sum_of(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u64::from);
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(0)
}

/// The addresses in a packet; `None` where there is no IP header.
pub fn addrs(bytes: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match bytes.first()? >> 4 {
        4 => {
            let at = |from: usize| Some(IpAddr::from(<[u8; 4]>::try_from(bytes.get(from..from + 4)?).ok()?));
            Some((at(12)?, at(16)?))
        }
        6 => {
            let at = |from: usize| Some(IpAddr::from(<[u8; 16]>::try_from(bytes.get(from..from + 16)?).ok()?));
            Some((at(8)?, at(24)?))
        }
        _ => None,
    }
}

/// The protocol, and where its header or a later fragment's data is.
pub fn transport(bytes: &[u8]) -> Option<(u8, usize)> {
    if bytes.first()? >> 4 == 4 {
        return Some((*bytes.get(9)?, usize::from(bytes.first()? & 15) * 4));
    }
    let (mut proto, mut at) = (*bytes.get(6)?, 40);
    while matches!(proto, 0 | 43 | 44 | 60) {
        let len = if proto == 44 { 8 } else { 8 + 8 * usize::from(*bytes.get(at + 1)?) };
        proto = *bytes.get(at)?;
        at += len;
    }
    Some((proto, at))
}

/// Source and destination with their ports; the ports are 0 for what is neither TCP nor UDP.
pub fn ends(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (src, dst) = addrs(bytes)?;
    let (proto, at) = transport(bytes)?;
    let port = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let has_ports = matches!(proto, 6 | 17);
    let (from, to) = if has_ports { (port(at)?, port(at + 2)?) } else { (0, 0) };
    Some((SocketAddr::new(src, from), SocketAddr::new(dst, to)))
}

/// Whether every checksum of a whole packet is right: the IPv4 header's, TCP's, UDP's where it has one, ICMP's. Where the
/// transport checksum is left to the hardware, its field must hold the sum of the pseudo-header.
pub fn verify(packet: &SimPacket) -> Result<(), String> {
    let bytes = &packet.bytes;
    let (src, dst) = addrs(bytes).ok_or("no addresses")?;
    let (proto, at) = transport(bytes).ok_or("no transport header")?;
    if src.is_ipv4() {
        let header = bytes.get(..usize::from(bytes[0] & 15) * 4).ok_or("no header")?;
        check("IPv4 header", sum_of(&[header]))?;
        check_len("IPv4", bytes, 2, bytes.len())?;
    } else {
        check_len("IPv6", bytes, 4, bytes.len() - 40)?;
    }
    let segment = bytes.get(at..).ok_or("no segment")?;
    let pseudo = pseudo_header(src, dst, proto, segment.len());
    match proto {
        6 | 17 => {
            let field = if proto == 6 { 16 } else { 6 };
            let sum = segment.get(field..field + 2).ok_or("no checksum")?;
            let field = u16::from_be_bytes([sum[0], sum[1]]);
            match (proto, field) {
                (17, 0) => Ok(()),
                _ if packet.offloaded => check("offloaded", sum_of(&[&pseudo]) ^ 0xffff ^ field),
                _ => check("transport", sum_of(&[&pseudo, segment])),
            }
        }
        1 => check("ICMP", sum_of(&[&completed(packet, segment)])),
        _ => check("ICMPv6", sum_of(&[&pseudo, &completed(packet, segment)])),
    }
}

/// An ICMP error as the hardware sends it: where the checksum of what it quotes was left to the hardware, that fills it in
/// when the error leaves, over all that is quoted.
fn completed(packet: &SimPacket, error: &[u8]) -> Vec<u8> {
    const QUOTE: usize = 8;
    let mut error = error.to_vec();
    let quoted = error.get(QUOTE..).and_then(transport).filter(|_| packet.offloaded);
    if let Some((proto @ (6 | 17), at)) = quoted {
        let segment = error.get_mut(QUOTE + at..).unwrap_or_default();
        let sum = !sum_of(&[segment]);
        let field = if proto == 6 { 16 } else { 6 };
        // Of a short quotation it is not there.
        segment.get_mut(field..field + 2).into_iter().for_each(|field| field.copy_from_slice(&sum.to_be_bytes()));
    }
    error
}

fn check(what: &str, sum: u16) -> Result<(), String> {
    if sum == 0xffff { Ok(()) } else { Err(format!("{what} checksum is wrong: sum {sum:#06x}")) }
}

fn check_len(what: &str, bytes: &[u8], at: usize, len: usize) -> Result<(), String> {
    let field = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    if usize::from(field) == len { Ok(()) } else { Err(format!("{what} says {field} bytes, and is {len}")) }
}
