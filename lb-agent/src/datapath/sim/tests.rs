//! The checks of the simulated maps, checked: each mistake a plan could make is seen.

use lb_common::abi::{backend_state, name_kind};

use super::*;

type Key = FrontendKey<V4>;

const KEY: Key = FrontendKey { addr: [10, 96, 0, 10], port: 80, proto: 6, scope: 0 };

fn frontend(first_slot: u32, n_slots: u32) -> Frontend {
    Frontend { service: 1, first_slot, n_slots, ..Frontend::default() }
}

fn put(store: &mut SimStore, key: &Key, frontend: Frontend) -> Result<(), StoreError> {
    store.put_frontend(key, &frontend.sealed(key))
}

fn backend(service: u32, last: u8) -> Backend<V4> {
    Backend { addr: [10, 244, 0, last], port: 8080, proto: 6, state: backend_state::READY, service, node: 0, sets: 1 }
}

fn slot(id: u32, last: u8) -> Slot<V4> {
    Slot { addr: [10, 244, 0, last], backend: id, port: 8080, reserved: 0 }
}

/// One Service with the backends 1 and 2 in the slots 0 and 1, and backend 3 of another Service.
fn store() -> SimStore {
    let mut store = SimStore::new(1, Capacity { frontends: 2, backends: 3, slots: 4, ..Capacity::default() });
    store.put_name(NameKey { kind: name_kind::SERVICE, id: 1 }, "default/web").unwrap();
    store.put_backend(1, &backend(1, 1)).unwrap();
    store.put_backend(2, &backend(1, 2)).unwrap();
    store.put_backend(3, &backend(2, 3)).unwrap();
    store.write_slots(0, &[slot(1, 1), slot(2, 2)]).unwrap();
    put(&mut store, &KEY, frontend(0, 2)).unwrap();
    assert_eq!(store.violations(), &[] as &[String]);
    store
}

#[track_caller]
fn sees(store: &SimStore, mistake: &str) {
    assert!(store.violations().iter().any(|seen| seen.contains(mistake)), "{:?}", store.violations());
}

#[test]
fn a_slot_in_use_must_not_be_written() {
    let mut store = store();
    store.write_slots(1, &[slot(1, 1)]).unwrap();
    sees(&store, "while a frontend names");
}

#[test]
fn a_slot_that_was_in_use_must_not_be_written_before_readers_are_gone() {
    let mut store = store();
    store.write_slots(2, &[slot(1, 1)]).unwrap();
    put(&mut store, &KEY, frontend(2, 1)).unwrap();
    assert_eq!(store.violations(), &[] as &[String]);
    let mut hasty = store;
    hasty.write_slots(0, &[slot(1, 1)]).unwrap();
    sees(&hasty, "a program may still read");
}

#[test]
fn a_slot_that_was_in_use_may_be_written_when_readers_are_gone() {
    let mut store = store();
    store.delete_frontend(&KEY).unwrap();
    store.wait_for_readers().unwrap();
    store.write_slots(0, &[slot(1, 1)]).unwrap();
    assert_eq!(store.violations(), &[] as &[String]);
}

#[test]
fn a_frontend_must_lead_to_backends_of_its_own_that_exist() {
    for (slots, mistake) in [
        ([slot(9, 1)], "backend 9, which does not exist"),
        ([slot(3, 3)], "backend 3, which is another's"),
        ([slot(1, 2)], "backend 1, which is another's"),
        ([slot(0, 0)], "backend 0, which does not exist"),
    ] {
        let mut store = store();
        store.write_slots(2, &slots).unwrap();
        put(&mut store, &KEY, frontend(2, 1)).unwrap();
        sees(&store, mistake);
    }
    let mut store = store();
    put(&mut store, &KEY, frontend(3, 2)).unwrap();
    sees(&store, "outside the array");
}

#[test]
fn a_backend_must_stay_while_a_frontend_leads_to_it() {
    let mut removed = store();
    FamilyStore::<V4>::delete_backend(&mut removed, 2).unwrap();
    sees(&removed, "backend 2 was removed");
    let mut replaced = store();
    replaced.put_backend(2, &backend(1, 7)).unwrap();
    sees(&replaced, "backend 2 was removed or became another");
    let mut changed = store();
    changed.put_backend(2, &Backend { state: backend_state::TERMINATING, node: 4, ..backend(1, 2) }).unwrap();
    changed.delete_frontend(&KEY).unwrap();
    FamilyStore::<V4>::delete_backend(&mut changed, 2).unwrap();
    assert_eq!(changed.violations(), &[] as &[String]);
}

#[test]
fn a_frontend_without_its_checksum_is_seen() {
    let mut store = store();
    store.put_frontend(&KEY, &frontend(0, 2)).unwrap();
    sees(&store, "no valid checksum");
}

#[test]
fn a_name_must_be_there_before_its_frontend_and_stay_as_long() {
    let mut store = store();
    put(&mut store, &Key { port: 81, ..KEY }, Frontend { service: 2, ..frontend(0, 0) }).unwrap();
    sees(&store, "has no name");
    store.delete_name(NameKey { kind: name_kind::SERVICE, id: 1 }).unwrap();
    sees(&store, "removed while it is in use");
}

#[test]
fn full_maps_refuse_what_is_new_and_take_what_is_known() {
    let mut store = store();
    put(&mut store, &Key { port: 81, ..KEY }, frontend(0, 2)).unwrap();
    put(&mut store, &KEY, frontend(0, 2)).unwrap();
    let full = put(&mut store, &Key { port: 82, ..KEY }, frontend(0, 2)).unwrap_err();
    assert!(full.to_string().contains("lb_frontends4 is full (2 entries)"), "{full}");
    let full = store.put_backend(4, &backend(1, 4)).unwrap_err();
    assert!(full.to_string().contains("lb_backends4 is full (3 entries)"), "{full}");
    assert!(store.write_slots(3, &[slot(1, 1), slot(2, 2)]).is_err());
}
