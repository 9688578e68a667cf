//! Services that claim what another Service holds: says so in the log once, and keeps them for the report. Decides nothing;
//! who holds what is the model's decision.

use std::collections::BTreeSet;

use crate::model::Conflict;

/// What is contested now.
#[derive(Debug, Default)]
pub(super) struct Conflicts {
    /// One line each. Contested claims are few, so all are compared each time.
    known: BTreeSet<String>,
}

impl Conflicts {
    /// Takes over what is contested now. Returns what was not before.
    pub(super) fn update(&mut self, now: impl Iterator<Item = Conflict>) -> Vec<String> {
        let now: BTreeSet<String> = now.map(|conflict| conflict.to_string()).collect();
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
    use lb_common::abi::{Proto, scope};

    use super::*;
    use crate::{event::ObjectName, model::FrontendAddr};

    #[test]
    fn a_conflict_is_news_once_and_again_after_it_was_gone() {
        let conflict = |name: &str| Conflict {
            service: ObjectName::new("default", name),
            holder: ObjectName::new("default", "holder"),
            frontend: FrontendAddr { ip: [10, 96, 0, 1].into(), port: 80, scope: scope::INTERNAL },
            proto: Proto::Tcp,
        };
        let mut conflicts = Conflicts::default();
        let mut news = |names: &[&str]| conflicts.update(names.iter().map(|name| conflict(name))).len();
        assert_eq!([news(&["a"]), news(&["a", "b"]), news(&["a", "b"]), news(&[]), news(&["b"])], [1, 1, 0, 0, 1]);
    }
}
