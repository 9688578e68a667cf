//! The news that links, addresses or default routes of this network namespace changed.
//!
//! The kernel tells of each change by rtnetlink. What it says is taken as a hint only, and whoever is interested reads the
//! state anew: so a message that got lost (the kernel says so by ENOBUFS) costs nothing, and there is one way to know the
//! state.

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

/// Number 0 of the netlink families, which rustix writes as no number.
const NETLINK_ROUTE: Option<Protocol> = None;

/// Changes of links, addresses and routes (linux/rtnetlink.h).
const RTMGRP_LINK: u32 = 0x1;
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTMGRP_IPV4_ROUTE: u32 = 0x40;
const RTMGRP_IPV6_IFADDR: u32 = 0x100;
const RTMGRP_IPV6_ROUTE: u32 = 0x400;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;

/// Of what to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Addresses.
    Addresses,
    /// Links, addresses and default routes; there may be very many other routes.
    Devices,
}

impl Of {
    fn groups(self) -> u32 {
        let addresses = RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR;
        match self {
            Self::Addresses => addresses,
            Self::Devices => addresses | RTMGRP_LINK | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE,
        }
    }
}

/// A socket that the kernel tells of changes. Open it before the state is read first, so that no change is missed.
#[derive(Debug)]
pub struct Changes {
    socket: OwnedFd,
}

impl Changes {
    /// Of the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel gives no rtnetlink socket.
    pub fn open(of: Of) -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, NETLINK_ROUTE)?;
        bind(&socket, &SocketAddrNetlink::new(0, of.groups()))?;
        Ok(Self { socket })
    }

    /// To be waited on, in a tokio runtime.
    ///
    /// # Errors
    /// The runtime does not take it.
    pub fn listen(self) -> io::Result<Listening> {
        // SAFETY: an `OwnedFd` is open as long as it lives, and always the same.
        let socket = unsafe { AsyncFd::register_with_interest(self.socket, Interest::READABLE) }?;
        Ok(Listening { socket })
    }
}

/// [`Changes`] in a runtime.
#[derive(Debug)]
pub struct Listening {
    socket: AsyncFd<OwnedFd>,
}

impl Listening {
    /// Returns after the next change, and with all that were told by then. May be dropped and called again.
    ///
    /// # Errors
    /// The socket is broken.
    pub async fn changed(&self) -> io::Result<()> {
        loop {
            let mut ready = self.socket.readable().await?;
            let matters = drain(ready.get_inner())?;
            ready.clear_ready();
            if matters {
                return Ok(());
            }
        }
    }
}

/// Throws away what was told so far; whether any of it matters.
fn drain(socket: impl AsFd) -> io::Result<bool> {
    // Messages that do not fit are cut off, which is as good: only the beginning is looked at.
    let mut message = [0; 512];
    let mut matters = false;
    loop {
        match recv(&socket, &mut message[..], RecvFlags::empty()) {
            Ok((_, length)) => matters |= !is_of_another_route(message.get(..length).unwrap_or(&message)),
            // Messages were lost: there are changes, then.
            Err(Errno::NOBUFS) => matters = true,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(matters),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether the message is about a route that is no default route. Notifications come one to a datagram: `struct nlmsghdr`
/// with its type at byte 4, then `struct rtmsg` with the length of the destination at byte 1.
fn is_of_another_route(message: &[u8]) -> bool {
    let kind = message.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let is_route = matches!(kind, Some(RTM_NEWROUTE | RTM_DELROUTE));
    is_route && message.get(17).is_some_and(|destination_length| *destination_length != 0)
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
        const RTM_NEWLINK: u16 = 16;
        assert!(is_of_another_route(&message(RTM_NEWROUTE, 32)));
        assert!(is_of_another_route(&message(RTM_DELROUTE, 128)));
        assert!(!is_of_another_route(&message(RTM_DELROUTE, 0)), "the default route");
        assert!(!is_of_another_route(&message(RTM_NEWLINK, 32)));
        assert!(!is_of_another_route(&[]), "what is not understood may matter");
    }
}
