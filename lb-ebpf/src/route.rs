//! The kernel's routing tables, as `bpf_fib_lookup` shows them to a program at a TC hook, and delivery by them without the
//! rest of the stack.

use core::ptr;

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_INGRESS, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_NOT_FWDED,
        BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_SRC, bpf_fib_lookup,
    },
    helpers,
};
use lb_common::{
    abi::{Answers, Device, Family, FlowKey, NodeConfig, V4, V6},
    logic::{
        deliver::Fib,
        seam::{Network, Route},
    },
};

use crate::{
    kernel::{Context, Kernel},
    maps::{ANSWERS, DEVICES, FIB, NODE, Pinned},
    skb::field,
};

/// How a family's addresses stand in the kernel's questions and answers.
pub trait Routed: Family {
    /// `AF_INET` or `AF_INET6`.
    const AF: u8;
    /// Fills in where from and where to.
    fn set_ends(params: &mut bpf_fib_lookup, src: Self::Addr, dst: Self::Addr);
    /// Whether this is the next hop: where that is a router, the kernel puts its address in the place of the destination's.
    fn is_next_hop(params: &bpf_fib_lookup, dst: Self::Addr) -> bool;
    /// The source in the answer.
    fn source(params: &bpf_fib_lookup) -> Self::Addr;
}

impl Routed for V4 {
    const AF: u8 = 2;

    #[inline(always)]
    fn set_ends(params: &mut bpf_fib_lookup, src: [u8; 4], dst: [u8; 4]) {
        params.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(src);
        params.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(dst);
    }

    /// A router may have an IPv6 address (RFC 8950).
    #[inline(always)]
    fn is_next_hop(params: &bpf_fib_lookup, dst: [u8; 4]) -> bool {
        // SAFETY: an integer in either case.
        params.family == Self::AF && unsafe { params.__bindgen_anon_4.ipv4_dst } == u32::from_ne_bytes(dst)
    }

    #[inline(always)]
    fn source(params: &bpf_fib_lookup) -> [u8; 4] {
        // SAFETY: an integer in either case.
        unsafe { params.__bindgen_anon_3.ipv4_src }.to_ne_bytes()
    }
}

impl Routed for V6 {
    const AF: u8 = 10;

    #[inline(always)]
    fn set_ends(params: &mut bpf_fib_lookup, src: [u8; 16], dst: [u8; 16]) {
        params.__bindgen_anon_3.ipv6_src = Self::words(src);
        params.__bindgen_anon_4.ipv6_dst = Self::words(dst);
    }

    #[inline(always)]
    fn is_next_hop(params: &bpf_fib_lookup, dst: [u8; 16]) -> bool {
        // SAFETY: integers in either case.
        unsafe { params.__bindgen_anon_4.ipv6_dst == Self::words(dst) }
    }

    #[inline(always)]
    fn source(params: &bpf_fib_lookup) -> [u8; 16] {
        // SAFETY: integers in either case.
        Self::from_words(unsafe { params.__bindgen_anon_3.ipv6_src })
    }
}

/// What the kernel is asked about a packet, into which it writes its answer.
pub struct Question {
    /// In a map, to keep it off the stack.
    params: &'static mut bpf_fib_lookup,
    length: u16,
    code: i64,
}

impl Question {
    /// Where do packets of this tuple go that come in where this one did? `length` is that of the longest, from the network
    /// header on; 0 asks without regard to that. There is always one, which only the verifier does not know.
    #[inline(always)]
    pub(crate) fn new<F: Routed>(skb: *mut __sk_buff, tuple: &FlowKey<F>, length: u16) -> Option<Self> {
        let params = FIB.get_ptr_mut(0)?;
        // SAFETY: an element of the map, and nobody else's on this processor, see `maps::Works`. Any bytes are a value.
        let params = unsafe { &mut *params };
        params.family = F::AF;
        params.l4_protocol = tuple.proto;
        params.sport = tuple.src_port.to_be();
        params.dport = tuple.dst_port.to_be();
        params.__bindgen_anon_1.tot_len = length;
        params.ifindex = field!(skb, ifindex);
        params.__bindgen_anon_2.flowinfo = 0;
        F::set_ends(params, tuple.src_addr, tuple.dst_addr);
        Some(Self { params, length, code: 0 })
    }

