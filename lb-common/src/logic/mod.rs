//! Every decision of the kernel programs, as ordinary Rust over the traits of [`seam`].
//!
//! Compiled into `lb-ebpf` for BPF and into host tests, scenarios and `explain`. Nothing here is `unsafe`, loops without
//! a fixed bound, allocates or panics: the verifier checks the first four for us, the host tests the rest.

pub mod affinity;
pub mod bind;
pub mod lookup;
pub mod mapped;
pub mod peers;
pub mod seam;
pub mod select;
pub mod socket;
