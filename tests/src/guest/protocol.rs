//! What a test and a process in a pod (`lb-guest`) say to each other: one JSON value a line, each request with one reply.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// The family of a socket, apart from that of the address it is used with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Domain {
    /// AF_INET for an IPv4 address, AF_INET6 for an IPv6 address.
    Own,
    /// AF_INET6 for both; IPv4 addresses are written `::ffff:a.b.c.d`, as Java and Go programs do it.
    V6,
}

/// A destination and the kind of socket to reach it with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Where to.
    pub address: SocketAddr,
    /// With which kind of socket.
    pub domain: Domain,
}

impl Target {
    /// An IPv4 address through an IPv6 socket.
    pub fn v4_in_v6(address: SocketAddr) -> Self {
        Self { address, domain: Domain::V6 }
    }

    /// The address as the socket calls see and show it.
    pub fn on_the_socket(&self) -> SocketAddr {
        match (self.domain, self.address.ip()) {
            (Domain::V6, IpAddr::V4(ip)) => SocketAddr::new(ip.to_ipv6_mapped().into(), self.address.port()),
            _ => self.address,
        }
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self { address, domain: Domain::Own }
    }
}

/// A socket, load or set of held connections inside the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Handle(pub u32);

/// How load reaches its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Traffic {
    /// TCP connections.
    Tcp,
    /// UDP sockets with connect and send.
    UdpConnected,
    /// UDP sockets with sendto.
    UdpUnconnected,
    /// TCP connections with a GET of `/`. The answer is what [`crate::guest`]'s probe makes of the response: its status,
    /// its headers in alphabetical order without those of the connection, and its body, in one word.
    Http,
}

impl Traffic {
    /// Whether it goes by TCP.
    pub fn is_tcp(self) -> bool {
        matches!(self, Self::Tcp | Self::Http)
    }
}

/// A request to the guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Answer `name` to everybody who asks at `port`, on all addresses of both families. No reply data.
    Serve {
        /// The answer.
        name: String,
        /// TCP or UDP.
        proto: Proto,
        /// Where.
        port: u16,
    },
    /// Answer `name` and the address that the asker is seen with, at one address only. No reply data.
    Witness {
        /// The first word of the answer.
        name: String,
        /// TCP or UDP.
        proto: Proto,
        /// Where.
        at: SocketAddr,
    },
    /// Several probes: [`Reply::Probes`].
    Probe {
        /// What is asked.
        specs: Vec<ProbeSpec>,
        /// How many of them are under way at a time, at least 1.
        side_by_side: usize,
    },
    /// A TCP connection that is kept: [`Reply::Socket`].
    TcpConnect(Target),
    /// A UDP socket for addresses such as the target's, not connected: [`Reply::Socket`].
    UdpOpen(Target),
    /// bind(2) of a UDP socket.
    UdpBind(Handle, SocketAddr),
    /// Has a UDP socket use only this interface (SO_BINDTODEVICE).
    UdpBindDevice(Handle, String),
    /// connect(2) on a UDP socket.
    UdpConnect(Handle, SocketAddr),
    /// connect(2) to AF_UNSPEC.
    UdpDisconnect(Handle),
    /// send(2) a question.
    Send(Handle),
    /// sendto(2) a question.
    SendTo(Handle, SocketAddr),
    /// Wait for an answer: [`Reply::Answer`].
    Receive(Handle),
    /// send(2) these bytes and wait for a datagram: [`Reply::Datagram`].
    Exchange(Handle, Vec<u8>),
    /// getsockname(2) and getpeername(2): [`Reply::Names`].
    Names(Handle),
    /// Close what the handle stands for.
    Close(Handle),
    /// New sockets at a steady rate until stopped, one question each: [`Reply::Started`].
    StartLoad(LoadSpec),
    /// The load so far: [`Reply::Load`].
    LoadReport(Handle),
    /// Stop it; the final [`Reply::Load`].
    StopLoad(Handle),
    /// Sockets that are opened, asked once and kept: [`Reply::Started`].
    Keep(Vec<KeepSpec>),
    /// What those that [`Request::Keep`] began were told last: [`Reply::Said`].
    Said(Handle),
    /// Ask each of them again: [`Reply::Said`].
    AskAgain(Handle),
    /// Close them.
    Release(Handle),
    /// Sockets that are kept and asked again and again: [`Reply::Started`].
    StartHold(HoldSpec),
    /// The held sockets so far: [`Reply::Hold`].
    HoldReport(Handle),
    /// Close them; the final [`Reply::Hold`].
    StopHold(Handle),
}

/// New sockets one after the other, each asked once, and all that a client can learn from it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ProbeSpec {
    /// How.
    pub traffic: Traffic,
    /// Where to.
    pub target: Target,
    /// How many sockets. None after one that met silence, or a word that took TCP another SYN: the next would meet it as
    /// well.
    pub enough: Enough,
    /// How long a call may take before that counts as silence.
    pub patience_ms: u64,
    /// After this time no new socket: however busy the machine, the probe ends soon.
    pub budget_ms: u64,
}

