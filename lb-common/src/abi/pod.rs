//! Marks the layouts as plain data for bytemuck and aya.

use super::{
    Absent, Affinity, AffinityKey, AgentStatus, Answers, Backend, ClientAddr, ClusterIps, Device, Ends, Exclusion,
    Family, Flow, FlowKey, Fragment, FragmentKey, Frontend, FrontendCopy, FrontendKey, Name, NameKey, NodeConfig,
    OwnerCall, Slot, SockDst, SourceKey, UdpPeer, UdpPeers,
};

macro_rules! plain {
    ($($ty:ident),+) => {$(
        // SAFETY: repr(C) of integers and byte arrays only, every bit pattern is valid, zero included.
        unsafe impl bytemuck::Zeroable for $ty {}
        // SAFETY: as above, and no padding (asserted in `layout`).
        unsafe impl bytemuck::Pod for $ty {}
        // SAFETY: as above.
        unsafe impl aya::Pod for $ty {}
    )+};
}

macro_rules! plain_per_family {
    ($($ty:ident),+) => {$(
        // SAFETY: repr(C) of integers and `F::Addr`, which is [u8; 4] or [u8; 16]: every bit pattern is valid.
        unsafe impl<F: Family> bytemuck::Zeroable for $ty<F> {}
        // SAFETY: as above, and no padding (asserted in `layout` for each family).
        unsafe impl<F: Family> bytemuck::Pod for $ty<F> {}
        // SAFETY: as above.
        unsafe impl<F: Family> aya::Pod for $ty<F> {}
    )+};
}

plain!(
    Absent,
    Affinity,
    AffinityKey,
    AgentStatus,
    Answers,
    Device,
    Exclusion,
    Fragment,
    Frontend,
    Name,
    NameKey,
    NodeConfig
);
plain_per_family!(
    Backend,
    ClientAddr,
    ClusterIps,
    Ends,
    Flow,
    FlowKey,
    FragmentKey,
    FrontendCopy,
    FrontendKey,
    OwnerCall,
    Slot,
    SockDst,
    SourceKey,
    UdpPeer,
    UdpPeers
);

#[cfg(feature = "probe")]
// SAFETY: repr(C) of 32-bit integers, byte arrays in multiples of four, and the types above: no padding, and every bit
// pattern is valid.
unsafe impl aya::Pod for crate::probe::Call {}
