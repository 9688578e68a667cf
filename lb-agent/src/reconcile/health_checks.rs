//! What load balancers' health checks are to be told, collected as the Services come by.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{event::ObjectName, model::HealthCheck};

/// What is to be served, all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    /// The node's addresses for NodePorts, on each of which every port is open.
    pub addresses: BTreeSet<IpAddr>,
    /// By Service, those only that ask for it.
    pub services: BTreeMap<ObjectName, HealthCheck>,
}

/// What is known, and whether it was told.
#[derive(Debug, Default)]
pub(super) struct HealthChecks {
    known: Checks,
    changed: bool,
}

impl HealthChecks {
    /// This is what the Service asks for now.
    pub(super) fn set(&mut self, service: &ObjectName, check: Option<HealthCheck>) {
        if self.known.services.get(service) == check.as_ref() {
            return;
        }
        self.changed = true;
        if let Some(check) = check {
            self.known.services.insert(service.clone(), check);
        } else {
            self.known.services.remove(service);
        }
    }

    /// All of them, if any changed since the last call. `addresses` are the node's now.
    pub(super) fn take_changed(&mut self, addresses: impl Iterator<Item = IpAddr> + Clone) -> Option<Checks> {
        if !self.known.addresses.iter().copied().eq(addresses.clone()) {
            self.known.addresses = addresses.collect();
            self.changed = true;
        }
        std::mem::take(&mut self.changed).then(|| self.known.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_checks_are_told_whole_when_one_of_them_changed_and_only_then() {
        let name = |name: &str| ObjectName::new("default", name);
        let check = |local_endpoints| HealthCheck { port: 30_000, local_v4: Some(local_endpoints), local_v6: None };
        let node = IpAddr::from([192, 0, 2, 1]);
        let mut checks = HealthChecks::default();
        let mut told = |service: &str, check: Option<HealthCheck>, address: Option<IpAddr>| {
            checks.set(&name(service), check);
            checks.take_changed(address.into_iter())
        };
        let all = |services: &[(&str, usize)], address: Option<IpAddr>| Checks {
            addresses: address.into_iter().collect(),
            services: services.iter().map(|(service, n)| (name(service), check(*n))).collect(),
        };
        assert_eq!(told("plain", None, None), None);
        assert_eq!(told("a", Some(check(1)), None), Some(all(&[("a", 1)], None)));
        assert_eq!(told("b", Some(check(2)), None), Some(all(&[("a", 1), ("b", 2)], None)));
        assert_eq!(told("a", Some(check(1)), None), None);
        assert_eq!(told("a", Some(check(1)), Some(node)), Some(all(&[("a", 1), ("b", 2)], Some(node))));
        assert_eq!(told("a", None, Some(node)), Some(all(&[("b", 2)], Some(node))));
    }
}
