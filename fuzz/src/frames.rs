//! Any bytes as packets, one after the other, through a node that has connections already: what is not understood or not a
//! Service's passes untouched, what is rewritten has right checksums if it came with right ones, no half of a flow is ever
//! alone, and nothing stays in the table for ever.
//!
//! An input: a byte that chooses family and offload, then packets, each behind a byte that says where it is met and two with
//! its length.

use std::net::SocketAddr;

use lb_common::{
    abi::{FlowKey, V4, V6},
    logic::forward::Side,
    sim::{
        Outcome, SimPacket, Traffic,
        frames::{Body, Frame, ends, transport, verify},
    },
};

use crate::packet::{
    Net, WORLDS, World,
    history::{CAPACITY, age_all},
};

const SYN: u8 = 2;
const ACK: u8 = 16;
const EGRESS: u8 = 1;
const POD_SIDE: u8 = 2;
/// The longest timeout of a flow is a day.
const FOR_EVER_S: u32 = 90_000;

/// See above.
pub fn run(data: &[u8]) {
    let Some((first, mut rest)) = data.split_first() else { return };
    let (world, offloaded) = WORLDS[usize::from(*first) % WORLDS.len()];
    let net = node(world);
    while let Some((how, bytes, more)) = next(rest) {
        meet(&net, how, SimPacket { offloaded, ..SimPacket::new(bytes.to_vec()) });
        rest = more;
    }
    net.node.environment.advance(FOR_EVER_S);
    age_all(&net.node);
    assert_eq!(net.n_entries(), 0, "flows that never end");
}

fn next(data: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let ([how, len @ ..], rest) = data.split_first_chunk::<3>()?;
    let (bytes, more) = rest.split_at(usize::from(u16::from_le_bytes(*len)).min(rest.len()));
    Some((*how, bytes, more))
}

/// Services with backends of every kind and without, and a flow.
fn node(world: World) -> Net {
    let mut net = Net::new((world, false));
    net.set_capacity(CAPACITY);
    let all = [world.local_pod(5), world.remote_pod(7), world.tunnel_pod(8), SocketAddr::new(world.node(), 8080)];
    net.serve(world.node_port(), &all);
    net.serve(world.cluster_ip(2), &[world.local_pod(5)]);
    net.serve(world.cluster_ip(3), &[]);
    net.connect(world.client(1), world.node_port(), Side::Uplink);
    net
}

/// Has the node meet a packet, and looks at what it does.
fn meet(net: &Net, how: u8, packet: SimPacket) {
    let side = if how & POD_SIDE != 0 { Side::Pod } else { Side::Uplink };
    let is_egress = how & EGRESS != 0;
    let is_foreign = is_foreign(net, &packet.bytes, is_egress);
    let was_right = is_whole(&packet.bytes) && verify(&packet).is_ok();
    let outcome = if is_egress { net.node.leaves(packet.clone()) } else { net.node.arrives(packet.clone(), side) };
    match outcome {
        Outcome::Again(packets) if !is_foreign => {
            // Fragments, whose checksums nobody can verify by themselves.
            for packet in packets {
                net.node.arrives_until_settled(packet, side);
            }
        }
        Outcome::Passed(after) => assert_eq!(after.bytes, packet.bytes, "passed, but not untouched"),
        _ if is_foreign => panic!("a packet of nobody's became {outcome:x?}"),
        Outcome::Rewritten(after) | Outcome::Sent(_, after) | Outcome::Entered(_, after) if was_right => {
            verify(&after).unwrap_or_else(|what| panic!("{what}: {packet:x?} became {after:x?}"));
        }
        Outcome::Answered(after) => verify(&after).unwrap_or_else(|what| panic!("{what}: the answer {after:x?}")),
        Outcome::Rewritten(_)
        | Outcome::Sent(..)
        | Outcome::Entered(..)
        | Outcome::Again(_)
        | Outcome::Dropped
        | Outcome::Lost => {}
    }
    net.assert_no_half_is_alone();
    assert!(net.n_entries() <= CAPACITY as usize);
}

/// A TCP segment or datagram that neither goes to an address of a Service nor belongs to a flow. Of others it is not said.
fn is_foreign(net: &Net, bytes: &[u8], is_egress: bool) -> bool {
    let (Some((src, dst)), Some((proto, _))) = (ends(bytes), transport(bytes)) else { return false };
    if !matches!(proto, 6 | 17) || !is_whole(bytes) {
        return false;
    }
    let world = net.world;
    let services = [world.node_port(), world.cluster_ip(1), world.cluster_ip(2), world.cluster_ip(3)];
    let is_service = !is_egress && services.iter().any(|service| service.ip() == dst.ip());
    let is_flow = has_flow::<V4>(net, proto, src, dst) || has_flow::<V6>(net, proto, src, dst);
    !is_service && !is_flow
}

