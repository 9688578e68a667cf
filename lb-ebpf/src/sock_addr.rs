//! The sock_addr hooks: reads the address out of the context, asks the logic, and writes its answer back.
//!
//! What the kernel lets a program return differs from hook to hook (`check_return_code` in kernel/bpf/verifier.c):
//! connect and sendmsg may allow or deny, recvmsg and getpeername must allow.

use core::{mem, ptr};

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    programs::SockAddrContext,
};
use lb_common::{
    abi::{Endpoint, Family, Proto, SockDst, UdpPeers, V4, V6},
    logic::{
        mapped,
        socket::{self, Verdict},
    },
};

use crate::{
    hook::{self, Call},
    kernel::{Kernel, Storage},
    maps::Pinned,
    proto::from_kernel,
};

const ALLOW: i32 = 1;
const DENY: i32 = 0;
/// `TCP_ESTABLISHED` (include/net/tcp_states.h): the state of every socket that has a peer, of UDP ones also.
const ESTABLISHED: u32 = 1;
/// `AF_INET6`.
const INET6: u32 = 10;

type AddrCall<'a> = Call<'a, SockAddrContext>;

#[inline(always)]
fn sock(call: AddrCall<'_>) -> *mut bpf_sock {
    // SAFETY: the kernel passes a valid context; the verifier checks every access to it.
    unsafe { (*call.0.sock_addr).__bindgen_anon_1.sk }
}

impl<F: Pinned> Storage<F> for AddrCall<'_> {
    #[inline(always)]
    fn is_connected(self) -> bool {
        // SAFETY: sock_addr hooks always have a socket; the verifier knows.
        unsafe { ptr::read_volatile(&raw const (*sock(self)).state) == ESTABLISHED }
    }

    #[inline(always)]
    fn is_inet6(self) -> bool {
        // SAFETY: as above.
        unsafe { ptr::read_volatile(&raw const (*sock(self)).family) == INET6 }
    }

    #[inline(always)]
    fn translation(self, create: bool) -> *mut SockDst<F> {
        // SAFETY: as above.
        unsafe { if create { F::sock().get_or_insert_ptr_mut(self.0, None) } else { F::sock().get_ptr_mut(self.0) } }
    }

    #[inline(always)]
    fn remove_translation(self) {
        // SAFETY: as above.
        match unsafe { F::sock().delete(sock(self)) } {
            // The only error is ENOENT: there was none.
            Ok(()) | Err(_) => {}
        }
    }

    #[inline(always)]
    fn peers(self, create: bool) -> *mut UdpPeers<F> {
        // SAFETY: as above.
        unsafe {
            if create { F::sockudp().get_or_insert_ptr_mut(self.0, None) } else { F::sockudp().get_ptr_mut(self.0) }
        }
    }
}

/// How a family's address stands in the context. Words are in network byte order.
trait ContextAddress: Family {
    fn read_addr(ctx: *const bpf_sock_addr) -> Self::Addr;
    fn write_addr(ctx: *mut bpf_sock_addr, addr: Self::Addr);
}

impl ContextAddress for V4 {
    #[inline(always)]
    fn read_addr(ctx: *const bpf_sock_addr) -> [u8; 4] {
        // SAFETY: the context is valid. Volatile, because the verifier takes only reads of whole, aligned fields, and
        // the compiler would merge or split them.
        unsafe { ptr::read_volatile(&raw const (*ctx).user_ip4) }.to_ne_bytes()
    }

    #[inline(always)]
    fn write_addr(ctx: *mut bpf_sock_addr, addr: [u8; 4]) {
        // SAFETY: as above.
        unsafe { ptr::write_volatile(&raw mut (*ctx).user_ip4, u32::from_ne_bytes(addr)) };
    }
}

impl ContextAddress for V6 {
    #[inline(always)]
    fn read_addr(ctx: *const bpf_sock_addr) -> [u8; 16] {
        // SAFETY: as for IPv4.
        let word = |index: usize| unsafe { ptr::read_volatile(&raw const (*ctx).user_ip6[index]) };
        let words = [word(0), word(1), word(2), word(3)];
        // SAFETY: four words are sixteen bytes, and any bytes are an address. Spelled out byte by byte it would be taken
        // apart and put together again in the program, too.
        unsafe { mem::transmute::<[u32; 4], [u8; 16]>(words) }
    }

