//! What each map must look like, and what to do about the pinned ones: adopt, create, copy into another size, or refuse.
//! Pure decisions; `load` carries them out.

use std::collections::BTreeMap;

use aya::maps::lpm_trie;
use lb_common::abi::{
    ABI_VERSION, Absent, Affinity, AffinityKey, AgentStatus, Answers, Backend, ClientAddr, ClusterIps, Device,
    Exclusion, Flow, FlowKey, Fragment, FragmentKey, Frontend, FrontendKey, N_ABSENT, N_COUNTERS, Name, NameKey,
    NodeConfig, Slot, SockDst, SourceKey, UdpPeers, V4, V6, maps,
};

use crate::datapath::store::Capacity;

/// `enum bpf_map_type` (include/uapi/linux/bpf.h).
pub(super) mod kind {
    pub(in super::super) const HASH: u32 = 1;
    pub(in super::super) const ARRAY: u32 = 2;
    pub(in super::super) const PERCPU_ARRAY: u32 = 6;
    pub(in super::super) const LRU_HASH: u32 = 9;
    pub(in super::super) const LPM_TRIE: u32 = 11;
    pub(in super::super) const SK_STORAGE: u32 = 24;
}

const NO_PREALLOC: u32 = 1;
const MMAPABLE: u32 = 1 << 10;

/// Where a map's number of entries comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// It is always this.
    Fixed(u32),
    /// `--max-frontends`.
    Frontends,
    /// `--max-backends`.
    Backends,
    /// Twice `--max-backends`.
    Slots,
    /// `--max-affinities`.
    Affinities,
    /// Twice `--max-connections`.
    Conns,
    /// See [`Capacity::names`].
    Names,
    /// See [`Capacity::sources`].
    Sources,
    /// One for each of this build's counters, of which a later one may have more.
    Counters,
}

impl Size {
    /// The flag that sets it.
    pub(super) fn flag(self) -> &'static str {
        match self {
            Self::Frontends | Self::Names | Self::Sources => "--max-frontends",
            Self::Backends | Self::Slots => "--max-backends",
            Self::Affinities => "--max-affinities",
            Self::Conns => "--max-connections",
            Self::Fixed(_) | Self::Counters => "(none)",
        }
    }

    /// Entries at this capacity.
    pub(super) fn entries(self, capacity: Capacity) -> u32 {
        match self {
            Self::Fixed(entries) => entries,
            Self::Frontends => capacity.frontends,
            Self::Backends => capacity.backends,
            Self::Slots => capacity.slots,
            Self::Affinities => capacity.affinities,
            Self::Conns => capacity.conns,
            Self::Names => capacity.names(),
            Self::Sources => capacity.sources(),
            Self::Counters => N_COUNTERS,
        }
    }

    /// The smallest value of the flag that gives at least so many entries.
    pub(super) fn asked(self, entries: u32) -> u32 {
        match self {
            Self::Fixed(_) | Self::Frontends | Self::Backends | Self::Affinities | Self::Counters => entries,
            Self::Slots | Self::Conns => entries.div_ceil(2),
            Self::Names => Capacity::frontends_for_names(entries),
            Self::Sources => Capacity::frontends_for_sources(entries),
        }
    }
}

/// What the kernel says about a map, or should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) kind: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) flags: u32,
}

/// A map of this build.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    pub(super) size: Size,
}

#[expect(clippy::cast_possible_truncation, reason = "the largest has some hundred bytes")]
const fn spec<K, V>(name: &'static str, kind: u32, flags: u32, size: Size) -> Spec {
    let shape = Shape { kind, key_size: size_of::<K>() as u32, value_size: size_of::<V>() as u32, flags };
    Spec { name, shape, size }
}

const fn hash<K, V>(name: &'static str, size: Size) -> Spec {
    spec::<K, V>(name, kind::HASH, NO_PREALLOC, size)
}

const fn trie<D, V>(name: &'static str, size: Size) -> Spec {
    spec::<lpm_trie::Key<D>, V>(name, kind::LPM_TRIE, NO_PREALLOC, size)
}

