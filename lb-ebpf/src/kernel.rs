//! The logic's traits (`lb_common::logic::seam`) on kernel helpers, for one run of a sock_addr hook. Thin: each function
//! is a helper call and a copy.

use core::ptr;

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns},
    programs::SockAddrContext,
};
use aya_log_ebpf::error;
use lb_common::{
    abi::{Backend, Counter, Frontend, FrontendKey, Slot, SockDst, UdpPeers},
    logic::seam::{Environment, Maps, NoStorage, Socket},
};

use crate::maps::{KernelMaps, Pinned, STATS};

/// `TCP_ESTABLISHED` (include/net/tcp_states.h): the state of every socket that has a peer, of UDP ones also.
const ESTABLISHED: u32 = 1;
/// `AF_INET6`.
const INET6: u32 = 10;

/// One run of a hook.
#[derive(Clone, Copy)]
pub struct Hook<'a> {
    ctx: &'a SockAddrContext,
}

impl<'a> Hook<'a> {
    /// From the program's context.
    #[inline(always)]
    pub fn new(ctx: &'a SockAddrContext) -> Self {
        Self { ctx }
    }

    /// The context, as the kernel declares it.
    #[inline(always)]
    pub fn sock_addr(&self) -> *mut bpf_sock_addr {
        self.ctx.sock_addr
    }

    #[inline(always)]
    fn sock(&self) -> *mut bpf_sock {
        // SAFETY: the kernel passes a valid context; the verifier checks every access to it.
        unsafe { (*self.ctx.sock_addr).__bindgen_anon_1.sk }
    }

    /// Whether the socket can hold storage of both families.
    #[inline(always)]
    fn is_inet6(&self) -> bool {
        // SAFETY: sock_addr hooks always have a socket; the verifier knows.
        unsafe { ptr::read_volatile(&raw const (*self.sock()).family) == INET6 }
    }

    #[inline(always)]
    fn forget<F: Pinned>(&self) {
        // SAFETY: as for `is_inet6`.
        match unsafe { F::sock().delete(self.sock()) } {
            // The only error is ENOENT: there was none.
            Ok(()) | Err(_) => {}
        }
    }
}

impl<F: Pinned> Maps<F> for Hook<'_> {
    #[inline(always)]
    fn frontend(&self, key: &FrontendKey<F>) -> Option<Frontend> {
        KernelMaps.frontend(key)
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<Slot<F>> {
        KernelMaps.slot(index)
    }

    #[inline(always)]
    fn backend(&self, id: u32) -> Option<Backend<F>> {
        KernelMaps.backend(id)
    }
}

impl Environment for Hook<'_> {
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "wraps after 136 years; only differences are used")]
    fn now_s(&self) -> u32 {
        // SAFETY: takes nothing, returns a number.
        let now_ns = unsafe { bpf_ktime_get_ns() };
        (now_ns / 1_000_000_000) as u32
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: takes nothing, returns a number.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn count(&self, counter: Counter) {
        if let Some(count) = STATS.get_ptr_mut(counter as u32) {
            // SAFETY: this processor's own element. A program that interrupts another one on the same processor between
            // the read and the write may lose it a count, which statistics can bear.
            unsafe { *count += 1 };
        }
        if counter == Counter::DamagedMaps {
            report_damage(self.ctx);
        }
    }
}

/// Not inlined, so that none of it is in the way of those who never need it.
#[inline(never)]
fn report_damage(ctx: &SockAddrContext) {
    error!(
        ctx,
        "the maps are damaged (a frontend without a valid checksum or slot): stop the agent, run `lb-agent cleanup`, start it"
    );
}

impl<F: Pinned> Socket<F> for Hook<'_> {
    #[inline(always)]
    fn is_connected(&self) -> bool {
        // SAFETY: as for `is_inet6`.
        unsafe { ptr::read_volatile(&raw const (*self.sock()).state) == ESTABLISHED }
    }

    #[inline(always)]
    fn translation(&self) -> Option<SockDst<F>> {
        // SAFETY: as for `is_inet6`.
        let stored = unsafe { F::sock().get_ptr_mut(self.ctx) };
        // SAFETY: null or this socket's storage, which nobody writes while its lock is held.
        unsafe { stored.as_ref() }.copied()
    }

    #[inline(always)]
    fn set_translation(&self, dst: SockDst<F>) -> Result<(), NoStorage> {
        if self.is_inet6() {
            self.forget::<F::Other>();
        }
        // SAFETY: as for `is_inet6`.
        let stored = unsafe { F::sock().get_or_insert_ptr_mut(self.ctx, None) };
        // SAFETY: as for `translation`.
        let stored = unsafe { stored.as_mut() }.ok_or(NoStorage)?;
        *stored = dst;
        Ok(())
    }

    #[inline(always)]
    fn clear_translation(&self) {
        self.forget::<F>();
        if self.is_inet6() {
            self.forget::<F::Other>();
        }
    }

    #[inline(always)]
    fn with_peers<R>(&self, create: bool, f: impl FnOnce(&mut UdpPeers<F>) -> R) -> Option<R> {
        // SAFETY: as for `is_inet6`.
        let stored = unsafe {
            if create { F::sockudp().get_or_insert_ptr_mut(self.ctx, None) } else { F::sockudp().get_ptr_mut(self.ctx) }
        };
        // SAFETY: as for `translation`.
        unsafe { stored.as_mut() }.map(f)
    }
}
