//! What the demo's pods run: a server that tells its host name, and a client. HTTP/1.0 by hand, one fixed exchange.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    sched::{CloneFlags, unshare},
    unistd::{gethostname, sethostname},
};

use crate::answers::FAILED;

/// Longer than anything on one machine takes.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Serves the host name of this pod, which has a UTS namespace of its own for that, as in Kubernetes.
pub(crate) fn serve(host_name: &str, port: &str) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWUTS).context("make a UTS namespace")?;
    sethostname(host_name).context("set the host name")?;
    let port: u16 = port.parse().with_context(|| format!("port {port}"))?;
    // An IPv6 socket takes IPv4 connections, too.
    let listener =
        TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).with_context(|| format!("listen on port {port}"))?;
    for connection in listener.incoming() {
        let connection = connection.context("accept a connection")?;
        thread::spawn(move || {
            if let Err(error) = answer(&connection) {
                eprintln!("a client went away: {error}");
            }
        });
    }
    Ok(())
}

fn answer(connection: &TcpStream) -> io::Result<()> {
    connection.set_read_timeout(Some(TIMEOUT))?;
    // Closing with unread bytes would reset the connection and could take the answer with it.
    for line in BufReader::new(connection).lines() {
        if line?.is_empty() {
            break;
        }
    }
    let name = gethostname()?.to_string_lossy().into_owned();
    let mut out = connection;
    write!(out, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{name}\n", name.len() + 1)
}

/// Asks some times, on a new connection each, and prints one line for each answer.
pub(crate) fn ask(address: &str, times: &str) -> Result<()> {
    let address: SocketAddr = address.parse().with_context(|| format!("address {address}"))?;
    let times: u32 = times.parse().with_context(|| format!("number of questions {times}"))?;
    for _ in 0..times {
        match get(address) {
            Ok(name) => println!("{name}"),
            Err(error) => println!("{FAILED}{error}"),
        }
    }
    Ok(())
}

fn get(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(stream, "GET / HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let body = text.strip_prefix("HTTP/1.0 200 OK\r\n").and_then(|rest| rest.split_once("\r\n\r\n"));
    body.map(|(_, body)| body.trim().to_owned()).ok_or_else(|| io::Error::other(format!("not an answer: {text:?}")))
}
