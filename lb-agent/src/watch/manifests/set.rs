//! All manifests together: which objects are in force, and what changed. Pure: file contents in, events and complaints
//! out.
//!
//! What was good stays in force until something good replaces it or it is really gone:
//! * an object that can no longer be read keeps its last good form;
//! * while a file has a document that cannot even be named, nothing that the file said before is taken for deleted.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use super::{
    document::{self, Entry, Object, Outcome, Place},
    effective::{self, Effective},
};
use crate::{
    event::{Event, FullList},
    watch::{
        brake::{self, Weights},
        intern::Interner,
        problem::{Key, Kind},
    },
};

/// What a look at one file gave.
#[derive(Debug)]
pub(super) enum Content {
    /// Its text.
    Text(String),
    /// It is there but cannot be read: why.
    Unreadable(String),
    /// It is not there.
    Gone,
}

/// What a change of files led to.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// In an order that leaves no Service without endpoints for a moment: what is new comes before what goes.
    pub(super) events: Vec<Event>,
    /// Everything that is wrong now, whether new or not.
    pub(super) problems: Vec<Arc<str>>,
}

/// The manifests as they were last read.
#[derive(Debug, Default)]
pub(super) struct Set {
    /// Of the Nodes among the manifests only the one of this name counts.
    node_name: Arc<str>,
    files: BTreeMap<Arc<str>, File>,
    /// Which file speaks for an object: the first that did, for as long as it does.
    owners: BTreeMap<Key, Arc<str>>,
    in_force: Effective,
    unread: Unread,
    names: Interner,
}

/// What exists and was never read.
#[derive(Debug, Default, PartialEq)]
struct Unread {
    keys: BTreeSet<Key>,
    /// There may be more.
    unnamed: bool,
}

/// All objects of one kind.
#[derive(Debug)]
pub(super) struct Weighed {
    pub(super) weights: Weights,
    /// How many entries of the maps they take.
    pub(super) entries: u64,
}

#[derive(Debug, Default)]
struct File {
    good: BTreeMap<Key, (Place, Object)>,
    /// Objects that could not be read, and never were.
    unread: BTreeSet<Key>,
    /// Once at least all its objects had names, so that none of them is unknown.
    named: bool,
    problems: Vec<String>,
}

impl Set {
    /// No manifest yet, on the node of this name.
    pub(super) fn new(node_name: Arc<str>) -> Self {
        Self { node_name, ..Self::default() }
    }

    /// Takes in new contents of some files.
    pub(super) fn update(&mut self, contents: impl IntoIterator<Item = (Arc<str>, Content)>) -> Changes {
        for (name, content) in contents {
            match content {
                Content::Gone => {
                    self.files.remove(&name);
                }
                Content::Unreadable(why) => {
                    let text = format!("{name}: {why}; its last good state stays in force");
                    self.files.entry(name).or_default().problems = vec![text];
                }
                Content::Text(text) => {
                    let entries = document::read(&name, &text, &mut self.names);
                    let old = self.files.remove(&name).unwrap_or_default();
                    self.files.insert(name, File::new(entries, old));
                }
            }
        }
        let mut problems: Vec<String> = self.files.values().flat_map(|file| file.problems.iter().cloned()).collect();
        let node_name = self.node_name.clone();
        let objects = self.resolve(&mut problems);
        let new = effective::effective(&objects, &node_name, &mut problems);
        let unread = self.unread();
        let events = effective::difference(&self.in_force, &new);
        self.in_force = new;
        let events = if unread == self.unread { events } else { self.relist(unread) };
        self.names.sweep();
        Changes { events, problems: problems.into_iter().map(Into::into).collect() }
    }

    /// Lists that say as well what is no longer unread, or has become so.
    fn relist(&mut self, unread: Unread) -> Vec<Event> {
        self.unread = unread;
        self.full_lists().to_vec()
    }

    /// What exists among the manifests and was never read.
    fn unread(&self) -> Unread {
        let of_files = self.files.values().flat_map(|file| &file.unread);
        let owned = |key: &&Key| self.files.values().any(|file| file.good.contains_key(*key));
        Unread {
            keys: of_files.filter(|key| !owned(key)).cloned().collect(),
            unnamed: self.files.values().any(|file| !file.named),
        }
    }

