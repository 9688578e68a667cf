//! The ids of Service ports and nodes, and their names in `lb_names`, through which they survive a restart.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use arcstr::ArcStr;
use lb_common::abi::{NameKey, name_kind};

use super::ids::Ids;
use crate::{datapath::op::Op, event::ObjectName};

/// A port of a Service, as far as it tells it from the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PortName {
    /// Empty for a single unnamed port.
    pub(super) name: ArcStr,
    /// IP protocol number.
    pub(super) proto: u8,
}

#[derive(Debug)]
struct PortEntry {
    port: PortName,
    id: u32,
    /// Whether the name is in the map.
    written: bool,
    /// Whether nothing of it is wanted any more.
    retired: bool,
}

#[derive(Debug)]
struct Node {
    name: ArcStr,
    written: bool,
    /// The staging, by number, that last asked for the name to be written.
    asked_in: u64,
    /// How many backends refer to it.
    backends: u32,
}

/// All ids of Service ports and nodes.
#[derive(Debug, Default)]
pub(super) struct Names {
    services: HashMap<ObjectName, Vec<PortEntry>>,
    /// Which Service an id belongs to.
    service_of: HashMap<u32, ObjectName>,
    /// Ids of Service ports that have entries in adopted maps and no name; they are not given out.
    nameless: HashSet<u32>,
    /// The same of nodes.
    nameless_nodes: HashSet<u32>,
    next_service: Ids,
    nodes: HashMap<u32, Node>,
    node_ids: HashMap<ArcStr, u32>,
    /// Nodes that no backend refers to.
    idle_nodes: BTreeSet<u32>,
    next_node: Ids,
    /// Number of the present staging.
    staging: u64,
    /// Keys of names that make no sense, or to which nothing belongs.
    damaged: Vec<NameKey>,
    /// Those that may go.
    condemned: Vec<NameKey>,
}

impl Names {
    /// Takes over the names in the map. `ids` are the Service ports that have entries in other maps, with their
    /// protocols.
    pub(super) fn adopt(mut names: Vec<(NameKey, String)>, ids: &BTreeMap<u32, Option<u8>>) -> Self {
        let mut adopted = Self::default();
        names.sort_unstable_by_key(|(key, _)| (key.kind, key.id));
        for (key, text) in names {
            let known = match key.kind {
                _ if key.id == 0 => None,
                name_kind::SERVICE => adopted.adopt_service(key.id, &text, ids.get(&key.id).copied().flatten()),
                name_kind::NODE => adopted.adopt_node(key.id, &text),
                // Who looks after devices looks after their names.
                name_kind::DEVICE => Some(()),
                _ => None,
            };
            if known.is_none() {
                adopted.damaged.push(key);
            }
        }
        for id in ids.keys() {
            adopted.next_service.adopt(*id);
            if !adopted.service_of.contains_key(id) {
                adopted.nameless.insert(*id);
            }
        }
        adopted
    }

    fn adopt_service(&mut self, id: u32, text: &str, proto: Option<u8>) -> Option<()> {
        self.next_service.adopt(id);
        let (service, name) = parse(text)?;
        let port = PortName { name, proto: proto? };
        let entries = self.services.entry(service.clone()).or_default();
        if entries.iter().any(|entry| entry.port == port) {
            return None;
        }
        entries.push(PortEntry { port, id, written: true, retired: false });
        self.service_of.insert(id, service);
        Some(())
    }

    fn adopt_node(&mut self, id: u32, text: &str) -> Option<()> {
        self.next_node.adopt(id);
        let name: ArcStr = text.into();
        if text.is_empty() || self.node_ids.contains_key(&name) {
            return None;
        }
        self.node_ids.insert(name.clone(), id);
        self.nodes.insert(id, Node { name, written: true, asked_in: 0, backends: 0 });
        self.idle_nodes.insert(id);
        Some(())
    }

    /// A backend in adopted maps refers to this node.
    pub(super) fn adopt_reference(&mut self, node: u32) {
        if self.nodes.contains_key(&node) {
            self.moved(None, Some(node));
        } else {
            self.next_node.adopt(node);
            self.nameless_nodes.insert(node);
        }
    }

    /// The id of a Service port, a new one if it has none. Adds to `ops` what is to be written.
    pub(super) fn service_id(&mut self, service: &ObjectName, port: &PortName, ops: &mut Vec<Op>) -> u32 {
        let entries = self.services.entry(service.clone()).or_default();
        let index = entries.iter().position(|entry| entry.port == *port).unwrap_or_else(|| {
            let in_use = |id| self.service_of.contains_key(&id) || self.nameless.contains(&id);
            let id = self.next_service.next(in_use);
            self.service_of.insert(id, service.clone());
            // Most Services have few, and there are many.
            entries.reserve_exact(1);
            entries.push(PortEntry { port: port.clone(), id, written: false, retired: false });
            entries.len() - 1
        });
        let entry = &mut entries[index];
        entry.retired = false;
        if !entry.written {
            ops.push(Op::PutName(NameKey { kind: name_kind::SERVICE, id: entry.id }, text(service, &port.name)));
        }
        entry.id
    }

