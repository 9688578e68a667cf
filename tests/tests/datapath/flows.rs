//! `lb_conns4/6` in the kernel: read in batches, ended whole, counted.

use std::collections::BTreeSet;

use aya::maps::{HashMap, Map, MapData};
use lb_agent::{
    clock::monotonic_s,
    connections::{Ended, Ending, Walk},
    datapath::{
        bpf::{KernelFlows, Reader, Way},
        flows::{FlowStore, map_name},
        store::Capacity,
    },
    devices::store::DeviceStore as _,
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

/// A TCP flow, both halves, that began at that second.
fn flow(client: u16, created_s: u32) -> [(FlowKey<V4>, Flow<V4>); 2] {
    let (node, client_addr) = ([192, 0, 2, 1], [198, 51, 100, 7]);
    let (proto, reserved) = (Proto::Tcp.number(), [0; 3]);
    let key = FlowKey { src_addr: client_addr, dst_addr: node, src_port: client, dst_port: 30080, proto, reserved };
    let half = Flow {
        src_addr: client_addr,
        src_port: client,
        dst_addr: [10, 244, 0, 2],
        dst_port: 8080,
        created_s,
        last_seen_s: created_s,
        ..Flow::default()
    };
    let at = half.partner(&key);
    let (src_addr, src_port, dst_addr, dst_port) = (node, 30080, client_addr, client);
    let reply = Flow { src_addr, src_port, dst_addr, dst_port, flags: flow_flags::REPLY, ..half };
    [(key, half.sealed(&key)), (at, reply.sealed(&at))]
}

#[test]
fn connections_that_begin_between_the_copy_of_their_table_and_the_change_of_programs_are_taken_over() {
    let place = Place::new("former");
    let (first, _) = place.open();
    let former = MapData::from_pin(place.bpffs.path().join("lb/maps/lb_conns4")).unwrap();
    let mut former: HashMap<_, FlowKey<V4>, Flow<V4>> = Map::HashMap(former).try_into().unwrap();
    let mut begin = |client, created_s| {
        let halves = flow(client, created_s);
        halves.iter().for_each(|(key, half)| former.insert(key, half, 0).unwrap());
        halves
    };
    let now = monotonic_s();
    let copied = begin(1, now - 100);
    place.end(first);
    let (next, _) = Datapath::open(&options(&place)).unwrap();
    // The former programs go on with the former table.
    let (meanwhile, ended) = (begin(2, monotonic_s()), begin(3, now - 100));
    let mut flows = next.flows().unwrap();
    assert_eq!(flows.flow(&meanwhile[0].0).unwrap(), None, "they write another table");
    let mut devices = next.devices(Way::probe().unwrap()).unwrap();
    devices.take_over().unwrap();
    for (key, half) in copied.iter().chain(&meanwhile) {
        assert_eq!(flows.flow(key).unwrap().as_ref(), Some(half));
    }
    assert_eq!(
        ended.map(|(key, _)| flows.flow(&key).unwrap()),
        [None; 2],
        "older ones were copied, and may have ended"
    );
    flows.delete_flow(&meanwhile[0].0).unwrap();
    devices.take_over().unwrap();
    assert_eq!(flows.flow(&meanwhile[0].0).unwrap(), None, "once");
}

#[test]
fn an_agent_that_dies_between_the_copy_and_the_change_of_programs_leaves_the_former_table_to_the_next() {
    let place = Place::new("heir");
    let maps = place.bpffs.path().join("lb/maps");
    let open = || {
        HashMap::<_, FlowKey<V4>, Flow<V4>>::try_from(Map::HashMap(MapData::from_pin(maps.join("lb_conns4")).unwrap()))
    };
    let begin = |table: &mut HashMap<MapData, FlowKey<V4>, Flow<V4>>, client| {
        let halves = flow(client, monotonic_s());
        halves.iter().for_each(|(key, half)| table.insert(key, half, 0).unwrap());
        halves
    };
    let formers = || {
        let names = fs::read_dir(&maps).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains("former")).collect::<Vec<_>>()
    };
    let (first, _) = place.open();
    let mut oldest = open().unwrap();
    place.end(first);
    // Two die, of other sizes; each time the programs go on with the table that they know.
    let larger = |conns| Options { capacity: Capacity { conns, ..place.options().capacity }, ..place.options() };
    let (second, _) = Datapath::open(&larger(256)).unwrap();
    let mut middle = open().unwrap();
    let mut begun = begin(&mut oldest, 1).to_vec();
    place.end(second);
    let (third, _) = Datapath::open(&larger(512)).unwrap();
    begun.extend(begin(&mut oldest, 2));
    begun.extend(begin(&mut middle, 3));
    place.end(third);
    assert_eq!(formers().len(), 4, "two tables of either family: {:?}", formers());

    let (last, _) = Datapath::open(&larger(512)).unwrap();
    let mut devices = last.devices(Way::probe().unwrap()).unwrap();
    devices.take_over().unwrap();
    let flows = last.flows().unwrap();
    for (key, half) in &begun {
        assert_eq!(flows.flow(key).unwrap().as_ref(), Some(half));
    }
    assert_eq!(formers(), Vec::<String>::new(), "nothing is left of them");
}

#[test]
fn a_table_whose_copy_never_took_its_place_is_not_brought_over_into_itself() {
    let place = Place::new("itself");
    let (first, _) = place.open();
    let maps = place.bpffs.path().join("lb/maps");
    let pinned = MapData::from_pin(maps.join("lb_conns4")).unwrap();
    // What an agent leaves that dies before the copy is pinned.
    pinned.pin(maps.join(format!("lb_conns4-former-0-{}", pinned.info().unwrap().id()))).unwrap();
    let mut table: HashMap<_, FlowKey<V4>, Flow<V4>> = Map::HashMap(pinned).try_into().unwrap();
    let begun = flow(1, monotonic_s());
    begun.iter().for_each(|(key, half)| table.insert(key, half, 0).unwrap());
    place.end(first);

    let (next, _) = place.open();
    next.devices(Way::probe().unwrap()).unwrap().take_over().unwrap();
    let flows = next.flows().unwrap();
    for (key, half) in &begun {
        assert_eq!(flows.flow(key).unwrap().as_ref(), Some(half));
    }
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
