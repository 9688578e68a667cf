//! The kernel as [`DeviceStore`]: programs by [`DeviceHooks`], and the maps that speak of devices.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{Array, HashMap, Map, MapData, MapError};
use lb_common::abi::{Device, Name, NameKey, NodeConfig, maps, name_kind};
use tracing::info;

use super::{
    super::{
        error::OpenError,
        former::FormerFlows,
        load::open_pinned,
        paths::Paths,
        store::{deleted, failed, padded, text, update_failed, update_failed_for_good},
    },
    DeviceHooks, Way, all_attached,
};
use crate::{
    datapath::store::StoreError,
    devices::{
        Role,
        delivery::Chains,
        findings::Foreign,
        netfilter,
        store::{DeviceRef, DeviceStore, Programs},
    },
};

/// Programs and maps; may be sent to another thread.
pub struct KernelDevices {
    hooks: DeviceHooks,
    maps: DeviceMaps,
    former: FormerFlows,
    paths: Paths,
}

/// The maps.
struct DeviceMaps {
    devices: HashMap<MapData, u32, Device>,
    node: Array<MapData, NodeConfig>,
    names: HashMap<MapData, NameKey, Name>,
}

impl DeviceMaps {
    fn open(paths: &Paths) -> Result<Self, StoreError> {
        let open = |name| open_pinned(&paths.maps, name);
        let (devices, node) = (Map::HashMap(open(maps::DEVICES)?), Map::Array(open(maps::NODE)?));
        let names = Map::HashMap(open(maps::NAMES)?);
        Ok(Self {
            devices: devices.try_into().map_err(failed(maps::DEVICES, "open"))?,
            node: node.try_into().map_err(failed(maps::NODE, "open"))?,
            names: names.try_into().map_err(failed(maps::NAMES, "open"))?,
        })
    }

    fn devices(&self) -> Result<BTreeMap<u32, Device>, StoreError> {
        self.devices.iter().collect::<Result<_, _>>().map_err(failed(maps::DEVICES, "read"))
    }
}

/// A device as an installation has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServedDevice {
    /// Its number.
    pub index: u32,
    /// Its name when it was chosen, and why it was; empty where nobody said.
    pub name: String,
    /// Why it was chosen.
    pub why: String,
    /// Its entry in `lb_devices`: the programs translate what comes back by it.
    pub entry: Option<Device>,
    /// Our programs on it.
    pub programs: Programs,
}

/// See [`Reader::devices`](super::super::Reader::devices).
pub(in super::super) fn served(paths: &Paths) -> Result<Vec<ServedDevice>, OpenError> {
    let maps = DeviceMaps::open(paths)?;
    let (entries, programs) = (maps.devices()?, all_attached(&paths.links)?);
    let indices: BTreeSet<u32> = entries.keys().chain(programs.keys()).copied().collect();
    indices.into_iter().map(|index| maps.served(index, &entries, &programs)).collect()
}

impl DeviceMaps {
    fn served(
        &self,
        index: u32,
        entries: &BTreeMap<u32, Device>,
        programs: &BTreeMap<u32, Programs>,
    ) -> Result<ServedDevice, OpenError> {
        let said = match self.names.get(&name_key(index), 0) {
            Ok(name) => text(&name.text),
            Err(MapError::KeyNotFound) => String::new(),
            Err(error) => return Err(failed(maps::NAMES, "read")(error).into()),
        };
        let (name, why) = said.split_once(' ').unwrap_or((&said, ""));
        Ok(ServedDevice {
            index,
            name: name.to_owned(),
            why: why.to_owned(),
            entry: entries.get(&index).copied(),
            programs: programs.get(&index).copied().unwrap_or_default(),
        })
    }
}

impl KernelDevices {
    pub(in super::super) fn open(hooks: DeviceHooks, paths: &Paths) -> Result<Self, OpenError> {
        let former = FormerFlows::find(paths)?;
        Ok(Self { hooks, maps: DeviceMaps::open(paths)?, former, paths: paths.clone() })
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

    fn take_over(&mut self) -> Result<(), OpenError> {
        if !self.former.is_empty() {
            self.former.bring_over(&self.paths)?;
            let connections = self.former.brought;
            info!(connections, "took over what began while the table of connections was copied");
        }
        Ok(())
    }

    fn foreign(&self, device: DeviceRef<'_>) -> Result<Vec<Foreign>, OpenError> {
        self.hooks.foreign(device)
    }

    fn egress_chains(&self) -> Chains {
        netfilter::egress_chains()
    }

    fn devices(&self) -> Result<BTreeMap<u32, Device>, OpenError> {
        Ok(self.maps.devices()?)
    }

    fn put_device(&mut self, index: u32, device: &Device) -> Result<(), OpenError> {
        let put = self.maps.devices.insert(index, device, 0);
        Ok(put.map_err(update_failed_for_good(maps::DEVICES, maps::N_DEVICES))?)
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
