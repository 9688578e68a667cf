//! A node without a kernel: maps, clock, randomness, counters, sockets, frames and routes on the host, to run [`crate::logic`] in unit
//! tests, scenarios and `explain`.
//!
//! Decides nothing. [`SimSocket`] calls the hooks in the order in which the kernel does, so that a test speaks of
//! `connect` and `send_to` and not of hooks.

mod environment;
pub mod frames;
mod kernel;
mod maps;
mod packet;
mod socket;
mod traffic;

pub use environment::SimEnvironment;
pub use kernel::SimKernel;
pub use maps::{SimMaps, SimNode};
pub use packet::SimPacket;
pub use socket::{Domain, InUse, Refused, SimSocket};
pub use traffic::{Outcome, Rival, SimTraffic, Traffic};
