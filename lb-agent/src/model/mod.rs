//! What Kubernetes means: from Services and EndpointSlices to frontends and backends, as seen from this node.
//!
//! Synchronous and pure: no client, no clock, no I/O, no map. Events go in through [`Model::apply`], which returns the
//! Services that may have changed; [`Model::desired`] says what such a Service should be. The answer depends only on the
//! objects there are, never on the order in which they came.
//! Headless and ExternalName Services and those of other proxies have no [`DesiredPort`].

mod claims;
mod config;
mod desired;
mod endpoints;
mod frontends;
mod guards;
#[cfg(test)]
mod histories;
mod node;
#[cfg(test)]
mod oracle;
mod sources;
#[cfg(test)]
mod tests;
mod unread;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    mem,
    net::IpAddr,
};

use arcstr::ArcStr;
use lb_common::abi::scope;

pub use self::{
    claims::Conflict,
    config::{ExternalIps, ModelConfig, NodePortAddresses},
    desired::{Answer, DesiredBackend, DesiredPort, DesiredService, EndpointSet, FrontendAddr, HealthCheck},
    frontends::Refusal,
};
use self::{
    claims::{Claim, Claims},
    endpoints::{Asked, Here},
    frontends::Wants,
    guards::Guards,
    node::NodeView,
    unread::Unread,
};
use crate::event::{EndpointSlice, Event, FullList, Node, ObjectName, Service, ServiceKind, ServicePort};

/// All Services and EndpointSlices, this node, and who holds which address.
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
    node: NodeView,
    /// By the Service's name; there as long as the Service or one of its slices is.
    entries: BTreeMap<ObjectName, Entry>,
    /// The Service (of the same namespace) that each slice belongs to.
    owners: BTreeMap<ObjectName, ArcStr>,
    claims: Claims<Claim>,
    guards: Guards,
    /// Of the Services that name an address which they do not get, whoever else there is.
    refusals: BTreeMap<ObjectName, Vec<Refusal>>,
    unread_services: Unread,
    unread_slices: Unread,
    seen: Seen,
}

/// Of what the state has been seen in full.
#[derive(Debug, Default)]
struct Seen {
    services: bool,
    slices: bool,
    node: bool,
    addresses: bool,
}

impl Default for Model {
    fn default() -> Self {
        Self::new(ModelConfig::default())
    }
}

/// A Service with its slices. Either may come first, and a slice may outlive its Service.
#[derive(Debug, Default)]
struct Entry {
    /// Boxed: the tree of entries has room for nearly twice as many as there are.
    service: Option<Box<Service>>,
    /// Sorted by name. Most Services have one or two, for which a map would be mostly empty space.
    slices: Vec<EndpointSlice>,
}

impl Entry {
    /// Where the slice of this name is, or would have to be.
    fn find(&self, slice: &str) -> Result<usize, usize> {
        self.slices.binary_search_by(|other| (*other.name.name).cmp(slice))
    }

    fn has_zone_hints(&self) -> bool {
        let hints =
            self.slices.iter().flat_map(|slice| &slice.endpoints).filter_map(|endpoint| endpoint.hints.as_ref());
        hints.into_iter().any(|hints| !hints.zones.is_empty())
    }
}

