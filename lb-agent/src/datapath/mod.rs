//! Carries out map operations. Decides nothing: `plan` says what, this module does it and reports.

pub mod bpf;
pub mod copies;
#[cfg(feature = "sim")]
pub mod dump;
#[cfg(feature = "sim")]
pub mod faulty;
#[cfg(test)]
pub(crate) mod flow_table;
pub mod flows;
pub mod op;
#[cfg(feature = "sim")]
pub mod sim;
pub mod snapshot;
pub mod store;
pub mod succession;
