//! sendto(2) and recvfrom(2) on UDP sockets, connected and not.

use lb_common::{
    abi::{Counter, N_UDP_PEERS},
    logic::peers::UDP_PEER_TIMEOUT_S,
    sim::Refused,
};

use super::*;

fn many() -> Vec<u8> {
    (1..=20).collect()
}

#[test]
fn answers_come_from_the_service_that_was_asked() {
    for world in WORLDS {
        let mut node = SimNode::default();
        world.serve(&mut node, 1, &[7]);
        let socket = world.socket(Proto::Udp);
        assert_eq!(socket.send_to(&node, world.service(1)), Ok(world.pod(7)));
        assert_eq!(socket.recv_from(&node, world.pod(7)), world.service(1));
    }
}

#[test]
fn only_an_exact_match_is_translated_back() {
    for world in WORLDS {
        let mut node = SimNode::default();
        world.serve(&mut node, 1, &[7]);
        let socket = world.socket(Proto::Udp);
        socket.send_to(&node, world.service(1)).unwrap();
        let other_port = SocketAddr::new(world.pod(7).ip(), 1);
        for stranger in [other_port, world.pod(8), world.service(1)] {
            assert_eq!(socket.recv_from(&node, stranger), stranger);
        }
        let another_socket = world.socket(Proto::Udp);
        assert_eq!(another_socket.recv_from(&node, world.pod(7)), world.pod(7));
    }
}

#[test]
fn datagrams_stay_with_their_backend_while_the_two_keep_talking() {
    for world in WORLDS {
        let mut node = SimNode::default();
        world.serve(&mut node, 1, &many());
        let socket = world.socket(Proto::Udp);
        let first = socket.send_to(&node, world.service(1)).unwrap();
        for _ in 0..50 {
            node.environment.advance(UDP_PEER_TIMEOUT_S);
            assert_eq!(socket.send_to(&node, world.service(1)), Ok(first));
        }
        assert_eq!(node.environment.counted(Counter::UdpSelect), 1);
    }
}

#[test]
fn an_answer_keeps_the_pair_alive_as_a_datagram_does() {
    let world = World::V4;
    let mut node = SimNode::default();
    world.serve(&mut node, 1, &many());
    let socket = world.socket(Proto::Udp);
    let first = socket.send_to(&node, world.service(1)).unwrap();
    node.environment.advance(UDP_PEER_TIMEOUT_S);
    socket.recv_from(&node, first);
    node.environment.advance(UDP_PEER_TIMEOUT_S);
    assert_eq!(socket.send_to(&node, world.service(1)), Ok(first));
}

#[test]
fn an_answer_after_a_long_silence_is_the_backends_own() {
    for world in WORLDS {
        let mut node = SimNode::default();
        world.serve(&mut node, 1, &[7]);
        let socket = world.socket(Proto::Udp);
        socket.send_to(&node, world.service(1)).unwrap();
        node.environment.advance(UDP_PEER_TIMEOUT_S);
        assert_eq!(socket.recv_from(&node, world.pod(7)), world.service(1));
        node.environment.advance(UDP_PEER_TIMEOUT_S + 1);
        assert_eq!(socket.recv_from(&node, world.pod(7)), world.pod(7));
    }
}

#[test]
fn who_also_talks_to_a_pod_itself_is_answered_by_the_pod() {
    for world in WORLDS {
        let mut node = SimNode::default();
        world.serve(&mut node, 1, &[7]);
        world.serve(&mut node, 2, &[8]);
        let socket = world.socket(Proto::Udp);
        for service in [1, 2] {
            socket.send_to(&node, world.service(service)).unwrap();
        }
        assert_eq!(socket.send_to(&node, world.pod(7)), Ok(world.pod(7)));
        assert_eq!(socket.recv_from(&node, world.pod(7)), world.pod(7));
        assert_eq!(socket.recv_from(&node, world.pod(8)), world.service(2), "the other pair stays");
        socket.send_to(&node, world.service(1)).unwrap();
        assert_eq!(socket.recv_from(&node, world.pod(7)), world.service(1), "the Service was asked last");
    }
}

#[test]
fn a_ready_backend_keeps_its_datagrams_when_new_ones_go_elsewhere() {
    for world in WORLDS {
        let mut node = SimNode::default();
        world.serve(&mut node, 1, &[7]);
        let socket = world.socket(Proto::Udp);
        socket.send_to(&node, world.service(1)).unwrap();
        // As topology hints do: pod 7 is ready and in no set.
        world.serve(&mut node, 1, &[8]);
        assert_eq!(socket.send_to(&node, world.service(1)), Ok(world.pod(7)));
        assert_eq!(world.socket(Proto::Udp).send_to(&node, world.service(1)), Ok(world.pod(8)));
    }
}

#[test]
fn after_a_long_silence_a_backend_is_chosen_anew() {
    for world in WORLDS {
        let mut node = SimNode::default();
        world.serve(&mut node, 1, &many());
        let socket = world.socket(Proto::Udp);
        for expected in 1..=5 {
            socket.send_to(&node, world.service(1)).unwrap();
            assert_eq!(node.environment.counted(Counter::UdpSelect), expected);
            node.environment.advance(UDP_PEER_TIMEOUT_S + 1);
        }
        let peers = socket.peers4().map_or(0, |p| p.peers.iter().filter(|p| p.backend != 0).count())
            + socket.peers6().map_or(0, |p| p.peers.iter().filter(|p| p.backend != 0).count());
        assert_eq!(peers, 1, "in the same entry");
    }
}

