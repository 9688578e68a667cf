//! Who holds which address and port. The API server gives a cluster address to one Service only, but manifests, external
//! addresses and changes that arrive in an unlucky order may name one twice. Then one Service holds it, and the others wait.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    hash::Hash,
    net::SocketAddr,
};

use lb_common::abi::{Proto, scope};

use super::FrontendAddr;
use crate::event::ObjectName;

/// What is claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Claim {
    pub(super) frontend: FrontendAddr,
    pub(super) proto: Proto,
}

/// The field of a Service that names an address or port, with its index there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Field {
    name: FieldName,
    index: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum FieldName {
    ClusterIp,
    ExternalIp,
    Ingress,
    NodePort,
}

impl Field {
    pub(super) fn cluster_ip(index: usize) -> Self {
        Self::new(FieldName::ClusterIp, index)
    }

    pub(super) fn external_ip(index: usize) -> Self {
        Self::new(FieldName::ExternalIp, index)
    }

    pub(super) fn ingress(index: usize) -> Self {
        Self::new(FieldName::Ingress, index)
    }

    /// Of the port with this index.
    pub(super) fn node_port(index: usize) -> Self {
        Self::new(FieldName::NodePort, index)
    }

    fn new(name: FieldName, index: usize) -> Self {
        Self { name, index: u16::try_from(index).unwrap_or(u16::MAX) }
    }

    pub(super) fn is_ingress(self) -> bool {
        self.name == FieldName::Ingress
    }

    /// Whether a claim by this field counts more than one by the other, whoever is older. The cluster gives each cluster
    /// address to one Service, so nobody takes that by naming it as external (CVE-2020-8554); and kube-proxy looks for
    /// NodePorts only where no Service has the address itself.
    pub(super) fn precedes(self, other: Self) -> bool {
        self.rank() < other.rank()
    }

    fn rank(self) -> u8 {
        match self.name {
            FieldName::ClusterIp => 0,
            FieldName::ExternalIp | FieldName::Ingress => 1,
            FieldName::NodePort => 2,
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let index = self.index;
        match self.name {
            FieldName::ClusterIp => write!(f, "spec.clusterIPs[{index}]"),
            FieldName::ExternalIp => write!(f, "spec.externalIPs[{index}]"),
            FieldName::Ingress => write!(f, "status.loadBalancer.ingress[{index}].ip"),
            FieldName::NodePort => write!(f, "spec.ports[{index}].nodePort"),
        }
    }
}

/// Who claims; the least holds. Services of one age (manifests without `creationTimestamp`) go by name, so that every
/// node and every restart decides alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claimant {
    pub(super) field: Field,
    pub(super) created_s: i64,
    pub(super) name: ObjectName,
}

impl Ord for Claimant {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |c: &Self| (c.field.rank(), c.created_s);
        key(self).cmp(&key(other)).then_with(|| self.name.cmp(&other.name)).then_with(|| self.field.cmp(&other.field))
    }
}

impl PartialOrd for Claimant {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// All claims on things of one sort.
#[derive(Debug)]
pub(super) struct Claims<T> {
    holders: HashMap<T, Claimant>,
    /// Only contested claims are here, which are few.
    waiting: BTreeMap<T, BTreeSet<Claimant>>,
}

impl<T> Default for Claims<T> {
    fn default() -> Self {
        Self { holders: HashMap::new(), waiting: BTreeMap::new() }
    }
}

impl<T: Copy + Ord + Hash> Claims<T> {
    /// Enters a claim. Returns whom it displaces, if anybody.
    pub(super) fn take(&mut self, claim: T, claimant: Claimant) -> Option<ObjectName> {
        let Some(holder) = self.holders.get_mut(&claim) else {
            self.holders.insert(claim, claimant);
            return None;
        };
        let waiting = self.waiting.entry(claim).or_default();
        if *holder < claimant {
            waiting.insert(claimant);
            return None;
        }
        let displaced = std::mem::replace(holder, claimant);
        let name = displaced.name.clone();
        waiting.insert(displaced);
        Some(name)
    }

    /// Withdraws a claim. Returns who holds the address from now on, if the withdrawn one did and another waited.
    pub(super) fn release(&mut self, claim: &T, claimant: &Claimant) -> Option<ObjectName> {
        if self.holders.get(claim) != Some(claimant) {
            self.leave_queue(claim, |waiting| waiting.remove(claimant));
            return None;
        }
        match self.leave_queue(claim, BTreeSet::pop_first) {
            Some(next) => {
                let name = next.name.clone();
                self.holders.insert(*claim, next);
                Some(name)
            }
            None => {
                self.holders.remove(claim);
                None
            }
        }
    }

    pub(super) fn holder(&self, claim: &T) -> Option<&ObjectName> {
        self.holders.get(claim).map(|holder| &holder.name)
    }

    /// Takes somebody out of the queue, and the queue away when it is empty.
    fn leave_queue<R: Default>(&mut self, claim: &T, take: impl FnOnce(&mut BTreeSet<Claimant>) -> R) -> R {
        let Some(waiting) = self.waiting.get_mut(claim) else { return R::default() };
        let taken = take(waiting);
        if waiting.is_empty() {
            self.waiting.remove(claim);
        }
        taken
    }
}

impl Claims<Claim> {
    /// Of a NodePort only the port itself, not once more for each of the node's addresses.
    pub(super) fn conflicts(&self) -> impl Iterator<Item = Conflict> {
        self.waiting.iter().flat_map(|(claim, waiting)| {
            let holder = self.holders.get(claim);
            waiting.iter().zip(std::iter::repeat(holder)).filter_map(|(claimant, holder)| {
                let holder = holder?;
                let both_node_ports = [claimant, holder].iter().all(|c| c.field.name == FieldName::NodePort);
                (!both_node_ports || claim.frontend.scope == scope::BIND).then(|| Conflict {
                    service: claimant.name.clone(),
                    field: claimant.field,
                    holder: holder.name.clone(),
                    frontend: claim.frontend,
                    proto: claim.proto,
                })
            })
        })
    }
}

/// A Service that does not get an address and port, because an older one holds it, or one to which it belongs more (see
/// [`Field::precedes`]). It gets it as soon as that one gives it up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Who waits.
    pub service: ObjectName,
    field: Field,
    /// Who holds it.
    pub holder: ObjectName,
    /// What both want.
    pub frontend: FrontendAddr,
    /// With which protocol.
    pub proto: Proto,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, field, holder, frontend, .. } = self;
        let proto = match self.proto {
            Proto::Tcp => "TCP",
            Proto::Udp => "UDP",
        };
        let what = match frontend.scope {
            scope::BIND => frontend.port.to_string(),
            _ => SocketAddr::new(frontend.ip, frontend.port).to_string(),
        };
        write!(
            f,
            "Service {service}: {field}: {what} {proto} is held by Service {holder} (its clusterIP, or older, or first by \
             name); change one of them"
        )
    }
}
