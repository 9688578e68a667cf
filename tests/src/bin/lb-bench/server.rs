//! The endpoints: echo servers, one process with blocking threads. It answers each request with its port number, so
//! that a client sees which endpoint it reached.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
};

use anyhow::{Context as _, Result};

/// Threads that accept on each port. Only one client asks at a time; a second one may hold a connection open.
const ACCEPTORS: usize = 4;

/// Serves until the process is killed.
pub(crate) fn run(addresses: &[IpAddr], ports: &[u16]) -> Result<()> {
    let mut threads = Vec::new();
    for &port in ports {
        let listener = TcpListener::bind(("0.0.0.0", port)).with_context(|| format!("cannot listen on port {port}"))?;
        for _ in 0..ACCEPTORS {
            let listener = listener.try_clone()?;
            threads.push(thread::spawn(move || serve_tcp(&listener, port)));
        }
        for &address in addresses {
            // One socket for each address: the answer comes from the address that was asked.
            let at = SocketAddr::new(address, port);
            let socket = UdpSocket::bind(at).with_context(|| format!("cannot bind a UDP socket to {at}"))?;
            threads.push(thread::spawn(move || serve_udp(&socket, port)));
        }
    }
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("a server thread panicked"))??;
    }
    Ok(())
}

fn serve_tcp(listener: &TcpListener, port: u16) -> Result<()> {
    loop {
        let (connection, _) = listener.accept().context("accept")?;
        match echo(connection, port) {
            // Clients close with a reset, so that no port waits in TIME_WAIT.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {}
            other => other.context("echo")?,
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

fn serve_udp(socket: &UdpSocket, port: u16) -> Result<()> {
    let mut request = [0; 64];
    loop {
        let (_, client) = socket.recv_from(&mut request).context("recv_from")?;
        socket.send_to(&port.to_be_bytes(), client).context("send_to")?;
    }
}
