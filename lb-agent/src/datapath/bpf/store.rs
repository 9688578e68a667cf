//! The kernel's maps as a [`MapStore`]: system calls for the hash maps, memory for the slots.

use std::{io, os::fd::BorrowedFd};

use aya::maps::{HashMap, Map, MapData, MapError};
use lb_common::abi::{
    Affinity, AffinityKey, Backend, ClusterIps, Family, Frontend, FrontendCopy, FrontendKey, NAME_LEN, Name, NameKey,
    Slot, SourceKey, V4, V6, maps,
};

use super::{
    absent,
    addresses::Addresses,
    canary,
    copies::Copies,
    slots::{Access, SlotArray},
    sys,
};
use crate::datapath::{
    copies::{self, CopiedFrontends},
    store::{Capacity, FamilyStore, MapNames, MapStore, StoreError, map_names},
};

/// Linux errno values that a map update answers a full map with: hash maps E2BIG, some others ENOSPC.
const FULL: [i32; 2] = [libc::E2BIG, libc::ENOSPC];

/// The kernel's maps.
pub struct KernelStore {
    v4: FamilyMaps<V4>,
    v6: FamilyMaps<V6>,
    names: HashMap<MapData, NameKey, Name>,
    n_names: u32,
    affinities: HashMap<MapData, AffinityKey, Affinity>,
}

struct FamilyMaps<F: Family> {
    names: MapNames,
    frontends: HashMap<MapData, FrontendKey<F>, Frontend>,
    copies: Copies<F>,
    slots: SlotArray<F>,
    backends: HashMap<MapData, u32, Backend<F>>,
    addresses: Addresses<F>,
    noted: absent::Frontends<F>,
    capacity: Capacity,
}

impl KernelStore {
    /// Takes the maps from `take`, which gives a map by its name, and its capacity. `conns` is the capacity of those that
    /// others work on.
    pub(super) fn new(
        access: Access,
        conns: u32,
        mut take: impl FnMut(&'static str) -> Result<(MapData, u32), StoreError>,
    ) -> Result<Self, StoreError> {
        let (affinities, n_affinities) = take(maps::AFFINITY)?;
        let v4 = FamilyMaps::new(access, (n_affinities, conns), &mut take)?;
        let v6 = FamilyMaps::new(access, (n_affinities, conns), &mut take)?;
        let (names, n_names) = take(maps::NAMES)?;
        let names = Map::HashMap(names).try_into().map_err(failed(maps::NAMES, "open"))?;
        let affinities = Map::HashMap(affinities).try_into().map_err(failed(maps::AFFINITY, "open"))?;
        Ok(Self { v4, v6, names, n_names, affinities })
    }

    /// Entries of `lb_names`.
    pub(super) fn name_capacity(&self) -> u32 {
        self.n_names
    }

    /// Entries that fit into `lb_affinity`.
    pub fn affinity_capacity(&self) -> u32 {
        self.v4.capacity.affinities
    }

    pub(super) fn put_canary(&mut self) -> Result<(), StoreError> {
        self.v4.put_canary()?;
        self.v6.put_canary()
    }

    /// Takes over the frontends that are there: an earlier build may have noted less of each, and none has copies in new maps. Says how
    /// many these are.
    pub(super) fn adopt_frontends(&mut self) -> Result<usize, StoreError> {
        Ok(self.v4.adopt_frontends()? + self.v6.adopt_frontends()?)
    }

    pub(super) fn delete_canary(&mut self) -> Result<(), StoreError> {
        // Both, also when the first fails.
        self.v4.delete_canary().and(self.v6.delete_canary())
    }
}

impl<F: Family> FamilyMaps<F> {
    fn new(
        access: Access,
        (affinities, conns): (u32, u32),
        take: &mut impl FnMut(&'static str) -> Result<(MapData, u32), StoreError>,
    ) -> Result<Self, StoreError> {
        let names = map_names::<F>();
        let (frontends, n_frontends) = take(names.frontends)?;
        let (backends, n_backends) = take(names.backends)?;
        let (slots, n_slots) = take(names.slots)?;
        let slots = SlotArray::new(slots, n_slots, access);
        Ok(Self {
            names,
            frontends: Map::HashMap(frontends).try_into().map_err(failed(names.frontends, "open"))?,
            copies: Copies::new(access, take)?,
            slots,
            backends: Map::HashMap(backends).try_into().map_err(failed(names.backends, "open"))?,
            addresses: Addresses::new(take)?,
            noted: absent::Frontends::new(take)?,
            capacity: Capacity { frontends: n_frontends, backends: n_backends, slots: n_slots, affinities, conns },
        })
    }
}

impl<F: Family> FamilyMaps<F> {
    fn adopt_frontends(&mut self) -> Result<usize, StoreError> {
        let all: Vec<_> =
            self.frontends.iter().collect::<Result<_, _>>().map_err(failed(self.names.frontends, "read"))?;
        all.iter().try_fold(0, |n, (key, value)| {
            self.noted.note(key)?;
            copies::fill(self, key, value)?;
            Ok(n + 1)
        })
    }

