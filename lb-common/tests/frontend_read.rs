//! A frontend is read whole or read again: what a program finds when the agent replaces the value under its hands.

use std::cell::RefCell;

use bytemuck::{bytes_of, bytes_of_mut};
use lb_common::{
    abi::{
        Backend, ClientAddr, ClusterIps, Counter, Endpoint, Family, Frontend, FrontendCopy, FrontendKey, Place, Proto,
        Slot, SourceKey, V4, V6, scope,
    },
    logic::{
        lookup::{Found, lookup, lookup_datagram},
        seam::{Caller, Environment, Maps},
    },
};
use proptest::prelude::*;

/// A map whose lookups return one prepared value after the other; the last stays.
struct Racing {
    /// Where frontends may be; anywhere, if that is not said.
    places: Option<Vec<Place>>,
    copy: Option<Frontend>,
    reads: RefCell<Vec<Frontend>>,
    counts: RefCell<Vec<Counter>>,
}

impl Racing {
    fn new(reads: impl IntoIterator<Item = Frontend>) -> Self {
        let mut reads: Vec<_> = reads.into_iter().collect();
        reads.reverse();
        Self { places: None, copy: None, reads: RefCell::new(reads), counts: RefCell::default() }
    }
}

impl<F: Family> Maps<F> for Racing {
    fn frontend(&self, _: &FrontendKey<F>) -> Option<Frontend> {
        let mut reads = self.reads.borrow_mut();
        if reads.len() > 1 { reads.pop() } else { reads.last().copied() }
    }

    fn frontend_copy(&self, _: &FrontendKey<F>) -> Option<Frontend> {
        self.copy
    }

    fn slot(&self, _: u32) -> Option<Slot<F>> {
        None
    }

    fn backend(&self, _: u32) -> Option<Backend<F>> {
        None
    }

    fn cluster_ips(&self) -> Option<ClusterIps<F>> {
        None
    }

    fn client(&self, _: u64) -> Option<ClientAddr<F>> {
        None
    }

    fn is_source(&self, _: &SourceKey<F>) -> bool {
        false
    }

    fn may_be_frontend(&self, place: Place) -> bool {
        self.places.as_ref().is_none_or(|places| places.contains(&place))
    }
}

impl Caller for Racing {
    fn netns(&self) -> u64 {
        2
    }

    fn is_on_host(&self) -> bool {
        false
    }
}

impl Environment for Racing {
    fn now_s(&self) -> u32 {
        0
    }

    fn random(&self) -> u32 {
        0
    }

    fn count(&self, counter: Counter) {
        self.counts.borrow_mut().push(counter);
    }
}

fn key<F: Family>(addr: F::Addr) -> FrontendKey<F> {
    FrontendKey { addr, port: 80, proto: Proto::Tcp.number(), scope: scope::INTERNAL }
}

fn frontend(service: u32, first_slot: u32, n_slots: u32) -> Frontend {
    Frontend { service, first_slot, n_slots, ..Frontend::default() }
}

fn found<F: Family>(map: &Racing, key: FrontendKey<F>) -> Found<F> {
    lookup(map, Endpoint { addr: key.addr, port: key.port }, Proto::Tcp)
}

fn rereads_after<F: Family>(ours: FrontendKey<F>, others: FrontendKey<F>) {
    let right = frontend(1, 10, 3).sealed(&ours);
    let foreign = frontend(2, 20, 5).sealed(&others);
    let halves = Frontend { first_slot: foreign.first_slot, ..right };
    for wrong in [foreign, halves] {
        let map = Racing::new([wrong, right]);
        assert_eq!(found(&map, ours), Found::Frontend(ours, right));
        assert_eq!(*map.counts.borrow(), [Counter::FrontendReread]);
    }
}

#[test]
fn the_value_of_another_frontend_or_half_of_one_is_read_again() {
    rereads_after::<V4>(key([10, 96, 0, 1]), key([10, 96, 0, 2]));
    rereads_after::<V6>(key([0xfd; 16]), key([0xfe; 16]));
}

#[test]
fn a_frontend_that_never_reads_right_is_refused_and_counted_as_damage() {
    let map = Racing::new([frontend(1, 10, 3)]);
    assert_eq!(found::<V4>(&map, key([10, 96, 0, 1])), Found::Refuse);
    assert_eq!(map.counts.borrow().last(), Some(&Counter::DamagedMaps));
}

#[test]
fn a_whole_copy_is_taken_and_any_other_is_not() {
    let ours: FrontendKey<V4> = key([10, 96, 0, 1]);
    let (copied, right) = (frontend(1, 20, 5).sealed(&ours), frontend(1, 10, 3).sealed(&ours));
    let with = |copy| Racing { copy: Some(copy), ..Racing::new([right]) };
    assert_eq!(found(&with(copied), ours), Found::Frontend(ours, copied));
    let foreign = frontend(1, 20, 5).sealed(&key::<V4>([10, 96, 0, 2]));
    for wrong in [foreign, Frontend { n_slots: 3, ..copied }, Frontend::default()] {
        let map = with(wrong);
        assert_eq!(found(&map, ours), Found::Frontend(ours, right));
        assert!(map.counts.borrow().is_empty(), "a copy is no reason to count anything");
    }
}

