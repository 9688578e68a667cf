//! Processes of excluded workloads: to them nothing is a Service.

use lb_common::{
    abi::{Counter, Exclusion},
    sim::Refused,
};

use super::*;

const POD: u64 = 40;

/// A node on which the cgroup `POD`, at level 2, is excluded.
fn node() -> SimNode {
    let mut node = SimNode::default();
    node.excluded.insert(POD);
    node.exclusion = Exclusion { levels: 1 << 2 };
    node
}

/// A socket of a process in these cgroups below the root.
fn socket_in(world: World, proto: Proto, cgroups: &[u64]) -> SimSocket {
    let socket = world.socket(proto);
    socket.cgroups.borrow_mut().extend(cgroups);
    socket
}

#[test]
fn an_excluded_process_sends_to_the_service_itself_and_its_peer_is_that() {
    for world in WORLDS {
        let mut node = node();
        world.serve(&mut node, 1, &[7]);
        for cgroups in [&[30, POD][..], &[30, POD, 50, 60]] {
            for proto in [Proto::Tcp, Proto::Udp] {
                let socket = socket_in(world, proto, cgroups);
                assert_eq!(socket.connect(&node, world.service(1)), Ok(world.service(1)), "{world:?} {proto:?}");
                assert_eq!(socket.peer_name(&node), Some(world.service(1)));
            }
            let socket = socket_in(world, Proto::Udp, cgroups);
            assert_eq!(socket.send_to(&node, world.service(1)), Ok(world.service(1)), "{world:?}");
            assert_eq!(socket.recv_from(&node, world.pod(7)), world.pod(7), "nothing is translated back");
            assert_eq!((socket.peers4(), socket.peers6()), (None, None));
        }
    }
}

#[test]
fn others_beside_above_and_not_as_deep_are_served() {
    for world in WORLDS {
        let mut node = node();
        world.serve(&mut node, 1, &[7]);
        for cgroups in [&[30, 41, POD][..], &[30], &[]] {
            let socket = socket_in(world, Proto::Tcp, cgroups);
            assert_eq!(socket.connect(&node, world.service(1)), Ok(world.pod(7)), "{cgroups:?}: not at that level");
            assert_eq!(socket_in(world, Proto::Udp, cgroups).send_to(&node, world.service(1)), Ok(world.pod(7)));
        }
    }
}

#[test]
fn the_deepest_level_can_be_excluded_and_bits_too_many_change_nothing() {
    let world = World::V4;
    let mut node = node();
    world.serve(&mut node, 1, &[7]);
    let deep: Vec<u64> = (101..=131).collect();
    node.excluded.insert(131);
    let connect =
        |node: &SimNode, cgroups: &[u64]| socket_in(world, Proto::Tcp, cgroups).connect(node, world.service(1));
    assert_eq!(connect(&node, &deep), Ok(world.pod(7)), "its level is not named");
    node.exclusion.levels = u32::MAX;
    assert_eq!(connect(&node, &deep), Ok(world.service(1)));
    assert_eq!(connect(&node, &[30, POD]), Ok(world.service(1)));
    assert_eq!(connect(&node, &[30, 41]), Ok(world.pod(7)));
}

#[test]
fn refusals_are_left_to_the_packet_layer_too() {
    for world in WORLDS {
        let mut node = node();
        world.serve(&mut node, 1, &[]);
        let excluded = |proto| socket_in(world, proto, &[30, POD]);
        assert_eq!(excluded(Proto::Tcp).connect(&node, world.service(1)), Ok(world.service(1)));
        assert_eq!(excluded(Proto::Udp).send_to(&node, world.service(1)), Ok(world.service(1)));
        assert_eq!(node.environment.counted(Counter::NoBackend), 0);
        assert_eq!(world.socket(Proto::Tcp).connect(&node, world.service(1)), Err(Refused));
    }
}

#[test]
fn sockets_that_were_translated_before_stay_so() {
    for world in WORLDS {
        let mut node = SimNode::default();
        world.serve(&mut node, 1, &[7]);
        let [connected, unconnected] = [(); 2].map(|()| socket_in(world, Proto::Udp, &[30, POD]));
        connected.connect(&node, world.service(1)).unwrap();
        unconnected.send_to(&node, world.service(1)).unwrap();
        node.excluded.insert(POD);
        node.exclusion = Exclusion { levels: 1 << 2 };
        assert_eq!(connected.peer_name(&node), Some(world.service(1)));
        assert_eq!(connected.send_to(&node, world.service(1)), Ok(world.pod(7)));
        assert_eq!(unconnected.send_to(&node, world.service(1)), Ok(world.pod(7)), "the conversation goes on");
        assert_eq!(unconnected.recv_from(&node, world.pod(7)), world.service(1));
        connected.connect(&node, world.service(1)).unwrap();
        assert_eq!(connected.recv_from(&node, world.pod(7)), world.pod(7), "a new connect is a new choice");
    }
}
