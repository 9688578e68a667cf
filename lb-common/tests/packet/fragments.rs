//! Datagrams in pieces.

use super::*;

/// The first and the second fragment of a datagram of 1,488 bytes.
fn pieces(src: SocketAddr, dst: SocketAddr, id: u32) -> [Frame; 2] {
    let first = Frame { data: vec![1; 1_472], fragment: Some(id), ..Frame::udp(src, dst) };
    let later = Frame { body: Body::Later(185, 17), data: vec![2; 8], ..Frame::udp(src, dst) };
    [first, Frame { fragment: Some(id), ..later }]
}

/// Addresses of a rewritten fragment. (That a first fragment's checksum covers what is elsewhere, only the whole shows.)
fn addrs(outcome: Outcome) -> (IpAddr, IpAddr) {
    match outcome {
        Outcome::Sent(_, packet) | Outcome::Rewritten(packet) => {
            let (src, dst) = ends(&packet.bytes).unwrap();
            (src.ip(), dst.ip())
        }
        other => panic!("not sent on: {other:x?}"),
    }
}

fn arrives(net: &Net, frame: &Frame) -> Outcome {
    net.node.arrives(frame.packet(false), Side::Uplink)
}

#[test]
fn later_fragments_go_where_the_first_one_went_and_back() {
    for world in [World::V4, World::V6] {
        let mut net = Net::new((world, false));
        let (client, service, pod) = (world.client(1), world.node_port(), world.remote_pod(6));
        net.serve(service, &[pod, world.remote_pod(7), world.remote_pod(8)]);
        for id in 1..20 {
            let [first, later] = pieces(client, service, id);
            let expected = addrs(arrives(&net, &first));
            assert_eq!(addrs(arrives(&net, &later)), expected);
        }
        let (from, to) = sent(arrives(&net, &Frame::udp(client, service)));
        let [first, later] = pieces(to, from, 99);
        assert_eq!(addrs(arrives(&net, &first)), (service.ip(), client.ip()));
        assert_eq!(addrs(net.node.leaves(later.packet(false))), (service.ip(), client.ip()));
    }
}

/// Its checksum covers the whole datagram, so the first fragment's change must be right for all of it.
#[test]
fn the_pieces_are_a_whole_datagram_again() {
    for world in [World::V4, World::V6] {
        let mut net = Net::new((world, false));
        let (client, service, pod) = (world.client(1), world.node_port(), world.remote_pod(6));
        net.serve(service, &[pod]);
        let whole = Frame { data: [vec![1; 1_472], vec![2; 8]].concat(), ..Frame::udp(client, service) };
        let [mut first, later] = pieces(client, service, 5);
        let at = world.header() + if world == World::V4 { 0 } else { 8 };
        first.data = whole.data[..1_472].to_vec();
        let mut packet = first.packet(false);
        // The UDP header of the whole.
        packet.bytes.splice(at..at + 8, whole.bytes()[world.header()..world.header() + 8].to_vec());
        let Outcome::Sent(_, first) = net.node.arrives(packet, Side::Uplink) else { panic!("not sent") };
        let Outcome::Sent(_, later) = net.node.arrives(later.packet(false), Side::Uplink) else { panic!("not sent") };
        let (src, dst) = ends(&first.bytes).unwrap();
        let expected = Frame { data: whole.data.clone(), ..Frame::udp(src, dst) };
        let got = [&first.bytes[at..], &later.bytes[at..]].concat();
        assert_eq!(got, expected.bytes()[world.header()..]);
    }
}

#[test]
fn a_fragment_before_its_first_one_or_of_another_datagram_passes_untouched() {
    for world in [World::V4, World::V6] {
        let mut net = Net::new((world, false));
        let (client, service) = (world.client(1), world.node_port());
        net.serve(service, &[world.remote_pod(6)]);
        let [first, later] = pieces(client, service, 5);
        assert_eq!(passed(arrives(&net, &later)), later.packet(false));
        arrives(&net, &first);
        let [_, other] = pieces(client, service, 6);
        let [_, others] = pieces(world.client(2), service, 5);
        for foreign in [other, others] {
            assert_eq!(passed(arrives(&net, &foreign)), foreign.packet(false));
        }
        assert_eq!(net.counted(Counter::FragmentUnknown), 3);
        let (from, to) = sent(arrives(&net, &Frame::udp(client, service)));
        net.answer(&Frame::udp(to, from), (service, client));
        net.node.environment.advance(30);
        addrs(arrives(&net, &later));
        net.node.environment.advance(1);
        assert_eq!(passed(arrives(&net, &later)), later.packet(false), "the identification was used again");
    }
}

#[test]
fn foreign_and_whole_datagrams_are_not_remembered() {
    for world in [World::V4, World::V6] {
        let mut net = Net::new((world, false));
        net.serve(world.node_port(), &[world.remote_pod(6)]);
        let [first, _] = pieces(world.client(1), world.client(2), 5);
        arrives(&net, &first);
        arrives(&net, &Frame::udp(world.client(1), world.node_port()));
        assert!(net.node.traffic.v4.fragments.borrow().is_empty() && net.node.traffic.v6.fragments.borrow().is_empty());
    }
}

#[test]
fn a_later_fragment_is_never_answered() {
    for world in [World::V4, World::V6] {
        let mut net = Net::new((world, false));
        let (client, service) = (world.client(1), world.node_port());
        net.serve(service, &[]);
        let [first, later] = pieces(client, service, 5);
        answered(arrives(&net, &first));
        assert_eq!(passed(arrives(&net, &later)), later.packet(false));
        net.serve(service, &[world.remote_pod(6)]);
        arrives(&net, &first);
        let last_hop = Frame { hops: 1, ..later };
        assert_eq!(arrives(&net, &last_hop), Outcome::Dropped);
    }
}

#[test]
fn the_data_of_a_later_fragment_is_not_taken_for_headers() {
    let mut net = Net::new((World::V6, false));
    let (client, service) = (net.world.client(1), net.world.node_port());
    net.serve(service, &[net.world.remote_pod(6)]);
    let [first, later] = pieces(client, service, 5);
    let Outcome::Sent(_, first) = arrives(&net, &first) else { panic!("not sent on") };
    // What it continues are destination options, and its data looks like some before a UDP header.
    let later = Frame { body: Body::Later(185, 60), data: vec![17, 0, 1, 4, 0, 0, 0, 0], ..later };
    let Outcome::Sent(_, packet) = arrives(&net, &later) else { panic!("not sent on") };
    assert!(packet.bytes.ends_with(&later.data));
    assert_eq!(packet.bytes[8..40], first.bytes[8..40], "the addresses; what comes next only the first one says");
}

#[test]
fn a_fragment_before_its_first_one_is_dropped_where_nobody_but_a_service_can_want_it() {
    for world in [World::V4, World::V6] {
        let mut net = Net::new((world, false));
        let (client, service) = (world.client(1), world.cluster_ip(1));
        net.serve(service, &[world.remote_pod(6)]);
        let [first, later] = pieces(client, service, 5);
        for side in [Side::Uplink, Side::Pod] {
            assert_eq!(net.node.arrives(later.packet(false), side), Outcome::Dropped);
        }
        assert_eq!(net.counted(Counter::FragmentDropped), 2);
        let expected = addrs(arrives(&net, &first));
        assert_eq!(addrs(arrives(&net, &later)), expected, "sent again");
        assert_eq!(
            passed(net.node.leaves(pieces(client, service, 6)[1].packet(false))).bytes.len(),
            later.bytes().len()
        );
    }
}
