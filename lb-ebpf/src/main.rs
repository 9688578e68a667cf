//! The kernel programs: of the socket layer one for each hook and family, `connect4` and its siblings of `man 7 bpf-cgroup`;
//! of the packet layer one for each kind of device and direction, for both families. Entry points only; see
//! [`lb_ebpf::sock_addr`], [`lb_ebpf::bind`] and [`lb_ebpf::tc`].
//!
//! A program's name here is its name everywhere: in `bpftool prog`, below `BPFFS/lb/links`, and in the agent.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    unreachable_pub,
    reason = "the attribute macro makes public functions and drops their comments"
)]

use aya_ebpf::{
    macros::{cgroup_sock, cgroup_sock_addr, classifier},
    programs::{SockAddrContext, SockContext, TcContext},
};
use lb_common::{
    abi::{V4, V6},
    logic::forward::Side,
};
use lb_ebpf::{
    bind,
    hook::Call,
    owner,
    skb::{ETHERNET, NO_HEADER},
    sock_addr::{v4, v6},
    tc,
};

/// connect(2) of an IPv4 socket.
#[cgroup_sock_addr(connect4)]
pub fn lb_connect4(ctx: SockAddrContext) -> i32 {
    v4::connect(&ctx)
}

/// connect(2) of an IPv6 socket, to IPv6 or to mapped IPv4.
#[cgroup_sock_addr(connect6)]
pub fn lb_connect6(ctx: SockAddrContext) -> i32 {
    v6::connect(&ctx)
}

/// sendmsg(2) with an IPv4 address on a UDP socket of either family.
#[cgroup_sock_addr(sendmsg4)]
pub fn lb_sendmsg4(ctx: SockAddrContext) -> i32 {
    v4::sendmsg(&ctx)
}

/// sendmsg(2) with an IPv6 address on a UDP socket.
#[cgroup_sock_addr(sendmsg6)]
pub fn lb_sendmsg6(ctx: SockAddrContext) -> i32 {
    v6::sendmsg(&ctx)
}

/// recvmsg(2) on an IPv4 UDP socket.
#[cgroup_sock_addr(recvmsg4)]
pub fn lb_recvmsg4(ctx: SockAddrContext) -> i32 {
    v4::recvmsg(&ctx)
}

/// recvmsg(2) on an IPv6 UDP socket, from IPv6 or from mapped IPv4.
#[cgroup_sock_addr(recvmsg6)]
pub fn lb_recvmsg6(ctx: SockAddrContext) -> i32 {
    v6::recvmsg(&ctx)
}

/// getpeername(2) of an IPv4 socket.
#[cgroup_sock_addr(getpeername4)]
pub fn lb_getpeer4(ctx: SockAddrContext) -> i32 {
    v4::getpeername(&ctx)
}

/// getpeername(2) of an IPv6 socket.
#[cgroup_sock_addr(getpeername6)]
pub fn lb_getpeer6(ctx: SockAddrContext) -> i32 {
    v6::getpeername(&ctx)
}

/// After bind(2) of an IPv4 socket.
#[cgroup_sock(post_bind4)]
pub fn lb_bind4(ctx: SockContext) -> i32 {
    bind::v4(&ctx)
}

/// After bind(2) of an IPv6 socket, which may be open to IPv4, too.
#[cgroup_sock(post_bind6)]
pub fn lb_bind6(ctx: SockContext) -> i32 {
    bind::v6(&ctx)
}

/// Ingress of a device that leads out of the node.
#[classifier]
pub fn lb_uplink(ctx: TcContext) -> i32 {
    tc::ingress::<_, ETHERNET>(Call(&ctx), Side::Uplink)
}

/// Ingress of a device that leads out of the node and has no link-layer header.
#[classifier]
pub fn lb_uplink_l3(ctx: TcContext) -> i32 {
    tc::ingress::<_, NO_HEADER>(Call(&ctx), Side::Uplink)
}

/// Ingress of a device that leads to pods of this node.
#[classifier]
pub fn lb_pod(ctx: TcContext) -> i32 {
    tc::ingress::<_, ETHERNET>(Call(&ctx), Side::Pod)
}

/// Egress of either kind of device.
#[classifier]
pub fn lb_egress(ctx: TcContext) -> i32 {
    tc::egress::<_, ETHERNET>(Call(&ctx))
}

/// Egress of a device that has no link-layer header.
#[classifier]
pub fn lb_egress_l3(ctx: TcContext) -> i32 {
    tc::egress::<_, NO_HEADER>(Call(&ctx))
}

/// Asked by the agent; on no hook.
#[classifier]
pub fn lb_owner4(ctx: TcContext) -> i32 {
    owner::answer::<V4>(&ctx)
}

/// As `lb_owner4`, IPv6.
#[classifier]
pub fn lb_owner6(ctx: TcContext) -> i32 {
    owner::answer::<V6>(&ctx)
}

/// The helpers used (`bpf_sk_storage_get` among them) are for programs under a GPL-compatible licence only; "Dual
/// MIT/GPL" is one of the strings that the kernel takes for such (include/linux/license.h).
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier has shown that no panic can be reached: a program with this loop in it would not load.
    loop {}
}