/// Allocated whole when it is made.
const fn lru<K, V>(name: &'static str, entries: u32) -> Spec {
    spec::<K, V>(name, kind::LRU_HASH, 0, Size::Fixed(entries))
}

const fn storage<V>(name: &'static str) -> Spec {
    spec::<i32, V>(name, kind::SK_STORAGE, NO_PREALLOC, Size::Fixed(0))
}

/// How many maps an installation has.
pub const N_MAPS: usize = 34;

/// Every pinned map. The object's own maps are these by construction (`lb-ebpf/src/maps.rs` uses the same types), which a
/// test with a real kernel holds.
pub(super) const SPECS: [Spec; N_MAPS] = [
    spec::<u32, u32>(maps::ABI, kind::ARRAY, 0, Size::Fixed(1)),
    spec::<u32, AgentStatus>(maps::AGENT, kind::ARRAY, 0, Size::Fixed(1)),
    spec::<u32, u64>(maps::STATS, kind::PERCPU_ARRAY, 0, Size::Counters),
    hash::<NameKey, Name>(maps::NAMES, Size::Names),
    hash::<FrontendKey<V4>, Frontend>(maps::FRONTENDS4, Size::Frontends),
    hash::<FrontendKey<V6>, Frontend>(maps::FRONTENDS6, Size::Frontends),
    spec::<u32, Slot<V4>>(maps::SLOTS4, kind::ARRAY, MMAPABLE, Size::Slots),
    spec::<u32, Slot<V6>>(maps::SLOTS6, kind::ARRAY, MMAPABLE, Size::Slots),
    hash::<u32, Backend<V4>>(maps::BACKENDS4, Size::Backends),
    hash::<u32, Backend<V6>>(maps::BACKENDS6, Size::Backends),
    hash::<AffinityKey, Affinity>(maps::AFFINITY, Size::Affinities),
    spec::<u32, ClusterIps<V4>>(maps::CLUSTERIPS4, kind::ARRAY, 0, Size::Fixed(1)),
    spec::<u32, ClusterIps<V6>>(maps::CLUSTERIPS6, kind::ARRAY, 0, Size::Fixed(1)),
    hash::<u64, ClientAddr<V4>>(maps::CLIENTS4, Size::Fixed(maps::N_CLIENTS)),
    hash::<u64, ClientAddr<V6>>(maps::CLIENTS6, Size::Fixed(maps::N_CLIENTS)),
    trie::<SourceKey<V4>, u32>(maps::SOURCES4, Size::Sources),
    trie::<SourceKey<V6>, u32>(maps::SOURCES6, Size::Sources),
    spec::<u32, Exclusion>(maps::EXCLUSION, kind::ARRAY, 0, Size::Fixed(1)),
    hash::<u64, u32>(maps::EXCLUDED, Size::Fixed(maps::N_EXCLUDED)),
    hash::<FlowKey<V4>, Flow<V4>>(maps::CONNS4, Size::Conns),
    hash::<FlowKey<V6>, Flow<V6>>(maps::CONNS6, Size::Conns),
    lru::<FragmentKey<V4>, Fragment>(maps::FRAGS4, maps::N_FRAGS),
    lru::<FragmentKey<V6>, Fragment>(maps::FRAGS6, maps::N_FRAGS),
    spec::<u32, Absent>(maps::NOFRONT4, kind::ARRAY, 0, Size::Fixed(N_ABSENT)),
    spec::<u32, Absent>(maps::NOFRONT6, kind::ARRAY, 0, Size::Fixed(N_ABSENT)),
    spec::<u32, Absent>(maps::NOBACK4, kind::ARRAY, 0, Size::Fixed(N_ABSENT)),
    spec::<u32, Absent>(maps::NOBACK6, kind::ARRAY, 0, Size::Fixed(N_ABSENT)),
    hash::<u32, Device>(maps::DEVICES, Size::Fixed(maps::N_DEVICES)),
    spec::<u32, NodeConfig>(maps::NODE, kind::ARRAY, 0, Size::Fixed(1)),
    spec::<u32, Answers>(maps::ANSWERS, kind::PERCPU_ARRAY, 0, Size::Fixed(1)),
    storage::<SockDst<V4>>(maps::SOCK4),
    storage::<SockDst<V6>>(maps::SOCK6),
    storage::<UdpPeers<V4>>(maps::SOCKUDP4),
    storage::<UdpPeers<V6>>(maps::SOCKUDP6),
];

