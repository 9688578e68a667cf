//! Rows from simulated maps, and which of them a filter takes.

use lb_common::abi::Slot;

use super::*;
use crate::datapath::{sim::SimStore, store::Capacity};

/// Inserts a backend of Service port 1 on node 7.
fn put_backend<F: Family>(store: &mut impl FamilyStore<F>, id: u32, ip: &str, state: u8) -> Slot<F> {
    let addr = F::from_ip(ip.parse().unwrap()).unwrap();
    let backend = Backend::<F> { addr, port: 8080, proto: Proto::Tcp.number(), state, service: 1, node: 7, sets: 1 };
    store.put_backend(id, &backend).unwrap();
    Slot { addr, backend: id, port: 8080, reserved: 0 }
}

fn put_frontend<F: Family>(store: &mut impl FamilyStore<F>, ip: &str, service: u32, first_slot: u32, n_slots: u32) {
    let addr = F::from_ip(ip.parse().unwrap()).unwrap();
    let key = FrontendKey { addr, port: 80, proto: Proto::Tcp.number(), scope: scope::INTERNAL };
    let frontend = Frontend { service, first_slot, n_slots, ..Frontend::default() };
    store.put_frontend(&key, &frontend.sealed(&key)).unwrap();
}

/// Service port 1, named, in both families; Service port 2 without name and backends.
fn store() -> SimStore {
    let mut store = SimStore::new(1, Capacity { frontends: 8, backends: 8, slots: 16, ..Capacity::default() });
    store.put_name(NameKey { kind: name_kind::SERVICE, id: 1 }, "default/web:http").unwrap();
    store.put_name(NameKey { kind: name_kind::NODE, id: 7 }, "node-7").unwrap();
    let slot = put_backend::<V4>(&mut store, 3, "10.1.0.2", backend_state::READY);
    put_backend::<V4>(&mut store, 4, "10.1.0.1", backend_state::TERMINATING);
    FamilyStore::<V4>::write_slots(&mut store, 5, &[slot]).unwrap();
    put_frontend::<V4>(&mut store, "10.96.0.10", 1, 5, 1);
    put_frontend::<V4>(&mut store, "10.96.0.11", 2, 0, 0);
    let slot = put_backend::<V6>(&mut store, 3, "fd00::1", backend_state::READY);
    FamilyStore::<V6>::write_slots(&mut store, 0, &[slot]).unwrap();
    put_frontend::<V6>(&mut store, "fd96::a", 1, 0, 1);
    store
}

#[test]
fn a_frontend_s_row_has_the_backends_of_its_family_sorted_by_address() {
    let rows = frontends(&store(), &Filter::new(None, Some("web")).unwrap()).unwrap();
    let backend = |backend: &str, state: &str, takes_new| BackendRow {
        backend: backend.parse().unwrap(),
        state: state.to_owned(),
        takes_new,
        sets: vec!["Cluster"],
        node: Some("node-7".to_owned()),
    };
    let row = |ip: &str, backends| FrontendRow {
        service: "default/web:http".to_owned(),
        protocol: "TCP",
        frontend: Address { ip: ip.parse().unwrap(), port: Some(80) },
        scope: "internal",
        policy: Some("Cluster"),
        affinity_s: 0,
        restricted: false,
        notes: vec![],
        backends,
    };
    let v4 = vec![backend("10.1.0.1:8080", "terminating", false), backend("10.1.0.2:8080", "ready", true)];
    let v6 = vec![backend("[fd00::1]:8080", "ready", true)];
    assert_eq!(rows, [row("10.96.0.10", v4), row("fd96::a", v6)]);
}

#[test]
fn a_frontend_without_slots_or_name_is_shown_as_what_it_is() {
    let rows = frontends(&store(), &Filter::default()).unwrap();
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[0].service, "?/service-port-2");
    assert_eq!(rows[0].notes, ["refused: no usable endpoint"]);
    assert_eq!(rows[0].backends, []);
}

