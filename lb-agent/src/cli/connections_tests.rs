use std::collections::{BTreeMap, BTreeSet};

use lb_common::logic::flow::{timeout, timeout_s};

use super::*;
use crate::datapath::flow_table::{FlowTable, FlowTables, Tabled as _};

const V6_CLIENT: &str = "[101:101:101:101:101:101:101:101]:50000";
const V6_FRONTEND: &str = "[202:202:202:202:202:202:202:202]:80";
const V6_BACKEND: &str = "[303:303:303:303:303:303:303:303]:8080";

impl<F: Family> FlowTable<F> {
    /// A TCP connection of Service port `service` that began 100 s ago and was last heard of by its halves so long ago.
    fn add(&mut self, service: u32, client: u16, idle_s: [u32; 2], source: Option<u16>) {
        let addr = |last: u8| F::of([192, 0, 2, last], [last; 16]);
        let key = FlowKey {
            src_addr: addr(1),
            src_port: client,
            dst_addr: addr(2),
            dst_port: 80,
            proto: Proto::Tcp.number(),
            reserved: [0; 3],
        };
        let half = Flow {
            src_addr: source.map_or(key.src_addr, |_| addr(9)),
            src_port: source.unwrap_or(client),
            dst_addr: addr(3),
            dst_port: 8080,
            service,
            created_s: 900,
            last_seen_s: 1_000 - idle_s[0],
            seen: flow_seen::SYN | flow_seen::ACK | flow_seen::PACKET,
            flags: if source.is_some() { flow_flags::SNAT } else { 0 },
            ..Flow::default()
        };
        let at = half.partner(&key);
        let reply = Flow {
            src_addr: key.dst_addr,
            src_port: key.dst_port,
            dst_addr: key.src_addr,
            dst_port: key.src_port,
            last_seen_s: 1_000 - idle_s[1],
            seen: flow_seen::PACKET,
            flags: half.flags | flow_flags::REPLY,
            ..half
        };
        self.halves.extend([(at, reply.sealed(&at)), (key, half.sealed(&key))]);
    }
}

fn named(service: u32) -> Option<String> {
    (service != 2).then(|| format!("default/s{service}"))
}

#[test]
fn a_connection_is_one_row_with_both_halves_in_it_and_only_of_wanted_services() {
    let mut tables = FlowTables::default();
    V6::table(&tables).add(3, 50_000, [7, 65], None);
    V4::table(&tables).add(1, 40_000, [65, 5], Some(61_000));
    V4::table(&tables).add(2, 40_001, [0, 0], None);
    let rows = connections(&mut tables, named, 1_000).unwrap();
    let text = text(&rows);
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        lines,
        [
            vec!["SERVICE", "PROTO", "CLIENT", "FRONTEND", "BACKEND", "SOURCE", "STATE", "AGE", "IDLE"],
            vec!["default/s1", "TCP", "192.0.2.1:40000", "192.0.2.2:80", "192.0.2.3:8080", "192.0.2.9:61000"]
                .into_iter()
                .chain(["established", "1m40s", "5s"])
                .collect(),
            vec!["default/s3", "TCP", V6_CLIENT, V6_FRONTEND, V6_BACKEND, "-", "established", "1m40s", "7s"],
        ]
    );
    let document: serde_json::Value = serde_json::from_str(&crate::cli::json(&rows).unwrap()).unwrap();
    assert_eq!(document[0]["client"], "192.0.2.1:40000");
    assert_eq!((&document[0]["source"], &document[1]["source"]), (&"192.0.2.9:61000".into(), &serde_json::Value::Null));
    assert_eq!((&document[0]["age_s"], &document[0]["idle_s"]), (&100.into(), &5.into()));
}

#[test]
fn a_half_that_is_alone_is_shown_as_broken() {
    let mut tables = FlowTables::default();
    V4::table(&tables).add(1, 40_000, [65, 5], None);
    V4::table(&tables).halves.retain(|_, half| !half.is_reply());
    let rows = connections(&mut tables, named, 1_000).unwrap();
    assert_eq!((rows[0].state, rows[0].idle_s), ("broken", 65));
}

#[test]
fn each_state_has_one_timeout() {
    let timeouts = BTreeMap::from([
        ("answered", timeout::UDP_ANSWERED_S),
        ("unanswered", timeout::UDP_S),
        ("reset", timeout::TCP_RESET_S),
        ("closed", timeout::TCP_FINISHED_S),
        ("half-closed", timeout::TCP_HALF_CLOSED_S),
        ("syn-sent", timeout::TCP_SYN_SENT_S),
        ("syn-received", timeout::TCP_SYN_RECEIVED_S),
        ("established", timeout::TCP_ESTABLISHED_S),
    ]);
    let mut met = BTreeSet::new();
    for proto in [6, 17] {
        for (forward, reply) in (0..32).flat_map(|forward| (0..32).map(move |reply| (forward, reply))) {
            let state = state(proto, forward, reply);
            met.insert(state);
            assert_eq!(timeouts[state], timeout_s(proto, forward, reply), "{state}: {forward:#x} {reply:#x}");
        }
    }
    assert_eq!(met.len(), timeouts.len());
}
