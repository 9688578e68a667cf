//! The few bpf(2) commands that aya has no interface for: replacing a link's program, detaching it, a cgroup link's
//! cgroup, making a map between fork and exec, reading many entries of a map at a time, and waiting for running programs
//! where membarrier(2) cannot. Nothing is decided here.
//!
//! The structures are the parts of `union bpf_attr` and `struct bpf_link_info` that are used (include/uapi/linux/bpf.h);
//! the kernel takes and gives as many bytes as it is told.
#![expect(unsafe_code, reason = "system calls by number")]

use std::{
    ffi::{CStr, CString},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use bytemuck::AnyBitPattern;

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_BTF_LOAD: libc::c_long = 18;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;
const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;

/// Implemented only by the `repr(C)` structures below, without padding and with valid pointers in them.
trait Attributes {}

fn bpf<A: Attributes>(command: libc::c_long, attributes: &mut A) -> io::Result<RawFd> {
    // SAFETY: the kernel reads exactly `size_of::<A>()` bytes, and `A` is the structure of that command.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { RawFd::try_from(result).map_err(io::Error::other) }
}

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: called with what the kernel has just returned as a new descriptor.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn address<T>(pointer: *const T) -> u64 {
    pointer.expose_provenance() as u64
}

/// For BPF_OBJ_GET and BPF_OBJ_PIN.
#[repr(C)]
struct Obj {
    path: u64,
    fd: u32,
    flags: u32,
}
impl Attributes for Obj {}

/// Opens what is pinned at `path`, of whatever kind.
pub(super) fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    bpf(BPF_OBJ_GET, &mut Obj { path: address(path.as_ptr()), fd: 0, flags: 0 }).map(owned)
}

#[repr(C)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}
impl Attributes for LinkUpdate {}

/// Puts `program` into `link` in the place of the one that is there. A packet or call sees either, never none
/// (`replace_effective_prog` in kernel/bpf/cgroup.c).
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = LinkUpdate { link: number(link), program: number(program), flags: 0, old_program: 0 };
    bpf(BPF_LINK_UPDATE, &mut attributes).map(drop)
}

#[repr(C)]
struct LinkDetach {
    link: u32,
}
impl Attributes for LinkDetach {}

/// Detaches a link's program at once, whoever else has the link open or pinned (Linux 5.9). A link whose cgroup is gone
/// is detached already, which is no error.
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(BPF_LINK_DETACH, &mut LinkDetach { link: number(link) }).map(drop)
}

/// `struct bpf_link_info`, as far as it is used. What `target` means depends on the kind.
#[derive(Default)]
#[repr(C)]
struct RawLinkInfo {
    kind: u32,
    id: u32,
    program_id: u32,
    pad: u32,
    target: [u32; 4],
}

#[repr(C)]
struct InfoByFd {
    fd: u32,
    length: u32,
    info: u64,
}
impl Attributes for InfoByFd {}

fn raw_link_info(link: BorrowedFd<'_>) -> io::Result<RawLinkInfo> {
    let mut info = RawLinkInfo::default();
    let length = u32::try_from(size_of::<RawLinkInfo>()).map_err(io::Error::other)?;
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut InfoByFd { fd: number(link), length, info: address(&raw mut info) })?;
    Ok(info)
}

/// What the kernel says about a link to a cgroup.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinkInfo {
    /// The link's id.
    pub(super) id: u32,
    /// The id of the program in it.
    pub(super) program_id: u32,
    /// The cgroup, 0 when it is gone.
    pub(super) cgroup_id: u64,
}

/// See [`LinkInfo`].
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    /// BPF_LINK_TYPE_CGROUP.
    const CGROUP: u32 = 3;
    let RawLinkInfo { kind, id, program_id, target: [first, second, ..], .. } = raw_link_info(link)?;
    let [low, high] = if cfg!(target_endian = "little") { [first, second] } else { [second, first] };
    let cgroup_id = u64::from(high) << 32 | u64::from(low);
    if kind == CGROUP {
        Ok(LinkInfo { id, program_id, cgroup_id })
    } else {
        Err(io::Error::other("it is not a link to a cgroup"))
    }
}

/// What the kernel says about a tcx link to a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeviceLinkInfo {
    /// The id of the program in it.
    pub(super) program_id: u32,
    /// The device in its own network namespace, 0 when it is gone.
    pub(super) device: u32,
}

/// See [`DeviceLinkInfo`].
pub(super) fn device_link_info(link: BorrowedFd<'_>) -> io::Result<DeviceLinkInfo> {
    /// BPF_LINK_TYPE_TCX.
    const TCX: u32 = 11;
    let RawLinkInfo { kind, program_id, target: [device, ..], .. } = raw_link_info(link)?;
    if kind == TCX { Ok(DeviceLinkInfo { program_id, device }) } else { Err(io::Error::other("it is not a tcx link")) }
}

