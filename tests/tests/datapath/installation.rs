//! What an installation is made of, and how a next agent takes it over.

use std::process::Command;

use aya::programs::links::PinnedLink;
use lb_agent::datapath::{
    bpf::{BIND_PROGRAMS, N_MAPS, Note, PROGRAMS, Reader, cleanup},
    store::{FamilyStore, MapStore, StoreError},
};
use lb_common::abi::{Backend, Frontend, FrontendKey, NameKey, Slot, V4, V6, name_kind, scope};
use lb_tests::bpftool;
use serde_json::Value;

use super::*;

fn key4(last: u8) -> FrontendKey<V4> {
    FrontendKey { addr: [10, 96, 0, last], port: 80, proto: 6, scope: scope::INTERNAL }
}

fn key6(last: u8) -> FrontendKey<V6> {
    let mut addr = [0xfd; 16];
    addr[15] = last;
    FrontendKey { addr, port: 80, proto: 6, scope: scope::INTERNAL }
}

fn frontend(first_slot: u32, n_slots: u32) -> Frontend {
    Frontend { service: 1, first_slot, n_slots, ..Frontend::default() }
}

fn slot(last: u8) -> Slot<V4> {
    Slot { addr: [10, 244, 0, last], backend: u32::from(last), port: 8080, reserved: 0 }
}

#[test]
fn programs_and_maps_stay_when_their_agent_is_gone_and_the_next_one_takes_them_over() {
    let place = Place::new("adopt");
    let (mut first, notes) = place.start();
    assert!(notes.is_empty(), "{notes:?}");
    let before = first.attached().unwrap();
    assert_eq!(before.len(), PROGRAMS.len());
    assert!(before.iter().all(|program| program.cgroup.as_deref() == Some(place.cgroup.path())), "{before:?}");
    first.store_mut().put_frontend(&key4(1), &frontend(0, 1)).unwrap();
    first.store_mut().put_frontend(&key6(1), &frontend(0, 0)).unwrap();
    place.end(first);

    let reader = Reader::open(place.bpffs.path()).unwrap();
    assert!(!reader.agent_alive().unwrap());
    assert_eq!(reader.attached().unwrap(), before);
    let (second, notes) = place.start();
    assert!(reader.agent_alive().unwrap());
    assert!(notes.contains(&Note::Adopted { frontends: 2 }), "{notes:?}");
    let after = second.attached().unwrap();
    for (old, new) in before.iter().zip(&after) {
        assert_eq!(old.link_id, new.link_id, "the link stays, so there is no moment without a program");
        assert_ne!(old.program_id, new.program_id, "with the new agent's program in it");
    }
}

#[test]
fn what_is_written_is_read_back_in_both_families() {
    let place = Place::new("store");
    let (mut datapath, _) = place.open();
    let store = datapath.store_mut();
    let backend = Backend::<V4> { addr: [10, 244, 0, 1], port: 8080, proto: 6, state: 1, service: 1, node: 0, sets: 1 };
    store.put_backend(1, &backend).unwrap();
    FamilyStore::<V4>::write_slots(store, 250, &[slot(1), slot(2), slot(3)]).unwrap();
    store.put_frontend(&key4(1), &frontend(250, 3)).unwrap();
    store.put_name(NameKey { kind: name_kind::SERVICE, id: 1 }, "default/web:http").unwrap();
    store.wait_for_readers().unwrap();

    let reader = Reader::open(place.bpffs.path()).unwrap();
    let v4: &dyn FamilyStore<V4> = reader.store();
    assert_eq!(v4.frontends().unwrap(), [(key4(1), frontend(250, 3))]);
    assert_eq!(v4.backends().unwrap(), [(1, backend)]);
    assert_eq!(v4.slots(250, 3).unwrap(), [slot(1), slot(2), slot(3)]);
    assert!(v4.slots(250, 7).is_err(), "past the end");
    assert_eq!(reader.store().names().unwrap(), [(NameKey { kind: 1, id: 1 }, "default/web:http".to_owned())]);

    let store = datapath.store_mut();
    for _ in 0..2 {
        store.delete_frontend(&key4(1)).unwrap();
        FamilyStore::<V4>::delete_backend(store, 1).unwrap();
        store.delete_name(NameKey { kind: name_kind::SERVICE, id: 1 }).unwrap();
    }
    assert!(v4.frontends().unwrap().is_empty() && v4.backends().unwrap().is_empty());
}

