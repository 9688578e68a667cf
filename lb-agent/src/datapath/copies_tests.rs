//! Random writes, of which any one may fail, and deaths between any two: no reader may ever be told what is not so.

use std::{collections::BTreeMap, io};

use lb_common::{
    abi::{Proto, V4, scope},
    logic::seam::Maps as _,
    sim::SimMaps,
};
use proptest::prelude::*;

use super::*;

type Key = FrontendKey<V4>;

/// The simulated maps, which are looked at with a reader's eyes after each single write.
#[derive(Default)]
struct Watched {
    maps: SimMaps<V4>,
    /// Writes that still succeed; `None`: all do.
    left: Option<u32>,
    /// As [`Self::left`], for those of copies alone.
    copies_left: Option<u32>,
    seen: Vec<String>,
}

fn fails(left: &mut Option<u32>) -> bool {
    match left {
        Some(0) => true,
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

impl Watched {
    fn attempt(&mut self, write: impl FnOnce(&mut SimMaps<V4>) -> Result<(), StoreError>) -> Result<(), StoreError> {
        if fails(&mut self.left) {
            return Err(StoreError::Failed { map: "m", operation: "update", source: io::Error::other("no more") });
        }
        write(&mut self.maps)?;
        for key in keys() {
            let (copy, right) = (self.maps.frontend_copy(&key), self.maps.frontend(&key));
            if copy.is_some() && copy != right {
                self.seen.push(format!("{key:?}: a copy says {copy:?}, the frontend {right:?}"));
            }
        }
        Ok(())
    }

    /// A new agent: new programs with new maps, which are filled before they are attached.
    fn restart(&mut self) {
        (self.left, self.copies_left) = (None, None);
        self.maps.copies.clear();
        let all = self.maps.frontends.clone();
        all.iter().try_for_each(|(key, value)| fill(self, key, value)).unwrap();
    }
}

impl CopiedFrontends<V4> for Watched {
    fn write(&mut self, key: &Key, value: &Frontend) -> Result<(), StoreError> {
        self.attempt(|maps| maps.write(key, value))
    }

    fn remove(&mut self, key: &Key) -> Result<(), StoreError> {
        self.attempt(|maps| maps.remove(key))
    }

    fn copy(&self, place: u32) -> Result<FrontendCopy<V4>, StoreError> {
        self.maps.copy(place)
    }

    fn set_copy(&mut self, place: u32, copy: &FrontendCopy<V4>) -> Result<(), StoreError> {
        if fails(&mut self.copies_left) {
            return Err(StoreError::Failed { map: "c", operation: "update", source: io::Error::other("no more") });
        }
        self.attempt(|maps| maps.set_copy(place, copy))
    }
}

fn key(port: u16) -> Key {
    FrontendKey { addr: [10, 96, 0, 1], port, proto: Proto::Tcp.number(), scope: scope::INTERNAL }
}

/// Three with one place, one with a place of its own, and two that have no copies.
fn keys() -> [Key; 6] {
    let first = key(80);
    let mut same = (81..).map(key).filter(|other| FrontendCopy::place(other) == FrontendCopy::place(&first));
    let mut next = || same.next().unwrap();
    [
        first,
        next(),
        next(),
        key(82),
        FrontendKey { scope: scope::EXTERNAL, ..first },
        FrontendKey { proto: 0, ..key(0) },
    ]
}

fn value(key: &Key, version: u32) -> Frontend {
    Frontend { service: 1, first_slot: version, n_slots: 3, ..Frontend::default() }.sealed(key)
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Put(usize, u32),
    Delete(usize),
    /// Writes fail after so many more.
    FailAfter(u32),
    /// Writes of copies fail after so many more.
    FailCopiesAfter(u32),
    Mend,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..6_usize, 0..50_u32).prop_map(|(key, version)| Step::Put(key, version)),
        4 => (0..6_usize).prop_map(Step::Delete),
        1 => (0..4_u32).prop_map(Step::FailAfter),
        1 => (0..4_u32).prop_map(Step::FailCopiesAfter),
        2 => Just(Step::Mend),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #[test]
    fn a_copy_says_what_its_frontend_does_after_every_single_write(steps in prop::collection::vec(step(), 1..60)) {
        let (mut maps, mut expected, keys) = (Watched::default(), BTreeMap::new(), keys());
        for step in steps {
            match step {
                Step::Put(at, version) => {
                    let value = value(&keys[at], version);
                    if put(&mut maps, &keys[at], &value).is_ok() {
                        expected.insert(keys[at], value);
                    }
                }
                Step::Delete(at) => {
                    if delete(&mut maps, &keys[at]).is_ok() {
                        expected.remove(&keys[at]);
                    }
                }
                Step::FailAfter(writes) => maps.left = Some(writes),
                Step::FailCopiesAfter(writes) => maps.copies_left = Some(writes),
                Step::Mend => (maps.left, maps.copies_left) = (None, None),
                Step::Restart => maps.restart(),
            }
            prop_assert_eq!(&maps.seen, &Vec::<String>::new());
            // An error means that nothing happened, and nothing else does.
            prop_assert_eq!(&maps.maps.frontends, &expected);
        }
    }
}

#[test]
fn of_frontends_with_one_place_the_last_has_it_and_the_others_are_found_all_the_same() {
    let (mut maps, [first, second, _, own, outside, guard]) = (Watched::default(), keys());
    for key in [first, second, own, outside, guard] {
        put(&mut maps, &key, &value(&key, 1)).unwrap();
    }
    let copied = |maps: &Watched, key: Key| maps.maps.frontend_copy(&key).is_some();
    let all = |maps: &Watched| [first, second, own, outside, guard].map(|key| copied(maps, key));
    assert_eq!(all(&maps), [false, true, true, false, false]);
    delete(&mut maps, &first).unwrap();
    assert_eq!(all(&maps), [false, true, true, false, false], "the place is the second one's");
    put(&mut maps, &first, &value(&first, 2)).unwrap();
    assert_eq!(all(&maps), [true, false, true, false, false]);
    maps.restart();
    assert_eq!(all(&maps).iter().filter(|copied| **copied).count(), 2);
    assert_eq!(maps.seen, Vec::<String>::new());
}

#[test]
fn a_frontend_is_written_though_its_copy_is_not() {
    let (mut maps, [first, ..]) = (Watched { copies_left: Some(0), ..Watched::default() }, keys());
    put(&mut maps, &first, &value(&first, 1)).unwrap();
    assert_eq!((maps.maps.frontend(&first), maps.maps.frontend_copy(&first)), (Some(value(&first, 1)), None));
}

#[test]
fn a_frontend_whose_copy_cannot_be_emptied_stays_as_it_is() {
    let (mut maps, [first, ..]) = (Watched::default(), keys());
    put(&mut maps, &first, &value(&first, 1)).unwrap();
    maps.copies_left = Some(0);
    assert!(put(&mut maps, &first, &value(&first, 2)).is_err());
    assert!(delete(&mut maps, &first).is_err());
    let both = (maps.maps.frontend(&first), maps.maps.frontend_copy(&first));
    assert_eq!(both, (Some(value(&first, 1)), Some(value(&first, 1))));
}
