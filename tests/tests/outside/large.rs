//! More than one packet: streams through narrow places, and datagrams that have to be cut.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
};

use anyhow::{Context as _, Result};
use lb_common::sim::frames::Frame;
use lb_tests::{Layout, NetNs, Node, Outside, guest::errno, poll::PATIENCE};
use socket2::{Domain, Protocol, Socket, Type};

use crate::world::{Offload, VARIANTS, World};

/// Of a response that takes many packets of any size.
const LARGE: usize = 2_000_000;

/// Gets so many bytes from one of the pods by HTTP.
pub(crate) fn download(world: &World, to: SocketAddr) -> Result<()> {
    let url = format!("http://{to}/bytes/{LARGE}");
    let args = ["-sS", "-m", "20", "-o", "/dev/null", "-w", "%{size_download}", &url];
    let got = world.outside.machine().output("curl", &args).with_context(|| format!("download from {to}"))?;
    assert_eq!(got, LARGE.to_string(), "{to}");
    Ok(())
}

/// What the routes of a namespace say of the largest packet to `ip`, if it has learnt anything.
fn learnt_mtu(netns: &NetNs, ip: IpAddr) -> Result<Option<u32>> {
    let text = netns.output("ip", &["route", "get", &ip.to_string()])?;
    let mut words = text.split_whitespace().skip_while(|word| *word != "mtu");
    Ok(words.nth(1).and_then(|mtu| mtu.parse().ok()))
}

/// Forgets what was learnt of paths.
fn forget_mtus(netns: &NetNs) -> Result<()> {
    netns.sysctl("net/ipv4/route/flush", "1")?;
    netns.output("ip", &["-6", "route", "flush", "cache"])?;
    Ok(())
}

