//! Datagrams in pieces.

use std::{cell::RefCell, ops::Range};

use lb_common::abi::N_PIECES;

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

/// The pieces of a datagram: the first one, others of 1,480 bytes, and one of 8.
fn datagram(src: SocketAddr, dst: SocketAddr, id: u32, n_pieces: u16) -> Vec<Frame> {
    let [first, last] = pieces(src, dst, id);
    let later = |n: u16| Frame { body: Body::Later(185 * n, 17), data: vec![2; 1_480], ..last.clone() };
    let end = Frame { body: Body::Later(185 * (n_pieces - 1), 17), ..last.clone() };
    [vec![first], (1..n_pieces - 1).map(later).collect(), vec![end]].concat()
}

/// What comes out when these come in one after the other.
fn arrive(net: &Net, frames: &[&Frame], side: Side) -> Vec<Outcome> {
    frames.iter().flat_map(|frame| net.node.arrives_until_settled(frame.packet(false), side)).collect()
}

/// Source, destination and part of its datagram.
type Piece = (IpAddr, IpAddr, Vec<u8>);

/// Those that were sent on, in their order.
fn sent_pieces(world: World, outcomes: Vec<Outcome>) -> Vec<Piece> {
    let at = world.header() + if world == World::V4 { 0 } else { 8 };
    let sent = outcomes.into_iter().filter_map(|outcome| match outcome {
        Outcome::Sent(_, packet) => Some(packet.bytes),
        _ => None,
    });
    let apart = |bytes: Vec<u8>| {
        let (src, dst) = ends(&bytes).unwrap();
        (src.ip(), dst.ip(), bytes[at..].to_vec())
    };
    sent.map(apart).collect()
}

fn sorted(mut pieces: Vec<Piece>) -> Vec<Piece> {
    pieces.sort();
    pieces
}

/// All orders of the first `n` numbers.
fn orders(n: usize) -> Vec<Vec<usize>> {
    (1..n).fold(vec![vec![0]], |orders, new| {
        let longer = |order: Vec<usize>| (0..=order.len()).map(move |at| [&order[..at], &[new], &order[at..]].concat());
        orders.into_iter().flat_map(longer).collect()
    })
}

#[test]
fn pieces_go_where_they_belong_in_whatever_order_they_come() {
    for world in [World::V4, World::V6] {
        for service in [world.node_port(), world.cluster_ip(1)] {
            let mut net = Net::new((world, false));
            net.serve(service, &[world.remote_pod(6), world.local_pod(7)]);
            for (id, order) in (1..).zip(orders(4)) {
                let frames = datagram(world.client(1), service, id, 4);
                let in_order = sent_pieces(world, arrive(&net, &frames.iter().collect::<Vec<_>>(), Side::Uplink));
                let frames = datagram(world.client(1), service, 1_000 + id, 4);
                let mixed: Vec<_> = order.iter().map(|n| &frames[*n]).collect();
                let got = sent_pieces(world, arrive(&net, &mixed, Side::Uplink));
                assert_eq!(sorted(got), sorted(in_order), "{order:?}");
            }
            assert!(net.node.traffic.pieces.borrow().is_empty(), "copies are left behind");
            let (kept, released) = (net.counted(Counter::FragmentKept), net.counted(Counter::FragmentReleased));
            assert!(kept > 24 && kept == released, "{kept}, {released}");
            net.assert_no_half_is_alone();
        }
    }
}

#[test]
fn a_datagram_that_comes_backwards_leaves_in_order_and_whole() {
    for world in [World::V4, World::V6] {
        let mut net = Net::new((world, false));
        let (client, service) = (world.client(1), world.node_port());
        net.serve(service, &[world.remote_pod(6)]);
        let in_order = datagram(client, service, 5, 20);
        let expected = sent_pieces(world, arrive(&net, &in_order.iter().collect::<Vec<_>>(), Side::Uplink));
        let backwards: Vec<_> = in_order.iter().rev().collect();
        net.node.traffic.v4.fragments.borrow_mut().clear();
        net.node.traffic.v6.fragments.borrow_mut().clear();
        let got = sent_pieces(world, arrive(&net, &backwards, Side::Uplink));
        assert_eq!(expected.len(), 20);
        assert_eq!(got, expected, "not what the same datagram becomes in order");
    }
}

#[test]
fn an_answer_in_any_order_comes_from_the_service() {
    for world in [World::V4, World::V6] {
        let mut net = Net::new((world, false));
        let (client, service) = (world.client(1), world.node_port());
        for (pod, side) in [(world.remote_pod(6), Side::Uplink), (world.local_pod(7), Side::Pod)] {
            net.serve(service, &[pod]);
            let client = SocketAddr::new(client.ip(), pod.port() + u16::from(side == Side::Pod));
            let (from, to) = sent(arrives(&net, &Frame::udp(client, service)));
            for (id, order) in (1..).zip(orders(3)) {
                let frames = datagram(to, from, id, 3);
                let mixed: Vec<_> = order.iter().map(|n| &frames[*n]).collect();
                let got = sent_pieces(world, arrive(&net, &mixed, side));
                assert_eq!(got.len(), 3, "{order:?}");
                assert!(got.iter().all(|(src, dst, _)| (*src, *dst) == (service.ip(), client.ip())), "{order:?}");
            }
        }
    }
}

