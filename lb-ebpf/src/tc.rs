//! The programs at TC hooks: reads what the skb says beside its bytes, asks the logic, and sends the packet where that says.
//!
//! What is not ours goes to the next program on the hook (`TC_ACT_UNSPEC`), and so does what the stack is to deliver:
//! another program there must see it.

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC},
    programs::TcContext,
};
use lb_common::{
    abi::{V4, V6},
    logic::{
        deliver::{self, Delivery},
        foreign,
        forward::{self, Side, Verdict},
        work::Work,
    },
    packet::glance::Glanced,
};

use crate::{
    hook::Call,
    kernel::Kernel,
    maps::Pinned,
    route::{self, Hooked, Routed},
    skb::{ETHERNET, Skb, field},
};

/// `ETH_P_IP` and `ETH_P_IPV6`, as they stand in the context.
const IPV4: u32 = 0x0800_u16.to_be() as u32;
const IPV6: u32 = 0x86dd_u16.to_be() as u32;
/// `PACKET_HOST` (include/uapi/linux/if_packet.h): for this machine, by its link-layer address. A device in promiscuous mode
/// shows others' packets, too, which others deliver.
const FOR_THIS_MACHINE: u32 = 0;

/// A family with all that the programs need.
pub trait Served: Glanced + Pinned + Routed {}

impl<F: Glanced + Pinned + Routed> Served for F {}

impl Hooked for Call<'_, TcContext> {
    #[inline(always)]
    fn skb(self) -> *mut __sk_buff {
        self.0.skb.skb
    }
}

/// A packet that came in by a device.
#[inline(always)]
pub fn ingress<C: Hooked, const L2: u32>(context: C, side: Side) -> i32 {
    let skb = context.skb();
    if field!(skb, pkt_type) != FOR_THIS_MACHINE || has_vlan_tag(skb) {
        return TC_ACT_UNSPEC;
    }
    match field!(skb, protocol) {
        IPV4 if !arrives_foreign::<V4, C, L2>(context) => ingress_of::<V4, C, L2>(context, side),
        IPV6 if !arrives_foreign6::<C, L2>(context) => ingress_of::<V6, C, L2>(context, side),
        _ => TC_ACT_UNSPEC,
    }
}

/// A packet that is about to leave by a device.
#[inline(always)]
pub fn egress<C: Hooked, const L2: u32>(context: C) -> i32 {
    let skb = context.skb();
    if has_vlan_tag(skb) {
        return TC_ACT_UNSPEC;
    }
    match field!(skb, protocol) {
        IPV4 if !leaves_foreign::<V4, C, L2>(context) => egress_of::<V4, C, L2>(context),
        IPV6 if !leaves_foreign::<V6, C, L2>(context) => egress_of::<V6, C, L2>(context),
        _ => TC_ACT_UNSPEC,
    }
}

/// The VLAN's own device has its own programs. Number 0 is none: the tag says a priority, and the stack takes it off after this
/// (IEEE 802.1Q, `__netif_receive_skb_core`).
#[inline(always)]
fn has_vlan_tag(skb: *mut __sk_buff) -> bool {
    const NUMBER: u32 = 0xfff;
    field!(skb, vlan_present) != 0 && field!(skb, vlan_tci) & NUMBER != 0
}

/// Inlined, as [`leaves_foreign`]: where returns are guarded against speculation (retbleed, SRSO), each one costs as much as
/// the rest of this.
#[inline(always)]
fn arrives_foreign<F: Served, C: Hooked, const L2: u32>(context: C) -> bool {
    foreign::arrives::<F, _, _>(&Kernel::new(context), &Skb::<F, L2>::new(context.skb()))
}

/// Not inlined: what it has on the stack would be missing in the longest row of calls, for which older kernels count 32 bytes
/// for each begun 32.
#[inline(never)]
fn arrives_foreign6<C: Hooked, const L2: u32>(context: C) -> bool {
    arrives_foreign::<V6, C, L2>(context)
}