    /// The canary has no copies: it comes and goes by stores that have none.
    fn put_canary(&mut self) -> Result<(), StoreError> {
        canary::keys().try_for_each(|key| self.write(&key, &canary::frontend(&key)))
    }

    fn delete_canary(&mut self) -> Result<(), StoreError> {
        canary::keys().try_for_each(|key| self.remove(&key))
    }
}

impl<F: Family> CopiedFrontends<F> for FamilyMaps<F> {
    fn write(&mut self, key: &FrontendKey<F>, value: &Frontend) -> Result<(), StoreError> {
        let full = (self.capacity.frontends, "--max-frontends");
        self.noted.note(key)?;
        self.frontends.insert(key, value, 0).map_err(update_failed(self.names.frontends, full))
    }

    fn remove(&mut self, key: &FrontendKey<F>) -> Result<(), StoreError> {
        deleted(self.frontends.remove(key)).map_err(failed(self.names.frontends, "delete"))
    }

    fn copy(&self, place: u32) -> Result<FrontendCopy<F>, StoreError> {
        self.copies.get(place)
    }

    fn set_copy(&mut self, place: u32, copy: &FrontendCopy<F>) -> Result<(), StoreError> {
        self.copies.set(place, copy)
    }
}

impl<F: Family> FamilyStore<F> for FamilyMaps<F> {
    fn put_frontend(&mut self, key: &FrontendKey<F>, value: &Frontend) -> Result<(), StoreError> {
        copies::put(self, key, value)
    }

    fn delete_frontend(&mut self, key: &FrontendKey<F>) -> Result<(), StoreError> {
        copies::delete(self, key)
    }

    fn put_backend(&mut self, id: u32, backend: &Backend<F>) -> Result<(), StoreError> {
        let full = (self.capacity.backends, "--max-backends");
        self.backends.insert(id, backend, 0).map_err(update_failed(self.names.backends, full))
    }

    fn delete_backend(&mut self, id: u32) -> Result<(), StoreError> {
        deleted(self.backends.remove(&id)).map_err(failed(self.names.backends, "delete"))
    }

    fn write_slots(&mut self, first: u32, slots: &[Slot<F>]) -> Result<(), StoreError> {
        let failed = |source| StoreError::Failed { map: self.names.slots, operation: "write", source };
        self.slots.write(first, slots).map_err(failed)
    }

    fn frontends(&self) -> Result<Vec<(FrontendKey<F>, Frontend)>, StoreError> {
        let all = self.frontends.iter().filter(|entry| !matches!(entry, Ok((key, _)) if canary::is(key)));
        all.collect::<Result<_, _>>().map_err(failed(self.names.frontends, "read"))
    }

    fn backends(&self) -> Result<Vec<(u32, Backend<F>)>, StoreError> {
        self.backends.iter().collect::<Result<_, _>>().map_err(failed(self.names.backends, "read"))
    }

    fn slots(&self, first: u32, n: u32) -> Result<Vec<Slot<F>>, StoreError> {
        let failed = |source| StoreError::Failed { map: self.names.slots, operation: "read", source };
        self.slots.read(first, n).map_err(failed)
    }

    fn put_cluster_ips(&mut self, value: &ClusterIps<F>) -> Result<(), StoreError> {
        self.addresses.put_cluster_ips(value)
    }

    fn cluster_ips(&self) -> Result<ClusterIps<F>, StoreError> {
        self.addresses.cluster_ips()
    }

    fn put_source(&mut self, key: &SourceKey<F>, prefix_len: u32) -> Result<(), StoreError> {
        self.addresses.put_source(key, prefix_len)
    }

