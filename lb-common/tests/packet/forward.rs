//! The way there and back.

use super::*;

/// A packet of each protocol to the same place.
fn both(src: SocketAddr, dst: SocketAddr) -> [Frame; 2] {
    [Frame::tcp(src, dst, SYN), Frame::udp(src, dst)]
}

fn reply(to: &Frame, from: SocketAddr, dst: SocketAddr) -> Frame {
    match to.body {
        Body::Tcp { .. } => Frame::tcp(from, dst, SYN | ACK),
        _ => Frame::udp(from, dst),
    }
}

#[test]
fn a_backend_on_the_node_sees_the_client_and_the_client_hears_the_service() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.node_port());
        net.serve(service, &[world.local_pod(5)]);
        for frame in both(world.client(1), service) {
            let outcome = net.arrives(&frame, Side::Uplink);
            assert!(matches!(outcome, Outcome::Sent(PODS, _)), "{outcome:?}");
            assert_eq!(sent(outcome), (world.client(1), world.local_pod(5)));
            let answer = reply(&frame, world.local_pod(5), world.client(1));
            assert_eq!(sent(net.leaves(&answer)), (service, world.client(1)), "forwarded by the stack");
            let outcome = net.arrives(&answer, Side::Pod);
            assert!(matches!(outcome, Outcome::Sent(UPLINK, _)), "{outcome:?}");
            assert_eq!(sent(outcome), (service, world.client(1)), "on a pod device of ours");
        }
        net.assert_no_half_is_alone();
        assert_eq!((net.counted(Counter::FlowTcp), net.counted(Counter::FlowUdp)), (1, 1));
    }
}

#[test]
fn a_backend_elsewhere_sees_the_node_with_a_port_of_its_range() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.node_port());
        net.serve(service, &[world.remote_pod(6)]);
        for frame in both(world.client(1), service) {
            let outcome = net.arrives(&frame, Side::Uplink);
            assert!(matches!(outcome, Outcome::Sent(UPLINK, _)), "{outcome:?}");
            let (src, dst) = sent(outcome);
            assert_eq!((src.ip(), dst), (world.node(), world.remote_pod(6)));
            assert!((SNAT_FIRST..=SNAT_LAST).contains(&src.port()), "{src}");
            let answer = reply(&frame, world.remote_pod(6), src);
            assert_eq!(sent(net.arrives(&answer, Side::Uplink)), (service, world.client(1)));
        }
        net.assert_no_half_is_alone();
    }
}

#[test]
fn the_source_is_the_address_of_the_device_that_leads_to_the_backend() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.node_port());
        net.serve(service, &[world.tunnel_pod(7)]);
        let own = world.ip([10, 244, 9], 200);
        let device = Device {
            addr4: V4::from_ip(own).unwrap_or_default(),
            addr6: V6::from_ip(own).unwrap_or_default(),
            flags: device_flags::UPLINK,
        };
        let (src, _) = sent(net.arrives(&Frame::udp(world.client(1), service), Side::Uplink));
        assert_eq!(src.ip(), world.node(), "the answer comes by the uplink");
        net.node.traffic.devices.insert(TUNNEL, device);
        let (src, _) = sent(net.arrives(&Frame::udp(world.client(2), service), Side::Uplink));
        assert_eq!(src.ip(), own, "the answer comes by the tunnel");
    }
}

#[test]
fn the_source_is_what_the_route_prefers_where_the_kernel_tells_it() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.node_port());
        net.serve(service, &[world.remote_pod(6)]);
        let preferred = world.ip([172, 20, 0], 1);
        net.prefer(world.remote_pod(6).ip(), preferred);
        let frame = Frame::udp(world.client(1), service);
        let (src, dst) = sent(net.arrives(&frame, Side::Uplink));
        assert_eq!((src.ip(), dst), (preferred, world.remote_pod(6)));
        let answer = reply(&frame, world.remote_pod(6), src);
        assert_eq!(sent(net.arrives(&answer, Side::Uplink)), (service, world.client(1)));

        net.serve(service, &[world.local_pod(5)]);
        net.prefer(world.local_pod(5).ip(), preferred);
        let (src, _) = sent(net.arrives(&Frame::udp(world.client(2), service), Side::Uplink));
        assert_eq!(src, world.client(2), "who keeps its name needs no other");
    }
}

