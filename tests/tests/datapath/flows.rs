//! `lb_conns4/6` in the kernel: read in batches, ended whole, counted.

use std::collections::BTreeSet;

use aya::maps::{HashMap, Map, MapData};
use lb_agent::{
    connections::{Ended, Ending, Walk},
    datapath::{
        bpf::{KernelFlows, Reader},
        flows::{FlowStore, map_name},
        store::Capacity,
    },
    terminate::TcpPolicy,
};
use lb_common::abi::{Family, Flow, FlowKey, Proto, V4, V6, flow_flags, flow_seen};

use super::*;

/// More than are read at once, so that a walk has several steps.
const FLOWS: u32 = 15_000;
const NOW: u32 = 1_000_000;

fn options(place: &Place) -> Options {
    Options { capacity: Capacity { conns: 2 * FLOWS, ..place.options().capacity }, ..place.options() }
}

/// Writes both halves of UDP flows as the programs do: every third has been idle for too long.
fn fill<F: Family>(place: &Place) -> BTreeSet<FlowKey<F>> {
    let map = MapData::from_pin(place.bpffs.path().join("lb/maps").join(map_name::<F>())).unwrap();
    let mut map: HashMap<_, FlowKey<F>, Flow<F>> = Map::HashMap(map).try_into().unwrap();
    let addr = |[a, b]: [u8; 2]| F::of([10, 0, a, b], [a, b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    let mut all = BTreeSet::new();
    for client in 0..u16::try_from(FLOWS).unwrap() {
        let src_addr = addr(client.to_be_bytes());
        let (src_port, proto, reserved) = (client + 1, Proto::Udp.number(), [0; 3]);
        let key = FlowKey { src_addr, dst_addr: addr([255, 1]), src_port, dst_port: 53, proto, reserved };
        let half = Flow {
            src_addr,
            src_port,
            dst_addr: addr([255, 2]),
            dst_port: 5353,
            service: 1,
            backend: 1 + u32::from(client % 2),
            created_s: NOW - 1_000,
            last_seen_s: if client % 3 == 0 { NOW - 121 } else { NOW },
            seen: flow_seen::PACKET,
            ..Flow::default()
        };
        let at = half.partner(&key);
        let (src_addr, src_port) = (key.dst_addr, key.dst_port);
        let (dst_addr, dst_port, flags) = (key.src_addr, key.src_port, flow_flags::REPLY);
        let reply = Flow { src_addr, src_port, dst_addr, dst_port, flags, ..half };
        map.insert(key, half.sealed(&key), 0).unwrap();
        map.insert(at, reply.sealed(&at), 0).unwrap();
        all.extend([key, at]);
    }
    all
}

fn walk<F: Family>(flows: &mut impl FlowStore<F>, ending: Ending) -> (Ended, u32) {
    let mut walk = Walk::<F>::new(ending, TcpPolicy::Never);
    for steps in 1.. {
        if let Some(ended) = walk.step(flows, NOW).unwrap() {
            return (ended, steps);
        }
    }
    unreachable!("a walk ends");
}

/// Every key that a walk through the map meets, as often as it does.
fn keys<F: Family>(flows: &mut impl FlowStore<F>) -> Vec<FlowKey<F>> {
    let (mut cursor, mut slice, mut all) = (None, Vec::new(), Vec::new());
    loop {
        cursor = flows.read_flows(cursor, &mut slice).unwrap();
        all.extend(slice.iter().map(|(key, half)| {
            assert!(half.is_of(key));
            *key
        }));
        if cursor.is_none() {
            return all;
        }
    }
}

fn check<F: Family>(place: &Place, flows: &mut impl FlowStore<F>) {
    assert_eq!((keys(flows), flows.flow_capacity()), (vec![], 2 * FLOWS));
    let written = fill::<F>(place);
    let met = keys(flows);
    assert_eq!((met.len(), BTreeSet::from_iter(met)), (written.len(), written), "each is met once");

    let (idle, rest) = (u64::from(FLOWS.div_ceil(3)), u64::from(FLOWS - FLOWS.div_ceil(3)));
    let (ended, steps) = walk(flows, Ending::Nobodys);
    assert_eq!(ended, Ended { kept: rest, expired: idle, ..Ended::default() });
    assert!(steps > 2, "{steps} steps");
    assert_eq!(keys(flows).len() as u64, 2 * rest, "both halves are gone");

    let (ended, _) = walk(flows, Ending::Of([(1, 2)].into()));
    assert_eq!(ended, Ended { kept: rest / 2, gone: rest / 2, ..Ended::default() });
    let left = keys(flows);
    assert!(left.iter().all(|key| flows.flow(key).unwrap().is_some_and(|half| half.backend == 1)));

    let (ended, _) = walk(flows, Ending::OfStrangers);
    assert_eq!(ended, Ended { gone: rest / 2, ..Ended::default() }, "no backend is in the maps");
    assert_eq!(keys(flows), []);
}

#[test]
fn flows_are_met_once_each_and_those_that_are_over_end_whole() {
    let place = Place::new("flows");
    let (datapath, _) = Datapath::open(&options(&place)).unwrap();
    let mut flows: KernelFlows = datapath.flows().unwrap();
    check::<V4>(&place, &mut flows);
    check::<V6>(&place, &mut flows);
}

#[test]
fn status_counts_the_entries_of_the_connections() {
    let place = Place::new("flow-use");
    let (_datapath, _) = Datapath::open(&options(&place)).unwrap();
    fill::<V6>(&place);
    let reader = Reader::open(place.bpffs.path()).unwrap();
    let used: Vec<_> = reader.map_use().unwrap().iter().map(|map| (map.map, map.used, map.capacity)).collect();
    assert!(
        used.contains(&("lb_conns4", 0, 2 * FLOWS)) && used.contains(&("lb_conns6", 2 * FLOWS, 2 * FLOWS)),
        "{used:?}"
    );
}
