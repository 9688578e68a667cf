//! How a translated packet gets to its new destination: straight out of the device that the routing names, past the stack
//! and netfilter, where that is as good as what the stack would do; by the stack otherwise.

use super::{
    forward::{self, Verdict},
    nat::Hop,
    refuse::{self, Error},
    seam::{Environment, Network, Route},
    work::Work,
};
use crate::{
    abi::{device_flags, flow_flags},
    packet::{
        Packet,
        headers::{Ip, Kind},
    },
};

/// What `bpf_fib_lookup` said of the packet with its new tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fib {
    /// It goes out of the device with this index, and the neighbour's link-layer address is known.
    Forward(u32),
    /// It goes out of the device with this index (`BPF_FIB_LKUP_RET_NO_NEIGH`).
    NoNeighbour(u32),
    /// It is larger than the way on, which takes this many bytes (`BPF_FIB_LKUP_RET_FRAG_NEEDED`); 0 where the kernel does not say.
    TooBig(u32),
    /// Anything else: it is for the node itself, or for the stack to sort out.
    Stack,
}

/// How a packet goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Straight out of this device, with the link-layer addresses that the lookup gave.
    Redirect(u32),
    /// Out of this device; its neighbour is found by the kernel (`bpf_redirect_neigh`).
    RedirectNeighbour(u32),
    /// Into the namespace behind this device, as if it had come in by its peer there (`bpf_redirect_peer`), with the
    /// link-layer addresses that the lookup gave.
    RedirectPeer(u32),
    /// Up the stack, which forwards it or takes it.
    Stack,
    /// An answer stands in its place, see [`Verdict::Answer`].
    Answer,
    /// Gone. Counted, except what the stack would not have reported either.
    Drop,
}

/// Takes a translated packet on, with its new tuple, [`Work::to`].
#[inline(always)]
pub fn deliver<F, K, P>(kernel: &K, packet: &mut P, work: &mut Work<F>, fib: Fib) -> Delivery
where
    F: Ip,
    K: Network<F> + Environment,
    P: Packet,
{
    let (delivery, hop) = match way(kernel, work, fib) {
        Way::Past(delivery) => (delivery, Hop::Taken),
        Way::Stack => (Delivery::Stack, Hop::Kept),
        Way::No(error) => return complain(kernel, packet, work, error),
    };
    if forward::write(kernel, packet, work, hop) { delivery } else { Delivery::Drop }
}

/// How a packet may go on.
enum Way {
    /// Past the stack, as a router would take it on.
    Past(Delivery),
    /// By the stack.
    Stack,
    /// Not at all.
    No(Error),
}

/// Out of a device without our programs the stack takes a packet on: it must see both directions, or its connection tracking
/// takes the answers for connections of the backend's, and masquerades them. Except what has an address of the node as its
/// source: the kernel does not forward that (`fib_validate_source`), and no answer to it comes by the stack.
#[inline(always)]
fn way<F, K>(kernel: &K, work: &mut Work<F>, fib: Fib) -> Way
where
    F: Ip,
    K: Network<F>,
{
    let (index, delivery) = match fib {
        Fib::Forward(index) => (index, Delivery::Redirect(index)),
        Fib::NoNeighbour(index) => (index, Delivery::RedirectNeighbour(index)),
        // The stack fragments it, or knows more.
        Fib::TooBig(mtu) if (mtu == 0 || !work.headers.dont_fragment) && !is_from_node(kernel, work) => {
            return Way::Stack;
        }
        Fib::TooBig(0) => return Way::No(Error::too_big(guess::<F>(work.headers.end))),
        Fib::TooBig(mtu) => return Way::No(Error::too_big(mtu)),
        Fib::Stack => return Way::Stack,
    };
    if work.headers.hops <= 1 {
        return Way::No(Error::TIME_EXCEEDED);
    }
    match Network::<F>::device(kernel, index) {
        None if !is_from_node(kernel, work) => Way::Stack,
        // Our own program there translates what the stack sends, which this is not.
        Some(device) if device.flags & device_flags::PEER != 0 && matches!(fib, Fib::Forward(_)) => {
            Way::Past(Delivery::RedirectPeer(index))
        }
        Some(_) | None => Way::Past(delivery),
    }
}

/// What fits where the kernel does not say, of a packet of this length: with IPv6 what every link takes (RFC 8200 section 5), with
/// IPv4 at first the same, then what every host takes (RFC 791 section 3.1).
#[inline(always)]
fn guess<F: Ip>(len: u32) -> u32 {
    const LINK: u32 = 1_280;
    const HOST: u32 = 576;
    if F::VERSION == 6 || len > LINK { LINK } else { HOST }
}

/// Whether a translated packet has an address of the node as its source: one that the flow gives the client, or that of a
/// Service. Clients with their own are not asked about, as that costs a lookup.
#[inline(never)]
fn is_from_node<F, K>(kernel: &K, work: &mut Work<F>) -> bool
where
    F: Ip,
    K: Network<F>,
{
    if work.half.flags & (flow_flags::SNAT | flow_flags::REPLY) == 0 {
        return false;
    }
    work.other_key = work.to.reversed();
    kernel.route(&work.other_key) == Route::NotForwarded
}

/// Tells the sender of a packet why it cannot go on, about the packet as it sent it and as it still is. The stack cannot: it
/// would tell the address that the packet seems to come from, which may be the node's own.
#[inline(always)]
fn complain<F, K, P>(kernel: &K, packet: &mut P, work: &mut Work<F>, error: Error) -> Delivery
where
    F: Ip,
    K: Network<F> + Environment,
    P: Packet,
{
    // Never about an error or a later fragment (RFC 1122 section 3.2.2).
    if !matches!(work.headers.kind, Kind::Whole | Kind::FirstFragment) {
        return Delivery::Drop;
    }
    match refuse::answer(kernel, packet, &mut work.headers, error) {
        Verdict::Answer => Delivery::Answer,
        _ => Delivery::Drop,
    }
}
