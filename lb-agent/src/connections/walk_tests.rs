use std::{cell::Cell, collections::BTreeMap};

use lb_common::abi::{V4, V6, backend_state, flow_flags, flow_seen};
use proptest::{collection::vec, prelude::*, sample::select};

use lb_common::logic::flow::timeout_s;

use super::*;
use crate::datapath::flow_table::FlowTable;

const NOW: u32 = 100_000;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A table in which others are at work meanwhile.
#[derive(Default)]
struct Table<F: Family> {
    flows: FlowTable<F>,
    lookups: Cell<u64>,
    /// A packet of this half comes when something was read, before the next lookup.
    busy: Option<FlowKey<F>>,
    /// A flow that a program makes when something is about to be removed.
    begun: Option<Made>,
    /// A half that a program removes just before the agent does.
    removed: Option<FlowKey<F>>,
}

impl<F: Family> FlowStore<F> for Table<F> {
    fn read_flows(&mut self, cursor: Cursor, into: &mut Vec<Half<F>>) -> Result<Cursor, StoreError> {
        let next = self.flows.read_flows(cursor, into)?;
        let busy = self.busy.filter(|_| !into.is_empty());
        if let Some(half) = busy.and_then(|key| self.flows.halves.get_mut(&key)) {
            half.last_seen_s = NOW;
        }
        Ok(next)
    }

    fn flow(&self, key: &FlowKey<F>) -> Result<Option<Flow<F>>, StoreError> {
        self.lookups.set(self.lookups.get() + 1);
        self.flows.flow(key)
    }

    fn delete_flow(&mut self, key: &FlowKey<F>) -> Result<bool, StoreError> {
        if let Some(flow) = self.begun.take() {
            self.add(&flow);
        }
        if let Some(removed) = self.removed.take() {
            self.flows.halves.remove(&removed);
        }
        self.flows.delete_flow(key)
    }

    fn backend(&self, id: u32) -> Result<Option<Backend<F>>, StoreError> {
        self.flows.backend(id)
    }

    fn flow_capacity(&self) -> u32 {
        self.flows.flow_capacity()
    }
}

/// A flow as it is made for a test: of which client, to which backend, how long ago its halves had a packet, and what they
/// have seen.
#[derive(Clone, Copy, Debug)]
struct Made {
    proto: u8,
    client: u16,
    backend: u32,
    idle_s: [u32; 2],
    seen: [u16; 2],
}

const ESTABLISHED: [u16; 2] = [flow_seen::PACKET | flow_seen::SYN | flow_seen::ACK, flow_seen::PACKET | flow_seen::ACK];
const ANSWERED: [u16; 2] = [flow_seen::PACKET; 2];

fn made(proto: u8, client: u16, idle_s: [u32; 2]) -> Made {
    Made { proto, client, backend: 7, idle_s, seen: if proto == TCP { ESTABLISHED } else { ANSWERED } }
}

impl<F: Family> Table<F> {
    fn with(flows: &[Made]) -> Self {
        let mut table = Self::default();
        for flow in flows {
            table.add(flow);
        }
        table
    }

    /// Its halves: the client's and the backend's.
    fn add(&mut self, flow: &Made) -> [FlowKey<F>; 2] {
        let addr = |last: u8| F::of([10, 0, 0, last], [last; 16]);
        let backend = u8::try_from(flow.backend).unwrap();
        let key = FlowKey {
            src_addr: addr(1),
            dst_addr: addr(2),
            src_port: flow.client,
            dst_port: 80,
            proto: flow.proto,
            reserved: [0; 3],
        };
        let half = Flow {
            src_addr: addr(1),
            dst_addr: addr(100 + backend),
            src_port: flow.client,
            dst_port: 8080,
            service: 1,
            backend: flow.backend,
            created_s: NOW - 90_000,
            last_seen_s: NOW.wrapping_sub(flow.idle_s[0]),
            seen: flow.seen[0],
            ..Flow::default()
        };
        let reply_key = half.partner(&key);
        let reply = Flow {
            src_addr: key.dst_addr,
            dst_addr: key.src_addr,
            src_port: key.dst_port,
            dst_port: key.src_port,
            last_seen_s: NOW.wrapping_sub(flow.idle_s[1]),
            seen: flow.seen[1],
            flags: flow_flags::REPLY,
            ..half
        };
        self.flows.halves.extend([(key, half.sealed(&key)), (reply_key, reply.sealed(&reply_key))]);
        [key, reply_key]
    }

    fn serving(mut self, id: u32, proto: u8, state: u8) -> Self {
        let last = 100 + u8::try_from(id).unwrap();
        let addr = F::of([10, 0, 0, last], [last; 16]);
        let backend = Backend { addr, port: 8080, proto, state, service: 1, ..Backend::default() };
        self.flows.backends.insert(id, backend);
        self
    }

