//! The slot arrays, which are mapped piece by piece.

use lb_agent::datapath::{
    bpf::Reader,
    store::{Capacity, FamilyStore},
};
use lb_common::abi::{Family, Slot, V4, V6};

use super::*;

/// Some hundred pages of each family.
const SLOTS: u32 = 100_000;

fn options(place: &Place, slots: u32) -> Options {
    Options { capacity: Capacity { slots, ..place.options().capacity }, ..place.options() }
}

/// Slots that say which they are.
fn numbered<F: Family>(first: u32, n: u32) -> Vec<Slot<F>> {
    (first..first + n).map(|index| Slot { backend: index + 1, port: 80, ..Slot::default() }).collect()
}

/// Small and large ranges, at the ends and everywhere between, so that some lie across any border.
fn ranges() -> impl Iterator<Item = (u32, u32)> {
    let across = (1..SLOTS / 1_000).map(|n| (n * 1_000 - 5, 11));
    [(0, 1), (SLOTS - 1, 1), (20_000, 60_000)].into_iter().chain(across)
}

fn check<F: Family>(store: &impl FamilyStore<F>) {
    for (first, n) in ranges() {
        assert_eq!(store.slots(first, n).unwrap(), numbered(first, n), "{n} slots from {first}");
    }
}

/// Lengths of the parts of maps that this process has in its memory. Beside these tests others run, whose arrays are of
/// other sizes; so are the ring buffers of the programs' log.
fn mapped() -> Vec<usize> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let lengths = maps.lines().filter(|line| line.contains("bpf-map")).map(|line| {
        let (start, end) = line.split(' ').next().and_then(|range| range.split_once('-')).unwrap();
        let number = |text| usize::from_str_radix(text, 16).unwrap();
        number(end) - number(start)
    });
    lengths.collect()
}

/// The length of an array in memory: whole pages.
fn length<F: Family>() -> usize {
    (SLOTS as usize * size_of::<Slot<F>>()).next_multiple_of(4096)
}

#[test]
fn ranges_anywhere_in_the_array_are_written_and_read_without_holding_the_array_in_memory() {
    let place = Place::new("windows");
    let (mut datapath, _) = Datapath::open(&options(&place, SLOTS)).unwrap();
    let store = datapath.store_mut();
    for (first, n) in ranges() {
        FamilyStore::<V4>::write_slots(store, first, &numbered(first, n)).unwrap();
        FamilyStore::<V6>::write_slots(store, first, &numbered(first, n)).unwrap();
    }
    check::<V4>(&store);
    check::<V6>(&store);
    assert!(FamilyStore::<V4>::write_slots(store, SLOTS - 1, &numbered(0, 2)).is_err(), "past the end");
    assert!(FamilyStore::<V4>::slots(store, SLOTS, 1).is_err(), "past the end");
    FamilyStore::<V4>::write_slots(store, 7, &numbered(7, 1)).unwrap();
    let mapped = mapped();
    assert!(!mapped.contains(&length::<V4>()) && !mapped.contains(&length::<V6>()), "{mapped:?}");
    let reader = Reader::open(place.bpffs.path()).unwrap();
    check::<V4>(reader.store());
    place.end(datapath);

    let (mut larger, _) = Datapath::open(&options(&place, 2 * SLOTS)).unwrap();
    check::<V4>(&larger.store_mut());
    check::<V6>(&larger.store_mut());
}