impl Model {
    /// Knows nothing yet.
    pub fn new(config: ModelConfig) -> Self {
        Self {
            node: NodeView::new(config.nodeport_addresses.clone()),
            config,
            entries: BTreeMap::new(),
            owners: BTreeMap::new(),
            claims: Claims::default(),
            guards: Guards::default(),
            refusals: BTreeMap::new(),
            unread_services: Unread::default(),
            unread_slices: Unread::default(),
            seen: Seen::default(),
        }
    }

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
            Event::NodeApplied(node) => self.put_node(node, &mut dirty),
            // Its zone and addresses are those that it had until the agent ends, as kube-proxy's are that it read at its
            // start: what goes away now must not answer at other addresses meanwhile.
            Event::NodeDeleted => self.seen.node = true,
            Event::AddressesChanged(addresses) => self.put_addresses(addresses, &mut dirty),
            // Says nothing about Services.
            Event::Pods(_) => {}
        }
        dirty
    }

    /// Whether the full lists of Services and slices have been seen, and the node and its addresses. Before that the
    /// answers of [`Self::desired`] lack something and must not be programmed: a Service whose slices are still to come
    /// would refuse its clients.
    pub fn in_sync(&self) -> bool {
        let Seen { services, slices, node, addresses } = self.seen;
        services && slices && node && addresses
    }

    /// Whether what [`Self::desired`] says of a Service follows from what the source said of it. Not so if the source
    /// cannot read it, or if it cannot read a slice that may be the Service's while the Service has none that it can: then
    /// what an earlier agent has programmed is better than nothing.
    pub fn is_certain(&self, name: &ObjectName) -> bool {
        match self.entries.get(name) {
            Some(Entry { service: Some(service), slices }) => {
                let is_served = service.kind == ServiceKind::ClusterIp;
                !is_served || !slices.is_empty() || !self.unread_slices.may_be_in(&name.namespace)
            }
            _ => !self.unread_services.may_be(name),
        }
    }

    /// The names of all Services, in order, also of those that have no port to serve.
    pub fn services(&self) -> impl Iterator<Item = &ObjectName> {
        self.entries.iter().filter(|(_, entry)| entry.service.is_some()).map(|(name, _)| name)
    }

    /// What this Service should be in the maps. Without ports if there is no such Service, if it is not ours to serve,
    /// or if other Services hold all its addresses.
    pub fn desired(&self, name: &ObjectName) -> DesiredService {
        let mut desired =
            DesiredService { name: name.clone(), ports: Vec::new(), guards: BTreeSet::new(), health_check: None };
        let Some(entry) = self.entries.get(name) else { return desired };
        let Some(service) = entry.service.as_deref().filter(|service| service.kind == ServiceKind::ClusterIp) else {
            return desired;
        };
        let mut frontends = vec![BTreeMap::new(); service.ports.len()];
        for (claim, want) in self.wants(service) {
            if self.claims.holder(&claim) == Some(name) {
                frontends[want.port].insert(claim.frontend, want.answer);
            }
        }
        let ports = service.ports.iter().zip(frontends).filter(|(_, frontends)| !frontends.is_empty());
        desired.ports = ports.map(|(port, frontends)| self.desired_port(service, port, frontends, entry)).collect();
        desired.guards = self.guarded(service).collect();
        desired.health_check = self.health_check(service, entry);
        desired
    }

    /// Services that want an address and port which another Service holds.
    pub fn conflicts(&self) -> impl Iterator<Item = Conflict> {
        self.claims.conflicts()
    }

    /// Addresses that Services name and do not get, whoever else wants them.
    pub fn refusals(&self) -> impl Iterator<Item = &Refusal> {
        self.refusals.values().flatten()
    }

    /// The node's addresses that answer to NodePorts, sorted.
    pub fn nodeport_addresses(&self) -> impl Iterator<Item = IpAddr> + Clone {
        self.node.nodeport_addresses().iter().map(|(ip, _)| *ip)
    }

    fn here(&self) -> Here<'_> {
        Here { node: &self.config.node_name, zone: self.node.object().zone.as_deref() }
    }

    fn wants(&self, service: &Service) -> Wants {
        frontends::of_service(service, &self.config, &self.node)
    }

    fn desired_port(
        &self,
        service: &Service,
        port: &ServicePort,
        frontends: BTreeMap<FrontendAddr, Answer>,
        entry: &Entry,
    ) -> DesiredPort {
        let mut backends = Vec::new();
        for v4 in [true, false] {
            if let Some(asked) = asked(&frontends, v4) {
                let merged = endpoints::merge(&port.name, port.proto, entry.slices.iter(), v4);
                backends.extend(endpoints::categorise(merged, asked, self.here()));
            }
        }
        let restricted = frontends.values().any(|answer| answer.restricted);
        DesiredPort {
            port_name: port.name.clone(),
            proto: port.proto,
            frontends,
            affinity_s: service.affinity_s,
            sources: if restricted { sources::ranges(service) } else { Vec::new() },
            backends,
        }
    }

    fn guarded(&self, service: &Service) -> impl Iterator<Item = IpAddr> {
        let guards = |ip: &IpAddr| self.guards.holder(*ip) == Some(&service.name) && !self.node.is_own(*ip);
        service.cluster_ips.iter().copied().filter(guards)
    }

    fn health_check(&self, service: &Service, entry: &Entry) -> Option<HealthCheck> {
        let port = service.health_check_port?;
        let local = |v4: bool| {
            let has_family = service.cluster_ips.iter().any(|ip| ip.is_ipv4() == v4);
            has_family.then(|| endpoints::local_ready(&entry.slices, v4, self.here()))
        };
        Some(HealthCheck { port, local_v4: local(true), local_v6: local(false) })
    }

    fn put_node(&mut self, object: Node, dirty: &mut BTreeSet<ObjectName>) {
        let zone_changed = object.zone != self.node.object().zone;
        self.replace_node(self.node.with(Some(object), None), dirty);
        if zone_changed {
            let hinted = self.entries.iter().filter(|(_, entry)| entry.service.is_some() && entry.has_zone_hints());
            dirty.extend(hinted.map(|(name, _)| name.clone()));
        }
        self.seen.node = true;
    }

    fn put_addresses(&mut self, addresses: BTreeSet<IpAddr>, dirty: &mut BTreeSet<ObjectName>) {
        self.replace_node(self.node.with(None, Some(addresses)), dirty);
        self.seen.addresses = true;
    }

    /// Looks at every Service only if NodePorts move, which is rare; interfaces come and go with pods.
    fn replace_node(&mut self, new: NodeView, dirty: &mut BTreeSet<ObjectName>) {
        let old = mem::replace(&mut self.node, new);
        let known = old.own().chain(self.node.own());
        let changed = known.filter(|ip| old.is_own(*ip) != self.node.is_own(*ip));
        dirty.extend(changed.filter_map(|ip| self.guards.holder(ip).cloned()));
        if old.nodeport_addresses() == self.node.nodeport_addresses() {
            return;
        }
        let services = self.entries.values().filter_map(|entry| entry.service.as_deref());
        for service in services.filter(|service| service.ports.iter().any(|port| port.node_port.is_some())) {
            let before = frontends::of_service(service, &self.config, &old);
            let after = frontends::of_service(service, &self.config, &self.node);
            move_claims(&mut self.claims, (Some(service), before), (Some(service), after), dirty);
            dirty.insert(service.name.clone());
        }
    }

    fn put_service(&mut self, service: Service, dirty: &mut BTreeSet<ObjectName>) {
        self.unread_services.settle(&service.name);
        let entry = self.entries.entry(service.name.clone()).or_default();
        if entry.service.as_deref() == Some(&service) {
            return;
        }
        let old = entry.service.take();
        self.replace_claims(old.as_deref(), Some(&service), dirty);
        let refusals = frontends::refusals(&service, &self.config);
        if refusals.is_empty() {
            self.refusals.remove(&service.name);
        } else {
            self.refusals.insert(service.name.clone(), refusals);
        }
        let name = service.name.clone();
        self.entries.entry(name.clone()).or_default().service = Some(Box::new(service));
        dirty.insert(name);
    }

    fn remove_service(&mut self, name: &ObjectName, dirty: &mut BTreeSet<ObjectName>) {
        self.unread_services.settle(name);
        let Some(entry) = self.entries.get_mut(name) else { return };
        let Some(old) = entry.service.take() else { return };
        if entry.slices.is_empty() {
            self.entries.remove(name);
        }
        self.refusals.remove(name);
        self.replace_claims(Some(&old), None, dirty);
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
        self.unread_services = Unread::new(list.unreadable, list.unnamed);
        self.seen.services = true;
    }

    fn replace_claims(&mut self, old: Option<&Service>, new: Option<&Service>, dirty: &mut BTreeSet<ObjectName>) {
        self.guards.replace(old, new, dirty);
        let wants = |service: Option<&Service>| service.map(|s| self.wants(s)).unwrap_or_default();
        let (before, after) = (wants(old), wants(new));
        move_claims(&mut self.claims, (old, before), (new, after), dirty);
    }

    fn put_slice(&mut self, slice: EndpointSlice, dirty: &mut BTreeSet<ObjectName>) {
        self.unread_slices.settle(&slice.name);
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
        self.unread_slices.settle(name);
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
        self.unread_slices = Unread::new(list.unreadable, list.unnamed);
        self.seen.slices = true;
    }
}