/// A map that is pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pinned {
    pub(super) shape: Shape,
    pub(super) entries: u32,
}

/// What to do about one map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Make it.
    Create,
    /// Go on with the pinned one.
    Adopt,
    /// Copy the pinned one into a new one.
    Resize {
        /// Entries of the pinned one.
        from: u32,
        /// Entries of the new one.
        to: u32,
    },
}

/// Decides about every map, or says in which way the pinned ones do not fit this build.
///
/// `version` is what the pinned `lb_abi` says, if it is there. A map that this build has and an earlier one of the same
/// version had not is created.
pub(super) fn decide(
    version: Option<u32>,
    pinned: &BTreeMap<String, Pinned>,
    capacity: Capacity,
) -> Result<Vec<(Spec, Action)>, String> {
    if pinned.is_empty() {
        return Ok(SPECS.iter().map(|spec| (*spec, Action::Create)).collect());
    }
    check_version(version)?;
    SPECS.iter().map(|spec| Ok((*spec, action(spec, pinned.get(spec.name), capacity)?))).collect()
}

/// Whether a reader of this build understands the pinned maps, whatever their sizes.
pub(super) fn check(version: Option<u32>, pinned: &BTreeMap<String, Pinned>) -> Result<(), String> {
    check_version(version)?;
    SPECS.iter().try_for_each(|spec| match pinned.get(spec.name) {
        Some(found) => check_shape(spec, found),
        None => Err(format!("lack map {}", spec.name)),
    })
}

fn check_version(version: Option<u32>) -> Result<(), String> {
    match version {
        Some(ABI_VERSION) => Ok(()),
        Some(other) => Err(format!("have layout version {other}, and this build uses version {ABI_VERSION}")),
        None => Err(format!("do not say their layout version (no map {})", maps::ABI)),
    }
}

fn check_shape(spec: &Spec, pinned: &Pinned) -> Result<(), String> {
    let name = spec.name;
    difference(spec.shape, pinned.shape).map_or(Ok(()), |difference| {
        Err(format!("are of layout version {ABI_VERSION} like this build, but {name} differs in its {difference}"))
    })
}

fn action(spec: &Spec, pinned: Option<&Pinned>, capacity: Capacity) -> Result<Action, String> {
    let Some(pinned) = pinned else {
        return Ok(Action::Create);
    };
    check_shape(spec, pinned)?;
    let wanted = spec.size.entries(capacity);
    if pinned.entries == wanted {
        Ok(Action::Adopt)
    } else if matches!(spec.size, Size::Fixed(_)) {
        let (name, found) = (spec.name, pinned.entries);
        Err(format!(
            "are of layout version {ABI_VERSION} like this build, but {name} has {found} entries, not {wanted}"
        ))
    } else {
        Ok(Action::Resize { from: pinned.entries, to: wanted })
    }
}

