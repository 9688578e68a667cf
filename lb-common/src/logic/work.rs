//! What a run of the packet layer works on. A kernel program has 512 bytes of stack for a whole chain of calls, and two
//! halves of an IPv6 flow with the headers of a packet are more than that, so all of it is in one place that is handed
//! down: in `lb-ebpf` an element of a per-CPU map.

use super::claim::Source;
use crate::{
    abi::{Family, Flow, FlowKey, Frontend, Slot},
    packet::headers::Headers,
};

/// The memory of one run. What it holds at the beginning does not matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Work<F: Family> {
    /// Of the packet.
    pub headers: Headers<F>,
    /// The half that the packet belongs to.
    pub(super) half: Flow<F>,
    /// Of the packet that an ICMP error quotes.
    pub(super) quoted: Headers<F>,
    /// That a new flow goes to.
    pub(super) frontend: Frontend,
    /// The backend of a new flow.
    pub(super) slot: Slot<F>,
    /// The name under which a new flow's backend sees the client.
    pub(super) source: Source<F>,
    /// The index of the device by which a new flow's client is reached.
    pub(super) device: u32,
    /// Of a new flow, or of the half or way that is looked at beside [`Self::half`].
    pub(super) other_key: FlowKey<F>,
    /// As [`Self::other_key`].
    pub(super) other: Flow<F>,
    /// What the packet is given. While a flow begins: a tuple that is looked at.
    pub to: FlowKey<F>,
}
