//! Datagrams whose pieces come in any order. No network here mixes them up, so their senders do.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result};
use lb_common::sim::frames::Frame;
use lb_tests::{Agent, Layout, NetNs, Outside, eventually, guest::Proto, manifests::Service, poll::PATIENCE};
use socket2::{Domain, Protocol, Socket, Type};

use crate::world::{Offload, World};

/// Bytes of a piece's part of the datagram, a multiple of 8.
const CUT: usize = 1_200;
/// All orders of three pieces.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
/// Of these, the pieces that come before the first one.
const N_EARLY: f64 = 6.0;

/// What fills three pieces.
fn data(number: usize) -> Vec<u8> {
    let count = (0..=u8::MAX).cycle().skip(number);
    b"echo".iter().copied().chain(count).take(3_000).collect()
}

/// The packets of a datagram.
fn pieces(from: SocketAddr, to: SocketAddr, data: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    /// An identification is one datagram's for as long as that may take.
    static ID: AtomicU16 = AtomicU16::new(1);
    let [id_high, id_low] = ID.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let whole = Frame { data: data.to_vec(), ..Frame::udp(from, to) }.bytes();
    let (header, datagram) = whole.split_at(if from.is_ipv4() { 20 } else { 40 });
    let n_pieces = datagram.len().div_ceil(CUT);
    let cut = |(n, part): (usize, &[u8])| {
        let more = n + 1 < n_pieces;
        let units = u16::try_from(n * CUT / 8).map_err(io::Error::other)?;
        let mut packet = header.to_vec();
        if from.is_ipv4() {
            // The kernel writes length and checksum.
            packet[4..6].copy_from_slice(&[id_high, id_low]);
            packet[6..8].copy_from_slice(&(units | if more { 0x2000 } else { 0 }).to_be_bytes());
        } else {
            let len = u16::try_from(8 + part.len()).map_err(io::Error::other)?;
            packet[4..6].copy_from_slice(&len.to_be_bytes());
            packet[6] = 44;
            let [high, low] = (units << 3 | u16::from(more)).to_be_bytes();
            packet.extend([17, 0, high, low, 0, 0, id_high, id_low]);
        }
        packet.extend(part);
        Ok(packet)
    };
    datagram.chunks(CUT).enumerate().map(cut).collect()
}

/// A socket in the namespace, that does not wait for ever.
fn bind(netns: &NetNs, at: SocketAddr) -> Result<UdpSocket> {
    let socket = netns.run(|| UdpSocket::bind(at))?.with_context(|| format!("bind {at}"))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Sends a datagram's pieces from the namespace, one after the other, in this order.
fn send(netns: &NetNs, from: SocketAddr, to: SocketAddr, order: [usize; 3], data: &[u8]) -> Result<()> {
    let pieces = pieces(from, to, data)?;
    let send = || {
        let raw = Socket::new(Domain::for_address(from), Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
        order.iter().try_for_each(|n| raw.send_to(&pieces[*n], &SocketAddr::new(to.ip(), 0).into()).map(drop))
    };
    netns.run(send)?.with_context(|| format!("pieces from {from} to {to}"))
}

fn receive(socket: &UdpSocket) -> io::Result<(Vec<u8>, SocketAddr)> {
    let mut buffer = vec![0; 5_000];
    let (len, from) = socket.recv_from(&mut buffer)?;
    buffer.truncate(len);
    Ok((buffer, from))
}

/// How many copies the agent's node has sent on.
fn n_released(agent: &Agent) -> Result<f64> {
    agent.metric("lb_kernel_events_total{event=\"fragment_released\"}")
}

/// Sends datagrams to the Service in every order of their pieces, and gets each one back whole.
fn exchange(netns: &NetNs, from: SocketAddr, to: SocketAddr) -> Result<()> {
    let socket = bind(netns, from)?;
    for (number, order) in ORDERS.into_iter().enumerate() {
        let sent = data(number);
        send(netns, from, to, order, &sent)?;
        let (back, by) = receive(&socket).with_context(|| format!("{order:?} from {from} to {to}"))?;
        assert!(back == sent && by == to, "{order:?} from {from} to {to}: {} bytes from {by}", back.len());
    }
    Ok(())
}

#[test]
fn datagrams_reach_a_service_in_whatever_order_their_pieces_come() -> Result<()> {
    for layout in [Layout::PointToPoint, Layout::Bridge] {
        let world = World::new(layout, Offload::On)?;
        for (backend, ports) in [(0, 5_000..), (2, 5_100..)] {
            world.list(&[backend])?;
            let mut expected = n_released(&world.agents[0])?;
            for (port, to) in ports.zip(world.frontends()) {
                let outside = if to.is_ipv4() { Outside::V4.into() } else { IpAddr::from(Outside::V6) };
                let here = [(world.outside.machine(), outside), (world.vm.netns(), world.vm.address_like(to.ip()))];
                for (netns, ip) in here {
                    exchange(netns, SocketAddr::new(ip, port), to).with_context(|| format!("{layout:?}, {backend}"))?;
                    expected += N_EARLY;
                    assert_eq!(n_released(&world.agents[0])?, expected, "{layout:?}, {to}: not mixed up");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn an_answer_comes_from_the_service_in_whatever_order_its_pieces_come() -> Result<()> {
    const NODE_PORT: u16 = 30_085;
    const PORT: u16 = 9_085;
    const CLUSTER: [IpAddr; 2] =
        [IpAddr::V4(Ipv4Addr::new(10, 96, 0, 85)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x85))];
    let world = World::new(Layout::PointToPoint, Offload::On)?;
    for backend in [0, 2] {
        let pod = &world.pods[backend];
        let service = Service::new("mixed", &CLUSTER).port("datagrams", Proto::Udp, 85, PORT);
        world.manifests.write("mixed", &[&service.node_port(NODE_PORT).to(&[pod])])?;
        for v6 in [false, true] {
            let ip = |v4: Ipv4Addr, v6_ip: Ipv6Addr| if v6 { IpAddr::from(v6_ip) } else { v4.into() };
            let to = SocketAddr::new(ip(world.nodes[0].v4(), world.nodes[0].v6()), NODE_PORT);
            let own = SocketAddr::new(ip(pod.v4(), pod.v6()), PORT);
            let client = bind(world.outside.machine(), SocketAddr::new(ip(Outside::V4, Outside::V6), 0))?;
            let server = bind(pod.netns(), own)?;
            server.set_read_timeout(Some(Duration::from_millis(200)))?;
            let seen_as = eventually("mixed to be served", PATIENCE, || {
                client.send_to(b"hello", to)?;
                Ok(receive(&server).ok().map(|(_, from)| from))
            })?;
            for (number, order) in ORDERS.into_iter().enumerate() {
                let sent = data(number);
                send(pod.netns(), own, seen_as, order, &sent)?;
                let (got, by) = receive(&client).with_context(|| format!("{order:?} from {own} by {to}"))?;
                assert!(got == sent && by == to, "{order:?} from {own}: {} bytes from {by}, not {to}", got.len());
            }
        }
    }
    assert_eq!(n_released(&world.agents[0])?, 4.0 * N_EARLY, "not mixed up");
    Ok(())
}
