//! The agent beside kube-proxy 1.36 in nftables mode, on the same API objects: what a client meets must be the same, or
//! stand in `docs/differences.md`.
//!
//! `LB_PEER_CASES=TEXT` runs only the cases whose name contains TEXT.

mod cases;
