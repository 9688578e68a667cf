//! bind(2) in the node's own network namespace: a process must not take the port of a NodePort, because local clients
//! would be sent to the Service and never to it.
//!
//! What the agent protects has an entry of scope `BIND`. Other addresses and ports of Services are no reason to refuse:
//! an external IP may be an address of the node whose port 80 a Service has and whose port 80 a process may well hold.

use super::seam::{Caller, Environment, Maps};
use crate::abi::{Counter, Endpoint, Family, FrontendKey, Proto, V4, V6, mapped_v4, scope};

/// What becomes of a bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bind {
    /// Go on.
    Allow,
    /// EADDRINUSE (counted).
    InUse,
}

/// After bind(2) of an IPv4 socket to `local`.
#[inline(always)]
pub fn v4<K: Maps<V4> + Environment + Caller>(kernel: &K, local: Endpoint<V4>, proto: Proto) -> Bind {
    answer(kernel, kernel.is_on_host() && is_taken(kernel, local, proto))
}

/// After bind(2) of an IPv6 socket to `local`, which may be a mapped IPv4 address. A socket on `::` takes IPv4 connections,
/// too; one that does not (IPV6_V6ONLY) looks the same here, and is refused for an IPv4 NodePort alone as well.
#[inline(always)]
pub fn v6<K: Maps<V4> + Maps<V6> + Environment + Caller>(kernel: &K, local: Endpoint<V6>, proto: Proto) -> Bind {
    let port = local.port;
    let v4 =
        if local.addr == <V6 as Family>::Addr::default() { Some(Default::default()) } else { mapped_v4(local.addr) };
    let taken = || {
        v4.is_some_and(|addr| is_taken::<V4, K>(kernel, Endpoint { addr, port }, proto))
            || is_taken::<V6, K>(kernel, local, proto)
    };
    answer(kernel, kernel.is_on_host() && taken())
}

fn answer(kernel: &impl Environment, in_use: bool) -> Bind {
    if !in_use {
        return Bind::Allow;
    }
    kernel.count(Counter::BindRefused);
    Bind::InUse
}

/// Whether a NodePort has this port, and here: at the address that is bound, or anywhere if that is the unspecified one.
#[inline(always)]
fn is_taken<F: Family, K: Maps<F>>(kernel: &K, local: Endpoint<F>, proto: Proto) -> bool {
    let unspecified = F::Addr::default();
    let mut key = FrontendKey { addr: unspecified, port: local.port, proto: proto.number(), scope: scope::BIND };
    // That it is there is all that counts, so its value need not be read whole.
    if kernel.frontend(&key).is_none() {
        return false;
    }
    key.addr = local.addr;
    key.scope = if F::is_loopback(local.addr) { scope::HOST } else { scope::INTERNAL };
    local.addr == unspecified || kernel.frontend(&key).is_some()
}
