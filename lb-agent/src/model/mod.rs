//! What Kubernetes means: from Services and EndpointSlices to frontends and backends, as seen from this node.
//!
//! Synchronous and pure: no client, no clock, no I/O, no map. Events go in through [`Model::apply`], which returns the
//! Services that may have changed; [`Model::desired`] says what such a Service should be. The answer depends only on the
//! objects there are, never on the order in which they came.
//! Headless and ExternalName Services and those of other proxies have no [`DesiredPort`].

mod claims;
mod desired;
mod endpoints;
mod frontends;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use self::claims::{Claimant, Claims};
pub use self::{
    claims::Conflict,
    desired::{Answer, DesiredBackend, DesiredPort, DesiredService, EndpointSet, FrontendAddr, HealthCheck},
};
use crate::event::{EndpointSlice, Event, FullList, ObjectName, Service, ServicePort};

/// All Services and EndpointSlices, and who holds which address.
#[derive(Debug, Default)]
pub struct Model {
    /// By the Service's name; there as long as the Service or one of its slices is.
    entries: BTreeMap<ObjectName, Entry>,
    /// The Service (of the same namespace) that each slice belongs to.
    owners: BTreeMap<ObjectName, Arc<str>>,
    claims: Claims,
    services_listed: bool,
    slices_listed: bool,
}

/// A Service with its slices. Either may come first, and a slice may outlive its Service.
#[derive(Debug, Default)]
struct Entry {
    service: Option<Service>,
    /// Sorted by name. Most Services have one or two, for which a map would be mostly empty space.
    slices: Vec<EndpointSlice>,
}

impl Entry {
    /// Where the slice of this name is, or would have to be.
    fn find(&self, slice: &str) -> Result<usize, usize> {
        self.slices.binary_search_by(|other| (*other.name.name).cmp(slice))
    }
}

impl Model {
    /// Takes in an event. Returns the Services for which [`Self::desired`] may now say something else, in order of
    /// their names; an event that changes nothing returns none.
    pub fn apply(&mut self, event: Event) -> BTreeSet<ObjectName> {
        let mut dirty = BTreeSet::new();
        match event {
            Event::ServiceApplied(service) => self.put_service(service, &mut dirty),
            Event::ServiceDeleted(name) => self.remove_service(&name, &mut dirty),
            Event::ServicesReset(list) => self.reset_services(list, &mut dirty),
            Event::SliceApplied(slice) => self.put_slice(slice, &mut dirty),
            Event::SliceDeleted(name) => self.remove_slice(&name, &mut dirty),
            Event::SlicesReset(list) => self.reset_slices(list, &mut dirty),
            Event::NodeApplied(_) | Event::NodeDeleted | Event::AddressesChanged(_) => {}
        }
        dirty
    }

    /// Whether the full list of both kinds has been seen. Before that the answers of [`Self::desired`] lack objects and
    /// must not be programmed: a Service whose slices are still to come would refuse its clients.
    pub fn in_sync(&self) -> bool {
        self.services_listed && self.slices_listed
    }

    /// The names of all Services, in order, also of those that have no port to serve.
    pub fn services(&self) -> impl Iterator<Item = &ObjectName> {
        self.entries.iter().filter(|(_, entry)| entry.service.is_some()).map(|(name, _)| name)
    }

    /// What this Service should be in the maps. Without ports if there is no such Service, if it is not ours to serve,
    /// or if other Services hold all its addresses.
    pub fn desired(&self, name: &ObjectName) -> DesiredService {
        let entry = self.entries.get(name);
        let ports = entry.and_then(|entry| Some((entry, entry.service.as_ref()?))).map(|(entry, service)| {
            service.ports.iter().filter_map(|port| self.desired_port(service, port, entry)).collect()
        });
        let ports = ports.unwrap_or_default();
        DesiredService { name: name.clone(), ports, guards: BTreeSet::new(), health_check: None }
    }

    /// Services that want an address and port which an older Service holds.
    pub fn conflicts(&self) -> impl Iterator<Item = Conflict> {
        self.claims.conflicts()
    }

    fn desired_port(&self, service: &Service, port: &ServicePort, entry: &Entry) -> Option<DesiredPort> {
        let frontends: BTreeMap<FrontendAddr, Answer> = frontends::of_port(service, port)
            .filter(|claim| self.claims.is_held_by(claim, &service.name))
            .map(|claim| (claim.frontend, Answer::default()))
            .collect();
        if frontends.is_empty() {
            return None;
        }
        let merged = endpoints::merge(port, entry.slices.iter(), endpoints::Families::of(&frontends));
        Some(DesiredPort {
            port_name: port.name.clone(),
            proto: port.proto,
            frontends,
            affinity_s: service.affinity_s,
            sources: service.source_ranges.clone(),
            backends: endpoints::categorise(merged),
        })
    }

