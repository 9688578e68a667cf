//! Workloads that are excluded from the socket layer: by patterns of cgroup paths, and by an annotation of this node's Pods.
//!
//! [`keeper`] decides which cgroups that means and what changes in `lb_excluded` and `lb_exclusion`, over the trait
//! [`Node`], and is tested on the host; [`node`] is the system; [`worker`] is the thread. Looks at the cgroup tree only while
//! there is something to exclude.

mod keeper;
mod node;
mod patterns;
mod pods;
mod worker;

pub use self::{
    keeper::{Cgroup, Keeper, Kept, Node},
    node::LiveNode,
    patterns::CgroupPatterns,
    worker::{Exclusions, Look},
};
