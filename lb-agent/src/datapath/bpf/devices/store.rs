//! The kernel as [`DeviceStore`]: programs by [`DeviceHooks`], and the maps that speak of devices.

use std::collections::BTreeMap;

use aya::maps::{Array, HashMap, Map, MapData};
use lb_common::abi::{Device, Name, NameKey, NodeConfig, maps, name_kind};

use super::{
    super::{
        error::OpenError,
        load::open_pinned,
        paths::Paths,
        store::{deleted, failed, padded, update_failed},
    },
    DeviceHooks, Way,
};
use crate::{
    datapath::store::StoreError,
    devices::{
        Role,
        findings::Foreign,
        store::{DeviceRef, DeviceStore, Programs},
    },
};

/// Programs and maps; may be sent to another thread.
pub struct KernelDevices {
    hooks: DeviceHooks,
    maps: DeviceMaps,
}

/// The maps.
pub(in super::super) struct DeviceMaps {
    devices: HashMap<MapData, u32, Device>,
    node: Array<MapData, NodeConfig>,
    names: HashMap<MapData, NameKey, Name>,
}

impl DeviceMaps {
    pub(in super::super) fn open(paths: &Paths) -> Result<Self, StoreError> {
        let open = |name| open_pinned(&paths.maps, name);
        let (devices, node) = (Map::HashMap(open(maps::DEVICES)?), Map::Array(open(maps::NODE)?));
        let names = Map::HashMap(open(maps::NAMES)?);
        Ok(Self {
            devices: devices.try_into().map_err(failed(maps::DEVICES, "open"))?,
            node: node.try_into().map_err(failed(maps::NODE, "open"))?,
            names: names.try_into().map_err(failed(maps::NAMES, "open"))?,
        })
    }

    /// `lb_devices`.
    pub(in super::super) fn devices(&self) -> Result<BTreeMap<u32, Device>, StoreError> {
        self.devices.iter().collect::<Result<_, _>>().map_err(failed(maps::DEVICES, "read"))
    }
}

impl KernelDevices {
    pub(in super::super) fn open(hooks: DeviceHooks, paths: &Paths) -> Result<Self, OpenError> {
        Ok(Self { hooks, maps: DeviceMaps::open(paths)? })
    }

    /// How programs are attached.
    pub fn way(&self) -> Way {
        self.hooks.way()
    }
}

fn name_key(index: u32) -> NameKey {
    NameKey { kind: name_kind::DEVICE, id: index }
}

impl DeviceStore for KernelDevices {
    type Error = OpenError;

    fn attach(&mut self, device: DeviceRef<'_>, role: Role) -> Result<(), OpenError> {
        self.hooks.attach(device, role)
    }

    fn detach(&mut self, device: DeviceRef<'_>) -> Result<(), OpenError> {
        self.hooks.detach(device)
    }

    fn attached(&mut self) -> Result<BTreeMap<u32, Programs>, OpenError> {
        self.hooks.attached()
    }

    fn are_current(&self, programs: Programs, role: Role) -> bool {
        self.hooks.are_current(programs, role)
    }

    fn foreign(&self, device: DeviceRef<'_>) -> Result<Vec<Foreign>, OpenError> {
        self.hooks.foreign(device)
    }

    fn devices(&self) -> Result<BTreeMap<u32, Device>, OpenError> {
        Ok(self.maps.devices()?)
    }

    fn put_device(&mut self, index: u32, device: &Device) -> Result<(), OpenError> {
        let full = |error| match update_failed(maps::DEVICES, (maps::N_DEVICES, ""))(error) {
            StoreError::Full { map, capacity, .. } => StoreError::FullForGood { map, capacity },
            other => other,
        };
        Ok(self.maps.devices.insert(index, device, 0).map_err(full)?)
    }

    fn delete_device(&mut self, index: u32) -> Result<(), OpenError> {
        deleted(self.maps.devices.remove(&index)).map_err(failed(maps::DEVICES, "delete"))?;
        Ok(deleted(self.maps.names.remove(&name_key(index))).map_err(failed(maps::NAMES, "delete"))?)
    }

    fn put_name(&mut self, index: u32, name: &str) -> Result<(), OpenError> {
        let name = Name { text: padded(name) };
        let put = self.maps.names.insert(name_key(index), name, 0);
        Ok(put.map_err(update_failed(maps::NAMES, (maps::N_NAMES, "--max-frontends")))?)
    }

    fn node(&self) -> Result<NodeConfig, OpenError> {
        Ok(self.maps.node.get(&0, 0).map_err(failed(maps::NODE, "read"))?)
    }

    fn put_node(&mut self, node: &NodeConfig) -> Result<(), OpenError> {
        Ok(self.maps.node.set(0, node, 0).map_err(failed(maps::NODE, "update"))?)
    }
}