/// Gives back what the old form of a Service claimed and the new one does not, and takes the rest. Those who gain or lose an
/// address by it are dirty too.
fn move_claims(
    claims: &mut Claims<Claim>,
    (old, before): (Option<&Service>, Wants),
    (new, after): (Option<&Service>, Wants),
    dirty: &mut BTreeSet<ObjectName>,
) {
    let claimant = |service: Option<&Service>, wants: &Wants, claim: &Claim| {
        Some(frontends::claimant(service?, wants.get(claim)?.field))
    };
    for claim in before.keys() {
        if let Some(then) = claimant(old, &before, claim)
            && claimant(new, &after, claim).as_ref() != Some(&then)
        {
            dirty.extend(claims.release(claim, &then));
        }
    }
    for claim in after.keys() {
        if let Some(now) = claimant(new, &after, claim)
            && claimant(old, &before, claim).as_ref() != Some(&now)
        {
            dirty.extend(claims.take(*claim, now));
        }
    }
}

/// Which sets of endpoints the frontends of a family ask for; `None` where it has none that lead anywhere.
fn asked(frontends: &BTreeMap<FrontendAddr, Answer>, v4: bool) -> Option<Asked> {
    let leads = |frontend: &FrontendAddr| frontend.ip.is_ipv4() == v4 && frontend.scope != scope::BIND;
    let of_family = frontends.iter().filter(|(frontend, _)| leads(frontend));
    let sets: BTreeSet<EndpointSet> = of_family.flat_map(|(_, answer)| [answer.set, answer.outside]).collect();
    let asks = |set| sets.contains(&set);
    (!sets.is_empty()).then(|| Asked { cluster: asks(EndpointSet::Cluster), local: asks(EndpointSet::Local) })
}

fn service_of(slice: &ObjectName, service: &ArcStr) -> ObjectName {
    ObjectName { namespace: slice.namespace.clone(), name: service.clone() }
}

fn names<T>(list: &FullList<T>, name: impl Fn(&T) -> &ObjectName) -> HashSet<ObjectName> {
    list.objects.iter().map(name).chain(&list.unreadable).cloned().collect()
}
