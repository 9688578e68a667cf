//! Giving a packet other addresses and ports, checksums included.

use crate::{
    abi::FlowKey,
    packet::{
        Broken, Packet, Summed,
        checksum::{Sum, pair},
        headers::{Headers, Ip, transport_checksum},
    },
};

/// How the sum over both addresses changes.
#[inline(always)]
pub(super) fn addrs_difference<F: Ip>(old: &FlowKey<F>, new: &FlowKey<F>) -> Sum {
    Sum::default()
        .replace_all(F::words(old.src_addr).as_ref(), F::words(new.src_addr).as_ref())
        .replace_all(F::words(old.dst_addr).as_ref(), F::words(new.dst_addr).as_ref())
}

/// Gives the packet the tuple `to`, and `headers` with it.
///
/// The checksum of a datagram covers all its fragments and is in the first one alone, so that later ones need none.
#[inline(always)]
pub fn rewrite<F: Ip, P: Packet>(packet: &mut P, headers: &mut Headers<F>, to: &FlowKey<F>) -> Result<(), Broken> {
    let from = &headers.tuple;
    let addrs = addrs_difference(from, to).difference();
    if headers.has_ports() {
        let (offset, zero_is_none) = transport_checksum(from.proto);
        let (old, new) = (pair(from.src_port, from.dst_port), pair(to.src_port, to.dst_port));
        let ports = Sum::default().replace(old, new).difference();
        let checksum = headers.transport + offset;
        packet.update_checksum(checksum, addrs, Summed::PseudoHeader, zero_is_none)?;
        packet.update_checksum(checksum, ports, Summed::Segment, zero_is_none)?;
        packet.store(headers.transport, [new])?;
    }
    F::update_header_checksum(packet, headers.network, addrs)?;
    F::store_addrs(packet, headers.network, to)?;
    headers.tuple = *to;
    Ok(())
}

/// Takes one hop off, as a router does. The packet has more than one left.
#[inline(always)]
pub fn take_hop<F: Ip, P: Packet>(packet: &mut P, headers: &mut Headers<F>) -> Result<(), Broken> {
    let at = headers.network + F::HOPS / 4 * 4;
    let [old] = packet.load::<1>(at)?;
    let mut bytes = old.to_ne_bytes();
    if let Some(hops) = bytes.get_mut(F::HOPS as usize % 4) {
        *hops = hops.wrapping_sub(1);
    }
    let new = u32::from_ne_bytes(bytes);
    // The word holds IPv4's checksum, too, so that comes after it.
    packet.store(at, [new])?;
    F::update_header_checksum(packet, headers.network, Sum::default().replace(old, new).difference())?;
    headers.hops = headers.hops.wrapping_sub(1);
    Ok(())
}