fn spares_datagrams<F: Family>(ours: FrontendKey<F>, others: F::Addr) {
    let frontend = frontend(1, 10, 3).sealed(&ours);
    // Whatever is looked up is there.
    let map = Racing { places: Some(Place::of_frontend(&ours).into()), ..Racing::new([frontend]) };
    let asked = |addr| lookup_datagram(&map, Endpoint::<F> { addr, port: 80 });
    assert_eq!(asked(others), Found::NotAService);
    assert_eq!(asked(ours.addr), Found::Frontend(ours, frontend));
}

#[test]
fn no_frontend_is_looked_up_for_a_datagram_to_an_address_that_has_none() {
    let udp = Proto::Udp.number();
    spares_datagrams::<V4>(FrontendKey { proto: udp, ..key([10, 96, 0, 1]) }, [10, 244, 0, 1]);
    spares_datagrams::<V6>(FrontendKey { proto: udp, ..key([0xfd; 16]) }, [0xfe; 16]);
}

prop_compose! {
    fn any_frontend()(service: u32, first_slot: u32, n_slots: u32, flags: u32, affinity_s: u32) -> Frontend {
        Frontend { service, first_slot, n_slots, flags, affinity_s, check: 0 }
    }
}

prop_compose! {
    fn any_key()(addr: [u8; 16], port: u16, proto: u8, scope: u8) -> FrontendKey<V6> {
        FrontendKey { addr, port, proto, scope }
    }
}

#[test]
fn a_change_of_any_single_bit_is_seen() {
    let key: FrontendKey<V6> = key([0xfd; 16]);
    let sealed = frontend(1, 10, 3).sealed(&key);
    for bit in (0..32).map(|bit| 1_u32 << bit) {
        let fields: [fn(&mut Frontend) -> &mut u32; 6] = [
            |value| &mut value.service,
            |value| &mut value.first_slot,
            |value| &mut value.n_slots,
            |value| &mut value.flags,
            |value| &mut value.affinity_s,
            |value| &mut value.check,
        ];
        for field in fields {
            let mut torn = sealed;
            *field(&mut torn) ^= bit;
            assert!(!torn.is_of(&key), "{torn:?}");
        }
    }
    for bit in 0..128 {
        let mut other = key;
        other.addr[bit / 8] ^= 1 << (bit % 8);
        assert!(!sealed.is_of(&other), "{other:?}");
    }
    for bit in 0..16 {
        assert!(!sealed.is_of(&FrontendKey { port: key.port ^ 1 << bit, ..key }));
    }
}

#[test]
fn memory_full_of_zeros_is_no_frontend() {
    assert!(!Frontend::default().is_of::<V4>(&FrontendKey::default()));
    assert!(!Frontend::default().is_of::<V4>(&key([10, 96, 0, 1])));
}

proptest! {
    #[test]
    fn a_sealed_value_belongs_to_its_own_key_only(value in any_frontend(), ours in any_key(), others in any_key()) {
        let sealed = value.sealed(&ours);
        prop_assert!(sealed.is_of(&ours));
        prop_assert_eq!(sealed.is_of(&others), ours == others);
    }

    #[test]
    fn a_value_with_one_word_of_another_is_recognised(a in any_frontend(), b in any_frontend(), key in any_key(), word in 0..5) {
        let whole = a.sealed(&key);
        let mut torn = whole;
        match word {
            0 => torn.service = b.service,
            1 => torn.first_slot = b.first_slot,
            2 => torn.n_slots = b.n_slots,
            3 => torn.flags = b.flags,
            _ => torn.affinity_s = b.affinity_s,
        }
        prop_assert_eq!(torn.is_of(&key), torn == whole);
    }

    /// Two writes of one place, of which a reader may meet any bytes of either.
    #[test]
    fn a_copy_that_is_half_written_is_not_taken(
        values in any::<[(u32, u32, u32); 2]>(),
        keys in (any_key(), any_key()),
        emptied: bool,
        bytes in prop::collection::vec(any::<bool>(), size_of::<FrontendCopy<V6>>()),
    ) {
        let values = values.map(|(service, first_slot, n_slots)| frontend(service, first_slot, n_slots));
        let before = FrontendCopy { key: keys.0, value: values[0].sealed(&keys.0) };
        let written = FrontendCopy { key: keys.1, value: values[1].sealed(&keys.1) };
        let after = if emptied { FrontendCopy::default() } else { written };
        let mut met: FrontendCopy<V6> = before;
        let mixed = bytes_of_mut(&mut met).iter_mut().zip(bytes_of(&after)).zip(bytes);
        mixed.filter(|(_, new)| *new).for_each(|((byte, new), _)| *byte = *new);
        if met.value.is_of(&met.key) {
            prop_assert!(met == before || met == after, "{met:?}");
        }
    }
}
