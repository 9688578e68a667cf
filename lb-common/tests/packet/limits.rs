//! Where something runs out.

use lb_common::logic::{flow::timeout, seam::Environment as _};

use super::*;

#[test]
fn a_full_table_sheds_new_flows_and_keeps_the_established() {
    for world in WORLDS {
        for capacity in [20, 21] {
            let mut net = Net::new(world);
            let (world, service) = (net.world, net.world.node_port());
            net.set_capacity(capacity);
            net.serve(service, &[world.local_pod(5), world.remote_pod(6)]);
            let client = |last| Frame::udp(world.client(last), service);
            let first: Vec<_> = (1..=10).map(|last| sent(net.arrives(&client(last), Side::Uplink))).collect();
            for last in 11..=20 {
                assert_eq!(net.arrives(&client(last), Side::Uplink), Outcome::Dropped);
                net.assert_no_half_is_alone();
            }
            assert_eq!(net.counted(Counter::ConnsFull), 10);
            for (last, ends) in (1..=10).zip(first) {
                assert_eq!(sent(net.arrives(&client(last), Side::Uplink)), ends);
                net.answer(&Frame::udp(ends.1, ends.0), (service, world.client(last)));
            }
            net.node.environment.advance(200);
            sent(net.arrives(&client(1), Side::Uplink));
            assert_eq!(net.n_entries(), 20, "a flow that is over makes room for itself");
        }
    }
}

#[test]
fn ports_that_run_out_are_counted_and_given_back() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.node_port());
        net.serve(service, &[world.remote_pod(6)]);
        (net.node.traffic.node.snat_first, net.node.traffic.node.snat_last) = (61_000, 61_003);
        let mut ports: Vec<_> = (1..=40)
            .filter_map(|last| match net.arrives(&Frame::udp(world.client(last), service), Side::Uplink) {
                Outcome::Dropped => None,
                outcome => Some(sent(outcome).0.port()),
            })
            .collect();
        ports.sort_unstable();
        assert_eq!(ports, [61_000, 61_001, 61_002, 61_003], "each once: 32 draws miss one of four hardly ever");
        assert_eq!(net.counted(Counter::SnatExhausted), 36);
        net.assert_no_half_is_alone();
    }
}

/// A node with a single port for connections to one backend elsewhere, and that backend.
fn one_port(world: (World, bool)) -> (Net, SocketAddr) {
    let mut net = Net::new(world);
    let backend = net.world.remote_pod(6);
    net.serve(net.world.node_port(), &[backend]);
    (net.node.traffic.node.snat_first, net.node.traffic.node.snat_last) = (61_000, 61_000);
    (net, backend)
}

fn syn(net: &Net, client: u8) -> Outcome {
    net.arrives(&Frame::tcp(net.world.client(client), net.world.node_port(), SYN), Side::Uplink)
}

/// A connection of the first client, and its end: by both, or by a reset of either.
fn connect_and_end(net: &Net, by_client: &[u8], by_backend: &[u8]) {
    let (client, service) = (net.world.client(1), net.world.node_port());
    let (from, to) = net.connect(client, service, Side::Uplink);
    for flags in by_client {
        sent(net.arrives(&Frame::tcp(client, service, *flags), Side::Uplink));
    }
    for flags in by_backend {
        net.answer(&Frame::tcp(to, from, *flags), (service, client));
    }
}

#[test]
fn the_port_of_a_connection_that_is_over_and_silent_is_given_to_another() {
    for world in WORLDS {
        for (by_client, by_backend) in [(&[FIN | ACK][..], &[FIN | ACK][..]), (&[RST], &[]), (&[], &[RST])] {
            let (net, backend) = one_port(world);
            let (world, service) = (net.world, net.world.node_port());
            connect_and_end(&net, by_client, by_backend);
            net.node.environment.advance(timeout::TCP_REST_S - 1);
            assert_eq!(syn(&net, 2), Outcome::Dropped, "there may be repetitions");
            assert_eq!((net.counted(Counter::SnatExhausted), net.counted(Counter::SnatTakenOver)), (1, 0));
            net.node.environment.advance(1);
            let ends = sent(syn(&net, 2));
            assert_eq!(ends, (SocketAddr::new(world.node(), 61_000), backend));
            assert_eq!((net.counted(Counter::SnatExhausted), net.counted(Counter::SnatTakenOver)), (1, 1));
            net.assert_no_half_is_alone();
            assert_eq!(net.n_entries(), 2);
            net.answer(&Frame::tcp(ends.1, ends.0, SYN | ACK), (service, world.client(2)));
            let late = Frame::tcp(world.client(1), service, ACK);
            assert_eq!(passed(net.arrives(&late, Side::Uplink)), late.packet(net.offloaded), "of nobody any more");
            assert_eq!(syn(&net, 3), Outcome::Dropped, "a connection that has begun keeps it");
        }
    }
}

