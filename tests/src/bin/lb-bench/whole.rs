//! Figures of which only a whole block can be timed: streams, and what is under way many at a time.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::{Pid, SysconfVar, sysconf},
};

use crate::{
    client::{REQUEST, close_with_reset, tcp_connect_request_response, udp_socket},
    figure::Figure,
    server::{BUFFER, Way, bulk_request, receive, send},
};

/// After so long a datagram is taken to be lost.
const LOST: Duration = Duration::from_millis(200);

/// The mean over the block, in nanoseconds; none for a figure of single operations. A tenth more runs before and is not
/// counted.
pub(crate) fn mean_ns(figure: Figure, addresses: &[SocketAddr], ops: usize, first: usize) -> Result<Option<u64>> {
    ensure!(!addresses.is_empty() && ops > 0, "a block needs addresses and operations");
    let to = addresses[first % addresses.len()];
    let took = match figure {
        Figure::TcpConnectMany => many(addresses, ops / 10, first).and_then(|_| many(addresses, ops, first)),
        Figure::UdpBurst => bursts(to, ops),
        Figure::BulkUp => stream(to, Way::Up, ops),
        Figure::BulkDown => stream(to, Way::Down, ops),
        _ => return Ok(None),
    };
    let took = took.with_context(|| format!("{figure} to {to}"))?;
    Ok(Some(u64::try_from(took.as_nanos())? / ops as u64))
}

/// Connections by several threads.
fn many(addresses: &[SocketAddr], ops: usize, first: usize) -> Result<Duration> {
    let begin = Barrier::new(Figure::AT_A_TIME + 1);
    thread::scope(|scope| {
        let one = |number: usize| -> Result<()> {
            let free = run_anywhere();
            begin.wait();
            free?;
            for op in (number..ops).step_by(Figure::AT_A_TIME) {
                tcp_connect_request_response(addresses[(first + op) % addresses.len()])?;
            }
            Ok(())
        };
        let threads: Vec<_> = (0..Figure::AT_A_TIME).map(|number| scope.spawn(move || one(number))).collect();
        begin.wait();
        let start = Instant::now();
        for thread in threads {
            thread.join().map_err(|_| anyhow!("a thread of the client panicked"))??;
        }
        Ok(start.elapsed())
    })
}

/// The thread is no longer kept on the processor that it shares with the endpoints.
fn run_anywhere() -> Result<()> {
    let processors = sysconf(SysconfVar::_NPROCESSORS_CONF)?.context("how many processors there are")?;
    let mut set = CpuSet::new();
    (0..usize::try_from(processors)?).try_for_each(|processor| set.set(processor))?;
    sched_setaffinity(Pid::from_raw(0), &set).context("cannot use all processors")
}

/// Requests by one connected socket.
fn bursts(to: SocketAddr, ops: usize) -> Result<Duration> {
    let socket = udp_socket()?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(LOST))?;
    burst(&socket, ops / 10)?;
    let start = Instant::now();
    burst(&socket, ops)?;
    Ok(start.elapsed())
}

fn burst(socket: &UdpSocket, ops: usize) -> Result<()> {
    let mut answer = [0; 64];
    for sent in (0..ops).step_by(Figure::IN_FLIGHT) {
        let window = Figure::IN_FLIGHT.min(ops - sent);
        for _ in 0..window {
            socket.send(&REQUEST)?;
        }
        for received in 0..window {
            match socket.recv(&mut answer) {
                // The time counts, so that a loss is seen in the figure.
                Err(error) if error.kind() == ErrorKind::WouldBlock && received > 0 => break,
                other => other.context("no answer at all")?,
            };
        }
    }
    Ok(())
}

/// So many mebibytes on one connection.
fn stream(to: SocketAddr, way: Way, mebibytes: usize) -> Result<Duration> {
    let mut connection = TcpStream::connect(to)?;
    close_with_reset(&connection)?;
    let mut buffer = vec![0; BUFFER];
    let mut transfer = |mebibytes: usize| -> Result<()> {
        let bytes = (mebibytes as u64) << 20;
        connection.write_all(&bulk_request(way, bytes))?;
        match way {
            Way::Down => receive(&mut connection, bytes, &mut buffer)?,
            Way::Up => {
                send(&mut connection, bytes)?;
                connection.read_exact(&mut [0])?;
            }
        }
        Ok(())
    };
    transfer(mebibytes.div_ceil(10))?;
    let start = Instant::now();
    transfer(mebibytes)?;
    Ok(start.elapsed())
}
