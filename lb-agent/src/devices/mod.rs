//! The packet layer's devices: which there are ([`read`]), which of them get programs ([`choose`]), which of them packets
//! may go past ([`delivery`]), what of the node's settings is in the way ([`findings`]), what is to be done about it
//! ([`keeper`]), and a task that follows them while the agent runs ([`keep`]).
//!
//! What a program does is no business of this module, nor how one is attached: see
//! [`datapath::bpf`](crate::datapath::bpf).

pub mod choose;
pub mod delivery;
mod entries;
pub mod findings;
pub mod keep;
pub mod keeper;
pub mod netfilter;
pub mod network;
pub mod read;
mod said;
pub mod store;
pub mod sysctl;
pub mod wanted;

pub use self::{
    choose::{Choice, Role, Why, WhyNot, Wishes, choose},
    delivery::PodDelivery,
    keeper::{Keeper, Outcome},
    network::Network,
    wanted::{DeviceNames, DevicePatterns, PortRange},
};
