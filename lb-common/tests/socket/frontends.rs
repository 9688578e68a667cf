//! Destinations that are more, or less, than a ClusterIP and its port: unknown ports, loopback, source ranges, bind.

use lb_common::{
    abi::{ClientAddr, ClusterIps, Counter, SourceKey, V4, V6, frontend_flags},
    sim::{InUse, Refused},
};

use super::*;

const POD: u64 = 77;

/// Adds an entry without slots.
fn put(node: &mut SimNode, at: SocketAddr, proto: u8, scope: u8) {
    fn put<F: Family>(maps: &mut SimMaps<F>, at: SocketAddr, proto: u8, scope: u8) {
        let Endpoint { addr, port } = endpoint::<F>(at);
        let key = FrontendKey { addr, port, proto, scope };
        maps.frontends.insert(key, Frontend::default().sealed(&key));
    }
    match at {
        SocketAddr::V4(_) => put(&mut node.v4, at, proto, scope),
        SocketAddr::V6(_) => put(&mut node.v6, at, proto, scope),
    }
}

/// The address in its own family: an IPv4 one also where the socket says `::ffff:`.
fn plain(world: World, at: SocketAddr) -> SocketAddr {
    SocketAddr::new(if world == World::V6 { at.ip() } else { at.ip().to_canonical() }, at.port())
}

fn other_port(at: SocketAddr) -> SocketAddr {
    SocketAddr::new(at.ip(), at.port() + 1)
}

#[test]
fn an_unknown_port_of_a_cluster_ip_refuses_and_is_counted() {
    for world in WORLDS {
        let mut node = SimNode::default();
        world.serve(&mut node, 1, &[7]);
        put(&mut node, SocketAddr::new(plain(world, world.service(1)).ip(), 0), 0, scope::INTERNAL);
        let unknown = other_port(world.service(1));
        assert_eq!(world.socket(Proto::Tcp).connect(&node, unknown), Err(Refused));
        assert_eq!(world.socket(Proto::Udp).connect(&node, unknown), Err(Refused));
        assert_eq!(world.socket(Proto::Udp).send_to(&node, unknown), Err(Refused));
        assert_eq!(node.environment.counted(Counter::UnknownPort), 3);
        assert_eq!(world.socket(Proto::Tcp).connect(&node, world.service(1)), Ok(world.pod(7)), "the known one works");
        let other = other_port(world.service(2));
        assert_eq!(world.socket(Proto::Tcp).connect(&node, other), Ok(other), "no ClusterIP");
    }
}

#[test]
fn guards_count_only_below_the_prefix_of_the_cluster_ips() {
    let world = World::V4;
    let mut node = SimNode::default();
    world.serve(&mut node, 1, &[7]);
    put(&mut node, SocketAddr::new(world.service(1).ip(), 0), 0, scope::INTERNAL);
    let unknown = other_port(world.service(1));
    for (prefix, mask, guarded) in [([10, 96, 0, 0], [255, 255, 0, 0], true), ([10, 97, 0, 0], [255, 255, 0, 0], false)]
    {
        node.v4.cluster_ips = ClusterIps { prefix, mask };
        let outcome = world.socket(Proto::Tcp).connect(&node, unknown);
        assert_eq!(outcome, if guarded { Err(Refused) } else { Ok(unknown) });
    }
}

#[test]
fn a_prefix_holds_what_begins_like_it() {
    let all = ClusterIps::<V6>::default();
    assert!(all.contains([7; 16]));
    let mut mask = [0; 16];
    mask[..5].fill(0xff);
    let some = ClusterIps::<V6> { prefix: [7, 7, 7, 7, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], mask };
    assert!(some.contains([7; 16]));
    assert!(!some.contains([7, 7, 7, 7, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7]));
}

/// NodePort 30080 of Service 1 at the loopback address.
fn loopback(world: World, node: &mut SimNode) -> SocketAddr {
    fn add<F: Family>(maps: &mut SimMaps<F>, service: SocketAddr, proto: Proto) {
        let Endpoint { addr, port } = endpoint::<F>(service);
        let from = FrontendKey { addr, port, proto: proto.number(), scope: scope::INTERNAL };
        let key = FrontendKey { addr: F::LOOPBACK, port: 30080, proto: proto.number(), scope: scope::HOST };
        maps.frontends.insert(key, maps.frontends[&from].sealed(&key));
    }
    world.serve(node, 1, &[7]);
    for proto in [Proto::Tcp, Proto::Udp] {
        match world {
            World::V6 => add(&mut node.v6, world.service(1), proto),
            World::V4 | World::Mapped => add(&mut node.v4, World::V4.service(1), proto),
        }
    }
    let ip = match world {
        World::V4 => [127, 0, 0, 1].into(),
        World::V6 => V6::LOOPBACK.into(),
        World::Mapped => IpAddr::V6(map_v4(V4::LOOPBACK).into()),
    };
    SocketAddr::new(ip, 30080)
}

#[test]
fn a_loopback_node_port_is_there_for_processes_of_the_node_and_for_nobody_else() {
    for world in WORLDS {
        let mut node = SimNode::default();
        let at = loopback(world, &mut node);
        for proto in [Proto::Tcp, Proto::Udp] {
            assert_eq!(world.socket(proto).connect(&node, at), Ok(world.pod(7)), "{world:?}");
            assert_eq!(world.socket(proto).in_netns(POD).connect(&node, at), Ok(at), "a pod's loopback is its own");
        }
        assert_eq!(world.socket(Proto::Udp).send_to(&node, at), Ok(world.pod(7)));
        assert_eq!(world.socket(Proto::Udp).in_netns(POD).send_to(&node, at), Ok(at));
        assert_eq!(world.socket(Proto::Tcp).connect(&node, other_port(at)), Ok(other_port(at)));
    }
}