/// When a probe has taken enough sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Enough {
    /// After this many.
    Sockets(u32),
    /// When one that is met as often as each of those who were would have been missed so far once in so many probes.
    MissedOnceIn(u32),
}

impl Enough {
    /// Whether so many sockets are enough that met so many different ends.
    pub fn is_met(self, sockets: usize, ends: usize) -> bool {
        match self {
            Self::Sockets(wanted) => u32::try_from(sockets).is_ok_and(|sockets| sockets >= wanted),
            // Of `ends` + 1 that are equally likely, the chance that one of them, whichever, was not met.
            Self::MissedOnceIn(times) => {
                let [all, sockets, times] = [ends + 1, sockets, times as usize].map(|n| n as f64);
                all * ((all - 1.0) / all).powf(sockets) * times <= 1.0
            }
        }
    }
}

/// What a client met on one socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The whole answer, or the call that failed.
    pub end: Result<String, Failure>,
    /// With whom the client takes itself to talk: getpeername(2) of a connected socket, the sender of the answer
    /// otherwise. None without an answer.
    pub peer: Option<SocketAddr>,
    /// How often TCP had sent its last segment again when a call failed; 0 for UDP, and where none failed.
    pub repeats: u8,
}

/// New sockets at a steady rate.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct LoadSpec {
    /// How.
    pub traffic: Traffic,
    /// Where to.
    pub target: Target,
    /// Sockets per second, of all threads together.
    pub per_second: u32,
    /// Threads, at least 1.
    pub threads: u32,
}

/// What load met.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadReport {
    /// Sockets tried.
    pub attempts: u64,
    /// Who answered how often.
    pub answers: BTreeMap<String, u64>,
    /// Which call failed with what, how often.
    pub errors: BTreeMap<String, u64>,
}

/// Sockets that are kept and asked when the test says so.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct KeepSpec {
    /// How; not without a connection.
    pub traffic: Traffic,
    /// Where to.
    pub target: Target,
    /// How many.
    pub sockets: u32,
    /// How long a call may take before that counts as silence.
    pub patience_ms: u64,
}

/// What a kept socket was told when it was asked last: the whole answer, or the call that failed, after which it is
/// closed and asked no more.
pub type Said = Result<String, Failure>;

/// Sockets that are kept.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct HoldSpec {
    /// How.
    pub traffic: Traffic,
    /// Where to.
    pub target: Target,
    /// How many.
    pub sockets: u32,
    /// Pause between two questions on one socket.
    pub interval_ms: u64,
}

/// What held sockets met.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldReport {
    /// How often all sockets were asked.
    pub rounds: u64,
    /// Who holds how many of the sockets.
    pub holders: BTreeMap<String, u64>,
    /// Sockets that failed, and how.
    pub breaks: Vec<String>,
    /// Answers that came from someone else than the one before.
    pub moves: Vec<String>,
}

/// The reply to a request that succeeded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Done,
    /// A new socket.
    Socket(Handle),
    /// A load or hold was started.
    Started(Handle),
    /// Somebody answered.
    Answer(Answer),
    /// What each probe met, socket by socket.
    Probes(Vec<Vec<Attempt>>),
    /// A datagram's content.
    Datagram(Vec<u8>),
    /// A socket's names.
    Names(Names),
    /// What kept sockets were told, by the spec that they were opened by.
    Said(Vec<Vec<Said>>),
    /// Of load.
    Load(LoadReport),
    /// Of held sockets.
    Hold(HoldReport),
}

/// An answer to a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The name of who answered.
    pub name: String,
    /// For UDP, the sender as recvfrom(2) gives it.
    pub from: Option<SocketAddr>,
}

/// A socket's own address and its peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// getsockname(2).
    pub local: SocketAddr,
    /// getpeername(2); none where that says ENOTCONN.
    pub peer: Option<SocketAddr>,
}

/// A system call in the guest failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The call.
    pub call: String,
    /// The name of the errno, such as `ECONNREFUSED`.
    pub errno: String,
}

impl Failure {
    /// Whether the call waited in vain: the limits of socket(7), SO_RCVTIMEO and SO_SNDTIMEO, show as these two.
    pub fn is_silence(&self) -> bool {
        matches!(self.errno.as_str(), "EAGAIN" | "EINPROGRESS")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, self.errno)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_ends_were_met_the_more_sockets_are_enough() {
        let enough = |rule: Enough, ends| (1..).find(|&sockets| rule.is_met(sockets, ends)).unwrap();
        assert_eq!([1, 2, 7].map(|ends| enough(Enough::MissedOnceIn(20), ends)), [6, 11, 39]);
        assert_eq!([1, 2, 7].map(|ends| enough(Enough::MissedOnceIn(1_000_000_000), ends)), [31, 54, 171]);
        assert_eq!(enough(Enough::Sockets(3), 2), 3);
    }
}
