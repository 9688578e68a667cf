//! A simulated socket: its storage, and the system calls as far as our hooks take part in them.

use std::{
    cell::{Cell, RefCell},
    net::{IpAddr, SocketAddr},
};

use super::SimNode;
use crate::{
    abi::{Endpoint, Family, Proto, SockDst, UdpPeers, V4, V6, map_v4, mapped_v4},
    logic::{
        bind::{self, Bind},
        mapped,
        socket::{self, Verdict},
    },
};

/// The two values that a socket can hold for one family.
#[derive(Debug)]
pub(super) struct Storage<F: Family> {
    pub(super) translation: Cell<Option<SockDst<F>>>,
    pub(super) peers: RefCell<Option<UdpPeers<F>>>,
}

impl<F: Family> Default for Storage<F> {
    fn default() -> Self {
        Self { translation: Cell::new(None), peers: RefCell::new(None) }
    }
}

/// The first argument of socket(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// `AF_INET`.
    Inet,
    /// `AF_INET6`, able to reach IPv4 through mapped addresses.
    Inet6,
}

/// ECONNREFUSED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// EADDRINUSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InUse;

/// A socket of a process on the node.
#[derive(Debug)]
pub struct SimSocket {
    domain: Domain,
    proto: Proto,
    peer: Cell<Option<SocketAddr>>,
    /// The cookie of the network namespace that the socket is in.
    pub netns: Cell<u64>,
    /// The cgroups that the calling process is in, from the root down, by their ids.
    pub cgroups: RefCell<Vec<u64>>,
    /// Whether the kernel refuses to allocate new storage for this socket.
    pub no_memory: Cell<bool>,
    pub(super) v4: Storage<V4>,
    pub(super) v6: Storage<V6>,
}

impl SimSocket {
    /// The cookie of the node's own network namespace, unless the node says otherwise. Where new sockets are.
    pub const HOST_NETNS: u64 = 1;

    /// The id of the root of cgroup2, in the kernel as here.
    pub const ROOT_CGROUP: u64 = 1;

    /// socket(2) of a process on the node itself.
    pub fn new(domain: Domain, proto: Proto) -> Self {
        Self {
            domain,
            proto,
            peer: Cell::new(None),
            netns: Cell::new(Self::HOST_NETNS),
            cgroups: RefCell::new(vec![Self::ROOT_CGROUP]),
            no_memory: Cell::new(false),
            v4: Storage::default(),
            v6: Storage::default(),
        }
    }

    /// The same in a pod's network namespace.
    #[must_use]
    pub fn in_netns(self, cookie: u64) -> Self {
        self.netns.set(cookie);
        self
    }

    /// An `AF_INET` or `AF_INET6` socket, whichever `destination` needs.
    pub fn for_destination(destination: IpAddr, proto: Proto) -> Self {
        Self::new(if destination.is_ipv4() { Domain::Inet } else { Domain::Inet6 }, proto)
    }

    /// bind(2), as far as Services are concerned.
    pub fn bind(&self, node: &SimNode, to: SocketAddr) -> Result<(), InUse> {
        let kernel = node.kernel(self);
        let port = to.port();
        let answer = match to.ip() {
            IpAddr::V4(ip) => bind::v4(&kernel, Endpoint { addr: ip.octets(), port }, self.proto),
            IpAddr::V6(ip) => bind::v6(&kernel, Endpoint { addr: ip.octets(), port }, self.proto),
        };
        match answer {
            Bind::Allow => Ok(()),
            Bind::InUse => Err(InUse),
        }
    }

    /// connect(2): where the connection really goes. Whether anybody answers there is not simulated.
    pub fn connect(&self, node: &SimNode, to: SocketAddr) -> Result<SocketAddr, Refused> {
        let kernel = node.kernel(self);
        let port = to.port();
        let verdict = match to.ip() {
            // connect4 runs for an AF_INET6 UDP socket that is given an AF_INET address, too (udpv6_pre_connect).
            IpAddr::V4(ip) => turn(socket::connect::<V4, _>(&kernel, Endpoint { addr: ip.octets(), port }, self.proto)),
            IpAddr::V6(ip) => turn(mapped::connect(&kernel, Endpoint { addr: ip.octets(), port }, self.proto)),
        };
        let peer = outcome(verdict, to)?;
        self.peer.set(Some(peer));
        Ok(peer)
    }

    /// connect(2) to `AF_UNSPEC`: no hook sees it.
    pub fn disconnect(&self) {
        self.peer.set(None);
    }

