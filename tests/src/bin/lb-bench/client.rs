//! The measuring client in a pod: a tight loop over plain blocking sockets. It talks to the benchmark only between
//! blocks.

use std::{
    io::{BufRead as _, Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use socket2::{Domain, SockRef, Socket, Type};

use crate::{
    figure::Figure,
    protocol::{Reply, Request, now_ns},
    whole,
};

/// As large as a small DNS query.
pub(crate) const REQUEST: [u8; 40] = [0; 40];

/// Between two tries while something is awaited: the resolution of those figures. Not less, since the proxy that is
/// waited for needs the processor too.
const PAUSE: Duration = Duration::from_micros(200);

/// How long one try may take where nobody answers.
const TRY: Duration = Duration::from_millis(200);

/// What is waited for comes within this time or not at all.
const PATIENCE: Duration = Duration::from_secs(400);

/// Answers requests until stdin ends.
pub(crate) fn run() -> Result<()> {
    let mut addresses = Vec::new();
    let mut stdout = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let reply = match serde_json::from_str(&line?).context("not a request")? {
            Request::Addresses(new) => {
                addresses = new;
                Reply::Done
            }
            Request::Block { figure, ops, first, among } => {
                let among = &addresses[..among.min(addresses.len())];
                let whole = whole::mean_ns(figure, among, ops, first).transpose();
                Reply::Block { ns: whole.unwrap_or_else(|| block(among, figure, ops, first))? }
            }
            Request::WaitForAll => {
                addresses.iter().try_for_each(|&address| wait_for(address, |_| true))?;
                Reply::At(now_ns()?)
            }
            Request::WaitFor { address, port } => {
                wait_for(*addresses.get(address).context("no such address")?, |answer| answer == port)?;
                Reply::At(now_ns()?)
            }
        };
        serde_json::to_writer(&mut stdout, &reply)?;
        stdout.write_all(b"\n")?;
        stdout.flush()?;
    }
    Ok(())
}

/// The median over the block, in nanoseconds. A tenth more operations run before and are not counted.
fn block(addresses: &[SocketAddr], figure: Figure, ops: usize, first: usize) -> Result<u64> {
    ensure!(!addresses.is_empty() && ops > 0, "a block needs addresses and operations");
    let warm_up = ops / 10;
    let at = |op: usize| addresses[(first + op) % addresses.len()];
    let mut operation = operation(figure, at(0))?;
    let mut times = Vec::with_capacity(ops);
    for op in 0..warm_up + ops {
        let took = operation(at(op)).with_context(|| format!("{figure} to {}", at(op)))?;
        if op >= warm_up {
            times.push(took);
        }
    }
    times.sort_unstable();
    Ok(u64::try_from(times[times.len() / 2].as_nanos())?)
}

type Operation = Box<dyn FnMut(SocketAddr) -> Result<Duration>>;

/// What a figure does with each address; `kept` is where its one socket is connected, if it keeps one.
///
/// # Errors
/// For a figure that is not timed operation by operation.
fn operation(figure: Figure, kept: SocketAddr) -> Result<Operation> {
    Ok(match figure {
        Figure::TcpConnect => Box::new(tcp_connect),
        Figure::TcpConnectRequestResponse => Box::new(tcp_connect_request_response),
        Figure::UdpFreshConnected => Box::new(udp_fresh_connected),
        Figure::TcpRequestResponse => {
            let mut connection = TcpStream::connect(kept)?;
            close_with_reset(&connection)?;
            Box::new(move |_| {
                let start = Instant::now();
                ask(&mut connection)?;
                Ok(start.elapsed())
            })
        }
        Figure::UdpUnconnected => {
            let socket = udp_socket()?;
            Box::new(move |_| udp_unconnected(&socket, kept))
        }
        _ => bail!("{figure} has no single operations"),
    })
}

fn tcp_connect(to: SocketAddr) -> Result<Duration> {
    let start = Instant::now();
    let connection = TcpStream::connect(to)?;
    let took = start.elapsed();
    close_with_reset(&connection)?;
    Ok(took)
}

pub(crate) fn tcp_connect_request_response(to: SocketAddr) -> Result<Duration> {
    let start = Instant::now();
    let mut connection = TcpStream::connect(to)?;
    ask(&mut connection)?;
    close_with_reset(&connection)?;
    drop(connection);
    Ok(start.elapsed())
}

fn udp_fresh_connected(to: SocketAddr) -> Result<Duration> {
    let start = Instant::now();
    // As the resolvers of glibc and Go do it: without bind, which UdpSocket cannot do.
    let socket = UdpSocket::from(Socket::new(Domain::for_address(to), Type::DGRAM, None)?);
    socket.connect(to)?;
    socket.send(&REQUEST)?;
    socket.recv(&mut [0; 64])?;
    drop(socket);
    Ok(start.elapsed())
}

fn udp_unconnected(socket: &UdpSocket, to: SocketAddr) -> Result<Duration> {
    let start = Instant::now();
    socket.send_to(&REQUEST, to)?;
    let (_, from) = socket.recv_from(&mut [0; 64])?;
    let took = start.elapsed();
    ensure!(from == to, "asked {to}, answered by {from}");
    Ok(took)
}

pub(crate) fn udp_socket() -> Result<UdpSocket> {
    Ok(UdpSocket::bind("0.0.0.0:0")?)
}

/// The port of who answers.
fn ask(connection: &mut TcpStream) -> Result<u16> {
    connection.write_all(&REQUEST)?;
    let mut port = [0; 2];
    connection.read_exact(&mut port)?;
    Ok(u16::from_be_bytes(port))
}

/// Closing leaves no socket in TIME_WAIT, so that ports do not run out.
pub(crate) fn close_with_reset(connection: &TcpStream) -> Result<()> {
    Ok(SockRef::from(connection).set_linger(Some(Duration::ZERO))?)
}

fn wait_for(address: SocketAddr, wanted: impl Fn(u16) -> bool) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if try_once(address).is_ok_and(&wanted) {
            return Ok(());
        }
        sleep(PAUSE);
    }
    bail!("waited {PATIENCE:?} in vain for {address}")
}

fn try_once(address: SocketAddr) -> Result<u16> {
    let mut connection = TcpStream::connect_timeout(&address, TRY)?;
    connection.set_read_timeout(Some(TRY))?;
    close_with_reset(&connection)?;
    ask(&mut connection)
}