    /// The id of a node, a new one if it has none. Adds to `ops` what is to be written.
    pub(super) fn node_id(&mut self, name: &ArcStr, ops: &mut Vec<Op>) -> u32 {
        let id = *self.node_ids.entry(name.clone()).or_insert_with(|| {
            let in_use = |id| self.nodes.contains_key(&id) || self.nameless_nodes.contains(&id);
            let id = self.next_node.next(in_use);
            self.nodes.insert(id, Node { name: name.clone(), written: false, asked_in: 0, backends: 0 });
            self.idle_nodes.insert(id);
            id
        });
        if let Some(node) = self.nodes.get_mut(&id)
            && !node.written
            && node.asked_in != self.staging
        {
            node.asked_in = self.staging;
            ops.push(Op::PutName(NameKey { kind: name_kind::NODE, id }, name.to_string()));
        }
        id
    }

    /// A staging begins: names that were asked for in another one may not have been written.
    pub(super) fn begin_staging(&mut self) {
        self.staging += 1;
    }

    /// Marks those ports of a Service as no longer wanted that are not in `wanted`, and returns their ids.
    pub(super) fn retire_others(&mut self, service: &ObjectName, wanted: &[PortName]) -> Vec<u32> {
        let Some(entries) = self.services.get_mut(service) else { return Vec::new() };
        let others = entries.iter_mut().filter(|entry| !wanted.contains(&entry.port));
        others
            .map(|entry| {
                entry.retired = true;
                entry.id
            })
            .collect()
    }

    /// Whether the id belongs to a Service port of which nothing is wanted any more.
    pub(super) fn is_retired(&self, id: u32) -> bool {
        self.entry(id).is_some_and(|entry| entry.retired)
    }

    /// Whether the id belongs to a Service port that has a name.
    pub(super) fn is_known(&self, id: u32) -> bool {
        self.service_of.contains_key(&id)
    }

    /// The Service that the port of this id belongs to.
    pub(super) fn owner(&self, id: u32) -> Option<&ObjectName> {
        self.service_of.get(&id)
    }

    /// The ids of a Service's ports.
    pub(super) fn ids_of(&self, service: &ObjectName) -> impl Iterator<Item = u32> {
        self.services.get(service).into_iter().flatten().map(|entry| entry.id)
    }

    fn entry(&self, id: u32) -> Option<&PortEntry> {
        self.services.get(self.service_of.get(&id)?)?.iter().find(|entry| entry.id == id)
    }

    /// How many Services there are.
    pub(super) fn n_services(&self) -> usize {
        self.services.len()
    }

    /// How many names there are, with those that are still to be written.
    pub(super) fn len(&self) -> usize {
        self.service_of.len() + self.nodes.len() + self.damaged.len() + self.condemned.len()
    }

    /// The Services that have an entry.
    pub(super) fn services(&self) -> impl Iterator<Item = &ObjectName> {
        self.services.keys()
    }

    /// From now on the names go that make no sense.
    pub(super) fn prune(&mut self) {
        self.condemned.append(&mut self.damaged);
    }

    /// What to remove: nodes that no backend refers to, and what [`Names::prune`] said.
    pub(super) fn sweep(&self) -> Vec<Op> {
        let idle = self.idle_nodes.iter().map(|&id| NameKey { kind: name_kind::NODE, id });
        idle.chain(self.condemned.iter().copied()).map(Op::DeleteName).collect()
    }

    /// A backend refers to another node than before.
    pub(super) fn moved(&mut self, from: Option<u32>, to: Option<u32>) {
        if let Some((id, node)) = to.and_then(|id| Some((id, self.nodes.get_mut(&id)?))) {
            node.backends += 1;
            self.idle_nodes.remove(&id);
        }
        if let Some((id, node)) = from.and_then(|id| Some((id, self.nodes.get_mut(&id)?))) {
            node.backends = node.backends.saturating_sub(1);
            if node.backends == 0 {
                self.idle_nodes.insert(id);
            }
        }
    }

    /// Takes note that a name was written.
    pub(super) fn written(&mut self, key: NameKey) {
        self.damaged.retain(|damaged| *damaged != key);
        self.condemned.retain(|condemned| *condemned != key);
        if key.kind == name_kind::NODE {
            if let Some(node) = self.nodes.get_mut(&key.id) {
                node.written = true;
            }
        } else if let Some(service) = self.service_of.get(&key.id)
            && let Some(entries) = self.services.get_mut(service)
            && let Some(entry) = entries.iter_mut().find(|entry| entry.id == key.id)
        {
            entry.written = true;
        }
    }

    /// Takes note that a name was removed.
    pub(super) fn deleted(&mut self, key: NameKey) {
        if let Some(index) = self.condemned.iter().position(|condemned| *condemned == key) {
            self.condemned.swap_remove(index);
        } else if key.kind == name_kind::NODE {
            self.idle_nodes.remove(&key.id);
            if let Some(node) = self.nodes.remove(&key.id) {
                self.node_ids.remove(&node.name);
            }
        } else if let Some(service) = self.service_of.remove(&key.id)
            && let Some(entries) = self.services.get_mut(&service)
        {
            entries.retain(|entry| entry.id != key.id);
            if entries.is_empty() {
                self.services.remove(&service);
            }
        }
    }
}

/// `namespace/name` or `namespace/name:port-name`.
fn text(service: &ObjectName, port: &str) -> String {
    if port.is_empty() { service.to_string() } else { format!("{service}:{port}") }
}

/// The inverse of [`text`].
fn parse(text: &str) -> Option<(ObjectName, ArcStr)> {
    let (service, port) = text.split_once(':').unwrap_or((text, ""));
    let (namespace, name) = service.split_once('/')?;
    (!namespace.is_empty() && !name.is_empty()).then(|| (ObjectName::new(namespace, name), port.into()))
}
