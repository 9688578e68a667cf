//! The two address families as types, so that everything else is written once.

use core::{fmt::Debug, hash::Hash};

mod sealed {
    /// The layouts are marked as plain data for every `Family`, so nobody else may add one.
    pub trait Sealed {}
    impl Sealed for super::V4 {}
    impl Sealed for super::V6 {}
}

/// An address family: [`V4`] or [`V6`].
pub trait Family: sealed::Sealed + Copy + Eq + Ord + Hash + Debug + Default + Send + Sync + 'static {
    /// An address as bytes in wire order. The unspecified address (all zero) never names a frontend or backend.
    type Addr: Copy + Eq + Ord + Hash + Debug + Default + AsRef<[u8]> + Send + Sync + 'static;
    /// The same bytes as numbers in native order, for arithmetic on whole addresses.
    type Words: AsRef<[u32]>;
    /// 4 or 6.
    const VERSION: u8;
    /// The loopback address; see `logic::socket` for its use in refusals on old kernels.
    const LOOPBACK: Self::Addr;
    /// See [`Self::Words`].
    fn words(addr: Self::Addr) -> Self::Words;
    /// The inverse of [`Self::words`].
    fn from_words(words: Self::Words) -> Self::Addr;
    /// The address of this family, of one of each.
    fn of(v4: [u8; 4], v6: [u8; 16]) -> Self::Addr;
    /// The address in the first 4 or 16 bytes, the rest 0.
    fn padded(addr: Self::Addr) -> [u8; 16];
    /// Whether it is a loopback address: 127.0.0.0/8 (RFC 1122 section 3.2.1.3) or `::1`.
    fn is_loopback(addr: Self::Addr) -> bool;
    /// The same as `std::net::IpAddr`.
    fn to_ip(addr: Self::Addr) -> core::net::IpAddr;
    /// The address, if `ip` is of this family.
    fn from_ip(ip: core::net::IpAddr) -> Option<Self::Addr>;
}

/// IPv4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct V4;

/// IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct V6;

impl Family for V4 {
    type Addr = [u8; 4];
    type Words = [u32; 1];
    const VERSION: u8 = 4;
    const LOOPBACK: [u8; 4] = [127, 0, 0, 1];

    #[inline(always)]
    fn words(addr: [u8; 4]) -> [u32; 1] {
        [u32::from_ne_bytes(addr)]
    }

    #[inline(always)]
    fn from_words(words: [u32; 1]) -> [u8; 4] {
        let [word] = words;
        word.to_ne_bytes()
    }

    #[inline(always)]
    fn of(v4: [u8; 4], _: [u8; 16]) -> [u8; 4] {
        v4
    }

    #[inline(always)]
    fn padded([a, b, c, d]: [u8; 4]) -> [u8; 16] {
        [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    }

    #[inline(always)]
    fn is_loopback(addr: [u8; 4]) -> bool {
        let [first, ..] = addr;
        first == 127
    }

    fn to_ip(addr: [u8; 4]) -> core::net::IpAddr {
        core::net::IpAddr::V4(addr.into())
    }

    fn from_ip(ip: core::net::IpAddr) -> Option<[u8; 4]> {
        match ip {
            core::net::IpAddr::V4(ip) => Some(ip.octets()),
            core::net::IpAddr::V6(_) => None,
        }
    }
}

impl Family for V6 {
    type Addr = [u8; 16];
    type Words = [u32; 4];
    const VERSION: u8 = 6;
    const LOOPBACK: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

    #[inline(always)]
    fn words(addr: [u8; 16]) -> [u32; 4] {
        // Not by way of u128, to which LLVM would align copies on the stack, of which its BPF backend has no notion.
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = addr;
        [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
    }

    #[inline(always)]
    fn from_words(words: [u32; 4]) -> [u8; 16] {
        let [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]] = words.map(u32::to_ne_bytes);
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    #[inline(always)]
    fn of(_: [u8; 4], v6: [u8; 16]) -> [u8; 16] {
        v6
    }

    #[inline(always)]
    fn padded(addr: [u8; 16]) -> [u8; 16] {
        addr
    }

    #[inline(always)]
    fn is_loopback(addr: [u8; 16]) -> bool {
        u128::from_ne_bytes(addr) == u128::from_ne_bytes(Self::LOOPBACK)
    }

    fn to_ip(addr: [u8; 16]) -> core::net::IpAddr {
        core::net::IpAddr::V6(addr.into())
    }

    fn from_ip(ip: core::net::IpAddr) -> Option<[u8; 16]> {
        match ip {
            core::net::IpAddr::V4(_) => None,
            core::net::IpAddr::V6(ip) => Some(ip.octets()),
        }
    }
}

/// The IPv4 address inside an IPv4-mapped IPv6 address (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2), which is what a
/// dual-stack socket of a Java or Go program passes to the connect6 hook.
#[inline(always)]
pub fn mapped_v4(addr: [u8; 16]) -> Option<[u8; 4]> {
    // Compared as one number: byte by byte it is dozens of instructions more for BPF, which has no vectors.
    const PREFIX: u128 = u128::from_ne_bytes(map_v4([0; 4]));
    const MASK: u128 = !u128::from_ne_bytes([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    let [.., a, b, c, d] = addr;
    (u128::from_ne_bytes(addr) & MASK == PREFIX).then_some([a, b, c, d])
}

/// The inverse of [`mapped_v4`].
#[inline(always)]
pub const fn map_v4(addr: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = addr;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}
