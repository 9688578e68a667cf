//! Giving a packet other addresses and ports, checksums included.

use crate::{
    abi::{FlowKey, Proto},
    packet::{
        Broken, Packet, Summed,
        checksum::{Sum, pair, updated},
        headers::{Headers, Ip, transport_checksum},
    },
};

const TCP: u8 = Proto::Tcp.number();
const UDP: u8 = Proto::Udp.number();

/// Whether a packet is taken on as a router does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hop {
    /// It has one hop less then, and more than one before.
    Taken,
    /// The stack does that, or has done it.
    Kept,
}

/// How the sum over the header changes by one hop less, which is the second byte of a number of 16 bits.
const HOP_TAKEN: u32 = !(1_u16.to_be() as u32);

/// How the sum over both addresses changes.
#[inline(always)]
pub(super) fn addrs_difference<F: Ip>(old: &FlowKey<F>, new: &FlowKey<F>) -> Sum {
    Sum::default()
        .replace_all(F::words(old.src_addr).as_ref(), F::words(new.src_addr).as_ref())
        .replace_all(F::words(old.dst_addr).as_ref(), F::words(new.dst_addr).as_ref())
}

/// Gives the packet the tuple `to`, and `headers` with it. Each change is a call into the kernel, so what stands together is
/// written together where nothing but a network header without options is before the ports: nearly always.
#[inline(always)]
pub(super) fn rewrite<F: Ip, P: Packet>(
    packet: &mut P,
    headers: &mut Headers<F>,
    to: &FlowKey<F>,
    hop: Hop,
) -> Result<(), Broken> {
    let is_plain = headers.has_ports() && headers.transport == F::HEADER_LEN;
    // Words of the network header, and of the transport header up to its checksum.
    let is_done = is_plain
        && match (F::VERSION, headers.is_tcp()) {
            (4, true) => rewrite_front::<F, P, 10, TCP>(packet, headers, to, hop)?,
            (4, false) => rewrite_front::<F, P, 7, UDP>(packet, headers, to, hop)?,
            (_, true) => rewrite_front::<F, P, 15, TCP>(packet, headers, to, hop)?,
            (_, false) => rewrite_front::<F, P, 12, UDP>(packet, headers, to, hop)?,
        };
    if !is_done {
        rewrite_in_parts(packet, headers, to, hop)?;
    }
    headers.tuple = *to;
    Ok(())
}

/// Takes one hop off, as a router does. The packet has more than one left.
#[inline(always)]
pub(super) fn take_hop<F: Ip, P: Packet>(packet: &mut P, headers: &Headers<F>) -> Result<(), Broken> {
    let at = headers.network + F::HOPS / 4 * 4;
    let [word] = packet.load::<1>(at)?;
    packet.store(at, [F::one_hop_less(word)])?;
    F::header_changed(packet, HOP_TAKEN);
    Ok(())
}

/// The checksum of a datagram covers all its fragments and is in the first one alone, so that later ones need none.
#[inline(never)]
fn rewrite_in_parts<F: Ip, P: Packet>(
    packet: &mut P,
    headers: &Headers<F>,
    to: &FlowKey<F>,
    hop: Hop,
) -> Result<(), Broken> {
    let from = &headers.tuple;
    let addrs = addrs_difference(from, to).difference();
    if headers.has_ports() {
        let (offset, zero_is_none) = transport_checksum(from.proto);
        let checksum = headers.transport + offset;
        packet.update_checksum(checksum, addrs, Summed::PseudoHeader, zero_is_none)?;
        packet.update_checksum(checksum, ports_difference(from, to), Summed::Segment, zero_is_none)?;
        packet.store(headers.transport, [pair(to.src_port, to.dst_port)])?;
    } else {
        F::header_changed(packet, addrs);
    }
    F::update_header_checksum(packet, headers.network, addrs)?;
    F::store_addrs(packet, headers.network, to)?;
    if hop == Hop::Taken { take_hop(packet, headers) } else { Ok(()) }
}

#[inline(always)]
fn ports_difference<F: Ip>(from: &FlowKey<F>, to: &FlowKey<F>) -> u32 {
    let (old, new) = (pair(from.src_port, from.dst_port), pair(to.src_port, to.dst_port));
    Sum::default().replace(old, new).difference()
}

