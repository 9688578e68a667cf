//! The endpoints: echo servers, one process with blocking threads. It answers each request with its port number, so
//! that a client sees which endpoint it reached. A port of its own is for streams.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
};

use anyhow::{Context as _, Result};

use crate::figure::Figure;

/// Threads that accept on each port: for each connection that is made at a time, and some for those that are being closed
/// or held open.
const ACCEPTORS: usize = Figure::AT_A_TIME + 4;

/// The port of streams.
pub(crate) const BULK_PORT: u16 = 8082;

/// Which way a stream goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Way {
    /// To the server, which answers with one byte when it has all.
    Up,
    /// From the server.
    Down,
}

/// What is asked for on [`BULK_PORT`], again and again on one connection: the way, and the number of bytes in network order.
pub(crate) fn bulk_request(way: Way, bytes: u64) -> [u8; 9] {
    let mut request = [way as u8; 9];
    request[1..].copy_from_slice(&bytes.to_be_bytes());
    request
}

/// Serves until the process is killed.
pub(crate) fn run(addresses: &[IpAddr], ports: &[u16]) -> Result<()> {
    let mut threads = Vec::new();
    for &port in ports {
        let listener = TcpListener::bind(("0.0.0.0", port)).with_context(|| format!("cannot listen on port {port}"))?;
        for _ in 0..ACCEPTORS {
            let listener = listener.try_clone()?;
            threads.push(thread::spawn(move || serve_tcp(&listener, |connection| echo(connection, port))));
        }
        for &address in addresses {
            // One socket for each address: the answer comes from the address that was asked.
            let at = SocketAddr::new(address, port);
            let socket = UdpSocket::bind(at).with_context(|| format!("cannot bind a UDP socket to {at}"))?;
            threads.push(thread::spawn(move || serve_udp(&socket, port)));
        }
    }
    let listener = TcpListener::bind(("0.0.0.0", BULK_PORT)).context("cannot listen for streams")?;
    threads.push(thread::spawn(move || serve_tcp(&listener, stream)));
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("a server thread panicked"))??;
    }
    Ok(())
}

fn serve_tcp(listener: &TcpListener, serve: impl Fn(TcpStream) -> io::Result<()>) -> Result<()> {
    loop {
        let (connection, _) = listener.accept().context("accept")?;
        match serve(connection) {
            // Clients close with a reset, so that no port waits in TIME_WAIT.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {}
            other => other.context("a connection")?,
        }
    }
}

fn echo(mut connection: TcpStream, port: u16) -> io::Result<()> {
    let mut request = [0; 64];
    while connection.read(&mut request)? > 0 {
        connection.write_all(&port.to_be_bytes())?;
    }
    Ok(())
}

/// Until the client closes the connection.
fn stream(mut connection: TcpStream) -> io::Result<()> {
    let mut request = bulk_request(Way::Up, 0);
    let mut buffer = vec![0; BUFFER];
    loop {
        match connection.read_exact(&mut request) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        }
        let [way, length @ ..] = request;
        let length = u64::from_be_bytes(length);
        if way == Way::Down as u8 {
            send(&mut connection, length)?;
        } else {
            receive(&mut connection, length, &mut buffer)?;
            connection.write_all(&[0])?;
        }
    }
}

/// What is read or written at a time.
pub(crate) const BUFFER: usize = 256 << 10;

/// Sends so many bytes.
pub(crate) fn send(connection: &mut TcpStream, mut length: u64) -> io::Result<()> {
    let buffer = [0; BUFFER];
    while length > 0 {
        let part = usize::try_from(length).unwrap_or(BUFFER).min(BUFFER);
        connection.write_all(&buffer[..part])?;
        length -= part as u64;
    }
    Ok(())
}

/// Receives so many bytes, by way of `buffer`.
pub(crate) fn receive(connection: &mut TcpStream, mut length: u64, buffer: &mut [u8]) -> io::Result<()> {
    while length > 0 {
        let part = usize::try_from(length).unwrap_or(buffer.len()).min(buffer.len());
        let read = connection.read(&mut buffer[..part])?;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        length -= read as u64;
    }
    Ok(())
}

fn serve_udp(socket: &UdpSocket, port: u16) -> Result<()> {
    let mut request = [0; 64];
    loop {
        let (_, client) = socket.recv_from(&mut request).context("recv_from")?;
        socket.send_to(&port.to_be_bytes(), client).context("send_to")?;
    }
}
