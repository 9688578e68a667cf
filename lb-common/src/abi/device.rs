//! `lb_devices`, `lb_node`, `lb_answers`: what the packet layer knows about its devices and about the node.

use super::Family;

/// Bits of [`Device::flags`]. Readers must ignore bits they do not know.
pub mod device_flags {
    /// Leads out of the node: the sources of its packets are clients outside.
    pub const UPLINK: u32 = 1;
    /// Leads to pods of this node, seen from the host's side: the sources of its packets are pods.
    pub const POD: u32 = 2;
    /// Without link-layer header (wireguard, tun): a frame begins with the IP header.
    pub const L3: u32 = 4;
    /// Nothing but our own program is on the way out of this device to its peer, which is in a pod's namespace: packets may
    /// be put behind it (`bpf_redirect_peer`). Only of a veth with [`POD`].
    pub const PEER: u32 = 8;
}

/// Value of `lb_devices`, keyed by interface index (`u32`). That there is an entry says that our programs are on the
/// device, at ingress and at egress: a packet that comes or goes here is translated back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C, align(4))]
pub struct Device {
    /// The source of packets that leave here under the node's name where the kernel does not tell a better one, wire order; zero:
    /// the node's primary address.
    pub addr4: [u8; 4],
    /// As `addr4`, IPv6.
    pub addr6: [u8; 16],
    /// See [`device_flags`].
    pub flags: u32,
}

impl Device {
    /// The address of a family.
    #[inline(always)]
    pub fn addr<F: Family>(&self) -> F::Addr {
        F::of(self.addr4, self.addr6)
    }
}

/// The one element of `lb_node`. All zero, as in a new map, no flow gets another source address, and nothing is refused
/// but silently dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C, align(4))]
pub struct NodeConfig {
    /// The node's primary address, wire order; zero: it has none of this family.
    pub addr4: [u8; 4],
    /// As `addr4`, IPv6.
    pub addr6: [u8; 16],
    /// The first of the ports that flows under the node's name get, host byte order. Not 0 in a range that can be used.
    pub snat_first: u16,
    /// The last of them, host byte order.
    pub snat_last: u16,
    /// How many refusals and other ICMP errors one processor may send in a second.
    pub answers_per_s: u32,
    /// Always 0 so far. Readers must ignore bits they do not know.
    pub flags: u32,
}

impl NodeConfig {
    /// The primary address of a family.
    #[inline(always)]
    pub fn addr<F: Family>(&self) -> F::Addr {
        F::of(self.addr4, self.addr6)
    }
}

/// Default of [`NodeConfig::snat_first`]. 20,000 ports below the NodePorts (30000 to 32767) and the default
/// `net.ipv4.ip_local_port_range` (32768 to 60999), out of which the node's own connections get their ports. A flow is
/// told by both of its ends, so a server of the node that listens on one of them is not in the way.
pub const SNAT_FIRST: u16 = 10_000;
/// Default of [`NodeConfig::snat_last`].
pub const SNAT_LAST: u16 = 29_999;
/// Default of [`NodeConfig::answers_per_s`], the kernel's own limit for ICMP (`net.ipv4.icmp_msgs_per_sec`).
pub const ANSWERS_PER_S: u32 = 1_000;

/// The one element of `lb_answers`, a per-CPU array: how many answers were sent in the current second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Answers {
    /// Which second of the monotonic clock.
    pub second: u32,
    /// How many in it so far.
    pub sent: u32,
}
