//! Which backend a new connection gets: one lookup for the frontend, one for the slot, whatever the number of backends.

use super::seam::{Environment, Maps};
use crate::abi::{Counter, Endpoint, Family, Frontend, FrontendKey, Proto, Slot, scope};

/// How often a frontend is looked up before it is given up as damaged. Each repetition means that the agent replaced it,
/// or reused its memory, within the nanoseconds of the copy: a second in a row is already next to impossible.
const N_LOOKUPS: usize = 4;

/// What is known about a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<F: Family> {
    /// Not a Service: none of our business.
    NotAService,
    /// A Service, and here is its entry.
    Frontend(FrontendKey<F>, Frontend),
    /// A Service, but its entry is no frontend's: the maps are damaged (counted). Refuse.
    Damaged,
}

/// Looks up the destination of a client on this node.
#[inline(always)]
pub fn lookup<F: Family, K: Maps<F> + Environment>(kernel: &K, dst: Endpoint<F>, proto: Proto) -> Found<F> {
    let key = FrontendKey { addr: dst.addr, port: dst.port, proto: proto.number(), scope: scope::INTERNAL };
    for _ in 0..N_LOOKUPS {
        match kernel.frontend(&key) {
            None => return Found::NotAService,
            Some(frontend) if frontend.is_of(&key) => return Found::Frontend(key, frontend),
            Some(_) => kernel.count(Counter::FrontendReread),
        }
    }
    kernel.count(Counter::DamagedMaps);
    Found::Damaged
}

/// Picks a slot of the frontend; `None` (and counted) if there is nobody to serve.
#[inline(always)]
pub fn choose<F: Family, K: Maps<F> + Environment>(kernel: &K, frontend: &Frontend) -> Option<Slot<F>> {
    if frontend.n_slots == 0 {
        kernel.count(Counter::NoBackend);
        return None;
    }
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
