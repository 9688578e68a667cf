//! The naive model: keeps the objects as they are and works everything out anew at each question, straight from the rules
//! and with nothing of [`Model`]'s own. What that does in increments must come to the same.
//!
//! [`Model`]: super::Model

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use lb_common::abi::{Proto, backend_state, scope};

use super::{
    Answer, DesiredBackend, DesiredPort, DesiredService, EndpointSet, ExternalIps, FrontendAddr, HealthCheck,
    ModelConfig, NodePortAddresses,
};
use crate::event::{
    Endpoint, EndpointSlice, Event, FullList, Node, ObjectName, Service, ServiceKind, ServicePort, TrafficPolicy,
};

#[derive(Debug, Default)]
pub(super) struct Oracle {
    config: ModelConfig,
    services: BTreeMap<ObjectName, Service>,
    slices: BTreeMap<ObjectName, EndpointSlice>,
    node: Node,
    addresses: BTreeSet<IpAddr>,
}

/// A Service's wish for an address and port.
struct Wish<'a> {
    service: &'a Service,
    port: usize,
    frontend: FrontendAddr,
    proto: Proto,
    answer: Answer,
    /// Among Services the least wins, then the older, then the first by name.
    rank: u8,
    /// Within a Service the greatest wins.
    last: u8,
}

impl Oracle {
    pub(super) fn new(config: ModelConfig) -> Self {
        Self { config, ..Self::default() }
    }

    pub(super) fn apply(&mut self, event: Event) {
        match event {
            Event::ServiceApplied(service) => drop(self.services.insert(service.name.clone(), service)),
            Event::ServiceDeleted(name) => drop(self.services.remove(&name)),
            Event::ServicesReset(list) => reset(&mut self.services, list, |service| &service.name),
            Event::SliceApplied(slice) => drop(self.slices.insert(slice.name.clone(), slice)),
            Event::SliceDeleted(name) => drop(self.slices.remove(&name)),
            Event::SlicesReset(list) => reset(&mut self.slices, list, |slice| &slice.name),
            Event::NodeApplied(node) => self.node = node,
            Event::NodeDeleted | Event::Pods(_) => {}
            Event::AddressesChanged(addresses) => self.addresses = addresses,
        }
    }

    /// Everything that should be in the maps, by Service, for all Services with a cluster address.
    pub(super) fn desired(&self) -> BTreeMap<ObjectName, DesiredService> {
        let served = || self.services.values().filter(|service| service.kind == ServiceKind::ClusterIp);
        let wishes: Vec<Wish<'_>> = served().flat_map(|service| self.wishes(service)).collect();
        let mut best: BTreeMap<(FrontendAddr, Proto), &Wish<'_>> = BTreeMap::new();
        for wish in &wishes {
            let known = best.entry((wish.frontend, wish.proto)).or_insert(wish);
            let among = |w: &Wish<'_>| (w.rank, w.service.created_s, w.service.name.clone());
            if among(wish) < among(known) {
                *known = wish;
            }
        }
        let mut given: BTreeMap<(&ObjectName, usize), BTreeMap<FrontendAddr, Answer>> = BTreeMap::new();
        for ((frontend, proto), winner) in best {
            let own = wishes
                .iter()
                .filter(|w| (w.frontend, w.proto) == (frontend, proto) && w.service.name == winner.service.name);
            if let Some(wish) = own.max_by_key(|wish| wish.last) {
                given.entry((&wish.service.name, wish.port)).or_default().insert(frontend, wish.answer);
            }
        }
        served().map(|service| (service.name.clone(), self.service(service, &given))).collect()
    }

    fn service(
        &self,
        service: &Service,
        given: &BTreeMap<(&ObjectName, usize), BTreeMap<FrontendAddr, Answer>>,
    ) -> DesiredService {
        let mut ports = Vec::new();
        for (index, port) in service.ports.iter().enumerate() {
            let Some(frontends) = given.get(&(&service.name, index)) else { continue };
            let mut backends = self.backends(service, port, frontends, true);
            backends.extend(self.backends(service, port, frontends, false));
            let mut sources = service.source_ranges.clone();
            let open = |v4: bool| service.source_ranges.iter().any(|r| r.addr().is_ipv4() == v4 && r.prefix_len() == 0);
            sources.retain(|range| !open(range.addr().is_ipv4()));
            if !frontends.values().any(|answer| answer.restricted) {
                sources.clear();
            }
            ports.push(DesiredPort {
                port_name: port.name.clone(),
                proto: port.proto,
                frontends: frontends.clone(),
                affinity_s: service.affinity_s,
                sources,
                backends,
            });
        }
        let (guards, health_check) = (self.guards(service), self.health_check(service));
        DesiredService { name: service.name.clone(), ports, guards, health_check }
    }

