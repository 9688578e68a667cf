//! Fragments: only the first one of a datagram has ports, so it tells them to those that come after it. Of one that comes
//! before it a copy may be kept, see [`super::piece`].

use super::{
    flow::age_s,
    seam::{Environment, Flows, Known, Maps},
};
use crate::{
    abi::{Family, FlowKey, Fragment, FragmentKey, Place},
    packet::headers::{Headers, Kind, may_be_translated},
};

/// How long the rest of a datagram may take (`net.ipv4.ipfrag_time`). Identifications are used again: of an older datagram
/// with the same one nothing is believed.
pub const REASSEMBLY_S: u32 = 30;

/// What a datagram's first fragment said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// It was translated: the later one has its ports and protocol now.
    Translated,
    /// It was not.
    Other,
    /// Nothing: it has not come, or not here, or it was of no interest.
    Unknown,
}

/// RFC 791 section 3.2 has the protocol in it, RFC 8200 section 4.5 has not.
#[inline(always)]
pub(super) fn key<F: Family>(headers: &Headers<F>) -> FragmentKey<F> {
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

/// Keeps of a first fragment that its datagram is not translated, so that its later ones need not be kept for long.
#[inline(never)]
pub(super) fn set_aside<F, K>(kernel: &K, headers: &Headers<F>) -> u32
where
    F: Family,
    K: Flows<F> + Known<F> + Maps<F> + Environment,
{
    if headers.kind == Kind::FirstFragment && may_be_ours(kernel, headers) {
        kernel.put_fragment(&key(headers), &Fragment { seen_s: kernel.now_s(), ..Fragment::default() });
    }
    0
}

/// Whether a fragment may be of a flow, as far as one without ports tells: it goes to an address that is or was a Service's, or
/// comes from one of a backend that a flow was given.
#[inline(always)]
pub(super) fn may_be_ours<F: Family, K: Known<F> + Maps<F>>(kernel: &K, headers: &Headers<F>) -> bool {
    may_be_translated(headers.tuple.proto)
        && (kernel.may_be_frontend(Place::of_address::<F>(headers.tuple.dst_addr))
            || kernel.may_be_backend(Place::of_address::<F>(headers.tuple.src_addr)))
}

/// Gives a later fragment the ports and protocol of its first one, if that was translated.
#[inline(never)]
pub(super) fn recall<F: Family, K: Flows<F> + Environment>(kernel: &K, headers: &mut Headers<F>) -> First {
    let Some(first) = first(kernel, headers) else {
        return First::Unknown;
    };
    if first.proto == 0 {
        return First::Other;
    }
    headers.tuple.src_port = first.src_port;
    headers.tuple.dst_port = first.dst_port;
    headers.tuple.proto = first.proto;
    First::Translated
}

/// What is known of the first fragment of a later one.
#[inline(always)]
pub(super) fn first<F: Family, K: Flows<F> + Environment>(kernel: &K, headers: &Headers<F>) -> Option<Fragment> {
    kernel.fragment(&key(headers)).filter(|first| age_s(kernel.now_s(), first.seen_s) <= REASSEMBLY_S)
}
