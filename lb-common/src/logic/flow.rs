//! The connection table: what a half says about a packet, when a flow is over, and how a new one claims its two entries.
//!
//! No half is ever left alone on purpose: the reply half is claimed first, and given back where the forward half cannot
//! be had. What a crash between the two leaves is found out by whoever meets it next, and by the agent ([`expired`]).

use super::{
    seam::{Environment, Flows, Maps, NotAdded},
    work::Work,
};
use crate::{
    abi::{Counter, Family, Flow, Proto, flow_flags, flow_seen},
    packet::headers::{Headers, tcp_flags},
};

/// How long a flow may be idle, in seconds. The values of conntrack as kube-proxy sets it up, so that what works there works
/// here (`nf_conntrack_tcp_timeout_*`, `nf_conntrack_udp_timeout*`, kube-proxy's `--conntrack-tcp-timeout-established` and
/// `--conntrack-tcp-timeout-close-wait`), but for [`timeout::TCP_FINISHED_S`](self::timeout::TCP_FINISHED_S).
pub mod timeout {
    /// TCP: both have sent, nobody has ended it.
    pub const TCP_ESTABLISHED_S: u32 = 86_400;
    /// TCP: one side has ended it.
    pub const TCP_HALF_CLOSED_S: u32 = 3_600;
    /// TCP: both sides have ended it. Also how long its port of the node's rests. Conntrack's 120 s would let a client make
    /// few connections a second to one backend elsewhere, with fewer ports than conntrack has. Late segments are a matter of
    /// some repetitions, and a backend in TIME_WAIT takes a SYN with newer timestamps (RFC 6191).
    pub const TCP_FINISHED_S: u32 = 30;
    /// TCP: a RST.
    pub const TCP_RESET_S: u32 = 10;
    /// TCP: the client's SYN alone.
    pub const TCP_SYN_SENT_S: u32 = 120;
    /// TCP: SYN and answer, but nothing else of the client.
    pub const TCP_SYN_RECEIVED_S: u32 = 60;
    /// UDP: nobody has answered.
    pub const UDP_S: u32 = 30;
    /// UDP: the backend has answered.
    pub const UDP_ANSWERED_S: u32 = 120;
    /// A half without the other one. While a flow is made there is one for an instant.
    pub const LONE_HALF_S: u32 = 10;
    /// The shortest of them: a half that had a packet since then need not be looked at more closely.
    pub const SHORTEST_S: u32 = 10;
}

/// How long a flow may be idle whose halves have seen this ([`flow_seen`]).
#[inline(always)]
pub fn timeout_s(proto: u8, forward: u16, reply: u16) -> u32 {
    let either = forward | reply;
    let both = forward & reply;
    if proto != Proto::Tcp.number() {
        let answered = reply & flow_seen::PACKET != 0;
        return if answered { timeout::UDP_ANSWERED_S } else { timeout::UDP_S };
    }
    if either & flow_seen::RST != 0 {
        timeout::TCP_RESET_S
    } else if both & flow_seen::FIN != 0 {
        timeout::TCP_FINISHED_S
    } else if either & flow_seen::FIN != 0 {
        timeout::TCP_HALF_CLOSED_S
    } else if reply & flow_seen::PACKET == 0 {
        timeout::TCP_SYN_SENT_S
    } else if forward & flow_seen::ACK == 0 {
        timeout::TCP_SYN_RECEIVED_S
    } else {
        timeout::TCP_ESTABLISHED_S
    }
}

/// How long ago that was. Another processor may have read the clock a moment later.
#[inline(always)]
pub fn age_s(now_s: u32, then_s: u32) -> u32 {
    now_s.wrapping_sub(then_s).cast_signed().max(0).cast_unsigned()
}

/// Whether a flow is over because it has been idle for too long. Both halves count: a download is one packet after the other
/// in one direction.
#[inline(always)]
pub fn expired<F: Family>(proto: u8, forward: &Flow<F>, reply: &Flow<F>, now_s: u32) -> bool {
    let idle_s = age_s(now_s, forward.last_seen_s).min(age_s(now_s, reply.last_seen_s));
    idle_s > timeout_s(proto, forward.seen, reply.seen)
}

/// Whether a half that has no other one is to go.
#[inline(always)]
pub fn lone_half_expired<F: Family>(half: &Flow<F>, now_s: u32) -> bool {
    age_s(now_s, half.created_s) > timeout::LONE_HALF_S && age_s(now_s, half.last_seen_s) > timeout::LONE_HALF_S
}

/// Whether a TCP connection has come to its end, so that a SYN with the same addresses and ports is another one's.
#[inline(always)]
fn is_finished(one: u16, other: u16) -> bool {
    (one | other) & flow_seen::RST != 0 || one & other & flow_seen::FIN != 0
}

