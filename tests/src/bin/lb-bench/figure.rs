//! What is measured on the data path: one operation each, timed in a tight loop.

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
}

impl Figure {
    pub(crate) const ALL: [Self; 5] = [
        Self::TcpConnect,
        Self::TcpConnectRequestResponse,
        Self::TcpRequestResponse,
        Self::UdpUnconnected,
        Self::UdpFreshConnected,
    ];

    /// Whether it goes to the Services that have a UDP port.
    pub(crate) fn is_udp(self) -> bool {
        matches!(self, Self::UdpUnconnected | Self::UdpFreshConnected)
    }

    /// Operations in one block: some tens of milliseconds.
    pub(crate) fn ops(self) -> usize {
        match self {
            Self::TcpConnect | Self::TcpConnectRequestResponse => 400,
            Self::UdpFreshConnected => 800,
            Self::TcpRequestResponse | Self::UdpUnconnected => 1500,
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
        })
    }
}
