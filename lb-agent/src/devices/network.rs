//! This node's network as far as it decides where programs go: links, addresses, default routes. Plain data, filled by
//! [`read`](super::read), and questions to it.

use std::net::IpAddr;

/// What there is in one network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// All links, in the kernel's order.
    pub links: Vec<Link>,
    /// Their addresses, those of each link in the kernel's order: primary ones first.
    pub addresses: Vec<Address>,
    /// Where default routes of any table lead.
    pub default_routes: Vec<DefaultRoute>,
    /// What the kernel said and could not be read, for people.
    pub unread: Vec<String>,
}

/// A network device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name; may change.
    pub name: String,
    /// `IFLA_INFO_KIND`, such as `bridge` or `vxlan`; hardware has none.
    pub kind: Option<String>,
    /// What its frames begin with: ARPHRD_... (linux/if_arp.h).
    pub layer: u16,
    /// IFF_LOOPBACK.
    pub is_loopback: bool,
    /// IFF_UP: the administrator wants it up, whether or not there is a carrier.
    pub is_up: bool,
    /// The bridge, bond or VRF that it is a member of.
    pub master: Option<u32>,
    /// What it is linked to, a veth's peer for one, is in another network namespace (`IFLA_LINK_NETNSID`).
    pub is_peer_elsewhere: bool,
    /// Its root queueing discipline; empty where the kernel does not say.
    pub queue: String,
    /// The largest MTU that it takes; 0 where the kernel does not say.
    pub max_mtu: u32,
}

/// An address on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The link's number.
    pub link: u32,
    /// The address itself, never the peer's.
    pub ip: IpAddr,
    /// Of what use it is as a source.
    pub rank: Rank,
}

/// Of what use an address is as the source of packets to others, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Global scope, and meant to stay.
    Primary,
    /// Global scope, but secondary in its network (of IPv6: temporary).
    Secondary,
    /// Global scope, but no new connection should use it.
    Deprecated,
    /// Not of global scope, or not usable (yet): duplicate, or still being checked for that.
    Unusable,
}

/// A default route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultRoute {
    /// The link that it leads to.
    pub link: u32,
    /// Whether it is for IPv4.
    pub is_v4: bool,
}

impl Network {
    /// The link of that number.
    pub fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// The link of that name.
    pub fn named(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The link that has this address.
    pub fn holder(&self, ip: IpAddr) -> Option<&Link> {
        self.addresses.iter().find(|address| address.ip == ip).and_then(|address| self.link(address.link))
    }

    /// The address of the family that packets from this link should have, if it has one.
    pub fn source(&self, link: u32, is_v4: bool) -> Option<IpAddr> {
        let of_link = self.addresses.iter().filter(|address| address.link == link && address.ip.is_ipv4() == is_v4);
        // Of equals the first: the kernel lists them in the order in which it takes them itself.
        of_link.filter(|address| address.rank != Rank::Unusable).min_by_key(|address| address.rank).map(|best| best.ip)
    }

    /// Whether a default route leads to this link.
    pub fn has_default_route(&self, link: u32) -> bool {
        self.default_routes.iter().any(|route| route.link == link)
    }
}
