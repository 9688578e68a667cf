//! The node agent as a library; `main.rs` only parses the command line and calls [`cli`].
//!
//! Data flows one way: [`watch`] turns API objects and manifests into [`event::Event`]s, [`model`] turns events into
//! what each Service port should be ([`model::DesiredService`]), [`plan`] turns that into map operations, [`datapath`]
//! carries them out. [`reconcile`] is the loop that drives the four; [`observe`] shows what it reports.

pub mod cli;
pub mod datapath;
pub mod event;
pub mod model;
pub mod observe;
pub mod plan;
pub mod reconcile;
pub mod watch;