#[test]
fn a_large_response_arrives_whole_from_local_and_remote_pods() -> Result<()> {
    for (layout, offload) in VARIANTS {
        let world = World::new(layout, offload)?;
        for backend in [0, 2] {
            world.list(&[backend])?;
            for to in world.frontends() {
                download(&world, to).with_context(|| format!("{layout:?}, offload {offload:?}, pod {backend}"))?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_large_response_finds_its_way_through_a_narrow_place_behind_the_router() -> Result<()> {
    for (layout, offload) in VARIANTS {
        let world = World::new(layout, offload)?;
        // Only the router knows: the client offers segments of 1460 bytes. What it says reaches the far pod under the node's name: by
        // its own it would not come by the overlay there.
        world.outside.router().ip(["link set eth1 mtu 1300"])?;
        world.nodes[1].netns().sysctl("net/ipv4/conf/all/rp_filter", "1")?;
        // Under which name the pod sees the client.
        let (near, far) = ([Outside::V4.into(), Outside::V6.into()], overlay_of(&world.nodes[0]));
        for (backend, clients) in [(0, near), (2, far)] {
            let pod = world.pods[backend].netns();
            world.list(&[backend])?;
            for to in world.frontends() {
                forget_mtus(pod)?;
                let what = || format!("{layout:?}, offload {offload:?}, pod {backend}");
                download(&world, to).with_context(what)?;
                let client = clients[usize::from(to.is_ipv6())];
                assert_eq!(learnt_mtu(pod, client)?, Some(1300), "{to}, {}", what());
            }
        }
    }
    Ok(())
}

/// The addresses of a node's overlay, which it uses towards pods of other nodes.
fn overlay_of(node: &Node) -> [IpAddr; 2] {
    [node.pod_v4(0).into(), node.pod_v6(0).into()]
}

/// A datagram of so many bytes, and back.
pub(crate) fn echo(world: &World, to: SocketAddr, len: usize) -> Result<()> {
    let socket = world.client.udp(to)?;
    socket.connect(to)?;
    let sent: Vec<u8> = b"echo".iter().copied().chain((0..=u8::MAX).cycle()).take(len).collect();
    let back = socket.exchange(&sent).with_context(|| format!("{len} bytes to {to}"))?;
    assert!(back == sent, "{len} bytes to {to}: {} came back, or others", back.len());
    Ok(())
}

#[test]
fn large_datagrams_are_echoed_although_they_are_cut_on_the_way() -> Result<()> {
    for (layout, offload) in VARIANTS {
        let world = World::new(layout, offload)?;
        // As wide as the pods' own devices, so that nothing but the sender cuts.
        for (netns, device) in [(world.outside.machine(), "eth0"), (world.outside.router(), "eth1")] {
            netns.ip([format!("link set {device} mtu 1430")])?;
        }
        for backend in [0, 2] {
            world.list(&[backend])?;
            for to in world.frontends() {
                for len in [100, 1300, 4000, 20_000] {
                    echo(&world, to, len).with_context(|| format!("{layout:?}, offload {offload:?}, pod {backend}"))?;
                }
            }
        }
    }
    Ok(())
}

/// Sends a datagram in two fragments whose fragmentable part begins with a destination option, so that no fragment header
/// says UDP (RFC 8200 section 4.5), and receives the answer. Linux itself puts options before the fragment header.
fn padded_echo(from: SocketAddr, to: SocketAddr) -> io::Result<bool> {
    const DESTINATION_OPTIONS: u8 = 60;
    const CUT: u16 = 1_200;
    let socket = UdpSocket::bind(from)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let data: Vec<u8> = b"echo".iter().copied().chain((0..=u8::MAX).cycle()).take(2_000).collect();
    let whole = Frame { data: data.clone(), ..Frame::udp(from, to) }.bytes();
    let (header, datagram) = whole.split_at(40);
    // UDP follows; no more than eight bytes; PadN with four.
    let part = [&[17, 0, 1, 4, 0, 0, 0, 0], datagram].concat();
    let raw = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    let (first, later) = part.split_at(CUT.into());
    for (offset_and_more, piece) in [(1, first), (CUT, later)] {
        let [high, low] = u16::to_be_bytes(offset_and_more);
        let fragment = [DESTINATION_OPTIONS, 0, high, low, 0, 0, 0, 7];
        let mut packet = [header, &fragment[..], piece].concat();
        let len = u16::try_from(packet.len() - 40).map_err(io::Error::other)?;
        packet[4..6].copy_from_slice(&len.to_be_bytes());
        packet[6] = 44;
        raw.send_to(&packet, &SocketAddr::new(to.ip(), 0).into())?;
    }
    let mut back = vec![0; 5_000];
    let len = socket.recv(&mut back)?;
    Ok(back.get(..len) == Some(&data[..]))
}

#[test]
fn datagrams_with_options_inside_their_fragments_are_echoed() -> Result<()> {
    let world = World::new(Layout::PointToPoint, Offload::On)?;
    for backend in [0, 2] {
        world.list(&[backend])?;
        for (port, to) in (5_000..).zip(world.frontends().into_iter().filter(SocketAddr::is_ipv6)) {
            let from = SocketAddr::new(Outside::V6.into(), port);
            let same = world.outside.machine().run(|| padded_echo(from, to))?;
            assert!(same.with_context(|| format!("{to}, pod {backend}"))?, "{to}, pod {backend}");
        }
    }
    Ok(())
}

#[test]
fn a_client_learns_of_a_narrow_place_behind_the_node_and_cuts_its_datagrams() -> Result<()> {
    let world = World::new(Layout::PointToPoint, Offload::On)?;
    for backend in [0, 2] {
        world.list(&[backend])?;
        for to in world.frontends() {
            // Fits the client's device with 1500 bytes and not the pods' with 1430: the first one is lost, and told of.
            forget_mtus(world.outside.machine())?;
            if let Err(error) = echo(&world, to, 1440) {
                assert!(["EAGAIN", "EMSGSIZE"].contains(&errno(&error)), "{error:#}");
            }
            assert_eq!(learnt_mtu(world.outside.machine(), to.ip())?, Some(1430), "{to}, pod {backend}");
            echo(&world, to, 1440).with_context(|| format!("the second to pod {backend}"))?;
        }
    }
    Ok(())
}