/// What this packet has in it, as [`flow_seen`] has it.
#[inline(always)]
pub(super) fn seen<F: Family>(headers: &Headers<F>) -> u16 {
    const BITS: [(u8, u16); 3] =
        [(tcp_flags::SYN, flow_seen::SYN), (tcp_flags::FIN, flow_seen::FIN), (tcp_flags::RST, flow_seen::RST)];
    let flags = headers.tcp_flags;
    let bits = BITS.iter().filter(|(flag, _)| flags & flag != 0).fold(flow_seen::PACKET, |seen, (_, bit)| seen | bit);
    if flags & (tcp_flags::ACK | tcp_flags::SYN) == tcp_flags::ACK { bits | flow_seen::ACK } else { bits }
}

/// Notes a packet. Written only when there is something new, which for most packets is once in a second: the entry stays in
/// the caches of all processors meanwhile. A side that goes on after a RST has not sent it, or not lately.
#[inline(always)]
fn note<F: Family>(half: &mut Flow<F>, headers: &Headers<F>, now_s: u32) {
    let new = seen(headers);
    let all = half.seen & !flow_seen::RST | new;
    if half.seen != all {
        half.seen = all;
    }
    if half.last_seen_s != now_s {
        half.last_seen_s = now_s;
    }
}

/// Which halves a program cares for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Halves {
    /// Ingress.
    Both,
    /// Egress: the backend's packets, after the stack has forwarded them.
    Reply,
}

/// Puts the half that this packet belongs to into `work`; it has noted the packet. `false` where there is no such flow, or
/// not any more.
#[inline(always)]
pub(super) fn find<F, K>(kernel: &K, work: &mut Work<F>, halves: Halves) -> bool
where
    F: Family,
    K: Flows<F> + Maps<F> + Environment,
{
    let Work { headers, half: found, .. } = work;
    let key = &headers.tuple;
    let state = kernel.with_flow(key, |half| {
        *found = *half;
        if !found.is_of(key) || (halves == Halves::Reply && !found.is_reply()) {
            return State::Absent;
        }
        // Not asked before: most packets belong to no flow, and the clock costs as much as a lookup.
        let now_s = kernel.now_s();
        if age_s(now_s, found.last_seen_s) >= timeout::SHORTEST_S || headers.is_syn() {
            return State::Doubtful;
        }
        note(half, headers, now_s);
        State::Alive
    });
    match state {
        Some(State::Alive) => true,
        Some(State::Doubtful) => !is_over(kernel, work),
        Some(State::Absent) | None => false,
    }
}

/// What a half seems to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not there, or not one that is wanted.
    Absent,
    /// Of a living flow.
    Alive,
    /// To be looked at more closely.
    Doubtful,
}

/// Looks more closely at a half that was idle for a while, or that gets a SYN. Where the flow is over its halves are removed,
/// otherwise the packet is noted.
#[inline(never)]
fn is_over<F, K>(kernel: &K, work: &mut Work<F>) -> bool
where
    F: Family,
    K: Flows<F> + Maps<F> + Environment,
{
    let Work { headers, half, other_key: partner, other, .. } = work;
    let key = &headers.tuple;
    let now_s = kernel.now_s();
    *partner = half.partner(key);
    // The other half may by now be of a later flow, if a crash left this one alone.
    let has_other = kernel.with_flow(partner, |found| *other = *found).is_some()
        && other.is_of(partner)
        && other.partner(partner) == *key;
    let over = !has_other || {
        let (forward, reply) = if half.is_reply() { (&*other, &*half) } else { (&*half, &*other) };
        expired(key.proto, forward, reply, now_s)
            || headers.is_syn() && !half.is_reply() && (is_finished(half.seen, other.seen) || is_gone(kernel, half))
    };
    if !over {
        kernel.with_flow(key, |half| note(half, headers, now_s));
        return false;
    }
    // The forward half first: a reply half alone is overwritten by the next flow of its client, see `claim_reply`.
    if half.is_reply() && has_other {
        kernel.remove_flow(partner);
    }
    kernel.remove_flow(key);
    if !half.is_reply() && has_other {
        kernel.remove_flow(partner);
    }
    true
}

/// Whether the flow's backend is no more. A client that begins anew is not sent there, however long its old connection would
/// have been kept.
#[inline(always)]
fn is_gone<F: Family>(kernel: &impl Maps<F>, forward: &Flow<F>) -> bool {
    kernel.backend(forward.backend).is_none_or(|backend| {
        backend.service != forward.service || backend.addr != forward.dst_addr || backend.port != forward.dst_port
    })
}

/// What came of claiming a flow's entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// The flow is there.
    Claimed,
    /// Another processor was faster: the flow is there, but it is the other one's.
    Exists,
    /// The map is full (counted).
    Full,
    /// No port was free (counted).
    NoPort,
}

/// Where a flow's packets seem to come from, to its backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Source<F: Family> {
    /// The client's address and port cannot stay.
    pub(super) replace: bool,
    /// The address where they cannot; all zero where there is none.
    pub(super) addr: F::Addr,
    /// The range of ports.
    pub(super) first: u16,
    /// The last of them.
    pub(super) last: u16,
}

