//! The news that links, addresses or default routes of this network namespace changed, or what is attached to links by TC or by
//! nftables.
//!
//! The kernel tells of each change by rtnetlink and nfnetlink. What it says is taken as a hint only, and whoever is interested reads the
//! state anew: so a message that got lost (the kernel says so by ENOBUFS) costs nothing, and there is one way to know the
//! state. Which links were told of is passed on, for those who are in a hurry with some of them.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, bind, netlink::SocketAddrNetlink, recv,
        socket_with,
    },
};
use tokio::io::{Interest, unix::AsyncFd};
use tracing::warn;

use super::chains;

/// Number 0 of the netlink families, which rustix writes as no number.
const NETLINK_ROUTE: Option<Protocol> = None;

/// Changes of links, addresses and routes (linux/rtnetlink.h).
const RTMGRP_LINK: u32 = 0x1;
/// Queueing disciplines and filters.
const RTMGRP_TC: u32 = 0x8;
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTMGRP_IPV4_ROUTE: u32 = 0x40;
const RTMGRP_IPV6_IFADDR: u32 = 0x100;
const RTMGRP_IPV6_ROUTE: u32 = 0x400;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
/// The name of a link, the first of its attributes (`rtnl_fill_ifinfo` in net/core/rtnetlink.c).
const IFLA_IFNAME: u16 = 3;

/// Of what to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Addresses.
    Addresses,
    /// Links, what is attached to them by TC, addresses and default routes; there may be very many other routes.
    Devices,
    /// The same and what is attached to links by nftables. As soon as anybody listens, the kernel tells of every element of a
    /// transaction, which makes those of others take longer.
    DevicesAndChains,
}

impl Of {
    fn groups(self) -> u32 {
        let addresses = RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR;
        match self {
            Self::Addresses => addresses,
            Self::Devices | Self::DevicesAndChains => {
                addresses | RTMGRP_LINK | RTMGRP_TC | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE
            }
        }
    }
}

/// Sockets that the kernel tells of changes. Open them before the state is read first, so that no change is missed.
#[derive(Debug)]
pub struct Changes {
    route: OwnedFd,
    /// None where nobody is interested, or the kernel does not tell.
    chains: Option<OwnedFd>,
}

impl Changes {
    /// Of the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel gives no rtnetlink socket.
    pub fn open(of: Of) -> io::Result<Self> {
        let route = listener(NETLINK_ROUTE, of.groups())?;
        let chains = match of {
            // The rest is as important as without: chains are also met by looking now and then.
            Of::DevicesAndChains => chains::open().unwrap_or_else(|error| {
                warn!("the kernel does not tell of chains of nftables that come to devices: {error}");
                None
            }),
            Of::Addresses | Of::Devices => None,
        };
        Ok(Self { route, chains })
    }

    /// To be waited on, in a tokio runtime.
    ///
    /// # Errors
    /// The runtime does not take it.
    pub fn listen(self) -> io::Result<Listening> {
        Ok(Listening { route: register(self.route)?, chains: self.chains.map(register).transpose()? })
    }
}

/// A socket that is told of what these groups of a netlink family are told of.
pub(super) fn listener(family: Option<Protocol>, groups: u32) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, family)?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

fn register(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open as long as it lives, and always the same.
    let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    Ok(registered?)
}

/// [`Changes`] in a runtime.
#[derive(Debug)]
pub struct Listening {
    route: AsyncFd<OwnedFd>,
    chains: Option<AsyncFd<OwnedFd>>,
}

impl Listening {
    /// Returns after the next change, and with all that were told by then: the links among them that are new or changed.
    /// May be dropped and called again.
    ///
    /// # Errors
    /// A socket is broken.
    pub async fn changed(&self) -> io::Result<Vec<LinkRef>> {
        tokio::select! {
            links = told::<ROUTE_MESSAGE>(&self.route, of_route) => links,
            none = told_of_chains(self.chains.as_ref()) => none,
        }
    }
}

async fn told_of_chains(socket: Option<&AsyncFd<OwnedFd>>) -> io::Result<Vec<LinkRef>> {
    let heed = |datagram: &[u8]| chains::is_of_a_devices_chain(datagram).then(Vec::new);
    match socket {
        Some(socket) => told::<{ chains::DATAGRAM }>(socket, heed).await,
        None => std::future::pending().await,
    }
}

