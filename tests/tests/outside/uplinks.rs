//! Uplinks of other kinds than Ethernet with tcx, and neighbours that are not known yet.

use std::{
    io, mem,
    net::{IpAddr, SocketAddr, UdpSocket},
};

use anyhow::{Context as _, Result};
use lb_agent::datapath::bpf::Way;
use lb_common::sim::frames::Frame;
use lb_tests::{
    Layout, NetNs, Outside, Uplink, eventually, guest::Traffic, kernel_objects::agent_object, poll::PATIENCE,
};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::{
    hand,
    large::{download, echo},
    reach::all_are_reached,
    refuse::{attempt, is_refused},
    world::{EVERY_TRAFFIC, Offload, Setup, World},
};

/// What an uplink has to do: small and large requests to pods, and refusals.
fn works(world: &World, backends: &[usize], what: &str) -> Result<()> {
    for &backend in backends {
        world.list(&[backend]).with_context(|| what.to_owned())?;
        for to in world.frontends() {
            let what = || format!("{what}: pod {backend} by {to}");
            for traffic in EVERY_TRAFFIC {
                world.client.ask(traffic, to).with_context(what)?;
            }
            download(world, to).with_context(what)?;
            echo(world, to, 1300).with_context(what)?;
        }
    }
    world.publish(&[], |web| web)?;
    for to in world.frontends() {
        for traffic in [Traffic::Tcp, Traffic::UdpConnected] {
            eventually(&format!("{what}: {to} to refuse {traffic:?}"), PATIENCE, || {
                Ok(is_refused(&attempt(world, traffic, to)?).then_some(()))
            })?;
        }
    }
    Ok(())
}

/// That `lb-agent status` says this of a device.
fn is_served_as(world: &World, device: &str, role: &str) -> Result<()> {
    let (_, status, _) = world.agents[0].cli(&["status"])?;
    let says = |line: &str| line.split_whitespace().next() == Some(device) && line.contains(role);
    assert!(status.lines().any(says), "{device} as {role}: {status}");
    Ok(())
}

#[test]
fn a_device_without_ethernet_serves_as_an_uplink() -> Result<()> {
    for layout in [Layout::PointToPoint, Layout::Bridge] {
        let world = World::build(&Setup { uplink: Uplink::Tun, layout, ..Setup::default() })?;
        is_served_as(&world, "eth0", "uplink without Ethernet")?;
        works(&world, &[0, 2], &format!("tun, {layout:?}"))?;
    }
    Ok(())
}

#[test]
fn filters_of_a_clsact_qdisc_do_what_tcx_links_do() -> Result<()> {
    // The agent fills the maps and leaves the devices alone.
    let mut world = World::build(&Setup { devices: "none", flags: &[], ..Setup::default() })?;
    let mut agents = std::mem::take(&mut world.agents);
    agents[0].stop()?;
    hand::install(&world.nodes[0], &agent_object(), Way::Clsact)?;
    let filters = world.nodes[0].netns().output("tc", &["filter", "show", "dev", "eth0", "ingress"])?;
    assert!(filters.contains("lb_uplink"), "{filters}");
    all_are_reached(&world, "clsact")?;
    for to in world.frontends() {
        download(&world, to)?;
        echo(&world, to, 1300)?;
    }
    Ok(())
}

/// Makes a node forget every neighbour that it found out itself.
fn forget_neighbours(netns: &NetNs) -> Result<()> {
    // One may be learnt again before the list is read: somebody else asks for this node.
    eventually("the neighbours to be unknown", PATIENCE, || {
        netns.output("ip", &["neigh", "flush", "all"])?;
        let left = netns.output("ip", &["neigh", "show", "nud", "reachable", "nud", "stale", "nud", "delay"])?;
        Ok(left.trim().is_empty().then_some(()))
    })
}

#[test]
fn the_first_packet_to_a_neighbour_that_is_not_known_yet_is_not_lost() -> Result<()> {
    for layout in [Layout::PointToPoint, Layout::Bridge] {
        let world = World::new(layout, Offload::On)?;
        let vm = world.vm.guest()?;
        for backend in [0, 2] {
            world.list(&[backend])?;
            for to in world.frontends() {
                for traffic in [Traffic::Tcp, Traffic::UdpConnected] {
                    forget_neighbours(world.nodes[0].netns())?;
                    let what = format!("{layout:?}, pod {backend}, {traffic:?} to {to}");
                    let attempt = attempt(&world, traffic, to)?;
                    assert!(attempt.end.is_ok() && attempt.repeats == 0, "{what}: {attempt:?}");
                    forget_neighbours(world.nodes[0].netns())?;
                    assert!(vm.ask(traffic, to).is_ok(), "{what}, from a pod without a hook");
                }
            }
        }
    }
    Ok(())
}

