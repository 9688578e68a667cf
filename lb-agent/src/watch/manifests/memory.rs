//! Manifests that were never files: the same reading, for those who have the texts (scenario tests).

use std::sync::Arc;

use super::set::{Content, Set};
use crate::event::Event;

/// A directory of manifests in memory.
#[derive(Debug, Default)]
pub struct InMemory(Set);

impl InMemory {
    /// No manifest yet, on the node of this name.
    pub fn on(node_name: &str) -> Self {
        Self(Set::new(node_name.into()))
    }

    /// Replaces a file, or removes it. Returns what changed, and everything that is wrong with the manifests now.
    pub fn put(&mut self, file: &str, text: Option<&str>) -> (Vec<Event>, Vec<Arc<str>>) {
        let content = text.map_or(Content::Gone, |text| Content::Text(text.to_owned()));
        let changes = self.0.update([(file.into(), content)]);
        (changes.events, changes.problems)
    }

    /// Everything that is in force: this node, then slices and Services as full lists.
    pub fn full_lists(&self) -> [Event; 3] {
        self.0.full_lists()
    }
}
