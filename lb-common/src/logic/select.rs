//! Which backend a new connection gets: one lookup for the frontend, one for the slot, whatever the number of backends.

use super::{affinity, seam::Node};
use crate::abi::{Counter, Family, Frontend, Slot, SourceKey, frontend_flags};

/// Picks a backend for a client that has none yet; `None` (and counted) if the client is not let in or nobody serves.
#[inline(always)]
pub fn select<F: Family, K: Node<F>>(kernel: &K, frontend: &Frontend) -> Option<Slot<F>> {
    if frontend.flags & frontend_flags::SOURCES != 0 && !is_let_in::<F, K>(kernel, frontend) {
        kernel.count(Counter::SourceRefused);
        return None;
    }
    if frontend.n_slots == 0 {
        kernel.count(Counter::NoBackend);
        return None;
    }
    if frontend.affinity_s == 0 {
        return choose(kernel, frontend);
    }
    let mut slot = Slot::default();
    affinity::choose(kernel, frontend, &mut slot).then_some(slot)
}

/// `spec.loadBalancerSourceRanges`. At the socket there is no source address yet, so the one that the agent found for the
/// network namespace counts; a client that it does not know is not let in.
#[inline(never)]
fn is_let_in<F: Family, K: Node<F>>(kernel: &K, frontend: &Frontend) -> bool {
    kernel
        .client(kernel.netns())
        .is_some_and(|client| kernel.is_source(&SourceKey { service: frontend.service, addr: client.addr }))
}

/// Picks a slot of the frontend, which has some; `None` (and counted) where the maps are damaged.
#[inline(always)]
pub(super) fn choose<F: Family, K: Node<F>>(kernel: &K, frontend: &Frontend) -> Option<Slot<F>> {
    let index = scale(kernel.random(), frontend.n_slots);
    let slot = kernel.slot(frontend.first_slot.wrapping_add(index));
    if slot.is_none() {
        kernel.count(Counter::DamagedMaps);
    }
    slot
}

/// Maps 32 random bits onto `0..n` without a division: the high word of the product. An index is favoured over another
/// by at most n / 2^32, which is below 0.02 % for a million slots.
#[inline(always)]
pub fn scale(random: u32, n: u32) -> u32 {
    ((random as u64 * n as u64) >> 32) as u32
}
