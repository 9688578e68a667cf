//! What the objects of this crate are made of: the maps, and the logic's traits implemented on kernel helpers.
//!
//! Decides nothing: that is `lb_common::logic`, which runs on the host, too.
#![no_std]
#![expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "reaching a field of a kernel struct through its pointer, and the volatile access, rest on one fact: the \
              pointer is the program's valid context"
)]

pub mod bind;
mod flows;
pub mod hook;
pub mod kernel;
pub mod maps;
pub mod owner;
mod proto;
pub mod route;
pub mod skb;
pub mod sock_addr;
pub mod tc;
