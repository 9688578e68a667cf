//! Addresses that Services name and do not get, because another Service holds them or because nobody may have them: says
//! so in the log once, and keeps them for the report. Decides nothing; who gets what is the model's decision.

use std::collections::BTreeSet;

/// What Services do not get now.
#[derive(Debug, Default)]
pub(super) struct Conflicts {
    /// One line each. They are few, so all are compared each time.
    known: BTreeSet<String>,
}

impl Conflicts {
    /// Takes over what there is now. Returns what was not before.
    pub(super) fn update(&mut self, now: impl Iterator<Item = String>) -> Vec<String> {
        let now: BTreeSet<String> = now.collect();
        let new = now.difference(&self.known).cloned().collect();
        self.known = now;
        new
    }

    pub(super) fn count(&self) -> usize {
        self.known.len()
    }

    pub(super) fn first(&self) -> Option<&String> {
        self.known.first()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_is_news_once_and_again_after_it_was_gone() {
        let mut conflicts = Conflicts::default();
        let mut news = |lines: &[&str]| conflicts.update(lines.iter().map(ToString::to_string)).len();
        assert_eq!([news(&["a"]), news(&["a", "b"]), news(&["a", "b"]), news(&[]), news(&["b"])], [1, 1, 0, 0, 1]);
    }
}
