//! `sessionAffinity: ClientIP`: a network namespace keeps its backend.

use lb_common::{
    abi::{Counter, V4, client_kind, endpoint_sets, frontend_flags},
    sim::Refused,
};

use super::*;

const TIMEOUT_S: u32 = 100;
const POD: u64 = 77;

fn many() -> Vec<u8> {
    (1..=20).collect()
}

/// Service 1 with these pods and affinity.
fn node(world: World, pods: &[u8]) -> SimNode {
    let mut node = SimNode::new(5);
    serve_affine(world, &mut node, pods);
    node
}

fn serve_affine(world: World, node: &mut SimNode, pods: &[u8]) {
    world.serve(node, 1, pods);
    world.alter(node, 1, |frontend| frontend.affinity_s = TIMEOUT_S);
}

fn tcp(world: World, netns: u64) -> SimSocket {
    world.socket(Proto::Tcp).in_netns(netns)
}

#[test]
fn every_connection_of_a_pod_goes_to_one_backend_by_every_protocol() {
    for world in WORLDS {
        let node = node(world, &many());
        let first = tcp(world, POD).connect(&node, world.service(1)).unwrap();
        for _ in 0..20 {
            assert_eq!(tcp(world, POD).connect(&node, world.service(1)), Ok(first));
            for how in [SimSocket::connect, SimSocket::send_to] {
                let socket = world.socket(Proto::Udp).in_netns(POD);
                assert_eq!(how(&socket, &node, world.service(1)), Ok(first), "{world:?}: shared by the Service port");
            }
        }
    }
}

/// 20 pods behind the Service, 4,000 clients: chi-square with 19 degrees of freedom is above 43.8 in one of a thousand runs,
/// and the seed makes this one the same for ever.
#[test]
fn pods_are_spread_evenly_although_each_is_kept() {
    for world in WORLDS {
        let node = node(world, &many());
        let mut clients_of = std::collections::BTreeMap::new();
        for pod in 0..4_000 {
            let chosen = tcp(world, pod).connect(&node, world.service(1)).unwrap();
            *clients_of.entry(chosen).or_insert(0_u32) += 1;
        }
        assert_eq!(clients_of.len(), many().len());
        let chi_square: f64 = clients_of.values().map(|n| (f64::from(*n) - 200.0).powi(2) / 200.0).sum();
        assert!(chi_square < 43.8, "{world:?}: {chi_square} from {clients_of:?}");
        assert!(chi_square > 1.0, "{world:?}: {chi_square}: taking turns is not what is asked for");
    }
}

#[test]
fn each_use_starts_the_timeout_again_and_silence_ends_it() {
    for world in WORLDS {
        let node = node(world, &many());
        let mut last = tcp(world, POD).connect(&node, world.service(1)).unwrap();
        for _ in 0..20 {
            node.environment.advance(TIMEOUT_S);
            assert_eq!(tcp(world, POD).connect(&node, world.service(1)), Ok(last));
        }
        let mut moves = 0;
        for _ in 0..20 {
            node.environment.advance(TIMEOUT_S + 1);
            let next = tcp(world, POD).connect(&node, world.service(1)).unwrap();
            moves += u32::from(next != last);
            last = next;
            assert_eq!(tcp(world, POD).connect(&node, world.service(1)), Ok(last), "and is remembered anew");
        }
        assert!(moves > 10, "{moves} of 20");
    }
}

#[test]
fn a_clock_that_another_processor_read_a_moment_later_ends_nothing() {
    let node = node(World::V4, &many());
    let first = tcp(World::V4, POD).connect(&node, World::V4.service(1)).unwrap();
    node.affinities.borrow_mut().values_mut().for_each(|affinity| affinity.last_used_s += 1);
    assert_eq!(tcp(World::V4, POD).connect(&node, World::V4.service(1)), Ok(first));
}

#[test]
fn a_backend_that_left_the_set_is_replaced_for_good() {
    for world in WORLDS {
        for state in [None, Some(backend_state::READY)] {
            let mut node = node(world, &[7]);
            assert_eq!(tcp(world, POD).connect(&node, world.service(1)), Ok(world.pod(7)));
            serve_affine(world, &mut node, &many()[7..]);
            world.set_state(&mut node, 7, state);
            let next = tcp(world, POD).connect(&node, world.service(1)).unwrap();
            assert_ne!(next, world.pod(7));
            for _ in 0..20 {
                assert_eq!(tcp(world, POD).connect(&node, world.service(1)), Ok(next));
            }
            assert_eq!(node.affinities.borrow().len(), 1);
        }
    }
}

