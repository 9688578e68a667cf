//! Keeps the maps like the node: which cgroups are excluded, and what to write, in terms of [`Node`].
//!
//! A cgroup below an excluded one is excluded with it and needs no entry. What an earlier agent excluded for a Pod's
//! annotation stays until the Pods of this node are known.

use std::{collections::BTreeMap, io};

use arcstr::ArcStr;
use lb_common::{
    abi::{Exclusion, excluded_by},
    logic::exclude::N_LEVELS,
};

use super::{patterns::CgroupPatterns, pods};
use crate::event::{ObjectName, PodChange};

/// A cgroup that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup<'a> {
    /// Its path below the cgroup root, without a slash at the beginning.
    pub path: &'a str,
    /// As the programs know it.
    pub id: u64,
    /// How deep it is below the root of cgroup2, which is at level 0; `None` where that cannot be told.
    pub level: Option<u32>,
}

/// What is needed of the system.
pub trait Node {
    /// Shows the cgroups below the cgroup root; those below one for which `visit` returns false are left out.
    fn cgroups(&mut self, visit: &mut dyn FnMut(&Cgroup<'_>) -> bool) -> io::Result<()>;
    /// What the maps hold: ids with [`excluded_by`], and the levels.
    fn known(&mut self) -> io::Result<(BTreeMap<u64, u32>, Exclusion)>;
    /// Excludes a cgroup.
    fn put(&mut self, id: u64, why: u32) -> io::Result<()>;
    /// Excludes it no more.
    fn delete(&mut self, id: u64) -> io::Result<()>;
    /// Says at which levels there are excluded ones.
    fn put_levels(&mut self, levels: Exclusion) -> io::Result<()>;
}

/// What the maps hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Excluded cgroups, not counting those below them.
    pub cgroups: usize,
}

/// What the maps hold, and what they should.
#[derive(Debug)]
pub struct Keeper<N> {
    node: N,
    patterns: CgroupPatterns,
    /// The uids of this node's Pods that are excluded; `None` while they are not known.
    pods: Option<BTreeMap<ObjectName, ArcStr>>,
    known: BTreeMap<u64, u32>,
    levels: Exclusion,
}

/// A cgroup to exclude.
#[derive(Clone, Copy)]
struct Wanted {
    why: u32,
    level: Option<u32>,
}

impl<N: Node> Keeper<N> {
    /// Goes on with what an earlier agent left. `has_pods` says whether Pods are told of at all.
    ///
    /// # Errors
    /// The maps cannot be read.
    pub fn new(mut node: N, patterns: CgroupPatterns, has_pods: bool) -> io::Result<Self> {
        let (known, levels) = node.known()?;
        let pods = (!has_pods).then(BTreeMap::new);
        Ok(Self { node, patterns, pods, known, levels })
    }

    /// Whether the cgroups have to be looked at: something is to be excluded, or is and may have to be no more.
    pub fn is_active(&self) -> bool {
        let has_pods = self.pods.as_ref().is_some_and(|pods| !pods.is_empty());
        !self.patterns.is_empty() || has_pods || !self.known.is_empty()
    }

    /// What the maps hold.
    pub fn kept(&self) -> Kept {
        Kept { cgroups: self.known.len() }
    }

    /// Takes in what became of this node's Pods. Writes nothing. One Pod alone is no reason to take all of them for known:
    /// before the first list it is passed over, and the list has it.
    pub fn pods_changed(&mut self, change: PodChange) {
        match change {
            PodChange::Reset(list) => {
                let before = self.pods.take().unwrap_or_default();
                let unread = before.into_iter().filter(|(name, _)| list.unnamed || list.unreadable.contains(name));
                let read = list.objects.into_iter().map(|pod| (pod.name, pod.uid));
                self.pods = Some(unread.chain(read).collect());
            }
            PodChange::Applied(pod) => {
                if let Some(pods) = &mut self.pods {
                    pods.insert(pod.name, pod.uid);
                }
            }
            PodChange::Deleted(name) => {
                if let Some(pods) = &mut self.pods {
                    pods.remove(&name);
                }
            }
        }
    }

    /// Looks at the cgroups and makes the maps like them.
    ///
    /// # Errors
    /// The cgroups cannot be looked at: then the maps stay as they are. Or a map cannot be written, or a cgroup is too
    /// deep: then all else is done.
    pub fn look(&mut self) -> io::Result<()> {
        if !self.is_active() {
            return Ok(());
        }
        let mut wanted = BTreeMap::new();
        let Self { node, patterns, pods, known, .. } = self;
        node.cgroups(&mut |cgroup| {
            let why = why(cgroup, patterns, pods.as_ref(), known);
            if why != 0 {
                wanted.insert(cgroup.id, Wanted { why, level: cgroup.level });
            }
            why == 0
        })?;
        self.become_like(&wanted)
    }

    /// An entry counts as soon as its level is written, too. One failure does not keep the others; the last is told.
    fn become_like(&mut self, wanted: &BTreeMap<u64, Wanted>) -> io::Result<()> {
        let mut result = Ok(());
        let gone: Vec<u64> = self.known.keys().filter(|id| !wanted.contains_key(id)).copied().collect();
        // First, so that there is room.
        for id in gone {
            match self.node.delete(id) {
                Ok(()) => drop(self.known.remove(&id)),
                Err(error) => result = Err(error),
            }
        }
        for (id, Wanted { why, .. }) in wanted {
            if self.known.get(id) != Some(why) {
                match self.node.put(*id, *why) {
                    Ok(()) => drop(self.known.insert(*id, *why)),
                    Err(error) => result = Err(error),
                }
            }
        }
        let levels = levels(wanted.values()).unwrap_or_else(|(levels, error)| {
            result = Err(error);
            levels
        });
        if levels != self.levels {
            match self.node.put_levels(levels) {
                Ok(()) => self.levels = levels,
                Err(error) => result = Err(error),
            }
        }
        result
    }
}

/// Bits of [`excluded_by`]; 0 if it is not to be excluded.
fn why(
    cgroup: &Cgroup<'_>,
    patterns: &CgroupPatterns,
    pods: Option<&BTreeMap<ObjectName, ArcStr>>,
    known: &BTreeMap<u64, u32>,
) -> u32 {
    let by_pattern = if patterns.matches(cgroup.path) { excluded_by::PATTERN } else { 0 };
    let by_annotation = match pods {
        Some(pods) => {
            let name = cgroup.path.rsplit('/').next().unwrap_or_default();
            let uid = if pods.is_empty() { None } else { pods::uid(name) };
            uid.is_some_and(|uid| pods.values().any(|other| **other == *uid))
        }
        None => known.get(&cgroup.id).is_some_and(|why| why & excluded_by::ANNOTATION != 0),
    };
    by_pattern | if by_annotation { excluded_by::ANNOTATION } else { 0 }
}

/// The levels of these; all of them where some level is not known. Also when one is too deep.
fn levels<'a>(wanted: impl Iterator<Item = &'a Wanted>) -> Result<Exclusion, (Exclusion, io::Error)> {
    let (mut levels, mut too_deep) = (0_u32, None);
    for Wanted { level, .. } in wanted {
        match level {
            None => levels = u32::MAX,
            Some(level) if *level < N_LEVELS => levels |= 1 << level,
            Some(level) => too_deep = Some(level),
        }
    }
    let levels = Exclusion { levels };
    match too_deep {
        None => Ok(levels),
        Some(level) => {
            let text = format!("a cgroup at level {level} cannot be excluded: exclude one above it, level 31 at most");
            Err((levels, io::Error::other(text)))
        }
    }
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