#[test]
fn foreign_fragments_pass_at_once_and_untouched_in_whatever_order_they_come() {
    for world in [World::V4, World::V6] {
        let mut net = Net::new((world, false));
        let (client, service, pod) = (world.client(1), world.node_port(), world.remote_pod(6));
        net.serve(service, &[pod]);
        arrives(&net, &Frame::udp(client, service));
        // To the node itself, to somebody else, and from a backend to somebody else.
        let other_port = SocketAddr::new(world.node(), 2_049);
        let pairs = [(client, other_port), (client, world.client(2)), (pod, world.client(3))];
        for (src, dst) in pairs {
            for (id, order) in (1..).zip(orders(3)) {
                let frames = datagram(src, dst, id, 3);
                for n in order {
                    assert_eq!(passed(arrives(&net, &frames[n])), frames[n].packet(false));
                }
            }
        }
        let in_order = net.counted(Counter::FragmentKept);
        let frames = datagram(client, other_port, 99, 3);
        frames.iter().for_each(|frame| drop(passed(arrives(&net, frame))));
        assert_eq!(net.counted(Counter::FragmentKept), in_order, "a copy although the first one was seen");
        assert!(in_order > 0 && net.counted(Counter::FragmentReleased) == 0);
    }
}

#[test]
fn copies_of_what_never_becomes_whole_are_bounded_and_make_room_after_a_while() {
    let world = World::V4;
    let mut net = Net::new((world, false));
    let (client, service) = (world.client(1), world.cluster_ip(1));
    net.serve(service, &[world.remote_pod(6)]);
    let strays = |ids: Range<u32>| {
        ids.for_each(|id| assert_eq!(arrives(&net, &pieces(client, service, id)[1]), Outcome::Dropped));
    };
    let n_kept = || net.node.traffic.pieces.borrow().len();
    strays(0..5_000);
    let full = n_kept();
    assert!(full > 200 && full <= N_PIECES as usize, "{full}");
    let not_kept = net.counted(Counter::FragmentNotKept);
    assert_eq!((not_kept, net.counted(Counter::FragmentDropped)), (5_000 - full as u64, not_kept));
    // Those that are there live on, and then they go.
    let [first, _] = pieces(client, service, 0);
    assert_eq!(sent_pieces(world, arrive(&net, &[&first], Side::Uplink)).len(), 2);
    net.node.environment.advance(31);
    let [first, _] = pieces(client, service, 1);
    assert_eq!(sent_pieces(world, arrive(&net, &[&first], Side::Uplink)).len(), 1, "too old");
    let [other, later] = pieces(client, service, 9_999);
    assert_eq!(sent_pieces(world, arrive(&net, &[&later, &other], Side::Uplink)).len(), 2);
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
fn a_stray_fragment_goes_no_further_where_nobody_but_a_service_can_want_it() {
    for world in [World::V4, World::V6] {
        let mut net = Net::new((world, false));
        let (client, service) = (world.client(1), world.cluster_ip(1));
        net.serve(service, &[]);
        let [first, later] = pieces(client, service, 5);
        // Before its first one it is kept, after that was refused it is not.
        for side in [Side::Uplink, Side::Pod] {
            assert_eq!(net.node.arrives(later.packet(false), side), Outcome::Dropped);
        }
        assert_eq!((net.counted(Counter::FragmentKept), net.counted(Counter::FragmentDropped)), (1, 0));
        answered(arrives(&net, &first));
        assert_eq!(arrives(&net, &later), Outcome::Dropped);
        assert_eq!((net.counted(Counter::FragmentKept), net.counted(Counter::FragmentDropped)), (1, 1));
        let other = pieces(client, service, 6)[1].packet(false);
        assert_eq!(passed(net.node.leaves(other.clone())), other);
    }
}

/// Between the two looks of the one that came too early.
#[test]
fn a_first_fragment_that_comes_on_another_processor_meanwhile_loses_nothing() {
    for world in [World::V4, World::V6] {
        // Before the copy is there, and after that.
        for after in 0..2 {
            let mut net = Net::new((world, false));
            let (client, service) = (world.client(1), world.cluster_ip(1));
            net.serve(service, &[world.remote_pod(6)]);
            arrives(&net, &Frame::udp(client, service));
            let [first, later] = pieces(client, service, 5);
            let (packet, side) = (first.packet(false), Side::Uplink);
            net.node.traffic.rival = RefCell::new(Some(Rival { after, packet, side, outcome: Outcome::Dropped }));
            let mut sent = sent_pieces(world, arrive(&net, &[&later], side)).len();
            let rival = net.node.traffic.rival.take().unwrap();
            sent += match rival.outcome {
                Outcome::Again(packets) => {
                    let all = packets.into_iter().flat_map(|packet| net.node.arrives_until_settled(packet, side));
                    sent_pieces(world, all.collect()).len()
                }
                outcome => sent_pieces(world, vec![outcome]).len(),
            };
            assert_eq!(sent, 2, "{world:?}, {after}");
            assert!(net.node.traffic.pieces.borrow().is_empty());
        }
    }
}
