//! `lb_slots4/6`: the array that frontends point into.

use super::Family;

/// One slot: a backend that a new connection may be given. A backend may fill several slots (weight).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Slot<F: Family> {
    /// The backend's address, wire order.
    pub addr: F::Addr,
    /// The backend's id in `lb_backends4/6`.
    pub backend: u32,
    /// The backend's port, host byte order.
    pub port: u16,
    /// Always 0; named so that no padding is left.
    pub reserved: u16,
}
