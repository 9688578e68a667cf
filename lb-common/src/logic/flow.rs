//! The connection table: what a half says about a packet, and when a flow is over. How a new one gets its two entries is in
//! [`super::claim`].
//!
//! Of all who remove a flow at the same time (programs on several processors, the agent) the one that removed the forward half
//! removes the reply half, and nobody else: by then that may be of the flow that was given its place.

use super::{
    seam::{Environment, Flows, Maps},
    work::Work,
};
use crate::{
    abi::{Family, Flow, Proto, flow_seen},
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
    /// TCP: both sides have ended it, or one has reset it, and its port may be another flow's where no free one is found. A FIN
    /// or data that were not acknowledged are sent again, after a second at first (RFC 6298), so both sides have all there
    /// was after silence for longer than that.
    pub const TCP_REST_S: u32 = 3;
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
pub(super) fn is_finished(one: u16, other: u16) -> bool {
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
    let (forward, reply) = if half.is_reply() { (&*partner, key) } else { (key, &*partner) };
    if !has_other {
        kernel.remove_flow(key);
    } else if kernel.remove_flow(forward) {
        kernel.remove_flow(reply);
    }
    true
}

/// Whether nothing was heard on this half for so long that, if its flow is finished ([`is_finished`]), its reply tuple may be
/// another flow's.
///
/// What a new client sends to a backend that still keeps the tuple in TIME_WAIT or LAST_ACK is no worse off than what a client
/// sends that uses a port again (RFC 1122 section 4.2.2.13, RFC 6191): it is taken, or answered with an acknowledgement that
/// the client resets, and the SYN that it repeats after a second is taken. conntrack takes over such tuples as well
/// (`nf_nat_used_tuple_harder` in net/netfilter/nf_nat_core.c).
#[inline(always)]
pub(super) fn rests<F: Family>(half: &Flow<F>, now_s: u32) -> bool {
    age_s(now_s, half.last_seen_s) >= timeout::TCP_REST_S
}

/// Whether the flow's backend is no more. A client that begins anew is not sent there, however long its old connection would
/// have been kept.
#[inline(always)]
fn is_gone<F: Family>(kernel: &impl Maps<F>, forward: &Flow<F>) -> bool {
    kernel.backend(forward.backend).is_none_or(|backend| {
        backend.service != forward.service || backend.addr != forward.dst_addr || backend.port != forward.dst_port
    })
}
