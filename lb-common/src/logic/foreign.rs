//! The first look at a packet. Most packets on a node are none of ours, and should not pay for those that are: what is certainly
//! foreign is told by a few bytes of its headers and two bits ([`crate::abi::Absent`]), without a lookup in a hash map.
//!
//! Says nothing else: whoever is not certainly foreign is looked at by [`super::forward`], which would leave those alone, too,
//! that are turned away here.

use super::seam::{Known, Maps};
use crate::{
    abi::Place,
    packet::{
        Packet,
        glance::{Glance, Glanced},
    },
};

/// Whether a packet that came in by a device is certainly none of ours.
#[inline(always)]
pub fn arrives<F, K, P>(kernel: &K, packet: &P) -> bool
where
    F: Glanced,
    K: Known<F> + Maps<F>,
    P: Packet,
{
    match F::glance(packet) {
        Glance::Unclear => false,
        // No Service answers it, which at a ClusterIP is said.
        Glance::Other { dst } => !is_in_cluster_ips(kernel, dst),
        Glance::Ends { src, dst } => {
            // All packets of a flow's client go to a frontend, or what was one when the flow began.
            !kernel.may_be_frontend(Place::of(dst))
                && !kernel.may_be_backend(Place::of(src))
                // Of ClusterIPs the ports that no Service has are ours, too.
                && !is_in_cluster_ips(kernel, dst.addr)
        }
    }
}

#[inline(always)]
fn is_in_cluster_ips<F: Glanced, K: Maps<F>>(kernel: &K, addr: F::Addr) -> bool {
    kernel.cluster_ips().is_some_and(|all| all.contains(addr))
}

/// Whether a packet that is about to leave by a device is certainly none of ours: no backend's.
#[inline(always)]
pub fn leaves<F, K, P>(kernel: &K, packet: &P) -> bool
where
    F: Glanced,
    K: Known<F>,
    P: Packet,
{
    match F::glance(packet) {
        Glance::Unclear => false,
        Glance::Other { .. } => true,
        Glance::Ends { src, .. } => !kernel.may_be_backend(Place::of(src)),
    }
}