/// A link-layer frame goes out of a device as it is.
fn send_frame(device: u32, frame: &[u8]) -> io::Result<usize> {
    let index = i32::try_from(device).map_err(io::Error::other)?;
    let fill = |storage: *mut libc::sockaddr_storage, len: *mut libc::socklen_t| {
        let address = libc::sockaddr_ll {
            sll_family: libc::sa_family_t::try_from(libc::AF_PACKET).map_err(io::Error::other)?,
            sll_ifindex: index,
            sll_protocol: 0,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: [0; 8],
        };
        // SAFETY: `storage` has room for every kind of address.
        unsafe { storage.cast::<libc::sockaddr_ll>().write(address) };
        let size = libc::socklen_t::try_from(mem::size_of_val(&address)).map_err(io::Error::other)?;
        // SAFETY: `len` is that of `storage`.
        unsafe { len.write(size) };
        Ok(())
    };
    // SAFETY: `fill` writes the address and its length.
    let ((), address) = unsafe { SockAddr::try_init(|storage, len| fill(storage.cast(), len)) }?;
    Socket::new(Domain::PACKET, Type::RAW, None)?.send_to(frame, &address)
}

/// A device of `netns` by which `to` is reached at once: its number, its link-layer address, and that of `to`.
fn link_towards(netns: &NetNs, to: IpAddr) -> Result<(u32, [[u8; 6]; 2])> {
    let words = |args: &[&str]| -> Result<Vec<String>> {
        Ok(netns.output("ip", args)?.split_whitespace().map(str::to_owned).collect())
    };
    let after = |words: &[String], word: &str| -> Result<String> {
        let at = words.iter().position(|known| known == word).with_context(|| format!("no {word} in {words:?}"))?;
        words.get(at + 1).cloned().with_context(|| format!("nothing after {word}"))
    };
    let mac = |text: String| -> Result<[u8; 6]> {
        let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
        bytes.try_into().map_err(|bytes| anyhow::anyhow!("{bytes:?}"))
    };
    let (to, device) = (to.to_string(), after(&words(&["route", "get", &to.to_string()])?, "dev")?);
    let link = words(&["-o", "link", "show", "dev", &device])?;
    let index = link.first().context("no link")?.trim_end_matches(':').parse()?;
    let neighbour = words(&["neigh", "show", &to, "dev", &device])?;
    Ok((index, [mac(after(&link, "link/ether")?)?, mac(after(&neighbour, "lladdr")?)?]))
}

/// IEEE 802.1Q with the number 0: whoever gets it takes the tag off and the frame for one without.
#[test]
fn a_frame_whose_tag_says_a_priority_and_no_vlan_is_served() -> Result<()> {
    let world = World::new(Layout::PointToPoint, Offload::On)?;
    for (client, to) in [IpAddr::from(Outside::V4), IpAddr::from(Outside::V6)].into_iter().zip(world.node_port()) {
        // The router knows its neighbour then.
        world.client.ask(Traffic::Tcp, to)?;
        let (device, [own, next]) = link_towards(world.outside.router(), to.ip())?;
        let socket = world.outside.machine().run(|| UdpSocket::bind(SocketAddr::new(client, 0)))??;
        socket.set_read_timeout(Some(PATIENCE))?;
        let packet = Frame { data: b"echo and no VLAN".to_vec(), ..Frame::udp(socket.local_addr()?, to) }.bytes();
        let ether_type: [u8; 2] = if to.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] };
        let tag = [0x81, 0x00, 0x60, 0x00];
        let frame = [&next[..], &own, &tag, &ether_type, &packet].concat();
        world.outside.router().run(|| send_frame(device, &frame))??;
        let mut back = [0; 100];
        let (len, from) = socket.recv_from(&mut back).with_context(|| format!("by {to}"))?;
        assert_eq!((back.get(..len), from), (Some(&b"echo and no VLAN"[..]), to));
    }
    Ok(())
}