    #[inline(always)]
    fn write_addr(ctx: *mut bpf_sock_addr, addr: [u8; 16]) {
        // SAFETY: as for reading.
        let words = unsafe { mem::transmute::<[u8; 16], [u32; 4]>(addr) };
        for (index, word) in words.into_iter().enumerate() {
            // SAFETY: as for IPv4.
            unsafe { ptr::write_volatile(&raw mut (*ctx).user_ip6[index], word) };
        }
    }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the kernel keeps the port in the lower half of the word")]
fn read<F: ContextAddress>(ctx: &SockAddrContext) -> Endpoint<F> {
    // SAFETY: as for the addresses.
    let port = unsafe { ptr::read_volatile(&raw const (*ctx.sock_addr).user_port) };
    Endpoint { addr: F::read_addr(ctx.sock_addr), port: u16::from_be(port as u16) }
}

#[inline(always)]
fn write<F: ContextAddress>(ctx: &SockAddrContext, to: Endpoint<F>) {
    F::write_addr(ctx.sock_addr, to.addr);
    // SAFETY: as for the addresses.
    unsafe { ptr::write_volatile(&raw mut (*ctx.sock_addr).user_port, u32::from(to.port.to_be())) };
}

#[inline(always)]
fn proto(ctx: &SockAddrContext) -> Option<Proto> {
    // SAFETY: as for the addresses.
    from_kernel(unsafe { ptr::read_volatile(&raw const (*ctx.sock_addr).protocol) })
}

#[inline(always)]
fn answer_connect<F: ContextAddress>(ctx: &SockAddrContext, verdict: Verdict<F>, nobody: F::Addr) -> i32 {
    match verdict {
        Verdict::Pass => ALLOW,
        Verdict::Rewrite(to) => {
            write(ctx, to);
            ALLOW
        }
        Verdict::Refuse if hook::set_refused() => DENY,
        Verdict::Refuse => {
            // Denying would be EPERM, which applications take for a lasting misconfiguration. Nobody can listen on
            // port 0, so that the kernel itself refuses: TCP by a RST, UDP by ICMP at the first datagram.
            write(ctx, Endpoint::<F> { addr: nobody, port: 0 });
            ALLOW
        }
    }
}

#[inline(always)]
fn answer_sendmsg<F: ContextAddress>(ctx: &SockAddrContext, verdict: Verdict<F>) -> i32 {
    match verdict {
        Verdict::Pass => ALLOW,
        Verdict::Rewrite(to) => {
            write(ctx, to);
            ALLOW
        }
        Verdict::Refuse => {
            hook::set_refused();
            DENY
        }
    }
}

#[inline(always)]
fn answer_name<F: ContextAddress>(ctx: &SockAddrContext, shown: Option<Endpoint<F>>) -> i32 {
    if let Some(shown) = shown {
        write(ctx, shown);
    }
    ALLOW
}

/// Runs the logic of a hook that chooses.
#[inline(always)]
fn decide<'a>(ctx: &'a SockAddrContext, logic: impl FnOnce(&Kernel<AddrCall<'a>>) -> i32) -> i32 {
    let kernel = Kernel::new(Call(ctx));
    let answer = logic(&kernel);
    if kernel.saw_damage() {
        hook::report_damage(ctx);
    }
    answer
}

/// The hooks of IPv4 sockets.
pub mod v4 {
    use super::*;

    /// connect4.
    #[inline(always)]
    pub fn connect(ctx: &SockAddrContext) -> i32 {
        let Some(proto) = proto(ctx) else {
            return ALLOW;
        };
        decide(ctx, |kernel| answer_connect(ctx, socket::connect::<V4, _>(kernel, read(ctx), proto), V4::LOOPBACK))
    }

    /// sendmsg4.
    #[inline(always)]
    pub fn sendmsg(ctx: &SockAddrContext) -> i32 {
        decide(ctx, |kernel| answer_sendmsg(ctx, socket::sendmsg::<V4, _>(kernel, read(ctx))))
    }

    /// recvmsg4.
    #[inline(always)]
    pub fn recvmsg(ctx: &SockAddrContext) -> i32 {
        answer_name(ctx, socket::recvmsg::<V4, _>(&Kernel::new(Call(ctx)), read(ctx)))
    }

    /// getpeername4.
    #[inline(always)]
    pub fn getpeername(ctx: &SockAddrContext) -> i32 {
        answer_name(ctx, socket::peername::<V4>(&Kernel::new(Call(ctx)), read(ctx)))
    }
}

/// The hooks of IPv6 sockets, which may carry IPv4.
pub mod v6 {
    use lb_common::abi::{map_v4, mapped_v4};

    use super::*;

    /// connect6.
    #[inline(always)]
    pub fn connect(ctx: &SockAddrContext) -> i32 {
        let Some(proto) = proto(ctx) else {
            return ALLOW;
        };
        let dst = read::<V6>(ctx);
        // An IPv4 route stays one: the socket may be bound to a mapped address.
        let nobody = if mapped_v4(dst.addr).is_some() { map_v4(V4::LOOPBACK) } else { V6::LOOPBACK };
        decide(ctx, |kernel| answer_connect(ctx, mapped::connect(kernel, dst, proto), nobody))
    }

    /// sendmsg6.
    #[inline(always)]
    pub fn sendmsg(ctx: &SockAddrContext) -> i32 {
        decide(ctx, |kernel| answer_sendmsg(ctx, socket::sendmsg::<V6, _>(kernel, read(ctx))))
    }

    /// recvmsg6.
    #[inline(always)]
    pub fn recvmsg(ctx: &SockAddrContext) -> i32 {
        answer_name(ctx, mapped::recvmsg(&Kernel::new(Call(ctx)), read(ctx)))
    }

    /// getpeername6.
    #[inline(always)]
    pub fn getpeername(ctx: &SockAddrContext) -> i32 {
        answer_name(ctx, mapped::peername(&Kernel::new(Call(ctx)), read(ctx)))
    }
}
