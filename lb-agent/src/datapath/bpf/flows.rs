//! `lb_conns4/6` as a [`FlowStore`]: read many at a time, by the batch operations of hash maps (Linux 5.6).

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::maps::{HashMap, Map, MapData};
use bytemuck::Zeroable as _;
use lb_common::abi::{Backend, Family, Flow, FlowKey, V4, V6};

use super::{
    load,
    paths::Paths,
    store::{failed, found, system_error, update_failed, was_there},
    sys::{self, Batch},
};
use crate::datapath::{
    flows::{Cursor, FlowStore, Half, map_name},
    store::{StoreError, map_names},
    succession::Successor,
};

/// How many halves are asked for at a time: some hundred kilobytes, and a millisecond.
const AT_ONCE: usize = 4_096;
/// linux/bpf.h: an update that is to make an element, not to replace one.
const BPF_NOEXIST: u64 = 1;

/// `lb_conns4/6`. Separate from the rest of the store, so that it may be sent to another thread.
pub struct KernelFlows {
    v4: FamilyFlows<V4>,
    v6: FamilyFlows<V6>,
}

/// Those of one family, with room for what is read of them.
pub(super) struct FamilyFlows<F: Family> {
    map: HashMap<MapData, FlowKey<F>, Flow<F>>,
    /// The same map.
    fd: OwnedFd,
    backends: HashMap<MapData, u32, Backend<F>>,
    capacity: u32,
    keys: Vec<FlowKey<F>>,
    values: Vec<Flow<F>>,
}

impl KernelFlows {
    pub(super) fn open(paths: &Paths) -> Result<Self, StoreError> {
        Ok(Self { v4: FamilyFlows::open(paths)?, v6: FamilyFlows::open(paths)? })
    }
}

impl<F: Family> FamilyFlows<F> {
    fn open(paths: &Paths) -> Result<Self, StoreError> {
        Self::over(load::open_pinned(&paths.maps, map_name::<F>())?, paths)
    }

    pub(super) fn over(map: MapData, paths: &Paths) -> Result<Self, StoreError> {
        let (name, backends) = (map_name::<F>(), map_names::<F>().backends);
        let capacity = map.info().map_err(failed(name, "look at"))?.max_entries();
        let dup = |source| StoreError::Failed { map: name, operation: "open", source };
        let fd = map.fd().as_fd().try_clone_to_owned().map_err(dup)?;
        Ok(Self {
            map: Map::HashMap(map).try_into().map_err(failed(name, "open"))?,
            backends: Map::HashMap(load::open_pinned(&paths.maps, backends)?)
                .try_into()
                .map_err(failed(backends, "open"))?,
            fd,
            capacity,
            keys: vec![FlowKey::zeroed(); AT_ONCE],
            values: vec![Flow::zeroed(); AT_ONCE],
        })
    }

    /// A bucket that does not fit is asked for again with more room.
    fn read_batch(&mut self, cursor: Cursor) -> io::Result<Batch> {
        loop {
            match sys::lookup_batch(self.fd.as_fd(), cursor, &mut self.keys, &mut self.values) {
                Err(error)
                    if error.raw_os_error() == Some(libc::ENOSPC) && self.keys.len() < self.capacity as usize =>
                {
                    let room = self.keys.len() * 2;
                    self.keys.resize(room, FlowKey::zeroed());
                    self.values.resize(room, Flow::zeroed());
                }
                other => return other,
            }
        }
    }
}

impl<F: Family> FlowStore<F> for FamilyFlows<F> {
    fn read_flows(&mut self, cursor: Cursor, into: &mut Vec<Half<F>>) -> Result<Cursor, StoreError> {
        into.clear();
        let failed = |source| StoreError::Failed { map: map_name::<F>(), operation: "read", source };
        let Batch { read, next } = self.read_batch(cursor).map_err(failed)?;
        into.extend(self.keys.iter().copied().zip(self.values.iter().copied()).take(read));
        Ok(next)
    }

    fn flow(&self, key: &FlowKey<F>) -> Result<Option<Flow<F>>, StoreError> {
        found(self.map.get(key, 0), map_name::<F>())
    }

    fn delete_flow(&mut self, key: &FlowKey<F>) -> Result<bool, StoreError> {
        was_there(self.map.remove(key)).map_err(failed(map_name::<F>(), "delete"))
    }

    fn backend(&self, id: u32) -> Result<Option<Backend<F>>, StoreError> {
        found(self.backends.get(&id, 0), map_names::<F>().backends)
    }

    fn flow_capacity(&self) -> u32 {
        self.capacity
    }
}

impl<F: Family> Successor<F> for FamilyFlows<F> {
    fn add_flow(&mut self, key: &FlowKey<F>, half: &Flow<F>) -> Result<bool, StoreError> {
        match self.map.insert(key, half, BPF_NOEXIST) {
            Ok(()) => Ok(true),
            Err(error) if system_error(&error).is_some_and(|error| error.kind() == io::ErrorKind::AlreadyExists) => {
                Ok(false)
            }
            Err(error) => Err(update_failed(map_name::<F>(), (self.capacity, "--max-connections"))(error)),
        }
    }
}

macro_rules! delegate {
    ($family:ident, $field:ident) => {
        impl FlowStore<$family> for KernelFlows {
            fn read_flows(&mut self, cursor: Cursor, into: &mut Vec<Half<$family>>) -> Result<Cursor, StoreError> {
                self.$field.read_flows(cursor, into)
            }

            fn flow(&self, key: &FlowKey<$family>) -> Result<Option<Flow<$family>>, StoreError> {
                self.$field.flow(key)
            }

            fn delete_flow(&mut self, key: &FlowKey<$family>) -> Result<bool, StoreError> {
                self.$field.delete_flow(key)
            }

            fn backend(&self, id: u32) -> Result<Option<Backend<$family>>, StoreError> {
                self.$field.backend(id)
            }

            fn flow_capacity(&self) -> u32 {
                self.$field.flow_capacity()
            }
        }
    };
}

delegate!(V4, v4);
delegate!(V6, v6);
