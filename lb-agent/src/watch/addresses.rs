//! The addresses of the interfaces in this process's own network namespace, and their changes, as [`Event`]s. All are read
//! again at each change, see [`changes`](crate::netlink::changes).

use std::{collections::BTreeSet, io, net::IpAddr};

use nix::{ifaddrs::getifaddrs, sys::socket::SockaddrStorage};
use tokio::sync::mpsc;

use super::Message;
use crate::{
    event::Event,
    netlink::changes::{Changes, Of},
};

/// A watch on the addresses of this network namespace.
#[derive(Debug)]
pub struct Addresses {
    /// Opened before the first list is read, so that no change is missed.
    changes: Changes,
}

impl Addresses {
    /// Begins to watch.
    ///
    /// # Errors
    /// The kernel gives no rtnetlink socket.
    pub fn open() -> io::Result<Self> {
        Ok(Self { changes: Changes::open(Of::Addresses)? })
    }

    /// Sends all addresses, and all of them again after each change, until the receiver is closed.
    ///
    /// # Errors
    /// The addresses cannot be read any more.
    pub async fn run(self, tx: mpsc::Sender<Message>) -> io::Result<()> {
        let changes = self.changes.listen()?;
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
                changed = changes.changed() => drop(changed?),
            }
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
