//! The frontend of the self-test: an address and port that no Service can have, refused while the test runs.
//!
//! It is in the maps for some milliseconds. Should the agent die meanwhile, the entry stays until the next agent starts
//! and removes it; nobody who lists frontends is shown it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::abi::{Family, Frontend, FrontendKey, Proto, scope};

/// The discard service's.
const PORT: u16 = 9;

/// From TEST-NET-1 (RFC 5737), as the next from the documentation prefix (RFC 3849): addresses that are never routed.
pub(super) const ADDRESS4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 179)), PORT);
/// As [`ADDRESS4`], IPv6.
pub(super) const ADDRESS6: SocketAddr =
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xb3)), PORT);

/// Its entries, TCP and UDP, as far as they are of this family.
pub(super) fn keys<F: Family>() -> impl Iterator<Item = FrontendKey<F>> {
    let addr = F::from_ip(ADDRESS4.ip()).or_else(|| F::from_ip(ADDRESS6.ip()));
    let key = |addr, proto: Proto| FrontendKey { addr, port: PORT, proto: proto.number(), scope: scope::INTERNAL };
    addr.into_iter().flat_map(move |addr| [key(addr, Proto::Tcp), key(addr, Proto::Udp)])
}

/// Nobody serves it.
pub(super) fn frontend<F: Family>(key: &FrontendKey<F>) -> Frontend {
    Frontend::default().sealed(key)
}

/// Whether this is the self-test's frontend.
pub(super) fn is<F: Family>(key: &FrontendKey<F>) -> bool {
    key.port == PORT && [ADDRESS4.ip(), ADDRESS6.ip()].contains(&F::to_ip(key.addr))
}
