//! Where the packet layer's programs and its maps of devices are: the kernel, or a table in tests.

use std::collections::BTreeMap;

use lb_common::abi::{Device, NodeConfig};

use super::{choose::Role, delivery::Chains, findings::Foreign};

/// A device as the kernel names it.
#[derive(Clone, Copy, Debug)]
pub struct DeviceRef<'a> {
    /// Its number in this process's network namespace.
    pub index: u32,
    /// Its name, for the calls that take nothing else.
    pub name: &'a str,
}

/// The ids of our programs on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Programs {
    /// At ingress, if there is one.
    pub ingress: Option<u32>,
    /// At egress.
    pub egress: Option<u32>,
}

/// The programs on devices, and the maps `lb_devices`, `lb_node` and, of devices, `lb_names`. Nothing is decided here.
pub trait DeviceStore {
    /// Why something failed, in words that name the device or map.
    type Error: std::error::Error;

    /// Attaches the programs of this role, in the place of ours that are there: no packet meets none.
    fn attach(&mut self, device: DeviceRef<'_>, role: Role) -> Result<(), Self::Error>;
    /// Takes our programs off a device. One that is gone is no error.
    fn detach(&mut self, device: DeviceRef<'_>) -> Result<(), Self::Error>;
    /// The devices on which there are programs of ours, also an earlier agent's.
    fn attached(&mut self) -> Result<BTreeMap<u32, Programs>, Self::Error>;
    /// Whether these are this agent's programs for that role.
    fn are_current(&self, programs: Programs, role: Role) -> bool;
    /// Every device that has programs has this agent's now: takes over what an earlier agent's noted in maps that are theirs
    /// alone. After an error it may be asked again for the rest.
    fn take_over(&mut self) -> Result<(), Self::Error>;
    /// What others have at the hooks of a device.
    fn foreign(&self, device: DeviceRef<'_>) -> Result<Vec<Foreign>, Self::Error>;
    /// What nftables has at the egress of devices.
    fn egress_chains(&self) -> Chains;

    /// `lb_devices`, by number.
    fn devices(&self) -> Result<BTreeMap<u32, Device>, Self::Error>;
    /// Puts an entry into it.
    fn put_device(&mut self, index: u32, device: &Device) -> Result<(), Self::Error>;
    /// Takes an entry, and its name, out of it. None is no error.
    fn delete_device(&mut self, index: u32) -> Result<(), Self::Error>;
    /// The name of a device and why it was chosen, for `lb-agent status`.
    fn put_name(&mut self, index: u32, name: &str) -> Result<(), Self::Error>;
    /// `lb_node`.
    fn node(&self) -> Result<NodeConfig, Self::Error>;
    /// Writes it.
    fn put_node(&mut self, node: &NodeConfig) -> Result<(), Self::Error>;
}