#[test]
fn a_full_map_is_an_error_with_its_name_and_flag() {
    let place = Place::new("full");
    let (mut datapath, _) = place.open();
    for last in 0..64 {
        datapath.store_mut().put_frontend(&key4(last), &frontend(0, 0)).unwrap();
    }
    let error = datapath.store_mut().put_frontend(&key4(64), &frontend(0, 0)).unwrap_err();
    let StoreError::Full { map, capacity, flag } = error else { panic!("{error}") };
    assert_eq!((map, capacity, flag), ("lb_frontends4", 64, "--max-frontends"));
    datapath.store_mut().put_frontend(&key4(3), &frontend(1, 1)).expect("what is there can still be changed");
}

#[test]
fn a_second_agent_is_refused_with_the_pid_of_the_first() {
    let place = Place::new("lock");
    let (_first, _) = place.open();
    let error = refusal(&place.options());
    let OpenError::Locked { pid, .. } = &error else { panic!("{error}") };
    assert_eq!(*pid, Some(std::process::id()));
    assert_eq!(error.exit_status(), 78);
}

#[test]
fn maps_are_copied_into_others_of_another_size() {
    let place = Place::new("resize");
    let (mut datapath, _) = place.start();
    FamilyStore::<V4>::write_slots(datapath.store_mut(), 5, &[slot(1), slot(2)]).unwrap();
    datapath.store_mut().put_frontend(&key4(1), &frontend(5, 2)).unwrap();
    place.end(datapath);

    let mut options = place.options();
    options.capacity = Capacity { frontends: 32, backends: 1024, slots: 2048, affinities: 40, conns: 64 };
    let (mut datapath, notes) = Datapath::open(&options).unwrap();
    assert!(notes.contains(&Note::Resized { map: "lb_slots4", from: 256, to: 2048 }), "{notes:?}");
    assert!(notes.contains(&Note::Resized { map: "lb_frontends6", from: 64, to: 32 }), "{notes:?}");
    datapath.attach().unwrap();
    datapath.self_test().expect("the programs use the new maps");
    let store: &dyn FamilyStore<V4> = datapath.store_mut();
    assert_eq!(store.capacity(), options.capacity);
    assert_eq!(store.frontends().unwrap(), [(key4(1), frontend(5, 2))]);
    assert_eq!(store.slots(5, 2).unwrap(), [slot(1), slot(2)]);
}

#[test]
fn counters_of_a_build_that_has_fewer_go_on() {
    let place = Place::new("counters");
    place.end(place.start().0);
    let pin = place.bpffs.path().join("lb/maps/lb_stats");
    fs::remove_file(&pin).unwrap();
    let words = |text: &'static str| text.split(' ').collect::<Vec<_>>();
    bpftool(&["map", "create"], &pin, &words("type percpu_array key 4 value 8 entries 3 name lb_stats"));
    bpftool(&["map", "update", "pinned"], &pin, &words("key 2 0 0 0 value 5 0 0 0 0 0 0 0"));
    let read = || Reader::open(place.bpffs.path()).unwrap().counters().unwrap();
    let before = read();
    assert!(before[2].1 >= 5 && before[3].1 == 0, "by the tools: {before:?}");
    let (datapath, notes) = place.open();
    assert!(notes.iter().any(|note| matches!(note, Note::Resized { map: "lb_stats", from: 3, .. })), "{notes:?}");
    assert_eq!(read(), before);
    drop(datapath);
}

