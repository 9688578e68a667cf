//! What a destination is: one lookup for what is not ours, whatever it is.

use super::seam::{Caller, Environment, Maps};
use crate::abi::{Counter, Endpoint, Family, Frontend, FrontendKey, Place, Proto, frontend_flags, scope};

/// How often a frontend is looked up before it is given up as damaged. Each repetition means that the agent replaced it,
/// or reused its memory, within the nanoseconds of the copy: a second in a row is already next to impossible.
const N_LOOKUPS: usize = 3;

/// What is known about a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<F: Family> {
    /// Not a Service: none of our business.
    NotAService,
    /// A Service, and here is its entry.
    Frontend(FrontendKey<F>, Frontend),
    /// A port that a ClusterIP does not have, or an entry that is no frontend's because the maps are damaged (counted).
    Refuse,
}

/// Looks up the destination of a client on this node.
///
/// Loopback addresses are NodePorts of the node's own network namespace and nothing to anybody else, whose loopback
/// device they never leave.
#[inline(always)]
pub fn lookup<F, K>(kernel: &K, dst: Endpoint<F>, proto: Proto) -> Found<F>
where
    F: Family,
    K: Maps<F> + Environment + Caller,
{
    let mut key = FrontendKey { addr: dst.addr, port: dst.port, proto: proto.number(), scope: scope::INTERNAL };
    if F::is_loopback(dst.addr) {
        if !kernel.is_on_host() {
            return Found::NotAService;
        }
        key.scope = scope::HOST;
    }
    // Without a copy, or with one that was not read whole, the frontend itself is asked.
    match kernel.frontend_copy(&key) {
        Some(copy) if copy.is_of(&key) => Found::Frontend(key, copy),
        _ => find(kernel, &key),
    }
}

/// As [`lookup`], for a UDP socket that names its destination with each datagram. Most of these are servers' answers, to few
/// addresses and ever new ports, and each port would be another part of the frontends' map, which no cache holds; but the
/// address alone says that it is nobody's.
#[inline(always)]
pub fn lookup_datagram<F, K>(kernel: &K, dst: Endpoint<F>) -> Found<F>
where
    F: Family,
    K: Maps<F> + Environment + Caller,
{
    if kernel.may_be_frontend(Place::of_address::<F>(dst.addr)) {
        lookup(kernel, dst, Proto::Udp)
    } else {
        Found::NotAService
    }
}

/// Looks up the destination of a packet, whose client is outside the cluster or not.
///
/// Few Services answer the two differently, so the entry for clients inside says which: the rest of the world costs one
/// lookup.
#[inline(always)]
pub fn lookup_packet<F, K>(kernel: &K, dst: Endpoint<F>, proto: u8, outside: bool) -> Found<F>
where
    F: Family,
    K: Maps<F> + Environment,
{
    let key = FrontendKey { addr: dst.addr, port: dst.port, proto, scope: scope::INTERNAL };
    match find(kernel, &key) {
        Found::Frontend(_, frontend) if outside && frontend.flags & frontend_flags::EXTERNAL_DIFFERS != 0 => {
            let key = FrontendKey { scope: scope::EXTERNAL, ..key };
            match read(kernel, &key) {
                Read::Frontend(frontend) => Found::Frontend(key, frontend),
                // Gone since the flag was read.
                Read::Absent => Found::NotAService,
                Read::Damaged => Found::Refuse,
            }
        }
        found => found,
    }
}

#[inline(always)]
fn find<F: Family, K: Maps<F> + Environment>(kernel: &K, key: &FrontendKey<F>) -> Found<F> {
    match read(kernel, key) {
        Read::Frontend(frontend) => Found::Frontend(*key, frontend),
        Read::Absent if is_guarded(kernel, key.addr) => {
            kernel.count(Counter::UnknownPort);
            Found::Refuse
        }
        Read::Absent => Found::NotAService,
        Read::Damaged => Found::Refuse,
    }
}

/// Whether this is a ClusterIP, all of whose unknown ports refuse. A second lookup for addresses in the prefix of the
/// ClusterIPs only; that is read while the agent may write it, and then an address is taken for another once.
#[inline(always)]
pub(super) fn is_guarded<F: Family, K: Maps<F>>(kernel: &K, addr: F::Addr) -> bool {
    // That the second entry is there is all that counts, so its value need not be read whole.
    kernel.cluster_ips().is_some_and(|all| all.contains(addr))
        && kernel.frontend(&FrontendKey { addr, port: 0, proto: 0, scope: scope::INTERNAL }).is_some()
}

/// A frontend entry as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    /// There is none.
    Absent,
    /// Here it is, whole.
    Frontend(Frontend),
    /// There is one, but it is not what the agent writes (counted).
    Damaged,
}

/// Reads an entry. A mixture of two, see [`Frontend`], is read again.
#[inline(always)]
fn read<F: Family, K: Maps<F> + Environment>(kernel: &K, key: &FrontendKey<F>) -> Read {
    match kernel.frontend(key) {
        None => Read::Absent,
        Some(frontend) if frontend.is_of(key) => Read::Frontend(frontend),
        Some(mut frontend) => match read_again(kernel, key, &mut frontend) {
            Again::Absent => Read::Absent,
            Again::Whole => Read::Frontend(frontend),
            Again::Damaged => Read::Damaged,
        },
    }
}

/// What came of reading again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    Absent,
    Whole,
    Damaged,
}

/// Not inlined: hardly ever needed, and it would be a large part of each program. (Not `cold` either: that is a section of
/// its own, whose functions aya 0.14 does not find.) Functions that are not inlined return a number and write the rest
/// where they are told: a function without a result in the register for it may leave a pointer to the stack there, which
/// the verifier refuses.
#[inline(never)]
fn read_again<F: Family, K: Maps<F> + Environment>(kernel: &K, key: &FrontendKey<F>, into: &mut Frontend) -> Again {
    for _ in 1..N_LOOKUPS {
        kernel.count(Counter::FrontendReread);
        let Some(frontend) = kernel.frontend(key) else {
            return Again::Absent;
        };
        if frontend.is_of(key) {
            *into = frontend;
            return Again::Whole;
        }
    }
    kernel.count(Counter::DamagedMaps);
    Again::Damaged
}
