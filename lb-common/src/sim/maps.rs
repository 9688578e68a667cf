//! The maps of a simulated node. Their contents are public: `plan`'s simulated store writes them, tests compare them.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use super::{SimEnvironment, SimKernel, SimSocket, SimTraffic};
use crate::{
    abi::{
        Absent, Affinity, AffinityKey, Backend, ClientAddr, ClusterIps, Exclusion, Family, Frontend, FrontendCopy,
        FrontendKey, N_ABSENT, Place, Slot, SourceKey, V4, V6, maps,
    },
    logic::seam::Maps,
};

/// The maps of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimMaps<F: Family> {
    /// `lb_frontends4/6`.
    pub frontends: BTreeMap<FrontendKey<F>, Frontend>,
    /// `lb_copies4/6`: what was written. The rest of the array reads as zero.
    pub copies: BTreeMap<u32, FrontendCopy<F>>,
    /// `lb_slots4/6`: what was written. The rest of the array reads as zero.
    pub slots: BTreeMap<u32, Slot<F>>,
    /// Elements of `lb_slots4/6`.
    pub n_slots: u32,
    /// `lb_backends4/6`.
    pub backends: BTreeMap<u32, Backend<F>>,
    /// `lb_clusterips4/6`.
    pub cluster_ips: ClusterIps<F>,
    /// `lb_clients4/6`, by network namespace cookie.
    pub clients: BTreeMap<u64, ClientAddr<F>>,
    /// `lb_sources4/6`: prefix length and key.
    pub sources: BTreeSet<(u32, SourceKey<F>)>,
}

impl<F: Family> Default for SimMaps<F> {
    fn default() -> Self {
        Self {
            frontends: BTreeMap::new(),
            copies: BTreeMap::new(),
            slots: BTreeMap::new(),
            n_slots: maps::N_SLOTS,
            backends: BTreeMap::new(),
            cluster_ips: ClusterIps::default(),
            clients: BTreeMap::new(),
            sources: BTreeSet::new(),
        }
    }
}

impl<F: Family> SimMaps<F> {
    /// `lb_nofront4/6`, as strict as the agent may be: frontends are where they are and nowhere else.
    pub fn nofront(&self) -> Vec<Absent> {
        let mut lines = vec![Absent::NOBODY; N_ABSENT as usize];
        for place in self.frontends.keys().flat_map(Place::of_frontend) {
            if let Some(line) = lines.get_mut(place.line as usize) {
                *line = line.with(place);
            }
        }
        lines
    }
}

impl<F: Family> Maps<F> for SimMaps<F> {
    fn frontend(&self, key: &FrontendKey<F>) -> Option<Frontend> {
        self.frontends.get(key).copied()
    }

    fn frontend_copy(&self, key: &FrontendKey<F>) -> Option<Frontend> {
        self.copies.get(&FrontendCopy::place(key)).filter(|copy| copy.key == *key).map(|copy| copy.value)
    }

    fn slot(&self, index: u32) -> Option<Slot<F>> {
        (index < self.n_slots).then(|| self.slots.get(&index).copied().unwrap_or_default())
    }

    fn backend(&self, id: u32) -> Option<Backend<F>> {
        self.backends.get(&id).copied()
    }

    fn cluster_ips(&self) -> Option<ClusterIps<F>> {
        Some(self.cluster_ips)
    }

    fn client(&self, netns: u64) -> Option<ClientAddr<F>> {
        self.clients.get(&netns).copied()
    }

    fn is_source(&self, key: &SourceKey<F>) -> bool {
        self.sources.iter().any(|(prefix_len, range)| {
            let addr_bits = prefix_len.saturating_sub(u32::BITS);
            range.service == key.service && shares_prefix(range.addr.as_ref(), key.addr.as_ref(), addr_bits)
        })
    }

    fn may_be_frontend(&self, place: Place) -> bool {
        self.frontends.keys().flat_map(Place::of_frontend).any(|of_frontend| of_frontend == place)
    }
}

/// Whether the first `bits` bits of both are the same.
pub(super) fn shares_prefix(a: &[u8], b: &[u8], bits: u32) -> bool {
    let bit = |bytes: &[u8], at: u32| bytes.get(at as usize / 8).map(|byte| byte >> (7 - at % 8) & 1);
    (0..bits).all(|at| bit(a, at) == bit(b, at))
}

/// A node: the maps of both families and what surrounds them.
#[derive(Debug)]
pub struct SimNode {
    /// IPv4.
    pub v4: SimMaps<V4>,
    /// IPv6.
    pub v6: SimMaps<V6>,
    /// `lb_affinity`. The programs write it, too.
    pub affinities: RefCell<BTreeMap<AffinityKey, Affinity>>,
    /// Entries that fit into `lb_affinity`.
    pub n_affinities: u32,
    /// `lb_excluded`: ids of cgroups.
    pub excluded: BTreeSet<u64>,
    /// `lb_exclusion`.
    pub exclusion: Exclusion,
    /// The cookie of the node's own network namespace.
    pub netns: u64,
    /// Clock, randomness, counters.
    pub environment: SimEnvironment,
    /// What only the packet layer has.
    pub traffic: SimTraffic,
}

impl Default for SimNode {
    fn default() -> Self {
        Self::new(1)
    }
}

impl SimNode {
    /// An empty node whose choices depend on `seed` alone.
    pub fn new(seed: u64) -> Self {
        Self {
            v4: SimMaps::default(),
            v6: SimMaps::default(),
            affinities: RefCell::default(),
            n_affinities: maps::N_AFFINITIES,
            excluded: BTreeSet::new(),
            exclusion: Exclusion::default(),
            netns: SimSocket::HOST_NETNS,
            environment: SimEnvironment::new(seed),
            traffic: SimTraffic::default(),
        }
    }

    /// What a hook that runs for `socket` sees.
    pub fn kernel<'a>(&'a self, socket: &'a SimSocket) -> SimKernel<'a> {
        SimKernel { node: self, socket }
    }
}
