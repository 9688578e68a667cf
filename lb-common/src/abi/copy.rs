//! `lb_copies4/6`: copies of frontends where a socket's program finds them at once.
//!
//! A lookup in a hash map of the kernel's reads a bucket and then the entry that it points to: two parts of memory, one after the
//! other, that no cache holds on a node with thousands of Services. An array with a place for each key's hash costs one. The hash
//! map stays the truth: a copy is emptied before its entry changes and filled after that, so that there is none that says what
//! is no more; who finds none, or another's, or one that was read while it was written, asks the hash map.
//!
//! The maps are not pinned. They belong to the programs that they were loaded with, which whoever writes frontends has put in the
//! place of all earlier ones before (`lb_agent::datapath::bpf::Datapath::attach`). So no program can meet copies that its agent
//! does not keep, whatever build comes next. That holds for the programs of sockets only: those of devices are replaced one by
//! one while frontends change, and must not look here.

use super::{Family, Frontend, FrontendKey, Proto, hash::hash, scope};

/// Elements of each map, which is an array: 512 KiB for IPv4, 768 KiB for IPv6. Of 2,000 frontends one in 17 has no copy because
/// another one has its place, of 10,000 one in four.
pub const N_COPIES: u32 = 16_384;

/// One element of `lb_copies4/6`; all zero where there is none, which is no frontend's key.
///
/// Aligned for the sake of the programs, as [`FrontendKey`] is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C, align(4))]
pub struct FrontendCopy<F: Family> {
    /// Whose it is.
    pub key: FrontendKey<F>,
    /// Sealed, so that a reader knows whether it has read it whole.
    pub value: Frontend,
}

impl<F: Family> FrontendCopy<F> {
    /// Where the copy of a frontend is, below [`N_COPIES`].
    #[inline(always)]
    pub fn place(key: &FrontendKey<F>) -> u32 {
        let rest = u32::from(key.port) << 16 | u32::from(key.proto) << 8 | u32::from(key.scope);
        hash::<F>(key.addr, rest) >> (N_COPIES.leading_zeros() + 1)
    }

    /// Whether frontends with this key have copies: those that sockets are connected to.
    pub fn is_for(key: &FrontendKey<F>) -> bool {
        [Proto::Tcp, Proto::Udp].iter().any(|proto| proto.number() == key.proto)
            && [scope::INTERNAL, scope::HOST].contains(&key.scope)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::abi::{V4, V6};

    fn key(addr: [u8; 4], port: u16, proto: Proto) -> FrontendKey<V4> {
        FrontendKey { addr, port, proto: proto.number(), scope: scope::INTERNAL }
    }

    fn spread<F: Family>(keys: impl Iterator<Item = FrontendKey<F>>) -> (usize, usize) {
        let places: Vec<_> = keys.map(|key| FrontendCopy::place(&key)).collect();
        assert!(places.iter().all(|place| *place < N_COPIES));
        (places.iter().collect::<BTreeSet<_>>().len(), places.len())
    }

    #[test]
    fn frontends_spread_over_the_places() {
        let of = |n: u16| {
            let [high, low] = n.to_be_bytes();
            let web = key([10, 96, high, low], 443, Proto::Tcp);
            let dns = key([10, 96, high, low], 53, Proto::Udp);
            [web, dns, key([192, 168, 2, 1], 30_000 + n, Proto::Tcp)]
        };
        let (places, n) = spread((0..1_000).flat_map(of));
        assert!(places > n * 85 / 100, "{places} of {n}");
        let of = |n: u16| {
            let [high, low] = n.to_be_bytes();
            let addr = [0xfd, 0, 0, 0x10, 0, 0x96, 0, 0, 0, 0, 0, 0, 0, 0, high, low];
            FrontendKey::<V6> { addr, port: 443, proto: Proto::Tcp.number(), scope: scope::INTERNAL }
        };
        let (places, n) = spread((0..3_000).map(of));
        assert!(places > n * 85 / 100, "{places} of {n}");
    }

    #[test]
    fn only_who_is_connected_to_has_a_copy() {
        let web = key([10, 96, 0, 1], 80, Proto::Tcp);
        assert!(FrontendCopy::is_for(&web));
        assert!(FrontendCopy::is_for(&FrontendKey { scope: scope::HOST, ..web }));
        assert!(!FrontendCopy::is_for(&FrontendKey { scope: scope::EXTERNAL, ..web }));
        assert!(!FrontendCopy::is_for(&FrontendKey { scope: scope::BIND, ..web }));
        assert!(!FrontendCopy::is_for(&FrontendKey { port: 0, proto: 0, ..web }));
    }

    #[test]
    fn an_empty_place_is_nobodys() {
        assert!(!FrontendCopy::is_for(&FrontendCopy::<V4>::default().key));
        assert!(!FrontendCopy::is_for(&FrontendCopy::<V6>::default().key));
    }
}