    /// Everything that is in force: this node, and full lists.
    pub(super) fn full_lists(&self) -> [Event; 3] {
        let Effective { node, services, slices } = &self.in_force;
        let Unread { keys, unnamed } = &self.unread;
        let (of_services, of_slices): (Vec<_>, Vec<_>) = keys.iter().partition(|key| key.kind == Kind::Service);
        let names = |keys: Vec<&Key>| keys.into_iter().map(|key| key.name.clone()).collect();
        [
            node.clone().map_or(Event::NodeDeleted, Event::NodeApplied),
            Event::SlicesReset(FullList {
                objects: slices.values().cloned().collect(),
                unreadable: names(of_slices),
                unnamed: *unnamed,
            }),
            Event::ServicesReset(FullList {
                objects: services.values().cloned().collect(),
                unreadable: names(of_services),
                unnamed: *unnamed,
            }),
        ]
    }

    /// What is in force, as the brake weighs it: Services, and slices.
    pub(super) fn weights(&self) -> (Weighed, Weighed) {
        let Effective { services, slices, .. } = &self.in_force;
        let services = Weighed {
            weights: services.keys().map(|name| (name.clone(), 1)).collect(),
            entries: services.values().map(brake::service_entries).sum(),
        };
        let slices = Weighed {
            weights: slices.keys().map(|name| (name.clone(), 1)).collect(),
            entries: slices.values().map(brake::slice_entries).sum(),
        };
        (services, slices)
    }

    /// One object for each key, and a complaint for each further one.
    fn resolve(&mut self, problems: &mut Vec<String>) -> BTreeMap<&Key, &Object> {
        let old_owners = mem::take(&mut self.owners);
        let mut winners: BTreeMap<&Key, (&Place, &Object)> = BTreeMap::new();
        for (key, (place, object)) in self.files.values().flat_map(|file| &file.good) {
            let Some((winner, _)) = winners.get(key) else {
                winners.insert(key, (place, object));
                continue;
            };
            let (kept, refused) = if old_owners.get(key) == Some(&place.file) {
                let refused = (*winner).clone();
                winners.insert(key, (place, object));
                (place, refused)
            } else {
                (*winner, place.clone())
            };
            problems.push(format!("{refused}: {key}: also in {kept}, which stays in force; remove one of the two"));
        }
        self.owners = winners.iter().map(|(key, (place, _))| ((*key).clone(), place.file.clone())).collect();
        winners.into_iter().map(|(key, (_, object))| (key, object)).collect()
    }
}

impl File {
    fn new(entries: Vec<Entry>, mut old: Self) -> Self {
        let mut new = Self::default();
        let mut unreadable: BTreeSet<Key> = BTreeSet::new();
        let mut unnamed = false;
        for Entry { place, outcome } in entries {
            match outcome {
                Outcome::Ignored { text } => new.problems.push(format!("{place}: {text}")),
                Outcome::Bad { key, text } => {
                    let known = key.as_ref().map_or(!old.good.is_empty(), |key| old.good.contains_key(key));
                    let rest = if known { "; the last good state stays in force" } else { "" };
                    new.problems.push(format!("{place}: {text}{rest}"));
                    unnamed |= key.is_none();
                    unreadable.extend(key);
                }
                Outcome::Good { key, object, warnings } => {
                    new.problems.extend(warnings.iter().map(|warning| format!("{place}: {warning}")));
                    if let Some((first, _)) = new.good.get(&key) {
                        let text =
                            format!("{place}: {key}: also in {first}, which stays in force; remove one of the two");
                        new.problems.push(text);
                    } else {
                        new.good.insert(key, (place, object));
                    }
                }
            }
        }
        new.named = old.named || !unnamed;
        new.unread = unreadable.iter().filter(|key| !old.good.contains_key(*key)).cloned().collect();
        old.good.retain(|key, _| (unnamed || unreadable.contains(key)) && !new.good.contains_key(key));
        new.good.append(&mut old.good);
        new.unread.retain(|key| !new.good.contains_key(key));
        new
    }
}