#[test]
fn a_map_is_not_made_smaller_than_what_is_in_it() {
    let place = Place::new("shrink");
    let (mut datapath, _) = place.open();
    for last in 0..10 {
        datapath.store_mut().put_frontend(&key4(last), &frontend(100, 28)).unwrap();
    }
    place.end(datapath);
    let mut options = place.options();
    options.capacity.frontends = 9;
    let error = refusal(&options);
    let advice = "lb_frontends4 has 10 entries in use: --max-frontends is 9 and must be at least 10";
    assert!(error.to_string().contains(advice), "{error}");
    assert_eq!(error.exit_status(), 78);
    options.capacity = Capacity { backends: 63, slots: 126, ..place.options().capacity };
    let error = refusal(&options);
    // Slots up to the last that a frontend names, and the flag counts backends.
    let advice = "lb_slots4 has 128 entries in use: --max-backends is 63 and must be at least 64";
    assert!(error.to_string().contains(advice), "{error}");
    options.capacity = Capacity { backends: 64, slots: 128, ..options.capacity };
    Datapath::open(&options).map(drop).unwrap();
}

#[test]
fn programs_on_another_cgroup_or_a_dead_one_are_moved() {
    let mut place = Place::new("move");
    place.end(place.start().0);
    let old = std::mem::replace(&mut place.cgroup, Cgroup::new("move2").unwrap());
    let (datapath, notes) = place.start();
    let moved = |notes: &[Note]| notes.iter().filter(|note| matches!(note, Note::Moved { .. })).count();
    assert_eq!(moved(&notes), PROGRAMS.len(), "{notes:?}");
    drop(old);
    place.end(datapath);

    drop(std::mem::replace(&mut place.cgroup, Cgroup::new("move3").unwrap()));
    let (datapath, notes) = place.start();
    assert_eq!(moved(&notes), PROGRAMS.len(), "{notes:?}");
    assert!(notes.iter().any(|note| note.to_string().contains("gone")), "{notes:?}");
    let attached = datapath.attached().unwrap();
    assert!(attached.iter().all(|program| program.cgroup.as_deref() == Some(place.cgroup.path())), "{attached:?}");
}

/// How many programs of earlier agents run for a cgroup.
fn others(datapath: &Datapath, cgroup: &Path) -> usize {
    let ours = datapath.attached().unwrap().iter().filter(|program| program.cgroup.as_deref() == Some(cgroup)).count();
    attached(cgroup) - ours
}

#[test]
fn an_agent_that_has_attached_leaves_no_program_of_an_earlier_one_whatever_became_of_that() {
    let mut place = Place::new("others");
    place.end(place.start().0);
    let links = place.bpffs.path().join("lb/links");
    let open: Vec<_> = names(&links).iter().map(|name| PinnedLink::from_pin(links.join(name)).unwrap()).collect();
    // Moved to another cgroup while somebody has the links open.
    let first = std::mem::replace(&mut place.cgroup, Cgroup::new("others2").unwrap());
    let (datapath, _) = place.start();
    assert_eq!((others(&datapath, first.path()), others(&datapath, place.cgroup.path())), (0, 0));
    place.end(datapath);
    drop(open);
    // As a move that was cut short leaves it, before the new link has its name; and as a later build's, with one program more.
    let second = std::mem::replace(&mut place.cgroup, first);
    place.end(place.start().0);
    fs::rename(links.join("lb_connect4"), links.join("lb_connect4-new")).unwrap();
    fs::rename(links.join("lb_sendmsg6"), links.join("lb_later6")).unwrap();
    let (datapath, notes) = place.start();
    let detached = |program: &str| notes.contains(&Note::Detached { program: program.to_owned() });
    assert!(detached("lb_connect4-new") && detached("lb_later6"), "{notes:?}");
    assert_eq!((others(&datapath, place.cgroup.path()), others(&datapath, second.path())), (0, 0));
    assert_eq!(datapath.attached().unwrap().len(), PROGRAMS.len());
}