#[test]
fn the_port_of_a_flow_that_is_not_over_stays_its_own() {
    for world in WORLDS {
        for (by_client, by_backend) in
            [(&[][..], &[][..]), (&[FIN | ACK], &[]), (&[], &[FIN | ACK]), (&[], &[RST, ACK])]
        {
            let (net, _) = one_port(world);
            connect_and_end(&net, by_client, by_backend);
            net.node.environment.advance(3_000);
            assert_eq!(syn(&net, 2), Outcome::Dropped, "{by_client:?} and {by_backend:?}");
            assert_eq!(net.n_entries(), 2);
        }
        let (net, _) = one_port(world);
        let datagram = |client| Frame::udp(net.world.client(client), net.world.node_port());
        sent(net.arrives(&datagram(1), Side::Uplink));
        net.node.environment.advance(29);
        assert_eq!(net.arrives(&datagram(2), Side::Uplink), Outcome::Dropped);
        sent(syn(&net, 3));
        assert_eq!(net.n_entries(), 4, "TCP has ports of its own");
    }
}

#[test]
fn a_port_that_nobody_has_comes_before_one_of_a_connection_that_is_over() {
    for world in WORLDS {
        for draws in 0..20 {
            let (mut net, backend) = one_port(world);
            connect_and_end(&net, &[RST], &[]);
            // So that each time another port is tried first.
            (0..draws).for_each(|_| {
                net.node.environment.random();
            });
            net.node.environment.advance(timeout::TCP_REST_S);
            net.node.traffic.node.snat_last = 61_001;
            assert_eq!(sent(syn(&net, 2)), (SocketAddr::new(net.world.node(), 61_001), backend));
            net.assert_no_half_is_alone();
        }
    }
}

#[test]
fn a_full_table_has_room_for_a_connection_that_takes_the_place_of_another() {
    for world in WORLDS {
        let (mut net, _) = one_port(world);
        net.set_capacity(2);
        connect_and_end(&net, &[RST], &[]);
        net.node.environment.advance(timeout::TCP_REST_S);
        sent(syn(&net, 2));
        assert_eq!(net.n_entries(), 2);
        net.assert_no_half_is_alone();
    }
}

/// Of the connection there is the backend's half, and its client has begun another one since.
#[test]
fn what_a_crash_left_of_a_connection_gives_away_no_other() {
    for world in WORLDS {
        let (mut net, _) = one_port(world);
        let (client, service) = (net.world.client(1), net.world.node_port());
        connect_and_end(&net, &[], &[RST]);
        net.node.traffic.v4.conns.borrow_mut().retain(|_, half| half.is_reply());
        net.node.traffic.v6.conns.borrow_mut().retain(|_, half| half.is_reply());
        net.node.traffic.node.snat_last = 61_001;
        let ends = net.connect(client, service, Side::Uplink);
        assert_eq!(ends.0.port(), 61_001);
        net.node.environment.advance(timeout::TCP_REST_S);
        net.node.traffic.node.snat_last = 61_000;
        assert_eq!(syn(&net, 2), Outcome::Dropped);
        assert_eq!(sent(net.arrives(&Frame::tcp(client, service, ACK), Side::Uplink)), ends);
    }
}

