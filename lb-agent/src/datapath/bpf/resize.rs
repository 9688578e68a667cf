//! Copies a map into one of another size. Only the agent writes these maps, and it holds the lock, so nothing changes
//! meanwhile; except for what the programs write. For `lb_affinity`: a client that comes during the copy may be given
//! another backend once. For `lb_conns4/6`: a connection that begins during the copy, or after it and before the programs
//! are replaced, is in the former table alone; so that one is kept, see [`former`]. Of `lb_stats` what is counted during
//! the copy is lost.

use std::{fs, io, os::fd::AsFd as _, path::Path};

use aya::{
    Ebpf, Pod,
    maps::{HashMap, LpmTrie, Map, MapData, PerCpuArray},
};
use lb_common::abi::{
    Affinity, AffinityKey, Backend, Family, Flow, FlowKey, Frontend, FrontendKey, Name, NameKey, SourceKey, V4, V6,
    maps,
};

use super::{
    error::{Note, OpenError, system},
    former,
    load::{new_map, open_pinned},
    paths::{Paths, replacement},
    slots::{Access, SlotArray},
    spec::{Action, Spec},
    store::failed,
};
use crate::datapath::store::StoreError;

/// Refuses, before anything is changed, to make a map smaller than what is in it.
pub(super) fn refuse_to_cut(directory: &Path, actions: &[(Spec, Action)]) -> Result<(), OpenError> {
    for (spec, action) in actions {
        if let Action::Resize { from, to } = *action
            && to < from
        {
            let used = in_use(directory, spec.name)?;
            if used > to {
                let (flag, given, needed) = (spec.size.flag(), spec.size.asked(to), spec.size.asked(used));
                return Err(OpenError::TooSmall { map: spec.name, used, flag, given, needed });
            }
        }
    }
    Ok(())
}

/// Entries in use; for slots, up to the last that a frontend names.
fn in_use(directory: &Path, map: &'static str) -> Result<u32, StoreError> {
    match map {
        maps::SLOTS4 => last_slot::<V4>(directory, maps::FRONTENDS4),
        maps::SLOTS6 => last_slot::<V6>(directory, maps::FRONTENDS6),
        maps::FRONTENDS4 => count::<FrontendKey<V4>, Frontend>(directory, map),
        maps::FRONTENDS6 => count::<FrontendKey<V6>, Frontend>(directory, map),
        maps::BACKENDS4 => count::<u32, Backend<V4>>(directory, map),
        maps::BACKENDS6 => count::<u32, Backend<V6>>(directory, map),
        maps::AFFINITY => count::<AffinityKey, Affinity>(directory, map),
        maps::CONNS4 => count::<FlowKey<V4>, Flow<V4>>(directory, map),
        maps::CONNS6 => count::<FlowKey<V6>, Flow<V6>>(directory, map),
        maps::SOURCES4 => count_sources::<V4>(directory, map),
        maps::SOURCES6 => count_sources::<V6>(directory, map),
        // What a later build has counted and this one does not know may go.
        maps::STATS => Ok(0),
        _ => count::<NameKey, Name>(directory, map),
    }
}

fn open<K: Pod, V: Pod>(directory: &Path, map: &'static str) -> Result<HashMap<MapData, K, V>, StoreError> {
    Map::HashMap(open_pinned(directory, map)?).try_into().map_err(failed(map, "open"))
}

fn count<K: Pod, V: Pod>(directory: &Path, map: &'static str) -> Result<u32, StoreError> {
    let keys = open::<K, V>(directory, map)?;
    keys.keys().try_fold(0, |n, key| key.map(|_| n + 1)).map_err(failed(map, "read"))
}

fn open_sources<F: Family>(
    directory: &Path,
    map: &'static str,
) -> Result<LpmTrie<MapData, SourceKey<F>, u32>, StoreError> {
    Map::LpmTrie(open_pinned(directory, map)?).try_into().map_err(failed(map, "open"))
}

fn count_sources<F: Family>(directory: &Path, map: &'static str) -> Result<u32, StoreError> {
    let trie = open_sources::<F>(directory, map)?;
    trie.keys().try_fold(0, |n, key| key.map(|_| n + 1)).map_err(failed(map, "read"))
}

fn last_slot<F: Family>(directory: &Path, frontends: &'static str) -> Result<u32, StoreError> {
    let frontends_map = open::<FrontendKey<F>, Frontend>(directory, frontends)?;
    let end = |frontend: Frontend| frontend.first_slot.saturating_add(frontend.n_slots);
    let mut ends = frontends_map.iter().map(|entry| entry.map(|(_, frontend)| end(frontend)));
    ends.try_fold(0, |last, end| end.map(|end| last.max(end))).map_err(failed(frontends, "read"))
}