#[test]
fn without_bind_protection_its_programs_are_taken_away() {
    let place = Place::new("unprotected");
    place.end(place.start().0);
    let mut options = place.options();
    options.bind_protection = false;
    let (mut datapath, _) = Datapath::open(&options).unwrap();
    let notes = datapath.attach().unwrap();
    let detached = |program: &str| notes.contains(&Note::Detached { program: program.to_owned() });
    assert!(BIND_PROGRAMS.iter().all(|program| detached(program)), "{notes:?}");
    let left: Vec<_> = datapath.attached().unwrap().iter().map(|found| found.program).collect();
    assert_eq!(left, PROGRAMS[..PROGRAMS.len() - BIND_PROGRAMS.len()]);
    assert_eq!(attached(place.cgroup.path()), left.len());
    place.end(datapath);
    let (datapath, _) = place.start();
    assert_eq!(datapath.attached().unwrap().len(), PROGRAMS.len(), "and come back");
}

#[test]
fn maps_of_another_version_are_refused_and_nothing_is_touched() {
    let place = Place::new("version");
    place.end(place.start().0);
    let maps = place.bpffs.path().join("lb/maps");
    let before = names(&maps);
    set_version(&maps, 99);
    let error = refusal(&place.options());
    assert!(error.to_string().contains("layout version 99"), "{error}");
    assert_eq!(error.exit_status(), 78);
    assert!(Reader::open(place.bpffs.path()).is_err_and(|error| error.to_string().contains("version 99")));
    fs::remove_file(maps.join("lb_abi")).unwrap();
    assert!(refusal(&place.options()).to_string().contains("no map lb_abi"));
    assert_eq!(names(&maps).len(), before.len() - 1);
}

fn set_version(maps: &Path, version: u32) {
    let map = aya::maps::MapData::from_pin(maps.join("lb_abi")).unwrap();
    let mut map: aya::maps::Array<_, u32> = aya::maps::Map::Array(map).try_into().unwrap();
    map.set(0, version, 0).unwrap();
}

#[test]
fn cleanup_leaves_nothing_and_may_be_repeated() {
    let place = Place::new("cleanup");
    let (datapath, _) = place.start();
    let error = cleanup(place.bpffs.path(), false).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    place.end(datapath);
    let removed = cleanup(place.bpffs.path(), false).unwrap();
    assert_eq!(removed.len(), PROGRAMS.len() + N_MAPS, "{removed:?}");
    assert!(!place.bpffs.path().join("lb").exists());
    assert!(cleanup(place.bpffs.path(), false).unwrap().is_empty());
    let Err(error) = Reader::open(place.bpffs.path()) else { panic!("there is nothing to read") };
    assert_eq!(error.exit_status(), 69, "{error}");
}

#[test]
fn cleanup_detaches_the_programs_also_where_somebody_has_their_links_open() {
    let place = Place::new("detach");
    place.end(place.start().0);
    let links = place.bpffs.path().join("lb/links");
    let open: Vec<_> = names(&links).iter().map(|name| PinnedLink::from_pin(links.join(name)).unwrap()).collect();
    assert_eq!(attached(place.cgroup.path()), PROGRAMS.len());
    cleanup(place.bpffs.path(), false).unwrap();
    assert_eq!(attached(place.cgroup.path()), 0);
    drop(open);
}

/// How many programs the kernel runs for a cgroup, as bpftool sees it.
fn attached(cgroup: &Path) -> usize {
    let output = std::process::Command::new("bpftool").args(["-j", "cgroup", "show"]).arg(cgroup).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).matches("\"attach_type\"").count()
}

