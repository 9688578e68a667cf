//! Who holds which address and port. The API server gives an address to one Service only, but manifests, external
//! addresses and changes that arrive in an unlucky order may name it twice. Then the older Service holds it, and the
//! others wait.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::SocketAddr,
};

use lb_common::abi::Proto;

use super::FrontendAddr;
use crate::event::ObjectName;

/// What is claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Claim {
    pub(super) frontend: FrontendAddr,
    pub(super) proto: Proto,
}

/// Who claims; the least holds. Services of one age (manifests without `creationTimestamp`) go by name, so that every
/// node and every restart decides alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claimant {
    pub(super) created_s: i64,
    pub(super) name: ObjectName,
}

/// All claims.
#[derive(Debug, Default)]
pub(super) struct Claims {
    holders: HashMap<Claim, Claimant>,
    /// Only contested claims are here, which are few.
    waiting: BTreeMap<Claim, BTreeSet<Claimant>>,
}

impl Claims {
    /// Enters a claim. Returns whom it displaces, if anybody.
    pub(super) fn take(&mut self, claim: Claim, claimant: Claimant) -> Option<ObjectName> {
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
    pub(super) fn release(&mut self, claim: &Claim, claimant: &Claimant) -> Option<ObjectName> {
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

    pub(super) fn is_held_by(&self, claim: &Claim, name: &ObjectName) -> bool {
        self.holders.get(claim).is_some_and(|holder| holder.name == *name)
    }

    pub(super) fn conflicts(&self) -> impl Iterator<Item = Conflict> {
        self.waiting.iter().flat_map(|(claim, waiting)| {
            let holder = self.holders.get(claim);
            waiting.iter().zip(std::iter::repeat(holder)).filter_map(|(claimant, holder)| {
                Some(Conflict {
                    service: claimant.name.clone(),
                    holder: holder?.name.clone(),
                    frontend: claim.frontend,
                    proto: claim.proto,
                })
            })
        })
    }

    /// Takes somebody out of the queue, and the queue away when it is empty.
    fn leave_queue<R: Default>(&mut self, claim: &Claim, take: impl FnOnce(&mut BTreeSet<Claimant>) -> R) -> R {
        let Some(waiting) = self.waiting.get_mut(claim) else { return R::default() };
        let taken = take(waiting);
        if waiting.is_empty() {
            self.waiting.remove(claim);
        }
        taken
    }
}

/// A Service that does not get an address and port, because an older one holds it. It gets it as soon as that one gives
/// it up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Who waits.
    pub service: ObjectName,
    /// Who holds it.
    pub holder: ObjectName,
    /// What both want.
    pub frontend: FrontendAddr,
    /// With which protocol.
    pub proto: Proto,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = SocketAddr::new(self.frontend.ip, self.frontend.port);
        let proto = match self.proto {
            Proto::Tcp => "TCP",
            Proto::Udp => "UDP",
        };
        write!(
            f,
            "Service {}: spec.clusterIP: {address} {proto} is held by Service {} (older, or first by name); change one of them",
            self.service, self.holder
        )
    }
}
