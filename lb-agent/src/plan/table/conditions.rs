//! What frontends presuppose besides backends and slots: the prefix that covers all guards, and the ranges of clients that
//! may use restricted frontends. Both are widened before a frontend needs them, and narrowed when none does any more.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use lb_common::abi::{ClusterIps, Family, FrontendKey, SourceKey};

use super::{Table, Want};
use crate::datapath::op::FamilyOp;

/// Bits of [`SourceKey::service`], which every range of clients holds whole.
const SERVICE_BITS: u32 = u32::BITS;

/// A range of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::plan) struct Source<F: Family> {
    /// Without host bits.
    addr: F::Addr,
    /// As the map counts it: the bits of the Service-port id too.
    prefix_len: u32,
}

impl<F: Family> Source<F> {
    /// The range, if it is of this family.
    pub(in crate::plan) fn from_net(net: &IpNet) -> Option<Self> {
        let addr = F::from_ip(net.network())?;
        Some(Self { addr, prefix_len: SERVICE_BITS + u32::from(net.prefix_len()) })
    }

    /// From the map. Whoever wrote it, bits behind the prefix mean nothing: two keys that differ only there are one.
    pub(super) fn adopt(key: &SourceKey<F>, prefix_len: u32) -> Self {
        let bits = u8::try_from(prefix_len.saturating_sub(SERVICE_BITS)).ok();
        let net = bits.and_then(|bits| IpNet::new(F::to_ip(key.addr), bits).ok());
        let addr = net.and_then(|net| F::from_ip(net.network())).unwrap_or(key.addr);
        Self { addr, prefix_len }
    }

    pub(super) fn put(&self, service: u32) -> FamilyOp<F> {
        FamilyOp::PutSource(self.key(service), self.prefix_len)
    }

    pub(super) fn delete(&self, service: u32) -> FamilyOp<F> {
        FamilyOp::DeleteSource(self.key(service), self.prefix_len)
    }

    fn key(&self, service: u32) -> SourceKey<F> {
        SourceKey { service, addr: self.addr }
    }
}

/// The frontend that stands for the ports of a ClusterIP which no Service has.
pub(in crate::plan) fn guard<F: Family>(addr: F::Addr) -> FrontendKey<F> {
    FrontendKey { addr, ..FrontendKey::default() }
}

fn is_guard<F: Family>(key: &FrontendKey<F>) -> bool {
    key.port == 0 && key.proto == 0
}

/// The guards in the map, and the prefix that covers them.
#[derive(Debug)]
pub(super) struct Guards<F: Family> {
    addresses: BTreeSet<F::Addr>,
    /// What the map holds.
    prefix: ClusterIps<F>,
}

impl<F: Family> Guards<F> {
    pub(super) fn adopt(prefix: ClusterIps<F>) -> Self {
        Self { addresses: BTreeSet::new(), prefix }
    }

    pub(super) fn frontend_put(&mut self, key: &FrontendKey<F>) {
        if is_guard(key) {
            self.addresses.insert(key.addr);
        }
    }

    pub(super) fn frontend_deleted(&mut self, key: &FrontendKey<F>) {
        if is_guard(key) {
            self.addresses.remove(&key.addr);
        }
    }

    pub(super) fn prefix_put(&mut self, prefix: ClusterIps<F>) {
        self.prefix = prefix;
    }

    /// The prefix that is needed before these frontends are put, if the present one does not do.
    fn widened<'a>(&self, frontends: impl Iterator<Item = &'a FrontendKey<F>>) -> Option<ClusterIps<F>> {
        // Also those that the present prefix holds by chance: it may be the rest of a wider one.
        let mut all: BTreeSet<F::Addr> = frontends.filter(|key| is_guard(key)).map(|key| key.addr).collect();
        if all.iter().all(|addr| self.prefix.contains(*addr)) {
            return None;
        }
        all.extend(self.addresses.first());
        all.extend(self.addresses.last());
        Some(covering(&all))
    }

    /// The prefix that is enough, if the present one is not that one.
    pub(super) fn narrowed(&self) -> Option<ClusterIps<F>> {
        Some(covering(&self.addresses)).filter(|prefix| *prefix != self.prefix)
    }
}

impl<F: Family> Table<F> {
    /// Adds to `ops` what has to hold before the frontends are put.
    pub(super) fn stage_conditions(&self, service: u32, want: &Want<F>, ops: &mut Vec<FamilyOp<F>>) {
        ops.extend(self.guards.widened(want.frontends.keys()).map(FamilyOp::PutClusterIps));
        let port = self.ports.get(&service);
        let known = |source| port.is_some_and(|port| port.sources.contains_key(source));
        let new = want.sources.iter().filter(|source| !known(source));
        ops.extend(new.map(|source| source.put(service)));
    }
}