/// Returns after the next datagrams of which one matters, with all links of these. `heed` says of one what [`drain`] asks.
async fn told<const LEN: usize>(
    socket: &AsyncFd<OwnedFd>,
    heed: impl Fn(&[u8]) -> Option<Vec<LinkRef>>,
) -> io::Result<Vec<LinkRef>> {
    loop {
        let mut ready = socket.readable().await?;
        let told = drain::<LEN>(ready.get_inner(), &heed)?;
        ready.clear_ready();
        if let Some(links) = told {
            return Ok(links);
        }
    }
}

/// A link that was told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkRef {
    /// Its number.
    pub index: u32,
    /// Its name at that moment.
    pub name: String,
}

/// Takes what was told so far: the links, or `None` where nothing of it matters. `heed` says the same of one datagram, of which it
/// gets `LEN` bytes at most.
fn drain<const LEN: usize>(
    socket: impl AsFd,
    heed: impl Fn(&[u8]) -> Option<Vec<LinkRef>>,
) -> io::Result<Option<Vec<LinkRef>>> {
    let mut datagram = [0; LEN];
    let mut told = None;
    loop {
        match recv(&socket, &mut datagram[..], RecvFlags::empty()) {
            Ok((_, length)) => {
                if let Some(links) = heed(datagram.get(..length).unwrap_or(&datagram)) {
                    told.get_or_insert_with(Vec::new).extend(links);
                }
            }
            // Messages were lost: there are changes, then.
            Err(Errno::NOBUFS) => drop(told.get_or_insert_with(Vec::new)),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(told),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Bytes of a message of rtnetlink that are looked at: the rest may be cut off.
const ROUTE_MESSAGE: usize = 512;

/// What a message of rtnetlink says, see [`drain`].
fn of_route(message: &[u8]) -> Option<Vec<LinkRef>> {
    (!is_of_another_route(message)).then(|| link(message).into_iter().collect())
}

/// Its notifications come one to a datagram, which begins with `struct nlmsghdr`: its type at byte 4.
fn kind(message: &[u8]) -> Option<u16> {
    message.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes)
}

/// Whether the message is about a route that is no default route: `struct rtmsg` has the length of the destination at byte
/// 1.
fn is_of_another_route(message: &[u8]) -> bool {
    let is_route = matches!(kind(message), Some(RTM_NEWROUTE | RTM_DELROUTE));
    is_route && message.get(17).is_some_and(|destination_length| *destination_length != 0)
}

/// The link that a message says is there: `struct ifinfomsg` with its number at byte 4, then attributes.
fn link(message: &[u8]) -> Option<LinkRef> {
    if kind(message) != Some(RTM_NEWLINK) {
        return None;
    }
    let index = message.get(20..24).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes)?;
    let name = super::attribute(message.get(32..)?, IFLA_IFNAME)?;
    let name = std::str::from_utf8(name).ok()?.trim_end_matches('\0').to_owned();
    Some(LinkRef { index, name })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, second_byte: u8) -> Vec<u8> {
        let mut message = vec![0; 28];
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        message[17] = second_byte;
        message
    }

    #[test]
    fn routes_to_pods_are_nobodys_business_and_all_else_is() {
        assert!(is_of_another_route(&message(RTM_NEWROUTE, 32)));
        assert!(is_of_another_route(&message(RTM_DELROUTE, 128)));
        assert!(!is_of_another_route(&message(RTM_DELROUTE, 0)), "the default route");
        assert!(!is_of_another_route(&message(RTM_NEWLINK, 32)));
        assert!(!is_of_another_route(&[]), "what is not understood may matter");
    }

    #[test]
    fn a_link_is_told_by_number_and_name_also_where_the_rest_is_cut_off() {
        let mut message = message(RTM_NEWLINK, 0);
        message.resize(32, 0);
        message[20..24].copy_from_slice(&7_u32.to_ne_bytes());
        let attribute =
            |kind: u16, length: u16, value: &[u8]| [&length.to_ne_bytes()[..], &kind.to_ne_bytes()[..], value].concat();
        message.extend(attribute(IFLA_IFNAME, 9, b"eth0\0\0\0\0"));
        message.extend(attribute(99, 4000, b"cut"));
        assert_eq!(link(&message), Some(LinkRef { index: 7, name: "eth0".to_owned() }));
        assert_eq!(link(&message[..32]), None, "no name");
        message[4] = 17;
        assert_eq!(link(&message), None, "RTM_DELLINK");
    }
}