#[test]
fn a_backend_that_is_the_node_itself_is_reached_through_the_stack() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.cluster_ip(2));
        let host = SocketAddr::new(world.node(), 8080);
        net.serve(service, &[host]);
        let outcome = net.arrives(&Frame::tcp(world.client(1), service, SYN), Side::Uplink);
        assert!(matches!(outcome, Outcome::Rewritten(_)), "{outcome:?}");
        assert_eq!(sent(outcome), (world.client(1), host));
        let answer = Frame::tcp(host, world.client(1), SYN | ACK);
        assert_eq!(sent(net.leaves(&answer)), (service, world.client(1)));
    }
}

#[test]
fn a_pod_keeps_its_address_to_backends_anywhere() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.cluster_ip(2));
        net.own_device(world.local_pod(9).ip(), 10);
        for backend in [world.local_pod(5), world.remote_pod(6), world.tunnel_pod(7)] {
            net.serve(service, &[backend]);
            let client = world.at([10, 244, 1], 9, 50_000 + u16::try_from(id(backend.ip())).unwrap());
            assert_eq!(sent(net.arrives(&Frame::tcp(client, service, SYN), Side::Pod)), (client, backend));
            let answer = Frame::tcp(backend, client, SYN | ACK);
            assert_eq!(sent(net.leaves(&answer)), (service, client), "the stack brings it to the pod's device");
        }
    }
}

/// A device that nothing but our own program is at the egress of, with index 10, to the pod 9.
fn with_peer(world: (World, bool)) -> Net {
    let mut net = Net::new(world);
    let pod = net.world.local_pod(9).ip();
    net.own_device(pod, 10);
    net.node.traffic.devices.get_mut(&10).unwrap().flags |= device_flags::PEER;
    net
}

#[test]
fn a_packet_goes_past_the_device_of_a_pod_where_nothing_else_is_at_its_egress() {
    for world in WORLDS {
        let mut net = with_peer(world);
        let (world, service) = (net.world, net.world.node_port());
        net.serve(service, &[world.local_pod(9)]);
        for frame in both(world.client(1), service) {
            let outcome = net.arrives(&frame, Side::Uplink);
            assert!(matches!(outcome, Outcome::Entered(10, _)), "{outcome:?}");
            assert_eq!(sent(outcome), (world.client(1), world.local_pod(9)));
            let answer = net.arrives(&reply(&frame, world.local_pod(9), world.client(1)), Side::Pod);
            assert!(matches!(answer, Outcome::Sent(UPLINK, _)), "{answer:?}");
            assert_eq!(sent(answer), (service, world.client(1)));
        }
    }
}

#[test]
fn a_pod_whose_link_layer_address_is_not_known_is_reached_by_its_device() {
    for world in WORLDS {
        let mut net = with_peer(world);
        let (world, service) = (net.world, net.world.node_port());
        net.node.traffic.unresolved.insert(10);
        net.serve(service, &[world.local_pod(9)]);
        let outcome = net.arrives(&Frame::tcp(world.client(1), service, SYN), Side::Uplink);
        assert!(matches!(outcome, Outcome::Sent(10, _)), "{outcome:?}");
    }
}

#[test]
fn a_pod_that_reaches_itself_is_seen_under_the_name_of_the_node() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.cluster_ip(2));
        let pod = world.local_pod(5);
        net.serve(service, &[pod]);
        let client = SocketAddr::new(pod.ip(), 50_000);
        let outcome = net.arrives(&Frame::tcp(client, service, SYN), Side::Pod);
        assert!(matches!(outcome, Outcome::Sent(PODS, _)), "{outcome:?}");
        let Outcome::Sent(_, packet) = &outcome else { unreachable!() };
        let untouched = passed(net.node.leaves(packet.clone()));
        assert_eq!(untouched, *packet, "what ingress has rewritten is left alone at egress");
        let (src, dst) = sent(outcome);
        assert_eq!((src.ip(), dst), (world.node(), pod));
        let answer = net.arrives(&Frame::tcp(pod, src, SYN | ACK), Side::Pod);
        let Outcome::Sent(_, packet) = &answer else { panic!("{answer:?}") };
        assert_eq!(passed(net.node.leaves(packet.clone())), *packet);
        assert_eq!(sent(answer), (service, client));
    }
}

