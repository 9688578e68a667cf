//! The post_bind hooks: reads what the socket was bound to, asks the logic, and lets the bind stand or fail. The kernel
//! takes a failed one back (`__inet_bind` in net/ipv4/af_inet.c).

use core::{mem, ptr};

use aya_ebpf::programs::SockContext;
use lb_common::{
    abi::{Endpoint, Proto, V4, V6},
    logic::bind::{self, Bind},
};

use crate::{
    hook::{self, Call},
    kernel::Kernel,
    proto::from_kernel,
};

const ALLOW: i32 = 1;
const DENY: i32 = 0;

/// A field of the context. Volatile, because the verifier takes only reads of whole, aligned fields, and the compiler
/// would merge or split them.
macro_rules! field {
    ($ctx:expr, $($field:tt)+) => {
        // SAFETY: the kernel passes a valid context; the verifier checks every access to it.
        unsafe { ptr::read_volatile(&raw const (*$ctx.sock)$($field)+) }
    };
}

/// After bind(2) of an IPv4 socket.
#[inline(always)]
pub fn v4(ctx: &SockContext) -> i32 {
    let Some(proto) = proto(ctx) else {
        return ALLOW;
    };
    let local = Endpoint::<V4> { addr: field!(ctx, .src_ip4).to_ne_bytes(), port: port(ctx) };
    answer(bind::v4(&Kernel::new(Call(ctx)), local, proto))
}

/// After bind(2) of an IPv6 socket.
#[inline(always)]
pub fn v6(ctx: &SockContext) -> i32 {
    let Some(proto) = proto(ctx) else {
        return ALLOW;
    };
    let words =
        [field!(ctx, .src_ip6[0]), field!(ctx, .src_ip6[1]), field!(ctx, .src_ip6[2]), field!(ctx, .src_ip6[3])];
    // SAFETY: four words are sixteen bytes, and any bytes are an address.
    let addr = unsafe { mem::transmute::<[u32; 4], [u8; 16]>(words) };
    answer(bind::v6(&Kernel::new(Call(ctx)), Endpoint::<V6> { addr, port: port(ctx) }, proto))
}

#[inline(always)]
fn proto(ctx: &SockContext) -> Option<Proto> {
    from_kernel(field!(ctx, .protocol))
}

/// In host byte order already, other than in sock_addr contexts.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "ports have 16 bits")]
fn port(ctx: &SockContext) -> u16 {
    field!(ctx, .src_port) as u16
}

#[inline(always)]
fn answer(answer: Bind) -> i32 {
    match answer {
        Bind::Allow => ALLOW,
        Bind::InUse => {
            // Where the kernel cannot do that the process sees EPERM.
            hook::set_in_use();
            DENY
        }
    }
}
