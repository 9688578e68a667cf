//! Carries out map operations. Decides nothing: `plan` says what, this module does it and reports.

pub mod bpf;
pub mod op;
pub mod snapshot;
pub mod store;