#[test]
fn two_services_that_lead_one_client_to_one_backend_do_not_collide() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let world = net.world;
        let (pod, client) = (world.local_pod(5), world.client(1));
        let services = [world.cluster_ip(2), world.cluster_ip(3), world.cluster_ip(4)];
        services.iter().for_each(|service| net.serve(*service, &[pod]));
        let seen: Vec<_> = services
            .iter()
            .map(|service| (*service, sent(net.arrives(&Frame::tcp(client, *service, SYN), Side::Uplink)).0))
            .collect();
        assert_eq!(seen[0].1, client);
        for (service, source) in seen {
            assert_eq!(source.ip(), client.ip(), "the backend sees who asks");
            let answer = Frame::tcp(pod, source, SYN | ACK);
            assert_eq!(sent(net.arrives(&answer, Side::Pod)), (service, client));
        }
        assert_eq!(net.counted(Counter::SnatCollision), 2);
        net.assert_no_half_is_alone();
    }
}

#[test]
fn two_services_that_lead_one_client_to_the_node_itself_differ_in_the_port_alone() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let world = net.world;
        let (host, client) = (SocketAddr::new(world.node(), 8080), world.client(1));
        let services = [world.cluster_ip(2), world.cluster_ip(3)];
        services.iter().for_each(|service| net.serve(*service, &[host]));
        let sources = services.map(|service| sent(net.arrives(&Frame::tcp(client, service, SYN), Side::Uplink)).0);
        assert_eq!(sources.map(|source| source.ip()), [client.ip(); 2], "the kernel takes no packet from itself");
        for (service, source) in services.into_iter().zip(sources) {
            assert_eq!(sent(net.leaves(&Frame::tcp(host, source, SYN | ACK))), (service, client));
        }
    }
}

#[test]
fn a_client_behind_a_device_without_programs_gets_its_answers_by_the_node() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.node_port());
        net.serve(service, &[world.local_pod(5)]);
        let client = SocketAddr::new(world.tunnel_pod(9).ip(), 50_000);
        let (src, _) = sent(net.arrives(&Frame::tcp(client, service, SYN), Side::Uplink));
        assert_eq!(src.ip(), world.node());
        let answer = net.arrives(&Frame::tcp(world.local_pod(5), src, SYN | ACK), Side::Pod);
        assert_eq!(sent(answer), (service, client));
    }
}

#[test]
fn what_is_not_a_service_passes_untouched() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let world = net.world;
        net.serve(world.node_port(), &[world.local_pod(5)]);
        let (client, other) = (world.client(1), SocketAddr::new(world.node(), 22));
        for frame in both(client, other).into_iter().chain(both(world.local_pod(5), client)) {
            for outcome in [net.arrives(&frame, Side::Uplink), net.arrives(&frame, Side::Pod), net.leaves(&frame)] {
                assert_eq!(passed(outcome), frame.packet(net.offloaded));
            }
        }
        let echo = Frame::icmp(client.ip(), world.node(), (8, 0, 77), b"ping".to_vec());
        assert_eq!(passed(net.arrives(&echo, Side::Uplink)), echo.packet(false));
        assert_eq!(net.n_entries(), 0);
    }
}

/// A request for an echo.
fn echo(world: World, service: SocketAddr) -> Frame {
    let request = if world == World::V4 { 8 } else { 128 };
    Frame::icmp(world.client(1).ip(), service.ip(), (request, 0, 77), b"ping".to_vec())
}

/// Whether a Service answers, a port can tell, and an answer of ours could not. Nobody else would: where the network leads a
/// ClusterIP to this node, and its routes back out, the request would come again until it is too old (docs/differences.md).
#[test]
fn at_a_cluster_ip_whatever_no_service_can_have_is_refused() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let world = net.world;
        let service = world.cluster_ip(1);
        net.serve(service, &[world.local_pod(5)]);
        let sctp = Frame { body: Body::Later(0, 132), ..echo(world, service) };
        let first = Frame { fragment: Some(7), data: vec![0; 16], ..echo(world, service) };
        for frame in [echo(world, service), sctp, first] {
            let packet = answered(net.arrives(&frame, Side::Uplink));
            let (src, dst) = lb_common::sim::frames::addrs(&packet.bytes).unwrap();
            assert_eq!((src, dst), (service.ip(), world.client(1).ip()));
            let unreachable = if world == World::V4 { 0x0303 } else { 0x0104 };
            assert_eq!(number(&packet, world.header(), 2), unreachable);
            assert_eq!(packet.bytes.get(world.header() + 8..), Some(&frame.bytes()[..]));
        }
        assert_eq!(net.counted(Counter::AnswerSent), 3);
        let proto = if world == World::V4 { 1 } else { 58 };
        let later = Frame { body: Body::Later(3, proto), fragment: Some(7), ..echo(world, service) };
        assert_eq!(checked(net.arrives(&later, Side::Uplink)), Outcome::Dropped, "RFC 1122 section 3.2.2");
        let martian = Frame { src: world.cluster_ip(1), ..echo(world, service) };
        assert_eq!(checked(net.arrives(&martian, Side::Uplink)), Outcome::Dropped);
    }
}