fn restrict(world: World, node: &mut SimNode) {
    world.serve(node, 1, &[7]);
    world.alter(node, 1, |frontend| frontend.flags |= frontend_flags::SOURCES);
}

#[test]
fn source_ranges_let_in_the_clients_whose_address_they_hold() {
    for world in WORLDS {
        let mut node = SimNode::default();
        restrict(world, &mut node);
        for (netns, last) in [(POD, 1), (POD + 1, 2)] {
            node.v4.clients.insert(netns, ClientAddr { addr: [10, 244, 9, last] });
            let mut addr = [0xfd; 16];
            addr[15] = last;
            node.v6.clients.insert(netns, ClientAddr { addr });
        }
        let mut range = [0xfd; 16];
        range[15] = 1;
        node.v4.sources.insert((32 + 32, SourceKey { service: 1, addr: [10, 244, 9, 1] }));
        node.v6.sources.insert((32 + 128, SourceKey { service: 1, addr: range }));
        // Another Service's range lets nobody in here.
        node.v4.sources.insert((32, SourceKey { service: 2, addr: [0; 4] }));
        node.v6.sources.insert((32, SourceKey { service: 2, addr: [0; 16] }));
        let outcome = |netns, proto| world.socket(proto).in_netns(netns).connect(&node, world.service(1));
        for proto in [Proto::Tcp, Proto::Udp] {
            assert_eq!(outcome(POD, proto), Ok(world.pod(7)), "{world:?}");
            assert_eq!(outcome(POD + 1, proto), Err(Refused), "not in the range");
            assert_eq!(outcome(POD + 2, proto), Err(Refused), "a client that nobody knows");
        }
        let datagram = world.socket(Proto::Udp).in_netns(POD + 1).send_to(&node, world.service(1));
        assert_eq!(datagram, Err(Refused));
        assert_eq!(node.environment.counted(Counter::SourceRefused), 5);
    }
}

#[test]
fn a_range_holds_the_addresses_that_begin_like_it() {
    let mut node = SimNode::default();
    restrict(World::V4, &mut node);
    node.v4.sources.insert((32 + 20, SourceKey { service: 1, addr: [10, 244, 16, 0] }));
    for (third, let_in) in [(15, false), (16, true), (31, true), (32, false)] {
        node.v4.clients.insert(POD, ClientAddr { addr: [10, 244, third, 5] });
        let outcome = World::V4.socket(Proto::Tcp).in_netns(POD).connect(&node, World::V4.service(1));
        assert_eq!(outcome.is_ok(), let_in, "{third}");
    }
}

const NODE4: [u8; 4] = [192, 0, 2, 1];

/// NodePort 30080/TCP at the node's IPv4 address, and an external IP 192.0.2.1:80 beside it.
fn node_port() -> SimNode {
    let mut node = SimNode::default();
    let tcp = Proto::Tcp.number();
    put(&mut node, ([0; 4], 30080).into(), tcp, scope::BIND);
    put(&mut node, (NODE4, 30080).into(), tcp, scope::INTERNAL);
    put(&mut node, (NODE4, 80).into(), tcp, scope::INTERNAL);
    node
}

fn bind(node: &SimNode, proto: Proto, at: SocketAddr) -> Result<(), InUse> {
    SimSocket::for_destination(at.ip(), proto).bind(node, at)
}

#[test]
fn a_node_port_cannot_be_bound_where_it_would_be_in_the_way() {
    let node = node_port();
    let any6 = [0_u16; 8];
    let taken: [SocketAddr; 5] = [
        ([0; 4], 30080).into(),
        (NODE4, 30080).into(),
        (any6, 30080).into(),
        (map_v4(NODE4), 30080).into(),
        (map_v4([0; 4]), 30080).into(),
    ];
    for at in taken {
        assert_eq!(bind(&node, Proto::Tcp, at), Err(InUse), "{at}");
        assert_eq!(bind(&node, Proto::Udp, at), Ok(()), "{at} of the other protocol");
        let in_pod = SimSocket::for_destination(at.ip(), Proto::Tcp).in_netns(POD).bind(&node, at);
        assert_eq!(in_pod, Ok(()), "{at} in a pod");
    }
    assert_eq!(node.environment.counted(Counter::BindRefused), 5);
}

#[test]
fn everything_else_can_be_bound() {
    let node = node_port();
    let free: [SocketAddr; 7] = [
        ([0; 4], 30081).into(),
        ([127, 0, 0, 1], 30080).into(),
        ([198, 51, 100, 1], 30080).into(),
        (NODE4, 80).into(),
        ([0; 4], 80).into(),
        ([0_u16, 0, 0, 0, 0, 0, 0, 1], 30080).into(),
        ([0_u16; 8], 80).into(),
    ];
    for at in free {
        assert_eq!(bind(&node, Proto::Tcp, at), Ok(()), "{at}");
    }
}

#[test]
fn a_loopback_node_port_and_an_ipv6_one_are_protected_as_well() {
    let mut node = SimNode::default();
    let tcp = Proto::Tcp.number();
    put(&mut node, ([0_u16; 8], 30080).into(), tcp, scope::BIND);
    put(&mut node, (V6::LOOPBACK, 30080).into(), tcp, scope::HOST);
    for address in [[0; 16], V6::LOOPBACK] {
        assert_eq!(bind(&node, Proto::Tcp, (address, 30080).into()), Err(InUse));
    }
    assert_eq!(bind(&node, Proto::Tcp, ([0; 4], 30080).into()), Ok(()), "the IPv4 port is free");
}
