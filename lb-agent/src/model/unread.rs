//! Objects of one kind that exist and that the source could not read when it last listed all. What the model knows of them
//! from before stays; this is for those of which it knows nothing.

use std::collections::BTreeSet;

use crate::event::ObjectName;

/// The names of such objects, as far as they have one.
#[derive(Debug, Default)]
pub(super) struct Unread {
    names: BTreeSet<ObjectName>,
    /// There may be others.
    unnamed: bool,
}

impl Unread {
    pub(super) fn new(names: Vec<ObjectName>, unnamed: bool) -> Self {
        Self { names: names.into_iter().collect(), unnamed }
    }

    /// It was read after all, or is gone.
    pub(super) fn settle(&mut self, name: &ObjectName) {
        self.names.remove(name);
    }

    /// Whether the object of this name may be one of them.
    pub(super) fn may_be(&self, name: &ObjectName) -> bool {
        self.unnamed || self.names.contains(name)
    }

    /// Whether one of them may be in this namespace.
    pub(super) fn may_be_in(&self, namespace: &str) -> bool {
        self.unnamed || self.names.iter().any(|name| *name.namespace == *namespace)
    }
}