#[test]
fn a_self_test_that_finds_no_room_for_its_frontends_takes_them_back() {
    let place = Place::new("selftestfull");
    let (mut datapath, _) = place.start();
    for last in 0..63 {
        datapath.store_mut().put_frontend(&key4(last), &frontend(0, 0)).unwrap();
    }
    for _ in 0..2 {
        let error = datapath.self_test().unwrap_err();
        assert!(matches!(error, OpenError::Store(StoreError::Full { .. })), "{error}");
        assert_eq!(raw_frontends(&place), 63);
    }
    datapath.store_mut().delete_frontend(&key4(0)).unwrap();
    datapath.self_test().expect("there is room now");
    datapath.self_test().expect("again");
    assert_eq!(raw_frontends(&place), 62);
}

/// Entries of the IPv4 frontend map, with the self-test's, which the store does not show.
fn raw_frontends(place: &Place) -> usize {
    let map = aya::maps::MapData::from_pin(place.bpffs.path().join("lb/maps/lb_frontends4")).unwrap();
    let map: aya::maps::HashMap<_, FrontendKey<V4>, Frontend> = aya::maps::Map::HashMap(map).try_into().unwrap();
    map.keys().map(Result::unwrap).count()
}

#[test]
fn the_self_test_works_through_a_second_mount_and_after_an_agent_that_died_in_it() {
    let place = Place::new("bind");
    // As in a pod: the node's hierarchy is mounted beside the one that the agent's own paths belong to.
    let root = BindMount::new(place.cgroup.path()).unwrap();
    let options = Options { cgroup_root: Some(root.path().to_owned()), ..place.options() };
    let (mut datapath, _) = Datapath::open(&options).unwrap();
    datapath.attach().unwrap();
    let left = place.cgroup.path().join(format!("lb-self-test-{}", std::process::id()));
    fs::create_dir(&left).unwrap();
    for _ in 0..2 {
        datapath.self_test().unwrap();
        assert!(!left.exists());
    }
}

#[test]
fn the_self_test_sees_that_a_hook_is_missing_and_leaves_no_entry() {
    let place = Place::new("selftest");
    let (mut datapath, _) = place.start();
    let reader = Reader::open(place.bpffs.path()).unwrap();
    fs::remove_file(place.bpffs.path().join("lb/links/lb_sendmsg4")).unwrap();
    let error = datapath.self_test().unwrap_err();
    assert!(error.to_string().contains("a datagram to the test address 192.0.2.179"), "{error}");
    assert!(FamilyStore::<V4>::frontends(reader.store()).unwrap().is_empty());
    let left = names(place.cgroup.path()).into_iter().find(|name| name.contains("self-test"));
    assert_eq!(left, None);
    datapath.attach().unwrap();
    datapath.self_test().expect("attached again");
}

#[test]
fn bpftool_shows_every_field_by_its_name() {
    let place = Place::new("bpftool");
    let (mut datapath, _) = place.open();
    datapath.store_mut().put_frontend(&key4(7), &frontend(3, 4)).unwrap();
    let map = place.bpffs.path().join("lb/maps/lb_frontends4");
    let output = std::process::Command::new("bpftool").args(["map", "dump", "pinned"]).arg(&map).output().unwrap();
    let dump = String::from_utf8_lossy(&output.stdout);
    for field in ["addr", "port", "proto", "scope", "service", "first_slot", "n_slots", "affinity_s"] {
        assert!(dump.contains(&format!("\"{field}\"")), "{field} in {dump}{output:?}");
    }
    assert!(dump.contains("\"port\": 80"), "{dump}");
}

