//! ICMP errors about translated packets: who sent the packet must recognise it.

use super::*;

fn error(world: World, from: IpAddr, to: IpAddr, quoted: &[u8]) -> Frame {
    let kind = if world == World::V4 { (3, 4, 1_300) } else { (2, 0, 1_300) };
    Frame::icmp(from, to, kind, quoted.to_vec())
}

/// The packet that an ICMP error quotes.
fn quoted(world: World, outcome: Outcome) -> Vec<u8> {
    match outcome {
        Outcome::Sent(_, packet) | Outcome::Rewritten(packet) => {
            assert_eq!(number(&packet, world.header() + 4, 4), 1_300, "the MTU");
            packet.bytes.get(world.header() + 8..).unwrap().to_vec()
        }
        other => panic!("not sent on: {other:x?}"),
    }
}

fn outer(outcome: &Outcome) -> (IpAddr, IpAddr) {
    let (Outcome::Sent(_, packet) | Outcome::Rewritten(packet)) = outcome else { panic!("not sent on: {outcome:x?}") };
    let (src, dst) = ends(&packet.bytes).unwrap();
    (src.ip(), dst.ip())
}

/// The packet as it went on, and what the hop in between has made of it.
fn forwarded(outcome: Outcome) -> Vec<u8> {
    let (Outcome::Sent(_, packet) | Outcome::Rewritten(packet)) = outcome else { panic!("not sent on: {outcome:x?}") };
    packet.bytes
}

/// `quote` with the hops of `original`, so that the two can be compared.
fn with_hops_of(world: World, mut quote: Vec<u8>, original: &[u8]) -> Vec<u8> {
    let hops = if world == World::V4 { 8..12 } else { 7..8 };
    quote.splice(hops.clone(), original[hops].iter().copied());
    quote
}

#[test]
fn an_error_on_the_way_to_the_backend_reaches_the_client_about_its_own_packet() {
    for world in [World::V4, World::V6] {
        for pod in [world.local_pod(5), world.remote_pod(6)] {
            for len in [8, 28, 600] {
                let mut net = Net::new((world, false));
                let (client, service, router) = (world.client(1), world.node_port(), world.ip([10, 7, 7], 7));
                net.serve(service, &[pod]);
                for frame in [Frame::tcp(client, service, SYN), Frame::udp(client, service)] {
                    let frame = Frame { data: vec![5; 900], ..frame };
                    let translated = forwarded(net.arrives(&frame, Side::Uplink));
                    let (src, _) = ends(&translated).unwrap();
                    let len = world.header() + len;
                    let error = error(world, router, src.ip(), &translated[..len]);
                    let outcome =
                        if pod == world.local_pod(5) { net.leaves(&error) } else { net.arrives(&error, Side::Uplink) };
                    assert_eq!(outer(&outcome), (service.ip(), client.ip()), "as the answers");
                    let quote = with_hops_of(world, quoted(world, outcome), &frame.bytes());
                    assert_eq!(quote, frame.bytes()[..len]);
                }
                assert_eq!(net.counted(Counter::IcmpError), 2);
            }
        }
    }
}

#[test]
fn an_error_on_the_way_to_the_client_reaches_the_backend_about_its_own_packet() {
    for world in [World::V4, World::V6] {
        for pod in [world.local_pod(5), world.remote_pod(6)] {
            let mut net = Net::new((world, false));
            let (client, service, router) = (world.client(1), world.node_port(), world.ip([10, 7, 7], 7));
            net.serve(service, &[pod]);
            let (from, to) = net.connect(client, service, Side::Uplink);
            let answer = Frame { data: vec![5; 900], ..Frame::tcp(to, from, ACK) };
            let translated = forwarded(if pod == world.local_pod(5) {
                net.leaves(&answer)
            } else {
                net.arrives(&answer, Side::Uplink)
            });
            let outcome = net.arrives(&error(world, router, service.ip(), &translated[..200]), Side::Uplink);
            // A router stays who it is where the client does.
            let sender = if from.ip() == client.ip() { router } else { from.ip() };
            assert_eq!(outer(&outcome), (sender, pod.ip()));
            assert_eq!(with_hops_of(world, quoted(world, outcome), &answer.bytes()), answer.bytes()[..200]);
        }
    }
}

#[test]
fn an_error_of_the_backend_itself_comes_from_the_service() {
    for world in [World::V4, World::V6] {
        let mut net = Net::new((world, false));
        let (client, service, pod) = (world.client(1), world.node_port(), world.remote_pod(6));
        net.serve(service, &[pod]);
        let frame = Frame::udp(client, service);
        let translated = forwarded(net.arrives(&frame, Side::Uplink));
        let (src, _) = ends(&translated).unwrap();
        let outcome = net.arrives(&error(world, pod.ip(), src.ip(), &translated), Side::Uplink);
        assert_eq!(outer(&outcome), (service.ip(), client.ip()));
    }
}

