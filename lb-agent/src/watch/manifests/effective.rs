//! What a set of manifests means: Services and slices, as a control plane would make them of it.

use std::collections::{BTreeMap, BTreeSet};

use super::document::Object;
use crate::{
    event::{EndpointSlice, Event, Node, ObjectName, Service},
    watch::problem::{Key, Kind},
};

/// Services and slices by name, and this node.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Effective {
    pub(super) node: Option<Node>,
    pub(super) services: BTreeMap<ObjectName, Service>,
    pub(super) slices: BTreeMap<ObjectName, EndpointSlice>,
}

/// Works out Services and slices. Where a Service has both an Endpoints object and slices, the same rules decide as in
/// the control plane's mirroring controller: Endpoints of a Service with a selector, or that say `skip-mirror`, are not
/// copied to slices; others are, and their copies follow them, so that a copy among the manifests is out of date.
pub(super) fn effective(objects: &BTreeMap<&Key, &Object>, node_name: &str, problems: &mut Vec<String>) -> Effective {
    let mut result = Effective::default();
    let mut with_selector = BTreeSet::new();
    let mut mirrored: BTreeMap<ObjectName, Vec<&EndpointSlice>> = BTreeMap::new();
    let mut with_slices = BTreeSet::new();
    for (key, object) in objects {
        match object {
            Object::Node(node) if *key.name.name == *node_name => result.node = Some(node.clone()),
            Object::Node(_) => {}
            Object::Service { service, has_selector } => {
                if *has_selector {
                    with_selector.insert(&service.name);
                }
                result.services.insert(service.name.clone(), service.clone());
            }
            Object::Slice { slice, mirrored: true } => mirrored.entry(service_of(slice)).or_default().push(slice),
            Object::Slice { slice, mirrored: false } => {
                with_slices.insert(service_of(slice));
                result.slices.insert(slice.name.clone(), slice.clone());
            }
            Object::Endpoints { .. } => {}
        }
    }
    for (key, object) in objects {
        let Object::Endpoints { slices, skip_mirror } = object else { continue };
        let name = &key.name;
        if *skip_mirror {
            problems.push(format!("{key}: left out, as its label endpointslice.kubernetes.io/skip-mirror asks"));
        } else if with_selector.contains(name) && (with_slices.contains(name) || mirrored.contains_key(name)) {
            problems.push(format!("{key}: left out, because its Service has a selector and EndpointSlices"));
        } else {
            for copy in mirrored.remove(name).into_iter().flatten() {
                let copy = Key { kind: Kind::EndpointSlice, name: copy.name.clone() };
                problems.push(format!("{copy}: left out, because it is a copy of {key}"));
            }
            result.slices.extend(slices.iter().map(|slice| (slice.name.clone(), slice.clone())));
        }
    }
    let kept = mirrored.into_values().flatten();
    result.slices.extend(kept.map(|slice| (slice.name.clone(), slice.clone())));
    result
}

fn service_of(slice: &EndpointSlice) -> ObjectName {
    ObjectName { namespace: slice.name.namespace.clone(), name: slice.service.clone() }
}

/// What leads from one to the other. New things come first, endpoints before Services, so that no Service lacks its
/// endpoints for a moment.
pub(super) fn difference(old: &Effective, new: &Effective) -> Vec<Event> {
    let mut events = Vec::new();
    if new.node != old.node {
        events.push(new.node.clone().map_or(Event::NodeDeleted, Event::NodeApplied));
    }
    let applied = new.slices.iter().filter(|(name, slice)| old.slices.get(name) != Some(slice));
    events.extend(applied.map(|(_, slice)| Event::SliceApplied(slice.clone())));
    let applied = new.services.iter().filter(|(name, service)| old.services.get(name) != Some(service));
    events.extend(applied.map(|(_, service)| Event::ServiceApplied(service.clone())));
    let gone = old.services.keys().filter(|name| !new.services.contains_key(name));
    events.extend(gone.cloned().map(Event::ServiceDeleted));
    let gone = old.slices.keys().filter(|name| !new.slices.contains_key(name));
    events.extend(gone.cloned().map(Event::SliceDeleted));
    events
}
