//! Fragments: only the first one of a datagram has ports, so it tells them to those that come after it. What comes before it
//! passes untranslated and is lost, as its sender expects of fragments now and then.

use super::{
    flow::age_s,
    seam::{Environment, Flows},
};
use crate::{
    abi::{Counter, Family, Fragment, FragmentKey},
    packet::headers::Headers,
};

/// How long the rest of a datagram may take (`net.ipv4.ipfrag_time`). Identifications are used again: of an older datagram
/// with the same one nothing is believed.
pub const REASSEMBLY_S: u32 = 30;

#[inline(always)]
fn key<F: Family>(headers: &Headers<F>) -> FragmentKey<F> {
    FragmentKey {
        src_addr: headers.tuple.src_addr,
        dst_addr: headers.tuple.dst_addr,
        id: headers.fragment_id,
        proto: headers.tuple.proto,
        reserved: [0; 3],
    }
}

/// Keeps the ports of a first fragment that is about to be translated.
#[inline(never)]
pub(super) fn remember<F: Family, K: Flows<F> + Environment>(kernel: &K, headers: &Headers<F>) -> u32 {
    let ports = &headers.tuple;
    let fragment = Fragment { src_port: ports.src_port, dst_port: ports.dst_port, seen_s: kernel.now_s() };
    kernel.put_fragment(&key(headers), &fragment);
    0
}

/// Gives a later fragment the ports of its first one. `false` (and counted) where that was not translated.
#[inline(never)]
pub(super) fn recall<F: Family, K: Flows<F> + Environment>(kernel: &K, headers: &mut Headers<F>) -> bool {
    let first = kernel.fragment(&key(headers)).filter(|first| age_s(kernel.now_s(), first.seen_s) <= REASSEMBLY_S);
    let Some(first) = first else {
        kernel.count(Counter::FragmentUnknown);
        return false;
    };
    headers.tuple.src_port = first.src_port;
    headers.tuple.dst_port = first.dst_port;
    true
}
