//! Which address each network namespace connects from: `lb_clients4/6`, for `spec.loadBalancerSourceRanges`.
//!
//! At the socket hooks a connection has no source address yet, so a client is known by its network namespace, and the
//! agent says which address that one uses. A namespace that is not in the map is let in nowhere that has ranges. The maps
//! are kept only while some Service has ranges; they are looked at anew when cgroups come, go or are filled, and now and
//! then besides.
//!
//! `keeper` decides what changes and is tested on the host; `node` is the system; `worker` is the thread.

mod keeper;
mod node;
mod worker;

pub use self::{
    keeper::{Client, Keeper, Kept, Node, Seen},
    node::LiveNode,
    worker::{ClientAddresses, Look},
};