fn has_flow<F: Traffic>(net: &Net, proto: u8, src: SocketAddr, dst: SocketAddr) -> bool {
    let (Some(src_addr), Some(dst_addr)) = (F::from_ip(src.ip()), F::from_ip(dst.ip())) else { return false };
    let is_it = |key: &FlowKey<F>| {
        (key.proto, key.src_addr, key.src_port, key.dst_addr, key.dst_port)
            == (proto, src_addr, src.port(), dst_addr, dst.port())
    };
    F::flows(&net.node.traffic).conns.borrow().keys().any(is_it)
}

/// Not a piece of a larger one.
fn is_whole(bytes: &[u8]) -> bool {
    match bytes.first().map(|first| first >> 4) {
        Some(4) => bytes.get(6..8).is_some_and(|field| field[0] & 0x3f == 0 && field[1] == 0),
        // Wherever such a header is, there is its number; where it is something else, less is checked.
        _ => bytes.get(6) != Some(&44) && !bytes.iter().skip(40).step_by(8).any(|byte| *byte == 44),
    }
}

/// What an input begins as: one packet of every kind, and two short exchanges.
pub fn seeds() -> Vec<Vec<u8>> {
    (0_u8..)
        .zip(WORLDS)
        .flat_map(|(number, (world, offloaded))| {
            let frames = every_kind(world);
            let single = frames.iter().map(|(how, frame)| vec![(*how, frame)]).collect::<Vec<_>>();
            let all = frames.iter().map(|(how, frame)| (*how, frame)).collect();
            [single, vec![all]]
                .concat()
                .into_iter()
                .map(move |frames| {
                    let packets = frames.into_iter().flat_map(|(how, frame)| {
                        let bytes = frame.packet(offloaded).bytes;
                        let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_le_bytes();
                        [&[how], &len[..], &bytes].concat()
                    });
                    [number].into_iter().chain(packets).collect::<Vec<u8>>()
                })
                .collect::<Vec<_>>()
        })
        .collect()
}

fn every_kind(world: World) -> Vec<(u8, Frame)> {
    let (client, other, pod) = (world.client(1), world.client(2), world.local_pod(9));
    let (service, inner, empty) = (world.node_port(), world.cluster_ip(2), world.cluster_ip(3));
    let first = Frame { fragment: Some(7), data: vec![1; 64], ..Frame::udp(other, service) };
    let unsummed = Frame { body: Body::Udp { unsummed: true }, ..Frame::udp(other, service) };
    let kinds = if world == World::V4 { [(3, 4, 1_300), (11, 0, 0)] } else { [(2, 0, 1_300), (3, 0, 0)] };
    let errors =
        kinds.map(|kind| Frame::icmp(other.ip(), service.ip(), kind, Frame::tcp(service, client, ACK).bytes()));
    let [too_big, expired] = errors;
    vec![
        (0, Frame::tcp(client, service, ACK)),
        (0, Frame::tcp(other, service, SYN)),
        (0, Frame::tcp(other, empty, SYN)),
        (0, Frame::tcp(other, service, ACK)),
        (0, Frame::udp(other, service)),
        (0, unsummed),
        (0, Frame::udp(other, empty)),
        (0, Frame { options: if world == World::V4 { 12 } else { 2 }, ..Frame::udp(other, service) }),
        (0, first.clone()),
        (0, Frame { body: Body::Later(9, 17), ..first.clone() }),
        (0, Frame { body: Body::Later(9, 17), fragment: Some(8), ..first.clone() }),
        (0, Frame { fragment: Some(8), ..first }),
        (0, Frame { hops: 1, ..Frame::udp(other, service) }),
        (0, too_big),
        (0, expired),
        (POD_SIDE, Frame::udp(pod, inner)),
        (POD_SIDE, Frame::tcp(pod, inner, SYN)),
        (EGRESS, Frame::udp(world.local_pod(5), other)),
        (EGRESS, Frame::tcp(world.local_pod(5), other, SYN | ACK)),
        (0, Frame::tcp(other, world.local_pod(5), SYN)),
    ]
}
