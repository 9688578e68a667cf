//! [`Node`] on the machine. Its thread goes from namespace to namespace, so it must do nothing else.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::PathBuf,
};

use lb_common::abi::{ClientAddr, Family, V4, V6};

use super::keeper::{Client, Node, Seen};
use crate::{
    datapath::{bpf::KernelClients, store::ClientStore},
    namespaces::{self, Namespaces, Visitor},
};

/// Where a route is asked for: addresses for documentation (RFC 5737, RFC 3849), outside of every cluster. Nothing is
/// sent there.
const OUTSIDE: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)), 9),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 9),
];

/// The namespaces below a cgroup, and the maps.
pub struct LiveNode {
    cgroup_root: PathBuf,
    maps: KernelClients,
    visitor: Visitor,
}

impl LiveNode {
    /// `cgroup_root` is where the programs are attached.
    ///
    /// # Errors
    /// This process's own network namespace cannot be opened.
    pub fn new(cgroup_root: PathBuf, maps: KernelClients) -> io::Result<Self> {
        Ok(Self { cgroup_root, maps, visitor: Visitor::new()? })
    }
}

impl Node for LiveNode {
    fn has_ranges(&mut self) -> io::Result<bool> {
        self.maps.has_ranges().map_err(io::Error::other)
    }

    fn clients(&mut self) -> io::Result<Seen> {
        let Namespaces { found, trouble, .. } = namespaces::find(&self.cgroup_root)?;
        let mut seen = Seen { clients: BTreeMap::new(), trouble };
        for namespace in found.values() {
            match self.visitor.enter(namespace).and_then(|()| Ok((cookie()?, client()?))) {
                Ok((cookie, client)) => drop(seen.clients.insert(cookie, client)),
                Err(error) => {
                    seen.trouble.get_or_insert(error);
                }
            }
        }
        self.visitor.leave()?;
        Ok(seen)
    }

    fn known(&mut self) -> io::Result<BTreeMap<u64, Client>> {
        let mut known: BTreeMap<u64, Client> = BTreeMap::new();
        for (cookie, client) in ClientStore::<V4>::clients(&self.maps).map_err(io::Error::other)? {
            known.entry(cookie).or_default().v4 = Some(client.addr.into());
        }
        for (cookie, client) in ClientStore::<V6>::clients(&self.maps).map_err(io::Error::other)? {
            known.entry(cookie).or_default().v6 = Some(client.addr.into());
        }
        Ok(known)
    }

    fn put(&mut self, cookie: u64, client: &Client) -> io::Result<()> {
        put::<V4>(&mut self.maps, cookie, client.v4.map(|ip| ip.octets()))?;
        put::<V6>(&mut self.maps, cookie, client.v6.map(|ip| ip.octets()))
    }
}

fn put<F: Family>(maps: &mut impl ClientStore<F>, cookie: u64, addr: Option<F::Addr>) -> io::Result<()> {
    let result = match addr {
        Some(addr) => maps.put_client(cookie, &ClientAddr { addr }),
        None => maps.delete_client(cookie),
    };
    // With its causes: this is all that is told.
    result.map_err(|error| io::Error::other(error.one_line()))
}

/// The cookie of the thread's namespace, which the programs see as that of its sockets.
fn cookie() -> io::Result<u64> {
    namespaces::cookie()?.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOPROTOOPT))
}

/// What connections of the thread's namespace come from.
fn client() -> io::Result<Client> {
    let [v4, v6] = OUTSIDE.map(|outside| match routed(outside) {
        Ok(None) => on_an_interface(outside),
        routed => routed,
    });
    Ok(Client {
        v4: v4?.and_then(|ip| V4::from_ip(ip).map(Ipv4Addr::from)),
        v6: v6?.and_then(|ip| V6::from_ip(ip).map(Ipv6Addr::from)),
    })
}

/// What the kernel would send from: connect(2) on a datagram socket looks the route up and sends nothing. None without
/// a route.
fn routed(outside: SocketAddr) -> io::Result<Option<IpAddr>> {
    let any: IpAddr = if outside.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let Some(socket) = unless_short(UdpSocket::bind((any, 0)))? else { return Ok(None) };
    if unless_short(socket.connect(outside))?.is_none() {
        return Ok(None);
    }
    let ip = socket.local_addr()?.ip();
    Ok(is_usable(ip).then_some(ip))
}

/// None for an error by which the kernel says that there is no such family, address or way. That it has no room for the
/// question says nothing about them.
fn unless_short<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    let is_short = |error: &io::Error| {
        matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
    };
    match result {
        Err(error) if is_short(&error) => Err(error),
        other => Ok(other.ok()),
    }
}

/// For a namespace that has no route to the outside: the first address that others can know it by.
fn on_an_interface(like: SocketAddr) -> io::Result<Option<IpAddr>> {
    let interfaces = nix::ifaddrs::getifaddrs()?;
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    Ok(addresses.filter(|ip| ip.is_ipv4() == like.is_ipv4()).find(|ip| is_usable(*ip)))
}

fn is_usable(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(ip.is_unspecified() || ip.is_loopback() || link_local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_the_namespaces_and_addresses_are_ones_that_others_know() {
        assert_eq!(cookie().unwrap(), cookie().unwrap());
        assert_ne!(cookie().unwrap(), 0);
        let client = client().unwrap();
        let addresses = client.v4.map(IpAddr::from).into_iter().chain(client.v6.map(IpAddr::from));
        assert!(addresses.into_iter().all(is_usable), "{client:?}");
    }

    #[test]
    fn that_there_is_no_room_to_ask_is_not_taken_for_an_answer() {
        let asked = |errno| unless_short::<()>(Err(io::Error::from_raw_os_error(errno)));
        for errno in [libc::EAFNOSUPPORT, libc::ENETUNREACH, libc::EACCES] {
            assert_eq!(asked(errno).unwrap(), None);
        }
        for errno in [libc::EMFILE, libc::ENOBUFS] {
            assert_eq!(asked(errno).unwrap_err().raw_os_error(), Some(errno));
        }
        assert_eq!(unless_short(Ok(7)).unwrap(), Some(7));
    }
}