#[test]
fn a_backend_that_is_gone_or_not_ready_is_left_at_once() {
    for world in WORLDS {
        for state in [None, Some(backend_state::NOT_READY), Some(backend_state::TERMINATING)] {
            let mut node = SimNode::default();
            world.serve(&mut node, 1, &[7]);
            let socket = world.socket(Proto::Udp);
            socket.send_to(&node, world.service(1)).unwrap();
            world.serve(&mut node, 1, &[8]);
            world.set_state(&mut node, 7, state);
            assert_eq!(socket.send_to(&node, world.service(1)), Ok(world.pod(8)), "{world:?} {state:?}");
            assert_eq!(socket.recv_from(&node, world.pod(8)), world.service(1));
        }
    }
}

#[test]
fn where_everybody_terminates_nobody_is_moved() {
    for world in WORLDS {
        let mut node = SimNode::default();
        world.serve(&mut node, 1, &many());
        let socket = world.socket(Proto::Udp);
        let first = socket.send_to(&node, world.service(1)).unwrap();
        many().iter().for_each(|pod| world.set_state(&mut node, *pod, Some(backend_state::TERMINATING)));
        for _ in 0..20 {
            assert_eq!(socket.send_to(&node, world.service(1)), Ok(first), "{world:?}");
        }
    }
}

#[test]
fn an_id_that_was_given_to_somebody_else_is_not_taken_for_the_old_backend() {
    for world in WORLDS {
        let mut node = SimNode::default();
        world.serve(&mut node, 1, &[7]);
        let socket = world.socket(Proto::Udp);
        socket.send_to(&node, world.service(1)).unwrap();
        // Service 2 now has a backend with id 7 at the address of pod 7; Service 1 is served by pod 8.
        world.serve(&mut node, 2, &[7]);
        world.serve(&mut node, 1, &[8]);
        assert_eq!(socket.send_to(&node, world.service(1)), Ok(world.pod(8)));
    }
}

#[test]
fn a_service_without_endpoints_refuses_datagrams() {
    for world in WORLDS {
        let mut node = SimNode::default();
        world.serve(&mut node, 1, &[]);
        assert_eq!(world.socket(Proto::Udp).send_to(&node, world.service(1)), Err(Refused));
    }
}

#[test]
fn the_least_recently_used_service_is_forgotten_when_a_socket_uses_too_many() {
    for world in WORLDS {
        let mut node = SimNode::default();
        let services: Vec<u8> = (1..=u8::try_from(N_UDP_PEERS).unwrap() + 1).collect();
        services.iter().for_each(|service| world.serve(&mut node, *service, &[*service]));
        let socket = world.socket(Proto::Udp);
        let (last, first) = services.split_last().unwrap();
        for service in first {
            socket.send_to(&node, world.service(*service)).unwrap();
            node.environment.advance(1);
        }
        socket.send_to(&node, world.service(1)).unwrap();
        node.environment.advance(1);
        assert_eq!(node.environment.counted(Counter::PeerEvicted), 0);
        socket.send_to(&node, world.service(*last)).unwrap();
        assert_eq!(node.environment.counted(Counter::PeerEvicted), 1);
        for service in &services {
            let expected = if *service == 2 { world.pod(2) } else { world.service(*service) };
            assert_eq!(socket.recv_from(&node, world.pod(*service)), expected, "{world:?} {service}");
        }
    }
}

#[test]
fn of_two_services_with_one_backend_the_last_used_answers() {
    for world in WORLDS {
        let mut node = SimNode::default();
        world.serve(&mut node, 1, &[7]);
        world.serve(&mut node, 2, &[7]);
        let socket = world.socket(Proto::Udp);
        for service in [1, 2, 1] {
            node.environment.advance(1);
            // The entry of backend 7 says Service 2, so Service 1 chooses anew each time; both end at pod 7.
            socket.send_to(&node, world.service(service)).unwrap();
            assert_eq!(socket.recv_from(&node, world.pod(7)), world.service(service));
        }
    }
}

#[test]
fn a_connected_socket_hears_its_service_whatever_it_sent_before() {
    for world in WORLDS {
        let mut node = SimNode::default();
        world.serve(&mut node, 1, &[7]);
        world.serve(&mut node, 2, &[8]);
        let socket = world.socket(Proto::Udp);
        socket.send_to(&node, world.service(2)).unwrap();
        socket.connect(&node, world.service(1)).unwrap();
        assert_eq!(socket.recv_from(&node, world.pod(7)), world.service(1));
        socket.connect(&node, world.pod(8)).unwrap();
        assert_eq!(socket.recv_from(&node, world.pod(8)), world.pod(8), "connected to the pod itself");
        socket.disconnect();
        assert_eq!(socket.recv_from(&node, world.pod(8)), world.service(2));
    }
}

#[test]
fn a_connected_socket_that_names_its_service_again_stays_with_its_backend() {
    for world in WORLDS {
        let mut node = SimNode::default();
        world.serve(&mut node, 1, &many());
        let socket = world.socket(Proto::Udp);
        let backend = socket.connect(&node, world.service(1)).unwrap();
        for _ in 0..20 {
            assert_eq!(socket.send_to(&node, world.service(1)), Ok(backend));
        }
    }
}

#[test]
fn a_datagram_without_storage_is_sent_and_counted() {
    let world = World::V4;
    let mut node = SimNode::default();
    world.serve(&mut node, 1, &[7]);
    let socket = world.socket(Proto::Udp);
    socket.no_memory.set(true);
    assert_eq!(socket.send_to(&node, world.service(1)), Ok(world.pod(7)));
    assert_eq!(node.environment.counted(Counter::NoStorage), 1);
}
