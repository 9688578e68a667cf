//! The logic's traits (`lb_common::logic::seam`) on the maps and on what a program gets from its context. Thin: each
//! function is a helper call and a copy.
//!
//! [`Kernel`] is the one adapter of all programs, that of the comparison of kernel and host included; they differ in their
//! [`Context`] alone.

use core::cell::Cell;

use aya_ebpf::bindings::BPF_NOEXIST;
use lb_common::{
    abi::{
        Affinity, AffinityKey, Backend, ClientAddr, ClusterIps, Counter, Frontend, FrontendCopy, FrontendKey, Place,
        Slot, SockDst, SourceKey, UdpPeers,
    },
    logic::seam::{Affinities, Caller, Cgroups, Environment, Maps, NoStorage, NotAdded, Socket},
};

use crate::maps::{AFFINITY, EXCLUDED, EXCLUSION, Pinned, source};

const EEXIST: i32 = 17;

/// What programs of different kinds get in different ways.
pub trait Context: Copy {
    /// Seconds of the monotonic clock.
    fn now_s(self) -> u32;
    /// 32 random bits.
    fn random(self) -> u32;
    /// Adds one to a counter.
    fn count(self, counter: Counter);
    /// The cookie of the caller's network namespace.
    fn netns(self) -> u64;
    /// The cookie of the node's own.
    fn node_netns(self) -> u64;
    /// Whether anybody may be excluded, as long as this program is attached.
    fn may_exclude(self) -> bool;
    /// See [`Cgroups::cgroup_at`].
    fn cgroup_at(self, level: u32) -> u64;
}

/// Programs that run for a socket with storage. Pointers are null or to storage that nobody else writes meanwhile.
pub trait Storage<F: Pinned>: Context {
    /// Whether the socket has a peer.
    fn is_connected(self) -> bool;
    /// Whether the socket can hold storage of both families.
    fn is_inet6(self) -> bool;
    /// An element of `lb_sock4/6`.
    fn translation(self, create: bool) -> *mut SockDst<F>;
    /// Removes the element of `lb_sock4/6`.
    fn remove_translation(self);
    /// An element of `lb_sockudp4/6`.
    fn peers(self, create: bool) -> *mut UdpPeers<F>;
}

/// Implements the traits of the logic, for one run of a program.
pub struct Kernel<C> {
    context: C,
    damage: Cell<bool>,
}

impl<C: Context> Kernel<C> {
    /// For a run that has this context.
    #[inline(always)]
    pub fn new(context: C) -> Self {
        Self { context, damage: Cell::new(false) }
    }

    /// What it was made for.
    #[inline(always)]
    pub fn context(&self) -> C {
        self.context
    }

    /// Whether the maps were found to be damaged.
    #[inline(always)]
    pub fn saw_damage(&self) -> bool {
        self.damage.get()
    }
}

impl<F: Pinned, C> Maps<F> for Kernel<C> {
    #[inline(always)]
    fn frontend(&self, key: &FrontendKey<F>) -> Option<Frontend> {
        // SAFETY: plain data that is copied at once. Read while its memory is used again it may be a mixture, which its
        // reader finds by the checksum.
        unsafe { F::frontends().get(key) }.copied()
    }

    #[inline(always)]
    fn frontend_copy(&self, key: &FrontendKey<F>) -> Option<Frontend> {
        let copy = F::copies().get(FrontendCopy::place(key))?;
        // The agent may write it at this moment. A mixture is found by its reader, as above.
        (copy.key == *key).then_some(copy.value)
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<Slot<F>> {
        F::slots().get(index).copied()
    }

    #[inline(always)]
    fn backend(&self, id: u32) -> Option<Backend<F>> {
        // SAFETY: plain data that is copied at once. A mixture of two backends matches neither, and is then left.
        unsafe { F::backends().get(id) }.copied()
    }

    #[inline(always)]
    fn cluster_ips(&self) -> Option<ClusterIps<F>> {
        F::cluster_ips().get(0).copied()
    }

    #[inline(always)]
    fn client(&self, netns: u64) -> Option<ClientAddr<F>> {
        // SAFETY: plain data that is copied at once; a mixture of two is the address of neither.
        unsafe { F::clients().get(netns) }.copied()
    }

    #[inline(always)]
    fn is_source(&self, key: &SourceKey<F>) -> bool {
        F::sources().get(&source(key)).is_some()
    }

    #[inline(always)]
    fn may_be_frontend(&self, place: Place) -> bool {
        F::nofront().get(place.line).is_none_or(|line| line.may_be(place))
    }
}

impl<C: Context> Environment for Kernel<C> {
    #[inline(always)]
    fn now_s(&self) -> u32 {
        self.context.now_s()
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        self.context.random()
    }

