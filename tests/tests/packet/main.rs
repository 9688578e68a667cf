//! The packet layer with real stacks: clients that no socket hook serves, outside the cluster, through a router.
//! Needs root, the built kernel programs and the agent (`cargo xtask test`).

mod outside;