#[test]
fn an_error_of_the_client_comes_from_what_the_backend_sees_of_it() {
    for world in [World::V4, World::V6] {
        let mut net = Net::new((world, false));
        let (client, service, pod) = (world.client(1), world.node_port(), world.remote_pod(6));
        net.serve(service, &[pod]);
        let (from, _) = sent(net.arrives(&Frame::udp(client, service), Side::Uplink));
        let translated = forwarded(net.arrives(&Frame::udp(pod, from), Side::Uplink));
        let outcome = net.arrives(&error(world, client.ip(), service.ip(), &translated), Side::Uplink);
        assert_eq!(outer(&outcome), (from.ip(), pod.ip()));
    }
}

#[test]
fn errors_about_others_packets_pass_untouched() {
    for world in [World::V4, World::V6] {
        let mut net = Net::new((world, false));
        let (client, service, pod) = (world.client(1), world.node_port(), world.remote_pod(6));
        net.serve(service, &[pod]);
        let frame = Frame::udp(client, service);
        let translated = forwarded(net.arrives(&frame, Side::Uplink));
        let (src, _) = ends(&translated).unwrap();
        let foreign = Frame::udp(world.client(2), world.client(3)).bytes();
        let short = translated[..world.header() + 7].to_vec();
        for (to, quote) in [
            (world.node(), frame.bytes()),
            (world.client(2).ip(), foreign),
            (src.ip(), short),
            (src.ip(), Vec::new()),
            // Not sent to whom the packet came from.
            (world.client(3).ip(), translated.clone()),
        ] {
            let error = error(world, pod.ip(), to, &quote);
            assert_eq!(passed(net.arrives(&error, Side::Uplink)), error.packet(false));
            assert_eq!(passed(net.leaves(&error)), error.packet(false));
        }
    }
}

#[test]
fn an_error_that_ingress_has_turned_back_is_left_alone_at_egress() {
    for world in [World::V4, World::V6] {
        let mut net = Net::new((world, false));
        let (client, service, pod) = (world.client(1), world.node_port(), world.remote_pod(6));
        net.serve(service, &[pod]);
        let translated = forwarded(net.arrives(&Frame::udp(client, service), Side::Uplink));
        let (src, _) = ends(&translated).unwrap();
        let Outcome::Sent(_, packet) = net.arrives(&error(world, pod.ip(), src.ip(), &translated), Side::Uplink) else {
            panic!("not sent")
        };
        assert_eq!(passed(net.node.leaves(packet.clone())), packet);
    }
}

#[test]
fn errors_do_not_keep_a_flow() {
    let mut net = Net::new((World::V4, false));
    let world = net.world;
    net.serve(world.node_port(), &[world.remote_pod(6)]);
    let translated = forwarded(net.arrives(&Frame::udp(world.client(1), world.node_port()), Side::Uplink));
    let (src, _) = ends(&translated).unwrap();
    net.node.environment.advance(25);
    net.arrives(&error(world, world.remote_pod(6).ip(), src.ip(), &translated), Side::Uplink);
    net.node.environment.advance(25);
    let late = Frame::udp(world.remote_pod(6), src);
    passed(net.arrives(&late, Side::Uplink));
}

/// TCP has no "none": the sum of zero is one like any other. A datagram without a checksum is quoted without one.
#[test]
fn a_quoted_checksum_of_zero_is_none_for_udp_alone() {
    for world in [World::V4, World::V6] {
        let mut net = Net::new((world, false));
        let (client, service, router) = (world.client(1), world.node_port(), world.ip([10, 7, 7], 7));
        net.serve(service, &[world.remote_pod(6)]);
        let (from, to) = net.connect(client, service, Side::Uplink);
        let Body::Tcp { ack, options, .. } = Frame::tcp(from, to, ACK).body else { unreachable!() };
        let summed_to_zero = (0..u32::from(u16::MAX)).map(|seq| Frame {
            body: Body::Tcp { flags: ACK, seq, ack, options: options.clone() },
            ..Frame::tcp(from, to, ACK)
        });
        let at = world.header() + 16;
        let translated = summed_to_zero.map(|frame| frame.bytes()).find(|bytes| bytes[at..at + 2] == [0, 0]).unwrap();
        let quote = quoted(world, net.arrives(&error(world, router, from.ip(), &translated), Side::Uplink));
        assert_eq!(verify(&SimPacket::new(quote)), Ok(()));
        let unsummed = Frame { body: Body::Udp { unsummed: true }, ..Frame::udp(client, service) };
        let translated = forwarded(net.arrives(&unsummed, Side::Uplink));
        let (from, _) = ends(&translated).unwrap();
        let quote = quoted(world, net.arrives(&error(world, router, from.ip(), &translated), Side::Uplink));
        assert_eq!(quote[world.header() + 6..world.header() + 8], [0, 0]);
    }
}
