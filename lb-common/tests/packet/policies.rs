//! Who is let in, and to which backends.

use lb_common::abi::SourceKey;

use super::*;

#[test]
fn clients_outside_get_the_answer_that_is_theirs() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.cluster_ip(2));
        let differs = |frontend: Frontend| Frontend { flags: frontend_flags::EXTERNAL_DIFFERS, ..frontend };
        let local = |frontend: Frontend| Frontend { flags: frontend_flags::LOCAL, ..frontend };
        net.serve_with(service, scope::INTERNAL, &[world.remote_pod(6)], differs);
        net.serve_with(service, scope::EXTERNAL, &[world.local_pod(5)], local);
        let outside = Frame::udp(world.client(1), service);
        assert_eq!(sent(net.arrives(&outside, Side::Uplink)).1, world.local_pod(5));
        let pod = Frame::udp(SocketAddr::new(world.local_pod(9).ip(), 50_000), service);
        assert_eq!(sent(net.arrives(&pod, Side::Pod)).1, world.remote_pod(6));
    }
}

#[test]
fn the_external_entry_counts_only_where_the_internal_one_says_so() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.cluster_ip(2));
        net.serve_with(service, scope::EXTERNAL, &[world.local_pod(5)], |frontend| frontend);
        let frame = Frame::udp(world.client(1), service);
        assert_eq!(passed(net.arrives(&frame, Side::Uplink)), frame.packet(net.offloaded));
        net.serve(service, &[world.remote_pod(6)]);
        assert_eq!(sent(net.arrives(&frame, Side::Uplink)).1, world.remote_pod(6));
    }
}

#[test]
fn a_policy_that_leaves_nobody_here_drops_in_silence() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.cluster_ip(2));
        net.serve_with(service, scope::INTERNAL, &[world.remote_pod(6)], |frontend| Frontend {
            flags: frontend_flags::EXTERNAL_DIFFERS,
            ..frontend
        });
        net.serve_with(service, scope::EXTERNAL, &[], |frontend| Frontend {
            flags: frontend_flags::LOCAL | frontend_flags::DROP,
            ..frontend
        });
        assert_eq!(net.arrives(&Frame::tcp(world.client(1), service, SYN), Side::Uplink), Outcome::Dropped);
        assert_eq!(net.arrives(&Frame::udp(world.client(1), service), Side::Uplink), Outcome::Dropped);
        assert_eq!((net.counted(Counter::PolicyDrop), net.counted(Counter::NoBackend)), (2, 0));
        net.serve_with(service, scope::EXTERNAL, &[world.local_pod(5)], |frontend| Frontend {
            flags: frontend_flags::LOCAL | frontend_flags::DROP,
            ..frontend
        });
        assert_eq!(sent(net.arrives(&Frame::udp(world.client(1), service), Side::Uplink)).1, world.local_pod(5));
    }
}

#[test]
fn clients_outside_the_source_ranges_are_dropped_in_silence() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.cluster_ip(2));
        net.serve_with(service, scope::INTERNAL, &[world.local_pod(5)], |frontend| Frontend {
            flags: frontend_flags::SOURCES,
            ..frontend
        });
        let ip = world.client(1).ip();
        match world {
            World::V4 => {
                net.node.v4.sources.insert((64, SourceKey { service: 2, addr: V4::from_ip(ip).unwrap() }));
            }
            World::V6 => {
                net.node.v6.sources.insert((160, SourceKey { service: 2, addr: V6::from_ip(ip).unwrap() }));
            }
        }
        sent(net.arrives(&Frame::tcp(world.client(1), service, SYN), Side::Uplink));
        assert_eq!(net.arrives(&Frame::tcp(world.client(2), service, SYN), Side::Uplink), Outcome::Dropped);
        assert_eq!(net.counted(Counter::SourceRefused), 1);
    }
}

#[test]
fn a_client_with_affinity_keeps_its_backend_whatever_its_port() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.cluster_ip(2));
        let pods: Vec<_> = (11..=20).map(|last| world.remote_pod(last)).collect();
        net.serve_with(service, scope::INTERNAL, &pods, |frontend| Frontend { affinity_s: 100, ..frontend });
        let backends = |last: u8, ports: std::ops::Range<u16>| -> Vec<SocketAddr> {
            let from = |port| SocketAddr::new(world.client(last).ip(), port);
            ports.map(|port| sent(net.arrives(&Frame::udp(from(port), service), Side::Uplink)).1).collect()
        };
        let all: Vec<_> = (1..=10).map(|last| backends(last, 1_000..1_020)).collect();
        assert!(all.iter().all(|backends| backends.windows(2).all(|pair| pair[0] == pair[1])), "{all:?}");
        assert!(all.iter().any(|backends| backends[0] != all[0][0]), "clients are remembered apart");
    }
}

#[test]
fn impossible_sources_are_dropped_and_counted() {
    for world in [World::V4, World::V6] {
        let mut net = Net::new((world, false));
        let (service, empty) = (world.node_port(), world.cluster_ip(9));
        net.serve(service, &[world.local_pod(5)]);
        net.serve(empty, &[]);
        let made_up: &[&str] = match world {
            World::V4 => &["127.0.0.1", "0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "10.96.0.1"],
            World::V6 => &["::1", "::", "ff02::1", "fe80::1", "::ffff:10.0.0.1", "fd00:a:60::1"],
        };
        let sources = made_up.iter().map(|ip| ip.parse().unwrap()).chain([world.node(), service.ip()]);
        let mut n_dropped = 2;
        let itself = Frame::udp(SocketAddr::new(empty.ip(), 40_000), empty);
        assert_eq!(net.arrives(&itself, Side::Uplink), Outcome::Dropped);
        assert_eq!(net.arrives(&itself, Side::Pod), Outcome::Dropped);
        for ip in sources {
            let src = SocketAddr::new(ip, 40_000);
            for frame in [Frame::udp(src, service), Frame::udp(src, empty), Frame::tcp(src, empty, SYN)] {
                assert_eq!(net.arrives(&frame, Side::Uplink), Outcome::Dropped, "{frame:?}");
                assert_eq!(net.arrives(&frame, Side::Pod), Outcome::Dropped, "{frame:?}");
                n_dropped += 2;
            }
        }
        assert_eq!(net.counted(Counter::Martian), n_dropped);
        assert_eq!((net.n_entries(), net.counted(Counter::AnswerSent)), (0, 0));
    }
}

#[test]
fn a_source_that_is_reached_on_the_other_side_is_made_up() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.cluster_ip(2));
        net.serve(service, &[world.local_pod(5)]);
        let as_pod = Frame::tcp(world.local_pod(9), service, SYN);
        assert_eq!(net.arrives(&as_pod, Side::Uplink), Outcome::Dropped, "from outside, as a pod of this node");
        for other in [world.client(1), world.tunnel_pod(9)] {
            let as_other = Frame::tcp(other, service, SYN);
            assert_eq!(net.arrives(&as_other, Side::Pod), Outcome::Dropped, "from a pod, as {other}");
        }
        assert_eq!((net.counted(Counter::Martian), net.n_entries()), (3, 0));
    }
}
