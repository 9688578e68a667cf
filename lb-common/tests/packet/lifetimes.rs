//! How long a flow lives, and what begins anew.

use lb_common::logic::flow::{expired, timeout, timeout_s};

use super::*;

const NODES: [u8; 12] = [11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22];

fn many(world: World) -> Vec<SocketAddr> {
    NODES.iter().map(|last| world.remote_pod(*last)).collect()
}

#[test]
fn a_connection_stays_with_its_backend() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.node_port());
        net.serve(service, &many(world));
        let (from, backend) = net.connect(world.client(1), service, Side::Uplink);
        for flags in [SYN, ACK, ACK, ACK | FIN] {
            net.node.environment.advance(3_000);
            let frame = Frame::tcp(world.client(1), service, flags);
            assert_eq!(sent(net.arrives(&frame, Side::Uplink)), (from, backend), "flags {flags}");
        }
        assert_eq!(net.n_entries(), 2);
    }
}

/// How many of twenty connections with the same ports, each ended so, get another backend.
fn moves(net: &Net, ended: impl Fn(&Net, (SocketAddr, SocketAddr))) -> usize {
    let (world, service) = (net.world, net.world.node_port());
    let mut backends: Vec<_> = Vec::new();
    for _ in 0..20 {
        let ends = net.connect(world.client(1), service, Side::Uplink);
        net.assert_no_half_is_alone();
        assert_eq!(net.n_entries(), 2, "the old flow is gone");
        ended(net, ends);
        backends.push(ends.1);
    }
    backends.windows(2).filter(|pair| pair[0] != pair[1]).count()
}

#[test]
fn a_syn_after_the_end_begins_anew() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.node_port());
        net.serve(service, &many(world));
        let client = world.client(1);
        let both_fin = |net: &Net, (from, to): (SocketAddr, SocketAddr)| {
            sent(net.arrives(&Frame::tcp(client, service, FIN | ACK), Side::Uplink));
            net.answer(&Frame::tcp(to, from, FIN | ACK), (service, client));
        };
        let reset = |net: &Net, (from, to): (SocketAddr, SocketAddr)| {
            net.answer(&Frame::tcp(to, from, RST), (service, client));
        };
        let idle = |net: &Net, _: (SocketAddr, SocketAddr)| net.node.environment.advance(86_401);
        let gone = |net: &Net| moves(net, |_, _| ());
        assert!(moves(&net, both_fin) > 10);
        assert!(moves(&net, reset) > 10);
        assert!(moves(&net, idle) > 10);
        assert_eq!(gone(&net), 0, "a SYN within a connection is that connection's");
    }
}

#[test]
fn one_fin_is_not_the_end() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.node_port());
        net.serve(service, &many(world));
        let fin = |net: &Net, (from, to): (SocketAddr, SocketAddr)| {
            net.answer(&Frame::tcp(to, from, FIN | ACK), (service, world.client(1)));
        };
        assert_eq!(moves(&net, fin), 0);
    }
}

#[test]
fn a_syn_is_not_sent_to_a_backend_that_is_gone() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.node_port());
        net.serve(service, &[world.remote_pod(6)]);
        let (from, backend) = net.connect(world.client(1), service, Side::Uplink);
        net.node.v4.backends.clear();
        net.node.v6.backends.clear();
        net.serve(service, &[world.remote_pod(8)]);
        let data = Frame::tcp(world.client(1), service, ACK);
        assert_eq!(sent(net.arrives(&data, Side::Uplink)), (from, backend), "an old connection is its own affair");
        let syn = Frame::tcp(world.client(1), service, SYN);
        assert_eq!(sent(net.arrives(&syn, Side::Uplink)).1, world.remote_pod(8));
        net.assert_no_half_is_alone();
    }
}

#[test]
fn a_datagram_after_silence_is_given_a_backend_anew() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.node_port());
        net.serve(service, &many(world));
        let frame = Frame::udp(world.client(1), service);
        for (answered, silence, moves) in [(false, 30, false), (false, 31, true), (true, 120, false), (true, 121, true)]
        {
            let mut moved = 0;
            for _ in 0..20 {
                net.node.environment.advance(1_000);
                let (from, to) = sent(net.arrives(&frame, Side::Uplink));
                if answered {
                    net.answer(&Frame::udp(to, from), (service, world.client(1)));
                }
                net.node.environment.advance(silence);
                moved += u32::from(sent(net.arrives(&frame, Side::Uplink)) != (from, to));
                net.assert_no_half_is_alone();
            }
            assert_eq!(moved > 0, moves, "answered: {answered}, silent for {silence} s: moved {moved} times");
        }
    }
}

#[test]
fn answers_alone_keep_a_flow() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.node_port());
        net.serve(service, &many(world));
        let frame = Frame::udp(world.client(1), service);
        let (from, to) = sent(net.arrives(&frame, Side::Uplink));
        for _ in 0..10 {
            net.node.environment.advance(25);
            net.answer(&Frame::udp(to, from), (service, world.client(1)));
        }
        assert_eq!(sent(net.arrives(&frame, Side::Uplink)), (from, to));
    }
}