#[test]
fn what_is_no_request_or_for_an_address_that_may_be_somebodys_passes_untouched() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let world = net.world;
        let (cluster_ip, external) = (world.cluster_ip(1), world.at([198, 51, 100], 10, 80));
        let (own, node_port) = (world.cluster_ip(2), world.node_port());
        for service in [cluster_ip, external, own, node_port] {
            net.serve(service, &[world.local_pod(5)]);
        }
        // Somebody has given a ClusterIP to the node.
        net.route(own.ip(), Route::NotForwarded);
        let reply = if world == World::V4 { 0 } else { 129 };
        let reply = Frame { body: Body::Icmp(reply, 0, 77), ..echo(world, cluster_ip) };
        for frame in [echo(world, external), echo(world, own), echo(world, node_port), reply] {
            for side in [Side::Uplink, Side::Pod] {
                assert_eq!(passed(net.arrives(&frame, side)), frame.packet(false));
            }
        }
        for frame in [echo(world, cluster_ip), echo(world, external)] {
            assert_eq!(passed(net.leaves(&frame)), frame.packet(false));
        }
    }
}

#[test]
fn egress_leaves_the_packets_of_clients_alone() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.cluster_ip(2));
        net.serve(service, &[world.local_pod(5)]);
        let frame = Frame::tcp(world.client(1), service, SYN);
        net.arrives(&frame, Side::Uplink);
        assert_eq!(passed(net.leaves(&frame)), frame.packet(net.offloaded));
    }
}

#[test]
fn options_and_extension_headers_are_kept() {
    for (world, options) in [(World::V4, 4), (World::V4, 40), (World::V6, 1), (World::V6, 6)] {
        let mut net = Net::new((world, false));
        let service = world.node_port();
        net.serve(service, &[world.remote_pod(6)]);
        for frame in both(world.client(1), service) {
            let frame = Frame { options, data: b"data".to_vec(), ..frame };
            let (src, dst) = sent(net.arrives(&frame, Side::Uplink));
            assert_eq!(dst, world.remote_pod(6));
            let answer = Frame { options, ..reply(&frame, dst, src) };
            assert_eq!(sent(net.arrives(&answer, Side::Uplink)), (service, world.client(1)));
        }
    }
}

#[test]
fn more_extension_headers_than_there_are_kinds_are_not_followed() {
    let mut net = Net::new((World::V6, false));
    let (world, service) = (net.world, net.world.node_port());
    net.serve(service, &[world.remote_pod(6)]);
    let frame = Frame { options: 7, ..Frame::udp(world.client(1), service) };
    assert_eq!(passed(net.arrives(&frame, Side::Uplink)), frame.packet(false));
}

#[test]
fn a_datagram_without_checksum_stays_without() {
    for world in [World::V4, World::V6] {
        let mut net = Net::new((world, false));
        let service = world.node_port();
        net.serve(service, &[world.remote_pod(6)]);
        let frame = Frame { body: Body::Udp { unsummed: true }, ..Frame::udp(world.client(1), service) };
        let Outcome::Sent(_, packet) = net.arrives(&frame, Side::Uplink) else { panic!("not sent") };
        let header = if world == World::V4 { 20 } else { 40 };
        assert_eq!(packet.bytes.get(header + 6..header + 8), Some(&[0, 0][..]));
    }
}

#[test]
fn each_hop_is_counted_where_the_stack_does_not_do_it() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.node_port());
        net.serve(service, &[world.remote_pod(6)]);
        let Outcome::Sent(_, packet) = net.arrives(&Frame::udp(world.client(1), service), Side::Uplink) else {
            panic!("not sent");
        };
        let at = if world == World::V4 { 8 } else { 7 };
        assert_eq!(packet.bytes.get(at), Some(&63));
    }
}

