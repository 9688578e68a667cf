//! What the kernel programs and the agent share.
//!
//! * [`abi`]: the types in the BPF maps. Used by `lb-ebpf`, by the agent's plan and datapath, and by its tools.
//! * [`logic`]: every decision the kernel programs take, over small traits ([`logic::seam`]). The same source is
//!   compiled for BPF and into host tests.
//! * [`packet`]: packets as the logic sees them: what it may do to one, headers, checksums.
//! * `probe` (feature): what the test that compares kernel and host exchanges.
//! * `sim` (feature): maps, clock, randomness and sockets on the host, to run [`logic`] without a kernel.
//!
//! This crate must not do I/O, allocate (outside `sim`), read a clock or call a kernel helper.
#![cfg_attr(not(any(test, feature = "sim")), no_std)]
#![deny(unsafe_code)]

pub mod abi;
pub mod logic;
pub mod packet;
#[cfg(feature = "probe")]
pub mod probe;
#[cfg(feature = "sim")]
pub mod sim;
