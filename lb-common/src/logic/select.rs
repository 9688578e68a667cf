//! Which backend a new connection gets: one lookup for the frontend, one for the slot, whatever the number of backends.

use super::{affinity, client::Client, seam::Chooser};
use crate::abi::{Counter, Family, Frontend, Slot, SourceKey, frontend_flags};

/// Why a client gets no backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is not among those that the Service lets in.
    Source,
    /// Nobody serves, or the maps are damaged.
    NoBackend,
}

/// Picks a backend for a client that has none yet. What is refused is counted.
#[inline(always)]
pub fn select<F, K, C>(kernel: &K, frontend: &Frontend, client: C) -> Result<Slot<F>, Refusal>
where
    F: Family,
    K: Chooser<F>,
    C: Client<F, K>,
{
    if frontend.flags & frontend_flags::SOURCES != 0 && !is_let_in(kernel, frontend, &client) {
        kernel.count(Counter::SourceRefused);
        return Err(Refusal::Source);
    }
    if frontend.n_slots == 0 {
        kernel.count(Counter::NoBackend);
        return Err(Refusal::NoBackend);
    }
    if frontend.affinity_s == 0 {
        return choose(kernel, frontend).ok_or(Refusal::NoBackend);
    }
    let mut slot = Slot::default();
    if affinity::choose(kernel, frontend, &client, &mut slot) { Ok(slot) } else { Err(Refusal::NoBackend) }
}

/// `spec.loadBalancerSourceRanges`. At the socket there is no source address yet, so the one that the agent found for the
/// network namespace counts; a client whose address is not known is not let in.
#[inline(never)]
fn is_let_in<F, K, C>(kernel: &K, frontend: &Frontend, client: &C) -> bool
where
    F: Family,
    K: Chooser<F>,
    C: Client<F, K>,
{
    client.addr(kernel).is_some_and(|addr| kernel.is_source(&SourceKey { service: frontend.service, addr }))
}

/// Picks a slot of the frontend, which has some; `None` (and counted) where the maps are damaged.
#[inline(always)]
pub(super) fn choose<F: Family, K: Chooser<F>>(kernel: &K, frontend: &Frontend) -> Option<Slot<F>> {
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
