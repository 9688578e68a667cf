//! Which ClusterIPs refuse clients on ports that no Service has there, and for which Service that is entered.
//!
//! Never an address that means something else as well: one of the node's own, where every other port is the node's
//! (cilium#44430, cilium#43206), or one that a Service also names as external.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use super::{
    claims::{Claimant, Claims, Field},
    config::ModelConfig,
    frontends,
};
use crate::event::{ObjectName, Service, ServiceKind};

/// Who guards which address.
#[derive(Debug, Default)]
pub(super) struct Guards {
    claims: Claims<IpAddr>,
    /// How many Services name this address as external or ingress.
    external: HashMap<IpAddr, u32>,
}

/// What one Service has to do with guards.
#[derive(Debug, Default, PartialEq, Eq)]
struct Part {
    cluster: Vec<(IpAddr, Claimant)>,
    external: BTreeSet<IpAddr>,
}

impl Part {
    fn of(service: &Service, config: &ModelConfig) -> Self {
        if service.kind != ServiceKind::ClusterIp {
            return Self::default();
        }
        let claim = |(i, &ip): (usize, &IpAddr)| (ip, frontends::claimant(service, Field::cluster_ip(i)));
        Self {
            cluster: service.cluster_ips.iter().enumerate().map(claim).collect(),
            external: frontends::external_addresses(service, config),
        }
    }
}

impl Guards {
    /// Puts the new form of a Service in place of the old one. Services whose guards change by it are dirty.
    pub(super) fn replace(
        &mut self,
        old: Option<&Service>,
        new: Option<&Service>,
        config: &ModelConfig,
        dirty: &mut BTreeSet<ObjectName>,
    ) {
        let part = |service: Option<&Service>| service.map(|s| Part::of(s, config)).unwrap_or_default();
        let (old, new) = (part(old), part(new));
        for (ip, claimant) in old.cluster.iter().filter(|claim| !new.cluster.contains(claim)) {
            dirty.extend(self.claims.release(ip, claimant));
        }
        for (ip, claimant) in new.cluster.iter().filter(|claim| !old.cluster.contains(claim)) {
            dirty.extend(self.claims.take(*ip, claimant.clone()));
        }
        for ip in old.external.difference(&new.external) {
            if let Some(n) = self.external.get_mut(ip) {
                *n -= 1;
                if *n == 0 {
                    self.external.remove(ip);
                    dirty.extend(self.claims.holder(ip).cloned());
                }
            }
        }
        for ip in new.external.difference(&old.external) {
            let n = self.external.entry(*ip).or_default();
            *n += 1;
            if *n == 1 {
                dirty.extend(self.claims.holder(ip).cloned());
            }
        }
    }

    /// The Service whose guard this address would be, were it nothing else.
    pub(super) fn holder(&self, ip: IpAddr) -> Option<&ObjectName> {
        self.claims.holder(&ip)
    }

    /// Whether `name` is to guard this ClusterIP of its own, as far as the other Services are concerned.
    pub(super) fn belongs_to(&self, ip: IpAddr, name: &ObjectName) -> bool {
        self.holder(ip) == Some(name) && !self.external.contains_key(&ip)
    }
}
