//! What a client is told that cannot be served.

use super::*;

const SEQ: u32 = 1_000;

/// Sequence number, acknowledgement number and flags of an answer of exactly 20 bytes of TCP.
fn reset(net: &Net, packet: &SimPacket) -> (u32, u32, u32) {
    let at = net.world.header();
    assert_eq!(packet.bytes.len(), at + 20, "{packet:x?}");
    assert_eq!(number(packet, at + 12, 1), 0x50);
    (number(packet, at + 4, 4), number(packet, at + 8, 4), number(packet, at + 13, 1))
}

#[test]
fn a_syn_to_a_service_without_backends_is_reset() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.node_port());
        net.serve(service, &[]);
        for (data, options) in [(0, vec![]), (11, vec![2, 4, 5, 180])] {
            let body = Body::Tcp { flags: SYN, seq: SEQ, ack: 0, options };
            let frame = Frame { body, data: vec![7; data], ..Frame::tcp(world.client(1), service, SYN) };
            let packet = answered(net.arrives(&frame, Side::Uplink));
            assert_eq!(ends(&packet.bytes), Some((service, world.client(1))));
            let data = u32::try_from(data).unwrap();
            assert_eq!(reset(&net, &packet), (0, SEQ + 1 + data, u32::from(RST | ACK)));
        }
        assert_eq!(net.counted(Counter::AnswerSent), 2);
        assert_eq!(net.n_entries(), 0);
    }
}

#[test]
fn link_layer_padding_is_no_data() {
    let mut net = Net::new((World::V4, false));
    let service = net.world.node_port();
    net.serve(service, &[]);
    let body = Body::Tcp { flags: SYN, seq: SEQ, ack: 0, options: vec![] };
    let mut packet = Frame { body, ..Frame::tcp(net.world.client(1), service, SYN) }.packet(false);
    packet.bytes.extend([0; 6]);
    let packet = answered(checked(net.node.arrives(packet, Side::Uplink)));
    assert_eq!(reset(&net, &packet).1, SEQ + 1);
    let frame = Frame { data: vec![1], ..Frame::udp(net.world.client(1), service) };
    let mut packet = frame.packet(false);
    packet.bytes.extend([0; 17]);
    let packet = answered(checked(net.node.arrives(packet, Side::Uplink)));
    assert_eq!(packet.bytes[28..], frame.bytes(), "nor is it quoted");
}

#[test]
fn a_datagram_to_a_service_without_backends_is_answered_with_port_unreachable() {
    for (world, data, quoted) in
        [(World::V4, 10, 38), (World::V4, 1_400, 548), (World::V6, 11, 59), (World::V6, 1_400, 1_232)]
    {
        let mut net = Net::new((world, false));
        let service = world.node_port();
        net.serve(service, &[]);
        let frame = Frame { data: vec![3; data], ..Frame::udp(world.client(1), service) };
        let packet = answered(net.arrives(&frame, Side::Uplink));
        let (src, dst) = ends(&packet.bytes).unwrap();
        assert_eq!((src.ip(), dst.ip()), (service.ip(), world.client(1).ip()));
        let at = world.header();
        let expected = if world == World::V4 { 0x0303 } else { 0x0104 };
        assert_eq!((number(&packet, at, 2), number(&packet, at + 4, 4)), (expected, 0));
        assert_eq!(packet.bytes.get(at + 8..), frame.bytes().get(..quoted));
    }
}

#[test]
fn an_unknown_port_of_a_cluster_ip_is_refused_and_counted() {
    for world in WORLDS {
        let net = Net::new(world);
        let (client, unknown) = (net.world.client(1), SocketAddr::new(net.world.cluster_ip(1).ip(), 81));
        answered(net.arrives(&Frame::tcp(client, unknown, SYN), Side::Uplink));
        answered(net.arrives(&Frame::udp(net.world.local_pod(5), unknown), Side::Pod));
        assert_eq!(net.counted(Counter::UnknownPort), 2);
    }
}

