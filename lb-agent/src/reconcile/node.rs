//! What becomes of this node.

use crate::event::Event;

/// What the Node object says of this node's future.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum NodeFate {
    /// No Node object was seen: a directory of manifests may have none.
    #[default]
    Unknown,
    Stays,
    GoesAway,
}

impl NodeFate {
    pub(super) fn after(self, event: &Event) -> Self {
        match event {
            Event::NodeApplied(node) if node.going_away => Self::GoesAway,
            Event::NodeApplied(_) => Self::Stays,
            Event::NodeDeleted if self != Self::Unknown => Self::GoesAway,
            _ => self,
        }
    }
}
