//! Servers that answer with their name, as agnhost's serve-hostname does: a line for a line over TCP until the client
//! closes, an HTTP answer to a GET or HEAD, a datagram for a datagram over UDP. What is asked for by size or to be echoed
//! is: `GET /bytes/N`, and datagrams that begin with `echo`.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread::{self, JoinHandle},
};

use lb_tests::guest::{Failure, Proto};
use socket2::{Domain, Protocol, Socket, Type};

use crate::socket::failure;

/// More than there are clients at a time. Where a queue is full, the kernel drops the last segment of the handshake: the
/// client takes itself to be connected, and hears nothing for seconds.
const BACKLOG: i32 = 4096;

/// Starts to listen on all addresses of both families; serves in threads until the process ends.
pub(crate) fn start(name: &str, proto: Proto, port: u16) -> Result<(), Failure> {
    let wildcards = [SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))];
    wildcards.into_iter().try_for_each(|address| serve(proto, address, Answer::Name(name.to_owned())))
}

/// Starts to listen at one address, and answers with the asker's address after the name.
pub(crate) fn witness(name: &str, proto: Proto, at: SocketAddr) -> Result<(), Failure> {
    serve(proto, at, Answer::NameAndAsker(name.to_owned()))
}

fn serve(proto: Proto, address: SocketAddr, answer: Answer) -> Result<(), Failure> {
    match proto {
        Proto::Tcp => {
            let listener = bind(address, Type::STREAM, Protocol::TCP)?;
            listener.listen(BACKLOG).map_err(failure("listen"))?;
            thread::spawn(move || accept_forever(&listener.into(), &answer));
        }
        Proto::Udp => {
            let socket = bind(address, Type::DGRAM, Protocol::UDP)?;
            thread::spawn(move || answer_forever(&socket.into(), &answer));
        }
    }
    Ok(())
}

/// What a server says.
enum Answer {
    Name(String),
    NameAndAsker(String),
}

impl Answer {
    fn to(&self, asker: SocketAddr) -> String {
        match self {
            Self::Name(name) => name.clone(),
            Self::NameAndAsker(name) => format!("{name} {}", asker.ip()),
        }
    }
}

fn bind(address: SocketAddr, kind: Type, protocol: Protocol) -> Result<Socket, Failure> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol)).map_err(failure("socket"))?;
    if address.is_ipv6() {
        // Its own family only: the other one has a socket of its own.
        socket.set_only_v6(true).map_err(failure("setsockopt"))?;
    }
    socket.set_reuse_address(true).map_err(failure("setsockopt"))?;
    socket.bind(&address.into()).map_err(failure("bind"))?;
    Ok(socket)
}

/// Threads are joined when they have ended, and not left to themselves: glibc's pthread_detach looks at a thread again after
/// letting go of it, and a guest of some hundred thousand short connections died of a segmentation fault there (glibc 2.36).
fn accept_forever(listener: &TcpListener, answer: &Answer) {
    let mut serving: Vec<JoinHandle<()>> = Vec::new();
    loop {
        match listener.accept() {
            Ok((stream, asker)) => {
                let answer = answer.to(asker);
                for ended in serving.extract_if(.., |thread| thread.is_finished()) {
                    report("a connection", ended.join().map_err(|_| std::io::Error::other("its thread panicked")));
                }
                serving.push(thread::spawn(move || report("a connection", serve_connection(&stream, &answer))));
            }
            Err(error) => report("accept", Err(error)),
        }
    }
}

fn serve_connection(stream: &TcpStream, name: &str) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next().transpose()? {
        if line.starts_with("GET ") || line.starts_with("HEAD ") {
            let body = body(&line, name);
            return answer_http(stream, &mut lines, line.starts_with("HEAD "), &body);
        }
        // One write, so that the answer is one segment and nobody waits for an acknowledgement.
        (&*stream).write_all(format!("{name}\n").as_bytes())?;
    }
    Ok(())
}

fn body(request: &str, name: &str) -> String {
    let path = request.split(' ').nth(1).unwrap_or_default();
    let size = path.strip_prefix("/bytes/").and_then(|size| size.parse().ok());
    size.map_or_else(|| format!("{name}\n"), |size| "x".repeat(size))
}

fn answer_http(
    mut stream: &TcpStream,
    header: &mut impl Iterator<Item = std::io::Result<String>>,
    head_only: bool,
    body: &str,
) -> std::io::Result<()> {
    for line in header {
        if line?.is_empty() {
            break;
        }
    }
    let length = body.len();
    let body = if head_only { "" } else { body };
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n";
    stream.write_all(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes())
}

fn answer_forever(socket: &UdpSocket, answer: &Answer) {
    // Larger than any datagram.
    let mut buffer = vec![0; 1 << 16];
    loop {
        let answered = socket.recv_from(&mut buffer).and_then(|(len, asker)| {
            let asked = buffer.get(..len).unwrap_or_default();
            let name = answer.to(asker);
            socket.send_to(if asked.starts_with(b"echo") { asked } else { name.as_bytes() }, asker)
        });
        report("a datagram", answered.map(|_| ()));
    }
}

/// Into the guest's log: clients that break off are everyday.
fn report(what: &str, result: std::io::Result<()>) {
    if let Err(error) = result {
        eprintln!("{what}: {error}");
    }
}
