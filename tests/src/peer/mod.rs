//! The peer test: kube-proxy 1.36 in nftables mode and the agent, side by side, on the same API objects.
//!
//! Each of the two has an [`Island`] to itself: a node with pods, and what lies beyond the node. Islands are built
//! alike, down to every address and the node's name, so that an object means the same on both and what a client meets
//! can be compared as it is. [`Case`]s are data: objects, changes to them, and probes with what kube-proxy is known to
//! answer. Where the two differ, the difference must stand in the table of `docs/differences.md` ([`Table`]).

mod case;
mod differences;
mod island;
mod kept;
mod marker;
mod objects;
mod outcome;
mod probe;
mod rig;
mod task;
mod tokens;
mod trials;

pub use case::{Case, Step};
pub use differences::{Difference, Table};
pub use island::{Island, Proxy};
pub use outcome::Outcome;
pub use probe::{Client, Expectation, Probe};
pub use rig::{Pair, Rig};
