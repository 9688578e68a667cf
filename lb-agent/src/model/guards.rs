//! Which ClusterIPs refuse clients on ports that no Service has there, and for which Service that is entered.
//!
//! Every ClusterIP, as kube-proxy's `cluster-ips` set has them, also where a Service names it as external; the node's own
//! addresses are left out by who asks, for every other port of those is the node's (cilium#44430, cilium#43206).

use std::{collections::BTreeSet, net::IpAddr};

use super::{
    claims::{Claimant, Claims, Field},
    frontends,
};
use crate::event::{ObjectName, Service, ServiceKind};

/// Who guards which address.
#[derive(Debug, Default)]
pub(super) struct Guards {
    claims: Claims<IpAddr>,
}

/// The addresses that a Service would guard, and as whom.
fn claims(service: Option<&Service>) -> Vec<(IpAddr, Claimant)> {
    let Some(service) = service.filter(|service| service.kind == ServiceKind::ClusterIp) else { return Vec::new() };
    let addresses = service.cluster_ips.iter().enumerate();
    addresses.map(|(i, &ip)| (ip, frontends::claimant(service, Field::cluster_ip(i)))).collect()
}

impl Guards {
    /// Puts the new form of a Service in place of the old one. Services whose guards change by it are dirty.
    pub(super) fn replace(&mut self, old: Option<&Service>, new: Option<&Service>, dirty: &mut BTreeSet<ObjectName>) {
        let (old, new) = (claims(old), claims(new));
        for (ip, claimant) in old.iter().filter(|claim| !new.contains(claim)) {
            dirty.extend(self.claims.release(ip, claimant));
        }
        for (ip, claimant) in new.iter().filter(|claim| !old.contains(claim)) {
            dirty.extend(self.claims.take(*ip, claimant.clone()));
        }
    }

    /// The Service that is to guard this address.
    pub(super) fn holder(&self, ip: IpAddr) -> Option<&ObjectName> {
        self.claims.holder(&ip)
    }
}