#[test]
fn frontends_of_either_set_share_the_choice_as_far_as_their_sets_have_it() {
    let world = World::V4;
    let mut node = node(world, &[7]);
    assert_eq!(tcp(world, POD).connect(&node, world.service(1)), Ok(world.pod(7)));
    world.alter(&mut node, 1, |frontend| frontend.flags |= frontend_flags::LOCAL);
    serve(&mut node.v4, world.service(2), [world.pod(8)].into_iter(), &[8], Proto::Tcp);
    let local = node.v4.backends.get_mut(&8).unwrap();
    (local.service, local.sets) = (1, endpoint_sets::LOCAL);
    for frontend in node.v4.frontends.values_mut() {
        frontend.first_slot = 200;
    }
    world.alter(&mut node, 1, |_| {});
    assert_eq!(tcp(world, POD).connect(&node, world.service(1)), Ok(world.pod(8)), "7 is not in the Local set");
    node.v4.backends.get_mut(&8).unwrap().sets = endpoint_sets::CLUSTER;
    node.v4.backends.get_mut(&7).unwrap().sets = endpoint_sets::LOCAL;
    world.alter(&mut node, 1, |frontend| frontend.flags = frontend_flags::NONE);
    assert_eq!(tcp(world, POD).connect(&node, world.service(1)), Ok(world.pod(8)));
}

/// Services 1 and 2 are two frontends of Service 1, the second one for endpoints on the node only.
fn with_two_sets(cluster: &[u8], local: &[u8]) -> SimNode {
    let world = World::V4;
    let mut node = node(world, cluster);
    world.serve(&mut node, 2, local);
    for pod in local {
        let backend = node.v4.backends.get_mut(&u32::from(*pod)).unwrap();
        backend.service = 1;
        backend.sets = endpoint_sets::LOCAL | if cluster.contains(pod) { endpoint_sets::CLUSTER } else { 0 };
    }
    world.alter(&mut node, 2, |frontend| {
        *frontend = Frontend { service: 1, flags: frontend_flags::LOCAL, affinity_s: TIMEOUT_S, ..*frontend };
    });
    node
}

#[test]
fn a_client_of_two_sets_that_have_no_backend_in_common_keeps_one_of_each() {
    let world = World::V4;
    let node = with_two_sets(&many()[..10], &many()[10..]);
    let both = || [1, 2].map(|last| tcp(world, POD).connect(&node, world.service(last)).unwrap());
    let first = both();
    for _ in 0..20 {
        assert_eq!(both(), first);
    }
}

#[test]
fn a_client_of_two_sets_has_one_backend_for_both_and_keeps_it_in_one_when_it_leaves_the_other() {
    let world = World::V4;
    let connect = |node: &SimNode, last| tcp(world, POD).connect(node, world.service(last)).unwrap();
    let sets = [(1, endpoint_sets::CLUSTER), (2, endpoint_sets::LOCAL)];
    for [(first, _), (second, stays)] in [sets, [sets[1], sets[0]]] {
        let mut node = with_two_sets(&many(), &many());
        let chosen = connect(&node, first);
        assert_eq!(connect(&node, second), chosen);
        let leaves = node.v4.backends.values_mut().find(|backend| V4::to_ip(backend.addr) == chosen.ip()).unwrap();
        leaves.sets = stays;
        connect(&node, first);
        assert_eq!(connect(&node, second), chosen);
    }
}

#[test]
fn an_id_that_now_is_another_services_is_not_followed() {
    for world in WORLDS {
        let mut node = node(world, &[7]);
        tcp(world, POD).connect(&node, world.service(1)).unwrap();
        serve_affine(world, &mut node, &[8]);
        world.serve(&mut node, 2, &[7]);
        assert_eq!(tcp(world, POD).connect(&node, world.service(1)), Ok(world.pod(8)));
    }
}

#[test]
fn a_service_without_endpoints_refuses_those_who_had_one_too() {
    for world in WORLDS {
        let mut node = node(world, &[7]);
        tcp(world, POD).connect(&node, world.service(1)).unwrap();
        serve_affine(world, &mut node, &[]);
        assert_eq!(tcp(world, POD).connect(&node, world.service(1)), Err(Refused));
    }
}

#[test]
fn when_the_map_is_full_new_clients_go_without_and_old_ones_keep_theirs() {
    let world = World::V4;
    let mut node = node(world, &many());
    node.n_affinities = 1;
    let first = tcp(world, POD).connect(&node, world.service(1)).unwrap();
    let others: std::collections::BTreeSet<_> =
        (0..50).map(|_| tcp(world, 78).connect(&node, world.service(1)).unwrap()).collect();
    assert!(others.len() > 5, "spread over {}", others.len());
    assert_eq!(node.environment.counted(Counter::AffinityFull), 50);
    assert_eq!(tcp(world, POD).connect(&node, world.service(1)), Ok(first));
}

#[test]
fn services_without_affinity_leave_no_trace() {
    let node = {
        let mut node = SimNode::default();
        World::V4.serve(&mut node, 1, &many());
        node
    };
    tcp(World::V4, POD).connect(&node, World::V4.service(1)).unwrap();
    assert!(node.affinities.borrow().is_empty());
}

#[test]
fn the_entry_says_who_and_when() {
    let node = node(World::V6, &[7]);
    tcp(World::V6, POD).connect(&node, World::V6.service(1)).unwrap();
    let all = node.affinities.borrow();
    let (key, value) = all.first_key_value().unwrap();
    assert_eq!((key.service, key.family, key.client_kind), (1, 6, client_kind::NETNS));
    assert_eq!(key.client[..8], POD.to_ne_bytes());
    assert_eq!((value.backend, value.last_used_s), (7, 1_000));
}
