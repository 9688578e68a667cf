//! One client socket and the questions asked on it. Real calls on real sockets, blocking, as an application makes them.

use std::{
    io::{self, Read as _},
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use lb_tests::guest::{Answer, Failure, Names, Target, Traffic};
use nix::{errno::Errno, getsockopt_impl, sockopt_impl, sys::socket::getsockopt};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::http;

/// How long an answer may take. Datagrams are not lost between two namespaces of one machine, so none is repeated.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A question; TCP servers take a line.
const QUESTION: &[u8] = b"who are you?\n";

sockopt_impl!(
    /// What the kernel tells of a TCP connection (tcp(7), TCP_INFO).
    TcpInfo,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    libc::tcp_info
);

/// A socket that asks who is at the other end.
pub(crate) struct Conversation {
    socket: Socket,
    traffic: Traffic,
    to: SocketAddr,
}

impl Conversation {
    /// A socket that is ready to ask.
    pub(crate) fn open(traffic: Traffic, target: Target) -> Result<Self, Failure> {
        let mut conversation = Self::new(TIMEOUT, traffic, target)?;
        conversation.begin()?;
        Ok(conversation)
    }

    /// A UDP socket without a peer.
    pub(crate) fn udp(target: Target) -> Result<Self, Failure> {
        Self::new(TIMEOUT, Traffic::UdpUnconnected, target)
    }

    /// A socket whose calls take no longer than `timeout`, and that does nothing yet.
    pub(crate) fn new(timeout: Duration, traffic: Traffic, target: Target) -> Result<Self, Failure> {
        let kind = if traffic.is_tcp() { Type::STREAM } else { Type::DGRAM };
        let to = target.on_the_socket();
        let protocol = if kind == Type::STREAM { Protocol::TCP } else { Protocol::UDP };
        let socket = Socket::new(Domain::for_address(to), kind, Some(protocol)).map_err(failure("socket"))?;
        socket.set_read_timeout(Some(timeout)).map_err(failure("setsockopt"))?;
        // Also the time that connect(2) of a stream socket may take (socket(7), SO_SNDTIMEO).
        socket.set_write_timeout(Some(timeout)).map_err(failure("setsockopt"))?;
        Ok(Self { socket, traffic, to })
    }

    /// Makes it ready to ask: connect(2), except for the kind that has no peer.
    pub(crate) fn begin(&mut self) -> Result<(), Failure> {
        if self.traffic == Traffic::UdpUnconnected { Ok(()) } else { self.connect(self.to) }
    }

    /// bind(2).
    pub(crate) fn bind(&self, at: SocketAddr) -> Result<(), Failure> {
        self.socket.bind(&at.into()).map_err(failure("bind"))
    }

    /// SO_BINDTODEVICE.
    pub(crate) fn bind_device(&self, interface: &str) -> Result<(), Failure> {
        self.socket.bind_device(Some(interface.as_bytes())).map_err(failure("setsockopt"))
    }

    /// connect(2).
    pub(crate) fn connect(&mut self, to: SocketAddr) -> Result<(), Failure> {
        self.socket.connect(&to.into()).map_err(failure("connect"))
    }

    /// How often TCP has sent its last segment again without an answer. The kernel keeps this number when connect(2)
    /// fails; the total (tcpi_total_retrans) it clears then.
    pub(crate) fn repeats(&self) -> Result<u8, Failure> {
        if !self.traffic.is_tcp() {
            return Ok(0);
        }
        let info = getsockopt(&self.socket, TcpInfo).map_err(|error| failure("getsockopt")(error.into()))?;
        Ok(info.tcpi_retransmits)
    }

    /// connect(2) to AF_UNSPEC.
    pub(crate) fn disconnect(&self) -> Result<(), Failure> {
        rustix::net::connect_unspec(&self.socket).map_err(|error| failure("connect")(error.into()))
    }

    /// send(2).
    pub(crate) fn send(&self) -> Result<(), Failure> {
        let question = if self.traffic == Traffic::Http { http::REQUEST } else { QUESTION };
        self.socket.send(question).map(|_| ()).map_err(failure("send"))
    }

    /// sendto(2).
    pub(crate) fn send_to(&self, to: SocketAddr) -> Result<(), Failure> {
        self.socket.send_to(QUESTION, &to.into()).map(|_| ()).map_err(failure("sendto"))
    }

    /// Waits for an answer: a line of a stream, or a datagram.
    pub(crate) fn receive(&self) -> Result<Answer, Failure> {
        match self.traffic {
            Traffic::Tcp => self.receive_line(),
            Traffic::Http => self.receive_response(),
            Traffic::UdpConnected | Traffic::UdpUnconnected => self.receive_datagram(),
        }
    }

    /// Asks as the kind of socket does it, and checks that an answer to sendto comes from where it was asked for:
    /// a resolver would drop another.
    pub(crate) fn ask(&self) -> Result<String, Failure> {
        if self.traffic == Traffic::UdpUnconnected {
            self.send_to(self.to)?
        } else {
            self.send()?
        };
        let answer = self.receive()?;
        match answer.from {
            Some(from) if from != self.to => {
                Err(Failure { call: format!("recvfrom from {from}"), errno: String::new() })
            }
            _ => Ok(answer.name),
        }
    }

    /// getsockname(2) and getpeername(2).
    pub(crate) fn names(&self) -> Result<Names, Failure> {
        let local = self.socket.local_addr().map_err(failure("getsockname"))?;
        let peer = match self.socket.peer_addr() {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => None,
            other => Some(other.map_err(failure("getpeername"))?),
        };
        Ok(Names { local: ip_address(&local)?, peer: peer.as_ref().map(ip_address).transpose()? })
    }

    /// One question is under way at a time, so that nothing comes after its line.
    fn receive_line(&self) -> Result<Answer, Failure> {
        let (mut line, mut part) = (Vec::new(), [0; 512]);
        while line.last() != Some(&b'\n') {
            let n_bytes = (&self.socket).read(&mut part).map_err(failure("recv"))?;
            if n_bytes == 0 {
                return Err(Failure { call: "recv".to_owned(), errno: "EOF".to_owned() });
            }
            line.extend_from_slice(part.get(..n_bytes).unwrap_or_default());
        }
        Ok(Answer { name: String::from_utf8_lossy(&line).trim_end().to_owned(), from: None })
    }

    /// All that comes until the server closes.
    fn receive_response(&self) -> Result<Answer, Failure> {
        let mut response = Vec::new();
        (&self.socket).read_to_end(&mut response).map_err(failure("recv"))?;
        let summary = http::summary(&response);
        let name = summary.ok_or_else(|| Failure { call: "recv".to_owned(), errno: "no HTTP response".to_owned() })?;
        Ok(Answer { name, from: None })
    }

    /// send(2) of any bytes, and the datagram that comes back.
    pub(crate) fn exchange(&self, bytes: &[u8]) -> Result<Vec<u8>, Failure> {
        self.socket.send(bytes).map_err(failure("send"))?;
        self.receive_bytes().map(|(bytes, _)| bytes)
    }

    fn receive_datagram(&self) -> Result<Answer, Failure> {
        let (bytes, from) = self.receive_bytes()?;
        let name = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        Ok(Answer { name, from: Some(from) })
    }

    fn receive_bytes(&self) -> Result<(Vec<u8>, SocketAddr), Failure> {
        // The standard library's socket fills plain bytes.
        let socket = UdpSocket::from(self.socket.try_clone().map_err(failure("dup"))?);
        // Larger than any datagram.
        let mut buffer = vec![0; 1 << 16];
        let (n_bytes, from) = socket.recv_from(&mut buffer).map_err(failure("recvfrom"))?;
        buffer.truncate(n_bytes);
        Ok((buffer, from))
    }
}

fn ip_address(address: &SockAddr) -> Result<SocketAddr, Failure> {
    address.as_socket().ok_or_else(|| Failure { call: "address".to_owned(), errno: "EAFNOSUPPORT".to_owned() })
}

/// Names the call and the errno.
pub(crate) fn failure(call: &'static str) -> impl Fn(io::Error) -> Failure {
    move |error| {
        let errno = error.raw_os_error().map(|number| format!("{:?}", Errno::from_raw(number)));
        Failure { call: call.to_owned(), errno: errno.unwrap_or_else(|| error.to_string()) }
    }
}
