//! The addresses of the interfaces in this process's own network namespace, and their changes, as [`Event`]s.
//!
//! The kernel tells of each change by rtnetlink. What it says is taken as a hint only, and all addresses are read again:
//! so a message that got lost (the kernel says so by ENOBUFS) costs nothing, and there is one way to know the state.

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
};

use nix::{ifaddrs::getifaddrs, sys::socket::SockaddrStorage};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, bind, netlink::SocketAddrNetlink, recv,
        socket_with,
    },
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
};

use super::Message;
use crate::event::Event;

/// `RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR` (linux/rtnetlink.h).
const GROUPS: u32 = 0x10 | 0x100;
/// Number 0 of the netlink families, which rustix writes as no number.
const NETLINK_ROUTE: Option<Protocol> = None;

/// A watch on the addresses of this network namespace.
#[derive(Debug)]
pub struct Addresses {
    /// Opened before the first list is read, so that no change is missed.
    changes: OwnedFd,
}

impl Addresses {
    /// Begins to watch.
    ///
    /// # Errors
    /// The kernel gives no rtnetlink socket.
    pub fn open() -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let changes = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, NETLINK_ROUTE)?;
        bind(&changes, &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(Self { changes })
    }

    /// Sends all addresses, and all of them again after each change, until the receiver is closed.
    ///
    /// # Errors
    /// The addresses cannot be read any more.
    pub async fn run(self, tx: mpsc::Sender<Message>) -> io::Result<()> {
        // SAFETY: an `OwnedFd` is open as long as it lives, and always the same.
        let changes = unsafe { AsyncFd::register_with_interest(self.changes, Interest::READABLE) }?;
        let mut sent = None;
        loop {
            let now = read()?;
            if sent.as_ref() != Some(&now) {
                sent = Some(now.clone());
                if tx.send(Message::Event(Event::AddressesChanged(now))).await.is_err() {
                    return Ok(());
                }
            }
            tokio::select! {
                () = tx.closed() => return Ok(()),
                ready = changes.readable() => {
                    let mut ready = ready?;
                    drain(ready.get_inner())?;
                    ready.clear_ready();
                }
            }
        }
    }
}

/// Throws away what was told so far.
fn drain(socket: impl AsFd) -> io::Result<()> {
    // Messages that do not fit are cut off, which is as good.
    let mut message = [0; 512];
    loop {
        match recv(&socket, &mut message[..], RecvFlags::empty()) {
            // Messages were lost: there are changes, then, and all will be read.
            Ok(_) | Err(Errno::INTR | Errno::NOBUFS) => {}
            Err(Errno::AGAIN) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// All addresses of this network namespace, but for link-local ones of IPv6: those mean something only together with an
/// interface, and one comes and goes with each pod.
fn read() -> io::Result<BTreeSet<IpAddr>> {
    let ip = |address: &SockaddrStorage| -> Option<IpAddr> {
        let v4 = address.as_sockaddr_in().map(|v4| v4.ip().into());
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
    };
    let is_link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let all = getifaddrs()?.filter_map(|interface| ip(interface.address.as_ref()?));
    Ok(all.filter(|ip| !is_link_local(ip)).collect())
}
