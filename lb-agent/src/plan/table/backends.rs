//! The backends of one Service port, sorted by address. There are hundreds of thousands of them in all: a sorted array takes
//! half of what a tree of them does.

use lb_common::abi::{Backend, Endpoint, Family};

/// A backend in the map.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<F: Family> {
    pub(super) id: u32,
    pub(super) value: Backend<F>,
    pub(super) wanted: bool,
}

impl<F: Family> Known<F> {
    pub(super) fn at(&self) -> Endpoint<F> {
        Endpoint { addr: self.value.addr, port: self.value.port }
    }
}

/// At most one for each address and port.
#[derive(Debug, Default)]
pub(super) struct Backends<F: Family>(Vec<Known<F>>);

impl<F: Family> Backends<F> {
    pub(super) fn get(&self, at: &Endpoint<F>) -> Option<&Known<F>> {
        self.0.get(self.find(at).ok()?)
    }

    pub(super) fn contains(&self, at: &Endpoint<F>) -> bool {
        self.find(at).is_ok()
    }

    /// Returns the one that was there before. What comes in the order of addresses costs the same each time.
    pub(super) fn insert(&mut self, known: Known<F>) -> Option<Known<F>> {
        match self.find(&known.at()) {
            Ok(index) => Some(std::mem::replace(&mut self.0[index], known)),
            Err(index) => {
                if self.0.len() == self.0.capacity() {
                    // Not twice as many: most Services never grow again.
                    self.0.reserve_exact(1 + self.0.len() / 8);
                }
                self.0.insert(index, known);
                None
            }
        }
    }

    /// What goes in the reverse order of addresses costs the same each time.
    pub(super) fn remove(&mut self, at: &Endpoint<F>) {
        if let Ok(index) = self.find(at) {
            self.0.remove(index);
            if self.0.len() < self.0.capacity() / 2 {
                self.0.shrink_to_fit();
            }
        }
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Known<F>> {
        self.0.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Known<F>> {
        self.0.iter_mut()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn find(&self, at: &Endpoint<F>) -> Result<usize, usize> {
        self.0.binary_search_by_key(at, Known::at)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use lb_common::abi::V4;
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn known(id: u32, end: u8) -> Known<V4> {
        let value = Backend { addr: [10, 244, 0, end], port: 80, ..Backend::default() };
        Known { id, value, wanted: true }
    }

    proptest! {
        #[test]
        fn it_is_a_map_by_address(actions in vec((any::<bool>(), 0..20_u8), 0..200)) {
            let mut backends = Backends::default();
            let mut naive = BTreeMap::new();
            for (id, (insert, end)) in (1..).zip(actions) {
                let at = known(0, end).at();
                if insert {
                    prop_assert_eq!(backends.insert(known(id, end)).map(|old| old.id), naive.insert(at, id));
                } else {
                    backends.remove(&at);
                    naive.remove(&at);
                }
                prop_assert_eq!(backends.get(&at).map(|known| known.id), naive.get(&at).copied());
                let all: Vec<_> = backends.iter().map(|known| (known.at(), known.id)).collect();
                prop_assert_eq!(&all, &naive.clone().into_iter().collect::<Vec<_>>());
                prop_assert_eq!(backends.len(), all.len());
            }
        }
    }
}
