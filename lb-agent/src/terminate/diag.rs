//! inet_diag (sock_diag(7)): lists the connected sockets of the network namespace that it was opened in, and ends single
//! ones. Decides nothing.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use lb_common::abi::Proto;
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_packet_sock_diag::{
    SockDiagDestroy, SockDiagMessage,
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use crate::netlink::Conversation;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// States in which the application may still use a TCP connection.
const TCP_STATES: StateFlags = StateFlags::ESTABLISHED
    .union(StateFlags::SYN_SENT)
    .union(StateFlags::FIN_WAIT1)
    .union(StateFlags::FIN_WAIT2)
    .union(StateFlags::CLOSE_WAIT);
/// A UDP socket that has a peer is in this state, any other in CLOSE.
const UDP_STATES: StateFlags = StateFlags::ESTABLISHED;

/// A socket that has a peer, as the kernel identifies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    /// TCP or UDP.
    pub proto: Proto,
    /// Its own address as the socket has it: IPv4-mapped where an IPv6 socket talks IPv4.
    pub local: SocketAddr,
    /// Its peer, likewise.
    pub remote: SocketAddr,
    /// The interface that it is bound to; 0 for none.
    pub interface: u32,
    /// Never given to another socket before the machine restarts.
    pub cookie: [u8; 8],
}

impl Connected {
    /// The peer as it is on the wire.
    pub fn peer(&self) -> SocketAddr {
        SocketAddr::new(self.remote.ip().to_canonical(), self.remote.port())
    }

    /// The socket's own end as it is on the wire.
    pub fn own(&self) -> SocketAddr {
        SocketAddr::new(self.local.ip().to_canonical(), self.local.port())
    }

    fn from_id(proto: Proto, id: &SocketId) -> Self {
        Self {
            proto,
            local: SocketAddr::new(id.source_address, id.source_port),
            remote: SocketAddr::new(id.destination_address, id.destination_port),
            interface: id.interface_id,
            cookie: id.cookie,
        }
    }

    fn id(&self) -> SocketId {
        SocketId {
            source_port: self.local.port(),
            destination_port: self.remote.port(),
            source_address: self.local.ip(),
            destination_address: self.remote.ip(),
            interface_id: self.interface,
            cookie: self.cookie,
        }
    }
}

/// inet_diag of one network namespace.
pub(super) struct Diag {
    kernel: Conversation,
}

impl Diag {
    /// Of the calling thread's namespace.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { kernel: Conversation::open(NETLINK_SOCK_DIAG)? })
    }

    /// All sockets of the protocol that have a peer, of both families.
    ///
    /// # Errors
    /// ENOENT where the kernel has no inet_diag for this protocol.
    pub(super) fn connected(&mut self, proto: Proto) -> io::Result<Vec<Connected>> {
        let mut sockets = Vec::new();
        for (family, id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
            self.kernel.send(SockDiagMessage::InetRequest(request(proto, family, id)), NLM_F_DUMP)?;
            self.kernel.replies(|message| {
                if let SockDiagMessage::InetResponse(response) = message? {
                    sockets.push(Connected::from_id(proto, &response.header.socket_id));
                }
                Ok(())
            })?;
        }
        Ok(sockets)
    }

    /// Ends exactly this socket: its calls fail with ECONNABORTED, and it has no peer any more.
    ///
    /// # Errors
    /// ENOENT where it is gone, EOPNOTSUPP where the kernel has no `CONFIG_INET_DIAG_DESTROY`, EPERM without
    /// CAP_NET_ADMIN.
    pub(super) fn destroy(&mut self, socket: &Connected) -> io::Result<()> {
        let family = if matches!(socket.local.ip(), IpAddr::V4(_)) { AF_INET } else { AF_INET6 };
        let request = SockDiagMessage::InetRequest(request(socket.proto, family, socket.id()));
        self.kernel.send(SockDiagDestroy::new(request), NLM_F_ACK)?;
        self.kernel.replies(|message: io::Result<SockDiagDestroy>| message.map(drop))
    }
}

fn request(proto: Proto, family: u8, socket_id: SocketId) -> InetRequest {
    let states = if proto == Proto::Tcp { TCP_STATES } else { UDP_STATES };
    InetRequest { family, protocol: proto.number(), extensions: ExtensionFlags::empty(), states, socket_id }
}
