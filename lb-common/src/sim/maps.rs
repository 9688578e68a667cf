//! The maps of a simulated node. Their contents are public: `plan`'s simulated store writes them, tests compare them.

use std::collections::BTreeMap;

use super::{SimEnvironment, SimKernel, SimSocket};
use crate::{
    abi::{Backend, Family, Frontend, FrontendKey, Slot, V4, V6, maps},
    logic::seam::Maps,
};

/// The maps of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimMaps<F: Family> {
    /// `lb_frontends4/6`.
    pub frontends: BTreeMap<FrontendKey<F>, Frontend>,
    /// `lb_slots4/6`: what was written. The rest of the array reads as zero.
    pub slots: BTreeMap<u32, Slot<F>>,
    /// Elements of `lb_slots4/6`.
    pub n_slots: u32,
    /// `lb_backends4/6`.
    pub backends: BTreeMap<u32, Backend<F>>,
}

impl<F: Family> Default for SimMaps<F> {
    fn default() -> Self {
        Self { frontends: BTreeMap::new(), slots: BTreeMap::new(), n_slots: maps::N_SLOTS, backends: BTreeMap::new() }
    }
}

impl<F: Family> Maps<F> for SimMaps<F> {
    fn frontend(&self, key: &FrontendKey<F>) -> Option<Frontend> {
        self.frontends.get(key).copied()
    }

    fn slot(&self, index: u32) -> Option<Slot<F>> {
        (index < self.n_slots).then(|| self.slots.get(&index).copied().unwrap_or_default())
    }

    fn backend(&self, id: u32) -> Option<Backend<F>> {
        self.backends.get(&id).copied()
    }
}

/// A node: the maps of both families and what surrounds them.
#[derive(Debug, Default)]
pub struct SimNode {
    /// IPv4.
    pub v4: SimMaps<V4>,
    /// IPv6.
    pub v6: SimMaps<V6>,
    /// Clock, randomness, counters.
    pub environment: SimEnvironment,
}

impl SimNode {
    /// An empty node whose choices depend on `seed` alone.
    pub fn new(seed: u64) -> Self {
        Self { environment: SimEnvironment::new(seed), ..Self::default() }
    }

    /// What a hook that runs for `socket` sees.
    pub fn kernel<'a>(&'a self, socket: &'a SimSocket) -> SimKernel<'a> {
        SimKernel { node: self, socket }
    }
}
