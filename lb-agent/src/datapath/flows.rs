//! The seam between what ages and lists connections and `lb_conns4/6`. The programs write these maps meanwhile, so
//! whatever was read may be out of date a moment later.

use lb_common::abi::{Backend, Family, Flow, FlowKey, V4, V6, maps};

use super::store::StoreError;

/// An entry of `lb_conns`: one half of a flow.
pub type Half<F> = (FlowKey<F>, Flow<F>);

/// How far a walk through the table has come, as the kernel counts: `None` before the first step.
pub type Cursor = Option<u32>;

/// `lb_conns` of a family, and the backends that its flows lead to.
pub trait FlowStore<F: Family> {
    /// Reads some halves into `into`, in the place of what is there, a few thousand at most unless so many are in one bucket
    /// of the map. Returns where to go on, `None` at the end. Whatever is there during the whole walk is read once.
    ///
    /// # Errors
    /// What the kernel says.
    fn read_flows(&mut self, cursor: Cursor, into: &mut Vec<Half<F>>) -> Result<Cursor, StoreError>;
    /// A half as it is now.
    ///
    /// # Errors
    /// What the kernel says.
    fn flow(&self, key: &FlowKey<F>) -> Result<Option<Flow<F>>, StoreError>;
    /// Removes a half. `false` where there was none: of several that try at once, one succeeds.
    ///
    /// # Errors
    /// What the kernel says.
    fn delete_flow(&mut self, key: &FlowKey<F>) -> Result<bool, StoreError>;
    /// The backend of this id.
    ///
    /// # Errors
    /// What the kernel says.
    fn backend(&self, id: u32) -> Result<Option<Backend<F>>, StoreError>;
    /// How many halves fit.
    fn flow_capacity(&self) -> u32;
}

/// Both families.
pub trait FlowStores: FlowStore<V4> + FlowStore<V6> {}

impl<S: FlowStore<V4> + FlowStore<V6>> FlowStores for S {}

/// The name of a family's map.
pub fn map_name<F: Family>() -> &'static str {
    if F::VERSION == V4::VERSION { maps::CONNS4 } else { maps::CONNS6 }
}

/// The other half of a flow, if it is there and agrees.
///
/// # Errors
/// What the store says.
pub fn partner<F: Family>(
    store: &impl FlowStore<F>,
    key: &FlowKey<F>,
    half: &Flow<F>,
) -> Result<Option<Flow<F>>, StoreError> {
    let at = half.partner(key);
    Ok(store.flow(&at)?.filter(|other| other.is_of(&at) && other.partner(&at) == *key))
}