/// Fills the new maps and pins them in the place of the old ones.
pub(super) fn copy(ebpf: &mut Ebpf, paths: &Paths, actions: &[(Spec, Action)]) -> Result<Vec<Note>, OpenError> {
    let mut notes = Vec::new();
    for (spec, action) in actions {
        let Action::Resize { from, to } = *action else {
            continue;
        };
        let map = spec.name;
        let new = duplicate(ebpf, map)?;
        match map {
            maps::SLOTS4 => copy_slots::<V4>(&paths.maps, map, new, (from, to))?,
            maps::SLOTS6 => copy_slots::<V6>(&paths.maps, map, new, (from, to))?,
            maps::FRONTENDS4 => copy_hash::<FrontendKey<V4>, Frontend>(&paths.maps, map, new)?,
            maps::FRONTENDS6 => copy_hash::<FrontendKey<V6>, Frontend>(&paths.maps, map, new)?,
            maps::BACKENDS4 => copy_hash::<u32, Backend<V4>>(&paths.maps, map, new)?,
            maps::BACKENDS6 => copy_hash::<u32, Backend<V6>>(&paths.maps, map, new)?,
            maps::AFFINITY => copy_hash::<AffinityKey, Affinity>(&paths.maps, map, new)?,
            maps::CONNS4 => {
                former::keep(paths, map)?;
                copy_hash::<FlowKey<V4>, Flow<V4>>(&paths.maps, map, new)?;
            }
            maps::CONNS6 => {
                former::keep(paths, map)?;
                copy_hash::<FlowKey<V6>, Flow<V6>>(&paths.maps, map, new)?;
            }
            maps::SOURCES4 => copy_sources::<V4>(&paths.maps, map, new)?,
            maps::SOURCES6 => copy_sources::<V6>(&paths.maps, map, new)?,
            maps::STATS => copy_counters(&paths.maps, map, new, from.min(to))?,
            _ => copy_hash::<NameKey, Name>(&paths.maps, map, new)?,
        }
        pin_over(ebpf, paths, map)?;
        notes.push(Note::Resized { map, from, to });
    }
    Ok(notes)
}

/// A second handle on a map of the object; the first stays there, because the programs are not loaded yet.
pub(super) fn duplicate(ebpf: &Ebpf, map: &'static str) -> Result<MapData, StoreError> {
    another(new_map(ebpf, map)?, map)
}

/// A second handle on the map of that name.
pub(super) fn another(map: &MapData, name: &'static str) -> Result<MapData, StoreError> {
    let error = |source| StoreError::Failed { map: name, operation: "duplicate", source };
    let fd = map.fd().as_fd().try_clone_to_owned().map_err(error)?;
    MapData::from_fd(fd).map_err(failed(name, "duplicate"))
}

fn copy_hash<K: Pod, V: Pod>(directory: &Path, map: &'static str, new: MapData) -> Result<(), StoreError> {
    let old = open::<K, V>(directory, map)?;
    let mut new: HashMap<_, K, V> = Map::HashMap(new).try_into().map_err(failed(map, "open"))?;
    for entry in old.iter() {
        let (key, value) = entry.map_err(failed(map, "read"))?;
        new.insert(key, value, 0).map_err(failed(map, "copy"))?;
    }
    Ok(())
}

fn copy_sources<F: Family>(directory: &Path, map: &'static str, new: MapData) -> Result<(), StoreError> {
    let old = open_sources::<F>(directory, map)?;
    let mut new: LpmTrie<_, SourceKey<F>, u32> = Map::LpmTrie(new).try_into().map_err(failed(map, "open"))?;
    for entry in old.iter() {
        let (key, value) = entry.map_err(failed(map, "read"))?;
        new.insert(&key, value, 0).map_err(failed(map, "copy"))?;
    }
    Ok(())
}

fn copy_counters(directory: &Path, map: &'static str, new: MapData, n_counters: u32) -> Result<(), StoreError> {
    let open = |data| PerCpuArray::<MapData, u64>::try_from(Map::PerCpuArray(data)).map_err(failed(map, "open"));
    let (old, mut new) = (open(open_pinned(directory, map)?)?, open(new)?);
    for index in 0..n_counters {
        let counted = old.get(&index, 0).map_err(failed(map, "read"))?;
        new.set(index, counted, 0).map_err(failed(map, "copy"))?;
    }
    Ok(())
}

fn copy_slots<F: Family>(
    directory: &Path,
    map: &'static str,
    new: MapData,
    (from, to): (u32, u32),
) -> Result<(), StoreError> {
    /// Bounds what is held in memory.
    const AT_ONCE: u32 = 8_192;
    let error = |source| StoreError::Failed { map, operation: "copy", source };
    let old = SlotArray::<F>::new(open_pinned(directory, map)?, from, Access::Read);
    let mut new = SlotArray::<F>::new(new, to, Access::Write);
    let upto = from.min(to);
    for first in (0..upto).step_by(AT_ONCE as usize) {
        let n = (upto - first).min(AT_ONCE);
        let slots = old.read(first, n).map_err(error)?;
        new.write(first, &slots).map_err(error)?;
    }
    Ok(())
}

fn pin_over(ebpf: &Ebpf, paths: &Paths, map: &'static str) -> Result<(), OpenError> {
    let path = paths.maps.join(map);
    let new = replacement(&path);
    new_map(ebpf, map)?.pin(&new).map_err(|error| system("pin", &new)(io::Error::other(error)))?;
    fs::rename(&new, &path).map_err(system("rename over", &path))
}