/// Runs bpftool on a pinned map, which is named last, and reads its JSON.
fn bpftool(arguments: &[&str], map: &Path, rest: &[&str]) -> Value {
    let output = Command::new("bpftool").args(arguments).arg(map).args(rest).output().unwrap();
    assert!(output.status.success(), "{arguments:?} {}: {output:?}", map.display());
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

/// Whether a number of this size may stand alone: more are fields, and have names.
fn is_named(part: &Value, size: u64) -> bool {
    part.is_object() || (part.is_number() && size <= 8)
}

#[test]
fn bpftool_shows_the_fields_of_every_map_by_their_names() {
    let place = Place::new("every-map");
    let (_datapath, _) = place.open();
    let maps = place.bpffs.path().join("lb/maps");
    let names = names(&maps);
    assert_eq!(names.len(), N_MAPS);
    for map in names.iter().map(|name| maps.join(name)) {
        let shown = bpftool(&["-j", "map", "show", "pinned"], &map, &[]);
        assert!(shown["btf_id"].is_number(), "nobody knows the fields: {shown}");
        let sizes = ["bytes_key", "bytes_value"].map(|field| shown[field].as_u64().unwrap());
        // Storage is the sockets', and is not listed.
        if shown["type"] == "sk_storage" {
            continue;
        }
        if shown["type"].as_str().is_some_and(|kind| !kind.ends_with("array")) {
            // An entry to show: all zeros.
            let [key, value] = sizes.map(|size| vec!["0"; usize::try_from(size).unwrap()]);
            bpftool(&["map", "update", "pinned"], &map, &[&["key"], &key[..], &["value"], &value[..]].concat());
        }
        let dump = bpftool(&["map", "dump", "pinned"], &map, &[]);
        let entry = &dump[0];
        assert!(is_named(&entry["key"], sizes[0]), "{}: {entry}", map.display());
        let value = entry.get("values").map_or(&entry["value"], |of_processors| &of_processors[0]["value"]);
        assert!(is_named(value, sizes[1]), "{}: {entry}", map.display());
    }
}

#[test]
fn bpftool_shows_the_fields_of_the_copies_too_which_are_found_by_the_programs_that_read_them() {
    let place = Place::new("copies-shown");
    let (_datapath, _) = place.start();
    for (program, map) in [("lb_connect4", "lb_copies4"), ("lb_connect6", "lb_copies6")] {
        let pin = place.bpffs.path().join("lb/links").join(program);
        let link = bpftool::shown(&[&"link", &"show", &"pinned", &pin]).unwrap();
        let shown = bpftool::shown(&[&"prog", &"show", &"id", &link["prog_id"].to_string()]).unwrap();
        let maps = shown["map_ids"].as_array().unwrap().iter().map(|id| {
            let id = id.to_string();
            (bpftool::shown(&[&"map", &"show", &"id", &id]).unwrap()["name"].clone(), id)
        });
        let (_, id) = maps.into_iter().find(|(name, _)| name == map).unwrap();
        let entry = bpftool::shown(&[&"map", &"lookup", &"id", &id, &"key", &"0", &"0", &"0", &"0"]).unwrap();
        let value = &entry["formatted"]["value"];
        assert!(value["key"]["port"].is_number() && value["value"]["n_slots"].is_number(), "{entry}");
    }
}

/// The factor of port and protocol in a frontend's checksum, as an instruction holds it.
const FACTOR: [u8; 4] = 0x59f1_11f1_u32.to_le_bytes();

#[test]
fn programs_that_read_frontends_otherwise_than_the_agent_writes_them_fail_the_self_test() {
    let place = Place::new("other-checksum");
    let mut object = object().to_vec();
    let at: Vec<usize> =
        object.windows(4).enumerate().filter(|(_, bytes)| *bytes == FACTOR).map(|(at, _)| at).collect();
    assert!(!at.is_empty(), "the factor is another one now");
    at.iter().for_each(|&at| object[at] ^= 2);
    let options = Options { object: Some(Vec::leak(object)), ..place.options() };
    let (mut datapath, _) = Datapath::open(&options).unwrap();
    datapath.attach().unwrap();
    let failure = datapath.self_test().unwrap_err().to_string();
    assert!(failure.contains("programs of another version"), "{failure}");
}
