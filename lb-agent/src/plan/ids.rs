//! Giving out ids: never 0, upwards, a freed one again only when all others have had their turn.

/// Where one kind of id stands. Only the highest id in use survives a restart, so an id above it that was freed before
/// may be given out again sooner after one; `lb_common::logic` compares more than the id wherever it remembers one.
#[derive(Debug, Default)]
pub(super) struct Ids {
    last: u32,
}

impl Ids {
    /// Goes on above an id that was found in the maps.
    pub(super) fn adopt(&mut self, id: u32) {
        self.last = self.last.max(id);
    }

    /// A new id. Some id must be free, which holds because no map has room for all of them.
    pub(super) fn next(&mut self, in_use: impl Fn(u32) -> bool) -> u32 {
        loop {
            self.last = self.last.wrapping_add(1);
            if self.last != 0 && !in_use(self.last) {
                return self.last;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_upwards_whether_or_not_lower_ones_are_free() {
        let mut ids = Ids::default();
        assert_eq!([ids.next(|_| false), ids.next(|_| false), ids.next(|_| false)], [1, 2, 3]);
    }

    #[test]
    fn ids_continue_above_the_adopted_ones_and_wrap_around_0_and_those_in_use() {
        let mut ids = Ids::default();
        ids.adopt(u32::MAX - 1);
        ids.adopt(1);
        let in_use = |id| id == 1 || id == u32::MAX - 1;
        assert_eq!([ids.next(in_use), ids.next(in_use)], [u32::MAX, 2]);
    }
}
