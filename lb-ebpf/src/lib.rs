//! What the objects of this crate are made of: the maps, and the logic's traits implemented on kernel helpers.
//!
//! Decides nothing: that is `lb_common::logic`, which runs on the host, too.
#![no_std]

pub mod kernel;
pub mod maps;
pub mod sock_addr;
