//! Every decision of the kernel programs, as ordinary Rust over the traits of [`seam`].
//!
//! Compiled into `lb-ebpf` for BPF and into host tests, scenarios and `explain`. Nothing here is `unsafe`, loops without
//! a fixed bound, allocates or panics: the verifier checks the first four for us, the host tests the rest.

pub mod affinity;
pub mod bind;
pub(crate) mod claim;
pub mod client;
pub mod deliver;
pub mod exclude;
pub mod flow;
pub mod foreign;
pub mod forward;
pub mod fragment;
pub mod icmp;
pub mod lookup;
pub mod mapped;
pub mod nat;
pub mod peers;
pub(crate) mod piece;
pub mod refuse;
pub mod seam;
pub mod select;
pub mod socket;
pub mod work;
