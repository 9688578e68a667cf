//! What is measured on the data path: operations in a tight loop, timed one by one or all together.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An operation that is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Figure {
    /// socket(2) and connect(2) by TCP; closing is not timed.
    TcpConnect,
    /// TCP connect, one request, its response, close.
    TcpConnectRequestResponse,
    /// A request and its response on a TCP connection that stays open.
    TcpRequestResponse,
    /// sendto(2) and recvfrom(2) on one unconnected UDP socket.
    UdpUnconnected,
    /// A new UDP socket, connect(2), a request, its response, close: what glibc's resolver does for each query.
    UdpFreshConnected,
    /// As [`Self::TcpConnectRequestResponse`], by [`Self::AT_A_TIME`] threads on all processors: the time of the whole block
    /// over the number of connections.
    TcpConnectMany,
    /// A request and its response by UDP, [`Self::IN_FLIGHT`] of them under way: the time of the whole block over their number.
    UdpBurst,
    /// A mebibyte of a TCP stream to the server, of so many as the block has.
    BulkUp,
    /// The same from the server.
    BulkDown,
}

impl Figure {
    /// How many connections are made at a time.
    pub(crate) const AT_A_TIME: usize = 8;

    /// How many datagrams are sent before their answers are awaited. So many small ones fit into a socket's buffer.
    pub(crate) const IN_FLIGHT: usize = 64;

    /// What a client in a pod is measured by.
    pub(crate) const OF_PODS: [Self; 5] = [
        Self::TcpConnect,
        Self::TcpConnectRequestResponse,
        Self::TcpRequestResponse,
        Self::UdpUnconnected,
        Self::UdpFreshConnected,
    ];

    /// What a client outside is measured by.
    pub(crate) const FROM_OUTSIDE: [Self; 6] = [
        Self::TcpConnectRequestResponse,
        Self::TcpConnectMany,
        Self::TcpRequestResponse,
        Self::UdpBurst,
        Self::BulkUp,
        Self::BulkDown,
    ];

    /// Whether it goes to the Services that have a UDP port.
    pub(crate) fn is_udp(self) -> bool {
        matches!(self, Self::UdpUnconnected | Self::UdpFreshConnected | Self::UdpBurst)
    }

    /// Whether it is a stream, which has a port of its own.
    pub(crate) fn is_bulk(self) -> bool {
        matches!(self, Self::BulkUp | Self::BulkDown)
    }

    /// Operations in one block: some tens of milliseconds, of a stream some hundreds.
    pub(crate) fn ops(self) -> usize {
        match self {
            Self::TcpConnect | Self::TcpConnectRequestResponse => 400,
            Self::UdpFreshConnected | Self::TcpConnectMany => 800,
            Self::TcpRequestResponse | Self::UdpUnconnected => 1500,
            Self::UdpBurst => 6400,
            Self::BulkUp | Self::BulkDown => 256,
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::TcpConnect => "TCP connect",
            Self::TcpConnectRequestResponse => "TCP connect, request, response",
            Self::TcpRequestResponse => "TCP request, response (open)",
            Self::UdpUnconnected => "UDP unconnected",
            Self::UdpFreshConnected => "UDP fresh connected socket",
            Self::TcpConnectMany => "TCP connect, request, response, 8 at a time",
            Self::UdpBurst => "UDP, 64 requests in flight",
            Self::BulkUp => "TCP stream to the backend",
            Self::BulkDown => "TCP stream from the backend",
        })
    }
}