    fn delete_source(&mut self, key: &SourceKey<F>, prefix_len: u32) -> Result<(), StoreError> {
        self.addresses.delete_source(key, prefix_len)
    }

    fn sources(&self) -> Result<Vec<(SourceKey<F>, u32)>, StoreError> {
        self.addresses.sources()
    }

    fn capacity(&self) -> Capacity {
        self.capacity
    }
}

macro_rules! delegate {
    ($family:ident, $field:ident) => {
        impl FamilyStore<$family> for KernelStore {
            fn put_frontend(&mut self, key: &FrontendKey<$family>, value: &Frontend) -> Result<(), StoreError> {
                self.$field.put_frontend(key, value)
            }

            fn delete_frontend(&mut self, key: &FrontendKey<$family>) -> Result<(), StoreError> {
                self.$field.delete_frontend(key)
            }

            fn put_backend(&mut self, id: u32, backend: &Backend<$family>) -> Result<(), StoreError> {
                self.$field.put_backend(id, backend)
            }

            fn delete_backend(&mut self, id: u32) -> Result<(), StoreError> {
                self.$field.delete_backend(id)
            }

            fn write_slots(&mut self, first: u32, slots: &[Slot<$family>]) -> Result<(), StoreError> {
                self.$field.write_slots(first, slots)
            }

            fn frontends(&self) -> Result<Vec<(FrontendKey<$family>, Frontend)>, StoreError> {
                self.$field.frontends()
            }

            fn backends(&self) -> Result<Vec<(u32, Backend<$family>)>, StoreError> {
                self.$field.backends()
            }

            fn slots(&self, first: u32, n: u32) -> Result<Vec<Slot<$family>>, StoreError> {
                self.$field.slots(first, n)
            }

            fn put_cluster_ips(&mut self, value: &ClusterIps<$family>) -> Result<(), StoreError> {
                self.$field.put_cluster_ips(value)
            }

            fn cluster_ips(&self) -> Result<ClusterIps<$family>, StoreError> {
                self.$field.cluster_ips()
            }

            fn put_source(&mut self, key: &SourceKey<$family>, prefix_len: u32) -> Result<(), StoreError> {
                self.$field.put_source(key, prefix_len)
            }

            fn delete_source(&mut self, key: &SourceKey<$family>, prefix_len: u32) -> Result<(), StoreError> {
                self.$field.delete_source(key, prefix_len)
            }

            fn sources(&self) -> Result<Vec<(SourceKey<$family>, u32)>, StoreError> {
                self.$field.sources()
            }

            fn capacity(&self) -> Capacity {
                self.$field.capacity
            }
        }
    };
}

delegate!(V4, v4);
delegate!(V6, v6);

impl MapStore for KernelStore {
    fn put_name(&mut self, key: NameKey, name: &str) -> Result<(), StoreError> {
        let value = Name { text: padded(name) };
        let full = (self.n_names, "--max-frontends");
        self.names.insert(key, value, 0).map_err(update_failed(maps::NAMES, full))
    }

    fn delete_name(&mut self, key: NameKey) -> Result<(), StoreError> {
        deleted(self.names.remove(&key)).map_err(failed(maps::NAMES, "delete"))
    }

    fn names(&self) -> Result<Vec<(NameKey, String)>, StoreError> {
        let name = |entry: Result<(NameKey, Name), MapError>| entry.map(|(key, name)| (key, text(&name.text)));
        self.names.iter().map(name).collect::<Result<_, _>>().map_err(failed(maps::NAMES, "read"))
    }

    fn affinities(&self) -> Result<Vec<(AffinityKey, Affinity)>, StoreError> {
        self.affinities.iter().collect::<Result<_, _>>().map_err(failed(maps::AFFINITY, "read"))
    }

    fn delete_affinity(&mut self, key: &AffinityKey) -> Result<(), StoreError> {
        deleted(self.affinities.remove(key)).map_err(failed(maps::AFFINITY, "delete"))
    }