    /// sendto(2) with an address: where the datagram really goes.
    pub fn send_to(&self, node: &SimNode, to: SocketAddr) -> Result<SocketAddr, Refused> {
        let kernel = node.kernel(self);
        let verdict = match to.ip() {
            IpAddr::V4(ip) => turn(socket::sendmsg::<V4, _>(&kernel, Endpoint { addr: ip.octets(), port: to.port() })),
            IpAddr::V6(ip) => match mapped_v4(ip.octets()) {
                // udpv6_sendmsg turns a mapped destination into an IPv4 one before any hook.
                Some(addr) => remap(turn(socket::sendmsg::<V4, _>(&kernel, Endpoint { addr, port: to.port() }))),
                None => turn(socket::sendmsg::<V6, _>(&kernel, Endpoint { addr: ip.octets(), port: to.port() })),
            },
        };
        outcome(verdict, to)
    }

    /// recvfrom(2): the sender that the application sees for a datagram that came from `from`.
    pub fn recv_from(&self, node: &SimNode, from: SocketAddr) -> SocketAddr {
        let kernel = node.kernel(self);
        let port = from.port();
        let shown = match from.ip() {
            IpAddr::V4(ip) => socket::recvmsg::<V4, _>(&kernel, Endpoint { addr: ip.octets(), port }).map(address),
            IpAddr::V6(ip) => mapped::recvmsg(&kernel, Endpoint { addr: ip.octets(), port }).map(address),
        };
        shown.unwrap_or(from)
    }

    /// getpeername(2); `None` where the socket has no peer (ENOTCONN).
    pub fn peer_name(&self, node: &SimNode) -> Option<SocketAddr> {
        let kernel = node.kernel(self);
        let peer = self.peer.get()?;
        let port = peer.port();
        let shown = match peer.ip() {
            IpAddr::V4(ip) if self.domain == Domain::Inet => {
                socket::peername::<V4>(&kernel, Endpoint { addr: ip.octets(), port }).map(address)
            }
            IpAddr::V4(ip) => mapped::peername(&kernel, Endpoint { addr: map_v4(ip.octets()), port }).map(address),
            IpAddr::V6(ip) => mapped::peername(&kernel, Endpoint { addr: ip.octets(), port }).map(address),
        };
        Some(shown.unwrap_or(peer))
    }

    /// Whether it has a peer.
    pub fn is_connected(&self) -> bool {
        self.peer.get().is_some()
    }

    /// What the storage says about its IPv4 translation.
    pub fn translation4(&self) -> Option<SockDst<V4>> {
        self.v4.translation.get()
    }

    /// What the storage says about its IPv6 translation.
    pub fn translation6(&self) -> Option<SockDst<V6>> {
        self.v6.translation.get()
    }

    /// The pairs that an unconnected UDP socket remembers for IPv4.
    pub fn peers4(&self) -> Option<UdpPeers<V4>> {
        *self.v4.peers.borrow()
    }

    /// The pairs that an unconnected UDP socket remembers for IPv6.
    pub fn peers6(&self) -> Option<UdpPeers<V6>> {
        *self.v6.peers.borrow()
    }

    pub(super) fn clear_translations(&self) {
        self.v4.translation.set(None);
        self.v6.translation.set(None);
    }
}

/// A verdict with a socket address instead of a family's.
enum Turn {
    Pass,
    To(SocketAddr),
    Refuse,
}

fn turn<F: Family>(verdict: Verdict<F>) -> Turn {
    match verdict {
        Verdict::Pass => Turn::Pass,
        Verdict::Rewrite(to) => Turn::To(address(to)),
        Verdict::Refuse => Turn::Refuse,
    }
}

fn remap(turn: Turn) -> Turn {
    match turn {
        Turn::To(SocketAddr::V4(to)) => {
            Turn::To(SocketAddr::new(IpAddr::V6(map_v4(to.ip().octets()).into()), to.port()))
        }
        turn => turn,
    }
}

fn outcome(turn: Turn, asked: SocketAddr) -> Result<SocketAddr, Refused> {
    match turn {
        Turn::Pass => Ok(asked),
        Turn::To(to) => Ok(to),
        Turn::Refuse => Err(Refused),
    }
}

fn address<F: Family>(endpoint: Endpoint<F>) -> SocketAddr {
    SocketAddr::new(F::to_ip(endpoint.addr), endpoint.port)
}
