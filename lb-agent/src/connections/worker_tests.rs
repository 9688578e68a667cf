use std::time::Instant;

use lb_common::abi::{Flow, FlowKey, Proto};

use super::*;
use crate::datapath::flow_table::{FlowTables, Tabled as _};

/// Adds a flow of Service port 1, of which only one half is needed here.
fn add(tables: &FlowTables, client: u16, backend: u32) {
    let key = FlowKey { src_port: client, dst_port: 80, proto: Proto::Udp.number(), ..FlowKey::default() };
    let half = Flow {
        src_port: client,
        dst_port: 8080,
        service: 1,
        backend,
        last_seen_s: clock::monotonic_s(),
        ..Flow::default()
    };
    V4::table(tables).halves.insert(key, half.sealed(&key));
}

/// Waits until flows to these backends are left, in the order of their clients.
fn until(tables: &FlowTables, backends: &[u32]) {
    let left = || V4::table(tables).halves.values().map(|half| half.backend).collect::<Vec<_>>();
    let deadline = Instant::now() + Duration::from_secs(20);
    while left() != backends {
        assert!(Instant::now() < deadline, "{:?} are left", left());
        thread::sleep(Duration::from_millis(5));
    }
}

fn gone(backend: u32) -> Vec<GoneBackend> {
    vec![GoneBackend { addr: ([0, 0, 0, 0], 8080).into(), proto: Proto::Udp, service: 1, backend }]
}

#[test]
fn flows_of_a_gone_backend_end_at_once_and_those_that_were_being_made_a_little_later() {
    let tables = FlowTables::default();
    add(&tables, 1, 1);
    add(&tables, 2, 2);
    let (told, progress) = channel();
    let aging =
        FlowAging::start(tables.clone(), TcpPolicy::Never, move |progress| told.send(progress).unwrap()).unwrap();
    aging.gone(gone(1));
    until(&tables, &[2]);
    assert!(matches!(progress.recv().unwrap(), Progress::Ended([Ended { gone: 1, .. }, _])));
    add(&tables, 3, 1);
    until(&tables, &[2]);
}

#[test]
fn who_could_not_be_looked_for_is_looked_for_until_that_is_possible() {
    let tables = FlowTables::default();
    add(&tables, 1, 1);
    V4::table(&tables).unreadable = 2;
    let (told, progress) = channel();
    let aging = FlowAging::start(tables, TcpPolicy::Never, move |progress| told.send(progress).unwrap()).unwrap();
    aging.gone(gone(1));
    assert!(matches!(progress.recv().unwrap(), Progress::Failed(_)), "said once");
    assert!(matches!(progress.recv().unwrap(), Progress::Ended([Ended { gone: 1, .. }, _])));
}

#[test]
fn a_sweep_ends_the_flows_of_backends_that_are_not_in_the_maps() {
    let tables = FlowTables::default();
    add(&tables, 1, 1);
    add(&tables, 2, 2);
    let aging = FlowAging::start(tables.clone(), TcpPolicy::Never, drop).unwrap();
    aging.sweep();
    until(&tables, &[]);
}
