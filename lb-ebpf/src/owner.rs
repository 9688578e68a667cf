//! Answers the agent's question whether a socket of the caller's network namespace was translated by the connect hooks,
//! and to which backend: `lb_common::abi::OwnerCall`. Run by `BPF_PROG_TEST_RUN`, never attached.
//!
//! The socket's own storage is asked, so that nothing has to be noted anywhere else when a socket connects.

use core::{
    mem::{offset_of, size_of},
    ptr,
};

use aya_ebpf::{
    bindings::bpf_sock,
    helpers::{bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release, bpf_sk_storage_get, bpf_skb_store_bytes},
    programs::TcContext,
};
use lb_common::abi::{Ends, OwnerCall, Proto, SockDst, owner_answer};

use crate::maps::Pinned;

/// `BPF_F_CURRENT_NETNS`: that of the process that runs the program.
const CURRENT_NETNS: u64 = u64::MAX;

/// Answers the question in the packet.
#[inline(always)]
pub fn answer<F: Pinned>(ctx: &TcContext) -> i32 {
    let Some(socket) = lookup::<F>(ctx) else {
        return owner_answer::NO_SOCKET.cast_signed();
    };
    let answer = translation::<F>(ctx, socket);
    // SAFETY: a socket that the lookup took a reference to.
    unsafe { bpf_sk_release(socket.cast()) };
    answer.cast_signed()
}

/// The socket with these ends, with a reference that must be given back.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a few bytes")]
fn lookup<F: Pinned>(ctx: &TcContext) -> Option<*mut bpf_sock> {
    let proto: u8 = ctx.load(offset_of!(OwnerCall<F>, proto)).ok()?;
    let mut ends: Ends<F> = ctx.load(offset_of!(OwnerCall<F>, ends)).ok()?;
    let (skb, ends, size) = (ctx.skb.skb.cast(), (&raw mut ends).cast(), size_of::<Ends<F>>() as u32);
    let socket = if proto == Proto::Tcp.number() {
        // SAFETY: the context is the program's, `ends` has `size` bytes.
        unsafe { bpf_sk_lookup_tcp(skb, ends, size, CURRENT_NETNS, 0) }
    } else {
        // SAFETY: as above.
        unsafe { bpf_sk_lookup_udp(skb, ends, size, CURRENT_NETNS, 0) }
    };
    if socket.is_null() { None } else { Some(socket) }
}

/// Copies the socket's storage into the packet.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a few bytes")]
fn translation<F: Pinned>(ctx: &TcContext, socket: *mut bpf_sock) -> u32 {
    let map = ptr::from_ref(F::sock()).cast_mut().cast();
    // SAFETY: a map of socket storage and a socket; nothing is created.
    let stored = unsafe { bpf_sk_storage_get(map, socket.cast(), ptr::null_mut(), 0) };
    if stored.is_null() {
        return owner_answer::NOT_OURS;
    }
    let (size, at) = (size_of::<SockDst<F>>() as u32, offset_of!(OwnerCall<F>, translation) as u32);
    // SAFETY: the storage has that many bytes. The socket may be connecting elsewhere meanwhile: then the agent gets a
    // mixture of two, which names no backend.
    match unsafe { bpf_skb_store_bytes(ctx.skb.skb, at, stored, size, 0) } {
        0 => owner_answer::OURS,
        _ => owner_answer::NOT_OURS,
    }
}