#[test]
fn an_unknown_port_of_the_node_is_the_nodes_affair() {
    for world in WORLDS {
        let mut net = Net::new(world);
        net.serve(net.world.node_port(), &[]);
        for port in [22, 30_081] {
            let frame = Frame::tcp(net.world.client(1), SocketAddr::new(net.world.node(), port), SYN);
            assert_eq!(passed(net.arrives(&frame, Side::Uplink)), frame.packet(net.offloaded));
        }
    }
}

#[test]
fn a_segment_without_a_connection_is_reset() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (client, service) = (net.world.client(1), net.world.cluster_ip(2));
        net.serve(service, &[net.world.local_pod(5)]);
        for flags in [ACK, FIN | ACK, SYN | ACK] {
            let frame = Frame { data: vec![1; 3_000], ..Frame::tcp(client, service, flags) };
            let packet = answered(net.arrives(&frame, Side::Uplink));
            assert_eq!(ends(&packet.bytes), Some((service, client)));
            assert_eq!(reset(&net, &packet), (2_000, 0, u32::from(RST)));
        }
        assert_eq!(net.arrives(&Frame::tcp(client, service, RST), Side::Uplink), Outcome::Dropped);
        assert_eq!(net.arrives(&Frame::tcp(client, service, RST | ACK), Side::Uplink), Outcome::Dropped);
        assert_eq!(net.counted(Counter::NoFlow), 5);
        assert_eq!(net.n_entries(), 0);
    }
}

#[test]
fn a_segment_without_a_connection_to_an_address_of_the_node_is_for_the_stack() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let service = net.world.node_port();
        net.serve(service, &[net.world.local_pod(5)]);
        let frame = Frame::tcp(net.world.client(1), service, ACK);
        assert_eq!(passed(net.arrives(&frame, Side::Uplink)), frame.packet(net.offloaded));
    }
}

#[test]
fn answers_are_limited_and_those_not_sent_are_counted() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let service = net.world.node_port();
        net.serve(service, &[]);
        net.node.traffic.node.answers_per_s = 3;
        let frames = [Frame::tcp(net.world.client(1), service, SYN), Frame::udp(net.world.client(1), service)];
        for _ in 0..2 {
            let outcomes: Vec<_> = (0..10).map(|n| net.arrives(&frames[n % 2], Side::Uplink)).collect();
            let sent = outcomes.iter().take_while(|outcome| matches!(outcome, Outcome::Answered(_))).count();
            let dropped = outcomes.iter().filter(|outcome| **outcome == Outcome::Dropped).count();
            assert_eq!((sent, dropped), (3, 7));
            net.node.environment.advance(1);
        }
        assert_eq!((net.counted(Counter::AnswerSent), net.counted(Counter::AnswerLimited)), (6, 14));
    }
}

/// The packet that an answer quotes, and its ICMP type and code and the word behind the checksum.
fn complaint(net: &Net, packet: &SimPacket) -> (Vec<u8>, u32, u32) {
    let at = net.world.header();
    (packet.bytes.get(at + 8..).unwrap().to_vec(), number(packet, at, 2), number(packet, at + 4, 4))
}

#[test]
fn a_packet_at_the_end_of_its_hops_is_reported_to_its_sender_as_it_was_sent() {
    for world in [World::V4, World::V6] {
        for pod in [world.local_pod(5), world.remote_pod(6)] {
            let mut net = Net::new((world, false));
            let (client, service) = (world.client(1), world.node_port());
            net.serve(service, &[pod]);
            let frame = Frame { hops: 1, ..Frame::udp(client, service) };
            let packet = answered(net.arrives(&frame, Side::Uplink));
            let (src, dst) = ends(&packet.bytes).unwrap();
            assert_eq!((src.ip(), dst.ip()), (service.ip(), client.ip()));
            let (quoted, kind, _) = complaint(&net, &packet);
            assert_eq!(kind, if world == World::V4 { 0x0b00 } else { 0x0300 });
            assert_eq!(quoted, frame.bytes());
        }
    }
}