/// How many ports are tried before a flow is given up. In a range that is nine tenths full one of them is free in 29 of 30
/// cases, in a half-full one always.
const N_PROBES: usize = 32;

/// Claims both entries for a new flow of the client's packets. `work.half` says where they go; its source is filled in
/// here, and it is sealed.
#[inline(always)]
pub(super) fn claim<F, K>(kernel: &K, work: &mut Work<F>) -> Claim
where
    F: Family,
    K: Flows<F> + Environment,
{
    work.half.src_addr = work.headers.tuple.src_addr;
    work.half.src_port = work.headers.tuple.src_port;
    let mut claim = if work.source.replace { Claim::Exists } else { claim_reply(kernel, work) };
    if claim == Claim::Exists {
        if !work.source.replace {
            kernel.count(Counter::SnatCollision);
        }
        claim = claim_port(kernel, work);
    }
    if claim == Claim::Claimed { claim_forward(kernel, work) } else { claim }
}

/// Puts the reply half of the flow of `work.half` into `work`.
#[inline(always)]
fn make_reply<F: Family>(work: &mut Work<F>) {
    let Work { headers, half: forward, other_key, other, .. } = work;
    let key = &headers.tuple;
    *other_key = forward.partner(key);
    *other = *forward;
    (other.src_addr, other.src_port) = (key.dst_addr, key.dst_port);
    (other.dst_addr, other.dst_port) = (key.src_addr, key.src_port);
    other.seen = 0;
    other.flags |= flow_flags::REPLY;
    other.seal(other_key);
}

/// Claims the reply tuple that `work.half` leads to. [`Claim::Exists`] where another flow has it.
#[inline(never)]
fn claim_reply<F, K>(kernel: &K, work: &mut Work<F>) -> Claim
where
    F: Family,
    K: Flows<F> + Environment,
{
    make_reply(work);
    let Work { headers, other_key: reply_key, other: half, .. } = work;
    match kernel.add_flow(reply_key, half) {
        Ok(()) => return Claim::Claimed,
        Err(NotAdded::Full) => {}
        Err(NotAdded::Exists) => {
            let is_anothers = |found: &mut Flow<F>| found.partner(reply_key) != headers.tuple || !found.is_reply();
            if kernel.with_flow(reply_key, is_anothers) == Some(true) {
                return Claim::Exists;
            }
            // Left over from an earlier flow of this client, or of a packet that is as new and on another processor, which
            // says the same.
            if kernel.put_flow(reply_key, half) {
                return Claim::Claimed;
            }
        }
    }
    kernel.count(Counter::ConnsFull);
    Claim::Full
}

/// Claims a reply tuple with a port of the range. The ports are drawn, not counted up: processors do not get in each
/// other's way, and nobody outside can guess the next one (RFC 6056).
#[inline(never)]
fn claim_port<F, K>(kernel: &K, work: &mut Work<F>) -> Claim
where
    F: Family,
    K: Flows<F> + Environment,
{
    let Source { addr, first, last, .. } = work.source;
    let n_ports = u32::from(last).wrapping_sub(u32::from(first)).wrapping_add(1);
    let usable = addr != F::Addr::default() && first != 0 && first <= last;
    work.half.src_addr = addr;
    work.half.flags |= flow_flags::SNAT;
    for _ in 0..if usable { N_PROBES } else { 0 } {
        work.half.src_port = first.wrapping_add(pick(kernel.random(), n_ports));
        make_reply(work);
        match kernel.add_flow(&work.other_key, &work.other) {
            Ok(()) => return Claim::Claimed,
            Err(NotAdded::Exists) => {}
            Err(NotAdded::Full) => {
                kernel.count(Counter::ConnsFull);
                return Claim::Full;
            }
        }
    }
    kernel.count(Counter::SnatExhausted);
    Claim::NoPort
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "there are at most 65,536 ports")]
fn pick(random: u32, n_ports: u32) -> u16 {
    super::select::scale(random, n_ports) as u16
}

/// Claims the forward tuple, for a flow whose reply tuple is claimed; gives that back where it is of no use.
#[inline(never)]
fn claim_forward<F, K>(kernel: &K, work: &mut Work<F>) -> Claim
where
    F: Family,
    K: Flows<F> + Environment,
{
    let Work { headers, half: forward, other_key: reply_key, .. } = work;
    let key = &headers.tuple;
    forward.seal(key);
    match kernel.add_flow(key, forward) {
        Ok(()) => Claim::Claimed,
        Err(NotAdded::Full) => {
            kernel.remove_flow(reply_key);
            kernel.count(Counter::ConnsFull);
            Claim::Full
        }
        Err(NotAdded::Exists) => {
            // Should both lead to one reply half, it is the other one's, too.
            if kernel.with_flow(key, |found| found.partner(key) == *reply_key) != Some(true) {
                kernel.remove_flow(reply_key);
            }
            Claim::Exists
        }
    }
}