    /// Asks.
    #[inline(always)]
    pub fn ask(&mut self, skb: *mut __sk_buff) -> &Self {
        self.ask_with(skb, 0)
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_wrap, clippy::cast_possible_truncation, reason = "64 bytes")]
    fn ask_with(&mut self, skb: *mut __sk_buff, flags: u32) -> &Self {
        let size = size_of::<bpf_fib_lookup>() as i32;
        // SAFETY: the context is the program's, `params` has `size` bytes.
        self.code = unsafe { helpers::bpf_fib_lookup(skb.cast(), &raw mut *self.params, size, flags) };
        self
    }

    /// In the words of who chooses. `dst` is whom was asked about.
    #[inline(always)]
    pub fn route<F: Routed>(&self, dst: F::Addr) -> Route {
        // Positive codes are the enumeration, negative ones errors in the question.
        match u32::try_from(self.code) {
            // The latter two come after the device was found.
            Ok(BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH | BPF_FIB_LKUP_RET_FRAG_NEEDED) => {
                let index = self.params.ifindex;
                if F::is_next_hop(self.params, dst) { Route::Neighbour(index) } else { Route::Router(index) }
            }
            Ok(BPF_FIB_LKUP_RET_NOT_FWDED) => Route::NotForwarded,
            _ => Route::Unknown,
        }
    }

    /// In the words of who delivers.
    #[inline(always)]
    pub fn fib(&self) -> Fib {
        match u32::try_from(self.code) {
            Ok(BPF_FIB_LKUP_RET_SUCCESS) => Fib::Forward(self.params.ifindex),
            Ok(BPF_FIB_LKUP_RET_NO_NEIGH) => Fib::NoNeighbour(self.params.ifindex),
            Ok(BPF_FIB_LKUP_RET_FRAG_NEEDED) => self.too_big(),
            _ => Fib::Stack,
        }
    }

    /// The kernel puts the size that fits in the place of the one that was asked for, since Linux 5.12 (kernel commit
    /// e1850ea9bd9e). Older ones only know that it is too small.
    #[inline(always)]
    fn too_big(&self) -> Fib {
        // SAFETY: an integer in either case.
        let mtu = unsafe { self.params.__bindgen_anon_1.mtu_result };
        Fib::TooBig(if mtu < self.length { mtu.into() } else { 0 })
    }

    /// Destination and source of the frame that brings the packet to the next hop.
    #[inline(always)]
    pub fn macs(&self) -> [[u8; 6]; 2] {
        [self.params.dmac, self.params.smac]
    }
}

/// Not inlined: the question has its own room on the stack. Kernels before Linux 6.7 do not know the flag (kernel commit
/// dab4e1f06cab), and refuse the question. Where there is no address, the answer is zero (IPv4) or a code of its own.
#[inline(never)]
fn find_source<F: Routed>(skb: *mut __sk_buff, tuple: &FlowKey<F>, addr: &mut F::Addr) {
    let Some(mut question) = Question::new(skb, tuple, 0) else { return };
    let answer = question.ask_with(skb, BPF_FIB_LOOKUP_SRC);
    if answer.route::<F>(tuple.dst_addr).device() == Route::NO_DEVICE {
        return;
    }
    let source = F::source(answer.params);
    if source != F::Addr::default() {
        *addr = source;
    }
}

