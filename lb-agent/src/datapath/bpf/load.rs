//! Opens the maps and loads the programs: carries out what [`spec`](super::spec) decided.
//!
//! A first installation appears at once: maps are pinned in a directory of another name, which is then renamed. A map of
//! another size is filled first and renamed over the old one, whose programs go on with it until the new ones are
//! attached. So an agent that dies here leaves what was there before, or what it made, and nothing between.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, Map, MapData, MapInfo},
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported},
};
use lb_common::abi::{ABI_VERSION, maps};

use super::{
    absent,
    error::{Note, OpenError, system},
    paths::{Paths, REPLACEMENT},
    pins,
    programs::{self, Hook},
    resize,
    slots::Access,
    spec::{self, Action, Pinned, Shape, Spec},
    storage,
    store::{KernelStore, failed},
};
use crate::{
    datapath::store::{Capacity, StoreError},
    namespaces,
};

/// Maps and programs in the kernel, pinned, not attached.
pub(super) struct Loaded {
    pub(super) ebpf: Ebpf,
    pub(super) store: KernelStore,
    pub(super) notes: Vec<Note>,
}

/// Opens, creates, copies and loads.
pub(super) fn load(
    object: &[u8],
    paths: &Paths,
    capacity: Capacity,
    bind_protection: bool,
    exclusion: bool,
) -> Result<Loaded, OpenError> {
    remove_unfinished(paths)?;
    let pinned = pinned(&paths.maps)?;
    let fresh = pinned.is_empty();
    let decided = spec::decide(version(&paths.maps, &pinned)?, &pinned, capacity);
    let actions = decided.map_err(|what| OpenError::Incompatible { path: paths.root.clone(), what })?;
    resize::refuse_to_cut(&paths.maps, &actions)?;

    let directory = if fresh { &paths.unfinished } else { &paths.maps };
    fs::create_dir_all(directory).map_err(system("create", directory))?;
    let charged = storage::create(object, directory, &actions);
    let kernel = Abilities::probe()?;
    let told = Told { kernel, exclusion };
    let mut ebpf = load_object(object, directory, &actions, capacity, told)?;
    check_object(&ebpf)?;
    let mut notes = resize::copy(&mut ebpf, paths, &actions)?;
    if fresh {
        absent::begin(&ebpf)?;
        set_version(&mut ebpf)?;
        fs::rename(directory, &paths.maps).map_err(system("rename", directory))?;
    }
    notes.extend(kernel.notes().chain(charged));
    load_programs(&mut ebpf, bind_protection)?;

    let entries: BTreeMap<_, _> = actions.iter().map(|(spec, _)| (spec.name, spec.size.entries(capacity))).collect();
    let store = KernelStore::new(Access::Write, capacity.conns, |name| {
        let entries = entries.get(name).copied().unwrap_or_default();
        Ok((take(&mut ebpf, name)?, entries))
    })?;
    Ok(Loaded { ebpf, store, notes })
}

/// What an agent left that died while it made it.
fn remove_unfinished(paths: &Paths) -> Result<(), OpenError> {
    let unfinished = |path: &PathBuf| path.as_os_str().as_encoded_bytes().ends_with(REPLACEMENT.as_bytes());
    let leftovers = entries(&paths.maps)?.into_iter().filter(unfinished);
    for path in entries(&paths.unfinished)?.into_iter().chain(leftovers) {
        pins::remove(&path)?;
    }
    pins::remove_directory(&paths.unfinished)
}

/// What is in a directory; nothing if there is none.
pub(super) fn entries(directory: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let list = match fs::read_dir(directory) {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(system("read", directory)(error)),
    };
    list.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>().map_err(system("read", directory))
}

/// The maps that are pinned, by name.
pub(super) fn pinned(directory: &Path) -> Result<BTreeMap<String, Pinned>, OpenError> {
    let mut pinned = BTreeMap::new();
    for path in entries(directory)? {
        let info = MapInfo::from_pin(&path).map_err(|error| system("open", &path)(io::Error::other(error)))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        pinned.insert(name, Pinned { shape: shape(&info), entries: info.max_entries() });
    }
    Ok(pinned)
}

fn shape(info: &MapInfo) -> Shape {
    let kind = info.map_type().map_or(u32::MAX, |kind| kind as u32);
    Shape { kind, key_size: info.key_size(), value_size: info.value_size(), flags: info.map_flags() }
}

/// What `lb_abi` says, if it is there and looks as it has always looked.
pub(super) fn version(directory: &Path, pinned: &BTreeMap<String, Pinned>) -> Result<Option<u32>, OpenError> {
    let known = pinned.get(maps::ABI).is_some_and(|found| found.shape.value_size == 4);
    if !known {
        return Ok(None);
    }
    let map: Array<_, u32> =
        Map::Array(open_pinned(directory, maps::ABI)?).try_into().map_err(failed(maps::ABI, "open"))?;
    Ok(Some(map.get(&0, 0).map_err(failed(maps::ABI, "read"))?))
}

/// Opens a pinned map.
pub(super) fn open_pinned(directory: &Path, name: &'static str) -> Result<MapData, StoreError> {
    MapData::from_pin(directory.join(name)).map_err(failed(name, "open"))
}

