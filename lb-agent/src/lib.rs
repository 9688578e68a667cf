//! The node agent as a library; `main.rs` only parses the command line and calls [`cli`].
//!
//! Data flows one way: [`watch`] turns API objects and manifests into [`event::Event`]s, [`model`] turns events into
//! what each Service port should be ([`model::DesiredService`]), [`plan`] turns that into map operations, [`datapath`]
//! carries them out. [`reconcile`] is the loop that drives the four; [`observe`] shows what it reports; [`run`] wires
//! them together.

pub mod affinity;
pub mod cgroups;
pub mod cli;
pub mod clients;
pub mod clock;
pub mod config;
pub mod connections;
pub mod datapath;
pub mod devices;
pub mod event;
pub mod exclude;
pub mod model;
pub mod namespaces;
pub mod netlink;
pub mod observe;
pub mod plan;
pub mod reconcile;
pub mod run;
pub mod signs;
pub mod terminate;
pub mod watch;

/// Version and commit of this build.
pub const VERSION: &str = env!("LB_VERSION");

/// The kernel programs, if they were built before this binary; see build.rs. A static: of a constant each user has a copy.
#[cfg(lb_ebpf_object)]
pub static EBPF_OBJECT: Option<&[u8]> = Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-ebpf.o")));
/// The kernel programs, if they were built before this binary; see build.rs.
#[cfg(not(lb_ebpf_object))]
pub static EBPF_OBJECT: Option<&[u8]> = None;
