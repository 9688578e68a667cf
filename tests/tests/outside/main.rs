//! Clients outside the cluster and pods without a socket hook use Services through the packet layer: real stacks, a router
//! between, two nodes with two pods each and a vxlan overlay between them.
//!
//! One binary, so that the tests run in parallel; each has a world of its own, so that they cannot meet.

mod exclude;
mod hand;
mod large;
mod netfilter;
mod past;
mod pieces;
mod ports;
mod reach;
mod refuse;
mod restart;
mod summed;
mod tools;
mod upgrade;
mod uplinks;
mod world;
