//! `sessionAffinity: ClientIP`: a client keeps the backend that it was given, while that backend is among those that the
//! frontend may choose from and the client comes back within the timeout.
//!
//! At the socket a client is a network namespace, in the packet layer an address ([`super::client`]). What is remembered is
//! shared by all frontends of a Service port that choose from one set of backends. Where those of the node and those of the
//! cluster are two sets, a client has one of each, and begins with the one that it has if that is in both: kube-proxy
//! remembers for each endpoint who its clients are, and looks through the endpoints of a frontend.

use super::{
    client::Client,
    flow::age_s,
    seam::{Chooser, NotAdded},
    select,
};
use crate::abi::{Affinity, AffinityKey, Counter, Family, Frontend, Slot, client_kind, frontend_flags};

/// Picks the client's backend, or a slot of the frontend, which has some, and remembers it. `false` (and counted) where the
/// maps are damaged.
///
/// Not inlined (see [`super::lookup`] for its form): frontends without affinity pay nothing for it, not even room on the
/// stack.
#[inline(never)]
pub(super) fn choose<F, K, C>(kernel: &K, frontend: &Frontend, client: &C, into: &mut Slot<F>) -> bool
where
    F: Family,
    K: Chooser<F>,
    C: Client<F, K>,
{
    let chosen = pick(kernel, frontend, *client);
    if let Some(slot) = chosen {
        *into = slot;
    }
    chosen.is_some()
}

#[inline(always)]
fn pick<F, K, C>(kernel: &K, frontend: &Frontend, client: C) -> Option<Slot<F>>
where
    F: Family,
    K: Chooser<F>,
    C: Client<F, K>,
{
    let (service, family) = (frontend.service, u16::from(F::VERSION));
    let set = if frontend.flags & frontend_flags::LOCAL == 0 { 0 } else { client_kind::LOCAL };
    let mut key = AffinityKey { service, family, client_kind: C::KIND | set, client: client.id(kernel) };
    let now_s = kernel.now_s();
    if let Some(slot) = known(kernel, &key, frontend, now_s) {
        return Some(slot);
    }
    key.client_kind ^= client_kind::LOCAL;
    let of_the_other_set = known(kernel, &key, frontend, now_s);
    key.client_kind ^= client_kind::LOCAL;
    let slot = match of_the_other_set {
        Some(slot) => slot,
        None => select::choose(kernel, frontend)?,
    };
    let own = Affinity { backend: slot.backend, last_used_s: now_s };
    match kernel.add_affinity(&key, own) {
        Ok(()) => Some(slot),
        Err(NotAdded::Exists) => Some(settle(kernel, &key, frontend, (own, slot))),
        Err(NotAdded::Full) => {
            kernel.count(Counter::AffinityFull);
            Some(slot)
        }
    }
}

/// The backend that is remembered under a key, if it is still good.
#[inline(always)]
fn known<F: Family, K: Chooser<F>>(kernel: &K, key: &AffinityKey, frontend: &Frontend, now_s: u32) -> Option<Slot<F>> {
    kernel.with_affinity(key, |affinity| recall(kernel, affinity, frontend, now_s)).flatten()
}

/// There is an entry now: of another connection that was as new and faster, which is joined; or the old one, which is no
/// good any more and is replaced. Should two replace it at the same moment, one of them keeps its own backend this time.
#[inline(always)]
fn settle<F: Family, K: Chooser<F>>(
    kernel: &K,
    key: &AffinityKey,
    frontend: &Frontend,
    (own, slot): (Affinity, Slot<F>),
) -> Slot<F> {
    let settled = kernel.with_affinity(key, |affinity| {
        recall(kernel, affinity, frontend, own.last_used_s).unwrap_or_else(|| {
            *affinity = own;
            slot
        })
    });
    settled.unwrap_or(slot)
}

/// The backend that is remembered, if it is still good; then the timeout starts again.
#[inline(always)]
fn recall<F: Family, K: Chooser<F>>(
    kernel: &K,
    affinity: &mut Affinity,
    frontend: &Frontend,
    now_s: u32,
) -> Option<Slot<F>> {
    if age_s(now_s, affinity.last_used_s) > frontend.affinity_s {
        return None;
    }
    let backend = kernel.backend(affinity.backend)?;
    // Read twice, since nothing else tells whether it was read whole (compare `Frontend`): the address must not be that
    // of another Service's backend.
    let whole = kernel.backend(affinity.backend) == Some(backend);
    let good = whole && backend.service == frontend.service && backend.sets & frontend.endpoint_set() != 0;
    if !good {
        return None;
    }
    affinity.last_used_s = now_s;
    Some(Slot { addr: backend.addr, backend: affinity.backend, port: backend.port, reserved: 0 })
}