#[repr(C)]
struct MapBatch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    elem_flags: u64,
    flags: u64,
}
impl Attributes for MapBatch {}

/// What was read of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// How many entries.
    pub(super) read: usize,
    /// Where to go on; `None` at the end.
    pub(super) next: Option<u32>,
}

/// Reads entries of a hash map that is not per CPU, as many as there is room for, bucket by bucket; `from` is where an
/// earlier call stopped (Linux 5.6, `__htab_map_lookup_and_delete_batch` in kernel/bpf/hashtab.c). ENOSPC: the next bucket
/// has more entries than there is room for. `K` and `V` are the types of the map, which the kernel copies whole.
pub(super) fn lookup_batch<K: AnyBitPattern, V: AnyBitPattern>(
    map: BorrowedFd<'_>,
    from: Option<u32>,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<Batch> {
    let mut next = 0_u32;
    let mut attributes = MapBatch {
        in_batch: from.as_ref().map_or(0, |from| address(from)),
        out_batch: address(&raw mut next),
        keys: address(keys.as_mut_ptr()),
        values: address(values.as_mut_ptr()),
        count: u32::try_from(keys.len().min(values.len())).unwrap_or(u32::MAX),
        map: number(map),
        elem_flags: 0,
        flags: 0,
    };
    let result = bpf(BPF_MAP_LOOKUP_BATCH, &mut attributes);
    let read = usize::try_from(attributes.count).map_err(io::Error::other)?;
    match result {
        Ok(_) => Ok(Batch { read, next: Some(next) }),
        // The last bucket was read.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Batch { read, next: None }),
        Err(error) => Err(error),
    }
}

/// What a map is to be made like. Everything else is zero.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct MapCreate {
    pub(super) kind: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) flags: u32,
    pub(super) inner_map: u32,
    pub(super) numa_node: u32,
    /// With at least one NUL at its end.
    pub(super) name: [u8; 16],
    pub(super) device: u32,
    /// A descriptor of loaded types, of which `btf_key` and `btf_value` are two by number.
    pub(super) btf: u32,
    pub(super) btf_key: u32,
    pub(super) btf_value: u32,
}
impl Attributes for MapCreate {}

/// Makes a map with the types of `btf` and pins it. No allocation and no lock: it also runs between fork and exec.
pub(super) fn map_create_pinned(mut map: MapCreate, btf: BorrowedFd<'_>, pin: &CStr) -> io::Result<()> {
    map.btf = number(btf);
    let made = bpf(BPF_MAP_CREATE, &mut map).map(owned)?;
    bpf(BPF_OBJ_PIN, &mut Obj { path: address(pin.as_ptr()), fd: number(made.as_fd()), flags: 0 }).map(drop)
}

#[repr(C)]
struct BtfLoad {
    btf: u64,
    log: u64,
    btf_size: u32,
    log_size: u32,
    log_level: u32,
    pad: u32,
}
impl Attributes for BtfLoad {}

/// Gives the kernel types, for maps to name.
pub(super) fn btf_load(btf: &[u8]) -> io::Result<OwnedFd> {
    let btf_size = u32::try_from(btf.len()).map_err(io::Error::other)?;
    let mut load = BtfLoad { btf: address(btf.as_ptr()), log: 0, btf_size, log_size: 0, log_level: 0, pad: 0 };
    bpf(BPF_BTF_LOAD, &mut load).map(owned)
}

#[repr(C)]
struct UpdateElem {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}
impl Attributes for UpdateElem {}

/// Returns when every program that was running at the call has ended: the kernel promises that of an update to a map of
/// maps (`maybe_wait_bpf_programs` in kernel/bpf/syscall.c), so one is made, with any array in it, and thrown away.
pub(super) fn wait_for_programs(any_array: BorrowedFd<'_>) -> io::Result<()> {
    let inner = number(any_array);
    let kind = BPF_MAP_TYPE_ARRAY_OF_MAPS;
    let mut create =
        MapCreate { kind, key_size: 4, value_size: 4, max_entries: 1, inner_map: inner, ..MapCreate::default() };
    let outer = bpf(BPF_MAP_CREATE, &mut create).map(owned)?;
    let key = 0_u32;
    let mut update = UpdateElem {
        map: outer.as_raw_fd().cast_unsigned(),
        pad: 0,
        key: address(&raw const key),
        value: address(&raw const inner),
        flags: 0,
    };
    bpf(BPF_MAP_UPDATE_ELEM, &mut update).map(drop)
}