/// On a bridge the two speak to one another past the node, so that an answer to the client's address would not be met.
#[test]
fn pods_on_one_device_are_seen_by_one_another_under_the_name_of_the_node() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.cluster_ip(2));
        net.serve(service, &[world.local_pod(5)]);
        let client = world.at([10, 244, 1], 9, 50_000);
        let (src, dst) = sent(net.arrives(&Frame::tcp(client, service, SYN), Side::Pod));
        assert_eq!((src.ip(), dst), (world.node(), world.local_pod(5)));
        let answer = Frame::tcp(dst, src, SYN | ACK);
        assert_eq!(sent(net.arrives(&answer, Side::Pod)), (service, client));
    }
}

#[test]
fn pods_on_devices_of_their_own_see_one_another() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.cluster_ip(2));
        net.serve(service, &[world.local_pod(5)]);
        net.own_device(world.local_pod(5).ip(), 10);
        net.own_device(world.local_pod(9).ip(), 11);
        let client = world.at([10, 244, 1], 9, 50_000);
        let outcome = net.arrives(&Frame::tcp(client, service, SYN), Side::Pod);
        assert!(matches!(outcome, Outcome::Sent(10, _)), "{outcome:?}");
        assert_eq!(sent(outcome), (client, world.local_pod(5)));
        let answer = net.arrives(&Frame::tcp(world.local_pod(5), client, SYN | ACK), Side::Pod);
        assert!(matches!(answer, Outcome::Sent(11, _)), "{answer:?}");
        assert_eq!(sent(answer), (service, client));
    }
}

/// The kernel forwards nothing that says it is from the node itself.
#[test]
fn what_has_an_address_of_the_node_as_its_source_is_never_left_to_the_stack() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.node_port());
        net.serve(service, &[world.tunnel_pod(7)]);
        let outcome = net.arrives(&Frame::tcp(world.client(1), service, SYN), Side::Uplink);
        assert!(matches!(outcome, Outcome::Sent(TUNNEL, _)), "to a backend: {outcome:?}");
        let (node, backend) = sent(outcome);
        assert_eq!(node.ip(), world.node());
        let client = world.at([10, 244, 9], 9, 50_000);
        let (from, _) = sent(net.arrives(&Frame::tcp(client, service, SYN), Side::Uplink));
        let outcome = net.arrives(&Frame::tcp(backend, from, SYN | ACK), Side::Uplink);
        assert!(matches!(outcome, Outcome::Sent(TUNNEL, _)), "to a client: {outcome:?}");
        assert_eq!(sent(outcome), (service, client));
    }
}

#[test]
fn what_leaves_by_a_device_without_programs_under_its_own_name_goes_through_the_stack() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.node_port());
        net.serve(service, &[world.local_pod(5)]);
        net.node.traffic.devices.remove(&PODS);
        let outcome = net.arrives(&Frame::tcp(world.client(1), service, SYN), Side::Uplink);
        assert!(matches!(outcome, Outcome::Rewritten(_)), "{outcome:?}");
        assert_eq!(sent(outcome), (world.client(1), world.local_pod(5)));
        net.answer(&Frame::tcp(world.local_pod(5), world.client(1), SYN | ACK), (service, world.client(1)));
    }
}

/// Its EndpointSlice is somebody's own, who left the node out.
#[test]
fn a_backend_of_unknown_node_is_on_this_one_where_it_is_a_neighbour_behind_no_device_of_ours() {
    for world in WORLDS {
        for covered in [false, true] {
            let mut net = Net::new(world);
            let (world, service) = (net.world, net.world.node_port());
            if !covered {
                net.node.traffic.devices.remove(&PODS);
            }
            net.serve(service, &[world.local_pod(5)]);
            net.forget_nodes();
            let (client, pod) = (world.client(1), world.local_pod(5));
            assert_eq!(sent(net.arrives(&Frame::tcp(client, service, SYN), Side::Uplink)), (client, pod));
            net.answer(&Frame::tcp(pod, client, SYN | ACK), (service, client));
        }
    }
}