/// Not inlined: the question has its own room on the stack. Says the [`Route`] as a number: see `lb_common::logic::lookup`.
#[inline(never)]
fn find<F: Routed>(skb: *mut __sk_buff, tuple: &FlowKey<F>) -> u64 {
    let route = Question::new(skb, tuple, 0)
        .map_or(Route::Unknown, |mut question| question.ask(skb).route::<F>(tuple.dst_addr));
    let kind = match route {
        Route::NotForwarded => NOT_FORWARDED,
        Route::Neighbour(_) => NEIGHBOUR,
        Route::Router(_) => ROUTER,
        Route::Unknown => 0,
    };
    kind | u64::from(route.device())
}

const NOT_FORWARDED: u64 = 1 << 32;
const NEIGHBOUR: u64 = 2 << 32;
const ROUTER: u64 = 3 << 32;

/// What [`find`] said.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the lower half is the index")]
fn route(found: u64) -> Route {
    match found >> 32 << 32 {
        NOT_FORWARDED => Route::NotForwarded,
        NEIGHBOUR => Route::Neighbour(found as u32),
        ROUTER => Route::Router(found as u32),
        _ => Route::Unknown,
    }
}

/// Sends the packet out of a device as it is.
#[inline(always)]
pub fn redirect(device: u32) -> i32 {
    // SAFETY: takes numbers.
    verdict(unsafe { helpers::bpf_redirect(device, 0) })
}

/// Puts the packet at the end of the queue of what comes in by a device.
#[inline(always)]
pub fn take_in_again(device: u32) -> i32 {
    // SAFETY: takes numbers.
    verdict(unsafe { helpers::bpf_redirect(device, BPF_F_INGRESS.into()) })
}

/// Sends the packet out of a device, to a neighbour whose address the kernel has to find out. The packet's own destination
/// leads there.
#[inline(always)]
pub fn redirect_to_neighbour(device: u32) -> i32 {
    // SAFETY: takes numbers; of no parameters nothing is read.
    verdict(unsafe { helpers::bpf_redirect_neigh(device, ptr::null_mut(), 0, 0) })
}

/// Has the packet come in by the peer of a device, which is in another network namespace. The kernel takes the mark off
/// what crosses into one by the device itself (`skb_scrub_packet`), here only since Linux 6.16 (kernel commit
/// c4327229948879).
#[inline(always)]
pub fn redirect_to_peer<C: Hooked>(context: C, device: u32) -> i32 {
    let skb = context.skb();
    // SAFETY: the context is the program's, and programs at TC hooks may write this field.
    unsafe { (&raw mut (*skb).mark).write_volatile(0) };
    // SAFETY: takes numbers.
    verdict(unsafe { helpers::bpf_redirect_peer(device, 0) })
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "TC_ACT_REDIRECT or TC_ACT_SHOT")]
fn verdict(result: i64) -> i32 {
    result as i32
}

/// A program at a hook where packets pass.
pub trait Hooked: Context {
    /// The packet that it runs for.
    fn skb(self) -> *mut __sk_buff;
}

impl<F: Pinned + Routed, C: Hooked> Network<F> for Kernel<C> {
    #[inline(always)]
    fn route(&self, tuple: &FlowKey<F>) -> Route {
        route(find(self.context().skb(), tuple))
    }

    #[inline(always)]
    fn source(&self, tuple: &FlowKey<F>, addr: &mut F::Addr) {
        find_source(self.context().skb(), tuple, addr);
    }

    #[inline(always)]
    fn device(&self, index: u32) -> Option<Device> {
        // SAFETY: plain data that is copied at once.
        unsafe { DEVICES.get(index) }.copied()
    }

    #[inline(always)]
    fn node(&self) -> Option<NodeConfig> {
        NODE.get(0).copied()
    }

    /// Programs do not interrupt one another at the same hook; at another hook one may lose a count.
    #[inline(always)]
    fn with_answers<R>(&self, f: impl FnOnce(&mut Answers) -> R) -> Option<R> {
        let answers = ANSWERS.get_ptr_mut(0)?;
        // SAFETY: an element of the map, which the verifier knows to be there, and nobody else's on this processor.
        Some(f(unsafe { &mut *answers }))
    }
}
