//! Manifests that were never files: the same reading, for those who have the texts (scenario tests).

use std::sync::Arc;

use super::set::{Content, Set};
use crate::event::Event;

/// A directory of manifests in memory.
#[derive(Debug, Default)]
pub struct InMemory(Set);

impl InMemory {
    /// Replaces a file, or removes it. Returns what changed, and everything that is wrong with the manifests now.
    pub fn put(&mut self, file: &str, text: Option<&str>) -> (Vec<Event>, Vec<Arc<str>>) {
        let content = text.map_or(Content::Gone, |text| Content::Text(text.to_owned()));
        let changes = self.0.update([(file.into(), content)]);
        (changes.events, changes.problems)
    }

    /// Everything that is in force, as full lists: slices, then Services.
    pub fn full_lists(&self) -> [Event; 2] {
        self.0.full_lists()
    }
}