/// Rewrites the first `N` words, which hold all that changes. `false` where they are not at hand; then nothing is changed. Not
/// inlined, as [`rewrite_in_parts`]: both have their room on the stack only while they run.
#[inline(never)]
fn rewrite_front<F: Ip, P: Packet, const N: usize, const PROTO: u8>(
    packet: &mut P,
    headers: &Headers<F>,
    to: &FlowKey<F>,
    hop: Hop,
) -> Result<bool, Broken> {
    let from = &headers.tuple;
    // Known to the compiler, so that it need not keep an array for the sake of an index.
    let (offset, zero_is_none) = transport_checksum(PROTO);
    let checksum = F::HEADER_LEN + offset;
    let (addrs, ports) = (addrs_difference(from, to).difference(), ports_difference(from, to));
    let Some(words) = packet.peek::<N>() else { return Ok(false) };
    let before = half(&words, checksum);
    packet.update_checksum(checksum, addrs, Summed::PseudoHeader, zero_is_none)?;
    let mut words = packet.peek::<N>().ok_or(Broken)?;
    let now = half(&words, checksum);
    match Rest::of(before, now, addrs, zero_is_none) {
        Rest::Later => {}
        Rest::Here => set_half(&mut words, checksum, marked(updated(now, ports), zero_is_none)),
        Rest::Unclear => {
            packet.update_checksum(checksum, ports, Summed::Segment, zero_is_none)?;
            words = packet.peek::<N>().ok_or(Broken)?;
        }
    }
    if let Some(at) = F::CHECKSUM {
        let sum = half(&words, at);
        set_half(&mut words, at, updated(sum, addrs));
    }
    put(&mut words, F::ADDRS, F::words(to.src_addr).as_ref());
    // No options follow the addresses, so that they end where the ports begin.
    put(&mut words, (F::ADDRS + F::HEADER_LEN) / 2, F::words(to.dst_addr).as_ref());
    put(&mut words, F::HEADER_LEN, &[pair(to.src_port, to.dst_port)]);
    if let (Hop::Taken, Some(word)) = (hop, words.get_mut(F::HOPS as usize / 4)) {
        *word = F::one_hop_less(*word);
        F::header_changed(packet, HOP_TAKEN);
    }
    packet.store(0, words).map(|()| true)
}

/// What is left to do for a transport checksum when the addresses in it are brought up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// The field covers the segment, too.
    Here,
    /// Nothing: there is no checksum, or the hardware adds the segment to it (`CHECKSUM_PARTIAL`).
    Later,
    /// It cannot be told: the addresses change nothing in the sum.
    Unclear,
}

impl Rest {
    /// A program is not told whether the sum is left to the hardware. But the field then holds the sum of the pseudo-header, and
    /// otherwise the complement of a sum, so that a change of the addresses takes them in opposite directions.
    #[inline(always)]
    fn of(before: u16, now: u16, difference: u32, zero_is_none: bool) -> Self {
        if zero_is_none && before == 0 {
            return Self::Later;
        }
        let whole = marked(updated(before, difference), zero_is_none);
        let pseudo = marked(Sum::default().with(u32::from(before)).with(difference).folded(), zero_is_none);
        match (now == whole, now == pseudo) {
            (true, false) => Self::Here,
            (false, true) => Self::Later,
            _ => Self::Unclear,
        }
    }
}

/// A sum of zero is written otherwise where zero says that there is none (RFC 768).
#[inline(always)]
fn marked(checksum: u16, zero_is_none: bool) -> u16 {
    if zero_is_none && checksum == 0 { u16::MAX } else { checksum }
}

/// Two bytes at an even offset, as they stand in memory.
#[inline(always)]
fn half(words: &[u32], at: u32) -> u16 {
    let [a, b, c, d] = words.get(at as usize / 4).map_or([0; 4], |word| word.to_ne_bytes());
    u16::from_ne_bytes(if at.is_multiple_of(4) { [a, b] } else { [c, d] })
}

/// As [`half`].
#[inline(always)]
fn set_half(words: &mut [u32], at: u32, value: u16) {
    if let Some(word) = words.get_mut(at as usize / 4) {
        let ([a, b, c, d], [e, f]) = (word.to_ne_bytes(), value.to_ne_bytes());
        *word = u32::from_ne_bytes(if at.is_multiple_of(4) { [e, f, c, d] } else { [a, b, e, f] });
    }
}