    #[inline(always)]
    fn count(&self, counter: Counter) {
        if counter == Counter::DamagedMaps {
            self.damage.set(true);
        }
        self.context.count(counter);
    }
}

impl<C: Context> Caller for Kernel<C> {
    #[inline(always)]
    fn netns(&self) -> u64 {
        self.context.netns()
    }

    #[inline(always)]
    fn is_on_host(&self) -> bool {
        self.context.netns() == self.context.node_netns()
    }
}

impl<C: Context> Cgroups for Kernel<C> {
    #[inline(always)]
    fn excluded_levels(&self) -> u32 {
        if !self.context.may_exclude() {
            return 0;
        }
        EXCLUSION.get(0).map_or(0, |exclusion| exclusion.levels)
    }

    #[inline(always)]
    fn cgroup_at(&self, level: u32) -> u64 {
        self.context.cgroup_at(level)
    }

    #[inline(always)]
    fn is_excluded_cgroup(&self, id: u64) -> bool {
        // SAFETY: that it is there is all that counts.
        unsafe { EXCLUDED.get(id) }.is_some()
    }
}

impl<C: Context> Affinities for Kernel<C> {
    /// Works on a copy, which is written back if it has changed: other processors do the same meanwhile.
    #[inline(always)]
    fn with_affinity<R>(&self, key: &AffinityKey, f: impl FnOnce(&mut Affinity) -> R) -> Option<R> {
        let entry = AFFINITY.get_ptr_mut(key)?;
        // SAFETY: an element of the map, which the verifier knows to be there. It may be another client's by now; a
        // backend of another Service is then found out, and another backend of the same one is as good.
        let found = unsafe { entry.read() };
        let mut value = found;
        let result = f(&mut value);
        if value != found {
            // SAFETY: as for reading.
            unsafe { entry.write(value) };
        }
        Some(result)
    }

    #[inline(always)]
    fn add_affinity(&self, key: &AffinityKey, value: Affinity) -> Result<(), NotAdded> {
        AFFINITY.insert(key, value, BPF_NOEXIST.into()).map_err(|error| match -error {
            EEXIST => NotAdded::Exists,
            _ => NotAdded::Full,
        })
    }
}

impl<F: Pinned, C: Storage<F> + Storage<F::Other>> Socket<F> for Kernel<C> {
    #[inline(always)]
    fn is_connected(&self) -> bool {
        Storage::<F>::is_connected(self.context)
    }

    #[inline(always)]
    fn translation(&self) -> Option<SockDst<F>> {
        // SAFETY: by the contract of `Storage`.
        unsafe { self.context.translation(false).as_ref() }.copied()
    }

    #[inline(always)]
    fn set_translation(&self, dst: SockDst<F>) -> Result<(), NoStorage> {
        if Storage::<F>::is_inet6(self.context) {
            forget::<F::Other, C>(self.context);
        }
        // SAFETY: by the contract of `Storage`.
        let stored = unsafe { self.context.translation(true).as_mut() }.ok_or(NoStorage)?;
        *stored = dst;
        Ok(())
    }

    #[inline(always)]
    fn clear_translation(&self) {
        forget::<F, C>(self.context);
        if Storage::<F>::is_inet6(self.context) {
            forget::<F::Other, C>(self.context);
        }
    }

    #[inline(always)]
    fn with_peers<R>(&self, create: bool, f: impl FnOnce(&mut UdpPeers<F>) -> R) -> Option<R> {
        // SAFETY: by the contract of `Storage`.
        unsafe { self.context.peers(create).as_mut() }.map(f)
    }
}

/// Looks first: that is cheaper than removing what is not there, which takes and gives back a reference to the socket.
#[inline(always)]
fn forget<F: Pinned, C: Storage<F>>(context: C) {
    if !context.translation(false).is_null() {
        context.remove_translation();
    }
}