#[inline(always)]
fn leaves_foreign<F: Served, C: Hooked, const L2: u32>(context: C) -> bool {
    foreign::leaves::<F, _, _>(&Kernel::new(context), &Skb::<F, L2>::new(context.skb()))
}

/// Not inlined: each family has its own room on the stack.
#[inline(never)]
fn ingress_of<F: Served, C: Hooked, const L2: u32>(context: C, side: Side) -> i32 {
    let Some(work) = work::<F>() else { return TC_ACT_UNSPEC };
    let kernel = Kernel::new(context);
    let mut packet = Skb::<F, L2>::new(context.skb());
    match forward::ingress(&kernel, &mut packet, side, work) {
        Verdict::Pass => TC_ACT_UNSPEC,
        Verdict::Drop => TC_ACT_SHOT,
        Verdict::Translated => go_on(&kernel, &mut packet, work),
        Verdict::Again => route::take_in_again(field!(context.skb(), ifindex)),
        Verdict::Answer => send_back(&mut packet),
    }
}

#[inline(never)]
fn egress_of<F: Served, C: Hooked, const L2: u32>(context: C) -> i32 {
    let Some(work) = work::<F>() else { return TC_ACT_UNSPEC };
    let kernel = Kernel::new(context);
    let mut packet = Skb::<F, L2>::new(context.skb());
    match forward::egress(&kernel, &mut packet, work) {
        Verdict::Pass | Verdict::Translated => TC_ACT_UNSPEC,
        Verdict::Drop | Verdict::Answer | Verdict::Again => TC_ACT_SHOT,
    }
}

/// The memory of this run. It is always there, which only the verifier does not know.
#[inline(always)]
fn work<F: Served>() -> Option<&'static mut Work<F>> {
    let work = F::works().get_ptr_mut(0)?;
    // SAFETY: an element of the map, and nobody else's on this processor; zeroed it is a value, and so is what an earlier run
    // left.
    Some(unsafe { &mut *work })
}

/// Takes a translated packet on. Also one without a link-layer header: the stack forwards none that has an address of the node
/// as its source, and that is what goes to other nodes, and what comes back from them.
#[inline(never)]
fn go_on<F: Served, C: Hooked, const L2: u32>(kernel: &Kernel<C>, packet: &mut Skb<F, L2>, work: &mut Work<F>) -> i32 {
    let longest = packet.longest(&work.headers);
    let Some(mut question) = route::Question::new(packet.context(), &work.to, longest) else {
        return TC_ACT_SHOT;
    };
    match deliver::deliver(kernel, packet, work, question.ask(packet.context()).fib()) {
        Delivery::Redirect(device) if packet.set_ethernet(question.macs()).is_ok() => route::redirect(device),
        Delivery::RedirectPeer(device) if packet.set_ethernet(question.macs()).is_ok() => {
            if L2 == ETHERNET {
                route::redirect_to_peer(kernel.context(), device)
            } else {
                route::redirect(device)
            }
        }
        Delivery::RedirectNeighbour(device) if packet.have_ethernet().is_ok() => route::redirect_to_neighbour(device),
        Delivery::Stack => TC_ACT_UNSPEC,
        Delivery::Answer => send_back(packet),
        Delivery::Drop | Delivery::Redirect(_) | Delivery::RedirectPeer(_) | Delivery::RedirectNeighbour(_) => {
            TC_ACT_SHOT
        }
    }
}

/// Sends an answer out of the device that the packet came in by, to the neighbour that sent it.
#[inline(always)]
fn send_back<F: Served, const L2: u32>(packet: &mut Skb<F, L2>) -> i32 {
    if L2 != 0 && packet.exchange_macs().is_err() {
        return TC_ACT_SHOT;
    }
    route::redirect(field!(packet.context(), ifindex))
}
