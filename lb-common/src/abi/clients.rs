//! `lb_clusterips4/6`, `lb_clients4/6`, `lb_sources4/6`: what else the programs have to know about addresses.

use super::Family;

/// The one element of `lb_clusterips4/6`: the smallest prefix that holds every ClusterIP of the family. Only below it do
/// the programs look for [`super::FrontendKey`]s with port 0, so that the rest of the world costs one lookup. All zero,
/// as in a new map, it holds every address, which is slower and as correct.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C, align(4))]
pub struct ClusterIps<F: Family> {
    /// The common bits, wire order; the others are 0.
    pub prefix: F::Addr,
    /// Which bits those are.
    pub mask: F::Addr,
}

impl<F: Family> ClusterIps<F> {
    /// Whether the address is below the prefix.
    #[inline(always)]
    pub fn contains(&self, addr: F::Addr) -> bool {
        let (addr, prefix, mask) = (F::words(addr), F::words(self.prefix), F::words(self.mask));
        let mut words = addr.as_ref().iter().zip(prefix.as_ref()).zip(mask.as_ref());
        words.all(|((addr, prefix), mask)| addr & mask == *prefix)
    }
}

/// Value of `lb_clients4/6`, keyed by a network namespace's cookie (`u64`): the address that connections from there
/// have as their source, as far as the agent knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C, align(4))]
pub struct ClientAddr<F: Family> {
    /// Wire order.
    pub addr: F::Addr,
}

/// Key data of `lb_sources4/6`, an LPM trie, after the prefix length, which counts from the first bit of `service`. The
/// value is a `u32` that says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C, align(4))]
pub struct SourceKey<F: Family> {
    /// Service-port id, native order: always compared whole.
    pub service: u32,
    /// Wire order.
    pub addr: F::Addr,
}