/// The object, which more than one part loads programs from. A panic while it was locked leaves it whole.
pub(super) fn locked(ebpf: &Mutex<Ebpf>) -> MutexGuard<'_, Ebpf> {
    ebpf.lock().unwrap_or_else(PoisonError::into_inner)
}

fn set_version(ebpf: &mut Ebpf) -> Result<(), OpenError> {
    let map = ebpf.map_mut(maps::ABI).ok_or_else(|| not_in_object(maps::ABI))?;
    let mut map: Array<&mut MapData, u32> = map.try_into().map_err(failed(maps::ABI, "open"))?;
    Ok(map.set(0, ABI_VERSION, 0).map_err(failed(maps::ABI, "update"))?)
}

fn not_in_object(map: &'static str) -> StoreError {
    let source = io::Error::other("the embedded kernel programs have no such map: build the agent anew");
    StoreError::Failed { map, operation: "open", source }
}

/// Takes a map out of the object; its programs must be loaded.
pub(super) fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<MapData, StoreError> {
    match ebpf.take_map(name) {
        Some(Map::HashMap(data) | Map::Array(data) | Map::LpmTrie(data) | Map::PerCpuArray(data)) => Ok(data),
        _ => Err(not_in_object(name)),
    }
}

/// A map of the object, which goes on with its programs.
pub(super) fn new_map<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<&'a MapData, StoreError> {
    match ebpf.map(name) {
        Some(Map::HashMap(data) | Map::Array(data) | Map::LpmTrie(data) | Map::PerCpuArray(data)) => Ok(data),
        _ => Err(not_in_object(name)),
    }
}

/// What there is to say about this kernel.
pub(super) fn kernel_notes() -> Result<Vec<Note>, OpenError> {
    Ok(Abilities::probe()?.notes().collect())
}

/// What the programs are told as constants.
#[derive(Clone, Copy, Debug)]
struct Told {
    kernel: Abilities,
    /// Whether workloads may be excluded from the socket layer: programs that need not know are shorter.
    exclusion: bool,
}

/// What there is to know about this kernel and this agent.
#[derive(Clone, Copy, Debug)]
struct Abilities {
    /// `bpf_set_retval` came to these hooks in 6.1 (kernel commit 69fd337a975c).
    set_retval: bool,
    /// The cookie of the agent's network namespace, which is the node's.
    netns: Option<u64>,
}

impl Abilities {
    fn probe() -> Result<Self, OpenError> {
        let probe = is_helper_supported(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval);
        let set_retval = probe.map_err(|error| OpenError::Program {
            program: "(probe for bpf_set_retval)".to_owned(),
            reason: error.to_string(),
        })?;
        let own = Path::new("/proc/self/ns/net");
        Ok(Self { set_retval, netns: namespaces::cookie().map_err(system("read the cookie of", own))? })
    }

    fn notes(self) -> impl Iterator<Item = Note> {
        let no_set_retval = (!self.set_retval).then_some(Note::NoSetRetval);
        let no_netns_cookie = self.netns.is_none().then_some(Note::NoNetnsCookie);
        no_set_retval.into_iter().chain(no_netns_cookie)
    }
}

/// Creates or opens the maps. Those that are to be copied are created without a pin.
fn load_object(
    object: &[u8],
    directory: &Path,
    actions: &[(Spec, Action)],
    capacity: Capacity,
    told: Told,
) -> Result<Ebpf, OpenError> {
    let Told { kernel, exclusion } = told;
    let (set_retval, netns) = (u32::from(kernel.set_retval), kernel.netns.unwrap_or(0));
    let exclude = u32::from(exclusion);
    let mut loader = EbpfLoader::new();
    loader.override_global("LB_SET_RETVAL", &set_retval, true);
    loader.override_global("LB_NODE_NETNS", &netns, true);
    loader.override_global("LB_EXCLUDE", &exclude, true);
    for (spec, action) in actions {
        loader.map_max_entries(spec.name, spec.size.entries(capacity));
        if !matches!(action, Action::Resize { .. }) {
            loader.map_pin_path(spec.name, directory.join(spec.name));
        }
    }
    loader.load(object).map_err(|error| OpenError::Program { program: "object".to_owned(), reason: chain(&error) })
}

/// An object of another build than the agent's would make maps that nobody understands.
fn check_object(ebpf: &Ebpf) -> Result<(), OpenError> {
    for spec in spec::SPECS {
        let data = match ebpf.map(spec.name) {
            Some(
                Map::HashMap(data)
                | Map::Array(data)
                | Map::LpmTrie(data)
                | Map::PerCpuArray(data)
                | Map::LruHashMap(data)
                | Map::SkStorage(data),
            ) => data,
            _ => return Err(not_in_object(spec.name).into()),
        };
        let info = data.info().map_err(failed(spec.name, "read the description of"))?;
        if shape(&info) != spec.shape {
            let reason =
                format!("its map {} is not this agent's: build the two together, `cargo xtask build`", spec.name);
            return Err(OpenError::Program { program: "object".to_owned(), reason });
        }
    }
    Ok(())
}

fn load_programs(ebpf: &mut Ebpf, bind_protection: bool) -> Result<(), OpenError> {
    programs::wanted(bind_protection).try_for_each(|name| Hook::find(ebpf, name)?.load())
}

/// An error with its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