    fn wishes<'a>(&self, service: &'a Service) -> Vec<Wish<'a>> {
        let mut wishes = Vec::new();
        let families: Vec<bool> = service.cluster_ips.iter().map(IpAddr::is_ipv4).collect();
        for (index, port) in service.ports.iter().enumerate() {
            let mut wish = |ip: IpAddr, number: u16, scope: u8, answer: Answer, rank: u8, last: u8| {
                if families.contains(&ip.is_ipv4()) {
                    let frontend = FrontendAddr { ip, port: number, scope };
                    wishes.push(Wish { service, port: index, frontend, proto: port.proto, answer, rank, last });
                }
            };
            let follow =
                |policy| if policy == TrafficPolicy::Local { EndpointSet::Local } else { EndpointSet::Cluster };
            let here = Answer { set: EndpointSet::Cluster, outside: EndpointSet::Cluster, restricted: false };
            let open = Answer { outside: follow(service.external_policy), ..here };
            if let Some(number) = port.node_port {
                for any in ["0.0.0.0", "::"] {
                    wish(any.parse().unwrap(), number, scope::BIND, here, 2, 0);
                }
                for &ip in self.addresses.iter().filter(|ip| self.answers_node_ports(**ip)) {
                    let (scope, answer) = if ip.is_loopback() { (scope::HOST, here) } else { (scope::INTERNAL, open) };
                    wish(ip, number, scope, answer, 2, 0);
                }
            }
            for &ip in &service.cluster_ips {
                let set = follow(service.internal_policy);
                wish(ip, port.port, scope::INTERNAL, Answer { set, outside: set, restricted: false }, 0, 1);
            }
            for ip in service.external_ips.iter().copied().filter(|ip| self.allows(*ip)) {
                if !self.is_api_server(ip, port) {
                    wish(ip, port.port, scope::INTERNAL, open, 1, 2);
                }
            }
            for &ip in &service.ingress_ips {
                let own: Vec<_> = service.source_ranges.iter().filter(|r| r.addr().is_ipv4() == ip.is_ipv4()).collect();
                let restricted = !own.is_empty() && !own.iter().any(|range| range.prefix_len() == 0);
                if !self.is_api_server(ip, port) {
                    wish(ip, port.port, scope::INTERNAL, Answer { restricted, ..open }, 1, 3);
                }
            }
        }
        wishes
    }

    fn answers_node_ports(&self, ip: IpAddr) -> bool {
        match &self.config.nodeport_addresses {
            NodePortAddresses::Primary => {
                let known = self.node.addresses.iter().any(|own| own.is_ipv4() == ip.is_ipv4());
                !ip.is_loopback() && (!known || self.node.addresses.contains(&ip))
            }
            NodePortAddresses::Prefixes(prefixes) if ip.is_loopback() => {
                prefixes.iter().any(|prefix| prefix.network().is_loopback() && prefix.contains(&ip))
            }
            NodePortAddresses::Prefixes(prefixes) => {
                let known = prefixes.iter().any(|prefix| prefix.addr().is_ipv4() == ip.is_ipv4());
                !known || prefixes.iter().any(|prefix| prefix.contains(&ip))
            }
        }
    }

    fn allows(&self, ip: IpAddr) -> bool {
        match &self.config.external_ips {
            ExternalIps::All => true,
            ExternalIps::None => false,
            ExternalIps::Within(prefixes) => prefixes.iter().any(|prefix| prefix.contains(&ip)),
        }
    }

    fn is_api_server(&self, ip: IpAddr, port: &ServicePort) -> bool {
        port.proto == Proto::Tcp && self.config.api_servers.contains(&SocketAddr::new(ip, port.port))
    }

    fn guards(&self, service: &Service) -> BTreeSet<IpAddr> {
        let others = || self.services.values().filter(|s| s.kind == ServiceKind::ClusterIp);
        let age = |s: &Service| (s.created_s, s.name.clone());
        let mut guards: BTreeSet<IpAddr> = service.cluster_ips.iter().copied().collect();
        guards.retain(|ip| !self.addresses.contains(ip) && !self.node.addresses.contains(ip));
        guards.retain(|ip| {
            others().filter(|other| other.cluster_ips.contains(ip)).all(|other| age(service) <= age(other))
        });
        guards
    }

    fn is_local(&self, endpoint: &Endpoint) -> bool {
        endpoint.node.as_deref() == Some(&*self.config.node_name)
    }

    fn health_check(&self, service: &Service) -> Option<HealthCheck> {
        let port = service.health_check_port?;
        let has = |v4: bool| service.cluster_ips.iter().any(|ip| ip.is_ipv4() == v4);
        let local = |v4: bool| has(v4).then(|| self.local_ready(service, v4));
        Some(HealthCheck { port, local_v4: local(true), local_v6: local(false) })
    }

    fn local_ready(&self, service: &Service, v4: bool) -> usize {
        let mut names: Vec<_> = self.slices_of(service).flat_map(|slice| &slice.ports).collect();
        names.sort_by(|a, b| (&a.name, a.proto).cmp(&(&b.name, b.proto)));
        let mut local = BTreeSet::new();
        for name in names {
            let all = self.endpoints(service, &name.name, name.proto, v4);
            local.extend(all.into_iter().filter(|(_, e)| e.ready && self.is_local(e)).map(|(at, _)| at.ip()));
        }
        local.len()
    }

    fn slices_of(&self, service: &Service) -> impl Iterator<Item = &EndpointSlice> {
        let name = service.name.clone();
        self.slices.values().filter(move |s| s.name.namespace == name.namespace && s.service == name.name)
    }

    /// Each endpoint of a port once.
    fn endpoints(&self, service: &Service, name: &str, proto: Proto, v4: bool) -> Vec<(SocketAddr, &Endpoint)> {
        let mut all = Vec::new();
        for slice in self.slices_of(service) {
            for port in slice.ports.iter().filter(|p| *p.name == *name && p.proto == proto) {
                for endpoint in slice.endpoints.iter().filter(|e| e.address.is_ipv4() == v4) {
                    all.extend(port.port.map(|number| (SocketAddr::new(endpoint.address, number), endpoint)));
                }
            }
        }
        let usable = |e: &Endpoint| (!e.terminating, e.ready, !e.ready && e.serving && e.terminating);
        all.sort_by_key(|(at, e)| (*at, Reverse(usable(e))));
        all.dedup_by_key(|(at, _)| *at);
        all
    }

    fn backends(
        &self,
        service: &Service,
        port: &ServicePort,
        frontends: &BTreeMap<FrontendAddr, Answer>,
        v4: bool,
    ) -> Vec<DesiredBackend> {
        let leading: Vec<_> =
            frontends.iter().filter(|(f, _)| f.ip.is_ipv4() == v4 && f.scope != scope::BIND).collect();
        if leading.is_empty() {
            return Vec::new();
        }
        let asked = |set: EndpointSet| leading.iter().any(|(_, answer)| answer.set == set || answer.outside == set);
        let all = self.endpoints(service, &port.name, port.proto, v4);
        let ready: Vec<&Endpoint> = all.iter().map(|(_, e)| *e).filter(|e| e.ready).collect();
        let mut cluster = self.nearest(&ready);
        let fallback = |e: &Endpoint| !e.ready && e.serving && e.terminating;
        if ready.is_empty() {
            cluster = all.iter().map(|(_, e)| *e).filter(|e| fallback(e)).collect();
        }
        let mut local: Vec<&Endpoint> = ready.iter().copied().filter(|e| self.is_local(e)).collect();
        if local.is_empty() {
            local = all.iter().map(|(_, e)| *e).filter(|e| fallback(e) && self.is_local(e)).collect();
        }
        let is_in = |set: &[&Endpoint], e: &Endpoint| set.iter().any(|other| std::ptr::eq(*other, e));
        all.iter()
            .map(|(at, e)| DesiredBackend {
                ip: at.ip(),
                port: at.port(),
                state: match (e.ready, e.serving, e.terminating) {
                    (true, _, _) => backend_state::READY,
                    (false, true, true) => backend_state::TERMINATING,
                    _ => backend_state::NOT_READY,
                },
                in_cluster: asked(EndpointSet::Cluster) && is_in(&cluster, e),
                in_local: asked(EndpointSet::Local) && is_in(&local, e),
                on_node: self.is_local(e),
                node: e.node.clone(),
            })
            .collect()
    }

    /// What topology hints leave of the ready endpoints.
    fn nearest<'a>(&self, ready: &[&'a Endpoint]) -> Vec<&'a Endpoint> {
        let nodes = |e: &Endpoint| e.hints.as_ref().map(|h| h.nodes.clone()).unwrap_or_default();
        let zones = |e: &Endpoint| e.hints.as_ref().map(|h| h.zones.clone()).unwrap_or_default();
        if ready.iter().all(|e| !nodes(e).is_empty()) {
            let here: Vec<_> = ready
                .iter()
                .copied()
                .filter(|e| nodes(e).iter().any(|node| **node == *self.config.node_name))
                .collect();
            if !here.is_empty() {
                return here;
            }
        }
        if let Some(zone) = &self.node.zone
            && ready.iter().all(|e| !zones(e).is_empty())
        {
            let here: Vec<_> = ready.iter().copied().filter(|e| zones(e).contains(zone)).collect();
            if !here.is_empty() {
                return here;
            }
        }
        ready.to_vec()
    }
}

fn reset<T: Clone>(known: &mut BTreeMap<ObjectName, T>, list: FullList<T>, name: impl Fn(&T) -> &ObjectName) {
    known.retain(|name, _| list.unreadable.contains(name));
    known.extend(list.objects.into_iter().map(|object| (name(&object).clone(), object)));
}
