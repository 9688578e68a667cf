//! Fragments: only the first one of a datagram has ports, so it tells them to those that come after it. One that comes before
//! it cannot be translated: a program has no place to keep it, and could only spin until the first one is there. What nobody
//! but a Service can want of these is dropped, and its sender sends the datagram again.

use super::{
    flow::age_s,
    seam::{Environment, Flows},
};
use crate::{
    abi::{Counter, Family, FlowKey, Fragment, FragmentKey},
    packet::headers::Headers,
};

/// How long the rest of a datagram may take (`net.ipv4.ipfrag_time`). Identifications are used again: of an older datagram
/// with the same one nothing is believed.
pub const REASSEMBLY_S: u32 = 30;

/// RFC 791 section 3.2 has the protocol in it, RFC 8200 section 4.5 has not.
#[inline(always)]
fn key<F: Family>(headers: &Headers<F>) -> FragmentKey<F> {
    FragmentKey {
        src_addr: headers.tuple.src_addr,
        dst_addr: headers.tuple.dst_addr,
        id: headers.fragment_id,
        proto: if F::VERSION == 6 { 0 } else { headers.tuple.proto },
        reserved: [0; 3],
    }
}

/// Keeps the ports and protocol of a first fragment that is about to be translated.
#[inline(never)]
pub(super) fn remember<F: Family, K: Flows<F> + Environment>(kernel: &K, headers: &Headers<F>) -> u32 {
    let FlowKey { src_port, dst_port, proto, .. } = headers.tuple;
    let fragment = Fragment { src_port, dst_port, seen_s: kernel.now_s(), proto, reserved: [0; 3] };
    kernel.put_fragment(&key(headers), &fragment);
    0
}

/// Gives a later fragment the ports and protocol of its first one. `false` (and counted) where that was not translated.
#[inline(never)]
pub(super) fn recall<F: Family, K: Flows<F> + Environment>(kernel: &K, headers: &mut Headers<F>) -> bool {
    let first = kernel.fragment(&key(headers)).filter(|first| age_s(kernel.now_s(), first.seen_s) <= REASSEMBLY_S);
    let Some(first) = first else {
        kernel.count(Counter::FragmentUnknown);
        return false;
    };
    headers.tuple.src_port = first.src_port;
    headers.tuple.dst_port = first.dst_port;
    headers.tuple.proto = first.proto;
    true
}