    fn put_service(&mut self, service: Service, dirty: &mut BTreeSet<ObjectName>) {
        let entry = self.entries.entry(service.name.clone()).or_default();
        if entry.service.as_ref() == Some(&service) {
            return;
        }
        let old = entry.service.take();
        self.move_claims(old.as_ref(), Some(&service), dirty);
        let name = service.name.clone();
        self.entries.entry(name.clone()).or_default().service = Some(service);
        dirty.insert(name);
    }

    fn remove_service(&mut self, name: &ObjectName, dirty: &mut BTreeSet<ObjectName>) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        let Some(old) = entry.service.take() else { return };
        if entry.slices.is_empty() {
            self.entries.remove(name);
        }
        self.move_claims(Some(&old), None, dirty);
        dirty.insert(old.name);
    }

    fn reset_services(&mut self, list: FullList<Service>, dirty: &mut BTreeSet<ObjectName>) {
        let existing = names(&list, |service| &service.name);
        let gone: Vec<ObjectName> = self.services().filter(|name| !existing.contains(*name)).cloned().collect();
        for name in &gone {
            self.remove_service(name, dirty);
        }
        for service in list.objects {
            self.put_service(service, dirty);
        }
        self.services_listed = true;
    }

    /// Gives back what the old form of a Service claimed and the new one does not, and takes the rest. Those who gain or
    /// lose an address by it are dirty too.
    fn move_claims(&mut self, old: Option<&Service>, new: Option<&Service>, dirty: &mut BTreeSet<ObjectName>) {
        let claimant = |service: &Service| Claimant { created_s: service.created_s, name: service.name.clone() };
        let same_rank = old.map(claimant) == new.map(claimant);
        let before: BTreeSet<_> = old.into_iter().flat_map(frontends::of_service).collect();
        let after: BTreeSet<_> = new.into_iter().flat_map(frontends::of_service).collect();
        if let Some(old) = old {
            for claim in before.iter().filter(|claim| !same_rank || !after.contains(*claim)) {
                dirty.extend(self.claims.release(claim, &claimant(old)));
            }
        }
        if let Some(new) = new {
            for claim in after.iter().filter(|claim| !same_rank || !before.contains(*claim)) {
                dirty.extend(self.claims.take(*claim, claimant(new)));
            }
        }
    }

    fn put_slice(&mut self, slice: EndpointSlice, dirty: &mut BTreeSet<ObjectName>) {
        if self.owners.get(&slice.name).is_some_and(|owner| *owner != slice.service) {
            // Its label was changed: it moves from one Service to another.
            self.remove_slice(&slice.name, dirty);
        }
        let service = service_of(&slice.name, &slice.service);
        let entry = self.entries.entry(service.clone()).or_default();
        match entry.find(&slice.name.name) {
            Ok(at) if entry.slices[at] == slice => return,
            Ok(at) => entry.slices[at] = slice,
            Err(at) => {
                self.owners.insert(slice.name.clone(), slice.service.clone());
                entry.slices.reserve_exact(1);
                entry.slices.insert(at, slice);
            }
        }
        if entry.service.is_some() {
            dirty.insert(service);
        }
    }

    fn remove_slice(&mut self, name: &ObjectName, dirty: &mut BTreeSet<ObjectName>) {
        let Some(owner) = self.owners.remove(name) else { return };
        let service = service_of(name, &owner);
        let Some(entry) = self.entries.get_mut(&service) else { return };
        if let Ok(at) = entry.find(&name.name) {
            entry.slices.remove(at);
            entry.slices.shrink_to_fit();
        }
        if entry.service.is_some() {
            dirty.insert(service);
        } else if entry.slices.is_empty() {
            self.entries.remove(&service);
        }
    }

    fn reset_slices(&mut self, list: FullList<EndpointSlice>, dirty: &mut BTreeSet<ObjectName>) {
        let existing = names(&list, |slice| &slice.name);
        let gone: Vec<ObjectName> = self.owners.keys().filter(|name| !existing.contains(*name)).cloned().collect();
        for name in &gone {
            self.remove_slice(name, dirty);
        }
        for slice in list.objects {
            self.put_slice(slice, dirty);
        }
        self.slices_listed = true;
    }
}

fn service_of(slice: &ObjectName, service: &Arc<str>) -> ObjectName {
    ObjectName { namespace: slice.namespace.clone(), name: service.clone() }
}

fn names<T>(list: &FullList<T>, name: impl Fn(&T) -> &ObjectName) -> HashSet<ObjectName> {
    list.objects.iter().map(name).chain(&list.unreadable).cloned().collect()
}