/// Puts words at an offset.
#[inline(always)]
fn put(words: &mut [u32], at: u32, new: &[u32]) {
    words.iter_mut().skip(at as usize / 4).zip(new).for_each(|(word, new)| *word = *new);
}

#[cfg(all(test, feature = "sim"))]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use super::*;
    use crate::{
        abi::{V4, V6},
        packet::headers,
        sim::{
            SimPacket,
            frames::{Body, Frame},
        },
    };

    fn all_at_once_and_in_parts<F: Ip>(packet: &SimPacket, to: &FlowKey<F>, hop: Hop) -> [SimPacket; 2] {
        let mut headers = Headers::default();
        assert!(headers::read(packet, &mut headers));
        let (mut whole, mut parts) = (packet.clone(), packet.clone());
        rewrite_in_parts(&mut parts, &headers, to, hop).unwrap();
        rewrite(&mut whole, &mut headers, to, hop).unwrap();
        assert_eq!(headers.tuple, *to);
        [whole, parts].map(|packet| SimPacket { n_changes: 0, ..packet })
    }

    fn same<F: Ip>(client: &str, service: &str, backends: &[&str]) {
        let at = |ip: &str, port| SocketAddr::new(ip.parse::<IpAddr>().unwrap(), port);
        let addr = |ip: &str| F::from_ip(ip.parse().unwrap()).unwrap();
        let (src, dst) = (at(client, 40_000), at(service, 30_080));
        let udp = Frame::udp(src, dst);
        let unsummed = Frame { body: Body::Udp { unsummed: true }, ..udp.clone() };
        for frame in [Frame::tcp(src, dst, 2), udp, unsummed] {
            for offloaded in [false, true] {
                for hop in [Hop::Taken, Hop::Kept] {
                    for backend in backends {
                        let packet = frame.packet(offloaded);
                        let mut headers = Headers::<F>::default();
                        assert!(headers::read(&packet, &mut headers));
                        let to = FlowKey { dst_addr: addr(backend), dst_port: 8_080, ..headers.tuple };
                        let [whole, parts] = all_at_once_and_in_parts(&packet, &to, hop);
                        assert_eq!(whole, parts, "{frame:?}, offloaded: {offloaded}, {hop:?}, to {backend}");
                        assert_ne!(whole.bytes, packet.bytes);
                    }
                }
            }
        }
    }

    /// The last backend has an address of the same sum as the Service's, which leaves open who sums the segment.
    #[test]
    fn what_is_written_at_once_is_what_is_written_in_parts() {
        same::<V4>("203.0.113.9", "192.168.2.1", &["10.244.1.5", "2.1.192.168"]);
        same::<V6>("fd00::9", "fd00:1::2", &["fd00:2::5", "fd00:2::1"]);
    }

    fn sums_right<F: Ip>(client: &str, service: &str, backend: &str) {
        let at = |ip: &str, port| SocketAddr::new(ip.parse::<IpAddr>().unwrap(), port);
        let (src, dst) = (at(client, 40_000), at(service, 30_080));
        let later = Frame { body: Body::Later(185, 17), fragment: Some(7), ..Frame::udp(src, dst) };
        for frame in [Frame::tcp(src, dst, 2), Frame::udp(src, dst), later] {
            for hop in [Hop::Taken, Hop::Kept] {
                let packet = frame.packet(false);
                let mut headers = Headers::<F>::default();
                assert!(headers::read(&packet, &mut headers));
                let to = F::from_ip(backend.parse().unwrap()).unwrap();
                let to = FlowKey { dst_addr: to, dst_port: headers.tuple.dst_port / 2, ..headers.tuple };
                for changed in all_at_once_and_in_parts(&packet, &to, hop) {
                    let told = packet.whole_sum(changed.sums_differently);
                    assert_eq!(changed.whole_sum(0), told, "{frame:?}, {hop:?}");
                }
            }
        }
    }

    #[test]
    fn the_sum_of_the_whole_packet_is_told_of_what_no_checksum_makes_up_for() {
        sums_right::<V4>("203.0.113.9", "192.168.2.1", "10.244.1.5");
        sums_right::<V6>("fd00::9", "fd00:1::2", "fd00:2::5");
    }
}
