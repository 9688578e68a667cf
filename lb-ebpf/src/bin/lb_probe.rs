//! Not installed anywhere: runs the logic on a call from a map, over the real maps, for the test that compares kernel and
//! host (`tests/tests/kernel_equals_host.rs`). A classifier, because `BPF_PROG_TEST_RUN` does not know sock_addr programs.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    unreachable_pub,
    reason = "the attribute macro makes public functions and drops their comments"
)]

use core::ptr;

use aya_ebpf::{
    btf_maps::Array,
    macros::{btf_map, classifier},
    programs::TcContext,
};
use lb_common::{
    abi::{Counter, Endpoint, Family, Proto, SockDst, UdpPeers, V4, V6},
    logic::{
        bind::{self, Bind},
        mapped,
        socket::{self, Verdict},
    },
    probe::{Call, answer, hook},
};
use lb_ebpf::kernel::{Context, Kernel, Storage};

#[btf_map(name = "lb_call")]
static CALL: Array<Call, 1> = Array::new();

/// The call in the map; alone on it, because the test makes one at a time.
#[derive(Clone, Copy)]
struct Probe {
    call: *mut Call,
}

/// A field of the call.
macro_rules! field {
    ($probe:expr, $field:ident) => {
        // SAFETY: an element of the map, which the verifier knows to be there.
        unsafe { (*$probe.call).$field }
    };
    ($probe:expr, $field:ident = $value:expr) => {
        // SAFETY: as above.
        unsafe { (*$probe.call).$field = $value }
    };
}

impl Context for Probe {
    #[inline(always)]
    fn now_s(self) -> u32 {
        field!(self, now_s)
    }

    #[inline(always)]
    fn random(self) -> u32 {
        field!(self, random)
    }

    #[inline(always)]
    fn count(self, counter: Counter) {
        // SAFETY: as for `field`.
        let counts = unsafe { &mut (*self.call).counts };
        if let Some(count) = counts.get_mut(counter as usize) {
            *count += 1;
        }
    }

    #[inline(always)]
    fn netns(self) -> u64 {
        u64::from(field!(self, netns))
    }

    #[inline(always)]
    fn may_exclude(self) -> bool {
        true
    }

    #[inline(always)]
    fn cgroup_at(self, level: u32) -> u64 {
        // SAFETY: as for `field`.
        let cgroups = unsafe { &(*self.call).cgroups };
        cgroups.get(level as usize).map_or(0, |id| u64::from(*id))
    }

    #[inline(always)]
    fn node_netns(self) -> u64 {
        u64::from(field!(self, node_netns))
    }
}

/// Storage that the call says is not there is taken to be zeroed.
macro_rules! storage {
    ($family:ident, $has:ident, $translation:ident, $has_peers:ident, $peers:ident) => {
        impl Storage<$family> for Probe {
            #[inline(always)]
            fn is_connected(self) -> bool {
                field!(self, connected) != 0
            }

            #[inline(always)]
            fn is_inet6(self) -> bool {
                field!(self, inet6) != 0
            }

            #[inline(always)]
            fn translation(self, create: bool) -> *mut SockDst<$family> {
                if field!(self, $has) == 0 {
                    if !create || field!(self, no_memory) != 0 {
                        return ptr::null_mut();
                    }
                    field!(self, $has = 1);
                }
                // SAFETY: as for `field`.
                unsafe { &raw mut (*self.call).$translation }
            }

            #[inline(always)]
            fn remove_translation(self) {
                field!(self, $has = 0);
            }

            #[inline(always)]
            fn peers(self, create: bool) -> *mut UdpPeers<$family> {
                if field!(self, $has_peers) == 0 {
                    if !create || field!(self, no_memory) != 0 {
                        return ptr::null_mut();
                    }
                    field!(self, $has_peers = 1);
                }
                // SAFETY: as for `field`.
                unsafe { &raw mut (*self.call).$peers }
            }
        }
    };
}

storage!(V4, has_translation4, translation4, has_peers4, peers4);
storage!(V6, has_translation6, translation6, has_peers6, peers6);

/// Where a family's address stands in the call.
trait CallAddress: Family {
    fn read(probe: Probe) -> Self::Addr;
    fn write(probe: Probe, addr: Self::Addr);
}

impl CallAddress for V4 {
    #[inline(always)]
    fn read(probe: Probe) -> [u8; 4] {
        field!(probe, addr4)
    }

    #[inline(always)]
    fn write(probe: Probe, addr: [u8; 4]) {
        field!(probe, addr4 = addr);
    }
}

impl CallAddress for V6 {
    #[inline(always)]
    fn read(probe: Probe) -> [u8; 16] {
        field!(probe, addr6)
    }

    #[inline(always)]
    fn write(probe: Probe, addr: [u8; 16]) {
        field!(probe, addr6 = addr);
    }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the test writes ports")]
fn asked<F: CallAddress>(probe: Probe) -> Endpoint<F> {
    Endpoint { addr: F::read(probe), port: field!(probe, port) as u16 }
}

#[inline(always)]
fn verdict<F: CallAddress>(probe: Probe, verdict: Verdict<F>) {
    match verdict {
        Verdict::Pass => field!(probe, answer = answer::PASS),
        Verdict::Refuse => field!(probe, answer = answer::REFUSE),
        Verdict::Rewrite(to) => {
            F::write(probe, to.addr);
            field!(probe, port = u32::from(to.port));
            field!(probe, answer = answer::REWRITE);
        }
    }
}

#[inline(always)]
fn name<F: CallAddress>(probe: Probe, shown: Option<Endpoint<F>>) {
    verdict(probe, shown.map_or(Verdict::Pass, Verdict::Rewrite));
}

#[inline(always)]
fn bound(probe: Probe, bound: Bind) {
    field!(probe, answer = if bound == Bind::Allow { answer::PASS } else { answer::REFUSE });
}

#[classifier]
pub fn lb_probe(_ctx: TcContext) -> i32 {
    let Some(call) = CALL.get_ptr_mut(0) else {
        return 0;
    };
    let probe = Probe { call };
    let proto = if field!(probe, proto) == 6 { Proto::Tcp } else { Proto::Udp };
    let kernel = Kernel::new(probe);
    match field!(probe, hook) {
        hook::CONNECT4 => verdict(probe, socket::connect::<V4, _>(&kernel, asked(probe), proto)),
        hook::CONNECT6 => verdict(probe, mapped::connect(&kernel, asked(probe), proto)),
        hook::SENDMSG4 => verdict(probe, socket::sendmsg::<V4, _>(&kernel, asked(probe))),
        hook::SENDMSG6 => verdict(probe, socket::sendmsg::<V6, _>(&kernel, asked(probe))),
        hook::RECVMSG4 => name(probe, socket::recvmsg::<V4, _>(&kernel, asked(probe))),
        hook::RECVMSG6 => name(probe, mapped::recvmsg(&kernel, asked(probe))),
        hook::PEERNAME4 => name(probe, socket::peername::<V4>(&kernel, asked(probe))),
        hook::PEERNAME6 => name(probe, mapped::peername(&kernel, asked(probe))),
        hook::BIND4 => bound(probe, bind::v4(&kernel, asked(probe), proto)),
        hook::BIND6 => bound(probe, bind::v6(&kernel, asked(probe), proto)),
        _ => {}
    }
    // Not a constant, of which the compiler makes a function without a result: that may leave a pointer to the stack in the
    // register for it, which the verifier refuses.
    field!(probe, answer).cast_signed()
}

/// See `main.rs`.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