#[test]
fn an_answer_to_a_flow_that_is_over_is_not_translated() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.node_port());
        net.serve(service, &many(world));
        let (from, to) = sent(net.arrives(&Frame::udp(world.client(1), service), Side::Uplink));
        net.node.environment.advance(31);
        let late = Frame::udp(to, from);
        assert_eq!(passed(net.arrives(&late, Side::Uplink)), late.packet(net.offloaded));
        assert_eq!(net.n_entries(), 0);
    }
}

#[test]
fn what_a_crash_left_of_a_flow_is_no_obstacle() {
    for world in WORLDS {
        for kept_reply in [true, false] {
            let mut net = Net::new(world);
            let (world, service) = (net.world, net.world.node_port());
            net.serve(service, &[world.local_pod(5)]);
            let frame = Frame::udp(world.client(1), service);
            net.arrives(&frame, Side::Uplink);
            net.node.traffic.v4.conns.borrow_mut().retain(|_, half| half.is_reply() == kept_reply);
            net.node.traffic.v6.conns.borrow_mut().retain(|_, half| half.is_reply() == kept_reply);
            net.node.environment.advance(11);
            assert_eq!(sent(net.arrives(&frame, Side::Uplink)), (world.client(1), world.local_pod(5)));
            net.assert_no_half_is_alone();
            assert_eq!(net.n_entries(), 2);
        }
    }
}

#[test]
fn a_lone_half_does_not_take_a_later_flow_of_its_client_with_it() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.node_port());
        let (one, other) = (world.local_pod(5), world.local_pod(6));
        net.serve(service, &[one]);
        let frame = Frame::udp(world.client(1), service);
        net.arrives(&frame, Side::Uplink);
        net.node.traffic.v4.conns.borrow_mut().retain(|_, half| half.is_reply());
        net.node.traffic.v6.conns.borrow_mut().retain(|_, half| half.is_reply());
        net.serve(service, &[other]);
        net.node.environment.advance(20);
        assert_eq!(sent(net.arrives(&frame, Side::Uplink)).1, other);
        let late = Frame::udp(one, world.client(1));
        passed(net.leaves(&late));
        assert_eq!(net.n_entries(), 2, "the lone half is gone");
        net.answer(&Frame::udp(other, world.client(1)), (service, world.client(1)));
        net.assert_no_half_is_alone();
    }
}

#[test]
fn timeouts_are_those_of_conntrack_under_kube_proxy() {
    use lb_common::abi::flow_seen::{ACK, FIN, PACKET, RST, SYN};
    let tcp = |forward, reply| timeout_s(6, forward | PACKET, reply);
    let (client, backend) = (SYN | ACK, SYN | ACK | PACKET);
    assert_eq!(tcp(SYN, 0), 120);
    assert_eq!(tcp(SYN, SYN | PACKET), 60);
    assert_eq!(tcp(client, backend), 86_400);
    assert_eq!(tcp(client | FIN, backend), 3_600);
    assert_eq!(tcp(client, backend | FIN), 3_600);
    assert_eq!(tcp(client | FIN, backend | FIN), 30);
    assert_eq!(tcp(client, backend | RST), 10);
    assert_eq!(tcp(client | RST, backend), 10);
    assert_eq!(timeout_s(17, PACKET, 0), 30);
    assert_eq!(timeout_s(17, PACKET, PACKET), 120);
    for timeout in [tcp(SYN, 0), tcp(client, backend | RST), timeout_s(17, PACKET, 0)] {
        assert!(timeout >= timeout::SHORTEST_S);
    }
}

#[test]
fn a_flow_expires_when_both_halves_have_been_idle_for_too_long() {
    let half = |last_seen_s| Flow::<V4> { last_seen_s, ..Flow::default() };
    assert!(!expired(17, &half(1_000), &half(970), 1_030));
    assert!(!expired(17, &half(970), &half(1_000), 1_030));
    assert!(expired(17, &half(1_000), &half(970), 1_031));
    assert!(!expired(17, &half(u32::MAX - 9), &half(0), 20), "the clock wraps");
    assert!(!expired(17, &half(1_001), &half(1_001), 1_000), "another processor's clock is ahead");
}

#[test]
fn a_reset_that_its_sender_does_not_keep_to_is_forgotten() {
    for world in WORLDS {
        let mut net = Net::new(world);
        let (world, service) = (net.world, net.world.node_port());
        net.serve(service, &many(world));
        let (from, to) = net.connect(world.client(1), service, Side::Uplink);
        net.answer(&Frame::tcp(to, from, RST), (service, world.client(1)));
        net.answer(&Frame::tcp(to, from, ACK), (service, world.client(1)));
        net.node.environment.advance(3_000);
        assert_eq!(sent(net.arrives(&Frame::tcp(world.client(1), service, ACK), Side::Uplink)), (from, to));
    }
}
