//! The sock_addr hooks: reads the address out of the context, asks the logic, and writes its answer back.
//!
//! What the kernel lets a program return differs from hook to hook (`check_return_code` in kernel/bpf/verifier.c):
//! connect and sendmsg may allow or deny, recvmsg and getpeername must allow.

use core::{mem, ptr};

use aya_ebpf::{Global, bindings::bpf_sock_addr, helpers::bpf_set_retval, programs::SockAddrContext};
use lb_common::{
    abi::{Endpoint, Family, Proto, V4, V6},
    logic::{
        mapped,
        socket::{self, Verdict},
    },
};

use crate::kernel::Hook;

const ALLOW: i32 = 1;
const DENY: i32 = 0;
const ECONNREFUSED: i32 = 111;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
/// A Multipath TCP socket is a TCP socket to a Service.
const IPPROTO_MPTCP: u32 = 262;

/// Set by the agent where the kernel has `bpf_set_retval` at these hooks. The verifier sees the loaded value as a
/// constant and drops the branch that is not taken, so that older kernels never see the helper.
#[unsafe(no_mangle)]
static LB_SET_RETVAL: Global<u32> = Global::new(0);

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
fn read<F: ContextAddress>(hook: &Hook<'_>) -> Endpoint<F> {
    // SAFETY: as for the addresses.
    let port = unsafe { ptr::read_volatile(&raw const (*hook.sock_addr()).user_port) };
    Endpoint { addr: F::read_addr(hook.sock_addr()), port: u16::from_be(port as u16) }
}

#[inline(always)]
fn write<F: ContextAddress>(hook: &Hook<'_>, to: Endpoint<F>) {
    F::write_addr(hook.sock_addr(), to.addr);
    // SAFETY: as for the addresses.
    unsafe { ptr::write_volatile(&raw mut (*hook.sock_addr()).user_port, u32::from(to.port.to_be())) };
}

#[inline(always)]
fn proto(hook: &Hook<'_>) -> Option<Proto> {
    // SAFETY: as for the addresses.
    match unsafe { ptr::read_volatile(&raw const (*hook.sock_addr()).protocol) } {
        IPPROTO_TCP | IPPROTO_MPTCP => Some(Proto::Tcp),
        IPPROTO_UDP => Some(Proto::Udp),
        _ => None,
    }
}

/// Denies with ECONNREFUSED instead of EPERM; `false` where the kernel cannot.
#[inline(always)]
fn set_refused() -> bool {
    if LB_SET_RETVAL.load() == 0 {
        return false;
    }
    // SAFETY: takes and returns a number. Fails only for a number that is no errno.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    true
}

#[inline(always)]
fn answer_connect<F: ContextAddress>(hook: &Hook<'_>, verdict: Verdict<F>, nobody: F::Addr) -> i32 {
    match verdict {
        Verdict::Pass => ALLOW,
        Verdict::Rewrite(to) => {
            write(hook, to);
            ALLOW
        }
        Verdict::Refuse if set_refused() => DENY,
        Verdict::Refuse => {
            // Denying would be EPERM, which applications take for a lasting misconfiguration. Nobody can listen on
            // port 0, so that the kernel itself refuses: TCP by a RST, UDP by ICMP at the first datagram.
            write(hook, Endpoint::<F> { addr: nobody, port: 0 });
            ALLOW
        }
    }
}

#[inline(always)]
fn answer_sendmsg<F: ContextAddress>(hook: &Hook<'_>, verdict: Verdict<F>) -> i32 {
    match verdict {
        Verdict::Pass => ALLOW,
        Verdict::Rewrite(to) => {
            write(hook, to);
            ALLOW
        }
        Verdict::Refuse => {
            set_refused();
            DENY
        }
    }
}

#[inline(always)]
fn answer_name<F: ContextAddress>(hook: &Hook<'_>, shown: Option<Endpoint<F>>) -> i32 {
    if let Some(shown) = shown {
        write(hook, shown);
    }
    ALLOW
}

/// The hooks of IPv4 sockets.
pub mod v4 {
    use super::*;

    /// connect4.
    #[inline(always)]
    pub fn connect(ctx: &SockAddrContext) -> i32 {
        let hook = Hook::new(ctx);
        let Some(proto) = proto(&hook) else {
            return ALLOW;
        };
        answer_connect(&hook, socket::connect::<V4, _>(&hook, read(&hook), proto), V4::LOOPBACK)
    }

    /// sendmsg4.
    #[inline(always)]
    pub fn sendmsg(ctx: &SockAddrContext) -> i32 {
        let hook = Hook::new(ctx);
        answer_sendmsg(&hook, socket::sendmsg::<V4, _>(&hook, read(&hook)))
    }

    /// recvmsg4.
    #[inline(always)]
    pub fn recvmsg(ctx: &SockAddrContext) -> i32 {
        let hook = Hook::new(ctx);
        answer_name(&hook, socket::recvmsg::<V4, _>(&hook, read(&hook)))
    }

    /// getpeername4.
    #[inline(always)]
    pub fn getpeername(ctx: &SockAddrContext) -> i32 {
        let hook = Hook::new(ctx);
        answer_name(&hook, socket::peername::<V4>(&hook, read(&hook)))
    }
}

/// The hooks of IPv6 sockets, which may carry IPv4.
pub mod v6 {
    use lb_common::abi::{map_v4, mapped_v4};

    use super::*;

    /// connect6.
    #[inline(always)]
    pub fn connect(ctx: &SockAddrContext) -> i32 {
        let hook = Hook::new(ctx);
        let Some(proto) = proto(&hook) else {
            return ALLOW;
        };
        let dst = read::<V6>(&hook);
        // An IPv4 route stays one: the socket may be bound to a mapped address.
        let nobody = if mapped_v4(dst.addr).is_some() { map_v4(V4::LOOPBACK) } else { V6::LOOPBACK };
        answer_connect(&hook, mapped::connect(&hook, dst, proto), nobody)
    }

    /// sendmsg6.
    #[inline(always)]
    pub fn sendmsg(ctx: &SockAddrContext) -> i32 {
        let hook = Hook::new(ctx);
        answer_sendmsg(&hook, socket::sendmsg::<V6, _>(&hook, read(&hook)))
    }

    /// recvmsg6.
    #[inline(always)]
    pub fn recvmsg(ctx: &SockAddrContext) -> i32 {
        let hook = Hook::new(ctx);
        answer_name(&hook, mapped::recvmsg(&hook, read(&hook)))
    }

    /// getpeername6.
    #[inline(always)]
    pub fn getpeername(ctx: &SockAddrContext) -> i32 {
        let hook = Hook::new(ctx);
        answer_name(&hook, mapped::peername(&hook, read(&hook)))
    }
}
