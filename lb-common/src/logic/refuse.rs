//! Answers in the place of a packet: RST and ICMP errors. Written from scratch over it, so that nothing of a stranger's
//! options comes back, and cut to size.

use super::{
    forward::Verdict,
    seam::{Environment, Network},
};
use crate::{
    abi::{Answers, Counter, FlowKey},
    packet::{
        Broken, MAX_SUMMED, Packet,
        checksum::{Sum, pair},
        headers::{Headers, ICMP_CHECKSUM, ICMP_LEN, Ip, TCP_CHECKSUM, TCP_LEN, tcp_flags, transport_checksum},
    },
};

/// An ICMP error. Both fields always have a value: a program must not hand on what it has not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Error {
    kind: ErrorKind,
    mtu: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ErrorKind {
    PortUnreachable,
    TimeExceeded,
    TooBig,
}

impl Error {
    /// Nobody is at this port.
    pub(super) const PORT_UNREACHABLE: Self = Self { kind: ErrorKind::PortUnreachable, mtu: 0 };
    /// The packet has come too far.
    pub(super) const TIME_EXCEEDED: Self = Self { kind: ErrorKind::TimeExceeded, mtu: 0 };

    /// The packet is larger than the way on, which takes this many bytes, and may not be fragmented.
    #[inline(always)]
    pub(super) fn too_big(mtu: u32) -> Self {
        Self { kind: ErrorKind::TooBig, mtu }
    }

    /// Type and code, and the second word of the header: RFC 792, RFC 1191 section 4, RFC 4443 section 3. IPv4 has the MTU in
    /// the lower half of the word. It is at most 65,535 there.
    #[inline(always)]
    fn words<F: Ip>(self) -> ([u8; 2], u32) {
        let v4 = F::VERSION == 4;
        let kind = match self.kind {
            ErrorKind::PortUnreachable => {
                if v4 {
                    [3, 3]
                } else {
                    [1, 4]
                }
            }
            ErrorKind::TimeExceeded => {
                if v4 {
                    [11, 0]
                } else {
                    [3, 0]
                }
            }
            ErrorKind::TooBig => {
                if v4 {
                    [3, 4]
                } else {
                    [2, 0]
                }
            }
        };
        (kind, self.mtu.to_be())
    }
}

/// Answers a TCP segment with RST, anything else with "port unreachable".
#[inline(always)]
pub(super) fn refuse<F, K, P>(kernel: &K, packet: &mut P, headers: &mut Headers<F>) -> Verdict
where
    F: Ip,
    K: Network<F> + Environment,
    P: Packet,
{
    if headers.is_tcp() {
        answer_tcp(kernel, packet, headers)
    } else {
        answer(kernel, packet, headers, Error::PORT_UNREACHABLE)
    }
}

/// Whether this processor may still answer in this second; counted.
#[inline(never)]
fn may_answer<F, K>(kernel: &K) -> bool
where
    F: Ip,
    K: Network<F> + Environment,
{
    let limit = Network::<F>::node(kernel).map_or(0, |node| node.answers_per_s);
    let now_s = kernel.now_s();
    let allowed = Network::<F>::with_answers(kernel, |answers| take(answers, now_s, limit)).unwrap_or(false);
    kernel.count(if allowed { Counter::AnswerSent } else { Counter::AnswerLimited });
    allowed
}

/// Takes one of the second's answers.
#[inline(always)]
fn take(answers: &mut Answers, now_s: u32, limit: u32) -> bool {
    if answers.second != now_s {
        *answers = Answers { second: now_s, sent: 0 };
    }
    let allowed = answers.sent < limit;
    if allowed {
        answers.sent += 1;
    }
    allowed
}

#[inline(never)]
fn answer_tcp<F, K, P>(kernel: &K, packet: &mut P, headers: &mut Headers<F>) -> Verdict
where
    F: Ip,
    K: Network<F> + Environment,
    P: Packet,
{
    if !may_answer::<F, K>(kernel) {
        return Verdict::Drop;
    }
    verdict(kernel, reset(packet, headers))
}

/// Sends an ICMP error about the packet back to its sender. The rules of RFC 1122 section 3.2.2 (not about errors, later
/// fragments, broadcasts) are kept by the callers, which come here for packets with ports and requests for an echo, to a unicast
/// address only.
#[inline(never)]
pub(super) fn answer<F, K, P>(kernel: &K, packet: &mut P, headers: &mut Headers<F>, error: Error) -> Verdict
where
    F: Ip,
    K: Network<F> + Environment,
    P: Packet,
{
    if !may_answer::<F, K>(kernel) {
        return Verdict::Drop;
    }
    verdict(kernel, report(packet, headers, error))
}

#[inline(always)]
fn verdict<K: Environment>(kernel: &K, written: Result<(), Broken>) -> Verdict {
    if written.is_err() {
        kernel.count(Counter::Unwritable);
        return Verdict::Drop;
    }
    Verdict::Answer
}

