//! The naive model: keeps the objects as they are and works everything out anew at each question. What [`Model`] does
//! in increments must come to the same.
//!
//! [`Model`]: super::Model

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use lb_common::abi::{backend_state, scope};

use super::{Answer, DesiredBackend, DesiredPort, DesiredService, FrontendAddr};
use crate::event::{EndpointSlice, Event, FullList, ObjectName, Service, ServiceKind, ServicePort};

#[derive(Debug, Default)]
pub(super) struct Oracle {
    services: BTreeMap<ObjectName, Service>,
    slices: BTreeMap<ObjectName, EndpointSlice>,
}

impl Oracle {
    pub(super) fn apply(&mut self, event: Event) {
        match event {
            Event::ServiceApplied(service) => drop(self.services.insert(service.name.clone(), service)),
            Event::ServiceDeleted(name) => drop(self.services.remove(&name)),
            Event::ServicesReset(list) => reset(&mut self.services, list, |service| &service.name),
            Event::SliceApplied(slice) => drop(self.slices.insert(slice.name.clone(), slice)),
            Event::SliceDeleted(name) => drop(self.slices.remove(&name)),
            Event::SlicesReset(list) => reset(&mut self.slices, list, |slice| &slice.name),
            Event::NodeApplied(_) | Event::NodeDeleted | Event::AddressesChanged(_) => {}
        }
    }

    /// Everything that should be in the maps, by Service; Services without ports are left out.
    pub(super) fn desired(&self) -> BTreeMap<ObjectName, DesiredService> {
        let mut by_age: Vec<&Service> = self.services.values().filter(|s| s.kind == ServiceKind::ClusterIp).collect();
        by_age.sort_by_key(|service| (service.created_s, &service.name));
        let mut taken = BTreeSet::new();
        let mut desired = BTreeMap::new();
        for service in by_age {
            let mut ports = Vec::new();
            for port in &service.ports {
                let addresses =
                    service.cluster_ips.iter().map(|&ip| FrontendAddr { ip, port: port.port, scope: scope::INTERNAL });
                let free = addresses.filter(|addr| taken.insert((*addr, port.proto)));
                let frontends: BTreeMap<_, _> = free.map(|addr| (addr, Answer::default())).collect();
                if !frontends.is_empty() {
                    let backends = self.backends(service, port, &frontends);
                    ports.push(DesiredPort {
                        port_name: port.name.clone(),
                        proto: port.proto,
                        frontends,
                        affinity_s: service.affinity_s,
                        sources: service.source_ranges.clone(),
                        backends,
                    });
                }
            }
            if !ports.is_empty() {
                desired.insert(
                    service.name.clone(),
                    DesiredService { name: service.name.clone(), ports, guards: BTreeSet::new(), health_check: None },
                );
            }
        }
        desired
    }

    fn backends(
        &self,
        service: &Service,
        port: &ServicePort,
        frontends: &BTreeMap<FrontendAddr, Answer>,
    ) -> Vec<DesiredBackend> {
        let mut backends = Vec::new();
        for slice in self.slices.values() {
            if slice.name.namespace != service.name.namespace || slice.service != service.name.name {
                continue;
            }
            for slice_port in slice.ports.iter().filter(|p| p.name == port.name && p.proto == port.proto) {
                for endpoint in &slice.endpoints {
                    let state = match (endpoint.ready, endpoint.serving, endpoint.terminating) {
                        (true, _, _) => backend_state::READY,
                        (false, true, true) => backend_state::TERMINATING,
                        _ => backend_state::NOT_READY,
                    };
                    let reachable = frontends.keys().any(|f| f.ip.is_ipv4() == endpoint.address.is_ipv4());
                    if let (Some(number), true) = (slice_port.port, reachable) {
                        backends.push(DesiredBackend {
                            ip: endpoint.address,
                            port: number,
                            state,
                            in_cluster: endpoint.ready,
                            in_local: false,
                            node: endpoint.node.clone(),
                        });
                    }
                }
            }
        }
        let rank = |b: &DesiredBackend| (b.state == backend_state::READY, b.state == backend_state::TERMINATING);
        backends.sort_by_key(|b| (b.ip, b.port, Reverse(rank(b))));
        backends.dedup_by_key(|b| (b.ip, b.port));
        backends
    }
}

fn reset<T: Clone>(known: &mut BTreeMap<ObjectName, T>, list: FullList<T>, name: impl Fn(&T) -> &ObjectName) {
    known.retain(|name, _| list.unreadable.contains(name));
    known.extend(list.objects.into_iter().map(|object| (name(&object).clone(), object)));
}
