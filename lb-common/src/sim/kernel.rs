//! What one hook sees: the node's maps, its surroundings, and the socket that the hook runs for.

use super::{SimNode, SimSocket, socket::Storage};
use crate::{
    abi::{
        Affinity, AffinityKey, Backend, ClientAddr, ClusterIps, Counter, Family, Frontend, FrontendKey, Place, Slot,
        SockDst, SourceKey, UdpPeers, V4, V6,
    },
    logic::seam::{Affinities, Caller, Cgroups, Environment, Maps, NoStorage, NotAdded, Socket},
};

/// Implements the traits of [`crate::logic::seam`] for both families.
#[derive(Clone, Copy, Debug)]
pub struct SimKernel<'a> {
    pub(super) node: &'a SimNode,
    pub(super) socket: &'a SimSocket,
}

macro_rules! family {
    ($family:ident, $maps:ident, $other:ident) => {
        impl Maps<$family> for SimNode {
            fn frontend(&self, key: &FrontendKey<$family>) -> Option<Frontend> {
                self.$maps.frontend(key)
            }

            fn frontend_copy(&self, key: &FrontendKey<$family>) -> Option<Frontend> {
                self.$maps.frontend_copy(key)
            }

            fn slot(&self, index: u32) -> Option<Slot<$family>> {
                self.$maps.slot(index)
            }

            fn backend(&self, id: u32) -> Option<Backend<$family>> {
                self.$maps.backend(id)
            }

            fn cluster_ips(&self) -> Option<ClusterIps<$family>> {
                self.$maps.cluster_ips()
            }

            fn client(&self, netns: u64) -> Option<ClientAddr<$family>> {
                self.$maps.client(netns)
            }

            fn is_source(&self, key: &SourceKey<$family>) -> bool {
                self.$maps.is_source(key)
            }

            /// The agent clears a bit before it writes a frontend and never sets it again, so what was here once counts.
            fn may_be_frontend(&self, place: Place) -> bool {
                let mut known = self.traffic.$maps.frontends.borrow_mut();
                known.extend(self.$maps.frontends.keys().flat_map(Place::of_frontend));
                known.contains(&place)
            }
        }

        impl Maps<$family> for SimKernel<'_> {
            fn frontend(&self, key: &FrontendKey<$family>) -> Option<Frontend> {
                self.node.frontend(key)
            }

            fn frontend_copy(&self, key: &FrontendKey<$family>) -> Option<Frontend> {
                self.node.frontend_copy(key)
            }

            fn slot(&self, index: u32) -> Option<Slot<$family>> {
                self.node.slot(index)
            }

            fn backend(&self, id: u32) -> Option<Backend<$family>> {
                self.node.backend(id)
            }

            fn cluster_ips(&self) -> Option<ClusterIps<$family>> {
                self.node.cluster_ips()
            }

            fn client(&self, netns: u64) -> Option<ClientAddr<$family>> {
                Maps::<$family>::client(self.node, netns)
            }

            fn is_source(&self, key: &SourceKey<$family>) -> bool {
                self.node.is_source(key)
            }

            fn may_be_frontend(&self, place: Place) -> bool {
                Maps::<$family>::may_be_frontend(self.node, place)
            }
        }

        impl Socket<$family> for SimKernel<'_> {
            fn is_connected(&self) -> bool {
                self.socket.is_connected()
            }

            fn translation(&self) -> Option<SockDst<$family>> {
                self.socket.$maps.translation.get()
            }

            fn set_translation(&self, dst: SockDst<$family>) -> Result<(), NoStorage> {
                self.socket.$other.translation.set(None);
                set(&self.socket.$maps, dst, self.socket.no_memory.get())
            }

            fn clear_translation(&self) {
                self.socket.clear_translations();
            }

            fn with_peers<R>(&self, create: bool, f: impl FnOnce(&mut UdpPeers<$family>) -> R) -> Option<R> {
                with_peers(&self.socket.$maps, create && !self.socket.no_memory.get(), f)
            }
        }
    };
}

family!(V4, v4, v6);
family!(V6, v6, v4);

/// Storage that exists can be written without memory.
fn set<F: Family>(storage: &Storage<F>, dst: SockDst<F>, no_memory: bool) -> Result<(), NoStorage> {
    if no_memory && storage.translation.get().is_none() {
        return Err(NoStorage);
    }
    storage.translation.set(Some(dst));
    Ok(())
}

fn with_peers<F: Family, R>(storage: &Storage<F>, create: bool, f: impl FnOnce(&mut UdpPeers<F>) -> R) -> Option<R> {
    let mut peers = storage.peers.borrow_mut();
    if peers.is_none() && create {
        *peers = Some(UdpPeers::default());
    }
    peers.as_mut().map(f)
}

impl Caller for SimKernel<'_> {
    fn netns(&self) -> u64 {
        self.socket.netns.get()
    }

    fn is_on_host(&self) -> bool {
        self.netns() == self.node.netns
    }
}

impl Cgroups for SimKernel<'_> {
    fn excluded_levels(&self) -> u32 {
        self.node.exclusion.levels
    }

    fn cgroup_at(&self, level: u32) -> u64 {
        let cgroups = self.socket.cgroups.borrow();
        usize::try_from(level).ok().and_then(|level| cgroups.get(level)).copied().unwrap_or(0)
    }

    fn is_excluded_cgroup(&self, id: u64) -> bool {
        self.node.excluded.contains(&id)
    }
}

impl Affinities for SimNode {
    /// `f` may look at the map again: it works on a copy, as nobody else is there to see the difference.
    fn with_affinity<R>(&self, key: &AffinityKey, f: impl FnOnce(&mut Affinity) -> R) -> Option<R> {
        let mut value = self.affinities.borrow().get(key).copied()?;
        let result = f(&mut value);
        self.affinities.borrow_mut().insert(*key, value);
        Some(result)
    }

    fn add_affinity(&self, key: &AffinityKey, value: Affinity) -> Result<(), NotAdded> {
        let mut all = self.affinities.borrow_mut();
        if all.contains_key(key) {
            return Err(NotAdded::Exists);
        }
        if all.len() >= self.n_affinities as usize {
            return Err(NotAdded::Full);
        }
        all.insert(*key, value);
        Ok(())
    }
}

impl Affinities for SimKernel<'_> {
    fn with_affinity<R>(&self, key: &AffinityKey, f: impl FnOnce(&mut Affinity) -> R) -> Option<R> {
        self.node.with_affinity(key, f)
    }

    fn add_affinity(&self, key: &AffinityKey, value: Affinity) -> Result<(), NotAdded> {
        self.node.add_affinity(key, value)
    }
}

impl Environment for SimNode {
    fn now_s(&self) -> u32 {
        self.environment.now_s()
    }

    fn random(&self) -> u32 {
        self.environment.random()
    }

    fn count(&self, counter: Counter) {
        self.environment.count(counter);
    }
}

impl Environment for SimKernel<'_> {
    fn now_s(&self) -> u32 {
        self.node.now_s()
    }

    fn random(&self) -> u32 {
        self.node.random()
    }

    fn count(&self, counter: Counter) {
        self.node.count(counter);
    }
}