#[test]
fn a_packet_for_the_node_itself_needs_no_hop() {
    let mut net = Net::new((World::V4, false));
    let service = net.world.cluster_ip(2);
    let host = SocketAddr::new(net.world.node(), 8080);
    net.serve(service, &[host]);
    let frame = Frame { hops: 1, ..Frame::udp(net.world.client(1), service) };
    assert_eq!(sent(net.arrives(&frame, Side::Uplink)).1, host);
}

#[test]
fn a_packet_that_is_too_big_for_the_way_on_is_reported_with_the_mtu() {
    for world in [World::V4, World::V6] {
        let mut net = Net::new((world, false));
        let (client, service) = (world.client(1), world.node_port());
        net.serve(service, &[world.remote_pod(6)]);
        let (from, to) = net.connect(client, service, Side::Uplink);
        net.node.traffic.mtus = [(UPLINK, 1_400)].into();
        let frame = Frame { data: vec![9; 1_500], ..Frame::tcp(client, service, ACK) };
        let packet = answered(net.arrives(&frame, Side::Uplink));
        let (quoted, kind, mtu) = complaint(&net, &packet);
        assert_eq!((kind, mtu), (if world == World::V4 { 0x0304 } else { 0x0200 }, 1_400));
        assert_eq!(quoted, frame.bytes()[..quoted.len()]);
        let answer = Frame { data: vec![9; 1_500], ..Frame::tcp(to, from, ACK) };
        let packet = answered(net.arrives(&answer, Side::Uplink));
        let (src, dst) = ends(&packet.bytes).unwrap();
        assert_eq!((src.ip(), dst.ip()), (from.ip(), to.ip()), "the way back has the same MTU");
        assert_eq!(complaint(&net, &packet).0[..20], answer.bytes()[..20]);
    }
}

/// Linux before 5.12.
#[test]
fn where_the_kernel_does_not_say_how_much_fits_a_guess_is_reported_unless_the_stack_can_say_more() {
    for world in [World::V4, World::V6] {
        let mut net = Net::new((world, false));
        let (client, service) = (world.client(1), world.node_port());
        net.serve(service, &[world.remote_pod(6)]);
        net.node.traffic.mtus = [(UPLINK, 0), (PODS, 0)].into();
        let host = if world == World::V4 { 576 } else { 1_280 };
        for (len, guess) in [(1_400, 1_280), (1_000, host)] {
            let frame = Frame { data: vec![9; len], ..Frame::udp(client, service) };
            let packet = answered(net.arrives(&frame, Side::Uplink));
            assert_eq!(complaint(&net, &packet).2, guess);
        }
        net.serve(service, &[world.local_pod(5)]);
        let outcome = net.arrives(&Frame::udp(world.client(2), service), Side::Uplink);
        assert!(matches!(outcome, Outcome::Rewritten(_)), "{outcome:?}");
    }
}

#[test]
fn a_packet_that_may_be_fragmented_is_fragmented_by_the_stack_unless_that_does_not_take_it() {
    let mut net = Net::new((World::V4, false));
    let (client, service) = (net.world.client(1), net.world.node_port());
    net.serve(service, &[net.world.remote_pod(6)]);
    net.node.traffic.mtus = [(UPLINK, 1_400)].into();
    let frame = Frame { data: vec![9; 1_500], may_fragment: true, ..Frame::udp(client, service) };
    answered(net.arrives(&frame, Side::Uplink));
    net.serve(service, &[net.world.local_pod(5)]);
    net.node.traffic.mtus = [(PODS, 1_400)].into();
    let frame = Frame { src: net.world.client(2), ..frame };
    let outcome = net.arrives(&frame, Side::Uplink);
    assert!(matches!(outcome, Outcome::Rewritten(_)), "{outcome:?}");
}
