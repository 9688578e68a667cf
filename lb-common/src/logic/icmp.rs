//! ICMP errors about translated packets, in both directions: path MTU discovery through a Service depends on them.
//!
//! An error quotes a packet as it was on the wire, after it was translated. The reverse of the quoted tuple is the key of the
//! half that the answers to that packet belong to, and what that half says of them, the other way round, is the tuple that
//! the packet had before. So both directions are one.

use super::{
    forward::Verdict,
    nat,
    seam::{Environment, Flows},
    work::Work,
};
use crate::{
    abi::{Counter, FlowKey},
    packet::{
        Broken, Packet, Summed,
        checksum::{Sum, pair},
        headers::{self, Headers, ICMP_CHECKSUM, ICMP_LEN, Ip, transport_checksum},
    },
};

/// Turns an error about a translated packet back, so that who sent the packet recognises it, and writes it. Others pass.
#[inline(never)]
pub(super) fn translate<F, K, P>(kernel: &K, packet: &mut P, work: &mut Work<F>) -> Verdict
where
    F: Ip,
    K: Flows<F> + Environment,
    P: Packet,
{
    if !find(kernel, packet, work) {
        return Verdict::Pass;
    }
    let Work { headers: outer, half, quoted, other_key: before, to, .. } = work;
    let backend = before.src_addr;
    *before = half.partner(before);
    *to = outer.tuple;
    to.dst_addr = before.src_addr;
    // Where the answers to the quoted packet get another source, so does an error, even of a router on the way, as with netfilter
    // (`nf_nat_icmp_reply_translation`): only that one is certain to be let pass where sources are filtered. Otherwise a router
    // stays who it is.
    if before.dst_addr != backend {
        to.src_addr = before.dst_addr;
    }
    if rewrite(packet, outer, to, quoted, before).is_err() {
        kernel.count(Counter::Unwritable);
        return Verdict::Drop;
    }
    kernel.count(Counter::IcmpError);
    Verdict::Translated
}

/// Puts the quoted headers into `work`, and the half of the answers to the quoted packet with its key. `false` where it was
/// not translated.
#[inline(always)]
fn find<F, K, P>(kernel: &K, packet: &P, work: &mut Work<F>) -> bool
where
    F: Ip,
    K: Flows<F>,
    P: Packet,
{
    let Work { headers: outer, half, quoted, other_key: key, .. } = work;
    if !headers::read_quoted(packet, outer.transport + ICMP_LEN, quoted) {
        return false;
    }
    *key = quoted.tuple.reversed();
    // An error goes to the sender of the packet; anything else is made up.
    outer.tuple.dst_addr == key.dst_addr && kernel.with_flow(key, |found| *half = *found).is_some() && half.is_of(key)
}

/// Gives the error the tuple `to`, and the quoted packet the tuple `before`.
#[inline(always)]
fn rewrite<F: Ip, P: Packet>(
    packet: &mut P,
    outer: &mut Headers<F>,
    to: &FlowKey<F>,
    quoted: &Headers<F>,
    before: &FlowKey<F>,
) -> Result<(), Broken> {
    let changed = rewrite_quoted(packet, quoted, before)?.difference();
    let checksum = outer.transport + ICMP_CHECKSUM;
    let addrs = nat::addrs_difference(&outer.tuple, to).difference();
    packet.update_checksum(checksum, changed, Summed::Segment, false)?;
    if F::VERSION == 6 {
        packet.update_checksum(checksum, addrs, Summed::PseudoHeader, false)?;
    }
    F::update_header_checksum(packet, 0, addrs)?;
    F::store_addrs(packet, 0, to)?;
    outer.tuple = *to;
    Ok(())
}

/// How the bytes of the quoted packet change, which the error's checksum covers. It is data: its own checksums are brought up
/// to date by hand, as far as they are quoted. What they become is taken off again by what they were for, except that the
/// sums of the pseudo-header are over addresses that stand elsewhere.
#[inline(always)]
fn rewrite_quoted<F: Ip, P: Packet>(packet: &mut P, quoted: &Headers<F>, before: &FlowKey<F>) -> Result<Sum, Broken> {
    let addrs = nat::addrs_difference(&quoted.tuple, before);
    let (old, new) = (pair(quoted.tuple.src_port, quoted.tuple.dst_port), pair(before.src_port, before.dst_port));
    let mut changed = addrs.replace(old, new);
    if let Some(offset) = F::CHECKSUM {
        let at = quoted.network + offset;
        changed = replace_checksum(packet, at, addrs.difference(), false, changed)?;
    }
    let (offset, zero_is_none) = transport_checksum(quoted.tuple.proto);
    let at = quoted.transport + offset;
    // 8 bytes are always quoted, which hold a UDP checksum but not a TCP one. Of a first fragment it covers more than
    // is quoted, which makes no difference.
    if at + 2 <= packet.size() {
        let whole = addrs.replace(old, new).difference();
        changed = replace_checksum(packet, at, whole, zero_is_none, changed)?;
    }
    packet.store(quoted.transport, [new])?;
    F::store_addrs(packet, quoted.network, before)?;
    Ok(changed)
}

/// Brings a quoted checksum, at an offset of the form 4n + 2, or 4n for TCP, up to date, and adds to `changed` how it has changed.
#[inline(always)]
fn replace_checksum<P: Packet>(
    packet: &mut P,
    at: u32,
    difference: u32,
    zero_is_none: bool,
    changed: Sum,
) -> Result<Sum, Broken> {
    let old = packet.load_u16(at)?;
    if zero_is_none && old == 0 {
        return Ok(changed);
    }
    let mut new = u16::from_be(crate::packet::checksum::updated(old.to_be(), difference));
    if zero_is_none && new == 0 {
        new = u16::MAX;
    }
    packet.store_u16(at, new)?;
    Ok(changed.replace(pair(0, old), pair(0, new)))
}
