//! The maps beside frontends, slots and backends: source ranges, clients, the ClusterIPs' prefix, affinity.

use lb_agent::datapath::{
    bpf::Reader,
    store::{ClientStore, FamilyStore, MapStore},
};
use lb_common::abi::{Affinity, AffinityKey, ClientAddr, ClusterIps, SourceKey, V4, V6, client_kind};

use super::*;

const SOURCE: SourceKey<V4> = SourceKey { service: 7, addr: [192, 0, 2, 0] };
const AFFINITY: AffinityKey = AffinityKey { service: 7, family: 4, client_kind: client_kind::NETNS, client: [3; 16] };

#[test]
fn ranges_clients_and_the_prefix_are_read_back() {
    let place = Place::new("addresses");
    let (mut datapath, _) = place.open();
    let prefix = ClusterIps::<V6> { prefix: [0xfd; 16], mask: [0xff; 16] };
    let store = datapath.store_mut();
    store.put_cluster_ips(&prefix).unwrap();
    store.put_source(&SOURCE, 32 + 24).unwrap();
    store.put_source(&SOURCE, 32 + 25).unwrap();
    store.put_source(&SourceKey::<V6> { service: 7, addr: [0xfd; 16] }, 32 + 128).unwrap();

    let reader = Reader::open(place.bpffs.path()).unwrap();
    let v4: &dyn FamilyStore<V4> = reader.store();
    let v6: &dyn FamilyStore<V6> = reader.store();
    assert_eq!((v4.cluster_ips().unwrap(), v6.cluster_ips().unwrap()), (ClusterIps::default(), prefix));
    let mut ranges = v4.sources().unwrap();
    ranges.sort();
    assert_eq!(ranges, [(SOURCE, 56), (SOURCE, 57)]);
    let store = datapath.store_mut();
    for _ in 0..2 {
        store.delete_source(&SOURCE, 56).unwrap();
    }
    assert_eq!(v4.sources().unwrap(), [(SOURCE, 57)]);

    let mut clients = datapath.clients().unwrap();
    clients.put_client(5, &ClientAddr::<V4> { addr: [10, 244, 0, 9] }).unwrap();
    assert_eq!(clients.clients().unwrap(), [(5, ClientAddr::<V4> { addr: [10, 244, 0, 9] })]);
    for _ in 0..2 {
        ClientStore::<V4>::delete_client(&mut clients, 5).unwrap();
    }
    assert!(ClientStore::<V4>::clients(&clients).unwrap().is_empty());
}

/// As a program writes it.
fn remember(place: &Place, key: AffinityKey, value: Affinity) {
    let map = aya::maps::MapData::from_pin(place.bpffs.path().join("lb/maps/lb_affinity")).unwrap();
    let mut map: aya::maps::HashMap<_, AffinityKey, Affinity> = aya::maps::Map::HashMap(map).try_into().unwrap();
    map.insert(key, value, 0).unwrap();
}

#[test]
fn ranges_and_affinities_outlive_their_agent_and_a_change_of_size() {
    let place = Place::new("affinity");
    let (mut datapath, _) = place.start();
    datapath.store_mut().put_source(&SOURCE, 56).unwrap();
    let value = Affinity { backend: 3, last_used_s: 40 };
    remember(&place, AFFINITY, value);
    place.end(datapath);

    let mut options = place.options();
    options.capacity.frontends = 128;
    options.capacity.affinities = 128;
    let (mut datapath, notes) = Datapath::open(&options).unwrap();
    assert!(notes.contains(&Note::Resized { map: "lb_affinity", from: 64, to: 128 }), "{notes:?}");
    assert!(notes.contains(&Note::Resized { map: "lb_sources4", from: 16, to: 32 }), "{notes:?}");
    let store = datapath.store_mut();
    assert_eq!(store.affinities().unwrap(), [(AFFINITY, value)]);
    assert_eq!(FamilyStore::<V4>::sources(store).unwrap(), [(SOURCE, 56)]);
    for _ in 0..2 {
        store.delete_affinity(&AFFINITY).unwrap();
    }
    assert!(store.affinities().unwrap().is_empty());
}

#[test]
fn bpftool_shows_affinities_and_ranges_by_the_names_of_their_fields() {
    let place = Place::new("fields");
    let (mut datapath, _) = place.open();
    datapath.store_mut().put_source(&SOURCE, 56).unwrap();
    remember(&place, AFFINITY, Affinity { backend: 3, last_used_s: 40 });
    let expected = [
        ("lb_affinity", vec!["service", "family", "client_kind", "client", "backend", "last_used_s"]),
        ("lb_sources4", vec!["prefix_len", "service", "addr"]),
        ("lb_clusterips4", vec!["prefix", "mask"]),
    ];
    for (map, fields) in expected {
        let path = place.bpffs.path().join("lb/maps").join(map);
        let output = std::process::Command::new("bpftool").args(["map", "dump", "pinned"]).arg(path).output().unwrap();
        let dump = String::from_utf8_lossy(&output.stdout);
        for field in fields {
            assert!(dump.contains(&format!("\"{field}\"")), "{field} in {dump}{output:?}");
        }
    }
}
