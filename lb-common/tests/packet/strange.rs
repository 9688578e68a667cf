//! Bytes of strangers: whatever they are, nothing is read past the end, nothing panics, and what is not understood passes
//! untouched.

use proptest::prelude::*;

use super::*;

/// A packet and what happens to its bytes on the way.
#[derive(Clone, Debug)]
struct Damage {
    flips: Vec<(usize, u8)>,
    len: usize,
}

fn damage() -> impl Strategy<Value = Damage> {
    let flips = proptest::collection::vec((0..120_usize, any::<u8>()), 0..6);
    (flips, prop_oneof![Just(usize::MAX), 0..140_usize]).prop_map(|(flips, len)| Damage { flips, len })
}

impl Damage {
    fn apply(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        for (at, byte) in &self.flips {
            if let Some(old) = bytes.get_mut(*at) {
                *old = *byte;
            }
        }
        bytes.truncate(self.len);
        bytes
    }
}

/// A node with Services with and without backends, and a flow.
fn net(world: World) -> Net {
    let mut net = Net::new((world, false));
    net.serve(world.node_port(), &[world.remote_pod(6)]);
    net.serve(world.cluster_ip(2), &[]);
    net.connect(world.client(1), world.node_port(), Side::Uplink);
    net
}

fn frames(world: World) -> Vec<Vec<u8>> {
    let (client, service, empty) = (world.client(1), world.node_port(), world.cluster_ip(2));
    let first = Frame { fragment: Some(7), data: vec![1; 64], ..Frame::udp(client, service) };
    let frames = [
        Frame::tcp(client, service, ACK),
        Frame::tcp(client, empty, SYN),
        Frame::udp(client, service),
        Frame::udp(client, empty),
        Frame { options: if world == World::V4 { 12 } else { 2 }, ..Frame::udp(client, service) },
        Frame { body: Body::Later(8, 17), ..first.clone() },
        first,
        Frame::icmp(client.ip(), service.ip(), (3, 4, 1_300), Frame::tcp(service, client, ACK).bytes()),
        Frame::icmp(client.ip(), service.ip(), (2, 0, 1_300), Frame::tcp(service, client, ACK).bytes()),
    ];
    frames.iter().map(Frame::bytes).collect()
}

#[test]
fn ports_behind_the_end_of_a_packet_are_not_ports() {
    let net = net(World::V4);
    let mut packet = Frame::udp(net.world.client(1), net.world.node_port()).packet(false);
    // It ends behind the ports by its own account: what follows is padding of the link layer.
    packet.bytes.splice(2..4, [0, 24]);
    let outcome = net.node.arrives(packet.clone(), Side::Uplink);
    assert_eq!(passed(outcome), packet);
}

/// What may come of any bytes at all.
fn look(node: &SimNode, bytes: Vec<u8>) -> Result<(), TestCaseError> {
    let packet = SimPacket::new(bytes);
    let outcomes = [
        node.arrives(packet.clone(), Side::Uplink),
        node.arrives(packet.clone(), Side::Pod),
        node.leaves(packet.clone()),
    ];
    for outcome in outcomes {
        match outcome {
            Outcome::Passed(same) => prop_assert_eq!(&same, &packet),
            Outcome::Rewritten(other) | Outcome::Sent(_, other) | Outcome::Entered(_, other) => {
                prop_assert_eq!(other.bytes.len(), packet.bytes.len());
            }
            Outcome::Answered(answer) => prop_assert_eq!(verify(&answer), Ok(())),
            Outcome::Dropped | Outcome::Lost | Outcome::Again(_) => {}
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: histories(2_000), ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_borne(
        first in prop_oneof![Just(0x45_u8), Just(0x4f), Just(0x60), any::<u8>()],
        rest in proptest::collection::vec(any::<u8>(), 0..160),
    ) {
        let bytes = [vec![first], rest].concat();
        for world in [World::V4, World::V6] {
            look(&net(world).node, bytes.clone())?;
        }
    }

    #[test]
    fn damaged_packets_are_borne(
        world in proptest::sample::select(&[World::V4, World::V6][..]),
        frame in 0..9_usize,
        damage in damage(),
    ) {
        let net = net(world);
        look(&net.node, damage.apply(frames(world)[frame].clone()))?;
        net.assert_no_half_is_alone();
    }
}
