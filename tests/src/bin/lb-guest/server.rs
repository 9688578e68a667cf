//! Servers that answer with their name, as agnhost's serve-hostname does: a line for a line over TCP until the client
//! closes, an HTTP answer to a GET or HEAD, a datagram for a datagram over UDP.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
};

use lb_tests::guest::{Failure, Proto};
use socket2::{Domain, Protocol, Socket, Type};

use crate::socket::failure;

/// Starts to listen on all addresses of both families; serves in threads until the process ends.
pub(crate) fn start(name: &str, proto: Proto, port: u16) -> Result<(), Failure> {
    let wildcards = [SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))];
    for address in wildcards {
        let name = name.to_owned();
        match proto {
            Proto::Tcp => {
                let listener = bind(address, Type::STREAM, Protocol::TCP)?;
                listener.listen(128).map_err(failure("listen"))?;
                thread::spawn(move || accept_forever(&listener.into(), &name));
            }
            Proto::Udp => {
                let socket = bind(address, Type::DGRAM, Protocol::UDP)?;
                thread::spawn(move || answer_forever(&socket.into(), &name));
            }
        }
    }
    Ok(())
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

fn accept_forever(listener: &TcpListener, name: &str) {
    for stream in listener.incoming() {
        match stream {
            Ok(stream) => {
                let name = name.to_owned();
                thread::spawn(move || report("a connection", serve_connection(&stream, &name)));
            }
            Err(error) => report("accept", Err(error)),
        }
    }
}

fn serve_connection(stream: &TcpStream, name: &str) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next().transpose()? {
        if line.starts_with("GET ") || line.starts_with("HEAD ") {
            return answer_http(stream, &mut lines, line.starts_with("HEAD "), name);
        }
        // One write, so that the answer is one segment and nobody waits for an acknowledgement.
        (&*stream).write_all(format!("{name}\n").as_bytes())?;
    }
    Ok(())
}

fn answer_http(
    mut stream: &TcpStream,
    header: &mut impl Iterator<Item = std::io::Result<String>>,
    head_only: bool,
    name: &str,
) -> std::io::Result<()> {
    for line in header {
        if line?.is_empty() {
            break;
        }
    }
    let body = if head_only { String::new() } else { format!("{name}\n") };
    let length = name.len() + 1;
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n";
    stream.write_all(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes())
}

fn answer_forever(socket: &UdpSocket, name: &str) {
    let mut buffer = [0; 2048];
    loop {
        let answered = socket.recv_from(&mut buffer).and_then(|(_, from)| socket.send_to(name.as_bytes(), from));
        report("a datagram", answered.map(|_| ()));
    }
}

/// Into the guest's log: clients that break off are everyday.
fn report(what: &str, result: std::io::Result<()>) {
    if let Err(error) = result {
        eprintln!("{what}: {error}");
    }
}
