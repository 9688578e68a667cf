//! How a new flow gets its two entries in the connection table.
//!
//! No half is ever left alone on purpose: the reply half is claimed first, and given back where the forward half cannot
//! be had. What a crash between the two leaves is found out by whoever meets it next, and by the agent
//! ([`super::flow::expired`]).

use super::{
    flow::{is_finished, rests},
    seam::{Environment, Flows, Known, NotAdded},
    work::Work,
};
use crate::abi::{Counter, Endpoint, Family, Flow, Place, Proto, flow_flags};

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

/// How many ports are tried before a flow is given up. In a range that is nine tenths full one of them is free in 19 of 20
/// cases, in a half-full one always.
const N_PROBES: usize = 28;
/// Of the first of them only those are taken that nobody has, of the last also one whose connection is over: in a full range
/// with half of its connections over one of them is such in 7 of 8 cases.
const N_FREE: usize = 25;

/// Claims both entries for a new flow of the client's packets. `work.half` says where they go; its source is filled in
/// here, and it is sealed.
#[inline(always)]
pub(super) fn claim<F, K>(kernel: &K, work: &mut Work<F>) -> Claim
where
    F: Family,
    K: Flows<F> + Known<F> + Environment,
{
    let addr = work.half.dst_addr;
    kernel.note_backend(Place::of::<F>(Endpoint { addr, port: work.half.dst_port }));
    // Of later fragments nothing else is known.
    kernel.note_backend(Place::of_address::<F>(addr));
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
/// other's way, and nobody outside can guess the next one (RFC 6056). Where none of many is free, that of a flow that has
/// come to its end will do: else a client of short connections to one backend has to wait until ports have rested.
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
    for attempt in 0..if usable { N_PROBES } else { 0 } {
        work.half.src_port = first.wrapping_add(pick(kernel.random(), n_ports));
        make_reply(work);
        match kernel.add_flow(&work.other_key, &work.other) {
            Ok(()) => return Claim::Claimed,
            Err(NotAdded::Exists) if attempt >= N_FREE && take_over(kernel, work) => return Claim::Claimed,
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

/// Takes the reply tuple in `work` from the TCP flow that has it, if that has come to its end and rests ([`rests`]). The old
/// flow's client half is removed; who succeeds in that has its reply half, which the new one replaces at once, so that no
/// other processor finds the tuple free or takes it, too. `false` where the tuple stays as it is.
///
/// A new flow that the old client begins on the same tuple on another processor, between the last look and the removal, goes
/// with the old one. Its SYN, sent again, begins another.
#[inline(never)]
fn take_over<F, K>(kernel: &K, work: &mut Work<F>) -> bool
where
    F: Family,
    K: Flows<F> + Environment,
{
    let Work { other_key: reply_key, other: new, to: forward_key, .. } = work;
    if reply_key.proto != Proto::Tcp.number() {
        return false;
    }
    let now_s = kernel.now_s();
    let look = |reply: &mut Flow<F>| {
        *forward_key = reply.partner(reply_key);
        (reply.is_reply() && rests(reply, now_s)).then_some(reply.seen)
    };
    let Some(reply_seen) = kernel.with_flow(reply_key, look).flatten() else {
        return false;
    };
    // Halves that name one another are a flow's, so that nothing else of what was read need be checked.
    let is_over = |forward: &mut Flow<F>| {
        rests(forward, now_s) && is_finished(forward.seen, reply_seen) && forward.partner(forward_key) == *reply_key
    };
    if kernel.with_flow(forward_key, is_over) != Some(true) || !kernel.remove_flow(forward_key) {
        return false;
    }
    if !kernel.put_flow(reply_key, new) {
        // The kernel had no memory.
        kernel.remove_flow(reply_key);
        return false;
    }
    kernel.count(Counter::SnatTakenOver);
    true
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
