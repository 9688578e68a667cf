//! A node without a kernel: maps, clock, randomness, counters and sockets on the host, to run [`crate::logic`] in unit
//! tests, scenarios and `explain`.
//!
//! Decides nothing. [`SimSocket`] calls the hooks in the order in which the kernel does, so that a test speaks of
//! `connect` and `send_to` and not of hooks.

mod environment;
mod kernel;
mod maps;
mod socket;

pub use environment::SimEnvironment;
pub use kernel::SimKernel;
pub use maps::{SimMaps, SimNode};
pub use socket::{Domain, InUse, Refused, SimSocket};