    fn walk(&mut self, ending: &Ending, tcp: TcpPolicy) -> Ended {
        let mut walk = Walk::new(ending.clone(), tcp);
        loop {
            if let Some(ended) = walk.step(self, NOW).unwrap() {
                return ended;
            }
        }
    }

    fn age(&mut self) -> Ended {
        self.walk(&Ending::Nobodys, TcpPolicy::Never)
    }

    /// The client's ports of the flows that are there.
    fn clients(&self) -> Vec<u16> {
        self.flows.halves.iter().filter(|(_, half)| !half.is_reply()).map(|(key, _)| key.src_port).collect()
    }
}

#[test]
fn a_flow_ends_when_both_halves_have_been_idle_for_too_long_and_both_go() {
    let mut table = Table::<V4>::with(&[
        made(UDP, 1, [121, 121]),
        made(UDP, 2, [120, 500]),
        made(UDP, 3, [500, 120]),
        made(TCP, 4, [86_401, 90_000]),
        made(TCP, 5, [3_700, 3_700]),
        Made { seen: [flow_seen::SYN | flow_seen::PACKET, 0], ..made(TCP, 6, [121, 121]) },
        Made { seen: [flow_seen::RST | flow_seen::PACKET, ESTABLISHED[1]], ..made(TCP, 7, [11, 11]) },
        Made { seen: [flow_seen::PACKET, 0], ..made(UDP, 8, [31, 31]) },
    ]);
    assert_eq!(table.age(), Ended { kept: 3, expired: 5, gone: 0, stray: 0 });
    assert_eq!(table.clients(), [2, 3, 5]);
    assert_eq!(table.flows.halves.len(), 6);
    assert_eq!(table.age(), Ended { kept: 3, ..Ended::default() });
}

#[test]
fn a_busy_flow_costs_no_lookup() {
    let busy: Vec<Made> = (1..50).map(|client| made(TCP, client, [10, 10])).collect();
    let mut table = Table::<V6>::with(&busy);
    assert_eq!(table.age().kept, 49);
    assert_eq!(table.lookups.get(), 0);
}

#[test]
fn a_packet_that_comes_while_a_slice_is_looked_at_saves_its_flow() {
    let mut table = Table::<V4>::with(&[made(UDP, 1, [121, 121])]);
    for half in 0..2 {
        table.busy = Some(table.add(&made(UDP, 1, [121, 121]))[half]);
        assert_eq!(table.age().expired, 0);
        assert_eq!(table.flows.halves.len(), 2);
    }
}

#[test]
fn a_half_that_was_left_alone_goes_after_ten_seconds_and_one_that_waits_for_its_other_does_not() {
    for proto in [TCP, UDP] {
        let mut table = Table::<V4>::default();
        for (client, idle_s, gone) in [(1, 11, 0), (2, 11, 1), (3, 10, 0), (4, 10, 1)] {
            let halves = table.add(&made(proto, client, [idle_s, idle_s]));
            table.flows.halves.remove(&halves[gone]);
        }
        assert_eq!(table.age(), Ended { kept: 1, stray: 2, ..Ended::default() });
        assert_eq!((table.clients(), table.flows.halves.len()), (vec![4], 2));
    }
}

#[test]
fn a_flow_that_is_made_while_a_half_on_its_way_is_removed_goes_whole() {
    let mut table = Table::<V4>::default();
    let [forward, _] = table.add(&made(UDP, 1, [11, 11]));
    table.flows.halves.remove(&forward);
    table.begun = Some(made(UDP, 1, [0, 0]));
    assert_eq!(table.age().stray, 1);
    assert_eq!(table.flows.halves.len(), 0);
}

/// The program may have made it another flow's by then.
#[test]
fn who_removes_the_clients_half_has_the_backends() {
    let mut table = Table::<V4>::default();
    // Of this client the backend's half is met first.
    let [forward, reply] = table.add(&made(UDP, 13, [300, 300]));
    table.removed = Some(forward);
    assert_eq!(table.age(), Ended::default());
    assert!(table.flows.halves.contains_key(&reply));
}

#[test]
fn a_damaged_half_goes() {
    let mut table = Table::<V4>::default();
    let [forward, _] = table.add(&made(TCP, 1, [1, 1]));
    table.flows.halves.get_mut(&forward).unwrap().dst_port = 1;
    assert_eq!(table.age(), Ended { stray: 1, ..Ended::default() });
}