#[test]
fn a_backend_of_unknown_node_is_elsewhere_behind_a_router_or_an_uplink() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.node_port());
        let on_the_uplinks_link = world.at([192, 168, 2], 9, 8080);
        net.route(on_the_uplinks_link.ip(), Route::Neighbour(UPLINK));
        for backend in [world.tunnel_pod(7), on_the_uplinks_link, world.remote_pod(6)] {
            net.serve(service, &[backend]);
            net.forget_nodes();
            let client = world.at([203, 0, 113], id(backend.ip()).try_into().unwrap(), 40_000);
            let (src, dst) = sent(net.arrives(&Frame::tcp(client, service, SYN), Side::Uplink));
            assert_eq!((src.ip(), dst), (world.node(), backend));
        }
    }
}

/// As in an overlay that is one link for all nodes.
#[test]
fn a_backend_that_is_said_to_be_elsewhere_is_so_also_as_a_neighbour() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service, backend) = (net.world, net.world.node_port(), net.world.remote_pod(6));
        net.route(backend.ip(), Route::Neighbour(TUNNEL));
        net.serve(service, &[backend]);
        let (src, dst) = sent(net.arrives(&Frame::tcp(world.client(1), service, SYN), Side::Uplink));
        assert_eq!((src.ip(), dst), (world.node(), backend));
    }
}

/// The uplink is a bridge with pods on it, whose way to the client may lead past the node.
#[test]
fn a_backend_on_the_node_behind_the_clients_own_device_sees_the_node_unless_the_policy_is_local() {
    for world in WORLDS {
        for local in [false, true] {
            let mut net = Net::new(world);
            let (world, service, pod) = (net.world, net.world.node_port(), net.world.local_pod(5));
            net.route(pod.ip(), Route::Neighbour(UPLINK));
            let promise = |frontend| Frontend { flags: frontend_flags::LOCAL, ..frontend };
            net.serve_with(service, scope::INTERNAL, &[pod], if local { promise } else { |frontend| frontend });
            let (src, dst) = sent(net.arrives(&Frame::tcp(world.client(1), service, SYN), Side::Uplink));
            assert_eq!((src.ip(), dst), (if local { world.client(1).ip() } else { world.node() }, pod));
            let answer = net.arrives(&Frame::tcp(pod, src, SYN | ACK), Side::Uplink);
            assert_eq!(sent(answer), (service, world.client(1)));
        }
    }
}

#[test]
fn two_services_that_lead_one_client_to_a_pod_without_programs_differ_in_the_port_alone() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, pod) = (net.world, net.world.local_pod(5));
        net.node.traffic.devices.remove(&PODS);
        let services = [world.cluster_ip(2), world.cluster_ip(3)];
        services.iter().for_each(|service| net.serve(*service, &[pod]));
        let client = world.client(1);
        let sources = services.map(|service| sent(net.arrives(&Frame::tcp(client, service, SYN), Side::Uplink)).0);
        assert_eq!(sources.map(|source| source.ip()), [client.ip(); 2], "what it answers to the node meets no program");
        for (service, source) in services.into_iter().zip(sources) {
            assert_eq!(sent(net.leaves(&Frame::tcp(pod, source, SYN | ACK))), (service, client));
        }
    }
}

/// The memory of a removed entry may hold another flow's value by the time it is read.
#[test]
fn an_entry_with_anothers_value_is_not_believed() {
    let mut net = Net::new((World::V4, false));
    let (world, service) = (net.world, net.world.node_port());
    net.serve(service, &[world.remote_pod(6)]);
    let (from, to) = sent(net.arrives(&Frame::udp(world.client(1), service), Side::Uplink));
    sent(net.arrives(&Frame::udp(world.client(2), service), Side::Uplink));
    {
        let mut conns = net.node.traffic.v4.conns.borrow_mut();
        let others = *conns.iter().find(|(key, half)| half.is_reply() && key.dst_port != from.port()).unwrap().1;
        *conns.iter_mut().find(|(key, half)| half.is_reply() && key.dst_port == from.port()).unwrap().1 = others;
    }
    let answer = Frame::udp(to, from);
    assert_eq!(passed(net.arrives(&answer, Side::Uplink)), answer.packet(false));
    let error = Frame::icmp(to.ip(), from.ip(), (3, 4, 1_300), Frame::udp(from, to).bytes());
    assert_eq!(passed(net.arrives(&error, Side::Uplink)), error.packet(false));
}