/// The smallest prefix that holds all these addresses: what the first and the last have in common. Of none, the
/// unspecified address alone, which is nobody's.
fn covering<F: Family>(addresses: &BTreeSet<F::Addr>) -> ClusterIps<F> {
    let nowhere = F::Addr::default();
    let first = addresses.first().copied().unwrap_or(nowhere);
    let last = addresses.last().copied().unwrap_or(nowhere);
    let common = common_bits(F::to_ip(first), F::to_ip(last));
    let net = IpNet::new(F::to_ip(first), common).ok();
    let parts = net.and_then(|net| Some((F::from_ip(net.network())?, F::from_ip(net.netmask())?)));
    // `common` is never longer than the address; if it were, the empty prefix would be right as well.
    let (prefix, mask) = parts.unwrap_or_default();
    ClusterIps { prefix, mask }
}

/// How many leading bits two addresses of one family have in common.
fn common_bits(a: IpAddr, b: IpAddr) -> u8 {
    let bits = match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => 0,
    };
    u8::try_from(bits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use lb_common::abi::{V4, V6};
    use proptest::{collection::btree_set, prelude::*};

    use super::*;

    fn check<F: Family>(addresses: &BTreeSet<F::Addr>, outside: F::Addr) {
        let prefix = covering::<F>(addresses);
        assert!(addresses.iter().all(|addr| prefix.contains(*addr)), "{addresses:?} in {prefix:?}");
        if addresses.len() > 1 {
            let first = addresses.first().copied().unwrap_or_default();
            let bits: u32 = prefix.mask.as_ref().iter().map(|byte| byte.count_ones()).sum();
            let one_more = u8::try_from(bits + 1).unwrap_or(u8::MAX);
            let longer = IpNet::new(F::to_ip(first), one_more).ok();
            let all = longer.is_some_and(|net| addresses.iter().all(|addr| net.contains(&F::to_ip(*addr))));
            assert!(!all, "{addresses:?} are in a smaller prefix than {prefix:?}");
        }
        let every: Vec<_> = addresses.iter().chain([&outside]).map(|addr| guard(*addr)).collect();
        let after_removal = Guards::<F>::adopt(prefix).widened(every.iter());
        let wide = after_removal.unwrap_or(prefix);
        assert!(every.iter().all(|key| wide.contains(key.addr)), "{every:?} in {wide:?}, of which none is in the map");
        let new = guard::<F>(outside);
        let mut guards = Guards::<F>::adopt(prefix);
        addresses.iter().for_each(|addr| guards.frontend_put(&guard(*addr)));
        match guards.widened([new].iter()) {
            None => assert!(prefix.contains(outside)),
            Some(wider) => assert!(addresses.iter().chain([&outside]).all(|addr| wider.contains(*addr)), "{wider:?}"),
        }
        assert_eq!(guards.narrowed(), None);
    }

    proptest! {
        #[test]
        fn the_prefix_of_the_guards_is_the_smallest_that_holds_them_and_never_too_small_for_a_new_one(
            addresses in btree_set(any::<[u8; 4]>(), 0..6), near in btree_set(0..40_u8, 0..6),
            addresses6 in btree_set(any::<[u8; 16]>(), 0..6), outside in any::<[u8; 4]>(), outside6 in any::<[u8; 16]>(),
        ) {
            check::<V4>(&addresses, outside);
            check::<V4>(&near.into_iter().map(|end| [10, 96, 0, end]).collect(), outside);
            check::<V6>(&addresses6, outside6);
        }
    }

    #[test]
    fn without_guards_the_prefix_holds_nobodys_address_and_that_of_a_new_map_holds_every_one() {
        let none = covering::<V4>(&BTreeSet::new());
        assert!(none.contains([0; 4]) && !none.contains([10, 96, 0, 1]) && !none.contains([0, 0, 0, 1]));
        let new = Guards::<V4>::adopt(ClusterIps::default());
        assert_eq!(new.widened([guard([10, 96, 0, 1])].iter()), None);
        assert_eq!(new.narrowed(), Some(none));
    }

    #[test]
    fn an_adopted_range_of_clients_means_the_same_whatever_stands_behind_its_prefix() {
        let net: IpNet = "10.1.2.0/24".parse().unwrap_or_default();
        let found = Source::<V4>::adopt(&SourceKey { service: 7, addr: [10, 1, 2, 99] }, 32 + 24);
        assert_eq!(Source::from_net(&net), Some(found));
        let short = Source::<V4>::adopt(&SourceKey { service: 7, addr: [1, 2, 3, 4] }, 20);
        assert_eq!(short.addr, [0; 4]);
        assert_eq!(Source::<V6>::from_net(&net), None);
    }
}
