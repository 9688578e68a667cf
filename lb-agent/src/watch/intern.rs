//! One copy of each text that thousands of objects share: namespaces, port names, nodes, zones.

use std::collections::HashSet;

use arcstr::ArcStr;

/// Hands out shared texts. Each source has its own.
#[derive(Debug, Default)]
pub(super) struct Interner {
    texts: HashSet<ArcStr>,
}

impl Interner {
    pub(super) fn get(&mut self, text: &str) -> ArcStr {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        let new: ArcStr = text.into();
        self.texts.insert(new.clone());
        new
    }

    /// Forgets texts that nobody else holds any more.
    pub(super) fn sweep(&mut self) {
        self.texts.retain(|text| ArcStr::strong_count(text).is_some_and(|holders| holders > 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_share_memory_until_nobody_holds_them() {
        let mut names = Interner::default();
        let (a, b) = (names.get("default"), names.get("default"));
        assert!(ArcStr::ptr_eq(&a, &b));
        drop(b);
        names.sweep();
        assert!(ArcStr::ptr_eq(&a, &names.get("default")));
        drop(a);
        names.sweep();
        assert!(names.texts.is_empty());
    }
}
