//! connect(2) and getpeername(2), TCP and connected UDP.

use lb_common::{abi::Counter, sim::Refused};

use super::*;

const PROTOS: [Proto; 2] = [Proto::Tcp, Proto::Udp];

#[test]
fn a_connection_to_a_service_goes_to_a_pod_and_its_peer_is_the_service() {
    for world in WORLDS {
        for proto in PROTOS {
            let mut node = SimNode::default();
            world.serve(&mut node, 1, &[7]);
            let socket = world.socket(proto);
            assert_eq!(socket.connect(&node, world.service(1)), Ok(world.pod(7)), "{world:?} {proto:?}");
            assert_eq!(socket.peer_name(&node), Some(world.service(1)), "{world:?} {proto:?}");
        }
    }
}

#[test]
fn what_is_not_a_service_passes_untouched() {
    for world in WORLDS {
        let mut node = SimNode::default();
        world.serve(&mut node, 1, &[7]);
        let socket = world.socket(Proto::Tcp);
        let other_port = SocketAddr::new(world.service(1).ip(), 54);
        for destination in [world.service(2), other_port, world.pod(7)] {
            assert_eq!(socket.connect(&node, destination), Ok(destination));
            assert_eq!(socket.peer_name(&node), Some(destination));
        }
    }
}

#[test]
fn a_service_without_endpoints_refuses_and_is_counted() {
    for world in WORLDS {
        let mut node = SimNode::default();
        world.serve(&mut node, 1, &[]);
        let socket = world.socket(Proto::Tcp);
        assert_eq!(socket.connect(&node, world.service(1)), Err(Refused));
        assert_eq!(node.environment.counted(Counter::NoBackend), 1);
    }
}

#[test]
fn a_socket_that_connects_elsewhere_forgets_the_service() {
    for world in WORLDS {
        let mut node = SimNode::default();
        world.serve(&mut node, 1, &[7]);
        let socket = world.socket(Proto::Udp);
        socket.connect(&node, world.service(1)).unwrap();
        socket.connect(&node, world.pod(7)).unwrap();
        assert_eq!(socket.peer_name(&node), Some(world.pod(7)), "the same pod, but asked for by its own address");
    }
}

#[test]
fn a_refused_connect_leaves_a_socket_with_its_peer() {
    for world in WORLDS {
        let mut node = SimNode::default();
        world.serve(&mut node, 1, &[7]);
        world.serve(&mut node, 2, &[]);
        let socket = world.socket(Proto::Udp);
        socket.connect(&node, world.service(1)).unwrap();
        assert_eq!(socket.connect(&node, world.service(2)), Err(Refused));
        assert_eq!(socket.peer_name(&node), Some(world.service(1)), "as the kernel does");
        assert_eq!(socket.recv_from(&node, world.pod(7)), world.service(1));
    }
}

#[test]
fn a_dual_stack_socket_remembers_its_last_family_only() {
    let mut node = SimNode::default();
    World::V6.serve(&mut node, 1, &[7]);
    World::Mapped.serve(&mut node, 1, &[8]);
    let socket = World::V6.socket(Proto::Udp);
    for (world, pod) in [(World::V6, 7), (World::Mapped, 8), (World::V6, 7)] {
        assert_eq!(socket.connect(&node, world.service(1)), Ok(world.pod(pod)));
        assert_eq!(socket.peer_name(&node), Some(world.service(1)));
        let families = (socket.translation4().is_some(), socket.translation6().is_some());
        assert_eq!(families, (world == World::Mapped, world == World::V6));
    }
    // udpv6_pre_connect gives an AF_INET address to the connect4 hook.
    assert_eq!(socket.connect(&node, World::V4.service(1)), Ok(World::V4.pod(8)));
    assert_eq!(socket.translation6(), None);
}

#[test]
fn a_connection_without_storage_is_made_and_counted() {
    for world in WORLDS {
        let mut node = SimNode::default();
        world.serve(&mut node, 1, &[7]);
        let socket = world.socket(Proto::Tcp);
        socket.no_memory.set(true);
        assert_eq!(socket.connect(&node, world.service(1)), Ok(world.pod(7)));
        assert_eq!(socket.peer_name(&node), Some(world.pod(7)));
        assert_eq!(node.environment.counted(Counter::NoStorage), 1);
    }
}

#[test]
fn a_frontend_that_names_a_slot_outside_the_array_refuses() {
    let mut node = SimNode::default();
    World::V4.serve(&mut node, 1, &[7]);
    node.v4.n_slots = 100;
    let socket = World::V4.socket(Proto::Tcp);
    assert_eq!(socket.connect(&node, World::V4.service(1)), Err(Refused));
    assert_eq!(node.environment.counted(Counter::DamagedMaps), 1);
}

#[test]
fn tcp_and_udp_are_counted_apart() {
    let mut node = SimNode::default();
    World::V4.serve(&mut node, 1, &[7]);
    for proto in PROTOS {
        World::V4.socket(proto).connect(&node, World::V4.service(1)).unwrap();
        World::V4.socket(proto).connect(&node, World::V4.pod(7)).unwrap();
    }
    let counted = |counter| node.environment.counted(counter);
    assert_eq!((counted(Counter::TcpConnect), counted(Counter::UdpConnect)), (1, 1));
}

/// 10 pods, 10,000 connections: chi-square with 9 degrees of freedom is above 27.88 in one of a thousand runs, and the
/// seed makes this one the same for ever.
#[test]
fn connections_are_spread_evenly() {
    for world in WORLDS {
        let mut node = SimNode::new(42);
        let pods: Vec<u8> = (1..=10).collect();
        world.serve(&mut node, 1, &pods);
        let mut counts = [0_u32; 11];
        for _ in 0..10_000 {
            let to = world.socket(Proto::Tcp).connect(&node, world.service(1)).unwrap();
            let pod = pods.iter().find(|pod| world.pod(**pod) == to).unwrap();
            counts[usize::from(*pod)] += 1;
        }
        let chi_square: f64 = counts.iter().skip(1).map(|n| (f64::from(*n) - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi_square < 27.88, "{chi_square} from {counts:?}");
        assert!(chi_square > 0.1, "{chi_square}: taking turns is not what is asked for");
    }
}