fn difference(wanted: Shape, found: Shape) -> Option<String> {
    let fields = [
        ("type", wanted.kind, found.kind),
        ("key size", wanted.key_size, found.key_size),
        ("value size", wanted.value_size, found.value_size),
        ("flags", wanted.flags, found.flags),
    ];
    let (field, wanted, found) = fields.into_iter().find(|(_, wanted, found)| wanted != found)?;
    Some(format!("{field} ({found}, not {wanted})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: Capacity = Capacity { frontends: 100, backends: 200, slots: 400, affinities: 50, conns: 600 };

    fn installed() -> BTreeMap<String, Pinned> {
        let pinned = |spec: &Spec| Pinned { shape: spec.shape, entries: spec.size.entries(CAPACITY) };
        SPECS.iter().map(|spec| (spec.name.to_owned(), pinned(spec))).collect()
    }

    fn decided(pinned: &BTreeMap<String, Pinned>, name: &str, capacity: Capacity) -> Action {
        let decisions = decide(Some(ABI_VERSION), pinned, capacity).unwrap();
        decisions.into_iter().find(|(spec, _)| spec.name == name).unwrap().1
    }

    #[test]
    fn names_fit_into_what_the_kernel_keeps_of_them() {
        assert!(SPECS.iter().all(|spec| spec.name.len() <= 15), "BPF_OBJ_NAME_LEN is 16 with its NUL");
    }

    #[test]
    fn the_flags_value_is_told_from_the_entries_that_it_gives() {
        for size in [Size::Frontends, Size::Names, Size::Sources] {
            assert_eq!(size.asked(size.entries(CAPACITY)), CAPACITY.frontends);
        }
        for size in [Size::Backends, Size::Slots] {
            assert_eq!(size.asked(size.entries(CAPACITY)), CAPACITY.backends);
        }
        assert_eq!(Size::Slots.asked(7), 4, "half a backend is asked for as a whole one");
    }

    #[test]
    fn everything_is_created_where_nothing_is_pinned() {
        let decisions = decide(None, &BTreeMap::new(), CAPACITY).unwrap();
        assert_eq!(decisions.len(), SPECS.len());
        assert!(decisions.iter().all(|(_, action)| *action == Action::Create));
    }

    #[test]
    fn an_equal_installation_is_adopted_whole() {
        let decisions = decide(Some(ABI_VERSION), &installed(), CAPACITY).unwrap();
        assert!(decisions.iter().all(|(_, action)| *action == Action::Adopt), "{decisions:?}");
    }

    #[test]
    fn another_version_is_refused_with_both_numbers() {
        let refusal = decide(Some(ABI_VERSION + 1), &installed(), CAPACITY).unwrap_err();
        assert!(refusal.contains(&format!("version {}", ABI_VERSION + 1)), "{refusal}");
        assert!(refusal.contains(&format!("uses version {ABI_VERSION}")), "{refusal}");
    }

    #[test]
    fn maps_without_a_version_are_refused() {
        let mut pinned = installed();
        pinned.remove(maps::ABI);
        assert!(decide(None, &pinned, CAPACITY).unwrap_err().contains(maps::ABI));
    }

    #[test]
    fn a_map_of_another_shape_is_refused_by_name_and_field() {
        let mut pinned = installed();
        pinned.get_mut(maps::BACKENDS6).unwrap().shape.value_size += 4;
        let refusal = decide(Some(ABI_VERSION), &pinned, CAPACITY).unwrap_err();
        assert!(refusal.contains(maps::BACKENDS6) && refusal.contains("value size"), "{refusal}");
    }

    #[test]
    fn a_map_of_another_size_is_copied() {
        let larger = Capacity { slots: 500, ..CAPACITY };
        assert_eq!(decided(&installed(), maps::SLOTS4, larger), Action::Resize { from: 400, to: 500 });
        assert_eq!(decided(&installed(), maps::FRONTENDS4, larger), Action::Adopt);
    }

    #[test]
    fn counters_of_a_build_that_has_fewer_are_copied() {
        let mut pinned = installed();
        pinned.get_mut(maps::STATS).unwrap().entries = N_COUNTERS - 1;
        let action = Action::Resize { from: N_COUNTERS - 1, to: N_COUNTERS };
        assert_eq!(decided(&pinned, maps::STATS, CAPACITY), action);
    }

    #[test]
    fn a_map_that_an_earlier_build_did_not_have_is_created() {
        let mut pinned = installed();
        pinned.remove(maps::STATS);
        assert_eq!(decided(&pinned, maps::STATS, CAPACITY), Action::Create);
    }
}
