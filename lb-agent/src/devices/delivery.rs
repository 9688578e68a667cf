//! How packets for pods get to them: out of the pod's device, or past it, straight into the pod's namespace
//! (`bpf_redirect_peer`). That is shorter, but nothing that is attached to the device on its way out sees them, so it is
//! done only where nothing can be. Pure; [`read`](super::read), [`netfilter`](super::netfilter) and the store tell the facts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::{Duration, Instant},
};

use super::{findings::Foreign, network::Link};

/// So long nothing has to be in the way before packets go past a device: who makes a pod attaches what it attaches soon after
/// it has made the device.
pub(super) const SETTLED: Duration = Duration::from_secs(10);
/// While packets go past a device it is looked at so often: the kernel tells of everything that may come in between but programs
/// by tcx.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// What the kernel gives a veth, and takes back while its peer has an XDP program of its own (`veth_xdp_set` in
/// drivers/net/veth.c). Packets that come past the device meet none of these.
const MAX_MTU: u32 = 65_535;

/// `--pod-delivery`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum PodDelivery {
    /// Past the device where nothing is in the way.
    Auto,
    /// Out of the device.
    Device,
}

/// Why packets leave by a pod's device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// `--pod-delivery device`.
    NotWanted,
    /// Only a veth has a peer.
    NotAVeth,
    /// The peer is in the node's own namespace, or not told. The kernel drops what is redirected to such a peer.
    PeerIsHere,
    /// It is part of another device, which sees its packets.
    Member,
    /// It is down, which stops packets that leave by it.
    Down,
    /// It has a queueing discipline, which may limit bandwidth.
    Queue(String),
    /// Its peer has an XDP program.
    PeerHasXdp,
    /// Another's program or filter is at its egress.
    Other(String),
    /// What is at its egress is not known.
    Unknown,
    /// nftables has chains at the egress of devices, of this one or of others.
    Chains,
    /// Whether it has is not known, and why.
    UnknownChains(String),
    /// All is well, but not yet for long.
    Unsettled,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotWanted => f.write_str("--pod-delivery device"),
            Self::NotAVeth => f.write_str("it is no veth"),
            Self::PeerIsHere => f.write_str("its peer is not in another network namespace"),
            Self::Member => f.write_str("it is a member of another device"),
            Self::Down => f.write_str("it is down"),
            Self::Queue(kind) => write!(f, "it has the queueing discipline {kind}"),
            Self::PeerHasXdp => f.write_str("its peer has an XDP program"),
            Self::Other(what) => write!(f, "{what} is at its egress"),
            Self::Unknown => f.write_str("what is at its egress is not known"),
            Self::Chains => f.write_str("nftables has chains at the egress of devices"),
            Self::UnknownChains(why) => write!(f, "the chains of nftables cannot be listed ({why})"),
            Self::Unsettled => write!(f, "nothing is in the way, but not yet for {} seconds", SETTLED.as_secs()),
        }
    }
}

/// What nftables has at the egress of devices (family `netdev`, Linux 5.16 and later).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chains {
    /// Nothing.
    None,
    /// Something, of whichever device.
    Some,
    /// The kernel does not tell.
    Unknown(String),
}

/// What is in the way past a pod-facing device, if anything is. `others` is what others have at its hooks, where that is known.
pub fn obstacle(link: &Link, others: Option<&[Foreign]>, chains: &Chains) -> Option<Obstacle> {
    if link.kind.as_deref() != Some("veth") {
        return Some(Obstacle::NotAVeth);
    }
    if !link.is_peer_elsewhere {
        return Some(Obstacle::PeerIsHere);
    }
    if link.master.is_some() {
        return Some(Obstacle::Member);
    }
    if !link.is_up {
        return Some(Obstacle::Down);
    }
    if link.queue != "noqueue" {
        return Some(Obstacle::Queue(link.queue.clone()));
    }
    if link.max_mtu != MAX_MTU {
        return Some(Obstacle::PeerHasXdp);
    }
    let Some(others) = others else {
        return Some(Obstacle::Unknown);
    };
    // What is at its ingress sees the pod's own packets as before.
    if let Some(other) = others.iter().find(|other| other.hook == "egress") {
        return Some(Obstacle::Other(other.what.clone()));
    }
    match chains {
        Chains::None => None,
        Chains::Some => Some(Obstacle::Chains),
        Chains::Unknown(why) => Some(Obstacle::UnknownChains(why.clone())),
    }
}

/// What is in the way past each pod-facing device, if anything is, by number.
pub(super) type Ways = BTreeMap<u32, Option<Obstacle>>;

/// Since when nothing is in the way past which device.
#[derive(Debug, Default)]
pub(super) struct Settling {
    clear_since: BTreeMap<u32, Instant>,
}

impl Settling {
    /// What is in the way past each device now, given what is seen there; and when to look again. `open` are those that packets
    /// go past already, by this agent's doing or an earlier one's: they need not settle.
    pub(super) fn look(&mut self, seen: Ways, open: &BTreeSet<u32>, now: Instant) -> (Ways, Option<Instant>) {
        self.clear_since.retain(|index, _| matches!(seen.get(index), Some(None)));
        let mut again = Vec::new();
        let mut settle = |index: u32| {
            let since = *self.clear_since.entry(index).or_insert(now);
            if open.contains(&index) || now.duration_since(since) >= SETTLED {
                again.push(now + LOOK_AGAIN);
                return None;
            }
            again.push(since + SETTLED);
            Some(Obstacle::Unsettled)
        };
        let ways = seen.into_iter().map(|(index, obstacle)| (index, obstacle.or_else(|| settle(index)))).collect();
        (ways, again.into_iter().min())
    }
}

#[cfg(test)]
#[path = "delivery_tests.rs"]
pub(super) mod tests;