#[test]
fn flows_of_a_gone_backend_end_at_once_of_tcp_only_if_that_is_asked_for() {
    let gone = |proto, backend| {
        let proto = if proto == TCP { Proto::Tcp } else { Proto::Udp };
        GoneBackend { addr: ([10, 0, 0, 107], 8080).into(), proto, service: 1, backend }
    };
    let flows = [
        made(UDP, 1, [0, 0]),
        Made { backend: 8, ..made(UDP, 2, [0, 0]) },
        Made { backend: 9, ..made(TCP, 3, [0, 0]) },
    ];
    let backends = [gone(UDP, 7), gone(TCP, 9)];
    for (tcp, left) in [(TcpPolicy::Never, &[2, 3][..]), (TcpPolicy::Gone, &[2][..])] {
        let mut table = Table::<V4>::with(&flows);
        let ended = table.walk(&Ending::of(&backends, tcp).unwrap(), tcp);
        assert_eq!((table.clients(), table.flows.halves.len()), (left.to_vec(), 2 * left.len()));
        assert_eq!(ended.gone, 3 - left.len() as u64);
    }
    assert!(Ending::of(&[gone(TCP, 9)], TcpPolicy::Never).is_none());
    let other_service = [GoneBackend { service: 2, ..gone(UDP, 7) }];
    let mut table = Table::<V4>::with(&flows);
    assert_eq!(table.walk(&Ending::of(&other_service, TcpPolicy::Gone).unwrap(), TcpPolicy::Gone).gone, 0);
}

#[test]
fn what_went_while_no_agent_ran_is_known_by_the_maps() {
    let flows = |proto| {
        let flow = |client, backend| Made { backend, ..made(proto, client, [0, 0]) };
        [flow(1, 1), flow(2, 2), flow(3, 3), flow(4, 4), flow(5, 5)]
    };
    let table = |proto| {
        let table = Table::<V4>::with(&flows(proto)).serving(1, proto, backend_state::READY);
        let table = table.serving(2, proto, backend_state::TERMINATING).serving(3, proto, backend_state::NOT_READY);
        let mut table = table.serving(4, proto, backend_state::READY);
        // Another Service's now; and nothing is known of the fifth.
        table.flows.backends.get_mut(&4).unwrap().service = 2;
        table
    };
    let mut udp = table(UDP);
    assert_eq!(udp.walk(&Ending::OfStrangers, TcpPolicy::Never).gone, 3);
    assert_eq!(udp.clients(), [1, 2]);
    let mut tcp = table(TCP);
    assert_eq!(tcp.walk(&Ending::OfStrangers, TcpPolicy::Never).gone, 0);
    assert_eq!(tcp.walk(&Ending::OfStrangers, TcpPolicy::Gone).gone, 2);
    assert_eq!(tcp.clients(), [1, 2, 3], "a TCP connection stays with a backend that is not ready for a while");
}

fn any_flow() -> impl Strategy<Value = Made> {
    let idle = || select(vec![0_u32, 9, 11, 29, 31, 61, 119, 121, 3_599, 3_601, 86_399, 86_401]);
    let bits = [flow_seen::SYN, flow_seen::ACK, flow_seen::FIN, flow_seen::RST, flow_seen::PACKET];
    let seen = || {
        vec(any::<bool>(), bits.len())
            .prop_map(move |on| bits.iter().zip(on).filter(|(_, on)| *on).fold(0, |all, (bit, _)| all | bit))
    };
    (select(vec![TCP, UDP]), 1..200_u16, 1..4_u32, [idle(), idle()], [seen(), seen()])
        .prop_map(|(proto, client, backend, idle_s, seen)| Made { proto, client, backend, idle_s, seen })
}

proptest! {
    /// Against the rule as it is said: both halves stay or both go, and they go if the flow is over or its backend gone.
    #[test]
    fn what_is_over_goes_whole_and_the_rest_stays_whole(flows in vec(any_flow(), 0..40), gone in 0..4_u32) {
        let mut table = Table::<V6>::default();
        let mut made: BTreeMap<[FlowKey<V6>; 2], Made> = BTreeMap::new();
        for flow in flows {
            let halves = table.add(&flow);
            // Another backend of the same client leaves the first one's reply half alone.
            made.retain(|known, _| known[0] != halves[0]);
            made.insert(halves, flow);
        }
        table.flows.halves.retain(|key, _| made.keys().flatten().any(|known| known == key));
        let ending = Ending::Of([(1, gone)].into());
        let ended = table.walk(&ending, TcpPolicy::Gone);
        let mut left = 0;
        for (halves, flow) in &made {
            let idle_s = flow.idle_s[0].min(flow.idle_s[1]);
            let over = idle_s > timeout_s(flow.proto, flow.seen[0], flow.seen[1]) || flow.backend == gone;
            left += u64::from(!over);
            for half in halves {
                prop_assert_eq!(table.flows.halves.contains_key(half), !over, "{:?}", flow);
            }
        }
        prop_assert_eq!(ended.expired + ended.gone + left, made.len() as u64);
    }
}
