//! The agent without a kernel: everything above the maps is real, the maps are simulated, and writes fail on purpose.
//! Needs no root.

#![expect(clippy::unwrap_used, reason = "tests")]

mod adoption;
mod agent;
mod gone;
mod histories;
mod plans;
mod reconciling;
mod scenarios;
mod script;