/// What another processor takes in at any moment of taking over, another new client's SYN or one of the old client; and a new
/// client's while the old one begins anew.
#[test]
fn of_two_processors_that_take_over_a_port_at_the_same_time_one_has_it() {
    for world in WORLDS {
        for (client, other) in [(2, 1), (2, 3), (1, 2)] {
            for after in 0..40 {
                let (net, _) = one_port(world);
                connect_and_end(&net, &[RST], &[]);
                net.node.environment.advance(timeout::TCP_REST_S);
                let packet = Frame::tcp(net.world.client(other), net.world.node_port(), SYN).packet(net.offloaded);
                let rival = Rival { after, packet, side: Side::Uplink, outcome: Outcome::Dropped };
                net.node.traffic.rival.replace(Some(rival));
                let outcomes = [syn(&net, client), checked(net.node.traffic.rival.take().unwrap().outcome)];
                net.assert_no_half_is_alone();
                assert_eq!(net.n_entries(), 2, "clients {client} and {other} after {after}: {outcomes:x?}");
                let n_sent = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Sent(..))).count();
                // The old client's new flow may go with its old one.
                let both = n_sent == 2 && other == 1;
                assert!(n_sent == 1 || both, "clients {client} and {other} after {after}: {outcomes:x?}");
            }
        }
    }
}

#[test]
fn a_port_serves_for_each_backend_anew() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.node_port());
        (net.node.traffic.node.snat_first, net.node.traffic.node.snat_last) = (61_000, 61_000);
        for last in 1..=20 {
            net.serve(service, &[world.remote_pod(10 + last)]);
            sent(net.arrives(&Frame::udp(world.client(last), service), Side::Uplink));
        }
        net.assert_no_half_is_alone();
    }
}

#[test]
fn a_node_without_configuration_sends_nothing_under_a_wrong_name() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.node_port());
        net.serve(service, &[world.remote_pod(6)]);
        for node in [
            NodeConfig::default(),
            NodeConfig { snat_first: 61_000, snat_last: 62_000, ..NodeConfig::default() },
            NodeConfig { snat_first: 62_000, snat_last: 61_000, ..net.node.traffic.node },
            NodeConfig { snat_first: 0, ..net.node.traffic.node },
        ] {
            net.node.traffic.node = node;
            assert_eq!(net.arrives(&Frame::udp(world.client(1), service), Side::Uplink), Outcome::Dropped);
            assert_eq!(net.n_entries(), 0);
        }
    }
}

#[test]
fn a_packet_that_cannot_be_changed_is_dropped_and_counted() {
    for (world, offloaded) in WORLDS {
        let mut net = Net::new((world, offloaded));
        let (client, service, empty) = (world.client(1), world.node_port(), world.cluster_ip(9));
        net.serve(service, &[world.local_pod(5)]);
        net.serve(empty, &[]);
        let frames = [
            Frame::udp(client, service),
            Frame::tcp(client, service, SYN),
            Frame::udp(client, empty),
            Frame::tcp(client, empty, SYN),
        ];
        for frame in frames {
            let mut n_changes = 0;
            loop {
                let dropped = net.counted(Counter::Unwritable);
                let packet = SimPacket { n_changes, ..frame.packet(offloaded) };
                if net.node.arrives(packet, Side::Uplink) != Outcome::Dropped {
                    break;
                }
                assert_eq!(net.counted(Counter::Unwritable), dropped + 1);
                n_changes += 1;
            }
            assert!(n_changes > 1, "{frame:?} needs {n_changes} changes");
        }
    }
}

#[test]
fn two_processors_that_begin_one_flow_at_the_same_time_agree() {
    for world in WORLDS {
        for after in [0, 1] {
            for backends in [1, 9] {
                for local in [true, false] {
                    let mut net = Net::new(world);
                    let (client, service) = (net.world.client(1), net.world.node_port());
                    let pod = |last| if local { net.world.local_pod(last) } else { net.world.remote_pod(last) };
                    let pods: Vec<_> = (11..11 + backends).map(pod).collect();
                    net.serve(service, &pods);
                    let frame = Frame::udp(client, service);
                    let packet = frame.packet(net.offloaded);
                    let rival = Rival { after, packet, side: Side::Uplink, outcome: Outcome::Dropped };
                    net.node.traffic.rival.replace(Some(rival));
                    let ends = sent(net.arrives(&frame, Side::Uplink));
                    let rival = net.node.traffic.rival.take().unwrap();
                    assert_eq!(sent(checked(rival.outcome)), ends);
                    net.assert_no_half_is_alone();
                    assert_eq!(net.n_entries(), 2);
                    net.answer(&Frame::udp(ends.1, ends.0), (service, client));
                }
            }
        }
    }
}
