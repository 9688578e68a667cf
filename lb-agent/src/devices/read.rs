//! Reads the [`Network`] by rtnetlink(7). Decides nothing.

use std::{io, net::IpAddr};

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    route::{RouteAttribute, RouteMessage, RouteType},
};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::network::{Address, DefaultRoute, Link, Network, Rank};
use crate::netlink::Conversation;

/// RT_TABLE_LOCAL: the kernel's own table of local addresses.
const TABLE_LOCAL: u8 = 255;

/// All of it, in the calling thread's network namespace.
///
/// # Errors
/// The kernel does not answer.
pub fn network() -> io::Result<Network> {
    let mut kernel = Conversation::open(NETLINK_ROUTE)?;
    let mut network = Network::default();
    dump(&mut kernel, RouteNetlinkMessage::GetLink(LinkMessage::default()), &mut network)?;
    dump(&mut kernel, RouteNetlinkMessage::GetAddress(AddressMessage::default()), &mut network)?;
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        dump(&mut kernel, RouteNetlinkMessage::GetRoute(request), &mut network)?;
    }
    Ok(network)
}

fn dump(kernel: &mut Conversation, request: RouteNetlinkMessage, network: &mut Network) -> io::Result<()> {
    kernel.send(request, NLM_F_DUMP)?;
    kernel.replies(|message| {
        match message {
            Ok(RouteNetlinkMessage::NewLink(message)) => network.links.push(link(message)),
            Ok(RouteNetlinkMessage::NewAddress(message)) => network.addresses.extend(address(&message)),
            Ok(RouteNetlinkMessage::NewRoute(message)) => network.default_routes.extend(default_routes(&message)),
            Ok(_) => {}
            Err(error) => network.unread.push(error.to_string()),
        }
        Ok(())
    })
}

fn link(message: LinkMessage) -> Link {
    let header = &message.header;
    let mut link = Link {
        index: header.index,
        layer: header.link_layer_type.into(),
        is_loopback: header.flags.contains(LinkFlags::Loopback),
        is_up: header.flags.contains(LinkFlags::Up),
        ..Link::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Controller(master) => link.master = Some(master),
            LinkAttribute::LinkInfo(infos) => link.kind = infos.iter().find_map(kind),
            LinkAttribute::LinkNetNsId(_) => link.is_peer_elsewhere = true,
            LinkAttribute::Qdisc(kind) => link.queue = kind,
            LinkAttribute::MaxMtu(bytes) => link.max_mtu = bytes,
            _ => {}
        }
    }
    link
}

fn kind(info: &LinkInfo) -> Option<String> {
    if let LinkInfo::Kind(kind) = info { Some(kind.to_string()) } else { None }
}

fn address(message: &AddressMessage) -> Option<Address> {
    let (mut local, mut other) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => other = Some(*ip),
            // All of them; the header has room for the first eight.
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    // Where both are there, the other one is the peer's (`struct ifaddrmsg` in linux/if_addr.h).
    let ip: IpAddr = local.or(other)?;
    Some(Address { link: message.header.index, ip, rank: rank(message.header.scope, flags) })
}

fn rank(scope: AddressScope, flags: AddressFlags) -> Rank {
    let unusable = AddressFlags::Tentative | AddressFlags::Dadfailed;
    if !matches!(scope, AddressScope::Universe | AddressScope::Site) || flags.intersects(unusable) {
        Rank::Unusable
    } else if flags.contains(AddressFlags::Deprecated) {
        Rank::Deprecated
    } else if flags.contains(AddressFlags::Secondary) {
        Rank::Secondary
    } else {
        Rank::Primary
    }
}

fn default_routes(message: &RouteMessage) -> Vec<DefaultRoute> {
    let header = &message.header;
    let is_default = header.destination_prefix_length == 0 && header.kind == RouteType::Unicast;
    if !is_default || header.table == TABLE_LOCAL {
        return Vec::new();
    }
    let is_v4 = header.address_family == AddressFamily::Inet;
    let links = message.attributes.iter().flat_map(|attribute| match attribute {
        RouteAttribute::Oif(link) => vec![*link],
        RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
        _ => Vec::new(),
    });
    links.map(|link| DefaultRoute { link, is_v4 }).collect()
}
