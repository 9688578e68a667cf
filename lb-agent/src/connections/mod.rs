//! Ends the connections of the packet layer that are over: `lb_conns4/6`, which the programs fill and never walk through.
//!
//! A flow ends when it has been idle for too long (when that is, the programs and this module know from
//! `lb_common::logic::flow`), or when its backend is gone: UDP at once, since nobody else would tell the client, TCP where
//! the operator wants it. Both halves go together, the client's first: what is left for an instant then is found by no
//! packet of the client, and the next flow with those addresses takes it over.
//!
//! Works on the maps alone, as [`crate::affinity`] does. [`Walk`] decides and is tested on the host; `worker` is the thread.

mod walk;
mod worker;

pub use self::{
    walk::{Ended, Ending, Walk},
    worker::{FlowAging, Progress},
};
