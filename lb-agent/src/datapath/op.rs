//! One map operation as data: what `plan` decides and [`execute`] does. Decides nothing.

use lb_common::abi::{Backend, ClusterIps, Family, Frontend, FrontendKey, NameKey, Slot, SourceKey, V4, V6, scope};

use super::store::{FamilyStore, MapStore, StoreError};

/// An operation on the maps of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FamilyOp<F: Family> {
    /// Inserts or replaces a backend.
    PutBackend(u32, Backend<F>),
    /// Fills a range of slots that no frontend names.
    WriteSlots {
        /// Id of the Service port that the range is for; not written, but what the plan records it under.
        service: u32,
        /// Index of the first slot.
        first: u32,
        /// The content.
        slots: Vec<Slot<F>>,
    },
    /// Replaces the prefix outside of which no guard is looked for.
    PutClusterIps(ClusterIps<F>),
    /// Lets the clients of a range use the restricted frontends of a Service port. The prefix length counts from the
    /// first bit of the key.
    PutSource(SourceKey<F>, u32),
    /// Inserts or replaces a frontend: the moment at which a Service changes.
    PutFrontend(FrontendKey<F>, Frontend),
    /// Removes a frontend.
    DeleteFrontend(FrontendKey<F>),
    /// Removes a range of clients, see [`FamilyOp::PutSource`].
    DeleteSource(SourceKey<F>, u32),
    /// Removes a backend that no slot of a frontend holds any more. What it was is for the plan's record.
    DeleteBackend(u32, Backend<F>),
}

/// An operation on any of the agent's maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Inserts or replaces a name.
    PutName(NameKey, String),
    /// Removes a name.
    DeleteName(NameKey),
    /// On the IPv4 maps.
    V4(FamilyOp<V4>),
    /// On the IPv6 maps.
    V6(FamilyOp<V6>),
    /// Waits for the programs that may still read slots which no frontend names.
    WaitForReaders,
}

/// The order in which operations on one Service have to happen: what a frontend leads to exists before the frontend
/// does, and goes after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Names of Service ports and nodes.
    Names,
    /// New and changed backends.
    Backends,
    /// New ranges.
    Slots,
    /// Further conditions of frontends: ranges of clients, the prefix of the guards.
    Conditions,
    /// Frontends for clients outside, which others lead to.
    OutsideFrontends,
    /// Frontends: the moment of the change.
    Frontends,
    /// Frontends that are gone.
    OldFrontends,
    /// Backends and ranges of clients that are gone.
    OldBackends,
    /// Names of what is gone.
    OldNames,
    /// Before freed slots are written again.
    Readers,
}

impl<F: Family> FamilyOp<F> {
    fn phase(&self) -> Phase {
        match self {
            Self::PutBackend(..) => Phase::Backends,
            Self::WriteSlots { .. } => Phase::Slots,
            Self::PutClusterIps(_) | Self::PutSource(..) => Phase::Conditions,
            Self::PutFrontend(key, _) if key.scope == scope::EXTERNAL => Phase::OutsideFrontends,
            Self::PutFrontend(..) => Phase::Frontends,
            Self::DeleteFrontend(_) => Phase::OldFrontends,
            Self::DeleteBackend(..) | Self::DeleteSource(..) => Phase::OldBackends,
        }
    }
}

impl Op {
    /// Where it belongs in the order.
    pub fn phase(&self) -> Phase {
        match self {
            Self::PutName(..) => Phase::Names,
            Self::V4(op) => op.phase(),
            Self::V6(op) => op.phase(),
            Self::DeleteName(_) => Phase::OldNames,
            Self::WaitForReaders => Phase::Readers,
        }
    }
}

impl From<FamilyOp<V4>> for Op {
    fn from(op: FamilyOp<V4>) -> Self {
        Self::V4(op)
    }
}

impl From<FamilyOp<V6>> for Op {
    fn from(op: FamilyOp<V6>) -> Self {
        Self::V6(op)
    }
}

/// Carries out one operation. An error means that it did not happen; a range of slots may then hold anything.
pub fn execute<S: MapStore>(store: &mut S, op: &Op) -> Result<(), StoreError> {
    match op {
        Op::PutName(key, name) => store.put_name(*key, name),
        Op::DeleteName(key) => store.delete_name(*key),
        Op::V4(op) => execute_in::<V4, S>(store, op),
        Op::V6(op) => execute_in::<V6, S>(store, op),
        Op::WaitForReaders => store.wait_for_readers(),
    }
}

fn execute_in<F: Family, S: FamilyStore<F>>(store: &mut S, op: &FamilyOp<F>) -> Result<(), StoreError> {
    match op {
        FamilyOp::PutBackend(id, backend) => store.put_backend(*id, backend),
        FamilyOp::WriteSlots { first, slots, .. } => store.write_slots(*first, slots),
        FamilyOp::PutClusterIps(prefix) => store.put_cluster_ips(prefix),
        FamilyOp::PutSource(key, prefix_len) => store.put_source(key, *prefix_len),
        FamilyOp::DeleteSource(key, prefix_len) => store.delete_source(key, *prefix_len),
        FamilyOp::PutFrontend(key, frontend) => store.put_frontend(key, frontend),
        FamilyOp::DeleteFrontend(key) => store.delete_frontend(key),
        FamilyOp::DeleteBackend(id, _) => store.delete_backend(*id),
    }
}