/// A NodePort on a loopback address with everything that a Service can ask for, the same port for nobody to bind, and
/// a ClusterIP's other ports.
#[test]
fn a_frontend_is_shown_with_whom_it_is_for_and_a_port_that_may_not_be_bound_not_at_all() {
    let mut store = store();
    let mut put = |addr: [u8; 4], port, proto, scope, frontend: Frontend| {
        let key = FrontendKey::<V4> { addr, port, proto, scope };
        store.put_frontend(&key, &frontend.sealed(&key)).unwrap();
    };
    let flags = frontend_flags::LOCAL | frontend_flags::SOURCES;
    let all = Frontend { service: 1, first_slot: 5, n_slots: 1, flags, affinity_s: 60, check: 0 };
    put([127, 0, 0, 1], 30_080, 6, scope::HOST, all);
    put([0; 4], 30_080, 6, scope::BIND, Frontend { service: 1, ..Frontend::default() });
    put([10, 96, 0, 10], 0, 0, scope::INTERNAL, Frontend { service: 1, ..Frontend::default() });
    let rows = frontends(&store, &Filter::new(None, Some("default/web")).unwrap()).unwrap();
    let shown: Vec<_> = rows.iter().map(|row| (row.frontend.to_string(), row.protocol, row.policy)).collect();
    assert_eq!(
        shown,
        [
            ("10.96.0.10:80".to_owned(), "TCP", Some("Cluster")),
            ("127.0.0.1:30080".to_owned(), "TCP", Some("Local")),
            ("[fd96::a]:80".to_owned(), "TCP", Some("Cluster")),
            ("10.96.0.10:*".to_owned(), "any", None),
        ]
    );
    let host = &rows[1];
    assert_eq!((host.scope, host.affinity_s, host.restricted), ("host", 60, true));
    assert_eq!(host.notes, ["the node's own processes only", "affinity 60 s", "source ranges"]);
    assert_eq!(rows[3].notes, ["refused: no Service has these ports"]);
}

#[test]
fn an_address_that_clients_outside_see_otherwise_is_shown_twice() {
    let mut store = store();
    let mut put = |scope, frontend: Frontend| {
        let key = FrontendKey::<V4> { addr: [192, 0, 2, 1], port: 80, proto: 6, scope };
        store.put_frontend(&key, &frontend.sealed(&key)).unwrap();
    };
    let nobody = Frontend { service: 1, ..Frontend::default() };
    put(scope::EXTERNAL, Frontend { flags: frontend_flags::LOCAL | frontend_flags::DROP, ..nobody });
    put(scope::INTERNAL, Frontend { flags: frontend_flags::EXTERNAL_DIFFERS, ..nobody });
    let rows = frontends(&store, &Filter::new(None, Some("default/web")).unwrap()).unwrap();
    let of = |scope| rows.iter().find(|row| row.frontend.to_string() == "192.0.2.1:80" && row.scope == scope).unwrap();
    let (outside, inside) = (of("external"), of("internal"));
    assert_eq!((outside.policy, inside.policy), (Some("Local"), Some("Cluster")));
    assert_eq!(outside.notes, ["dropped: no endpoint on this node", "clients outside"]);
    assert_eq!(inside.notes, ["refused: no usable endpoint", "clients inside"]);
}

#[test]
fn a_filter_takes_the_service_with_and_without_namespace_and_port() {
    let wants = |namespace, service, row| Filter::new(namespace, service).unwrap().wants(row);
    assert!(wants(None, None, "default/web:http"));
    assert!(wants(Some("default"), None, "default/web"));
    assert!(!wants(Some("other"), None, "default/web"));
    assert!(wants(None, Some("web"), "default/web:http"));
    assert!(wants(None, Some("default/web"), "default/web:http"));
    assert!(wants(None, Some("default/web:http"), "default/web:http"));
    assert!(!wants(None, Some("default/web:dns"), "default/web:http"));
    assert!(!wants(None, Some("we"), "default/web"));
    assert!(wants(Some("default"), Some("default/web"), "default/web"));
}

#[test]
fn two_namespaces_contradict_each_other() {
    assert!(Filter::new(Some("a"), Some("b/web")).unwrap_err().contains("two namespaces"));
}