/// The sum over the pseudo-header of a packet of ours. Not inlined, as what follows: each has its own room on the stack.
#[inline(never)]
fn pseudo_header<F: Ip>(ends: &FlowKey<F>, proto: u8, len: u16) -> u32 {
    Sum::default()
        .with_all(F::words(ends.src_addr).as_ref())
        .with_all(F::words(ends.dst_addr).as_ref())
        .with(pair(u16::from(proto), len))
        .difference()
}

/// Writes the network header.
#[inline(never)]
fn store_header<F: Ip, P: Packet>(packet: &mut P, ends: &FlowKey<F>, proto: u8, len: u16) -> Result<(), Broken> {
    F::store_header(packet, ends, proto, len)
}

/// Turns a TCP segment into the RST that answers it (RFC 9293 section 3.5.2): one with ACK gets its own acknowledgement as
/// sequence number, another one is acknowledged with all it holds.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "constants below 65,536")]
fn reset<F: Ip, P: Packet>(packet: &mut P, headers: &mut Headers<F>) -> Result<(), Broken> {
    let [_, seq, ack, offset] = packet.load::<4>(headers.transport)?;
    let [offset, flags, ..] = offset.to_ne_bytes();
    let (seq, ack, flags) = if flags & tcp_flags::ACK != 0 {
        (ack, 0, tcp_flags::RST)
    } else {
        let header_len = u32::from(offset >> 4) * 4;
        let data = headers.end.wrapping_sub(headers.transport).saturating_sub(header_len);
        let syn = u32::from(flags & tcp_flags::SYN != 0);
        let fin = u32::from(flags & tcp_flags::FIN != 0);
        let next = u32::from_be(seq).wrapping_add(data).wrapping_add(syn + fin);
        (0, next.to_be(), tcp_flags::RST | tcp_flags::ACK)
    };
    headers.tuple = headers.tuple.reversed();
    let ends = &headers.tuple;
    let ports = pair(ends.src_port, ends.dst_port);
    let offset_and_flags = u32::from_ne_bytes([5 << 4, flags, 0, 0]);
    let pseudo = Sum::default().with(pseudo_header(ends, ends.proto, TCP_LEN as u16));
    let whole = pseudo.with_all(&[ports, seq, ack, offset_and_flags]);
    packet.truncate(F::HEADER_LEN + TCP_LEN)?;
    packet.store(F::HEADER_LEN, [ports, seq, ack, offset_and_flags, 0])?;
    packet.set_checksum(F::HEADER_LEN + TCP_CHECKSUM, u16::from_be(!whole.folded()), u16::from_be(pseudo.folded()))?;
    store_header(packet, ends, ends.proto, TCP_LEN as u16)
}

/// How much of an IPv4 packet is quoted: the error is at most 576 bytes long with its own 28 (RFC 1812 section 4.3.2.3).
const QUOTED4: u32 = 548;

/// Puts an ICMP error before as much of the packet as it quotes.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "quotes are below 65,536")]
fn report<F: Ip, P: Packet>(packet: &mut P, headers: &mut Headers<F>, error: Error) -> Result<(), Broken> {
    let all = headers.end.min(packet.size());
    let quoted = all.min(if F::VERSION == 4 { QUOTED4 } else { MAX_SUMMED });
    if quoted < packet.size() {
        packet.truncate(quoted)?;
    }
    let ([kind, code], rest) = error.words::<F>();
    let first = u32::from_ne_bytes([kind, code, 0, 0]);
    let message = Sum::default().with_all(&[first, rest, sum_quoted(packet, headers, quoted)?]);
    F::make_room_for_icmp(packet)?;
    headers.tuple = headers.tuple.reversed();
    let ends = &headers.tuple;
    let len = (ICMP_LEN + quoted) as u16;
    // ICMP has no pseudo-header, ICMPv6 has (RFC 4443 section 2.3).
    let checksum = !if F::VERSION == 4 { message } else { message.with(pseudo_header(ends, F::ICMP, len)) }.folded();
    packet.store(F::HEADER_LEN, [first, rest])?;
    packet.store_u16(F::HEADER_LEN + ICMP_CHECKSUM, u16::from_be(checksum))?;
    store_header(packet, ends, F::ICMP, len)
}

/// The sum over what is quoted, as it will be on the wire. Where the hardware is to fill the transport checksum in, that
/// happens after this; but then the whole segment, however long, sums up to the complement of what its checksum field holds
/// now, the sum of the pseudo-header.
#[inline(always)]
fn sum_quoted<F: Ip, P: Packet>(packet: &mut P, headers: &Headers<F>, quoted: u32) -> Result<u32, Broken> {
    let (offset, _) = transport_checksum(headers.tuple.proto);
    let checksum = headers.transport + offset;
    if !packet.is_summed_later(checksum)? {
        return packet.sum(0, quoted);
    }
    let pseudo = packet.load_u16(checksum)?.to_be();
    Ok(Sum::default().with(packet.sum(0, headers.transport)?).with(u32::from(!pseudo)).difference())
}