    fn wait_for_readers(&mut self) -> Result<(), StoreError> {
        wait_for_programs(self.v4.names.slots, self.v4.slots.map())
    }
}

/// Returns when no program that runs now runs any more. `map` is any array.
///
/// By MEMBARRIER_CMD_GLOBAL, which is `synchronize_rcu()` (kernel/sched/membarrier.c), and programs run in an RCU
/// read-side section. The kernel refuses it with EINVAL where it runs with `nohz_full`: then by
/// [`sys::wait_for_programs`], which comes to the same and costs two descriptors.
pub(super) fn wait_for_programs(map: &'static str, array: BorrowedFd<'_>) -> Result<(), StoreError> {
    use rustix::thread::{MembarrierCommand, membarrier};
    if membarrier(MembarrierCommand::Global).is_ok() {
        return Ok(());
    }
    let operation = "waiting for the readers";
    sys::wait_for_programs(array).map_err(|source| StoreError::Failed { map, operation, source })
}

/// `name` cut at a character's border and filled up with NUL.
pub(super) fn padded(name: &str) -> [u8; NAME_LEN] {
    let cut = name.get(..name.floor_char_boundary(NAME_LEN)).unwrap_or(name);
    let mut text = [0; NAME_LEN];
    for (to, from) in text.iter_mut().zip(cut.bytes()) {
        *to = from;
    }
    text
}

/// What a map holds as text: UTF-8 up to the first NUL.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or(bytes)).into_owned()
}

/// An absent key is no error.
pub(super) fn deleted(result: Result<(), MapError>) -> Result<(), MapError> {
    was_there(result).map(drop)
}

/// As [`deleted`], and whether there was something.
pub(super) fn was_there(deleted: Result<(), MapError>) -> Result<bool, MapError> {
    match deleted {
        Err(error) if system_error(&error).and_then(io::Error::raw_os_error) == Some(libc::ENOENT) => Ok(false),
        other => other.map(|()| true),
    }
}

/// An absent key is none.
pub(super) fn found<T>(read: Result<T, MapError>, map: &'static str) -> Result<Option<T>, StoreError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(failed(map, "read")(error)),
    }
}

pub(super) fn system_error(error: &MapError) -> Option<&io::Error> {
    match error {
        MapError::SyscallError(error) => Some(&error.io_error),
        _ => None,
    }
}

/// Turns a map's error into one that names map and operation.
pub(super) fn failed(map: &'static str, operation: &'static str) -> impl FnOnce(MapError) -> StoreError {
    move |error| {
        let source = match error {
            MapError::SyscallError(error) => error.io_error,
            other => io::Error::other(other),
        };
        StoreError::Failed { map, operation, source }
    }
}

/// As [`failed`], and a full map is told apart from a kernel without memory (ENOMEM), which raising a capacity does not
/// help.
pub(super) fn update_failed(
    map: &'static str,
    (capacity, flag): (u32, &'static str),
) -> impl FnOnce(MapError) -> StoreError {
    move |error| match system_error(&error).and_then(io::Error::raw_os_error) {
        Some(errno) if FULL.contains(&errno) => StoreError::Full { map, capacity, flag },
        _ => failed(map, "update")(error),
    }
}

/// As [`update_failed`], of a map whose capacity no flag sets.
pub(super) fn update_failed_for_good(map: &'static str, capacity: u32) -> impl FnOnce(MapError) -> StoreError {
    move |error| match update_failed(map, (capacity, ""))(error) {
        StoreError::Full { map, capacity, .. } => StoreError::FullForGood { map, capacity },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_at_a_characters_border() {
        let long = "a".repeat(NAME_LEN - 1) + "\u{e9}";
        assert_eq!(text(&padded(&long)), "a".repeat(NAME_LEN - 1));
        assert_eq!(text(&padded("default/web:http")), "default/web:http");
        let exact = "b".repeat(NAME_LEN);
        assert_eq!(text(&padded(&exact)), exact);
    }

    #[test]
    fn a_full_map_is_told_from_a_kernel_without_memory() {
        let error = |errno| {
            let io_error = io::Error::from_raw_os_error(errno);
            let error = MapError::SyscallError(aya::sys::SyscallError { call: "bpf_map_update_elem", io_error });
            update_failed("lb_backends4", (8, "--max-backends"))(error)
        };
        assert!(matches!(error(libc::E2BIG), StoreError::Full { capacity: 8, .. }));
        assert!(matches!(error(libc::ENOSPC), StoreError::Full { .. }));
        assert!(matches!(error(libc::ENOMEM), StoreError::Failed { .. }));
    }
}
